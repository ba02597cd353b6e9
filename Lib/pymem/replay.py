"""What a recorded program would have looked like on other geometries and allocators.

A geometry (sizes of arenas and pools) is a model of CPython's rules, played in this
process (Modules/pymem/_pymemreplay.c): exact, and without memory for the blocks.  An allocator
is the real one in a separate process, of which the system's count of pages is kept.
Traces are recorded with record.so, by any CPython:

    LD_PRELOAD=build/record.so PYMEM_TRACE=app.trace python3 app.py
"""

import re
import struct
import sys
from pathlib import Path
from typing import NamedTuple

from pymem import beside
from pymem.allocators import WorkerFailed, find_allocators, run_worker
from pymem.heap import HeapError, unused_share
from pymem.picture import INK, Picture, hsl, round_up

SAMPLE = struct.Struct("=6Q")
SAMPLES = 400


class Geometry(NamedTuple):
    arena_bits: int
    pool_bits: int
    alignment: int = 16
    threshold: int = 512
    overhead: int = 48
    kept_arenas: int = 1


GEOMETRIES = {
    "CPython 3.10": Geometry(20, 14),
    "classic": Geometry(18, 12),
    "2.5": Geometry(18, 12, alignment=8, threshold=256, kept_arenas=0),
}


def geometry_of(text):
    """A name of GEOMETRIES, or ARENA_BITS:POOL_BITS[:ALIGNMENT]."""
    if text in GEOMETRIES:
        return GEOMETRIES[text]
    match = re.match(r"(\d+):(\d+)(?::(8|16))?$", text)
    if not match:
        names = ", ".join(map(repr, GEOMETRIES))
        raise HeapError(f"{text!r} is no geometry: {names}, or ARENA_BITS:POOL_BITS as in "
                        "20:14, and :8 for that alignment")
    arena_bits, pool_bits, alignment = match.groups()
    return Geometry(int(arena_bits), int(pool_bits), int(alignment or 16))


class Sample(NamedTuple):
    call: int
    live: int                   # bytes asked for
    held: int                   # bytes taken from the system for them
    arenas: int = 0
    pools: int = 0
    bought: int = 0             # arenas since the start

    @property
    def fragmentation(self):
        return unused_share(self.live, self.held)


class Curve:
    """One geometry or allocator over the whole trace."""

    def __init__(self, name, samples):
        self.name, self.samples = name, samples

    @property
    def peak(self):
        return max(self.samples, key=lambda sample: sample.held)


def simulate(trace, name, geometry):
    """Held: the arenas, and each larger block as it was asked for."""
    from _pymem import simulate as play
    try:
        records = play(trace, *geometry, SAMPLES)
    except ValueError as error:
        raise HeapError(str(error)) from None
    arena = 1 << geometry.arena_bits
    return Curve(name, [
        Sample(call, live, arenas * arena + live - small, arenas, pools, bought)
        for call, live, small, pools, arenas, bought in SAMPLE.iter_unpack(records)])


def play(path, name, allocator, worker, live):
    """live: a Curve of the same trace, which tells the bytes asked for."""
    *lines, _ = run_worker(worker, allocator, "trace", path, SAMPLES)
    samples, at = [], 0
    for line in lines:
        while at + 1 < len(live.samples) and live.samples[at].call < line["call"]:
            at += 1
        samples.append(Sample(line["call"], live.samples[at].live, line["kib"] * 1024))
    return Curve(name, samples)


def replay(path, geometries, allocators):
    """Curves: of {name: Geometry} and of allocators by name, None for all."""
    trace = Path(path).read_bytes()
    curves = [simulate(trace, name, geometry) for name, geometry in geometries.items()]
    if not curves or not curves[0].samples:
        raise HeapError(f"{path} has no call")
    if allocators == []:
        return curves
    worker = beside("bench-worker")
    if worker is None:
        raise HeapError("bench-worker, which plays a trace on allocators, is not beside "
                        "pymem; --allocators=none plays it on geometries only")
    here = find_allocators(worker.parent)
    for name in here if allocators is None else allocators:
        if name not in here:
            raise HeapError(f"there is no allocator {name!r} here; there are "
                            + ", ".join(here))
        try:
            curves.append(play(path, name, here[name], worker, curves[0]))
        except WorkerFailed as error:
            print(f"pymem replay: {error}", file=sys.stderr)
    return curves


def table(curves):
    """Lines of text: what each came to."""
    last = curves[0].samples[-1]
    peak = max(sample.live for sample in curves[0].samples)
    yield (f"{last.call:,} calls; bytes asked for: {peak:,} at the most, {last.live:,} "
           "at the end")
    yield ""
    yield f"{'':16} {'held at most':>16} {'at the end':>16} {'unused then':>12} " \
          f"{'arenas, most':>13} {'bought':>7}"
    for curve in curves:
        end, most = curve.samples[-1], curve.peak
        arenas = (f"{max(s.arenas for s in curve.samples):13,} {end.bought:7,}"
                  if end.bought else "")
        yield f"{curve.name:16} {most.held:16,} {end.held:16,} " \
              f"{most.fragmentation:12.1%} {arenas}".rstrip()


# The picture: three charts over the calls, one below the other.

LEFT, CHART, HEIGHT, LEGEND = 80, 700, 170, 20


def chart(picture, top, title, calls, lines, unit=1.0, suffix=""):
    """lines: (color, [(call, value)])"""
    most = round_up(max((value for _, points in lines for _, value in points),
                        default=1) / unit or 1)
    picture.grid(LEFT, top, CHART, HEIGHT, most, suffix, title)
    for color, points in lines:
        drawn = [(LEFT + CHART * call / calls, top + HEIGHT * (1 - value / unit / most))
                 for call, value in points]
        if drawn:
            picture.line(drawn, color, 1.6)
    picture.text(LEFT + CHART, top + HEIGHT + 14, f"{calls:,} calls", 10, anchor="end")


def draw(curves):
    picture, calls = Picture(LEFT + CHART + 20), curves[0].samples[-1].call
    colors = {curve.name: hsl(360 * i / len(curves), 65, 42)
              for i, curve in enumerate(curves)}
    x, y = LEFT, 18
    for name, color in {"asked for": INK, **colors}.items():
        if x > LEFT + CHART - 90:
            x, y = LEFT, y + LEGEND
        picture.rectangle(x, y - 9, 12, 10, color)
        picture.text(x + 16, y, name, 11)
        x += 120
    top = y + 40
    live = (INK, [(s.call, s.live) for s in curves[0].samples])
    chart(picture, top, "memory, MiB", calls,
          [live] + [(colors[c.name], [(s.call, s.held) for s in c.samples])
                    for c in curves], 2**20)
    top += HEIGHT + 50
    chart(picture, top, "part of it that nobody asked for, %", calls,
          [(colors[c.name], [(s.call, 100 * s.fragmentation) for s in c.samples])
           for c in curves], suffix="%")
    modelled = [c for c in curves if c.samples[-1].bought]
    if modelled:
        top += HEIGHT + 50
        chart(picture, top, "arenas", calls,
              [(colors[c.name], [(s.call, s.arenas) for s in c.samples])
               for c in modelled])
    picture.below(top + HEIGHT + 20)
    return picture
