"""Where the live memory was asked for, as a flame graph.

    stacks = of_snapshot(tracemalloc.take_snapshot())
    write(stacks, "flame.svg", "svg")       also html, pprof, collapsed
    write(stacks, "changes.html", "html", before=of_snapshot(earlier))

The bottom row is all memory; on it stand the outermost functions that asked for it, as
wide as their part, on them those that they called.  tracemalloc keeps the innermost
frames of a stack: start(25) for deep ones.
"""

import re
from functools import lru_cache
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from pymem import about, size_text
from pymem.attached import stacks_of
from pymem.functions import functions_at
from pymem.page import write_page
from pymem.picture import GRAY, Picture, hsl
from pymem.pprof import Profile
from pymem.running import begin_of_program

ROW, WIDTH, LETTER = 17, 1200, 6.3
SUFFIXES = {".svg": "svg", ".html": "html", ".gz": "pprof", ".pb": "pprof",
            ".txt": "collapsed", ".collapsed": "collapsed"}
# What imports modules: files of Python functions, and names of C functions.
IMPORT_FILE = re.compile(r"<frozen (importlib|zipimport|runpy)|.*/importlib/")
IMPORT_FUNCTION = re.compile("_?PyImport_|import_|builtin___import__|_PyEval_ImportName")
LIBRARY, NATIVE, IMPORT = 1, 2, 4       # kinds of frames, in stackviews.html too


class Frame(NamedTuple):
    name: str
    file: str
    line: int           # 0: not known
    is_native: bool = False

    @property
    def label(self):
        if not self.line:
            return self.name
        where = f"{Path(self.file).name}:{self.line}"
        return f"{self.name} ({where})" if self.name else where


def is_native(line):
    """Of a tracer's lines."""
    return line[2:] == ("",)


def native_frames(addresses):
    from pymem import native            # which needs _pymem
    return [Frame(*function, True) for function in native.functions(addresses)]


def frames_of(lines):
    """Of lines from the outermost on, as a tracer told them: (file, line, function); ("",
    address, "") for a C function; or without the function, which is then looked for in the
    source: frames that stand on each other on one line are its functions, where they are as
    many."""
    frames, i = [], 0
    while i < len(lines):
        line = lines[i]
        if is_native(line):
            addresses = [address for _, address, *_ in takewhile(is_native, lines[i:])]
            frames += native_frames(addresses)
            i += len(addresses)
            continue
        if len(line) > 2:
            file, number, function = line
            frames.append(Frame(function, file, number))
            i += 1
            continue
        names, count = functions_at(*line, frames[-1].file if frames else None), 1
        while lines[i + count:i + count + 1] == (line,):
            count += 1
        if len(names) != count:
            names = [" or ".join(names)] * count
        frames += [Frame(name, *line) for name in names]
        i += count
    return tuple(frames)


def frame_at(*line):
    return frames_of((line,))[0]


class Stacks:
    """{frames from the outermost on: [blocks, bytes]}; and what pymem.about says of them."""

    def __init__(self, facts=()):
        self.counts, self.facts = {}, dict(facts)

    def add(self, frames, blocks, nbytes):
        counts = self.counts.setdefault(tuple(frames), [0, 0])
        counts[0] += blocks
        counts[1] += nbytes

    @property
    def total(self):
        return sum(nbytes for _, nbytes in self.counts.values())

    @property
    def blocks(self):
        return sum(blocks for blocks, _ in self.counts.values())

    def all_facts(self):
        return {**self.facts, "bytes": self.total, "blocks": self.blocks}


def lines_of_program(traceback):
    """Lines from the outermost on, of those of a tracer.  Of a program that these tools ran
    its own part; nothing of what the tools asked for themselves."""
    outermost_first = traceback[::-1]
    python = [i for i, line in enumerate(outermost_first) if not is_native(line)]
    if not python:
        return outermost_first
    begin = begin_of_program([outermost_first[i][0] for i in python])
    return () if begin in (None, len(python)) else outermost_first[python[begin]:]


@lru_cache(maxsize=1 << 16)
def python_frames(traceback):
    return frames_of(lines_of_program(traceback))


def of_traces(traces, sample_bytes=0):
    """Of what pymem.attached.traces_of() gave."""
    from pymem.growth import Level
    found = stacks_of(traces)
    addresses = {line[1] for stack, *_ in found for line in stack if is_native(line)}
    if addresses:
        from pymem import native
        native.find(addresses)
    stacks = Stacks()
    for (stack, *_), blocks in found.items():
        frames, level = python_frames(stack), Level.of(blocks, sample_bytes)
        if frames:
            stacks.add(frames, round(level.blocks), level.nbytes)
    return stacks


def of_levels(levels):
    """Of (lines from the outermost on, pymem.growth.Level)."""
    stacks = Stacks()
    for lines, level in levels:
        stacks.add(frames_of(lines), level.blocks, level.nbytes)
    return stacks


