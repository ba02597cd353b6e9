"""The directive heap-diagram: a picture that Doc/diagrams.py draws from a living heap.

    .. heap-diagram:: pool
       :alt: What can be seen.

It is run by the Python with our memory in it, in the folder PYMEM_BUILD, each time the
page is read.
"""

import os
import subprocess
from base64 import b64encode
from html import escape
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import Directive, directives

TOP = Path(__file__).resolve().parent.parent
BUILD = Path(os.environ.get("PYMEM_BUILD", TOP / "build")).resolve()


def draw(name):
    return subprocess.run(
        [BUILD / "python", TOP / "Doc" / "diagrams.py", name], text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(BUILD)})


def as_image(svg, alt):
    """A figure of a book: there an SVG element in the text would need a declaration."""
    data = b64encode(svg.encode()).decode()
    image = nodes.image(uri=f"data:image/svg+xml;base64,{data}", alt=alt)
    return nodes.figure("", image, nodes.caption("", alt))


class HeapDiagram(Directive):
    required_arguments = 1
    option_spec = {"alt": directives.unchanged_required}

    def run(self):
        name, alt = self.arguments[0], self.options.get("alt")
        if alt is None:
            raise self.error(f"heap-diagram {name}: it needs :alt:, for readers who can't see it")
        if not (BUILD / "python").exists():
            raise self.error(f"heap-diagram {name}: {BUILD / 'python'} is not there; "
                             "Tools/relink makes it")
        result = draw(name)
        if result.returncode != 0:
            raise self.error(f"heap-diagram {name}: {result.stderr}")
        if self.state.document.settings.env.app.builder.name == "epub":
            return [as_image(result.stdout, alt)]
        figure = nodes.raw("", f'<figure class="heap-diagram" data-diagram="{name}">' + result.stdout
                           + f"<figcaption>{escape(alt)}</figcaption></figure>",
                           format="html")
        return [figure]


def setup(app):
    app.add_directive("heap-diagram", HeapDiagram)
    return {"version": "1", "parallel_read_safe": True}
