"""The pictures of "How it works", each drawn from the heap of the process that draws it.

    PYTHONPATH=build build/python Doc/diagrams.py NAME > NAME.svg

heapdiagram.py does it for each page when the documentation is built.
"""

import ctypes
import inspect
import os
import resource
import subprocess
import sys
import time
import tracemalloc
from array import array
from pathlib import Path

from pymem import heapmap, replay
from pymem.capi import free, malloc, read, realloc, write
from pymem.heap import Heap
from pymem.native import function_at
from pymem.picture import GRAY, INK, Picture, class_color, hsl, round_up
from pymem.recording import record

BUILD = Path(sys.executable).parent
SOFT, USED, FREE = "#e8eef5", "#3b6ea5", "#f6f2e8"
DIAGRAMS = {}


def diagram(function):
    DIAGRAMS[function.__name__] = function
    return function


def box(picture, x, y, width, height, *lines, color=SOFT, size=11):
    picture.rectangle(x, y, width, height, color, "#88939e")
    first = y + height / 2 - (len(lines) - 1) * 7 + 4
    for i, line in enumerate(lines):
        picture.text(x + width / 2, first + 14 * i, line, size, anchor="middle")


def legend(picture, x, y, names):
    for name, color in names:
        picture.rectangle(x, y - 9, 11, 10, color)
        picture.text(x + 15, y, name, 11)
        x += 35 + 6.4 * len(name)


# Domains

class Allocator(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p)
                for name in ("ctx", "malloc", "calloc", "realloc", "free")]


def allocators():
    names = []
    for domain in range(3):
        allocator = Allocator()
        ctypes.pythonapi.PyMem_GetAllocator(domain, ctypes.byref(allocator))
        names.append(function_at(allocator.malloc).name)
    return names


def allocators_with(**environment):
    return subprocess.run([sys.executable, __file__, "--allocators"], text=True,
                          stdout=subprocess.PIPE, check=True,
                          env={**os.environ, **environment}).stdout.split()


@diagram
def domains():
    picture = Picture(780)
    settings = [("by default", {}), ("PYTHONMALLOC=debug", {"PYTHONMALLOC": "debug"}),
                ("PYTHONTRACEMALLOC=1", {"PYTHONTRACEMALLOC": "1"})]
    for i, name in enumerate(("PyMem_RawMalloc()", "PyMem_Malloc()", "PyObject_Malloc()")):
        box(picture, 190 + 200 * i, 10, 180, 30, name, color="#ffffff", size=12)
    for row, (label, environment) in enumerate(settings):
        y = 66 + 62 * row
        picture.text(8, y + 20, label, 11, bold=True)
        for i, name in enumerate(allocators_with(**environment)):
            if row == 0:
                picture.arrow(280 + 200 * i, 40, 280 + 200 * i, y)
            box(picture, 190 + 200 * i, y, 180, 34, name,
                color=hsl(sum(map(ord, name)) * 37 % 360, 45, 88))
    return picture


# Blocks, pools, arenas

@diagram
def arena():
    import ast, email.message, json, logging                       # noqa: F401, E401
    kept = [[str(i), (i, i + 1.5)] for i in range(3000)]
    del kept[::3]
    heap = Heap.take()
    small = [a for a in heap.arenas if not a.is_medium]
    chosen = max(small, key=lambda a: len({pool.state for pool in a.pools}) * 100
                 + len({pool.blocksize for pool in a.pools}))
    picture = Picture(560)
    picture.text(8, 16, str(chosen), 12, bold=True)
    side = 64
    for i, pool in enumerate(chosen.pools):
        x, y = 8 + i % 8 * side, 28 + i // 8 * 36
        if not pool.blocksize:
            picture.rectangle(x, y, side - 3, 32, "#ffffff", GRAY, str(pool))
            continue
        picture.rectangle(x, y, side - 3, 32, class_color(pool.blocksize, 0.8),
                          class_color(pool.blocksize), str(pool))
        picture.rectangle(x, y + 32 - 32 * pool.fill, side - 3, 32 * pool.fill,
                          class_color(pool.blocksize, 0.45), title=str(pool))
        picture.text(x + 3, y + 13, pool.blocksize, 10)
        picture.text(x + 3, y + 26, f"{pool.nused}/{pool.nblocks}", 9)
    return picture