def of_snapshot(snapshot):
    """Of a tracemalloc.Snapshot."""
    stacks = Stacks()
    for same in snapshot.statistics("traceback"):
        frames = python_frames(tuple((frame.filename, frame.lineno)
                                     for frame in reversed(same.traceback)))
        if frames:
            stacks.add(frames, same.count, same.size)
    return stacks


# As JSON, which attach and leaks write.

def frame_record(frame):
    return {"function": frame.name, "file": frame.file, "line": frame.line}


def record(stacks):
    """Each frame once; a stack has numbers of frames from the outermost on."""
    frames, rows = {}, []
    for of_stack, (blocks, nbytes) in stacks.counts.items():
        rows.append({"frames": [frames.setdefault(frame, len(frames)) for frame in of_stack],
                     "bytes": round(nbytes), "blocks": round(blocks)})
    return {"frames": list(map(frame_record, frames)), "stacks": rows}


def of_record(data):
    """KeyError, TypeError, IndexError, ValueError: it is none."""
    frames = [Frame(str(row["function"]), str(row["file"]), int(row["line"]))
              for row in data["frames"]]
    stacks = Stacks(about.of_record(data))
    for row in data["stacks"]:
        stacks.add([frames[number] for number in row["frames"]], int(row["blocks"]),
                   int(row["bytes"]))
    return stacks


# Differences.

def moved_files(files, before):
    """{file before: file now} of those that only their folders tell apart: of two versions of
    a program, or two environments."""
    def alone(names):
        found = {}
        for name in names:
            found.setdefault(name.rpartition("/")[2], []).append(name)
        return {last: paths[0] for last, paths in found.items() if len(paths) == 1}
    now = alone(files - before)
    return {old: now[last] for last, old in alone(before - files).items() if last in now}


def files_of(stacks):
    return {frame.file for frames in stacks.counts for frame in frames if frame.file}


def in_files_of(stacks, before):
    """before, with the names that its files have now."""
    moved = moved_files(files_of(stacks), files_of(before))
    made = Stacks(before.facts)
    for frames, counts in before.counts.items():
        made.add([frame._replace(file=moved.get(frame.file, frame.file)) for frame in frames],
                 *counts)
    return made


def by_function(stacks, before):
    """Both with the lines of a function as one: when a source was changed, its lines have moved.
    Each function stands with the line that holds most, or held."""
    held, lines = {}, {}
    for of_stacks in (before, stacks):
        for frames, (_, nbytes) in of_stacks.counts.items():
            for frame in frames:
                is_now, most = held.get(frame, (False, 0))
                held[frame] = of_stacks is stacks, most * (is_now is True) + nbytes
    for frame in sorted(held, key=held.get):
        lines[frame.name or frame, frame.file] = frame
    made = []
    for of_stacks in (stacks, before):
        made.append(Stacks(of_stacks.facts))
        for frames, counts in of_stacks.counts.items():
            made[-1].add([lines[frame.name or frame, frame.file] for frame in frames], *counts)
    return made


def changes(stacks, before):
    """{frames: (blocks, bytes, more blocks, more bytes)}"""
    found = {}
    for frames in {**stacks.counts, **before.counts}:
        blocks, nbytes = stacks.counts.get(frames, (0, 0))
        was = before.counts.get(frames, (0, 0))
        found[frames] = blocks, nbytes, blocks - was[0], nbytes - was[1]
    return found


def grown(stacks, before):
    """Stacks of what became more, and how many bytes became less."""
    more, less = Stacks(stacks.facts), 0
    for frames, (_, _, blocks, nbytes) in changes(stacks, before).items():
        if nbytes > 0:
            more.add(frames, blocks, nbytes)
        else:
            less -= nbytes
    return more, less


def grown_functions(stacks, before, functions):
    """Of two programs by function, as lines and folders may have moved."""
    return grown(*(by_function(stacks, in_files_of(stacks, before)) if functions
                   else (stacks, before)))


class Node:
    """wide: bytes; in a tree of differences those that changed, up and down."""

    def __init__(self, frame):
        self.frame, self.children = frame, {}
        self.blocks = self.nbytes = self.more_blocks = self.more = self.wide = 0

    def add(self, blocks, nbytes, more_blocks, more, wide):
        self.blocks += blocks
        self.nbytes += nbytes
        self.more_blocks += more_blocks
        self.more += more
        self.wide += wide

    def depth(self):
        return 1 + max((child.depth() for child in self.children.values()), default=0)

    def sorted_children(self):
        return sorted(self.children.values(), key=lambda child: child.frame)


def tree(stacks, before=None):
    root = Node(Frame("all", "", 0))
    for frames, counts in changes(stacks, before or Stacks()).items():
        counts = (*counts, counts[1] if before is None else abs(counts[3]))
        node = root
        node.add(*counts)
        for frame in frames if counts[-1] else ():
            node = node.children.setdefault(frame, Node(frame))
            node.add(*counts)
    return root


