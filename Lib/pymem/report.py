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


class Moment(NamedTuple):
    """What a program held then."""
    levels: dict            # {lines: Level}
    seconds: float          # None: each process at its end
    text: str


def in_files_of(moment, earlier):
    """The earlier one, of another program, with the names that its files have now."""
    def files(levels):
        return {file for lines in levels for file, *_ in lines}
    moved = flame.moved_files(files(moment.levels), files(earlier.levels))
    levels = {}
    for lines, level in earlier.levels.items():
        lines = tuple((moved.get(file, file), *rest) for file, *rest in lines)
        levels[lines] = levels.get(lines, Level()) + level
    return earlier._replace(levels=levels)


class Part:
    """What is reported of a program: a moment, or what changed since an earlier one, which may
    be another program's."""

    def __init__(self, program, moment, earlier=None, other=None):
        self.program, self.moment, self.other = program, moment, other
        self.earlier = earlier = in_files_of(moment, earlier) if other else earlier
        self.is_change = earlier is not None
        self.levels = difference(moment.levels, earlier.levels) if earlier else moment.levels
        self.text = moment.text
        if earlier is not None and other is None:
            self.text = f"from {earlier.seconds:g} s to {moment.text.replace('at ', '', 1)}"

    def total(self):
        return sum(self.levels.values(), Level())

    def stacks(self):
        return stacks_of(self.program, self.moment)

    def stacks_before(self):
        return stacks_of(self.other or self.program, self.earlier) if self.is_change else None

    def grown(self):
        """Without what became less, and how many bytes those are."""
        stacks, before = self.stacks(), self.stacks_before()
        if before is None:
            return stacks, 0
        return flame.grown_functions(stacks, before, self.other is not None)


def stacks_of(program, moment):
    stacks = flame.Stacks({**program.facts(), "moment": moment.text})
    for lines, level in moment.levels.items():
        stacks.add(frames_of(lines), round(level.blocks), level.nbytes)
    return stacks


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

    def facts(self):
        """What pymem.about says: of the first process, and how many there are."""
        first, count = self.histories[0].process, len(self.histories)
        more = f" and {count - 1} more" if count > 1 else ""
        return {**{name: first[name] for name in about.NAMES if name in first},
                "pid": f"{first['pid']}{more}", "seconds": self.seconds,
                "peak_bytes": self.peak()[1]}

    def check_moments(self, first, last):
        if not any(first < seconds <= last for times in self.times for seconds in times):
            raise HeapError(
                f"no moment between --from {max(first, 0):.2f}s and --to {last:.2f}s: there "
                f"are moments from {min(times[0] for times in self.times):.2f}s to "
                f"{self.seconds:.2f}s")

    def at(self, end=None, is_peak=False):
        """The Moment."""
        text = "at the end" if len(self.histories) == 1 else "at the end of each process"
        if is_peak:
            end = self.peak()[0]
            text = f"at the peak, {end:.2f} s"
        elif end is not None:
            text = f"at {end:g} s"
        self.check_moments(-1.0, self.seconds if end is None else end)
        return Moment(self.levels(end, end if is_peak else 0.0), end, text)

    def part(self, options, other=None):
        """other: an earlier program, to compare with."""
        if options.start is not None:
            end = self.peak()[0] if options.peak else options.end
            self.check_moments(options.start, self.seconds if end is None else end)
        moment = self.at(options.end, options.peak)
        if other is not None:
            return Part(self, moment, other.at(options.end, options.peak), other)
        if options.start is None:
            return Part(self, moment)
        there = moment.seconds if options.peak else 0.0
        return Part(self, moment, Moment(self.levels(options.start, there), options.start,
                                         f"at {options.start:g} s"))


# For machines.

def process_record(history):
    return {**history.process, "file": str(history.path), "ended": history.is_ended,
            "times": history.times, "bytes": history.totals}


def record(program, part):
    total, (seconds, nbytes) = part.total(), program.peak()
    most_first = sorted(part.levels.items(), key=lambda item: -item[1].nbytes)
    compared = {"compared_with": [process_record(history) for history in part.other.histories]} \
        if part.other else {}
    return {"from": part.earlier.seconds if part.is_change else None,
            "to": part.moment.seconds, "peak": part.moment.text.startswith("at the peak"),
            "seconds": program.seconds,
            "bytes": round(total.nbytes), "blocks": round(total.blocks),
            "highest": {"seconds": seconds, "bytes": nbytes},
            "processes": [process_record(history) for history in program.histories],
            **compared, **flame.record(flame.of_levels(most_first))}


# The command.

def form_of(options):
    if options.format:
        return options.format
    suffixes = {**flame.SUFFIXES, ".json": "json"}
    return suffixes.get(Path(options.output or "").suffix, "table")


def write_picture(part, form, options):
    if form == "collapsed" and options.output is None:
        stacks, less = part.grown()
        sys.stdout.write("".join(line + "\n" for line in flame.collapsed_lines(stacks)))
        print(flame.less_text(less), end="", file=sys.stderr)
        return
    output = options.output or str(Path(options.files[0]).with_suffix(ENDINGS.get(form)))
    print(flame.write_compared(part.stacks(), part.stacks_before(), part.other is not None,
                               output, form), end="", file=sys.stderr)


def write_text(text, output):
    if output:
        Path(output).write_text(text + "\n", encoding="utf-8")
    else:
        print(text)


def program_of(paths):
    histories = [read(path) for path in dict.fromkeys(paths)]
    for history in histories:
        if history.cut is not None:
            print(f"pymem: {history.path}: the record at byte {history.cut:,} is cut off or "
                  f"damaged; what comes before it is read, {history.times[-1]:.2f} s",
                  file=sys.stderr)
    return Program(histories)


def command(options):
    if options.compare and options.start is not None:
        raise HeapError("report takes --compare or --from, not both: --from compares with an "
                        "earlier moment of the same file")
    if options.peak and options.end is not None:
        raise HeapError("report takes --peak or --to, not both")
    if hasattr(sys.stdout, "reconfigure"):      # names that its encoding does not have
        sys.stdout.reconfigure(errors="backslashreplace")
    program = program_of(options.files)
    other = program_of(options.compare) if options.compare else None
    part, form = program.part(options, other), form_of(options)
    if form in TEXTS:
        reporttext.write(TEXTS[form](program, part, options), options.output)
    elif form == "json":
        write_text(json.dumps(record(program, part), indent=1), options.output)
    else:
        write_picture(part, form, options)
    return 0
