"""Where the live memory was asked for, as a flame graph.

    stacks = of_snapshot(tracemalloc.take_snapshot())
    write(stacks, "flame.svg", "svg")       also html, pprof, collapsed

The bottom row is all memory; on it stand the outermost functions that asked for it, as
wide as their part, on them those that they called.  tracemalloc keeps the innermost
frames of a stack: start(25) for deep ones.
"""

from functools import lru_cache
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from pymem.attached import stacks_of
from pymem.functions import functions_at
from pymem.page import write_page
from pymem.picture import Picture, hsl
from pymem.pprof import Profile
from pymem.running import begin_of_program

ROW, WIDTH, LETTER = 17, 1200, 6.3
SUFFIXES = {".svg": "svg", ".html": "html", ".gz": "pprof", ".pb": "pprof",
            ".txt": "collapsed", ".collapsed": "collapsed"}


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
    """{frames from the outermost on: [blocks, bytes]}"""

    def __init__(self):
        self.counts = {}

    def add(self, frames, blocks, nbytes):
        counts = self.counts.setdefault(tuple(frames), [0, 0])
        counts[0] += blocks
        counts[1] += nbytes

    @property
    def total(self):
        return sum(nbytes for _, nbytes in self.counts.values())


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
    """KeyError, TypeError, IndexError: it is none."""
    frames = [Frame(str(row["function"]), str(row["file"]), int(row["line"]))
              for row in data["frames"]]
    stacks = Stacks()
    for row in data["stacks"]:
        stacks.add([frames[number] for number in row["frames"]], int(row["blocks"]),
                   int(row["bytes"]))
    return stacks


class Node:
    def __init__(self, frame):
        self.frame, self.blocks, self.nbytes, self.children = frame, 0, 0, {}

    def add(self, blocks, nbytes):
        self.blocks += blocks
        self.nbytes += nbytes

    def depth(self):
        return 1 + max((child.depth() for child in self.children.values()), default=0)

    def sorted_children(self):
        return sorted(self.children.values(), key=lambda child: child.frame)


def tree(stacks):
    root = Node(Frame("all", "", 0))
    for frames, (blocks, nbytes) in stacks.counts.items():
        node = root
        node.add(blocks, nbytes)
        for frame in frames:
            node = node.children.setdefault(frame, Node(frame))
            node.add(blocks, nbytes)
    return root


def color(frame):
    """Warm for Python, cool for C, of one file alike."""
    hue = sum(map(ord, frame.file)) % 40
    return hsl(190 + hue if frame.is_native else 15 + hue, 75, 66)


def draw(stacks):
    root = tree(stacks)
    depth = root.depth()
    picture = Picture(WIDTH + 20)
    picture.text(10, 18, f"{root.nbytes:,} bytes in {root.blocks:,} blocks", 14, bold=True)
    top = 30

    def node_at(node, x, level):
        width = WIDTH * node.nbytes / max(root.nbytes, 1)
        if width < 0.3:
            return
        y = top + (depth - 1 - level) * ROW
        share = node.nbytes / max(root.nbytes, 1)
        words = f"{node.frame.label}: {node.nbytes:,} bytes, {share:.1%}, " \
                f"{node.blocks:,} blocks"
        picture.rectangle(x, y, width, ROW - 1, color(node.frame), "#ffffff", words)
        room = int((width - 6) / LETTER)
        if room >= 3:
            label = node.frame.label
            picture.text(x + 3, y + 12,
                         label if len(label) <= room else label[:room - 1] + "…", 10.5)
        for child in node.sorted_children():
            node_at(child, x, level + 1)
            x += WIDTH * child.nbytes / max(root.nbytes, 1)
    node_at(root, 10, 0)
    picture.below(top + depth * ROW)
    return picture


def page_data(node):
    return [node.frame.label, node.frame.file, node.nbytes, node.blocks, color(node.frame),
            [page_data(child) for child in node.sorted_children()]]


def collapsed_lines(stacks):
    """One line a stack: frames with ; between, and bytes."""
    return sorted(";".join(frame.label.replace(";", ":") for frame in frames)
                  + f" {nbytes}" for frames, (_, nbytes) in stacks.counts.items())


def write(stacks, path, form):
    if form == "svg":
        draw(stacks).write(path, form, "flame graph of live memory")
    elif form == "html":
        write_page("flame.html", page_data(tree(stacks)), path)
    elif form == "collapsed":
        Path(path).write_text("".join(line + "\n" for line in collapsed_lines(stacks)),
                              encoding="utf-8")
    else:
        profile = Profile()
        for frames, (blocks, nbytes) in stacks.counts.items():
            profile.add(frames, blocks, nbytes)
        profile.write(path)
