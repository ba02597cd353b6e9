"""What a test takes: its peak, what each run of it leaves, and the lines that did it.

    demand = Demand.of(marks)           what @pytest.mark.pymem(...) asks for
    tracing = Tracing()                 the tracer is on
    tracing.begin_call(from_bytes)      from here on the peak counts
    peak, held = tracing.end_call()
    sites_of(held, test_file)           the lines that had it
    level = tracing.level(test_file)    what lines of the test hold, after a garbage collection
    growth_of(before, level)            of two levels
    tracing.close()

A peak is what the call of a test, without its fixtures, allocates over what was there before.

What a test leaves is judged between runs of it.  After the first run all that is filled once
is full: imports, caches, compiled patterns.  What the lines of the test hold after the next run
and did not hold before is left by that run; what was only replaced is not.  A leak is left by
each run.

Owns the tracer while a test is measured; pytestplugin.py calls it and pytestreport.py prints.
"""

import gc
import os
import re
import sys
import tracemalloc as standard
from functools import lru_cache
from typing import NamedTuple, Optional

from pymem import quantities
from pymem.attached import stacks_of
from pymem.growth import is_library, site_of

FRAMES = 25             # innermost ones of a stack; pytest's own below a test are about forty
SITES = 5               # that are told of a test
RUNNERS = re.compile(r"_?pytest|pytest_\w+|pluggy|xdist|execnet|anyio")    # modules
PLUGIN = os.path.join(os.path.dirname(__file__), "pytest")     # begins the names of its files

TRACING_ALREADY = ("tracemalloc is on already (PYTHONTRACEMALLOC, -X tracemalloc or start()), and "
                   "there is one tracer at a time: tracemalloc.stop() first")
TRACES_ITSELF = "the test uses tracemalloc itself, and there is one tracer at a time"


class Unmeasurable(Exception):
    """Why, in a line."""


class BadMark(Exception):
    """What is wrong with it and what would be right, in a line."""


# What is asked for.

def size_of(value):
    """Bytes: of 24 MiB, 24M, 24 MB or a number."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if not isinstance(value, str):
        raise BadMark(f"{value!r} is no size, as \"24 MiB\", 512K or 4096")
    try:
        return quantities.size_of(value)
    except ValueError as error:
        raise BadMark(str(error)) from None


class Demand(NamedTuple):
    """Bytes that a test may have at its peak, and leave; None: as much as it likes."""
    limit: Optional[int] = None
    leaks: Optional[int] = None

    @classmethod
    def of(cls, marks):
        """Of marks, the innermost one first; None: nothing is asked for."""
        found = {}
        for mark in marks:
            wrong = [repr(value) for value in mark.args]
            wrong += [f"{name}=" for name in mark.kwargs if name not in cls._fields]
            if wrong or not mark.kwargs:
                raise BadMark("@pytest.mark.pymem takes limit=\"24 MiB\" or leaks=\"100 KiB\" or "
                              "both, and here is " + (", ".join(wrong) or "none of them"))
            for name, value in mark.kwargs.items():
                try:
                    found.setdefault(name, None if value is None else size_of(value))
                except BadMark as error:
                    raise BadMark(f"@pytest.mark.pymem({name}=...): {error}") from None
        demand = cls(**found)
        return demand if any(size is not None for size in demand) else None


# Stacks and sites.

def beginnings_of_runners():
    """Of the names of the files of pytest and its plugins."""
    files = [getattr(module, "__file__", None) for name, module in list(sys.modules.items())
             if RUNNERS.fullmatch(name)]
    return (PLUGIN, *(os.path.dirname(file) + os.sep if os.path.basename(file) == "__init__.py"
                      else file for file in files if file))


class Stacks:
    """Which part of a stack is a test's."""

    def __init__(self, test_file):
        runners = beginnings_of_runners()
        self.is_runner = lru_cache(maxsize=None)(lambda file: file.startswith(runners))
        self.is_own = lru_cache(maxsize=None)(
            lambda file: file == test_file or not is_library(file))

    def lines_of_test(self, stack):
        """(file, line, function) from the outermost on, behind what pytest does and from the
        person's own code on, each line once.  (): pytest's or a plugin's own."""
        begin = next((i for i, (file, *_) in enumerate(stack) if self.is_runner(file)), None)
        if begin is not None and stack[begin][0].startswith(PLUGIN):
            return ()                   # which never calls a test by itself
        lines = stack[:begin][::-1]
        own = next((i for i, (file, *_) in enumerate(lines) if self.is_own(file)), None)
        if own is None:
            return lines if begin is None else ()
        lines = lines[own:]             # a comprehension stands on its function's line
        return tuple(line for line, before in zip(lines, ((), *lines)) if line[:2] != before[:2])


