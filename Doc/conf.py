"""Sphinx configuration: make -C build html."""

project = "pymem"
copyright = "2026, the pymem authors"
extensions = []
source_suffix = ".rst"
master_doc = "index"
primary_domain = "c"
highlight_language = "c"
html_theme = "classic"
nitpicky = True
nitpick_ignore = [("c:identifier", name) for name in
                  ("size_t", "uintptr_t", "wchar_t", "FILE", "Py_ssize_t",
                   "Py_uintptr_t")]
