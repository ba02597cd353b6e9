"""The answers of a chapter are folded: each opens when the reader asks for it.

Without a list in it a section "Answers" stays as it is.  In a book nothing is folded, as
many readers of books can't open it again.
"""

from docutils import nodes


class folded(nodes.General, nodes.Element):
    """What stands below a line that opens it."""


def is_answers(section):
    return section[0].astext() == "Answers"


def fold_answers(app, doctree):
    for section in filter(is_answers, doctree.findall(nodes.section)):
        for answers in section.findall(nodes.enumerated_list):
            if answers.parent is section:
                for number, item in enumerate(answers, answers.get("start", 1)):
                    item[:] = [folded("", *item.children, title=f"Answer {number}")]


def open_fold(translator, node):
    if translator.builder.name != "epub":
        translator.body.append(f'<details class="answer"><summary>{node["title"]}</summary>\n')


def close_fold(translator, node):
    if translator.builder.name != "epub":
        translator.body.append("</details>\n")


def stay_open(translator, node):
    pass


def setup(app):
    plain = stay_open, stay_open
    app.add_node(folded, html=(open_fold, close_fold), latex=plain, text=plain, man=plain,
                 texinfo=plain)
    app.connect("doctree-read", fold_answers)
    return {"version": "1", "parallel_read_safe": True}