@diagram
def pool():
    blocks = [malloc(300) for _ in range(150)]
    for p in blocks[-40::7] + blocks[-38::11]:
        free(p)
    heap = Heap.take()
    shown = heap.find(blocks[-39]).pool
    picture = Picture(680)
    picture.text(8, 16, str(shown), 12, bold=True)
    order = {number: at for at, number in enumerate(shown.free)}
    columns, width, height = 9, 73, 30
    for i, state in enumerate(shown.block_states()):
        x, y = 8 + i % columns * width, 28 + i // columns * (height + 4)
        color = {"u": class_color(shown.blocksize, 0.45), "f": "#ffffff", "n": "#eeeeee"}[state]
        picture.rectangle(x, y, width - 4, height, color, "#88939e",
                          f"block {i} at {shown.block_address(i):#x}", state == "n")
        words = {"u": "used", "n": "never used"}.get(state) or f"free, {order[i] + 1}."
        picture.text(x + 5, y + 13, f"block {i}", 9)
        picture.text(x + 5, y + 25, words, 10, bold=state == "f")
    return picture


# Size classes

@diagram
def classes():
    import ast, asyncio, email.message, json, logging              # noqa: F401, E401
    rows = Heap.take().classes()
    most = max(size * (row["blocks"] + row["free_blocks"]) for size, row in rows.items())
    most = round_up(most / 1024)
    picture = Picture(720)
    picture.grid(60, 40, 640, 200, most, "", "KiB in blocks of each size")
    for i in range(32):
        size = 16 * (i + 1)
        row = rows.get(size, {"blocks": 0, "free_blocks": 0})
        x, y = 62 + 20 * i, 240
        for count, color in ((row["blocks"], class_color(size)),
                             (row["free_blocks"], class_color(size, 0.7))):
            height = 200 * size * count / 1024 / most
            y -= height
            picture.rectangle(x, y, 16, height, color,
                              title=f"{size} bytes: {count} blocks")
        if i % 2:
            picture.text(x + 8, 254, size, 9, anchor="middle")
    picture.text(60, 274, "bytes in a block; the light parts are free blocks", 11)
    return picture


# free()

@diagram
def address():
    p = malloc(37)
    place = Heap.take().find(p)
    picture = Picture(760)
    picture.text(8, 18, f"PyObject_Free({p:#x})", 13, bold=True)
    parts = [("leaf", p >> 32, 16), ("frame", (p & 2**32 - 1) >> 14, 18),
             ("offset in the pool", p & 2**14 - 1, 14)]
    x = 8
    centers = []
    for name, value, bits in parts:
        width = bits * 15.4
        picture.rectangle(x, 32, width, 26, SOFT, "#88939e")
        picture.text(x + width / 2, 49, f"{value:0{bits}b}", 11, anchor="middle")
        picture.text(x + width / 2, 74, f"{name}: {value:,} ({bits} bits)", 11,
                     anchor="middle")
        centers.append(x + width / 2)
        x += width + 3
    picture.arrow(centers[0], 80, centers[0], 104)
    box(picture, 8, 106, 240, 30, f"pool_map[{parts[0][1]:,}]", color=FREE)
    picture.arrow(248, 121, 278, 121)
    box(picture, 282, 106, 250, 30, f"record {parts[1][1]:,} of the leaf", color=FREE)
    picture.arrow(centers[1], 80, centers[1], 104)
    shown = place.pool
    lines = [f"blocksize {shown.blocksize}", f"inuse {shown.nused} of {shown.nblocks}",
             f"freeblock {shown.freeblock:#x}"]
    picture.arrow(407, 136, 407, 158)
    box(picture, 282, 160, 250, 54, *lines, color="#ffffff")
    picture.text(545, 184, f"block {place.number}: ({parts[2][1]:,} - 48) / "
                 f"{shown.blocksize}", 11)
    return picture


