"""What pymem report says in a terminal: tables and a tree, by rich where it is there.

    write(table(program, part, options), output)    also summary, tree

Each is a list of lines of text, Tables and Branches, and each of those can be drawn with rich
and without.
"""

import shutil
import sys
from pathlib import Path
from typing import NamedTuple

from pymem import flame, signed_size, size_text
from pymem.flame import frames_of
from pymem.growth import Level, site_of
from pymem.leaksreport import place, shortened

LEAST = 0.01            # of the total: a smaller part is not in a tree
CHAIN = 0.99            # of its caller: both are in one entry
WIDTH = 80              # where there is no terminal
NARROWEST = 20          # place for a name
SIGNS = {"+": "red", "-": "bright_blue"}


class Table(NamedTuple):
    """Of numbers, and a Frame at the end of each row."""
    titles: list
    rows: list

    def widths(self):
        """Of the numbers."""
        return [max(map(len, column))
                for column in zip(*(row[:-1] for row in [self.titles, *self.rows]))]

    def placed(self, width):
        """Its rows, with frames that fit into a line."""
        room = max(width - sum(size + 2 for size in self.widths()), NARROWEST)
        return [[*cells, place(frame, room)] for *cells, frame in self.rows]

    def plain(self, width):
        for *cells, last in [self.titles, *self.placed(width)]:
            yield "".join(f"{cell:>{size}}  "
                          for cell, size in zip(cells, self.widths())) + last

    def rich(self, width):
        from rich.table import Table as RichTable
        from rich.text import Text
        made = RichTable(box=None, pad_edge=False, padding=(0, 2, 0, 0), collapse_padding=True)
        for title in self.titles[:-1]:
            made.add_column(title, justify="right", no_wrap=True)
        made.add_column(self.titles[-1], no_wrap=True)
        for *cells, last in self.placed(width):
            made.add_row(*(Text(cell, SIGNS.get(cell[:1], "")) for cell in cells),
                         Text(last, "cyan"))
        return made


class Branch(NamedTuple):
    """Of a tree: what it holds, the functions that hold no more than the next one, and what
    the last of them calls."""
    numbers: str
    labels: list
    children: list

    def plain(self, width, indent=0):
        start = " " * indent + self.numbers
        for label in self.labels:
            yield start + shortened(label, max(width - len(start), NARROWEST))
            start = " " * len(start)
        for child in self.children:
            yield from child.plain(width, indent + 2)

    def rich(self, width):
        from rich.tree import Tree
        made = Tree(self._rich_text(), guide_style="dim")
        self._add_to(made)
        return made

    def _rich_text(self):
        from rich.text import Text
        text = Text(self.numbers, "bold")
        text.append(("\n" + " " * len(self.numbers)).join(self.labels), "not bold cyan")
        text.no_wrap, text.overflow = True, "ellipsis"
        return text

    def _add_to(self, made):
        for child in self.children:
            child._add_to(made.add(child._rich_text()))


def command_line(text):
    text = text.replace("\n", " ")
    return text if len(text) <= WIDTH else text[:WIDTH - 1] + "…"


def process_line(program):
    first, count = program.histories[0].process, len(program.histories)
    more = f" and {count - 1} more" if count > 1 else ""
    left = sum(not history.is_ended for history in program.histories)
    of_them = f"{left} " if count > 1 else ""
    ended = f", {of_them}killed or running" if left else ""
    return f"Process {first['pid']}{more}, CPython {first['python']}, " \
           f"{program.seconds:.1f} s{ended}"


def heading(program, part):
    first, total, (seconds, nbytes) = program.histories[0], part.total(), program.peak()
    yield command_line(" ".join(first.process["command"]))
    yield process_line(program)
    if part.other:
        earlier = part.other.histories[0].process
        yield command_line(f"Compared with: {' '.join(earlier['command'])}")
        yield process_line(part.other)
    about = "about " if first.sample_bytes else ""
    if part.is_change:
        now, before = (sum(moment.levels.values(), Level()).nbytes
                       for moment in (part.moment, part.earlier))
        amount = f"{signed_size(total.nbytes)} in {about}{total.blocks:+,.0f} blocks, " \
                 f"from {size_text(before)} to {size_text(now)}"
    else:
        amount = f"{size_text(total.nbytes)} in {about}{total.blocks:,.0f} blocks"
    yield f"{part.text[0].upper()}{part.text[1:]}: {amount}"
    traced = f"a sample in about {size_text(first.sample_bytes)}" if first.sample_bytes \
        else "every block"
    yield f"Peak: {size_text(nbytes)} at {seconds:.2f} s; traced: {traced}, " \
          f"{first.process['frames']} frames"
    yield ""


def most(groups, key, options):
    """The first ones of {frame: levels}, and how many are left out."""
    rows = sorted(groups.items(), key=lambda item: (-abs(key(item[1])), item[0]))
    return rows[:options.top], len(rows) - options.top