def color(frame):
    """Warm for Python, cool for C, the same for one file."""
    hue = sum(map(ord, frame.file)) % 40
    return hsl(190 + hue if frame.is_native else 15 + hue, 75, 66)


def change_color(node):
    """Red grew, blue shrank, which nearly all people tell apart; the paler, the more of both."""
    return hsl(8 if node.more > 0 else 212, 85, 90 - 26 * abs(node.more) / node.wide) \
        if node.more else GRAY


def words_of(node, root, is_change):
    if is_change:
        return f"{node.frame.label}: {node.more:+,} bytes, {node.more_blocks:+,} blocks"
    return f"{node.frame.label}: {node.nbytes:,} bytes, {node.nbytes / max(root.nbytes, 1):.1%}," \
           f" {node.blocks:,} blocks"


def draw(stacks, before=None):
    is_change = before is not None
    root = tree(stacks, before)
    depth = root.depth()
    picture = Picture(WIDTH + 20)
    total = f"{root.nbytes:,} bytes in {root.blocks:,} blocks" if not is_change else \
        f"{words_of(root, root, True)}; red and + grew, blue and - shrank"
    picture.text(10, 18, total, 14, bold=True)
    top = 30

    def node_at(node, x, level):
        width = WIDTH * node.wide / max(root.wide, 1)
        if width < 0.3:
            return
        y = top + (depth - 1 - level) * ROW
        picture.rectangle(x, y, width, ROW - 1,
                          change_color(node) if is_change else color(node.frame), "#ffffff",
                          words_of(node, root, is_change))
        room = int((width - 6) / LETTER)
        if room >= 3:
            label = f"{'-' if node.more < 0 else '+'} " * is_change + node.frame.label
            picture.text(x + 3, y + 12,
                         label if len(label) <= room else label[:room - 1] + "…", 10.5)
        for child in node.sorted_children():
            node_at(child, x, level + 1)
            x += WIDTH * child.wide / max(root.wide, 1)
    node_at(root, 10, 0)
    picture.below(top + depth * ROW)
    return picture


def kind(frame):
    from pymem.growth import is_library
    is_import = IMPORT_FUNCTION.match(frame.name) if frame.is_native \
        else IMPORT_FILE.match(frame.file)
    return (LIBRARY * is_library(frame.file) + NATIVE * frame.is_native
            + IMPORT * bool(is_import))


def page_frames(frames):
    return [[frame.name, frame.file, frame.line, kind(frame), color(frame)]
            for frame in frames]


def page_data(stacks, before=None, functions=False):
    """What stackviews.html draws."""
    counted = changes(stacks, before or Stacks())
    frames = sorted({frame for of_stack in counted for frame in of_stack})
    numbers, rows = {frame: number for number, frame in enumerate(frames)}, []
    for of_stack, (blocks, nbytes, more_blocks, more) in counted.items():
        row = [[numbers[frame] for frame in of_stack], nbytes, blocks]
        rows.append(row if before is None else [*row, nbytes - more, blocks - more_blocks])
    return {"frames": page_frames(frames), "stacks": rows, "isChange": before is not None,
            "byFunction": functions and before is not None}


def collapsed_lines(stacks):
    """One line a stack: frames with ; between, and bytes."""
    return sorted(";".join(frame.label.replace(";", ":") for frame in frames)
                  + f" {nbytes}" for frames, (_, nbytes) in stacks.counts.items())


def write(stacks, path, form, before=None, functions=False):
    """before: what was there earlier, for a picture of the differences; functions: by
    function, not by line."""
    if before is not None and functions:
        before = in_files_of(stacks, before)
    if form == "html":
        write_page("flame.html", page_data(stacks, before, functions), path,
                   stacks.all_facts(), before and before.all_facts())
        return
    if before is not None and functions:
        stacks, before = by_function(stacks, before)
    if form == "svg":
        draw(stacks, before).write(path, form, "flame graph of live memory")
        return
    if before is not None:
        stacks, _ = grown(stacks, before)
    if form == "collapsed":
        Path(path).write_text("".join(line + "\n" for line in collapsed_lines(stacks)),
                              encoding="utf-8")
    else:
        profile = Profile()
        for frames, (blocks, nbytes) in stacks.counts.items():
            profile.add(frames, blocks, nbytes)
        profile.write(path)


def less_text(less):
    return f"pymem: what became less, {round(less):,} bytes, is not shown there; --format html, " \
           "svg, table and json have it\n" if less else ""


def write_compared(stacks, before, functions, path, form):
    """What was written, in a line; and in another one what was not."""
    write(stacks, path, form, before, functions)
    if before is None:
        return f"{path}: {round(stacks.total):,} bytes in {len(stacks.counts):,} stacks\n"
    more = round(stacks.total - before.total)
    less = grown_functions(stacks, before, functions)[1] if form in ("collapsed", "pprof") else 0
    return f"{path}: {more:+,} bytes since {size_text(before.total)}\n{less_text(less)}"
