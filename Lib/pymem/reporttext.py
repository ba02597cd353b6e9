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
            made.add_row(*map(Text, cells), Text(last, "cyan"))
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


def heading(program, part):
    first, count = program.histories[0], len(program.histories)
    facts, total, (seconds, nbytes) = first.process, part.total(), program.peak()
    name = " ".join(facts["command"]).replace("\n", " ")
    yield name if len(name) <= WIDTH else name[:WIDTH - 1] + "…"
    more = f" and {count - 1} more" if count > 1 else ""
    left = sum(not history.is_ended for history in program.histories)
    of_them = f"{left} " if count > 1 else ""
    ended = f", {of_them}killed or running" if left else ""
    yield f"Process {facts['pid']}{more}, CPython {facts['python']}, " \
          f"{program.seconds:.1f} s{ended}"
    size = size_text if part.start is None else signed_size
    about = "about " if first.sample_bytes else ""
    moment = part.facts["moment"]
    yield f"{moment[0].upper()}{moment[1:]}: {size(total.nbytes)} in {about}" \
          f"{total.blocks:,.0f} blocks"
    traced = f"a sample in about {size_text(first.sample_bytes)}" if first.sample_bytes \
        else "every block"
    yield f"Peak: {size_text(nbytes)} at {seconds:.2f} s; traced: {traced}, " \
          f"{facts['frames']} frames"
    yield ""


def most(groups, key, options):
    """The first ones of {frame: levels}, and how many are left out."""
    rows = sorted(groups.items(), key=lambda item: (-abs(key(item[1])), item[0]))
    return rows[:options.top], len(rows) - options.top


def left_out(count):
    return [f"{count:,} more (--top)"] if count > 0 else []


def table(program, part, options):
    """By the line of own code that asked for it, itself or by a library."""
    groups, total = {}, part.total().nbytes or 1
    for lines, level in part.levels.items():
        frame = frames_of(site_of(lines))[-1]
        groups[frame] = groups.get(frame, Level()) + level
    rows, count = most(groups, lambda level: level.nbytes, options)
    if part.start is None:
        made = Table(["size", "share", "blocks", "where"], [
            [size_text(level.nbytes), f"{level.nbytes / total:.1%}",
             f"{level.blocks:,.0f}", frame] for frame, level in rows])
    else:
        made = Table(["change", "blocks", "where"], [
            [signed_size(level.nbytes), f"{level.blocks:+,.0f}", frame]
            for frame, level in rows])
    return [*heading(program, part), made, *left_out(count)]


def summary(program, part, options):
    """By function: with what it calls, and alone."""
    totals, own = {}, {}
    for lines, level in part.levels.items():
        functions = [frame[:2] for frame in frames_of(lines)]
        for function in set(functions):
            totals[function] = totals.get(function, Level()) + level
        own[functions[-1]] = own.get(functions[-1], Level()) + level
    rows, count = most(totals, lambda level: level.nbytes, options)
    size = size_text if part.start is None else signed_size
    made = Table(["with callees", "alone", "blocks", "function"], [
        [size(level.nbytes), size(own.get(function, Level()).nbytes),
         f"{level.blocks:,.0f}", flame.Frame(*function, 0)] for function, level in rows])
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
