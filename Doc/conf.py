"""Sphinx configuration: make -C build html."""

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

project = "pymem"
# Of the one place where it stands.
release = version = re.search(
    r"AC_INIT\(\[pymem\], \[(.*?)\]\)",
    (Path(__file__).parent.parent / "configure.ac").read_text())[1]
copyright = "2026, the pymem authors"
extensions = ["followpage", "heapdiagram", "playgroundpage"]
source_suffix = ".rst"
master_doc = "index"
primary_domain = "c"
highlight_language = "c"
html_theme = "classic"
html_static_path = ["static"]
html_css_files = ["pymem.css"]
nitpicky = True
nitpick_ignore = [("c:identifier", name) for name in
                  ("size_t", "uint16_t", "int64_t", "uintptr_t", "wchar_t", "FILE", "Py_ssize_t",
                   "Py_uintptr_t")]
