"""The directive follow: a request through the source, beside the state that changes.

    .. follow::
       :before: 3
       :then: malloc

       Objects/obmalloc.c PyObject_Malloc
       > void *ptr = domain_malloc(PYMEM_DOMAIN_OBJ, size);
       The object domain is asked for {size} bytes.

The function is read from the source when the page is built; a line that is not in it, or is
there twice, ends the build.  What stands in braces is told by the library of the build
(PYMEM_BUILD), with Doc/playground/playground.c around it: after so many calls of malloc(37),
and after one more, or after that one's block was freed."""

import os
import re
import subprocess
import tempfile
from functools import lru_cache
from html import escape
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import Directive, directives

TOP = Path(__file__).resolve().parent.parent
BUILD = Path(os.environ.get("PYMEM_BUILD", TOP / "build")).resolve()
SIZE = 37
MARKS = "①②③④⑤⑥⑦⑧⑨⑩⑪⑫"


class FollowError(Exception):
    pass


# The state

FOLDER = tempfile.TemporaryDirectory(prefix="pymem-follow-")        # until the build ends


@lru_cache
def program():
    path = Path(FOLDER.name) / "follow"
    subprocess.run(
        ["cc", "-std=gnu11", "-pthread", TOP / "Doc/playground/playground.c", f"-I{BUILD}",
         f"-I{TOP / 'Include'}", f"-I{TOP / 'Include/internal'}", BUILD / ".libs/libpymem.a",
         "-lm", "-ldl", "-o", path], check=True)
    return path


@lru_cache
def told(nmallocs, nfrees):
    lines = f"m 0 {SIZE} 0\n" * nmallocs + "f 0 0 0\n" * nfrees
    return subprocess.run([program()], input=lines, text=True, stdout=subprocess.PIPE,
                          check=True).stdout.splitlines()


def state(nmallocs, nfrees, block):
    """What there is to say: of the pool of a block (arena, offset), its ring, its arena."""
    arena, offset = map(int, block.split())
    values = {"free": "none", "used": 0, "cut": 0, "ring": "empty", "arenas": 0,
              "freepools": 0, "pool": ""}
    for line in told(nmallocs, nfrees):
        kind, *words = line.split() or [""]
        if kind == "Small":             # the table follows
            break
        if kind == "arena":
            values["arenas"] += 1
            if int(words[0]) == arena:
                values["freepools"], pool = int(words[5]), offset // int(words[3])
                first, pool_size = int(words[6]), int(words[3])
        elif kind == "pool" and int(words[0]) == arena and int(words[1]) == pool:
            size, _, cut, used, free = map(int, words[2:7])
            values.update(cut=cut, used=used, pool=f"{arena}.{pool}", blocksize=size,
                          free=f"block {(free - first) // size}" if free else "none",
                          block=(offset - pool * pool_size - first) // size)
        elif kind == "ring" and words[1] == "0":
            values["ring"] = " → ".join(words[2:])
    return values


def values(nbefore, then):
    """{name: text} of the moments before and after the call: name0 and name1."""
    block = told(nbefore + 1, 0)[nbefore]
    known = state(nbefore + 1, 0, block)
    before, after = ((known, state(nbefore + 1, 1, block)) if then == "free"
                     else (state(nbefore, 0, block), known))
    return {"size": SIZE, "pool": known["pool"], "block": known["block"],
            "blocksize": known["blocksize"],
            **{f"{name}0": value for name, value in before.items()},
            **{f"{name}1": value for name, value in after.items()}}


# The source

def function_in(path, name):
    """(number of its first line, its lines)."""
    lines = (TOP / path).read_text().splitlines()
    starts = [i for i, line in enumerate(lines) if line.startswith(f"{name}(")]
    if len(starts) != 1:
        raise FollowError(f"{path} has {len(starts)} functions {name}")
    first = starts[0] - 1
    end = next(i for i in range(first, len(lines)) if lines[i] == "}")
    return first + 1, lines[first:end + 1]


def place_of(lines, wanted, path, name):
    places = [i for i, line in enumerate(lines) if line.strip() == wanted]
    if len(places) != 1:
        raise FollowError(f"{path}, {name}(): the line \"{wanted}\" is there {len(places)} "
                          "times; name the line as it is now")
    return places[0]


def parts_of(content):
    """[(path, function, [(code, text)])]."""
    parts = []
    for line in content:
        if line.startswith("> "):
            parts[-1][2].append([line[2:].strip(), ""])
        elif re.fullmatch(r"\S+\.[ch] \w+", line):
            parts.append([*line.split(), []])
        elif line.strip():
            parts[-1][2][-1][1] += line.strip() + " "
    return parts


def markup(text, known):
    text = escape(text.strip())
    text = re.sub(r"\{(\w+)\}", lambda found: f"<b>{known[found[1]]}</b>", text)
    return re.sub(r"``(.*?)``", r"<code>\1</code>", text)


def part_html(path, name, steps, known):
    start, lines = function_in(path, name)
    marks = {place_of(lines, code, path, name): mark for mark, (code, _) in zip(MARKS, steps)}
    source = "".join(
        f'<span class="follow-line{" follow-here" if i in marks else ""}">'
        f'<i>{start + i}</i><b>{marks.get(i, "")}</b>{escape(line)}\n</span>'
        for i, line in enumerate(lines))
    notes = "".join(f"<li><b>{mark}</b> {markup(text, known)}</li>"
                    for mark, (_, text) in zip(MARKS, steps))
    return (f'<div class="follow"><div><p class="follow-place">{escape(path)}: {name}()</p>'
            f'<pre tabindex="0">{source}</pre></div><ul>{notes}</ul></div>')


class Follow(Directive):
    has_content = True
    option_spec = {"before": directives.nonnegative_int,
                   "then": lambda text: directives.choice(text, ("malloc", "free"))}

    def run(self):
        try:
            known = values(self.options["before"], self.options["then"])
            html = "".join(part_html(*part, known) for part in parts_of(self.content))
        except FollowError as error:
            raise self.error(f"follow: {error}")
        except KeyError as error:
            raise self.error(f"follow: nothing is known of {error}")
        return [nodes.raw("", html, format="html")]


def setup(app):
    app.add_directive("follow", Follow)
    return {"version": "1", "parallel_read_safe": True}
