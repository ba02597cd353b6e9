"""The language of the documentation, comments and tools: rules that a pattern can see.

A reader whose first language is not English reads each sentence once.  STYLE of the project:
subject, verb, object; the thing has its name; at most one colon in a sentence.
"""

import ast
import io
import re
import tokenize

import pytest

from conftest import TOP

# {rule: (pattern in a sentence, what to write instead)}
RULES = {
    "alike": (r"\balike\b", "have in common; the same"),
    "who without a person": (r"\b(?:for|of|to|by|with|from|as|and|but) who\b(?! (?:wrote|made)\b)"
                             r"|^\*?Who\b[^?]*\.$|; who\b", "a thread that...; whoever..."),
    "what as a subject": (r"^What\b[^?]*\.$", "the name of the thing"),
    "of its own": (r"(?<!\bplace )\bof (?:its|their|his|her|our|my|one's) own\b(?! \w)",
                   "a separate...; name it"),
    "is to be": (r"\b(?:is|are|was|were) (?:not )?to be \w+(?:ed|en|t)\b", "must; is not traced"),
    "belongs into": (r"\bbelongs? into\b", "belongs in"),
    "mostly": (r"\bmostly\b", "usually; for the most part"),
    "a verb before its subject": (r"^(?:Where|How|Which|What|Whether)\b[^?.,:;]*\b(?:says|tells|shows|knows|decides)"
                                  r" (?!so|no|why|whether|that|how|what|which|where)\w+(?:\(\))?[.,;]", "the subject first"),
    "two colons": (r":.*:", "two sentences"),
    "it as a place": (r"\bthe like\b|\bby and by\b|\bat that\.$", "plain words"),
    "so and so": (r"\band that is that\b|\bbe it\b|\bso to speak\b", "plain words"),
    "as ... as ever": (r"\bthe more so\b|\ball the more\b|\bnone the less\b", "plain words"),
}


# A comment may be the name of a thing ("What a thread has."), and a table or a picture.
FOR_DOCS = {"what as a subject", "two colons"}


def without_code(text):
    """Of reStructuredText: the sentences, without literals, code, tables and directives."""
    text = re.sub(r"^( *)\.\. (?:code-block|literalinclude|list-table|image|heap-diagram|toctree"
                  r"|playground)::.*\n(?:\1 +.*\n|[ \t]*\n)*", "\n", text, flags=re.M)
    text = re.sub(r"^( *)(\S.*)::[ \t]*\n\n?(?:\1 +.*\n|[ \t]*\n)+", r"\1\2:\n\n", text, flags=re.M)
    text = re.sub(r"^( *)::\n\n?(?:\1 +.*\n|[ \t]*\n)+", "\n", text, flags=re.M)
    text = re.sub(r"^ *(?:>>>|\.\.\.) .*\n(?:^ *\S.*\n)*", "\n", text, flags=re.M)
    text = re.sub(r"^ *=[= ]+=$\n(?:.*\n)*?^ *=[= ]+=$\n(?:(?:.+\n)+^ *=[= ]+=$\n)?", "\n", text,
                  flags=re.M)
    text = re.sub(r"^ *\.\. .*$|^ *:\w+:.*$", "", text, flags=re.M)
    text = re.sub(r"^.*\n([=~-])\1{2,}\n", "\n", text, flags=re.M)       # headings
    return plain(text)


def plain(text):
    """Without literals, roles and addresses, whose colons are none of the sentence."""
    text = re.sub(r"``.*?``", "X", text, flags=re.S)
    text = re.sub(r":[\w:]+:`[^`]*`|`[^`]*`_?", "X", text)
    return re.sub(r"\w+://\S+|\d:\d\d|::|\"[^\"\n]*\"", "X", text)


def sentences(text):
    for paragraph in re.split(r"\n\s*\n|\n(?= *(?:[-*#]|\d+\.) )", text):
        words = " ".join(paragraph.split())
        yield from re.split(r"(?<=[.?!])[)*]* +(?=[A-Z(X*\d])", words)


