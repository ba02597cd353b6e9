"""HTML pages in one file: a template, and in it the data that its script draws."""

import json
from pathlib import Path


def write_page(template, data, path):
    """template: a file beside this one, with @DATA@ in it."""
    text = Path(__file__).with_name(template).read_text(encoding="utf-8")
    # A "<" could end the element that the data is in.
    data = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    Path(path).write_text(text.replace("@DATA@", data), encoding="utf-8")
