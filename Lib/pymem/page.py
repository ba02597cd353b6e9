"""HTML pages in one file: a template, and in it the data that its script draws."""

import json
import re
from pathlib import Path


def write_page(template, data, path):
    """template: a file beside this one, with @DATA@ in it, and @other.html@ where that one
    is to stand."""
    def text_of(name):
        return Path(__file__).with_name(name).read_text(encoding="utf-8")
    text = re.sub("@([a-z]+[.]html)@", lambda part: text_of(part[1]), text_of(template))
    # A "<" could end the element that the data is in.
    data = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    Path(path).write_text(text.replace("@DATA@", data), encoding="utf-8")