class Site(NamedTuple):
    """A line of the person's own code, with what it asked libraries for."""
    nbytes: int
    blocks: int
    lines: tuple            # the stack with most, from the outermost on
    depth: int              # of these, those down to the line


def sites_of(held, test_file, with_others=True):
    """{line: Site}.  with_others: with pytest's, too, by their innermost lines."""
    sites, most, stacks = {}, {}, Stacks(test_file)
    for (stack, *_), counts in held.items():
        nbytes, blocks = sum(size * n for (_, size), n in counts.items()), sum(counts.values())
        lines = stacks.lines_of_test(stack)
        if not lines and not with_others:
            continue
        lines = lines or stack[:1]
        site = site_of(lines)           # of a test in a library, the whole
        key = site[-1]
        known = sites.get(key)
        if known is None or nbytes > most[key]:
            most[key], shown = nbytes, (lines, len(site))
        else:
            shown = known[2:]
        sites[key] = Site(nbytes + (known.nbytes if known else 0),
                          blocks + (known.blocks if known else 0), *shown)
    return sites


def growth_of(before, after):
    """{line: Site} of what lines hold more than before; of two levels."""
    grown = {}
    for line, site in after.items():
        nbytes, blocks = before[line][:2] if line in before else (0, 0)
        if site.nbytes > nbytes:
            grown[line] = site._replace(nbytes=site.nbytes - nbytes,
                                        blocks=site.blocks - blocks)
    return grown


def least_of(growth, other):
    """What is in both, as the smaller one has it."""
    return {line: min(site, other[line]) for line, site in growth.items() if line in other}


def total(sites):
    return sum(site.nbytes for site in sites.values())


def most_first(sites):
    return sorted(sites.values(), key=lambda site: -site.nbytes)


# The tracer.

def find_tracer():
    try:
        from pymem import tracemalloc
    except ImportError as error:
        raise Unmeasurable(str(error)) from None
    if standard.is_tracing() or tracemalloc.is_tracing():
        raise Unmeasurable(TRACING_ALREADY)
    return tracemalloc


class Tracing:
    """It is on, until close() or until the test starts or stops a tracer itself: then the
    test has it, and is not measured."""

    def __init__(self):
        self.tracer = find_tracer()
        self.starts = [(module, module.start, self.give_way_to(module.start))
                       for module in (standard, self.tracer)]
        self.is_open = True
        self.tracer.start(FRAMES)
        for module, _, start_for_test in self.starts:
            module.start = start_for_test

    def give_way_to(self, start):
        def start_for_test(*arguments, **named):
            self.close()
            start(*arguments, **named)
        return start_for_test

    def close(self):
        if self.is_open:
            self.is_open = False
            self.tracer.stop()
            for module, start, _ in self.starts:
                module.start = start

    def check(self):
        if not self.is_open or not self.tracer.is_tracing():
            self.close()
            raise Unmeasurable(TRACES_ITSELF)

    def begin_call(self, from_bytes):
        """from_bytes: of the peak, where it shall be known who took it."""
        self.before = self.tracer.get_traced_memory()[0]
        self.tracer.keep_peak(self.before + from_bytes)

    def end_call(self):
        """Bytes at the peak, and stacks_of() that moment, {} below from_bytes."""
        self.check()
        peak = self.tracer.get_traced_memory()[1] - self.before
        held = stacks_of(self.tracer._get_named_peak_traces())
        self.tracer.keep_peak(sys.maxsize)
        return max(peak, 0), held

    def level(self, test_file):
        """{line: Site} of what is alive."""
        self.check()
        gc.collect()
        return sites_of(stacks_of(self.tracer._get_named_traces()), test_file,
                        with_others=False)
