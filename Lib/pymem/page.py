"""HTML pages in one file: a template, the facts above its pictures, and the data that its
script draws."""

import json
import re
from html import escape
from pathlib import Path

from pymem import about


def header(facts, earlier):
    """A list of what pymem.about knows."""
    return '<dl id="about">' + "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(text)}</dd></div>"
        for name, text in about.rows(facts, earlier)) + "</dl>"


def write_page(template, data, path, facts, earlier=None):
    """template: a file beside this one, with @ABOUT@ and @DATA@ in it, and @other.html@ where
    that one is to stand."""
    def text_of(name):
        return Path(__file__).with_name(name).read_text(encoding="utf-8")
    text = re.sub("@([a-z]+[.]html)@", lambda part: text_of(part[1]), text_of(template))
    # A "<" could end the element that the data is in.
    data = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    parts = {"@ABOUT@": header(facts, earlier), "@DATA@": data}
    text = re.sub("@(ABOUT|DATA)@", lambda part: parts[part[0]], text)
    Path(path).write_text(text, encoding="utf-8", errors="backslashreplace")