# realloc

@diagram
def resize():
    steps = list(range(1, 513)) + list(range(511, 0, -1))
    points, moves, p = [], [], malloc(1)
    for i, n in enumerate(steps):
        q = realloc(p, n)
        size = Heap.take().find(q).pool.blocksize
        points.append((i, n, size))
        if q != p:
            moves.append((i, size))
        p = q
    picture = Picture(720)
    legend(picture, 60, 16, [("bytes asked for", INK), ("bytes of the block", USED),
                             ("it moved", "#c0392b")])
    picture.grid(60, 50, 640, 240, 512, "", "bytes")

    def at(i, value):
        return 60 + 640 * i / len(steps), 290 - 240 * value / 512
    picture.line([at(i, size) for i, _, size in points], USED, 1.6)
    picture.line([at(i, n) for i, n, _ in points], INK, 1)
    for i, size in moves:
        x, y = at(i, size)
        picture.rectangle(x - 2, y - 2, 4, 4, "#c0392b")
    return picture


# Arenas

def layers():
    """MiB of the arenas of small blocks: in blocks in use; of what is in memory besides, in
    pools that are in use, and in free pools; and of address space."""
    size, present = os.sysconf("SC_PAGESIZE"), 1 << 63
    blocks = used = free_ones = space = 0
    with open("/proc/self/pagemap", "rb") as pagemap:
        for arena in Heap.take().arenas:
            if arena.is_medium:
                continue
            pagemap.seek(arena.pool_address // size * 8)
            pages = array("Q", pagemap.read(arena.npools * arena.pool_size // size * 8))
            per_pool = arena.pool_size // size
            for i, pool in enumerate(arena.pools):
                here = sum(page >= present
                           for page in pages[i * per_pool:(i + 1) * per_pool]) * size
                if pool.blocksize:
                    used += here
                else:
                    free_ones += here
            blocks += arena.used_bytes
            space += arena.size
    return [n / 2**20 for n in (blocks, max(used - blocks, 0), free_ones, space)]


@diagram
def rss():
    samples, marks = [], []

    def sample(label=None):
        if label:
            marks.append((len(samples), label))
        samples.append(layers())

    def busy(seconds):
        """The program goes on with something small."""
        for _ in range(15):
            end = time.monotonic() + seconds / 15
            while time.monotonic() < end:
                free(malloc(500))
                [bytes(300) for _ in range(64)]
            sample()
    blocks, part = array("Q"), 25_000
    sample("builds")
    for _ in range(16):
        blocks.extend(malloc(100) for _ in range(part))
        sample()
    sample("drops 99 of 100")
    left = array("Q")
    for i in range(0, len(blocks), part):
        for j, p in enumerate(blocks[i:i + part]):
            if j * 7919 % 100:
                free(p)
            else:
                left.append(p)
        sample()
    sample("goes on")
    busy(3.0)
    sample("drops the rest")
    for p in left:
        free(p)
    sample()
    sample("waits")
    for _ in range(8):
        time.sleep(0.2)
        sample()
    sample("goes on")
    busy(1.0)
    most = round_up(max(s[3] for s in samples))
    picture = Picture(720)
    names = [("blocks in use", USED), ("free blocks", "#9ec3e6"),
             ("free pools, empty arenas", "#e9c48d"), ("arenas, in memory or not", "#8e44ad")]
    legend(picture, 60, 16, names)
    picture.grid(60, 62, 640, 220, most, "", "MiB in memory")
    step = 640 / (len(samples) - 1)

    def y_of(value):
        return 282 - 220 * value / most
    for i, of_sample in enumerate(samples[:-1]):
        low = 0
        for value, (_, color) in zip(of_sample, names[:3]):
            picture.rectangle(60 + i * step, y_of(low + value), step + 0.3,
                              y_of(low) - y_of(low + value), color)
            low += value
    picture.line([(60 + i * step, y_of(s[3])) for i, s in enumerate(samples)], names[3][1],
                 1.6)
    for n, (i, label) in enumerate(marks):
        picture.line([(60 + i * step, 50), (60 + i * step, 292)], "#999999", 0.6)
        picture.text(60 + i * step + 3, 296 + 12 * (n % 2), label, 10)
    return picture


@diagram
def pinned():
    blocks = array("Q", (malloc(500) for _ in range(31 * 64 * 4)))
    frames = [heapmap.Frame("all of the blocks", Heap.take())]
    whole = max(frames[0].heap.arenas, key=lambda a: sum(
        pool.blocksize == 512 for pool in a.pools))
    survivor = next(p for p in blocks if frames[0].heap.find(p).arena is whole)
    for p in blocks:
        if p != survivor:
            free(p)
    frames.append(heapmap.Frame("one block stays", Heap.take()))
    near = [heapmap.Frame(frame.label, Heap(frame.heap.figures, [
        arena for arena in frame.heap.arenas
        if whole.address - 2**20 <= arena.address <= whole.address])) for frame in frames]
    return heapmap.draw(near)


# Debug hooks

@diagram
def debugblock():
    out = subprocess.run(
        [sys.executable, __file__, "--debugblock"], stdout=subprocess.PIPE, text=True,
        check=True, env={**os.environ, "PYTHONMALLOC": "debug"}).stdout
    data = bytes.fromhex(out)
    kinds = ([("bytes asked for", "#cfe3f7")] * 8 + [("domain", "#f7d9c4")]
             + [("forbidden", "#f5b7b1")] * 7 + [("written", "#a9dfbf")] * 3
             + [("clean", "#d5f5e3")] * 18 + [("forbidden", "#f5b7b1")] * 8)
    picture = Picture(700)
    legend(picture, 8, 16, list(dict.fromkeys(kinds)))
    for i, (byte, (_, color)) in enumerate(zip(data, kinds)):
        x, y = 8 + i % 16 * 42, 30 + i // 16 * 40
        picture.rectangle(x, y, 40, 26, color, "#88939e")
        picture.text(x + 20, y + 17, f"{byte:02x}", 12, anchor="middle")
        picture.text(x + 20, y + 36, f"p{i - 16:+}" if i != 16 else "p", 9, "#777777",
                     anchor="middle")
    return picture


# The tracer

@diagram
def flame():
    from pymem import flame as flaming
    source = ("def names(n):\n    return [str(i) * 8 for i in range(n)]\n"
              "def table(n):\n    return {name: [i] for i, name in enumerate(names(n))}\n"
              "def load():\n    return table(3000), names(4000)\n"
              "def main():\n    return load(), bytearray(90_000)\n"
              "kept = main()\n")
    path = Path("/tmp") / f"program{os.getpid()}.py"
    path.write_text(source)
    try:
        code = compile(source, str(path), "exec")
        tracemalloc.start(25)
        exec(code, {})
        kept = {}
        exec(code, kept)
        snapshot = tracemalloc.take_snapshot()
        tracemalloc.stop()
        snapshot = snapshot.filter_traces([tracemalloc.Filter(True, str(path),
                                                              all_frames=True)])
        stacks = flaming.Stacks()
        for frames, (blocks, nbytes) in flaming.of_snapshot(snapshot).counts.items():
            own = [frame._replace(file="program.py") for frame in frames
                   if frame.file == str(path)]
            stacks.add(own, blocks, nbytes)
    finally:
        path.unlink()
    return flaming.draw(stacks)


# Hooks

@diagram
def hooks():
    source = Path(__file__).parent / "examples" / "counting.c"
    program = Path("/tmp") / f"counting{os.getpid()}"
    top = Path(__file__).parent.parent
    try:
        subprocess.run(["cc", source, f"-I{top / 'Include'}", f"-I{BUILD}",
                        f"-L{BUILD / '.libs'}", "-lpymem", f"-Wl,-rpath,{BUILD / '.libs'}",
                        "-o", program], check=True)
        lines = subprocess.run([program], stdout=subprocess.PIPE, text=True,
                               check=True).stdout.splitlines()
    finally:
        program.unlink(missing_ok=True)
    counts = {line.split(" ")[0]: line.split(": ")[1] for line in lines}
    picture = Picture(640)
    rows = [("PyObject_Malloc()", "the program", "#ffffff"),
            ("counting_malloc()", f"hook of the object domain: {counts['object']}", FREE),
            ("_PyObject_Malloc()", "pymalloc: blocks of up to 512 bytes", SOFT),
            ("PyMem_RawMalloc()", "what is larger", "#ffffff"),
            ("counting_malloc()", f"hook of the raw domain: {counts['raw']}", FREE),
            ("_PyMem_RawMalloc()", "malloc()", SOFT)]
    for i, (name, words, color) in enumerate(rows):
        y = 8 + 46 * i
        box(picture, 8, y, 200, 30, name, color=color, size=12)
        picture.text(222, y + 20, words, 12)
        if i:
            picture.arrow(108, y - 16, 108, y)
    return picture


# History

@diagram
def geometries():
    folder = Path("/tmp") / f"diagram{os.getpid()}"
    folder.mkdir()
    program, trace = folder / "program.py", folder / "trace"
    program.write_text(
        "words = {}\nfor i in range(30_000):\n"
        "    words.setdefault(str(i % 5_000), []).append((i, str(i)))\n"
        "for key in list(words)[::2]: del words[key]\n"
        "more = [float(i) for i in range(30_000)]\ndel words\n")
    try:
        record(BUILD / "record.so", trace, [sys.executable, program], check=True)
        curves = replay.replay(trace, {
            "2.5": replay.GEOMETRIES["2.5"], "3.9": replay.GEOMETRIES["classic"],
            "3.10": replay.GEOMETRIES["CPython 3.10"]}, [])
    finally:
        for path in (program, trace):
            path.unlink(missing_ok=True)
        folder.rmdir()
    return replay.draw(curves)


# What ours does differently

def page_faults():
    """In each of 12 rounds of building and dropping."""
    before, found = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, []
    for _ in range(12):
        kept = [(i, [i]) for i in range(150_000)]
        del kept
        now = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        found.append(now - before)
        before = now
    return found


@diagram
def faults():
    found = {}
    for name in ("python-stock", "python"):
        out = subprocess.run(
            [BUILD / name, "-c", "import resource\n" + PAGE_FAULTS], stdout=subprocess.PIPE,
            text=True, check=True).stdout
        found[name] = list(map(int, out.split()))
    most = round_up(max(map(max, found.values())))
    picture = Picture(720)
    colors = {"python-stock": "#c07a1b", "python": USED}
    legend(picture, 70, 16, [("CPython's own", colors["python-stock"]),
                             ("this one", colors["python"])])
    picture.grid(70, 50, 630, 200, most, "", "page faults in each round")
    for k, (name, counts) in enumerate(found.items()):
        for i, count in enumerate(counts):
            height = 200 * count / most
            picture.rectangle(74 + 52 * i + 21 * k, 250 - height, 19, height, colors[name],
                              title=f"{count:,} page faults")
    return picture


PAGE_FAULTS = inspect.getsource(page_faults) + "print(*page_faults())\n"
DIAGRAMS["realloc"] = DIAGRAMS.pop("resize")    # the name of a function that is used


def main():
    if sys.argv[1] == "--allocators":
        print(*allocators())
        return
    if sys.argv[1] == "--debugblock":
        p = malloc(21)
        write(p, b"one")
        print(read(p - 16, 16 + 21 + 8).hex())
        return
    sys.stdout.write(DIAGRAMS[sys.argv[1]]().svg(sys.argv[1]))


if __name__ == "__main__":
    main()
