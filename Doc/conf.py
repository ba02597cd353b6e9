"""Sphinx configuration: make -C build html, make -C build epub.

The tag "course" chooses the course alone, for the book.
"""

import importlib.util
import re
import sys
from pathlib import Path

from docutils import nodes

sys.path.insert(0, str(Path(__file__).parent))

project = "pymem"
# Of the one place where it stands.
release = version = re.search(
    r"AC_INIT\(\[pymem\], \[(.*?)\]\)",
    (Path(__file__).parent.parent / "configure.ac").read_text())[1]
copyright = "2026, the pymem authors"
extensions = ["foldedanswers", "followpage", "heapdiagram", "playgroundpage"]
source_suffix = ".rst"
master_doc = "index"
primary_domain = "c"
highlight_language = "c"
if importlib.util.find_spec("furo"):
    html_theme = "furo"
    # Debian 12's furo is dark only after a click: these also hold where the system is dark.
    html_theme_options = {"top_of_page_button": None, "dark_css_variables": {
        "color-foreground-primary": "#d8dade", "color-foreground-secondary": "#a4a9b0",
        "color-foreground-muted": "#8b9199", "color-foreground-border": "#666b72",
        "color-background-primary": "#14161a", "color-background-secondary": "#1b1e23",
        "color-background-hover": "#23272d", "color-background-hover--transparent": "#23272d00",
        "color-background-border": "#343940", "color-background-item": "#444a52",
        "color-brand-primary": "#6cb0f5", "color-brand-content": "#6cb0f5",
        "color-api-keyword": "#a4a9b0", "color-highlight-on-target": "#3a3500",
        "color-highlighted-background": "#0d3a66", "color-admonition-background": "#1b1e23",
        "color-problematic": "#f07070", "color-card-background": "#1b1e23",
        "color-card-border": "#343940", "color-card-marginals-background": "#23272d"}}
    html_js_files = ["theme.js"]
    pygments_style, pygments_dark_style = "friendly", "monokai"
elif not tags.has("course"):                                        # noqa: F821
    html_theme = "alabaster"
    print("pymem: furo is not installed (Debian: furo). The pages get the theme that comes "
          "with Sphinx, which has no dark mode.", file=sys.stderr)
html_title = f"pymem {release}"
html_copy_source = False
html_static_path = ["static"]
html_css_files = ["pymem.css"]
nitpicky = True
nitpick_ignore = [("c:identifier", name) for name in
                  ("size_t", "uint16_t", "int64_t", "uintptr_t", "wchar_t", "FILE", "Py_ssize_t",
                   "Py_uintptr_t")]

if tags.has("course"):                                              # noqa: F821
    master_doc = "how-it-works/index"
    exclude_patterns = ["*.rst", "begin", "c-api", "playground"]
epub_basename = "pymem-course"
epub_title = "How Python's memory works"
epub_author = "The pymem authors"
epub_show_urls = "no"
epub_css_files = ["pymem.css"]
epub_exclude_files = ["_static/opensearch.xml"]


def page_outside(app, env, node, contnode):
    """The book has the course alone: it names another page by its title."""
    page = Path(env.srcdir, node["refdoc"]).parent / f"{node['reftarget']}.rst"
    if node["reftype"] != "doc" or not page.exists():
        return None
    return nodes.emphasis("", re.search(r"^(.+)\n===", page.read_text(), re.M)[1])


def setup(app):
    if app.tags.has("course"):
        app.connect("missing-reference", page_outside)
