"""python -m pymem report: what pymem track wrote, at a moment or between two.

Several files are processes of one program: their times count from the start of the first of
them, and what they hold is added up.  A process that ended stays as it was at its end, but at
the peak only those count that were there.  pymem.reporttext has the formats for a terminal,
pymem.flame the pictures.
"""

import json
import sys
from bisect import bisect_right
from pathlib import Path
from typing import NamedTuple

from pymem import about, flame, reporttext
from pymem.flame import frames_of
from pymem.growth import Level
from pymem.heap import HeapError
from pymem.history import read

ENDINGS = {"svg": ".svg", "html": ".html", "pprof": ".pb.gz"}   # of files that need no -o
TEXTS = {"table": reporttext.table, "summary": reporttext.summary, "tree": reporttext.tree}


class Part(NamedTuple):
    """What is reported of a program."""
    levels: dict            # {lines: Level}; with start what was added since then
    start: float            # seconds; None: from nothing on
    end: float              # None: each process at its end
    is_peak: bool
    facts: dict             # what pymem.about says

    def total(self):
        return sum(self.levels.values(), Level())

    def grown(self):
        """As Stacks, without what became less, and that as a Level."""
        stacks, less = flame.Stacks(self.facts), Level()
        for lines, level in self.levels.items():
            if level.nbytes > 0:
                stacks.add(frames_of(lines), round(level.blocks), level.nbytes)
            else:
                less += level
        return stacks, less


def moment_text(nprocesses, start, end, is_peak):
    until = "the end" if nprocesses == 1 else "the end of each process"
    if end is not None:
        until = f"the peak, {end:.2f} s" if is_peak else f"{end:g} s"
    return f"at {until}" if start is None else f"from {start:g} s to {until}"


def difference(after, before):
    """Of {lines: Level}."""
    changes = {}
    for lines in {**after, **before}:
        a, b = after.get(lines, Level()), before.get(lines, Level())
        if a[:2] != b[:2]:
            changes[lines] = Level(a.nbytes - b.nbytes, a.blocks - b.blocks,
                                   a.variance + b.variance)
    return changes


class Program:
    """Of the histories of its processes."""

    def __init__(self, histories):
        self.histories = sorted(histories, key=lambda history: history.process["started"])
        start = self.histories[0].process["started"]
        self.times = [[history.process["started"] - start + seconds
                       for seconds in history.times] for history in self.histories]

    @property
    def seconds(self):
        return max(times[-1] for times in self.times)

    def totals(self):
        """[(seconds, bytes of all processes that are there)]"""
        changes = []
        for history, times in zip(self.histories, self.times):
            totals = [0, *history.totals]
            changes += [(seconds, False, after - before) for seconds, before, after
                        in zip(times, totals, totals[1:])]
            changes.append((times[-1], True, -totals[-1]))      # after that moment
        total, found = 0, []
        for seconds, is_end, more in sorted(changes):
            total += more
            if not is_end:
                found.append((seconds, total))
        return found

    def peak(self):
        """(seconds, bytes)"""
        return max(self.totals(), key=lambda moment: moment[1])

    def levels(self, seconds, there=0.0):
        """{lines: Level} at a time, of processes that did not end before another one; None:
        each process at its end."""
        merged = {}
        for history, times in zip(self.histories, self.times):
            count = len(times) if seconds is None else bisect_right(times, seconds)
            if times[-1] < there:
                continue
            for lines, blocks in history.held(count).items():
                level = Level.of(blocks, history.sample_bytes)
                if level.blocks:
                    merged[lines] = merged.get(lines, Level()) + level
        return merged

    def part(self, options):
        start = options.start
        end = self.peak()[0] if options.peak else options.end
        first = -1.0 if start is None else start
        last = self.seconds if end is None else end
        if not any(first < seconds <= last for times in self.times for seconds in times):
            raise HeapError(
                f"no moment between --from {max(first, 0):.2f}s and --to {last:.2f}s: there "
                f"are moments from {min(times[0] for times in self.times):.2f}s to "
                f"{self.seconds:.2f}s")
        there = end if options.peak else 0.0
        levels = self.levels(end, there)
        if start is not None:
            levels = difference(levels, self.levels(start, there))
        return Part(levels, start, end, options.peak, self.facts(start, end, options.peak))

    def facts(self, start, end, is_peak):
        """Of the first process, and how many there are."""
        first, count = self.histories[0].process, len(self.histories)
        more = f" and {count - 1} more" if count > 1 else ""
        return {**{name: first[name] for name in about.NAMES if name in first},
                "pid": f"{first['pid']}{more}", "seconds": self.seconds,
                "peak_bytes": self.peak()[1], "moment": moment_text(count, start, end, is_peak)}


# For machines.

def process_record(history):
    return {**history.process, "file": str(history.path), "ended": history.is_ended,
            "times": history.times, "bytes": history.totals}


def record(program, part):
    total, (seconds, nbytes) = part.total(), program.peak()
    most_first = sorted(part.levels.items(), key=lambda item: -item[1].nbytes)
    return {"from": part.start, "to": part.end, "peak": part.is_peak,
            "seconds": program.seconds,
            "bytes": round(total.nbytes), "blocks": round(total.blocks),
            "highest": {"seconds": seconds, "bytes": nbytes},
            "processes": [process_record(history) for history in program.histories],
            **flame.record(flame.of_levels(most_first))}


# The command.

def form_of(options):
    if options.format:
        return options.format
    suffixes = {**flame.SUFFIXES, ".json": "json"}
    return suffixes.get(Path(options.output or "").suffix, "table")


def write_picture(part, form, options):
    stacks, less = part.grown()
    if form == "collapsed" and options.output is None:
        sys.stdout.write("".join(line + "\n" for line in flame.collapsed_lines(stacks)))
    else:
        output = options.output or str(Path(options.files[0]).with_suffix(ENDINGS.get(form)))
        flame.write(stacks, output, form)
        print(f"{output}: {round(stacks.total):,} bytes in {len(stacks.counts):,} stacks",
              file=sys.stderr)
    if less.nbytes < 0:
        print(f"pymem: what became less, {-round(less.nbytes):,} bytes, is not shown there; "
              "--format table and json have it", file=sys.stderr)


def write_text(text, output):
    if output:
        Path(output).write_text(text + "\n", encoding="utf-8")
    else:
        print(text)


def command(options):
    if options.peak and options.end is not None:
        raise HeapError("report takes --peak or --to, not both")
    if hasattr(sys.stdout, "reconfigure"):      # names that its encoding does not have
        sys.stdout.reconfigure(errors="backslashreplace")
    histories = [read(path) for path in dict.fromkeys(options.files)]
    for history in histories:
        if history.cut is not None:
            print(f"pymem: {history.path}: the record at byte {history.cut:,} is cut off or "
                  f"damaged; what comes before it is read, {history.times[-1]:.2f} s",
                  file=sys.stderr)
    program = Program(histories)
    part, form = program.part(options), form_of(options)
    if form in TEXTS:
        reporttext.write(TEXTS[form](program, part, options), options.output)
    elif form == "json":
        write_text(json.dumps(record(program, part), indent=1), options.output)
    else:
        write_picture(part, form, options)
    return 0