def left_out(count):
    return [f"{count:,} more (--top)"] if count > 0 else []


def site_frame(lines):
    return frames_of(site_of(lines))[-1]


def table(program, part, options):
    """By the line of own code that asked for it, itself or by a library."""
    if part.is_change:
        return change_table(program, part, options)
    groups, total = {}, part.total().nbytes or 1
    for lines, level in part.levels.items():
        frame = site_frame(lines)
        groups[frame] = groups.get(frame, Level()) + level
    rows, count = most(groups, lambda level: level.nbytes, options)
    made = Table(["size", "share", "blocks", "where"], [
        [size_text(level.nbytes), f"{level.nbytes / total:.1%}", f"{level.blocks:,.0f}", frame]
        for frame, level in rows])
    return [*heading(program, part), made, *left_out(count)]


class Change:
    """Of a site; another program's is a function, as its lines may have moved."""

    def __init__(self):
        self.now, self.before, self.frames = Level(), Level(), {}

    @property
    def more(self):
        return self.now.nbytes - self.before.nbytes

    @property
    def error(self):
        """A standard error, of samples."""
        return (self.now.variance + self.before.variance) ** 0.5

    @property
    def frame(self):
        """With the line that holds most, or held."""
        return max(sorted(self.frames), key=self.frames.get)


def change_groups(part):
    groups = {}
    for moment, name in (part.moment, "now"), (part.earlier, "before"):
        for lines, level in moment.levels.items():
            frame = site_frame(lines)
            key = frame[:2] if part.other and frame.name else frame
            change = groups.setdefault(key, Change())
            setattr(change, name, getattr(change, name) + level)
            # What is there now comes before what was there.
            weight = name == "now", change.frames.get(frame, (False, 0))[1] + level.nbytes
            change.frames[frame] = max(change.frames.get(frame, weight), weight)
    return {change.frame: change for change in groups.values()
            if change.now[:2] != change.before[:2]}


def error_text(error):
    return f"±{size_text(error)}" if error else ""


def change_table(program, part, options):
    rows, count = most(change_groups(part), lambda change: change.more, options)
    is_sampled = any(history.sample_bytes for of_one in (program, part.other or program)
                     for history in of_one.histories)
    titles = ["change", *["error"] * is_sampled, "blocks", "before", "now", "where"]
    made = Table(titles, [
        [signed_size(change.more), *[error_text(change.error)] * is_sampled,
         f"{change.now.blocks - change.before.blocks:+,.0f}", size_text(change.before.nbytes),
         size_text(change.now.nbytes), frame] for frame, change in rows])
    return [*heading(program, part), made, *left_out(count)]


def summary(program, part, options):
    """By function: with what it calls, and alone."""
    totals, own = {}, {}
    for lines, level in part.levels.items():
        functions = [frame[:2] for frame in frames_of(lines)]
        for function in set(functions):
            totals[function] = totals.get(function, Level()) + level
        own[functions[-1]] = own.get(functions[-1], Level()) + level
    if part.is_change:      # another program's stacks may have other lines, and as much
        totals = {function: level for function, level in totals.items() if any(level[:2])}
    rows, count = most(totals, lambda level: level.nbytes, options)
    size = signed_size if part.is_change else size_text
    made = Table(["with callees", "alone", "blocks", "function"], [
        [size(level.nbytes), size(own.get(function, Level()).nbytes),
         f"{level.blocks:{'+' * part.is_change},.0f}", flame.Frame(*function, 0)]
        for function, level in rows])
    return [*heading(program, part), made, *left_out(count)]


def branch(node, total):
    numbers, labels = f"{size_text(node.nbytes)} {node.nbytes / total:.1%} ", []
    while True:
        labels.append(node.frame.label)
        children = sorted((child for child in node.children.values()
                           if child.nbytes >= LEAST * total),
                          key=lambda child: (-child.nbytes, child.frame))
        if len(children) != 1 or children[0].nbytes < CHAIN * node.nbytes:
            return Branch(numbers, labels, [branch(child, total) for child in children])
        node = children[0]


def tree(program, part, options):
    root = flame.tree(part.grown()[0])
    return [*heading(program, part), branch(root, max(root.nbytes, 1)),
            f"What is below {LEAST:.0%} is not shown."]


def console():
    """Of rich, in a terminal; else None."""
    if not sys.stdout.isatty():
        return None
    try:
        from rich.console import Console
    except ImportError:
        return None
    return Console(highlight=False, markup=False, emoji=False)


def write(parts, output):
    screen = None if output else console()
    if screen is not None:
        for part in parts:
            screen.print(part if isinstance(part, str) else part.rich(screen.width),
                         soft_wrap=isinstance(part, str))
        return
    width = shutil.get_terminal_size((WIDTH, 24)).columns
    lines = [line for part in parts
             for line in ([part] if isinstance(part, str) else part.plain(width))]
    text = "".join(line.rstrip() + "\n" for line in lines)
    if output:
        Path(output).write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)
