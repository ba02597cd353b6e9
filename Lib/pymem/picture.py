"""A picture of rectangles, lines and words, as SVG or PNG."""

from html import escape
from pathlib import Path

from pymem.heap import HeapError

FONT = "system-ui, sans-serif"
GRAY, INK = "#c8c8c8", "#222222"


class Picture:
    def __init__(self, width):
        self.width, self.height = width, 0
        self.items = []

    def below(self, y):
        """The picture goes on at least to here."""
        self.height = max(self.height, y)

    def rectangle(self, x, y, width, height, color, border=None, title=None, dashed=False):
        self.items.append(("rectangle", x, y, width, height, color, border, title, dashed))
        self.below(y + height)

    def text(self, x, y, words, size=12, color=INK, anchor="start", bold=False):
        """y is the baseline."""
        self.items.append(("text", x, y, str(words), size, color, anchor, bold))
        self.below(y + size / 3)

    def line(self, points, color=INK, width=1.0):
        self.items.append(("line", points, color, width))
        self.below(max(y for _, y in points))

    def arrow(self, x1, y1, x2, y2, color=INK):
        """To the right, or down."""
        self.line([(x1, y1), (x2, y2)], color)
        ends = ([(x2 - 5, y2 - 3), (x2, y2), (x2 - 5, y2 + 3)] if abs(x2 - x1) > abs(y2 - y1)
                else [(x2 - 3, y2 - 5), (x2, y2), (x2 + 3, y2 - 5)])
        self.line(ends, color)

    def grid(self, x, y, width, height, most, unit, title):
        """What curves of up to most are drawn on, y being its top."""
        self.text(x, y - 8, title, 13, bold=True)
        for i in range(5):
            at = y + height * (1 - i / 4)
            self.line([(x, at), (x + width, at)], GRAY, 0.6)
            self.text(x - 6, at + 4, f"{most * i / 4:,.10g}{unit}", 10, anchor="end")

    def write(self, path, form, title):
        """Into a file; form is svg or png."""
        if form == "png":
            self.png(path)
        else:
            Path(path).write_text(self.svg(title), encoding="utf-8")

    def svg(self, title):
        """The text of an SVG element, which can be a file or part of a page."""
        height = self.height + 8
        parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width:g} '
                 f'{height:g}" width="{self.width:g}" height="{height:g}" role="img" '
                 f'font-family="{FONT}"><title>{escape(title)}</title>'
                 '<rect width="100%" height="100%" fill="#ffffff"/>']
        for kind, *fields in self.items:
            parts.append(getattr(self, f"_svg_{kind}")(*fields))
        return "\n".join([*parts, "</svg>\n"])

    @staticmethod
    def _svg_rectangle(x, y, width, height, color, border, title, dashed):
        shape = (f'<rect x="{x:g}" y="{y:g}" width="{width:.6g}" height="{height:.6g}" '
                 f'fill="{color}"')
        if border:
            shape += f' stroke="{border}" stroke-width="0.7"'
        if dashed:
            shape += ' stroke-dasharray="3 2"'
        return shape + (f"><title>{escape(title)}</title></rect>" if title else "/>")

    @staticmethod
    def _svg_text(x, y, words, size, color, anchor, bold):
        weight = ' font-weight="bold"' if bold else ""
        return (f'<text x="{x:g}" y="{y:g}" font-size="{size:g}" fill="{color}" '
                f'text-anchor="{anchor}"{weight}>{escape(words)}</text>')

    @staticmethod
    def _svg_line(points, color, width):
        path = " ".join(f"{x:.6g},{y:.6g}" for x, y in points)
        return (f'<polyline points="{path}" fill="none" stroke="{color}" '
                f'stroke-width="{width:g}"/>')

    def png(self, path):
        try:
            from matplotlib.backends.backend_agg import FigureCanvasAgg
            from matplotlib.figure import Figure
            from matplotlib.patches import Rectangle
        except ImportError:
            raise HeapError("a PNG needs matplotlib (Debian: python3-matplotlib)") from None
        dots, height = 100, self.height + 8
        figure = Figure(figsize=(self.width / dots, height / dots), dpi=dots)
        FigureCanvasAgg(figure)
        axes = figure.add_axes([0, 0, 1, 1])
        axes.set_xlim(0, self.width)
        axes.set_ylim(height, 0)
        axes.axis("off")
        for kind, *fields in self.items:
            if kind == "rectangle":
                x, y, w, h, color, border, _, dashed = fields
                axes.add_patch(Rectangle(
                    (x, y), w, h, facecolor=color, edgecolor=border or "none",
                    linewidth=0.5, linestyle="--" if dashed else "-"))
            elif kind == "line":
                points, color, width = fields
                axes.plot(*zip(*points), color=color, linewidth=width)
            else:
                x, y, words, size, color, anchor, bold = fields
                axes.text(x, y, words, fontsize=size * 72 / dots, color=color,
                          ha={"start": "left", "middle": "center", "end": "right"}[anchor],
                          va="baseline", weight="bold" if bold else "normal",
                          parse_math=False)
        figure.savefig(path, format="png")


def round_up(value):
    """1, 2 or 5 and zeros: where an axis ends."""
    step = 1
    while True:
        for factor in (1, 2, 5):
            if value <= factor * step:
                return factor * step
        step *= 10


# Of 32 classes, any two at least 12 apart in CIELAB, and neighbours 45, also for eyes that don't
# tell red from green (protanopia, deuteranopia): chosen by a search for the largest distances.
CLASSES = """
    c3a587 5a4b87 f02d00 5ae1c3 4b4ba5 c3873c 69a5b4 780fc3 f0c396 961e5a ff870f 2da5d2 962d3c
    e1b45a 69a5ff 69a596 ffc300 87c3ff a53c2d 2d4bff 78c3e1 d2a569 4b78e1 69d2d2 c30000 3c69ff
    a56969 f0c34b 2d78b4 a5875a 3c00ff 5a7896""".split()


def class_number(blocksize):
    """Small classes are 16 bytes apart; of medium ones eight come to a doubling."""
    if blocksize <= 512:
        return (blocksize - 1) // 16
    doublings = max((blocksize - 64) // 512, 1).bit_length() - 1
    return 32 + max((blocksize - 512) // 64 if blocksize < 1088 else
                    8 * doublings + (blocksize - 64 - (512 << doublings)) // (64 << doublings)
                    + 1, 0)


def class_color(blocksize, white=0.0):
    """white: so much of it is mixed in."""
    color = CLASSES[class_number(blocksize) % len(CLASSES)]
    parts = (int(color[i:i + 2], 16) for i in (0, 2, 4))
    return "#" + "".join(f"{round(part + (255 - part) * white):02x}" for part in parts)


def hsl(hue, saturation, lightness):
    """As #rrggbb, which every program reads."""
    s, l = saturation / 100, lightness / 100
    a = s * min(l, 1 - l)

    def channel(n):
        k = (n + hue / 30) % 12
        return round(255 * (l - a * max(-1, min(k - 3, 9 - k, 1))))
    return f"#{channel(0):02x}{channel(8):02x}{channel(4):02x}"
