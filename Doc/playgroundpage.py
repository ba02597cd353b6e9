"""The directive playground: the allocator itself, in the reader's browser.

    .. playground::
       :replaces: pool
       :says: Try it here:
       :exercise: header
       :show: arenas pool rings bytes table
       :at: 3
       :debug:

       p = malloc(37)

What it says is there only where the playground is, as without JavaScript it is not.  Its files
are in the folder playground of the build (PYMEM_BUILD), where make puts them.  Where there is
no compiler for WebAssembly the pages have the pictures only, as a book always has.
"""

import json
import os
import shutil
from html import escape
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import Directive, directives
from sphinx.util import logging

HERE = Path(__file__).resolve().parent
BUILD = Path(os.environ.get("PYMEM_BUILD", HERE.parent / "build")).resolve()
MODULES = BUILD / "playground"
WITHOUT = ("there is no playground: %s is not there. It needs a compiler for WebAssembly (Debian: "
           "clang lld wasi-libc libclang-rt-dev-wasm32) when configure is run")


def is_there(app):
    """The builder of a book makes HTML, too, and a book runs no scripts."""
    return MODULES.is_dir() and app.builder.format == "html" and app.builder.name != "epub"


class Playground(Directive):
    has_content = True
    option_spec = {"replaces": directives.unchanged, "exercise": directives.unchanged,
                   "at": directives.nonnegative_int, "debug": directives.flag,
                   "show": directives.unchanged, "says": directives.unchanged,
                   "page": directives.flag}

    def run(self):
        environment = self.state.document.settings.env
        depth = environment.docname.count("/")
        options = {name: self.options[name] for name in
                   ("replaces", "exercise", "at", "show") if name in self.options}
        options.update(program="\n".join(self.content) + "\n", debug="debug" in self.options,
                       is_page="page" in self.options, page="../" * depth + "playground.html")
        if not is_there(environment.app):
            text = "This page was built without it." if options["is_page"] else ""
            return [nodes.paragraph("", text)] if text else []
        says = f"<p>{escape(self.options['says'])}</p>" if "says" in self.options else ""
        return [nodes.raw("", f'<div class="playground-part">{says}<div class="playground" '
                          f'data-play="{escape(json.dumps(options))}"></div></div>',
                          format="html")]


def copy_files(app, exception):
    if exception is None and is_there(app):
        folder = Path(app.outdir) / "_static" / "playground"
        shutil.copytree(MODULES, folder, dirs_exist_ok=True)
        for path in sorted((HERE / "playground").glob("*.[jc]s*")):
            shutil.copy(path, folder)


def add_scripts(app):
    if is_there(app):
        app.add_js_file("playground/loader.js")
        app.add_css_file("playground/playground.css")
    elif not MODULES.is_dir():              # make says so, too
        logging.getLogger(__name__).info(WITHOUT, MODULES)


def setup(app):
    app.add_directive("playground", Playground)
    app.connect("builder-inited", add_scripts)
    app.connect("build-finished", copy_files)
    return {"version": "1", "parallel_read_safe": True}