def c_comments(text):
    for comment in re.findall(r"/\*(.*?)\*/", text, re.S):
        yield plain("\n".join(line.strip().lstrip("*").strip() for line in comment.split("\n")))


def python_comments(text):
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
            yield plain(re.sub(r"^    .*$", "", ast.get_docstring(node) or "", flags=re.M))
    lines, last = [], None
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            if last is not None and token.start[0] != last + 1:
                yield plain("\n".join(lines))
                lines = []
            lines.append(token.string.lstrip("#! "))
            last = token.start[0]
    yield plain("\n".join(lines))


def shell_comments(text):
    """Also of make and configure."""
    yield plain("\n".join(re.sub(r"^ *#+ ?|^dnl ?", "", line) if re.match(r" *#(?!!)|dnl", line)
                          else "" for line in text.split("\n")))


def scripts(program):
    for path in sorted((TOP / "Tools").rglob("*")):
        if path.is_file() and path.suffix in (".py", ".sh", ""):
            with open(path, errors="replace") as file:
                if program in file.readline() or path.suffix == {"sh": ".sh"}.get(program, ".py"):
                    yield path


def manual(text):
    yield plain(re.sub(r"^[.'].*$|\\f.|\\", "", re.sub(r"^\.nf\n.*?^\.fi$", "", text,
                                                         flags=re.M | re.S), flags=re.M))


# Tables that a tool writes.
MADE = "misuse-results", "oracle-table"
READ = [(without, path) for without, paths in (
    (lambda text: [without_code(text)],
     [TOP / "README.rst", TOP / "CONTRIBUTING.rst",
      *(path for path in sorted((TOP / "Doc").rglob("*.rst")) if path.stem not in MADE)]),
    (manual, sorted((TOP / "Doc" / "man").iterdir())),
    (c_comments, [path for folder in ("Include", "Objects", "Python", "Programs", "Modules")
                  for path in sorted((TOP / folder).rglob("*.[ch]"))]),
    (python_comments, [*sorted((TOP / "Lib").rglob("*.py")), *scripts("python3"),
                       *sorted((TOP / "Doc").glob("*.py"))]),
    (shell_comments, [*scripts("sh"), TOP / "Makefile.am", TOP / "configure.ac"]))
    for path in paths]


def faults(read, path):
    for part in read(path.read_text()):
        for sentence in sentences(part):
            for rule, (pattern, better) in RULES.items():
                if rule in FOR_DOCS and path.suffix not in (".rst", ".1", ".3"):
                    continue
                if re.search(pattern, sentence):
                    yield f"{path.relative_to(TOP)}: {rule} ({better}): {sentence}"


def name(value):
    return str(value.relative_to(TOP)) if hasattr(value, "relative_to") else ""


@pytest.mark.once
@pytest.mark.parametrize("folder", sorted({path.parent for _, path in READ}), ids=name)
def test_sentences_keep_the_rules(folder):
    assert [fault for read, path in READ if path.parent == folder
            for fault in faults(read, path)] == []


@pytest.mark.parametrize("sentence, rule", [
    ("What it allocates is not to be traced: we do, or who asked for a pause.", "what as a subject"),
    ("The same, for who looks whether a domain is pymalloc's to use it without a call.",
     "who without a person"),
    ("Where the heap begins and how its structures look says _PyMem_HeapLayout.",
     "a verb before its subject"),
    ("One rule: it stays: always.", "two colons"), ("They are alike.", "alike"),
    ("Each has a file of its own.", "of its own"), ("A block that was to be resized.", "is to be"),
    ("This belongs into a header.", "belongs into"), ("It is mostly empty.", "mostly")])
def test_a_sentence_that_failed_is_seen(sentence, rule):
    pattern, _ = RULES[rule]
    assert re.search(pattern, sentence)


if __name__ == "__main__":
    for read, path in READ:
        for fault in faults(read, path):
            print(fault)
