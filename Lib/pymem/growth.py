"""What grows: what each site holds over time, and whether it goes on to grow.

    timeline = Timeline(sample_bytes)
    timeline.add(seconds, changed)          as pymem.attached.Moments gives them
    Survey(timeline).findings               [Finding], the fastest growth first

A site is a stack down to the innermost line of the person's own code: what that line asks
libraries for counts as its own.  A site grows where all of this holds:

- The least that it holds in the second half of the time is more than the most in the first
  quarter, which is the warm-up: imports and caches that fill at the start are over by then.
- Its growth after the warm-up is more than CERTAIN standard errors.
- It still grows in the last third: more than STILL standard errors, in both halves of that
  third, and not much SLOWER than before, nor in the second half SLOWEST.  A cache that is full
  has stopped; on a busy machine a program may be slow for a while.

The error of a growth is the larger one of two.  One is the sampling error of the blocks that
were added (Level.variance).  The other comes from the windows themselves, as of a random walk:
the variance of a step grows with the length of its window, and the variance of the sum is
that of all steps.  Memory that comes and goes has large steps of both signs, and so has a
sawtooth of garbage: once it fell, its growth is about one standard error or less.
"""

import math
import os
import sysconfig
from functools import cached_property, lru_cache
from typing import NamedTuple

from pymem.flame import frames_of, lines_of_program

WINDOWS = 48            # looked at, at the most; of more moments those nearest to such a grid
FEWEST = 12             # windows that can say anything
CERTAIN, STILL = 3.0, 2.0
SAMPLES = 30            # in which a steady growth is found nine times in ten
SLOWER, SLOWEST = 0.25, 0.1     # than these parts of the rate after the warm-up


@lru_cache(maxsize=None)
def chance(size, sample_bytes):
    """Of a block to be in the sample, whose trace says that it stands for size bytes.  The
    tracer writes s / p for a block of s bytes, with p = 1 - exp(-s / sample_bytes)."""
    if not sample_bytes or size <= 0:
        return 1.0
    ratio = max(size / sample_bytes, 1.0)
    x = ratio                           # s / sample_bytes, by Newton's method from above
    for _ in range(30):
        slope = 1 - ratio * math.exp(-x)
        if slope < 1e-9:
            break
        x = max(x - (x + ratio * math.expm1(-x)) / slope, 0.0)
    return min(max(-math.expm1(-x), 1 / size), 1.0)


class Level(NamedTuple):
    """What is held at a moment: estimates, and the variance of that of the bytes."""
    nbytes: float = 0
    blocks: float = 0
    variance: float = 0.0

    def __add__(self, other):
        return Level(self[0] + other[0], self[1] + other[1], self[2] + other[2])

    @classmethod
    def of(cls, blocks, sample_bytes):
        level = cls()
        for (_, size), count in blocks.items():
            p = chance(size, sample_bytes)
            level += cls(count * size, count / p, count * size * size * (1 - p))
        return level


class Growth(NamedTuple):
    """Between two moments; error is a standard error of its bytes."""
    nbytes: float
    seconds: float
    error: float

    @property
    def rate(self):
        return self.nbytes / self.seconds

    def exceeds(self, errors):
        return self.nbytes > 0 and self.nbytes >= errors * self.error

    @property
    def confidence(self):
        """That there is a growth at all."""
        if self.error <= 0:
            return 1.0 if self.nbytes > 0 else 0.0
        return 0.5 + 0.5 * math.erf(self.nbytes / self.error / math.sqrt(2))


def growth(times, levels, first, last):
    grown = levels[last].nbytes - levels[first].nbytes
    seconds, spread = times[last] - times[first], 0.0
    for i in range(first, last):
        length = times[i + 1] - times[i]
        step = levels[i + 1].nbytes - levels[i].nbytes
        spread += (step - grown * length / seconds) ** 2 / length
    spread *= seconds / (last - first - 1)
    sampling = abs(levels[last].variance - levels[first].variance)
    return Growth(grown, seconds, math.sqrt(max(spread, sampling)))


def growth_that_goes_on(times, levels):
    """The Growth after the warm-up; None: it does not grow, or no longer."""
    n = len(levels) - 1
    values = [level.nbytes for level in levels]
    if n < FEWEST or min(values[n // 2:]) <= max(values[:n // 4 + 1]):
        return None
    third, sixth = n - n // 3, n - n // 6
    whole, late, last = (growth(times, levels, first, n) for first in (n // 4, third, sixth))
    goes_on = (whole.exceeds(CERTAIN) and late.exceeds(STILL)
               and late.rate >= SLOWER * whole.rate and last.rate >= SLOWEST * whole.rate
               and values[sixth] > values[third])
    return whole if goes_on else None


# Sites.

LIBRARIES = tuple({os.path.realpath(path) + os.sep for path in (
    sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"))})


def is_library(file):
    """No person looks for a leak there first."""
    return (file.startswith(("<frozen ", *LIBRARIES)) or "/lib/python3" in file
            or "/site-packages/" in file or "/dist-packages/" in file)


@lru_cache(maxsize=1 << 16)
def site_of(stack):
    """Its lines down to the innermost one of own code; all of them where there is none."""
    own = [i for i, (file, *_) in enumerate(stack) if not is_library(file)]
    return stack[:own[-1] + 1] if own else stack


class Finding(NamedTuple):
    frames: list            # of the site, the outermost first
    growth: Growth
    levels: list            # at each moment of the grid
    stacks: list            # numbers of its stacks


class Timeline:
    """The levels of stacks; each is kept for the moments at which it changed."""

    def __init__(self, sample_bytes):
        self.sample_bytes, self.times = sample_bytes, []
        self.stacks, self.changes = {}, []      # {stack: its number}

    def add(self, seconds, changed):
        """changed: {(stack, its whole depth): {(domain, size): blocks}}"""
        moment = len(self.times)
        self.times.append(seconds)
        for (stack, *_), blocks in changed.items():
            number = self.stacks.get(stack)
            if number is None:
                number = self.stacks[stack] = len(self.changes)
                self.changes.append([])
            self.changes[number].append((moment, Level.of(blocks, self.sample_bytes)))

    def grid(self):
        """Numbers of at most WINDOWS + 1 moments, about evenly spaced."""
        count = len(self.times)
        # The last look may come right after the one before it.
        moments = list(range(count))
        if count > 2 and self.times[-1] - self.times[-2] < (self.times[-2]
                                                            - self.times[-3]) / 2:
            del moments[-2]
        if len(moments) <= WINDOWS + 1:
            return moments
        start, end = self.times[0], self.times[-1]
        return sorted({min(moments, key=lambda moment: abs(
            self.times[moment] - start - i * (end - start) / WINDOWS))
            for i in range(WINDOWS + 1)})

    def levels(self, number, moments):
        changes, at, level, found = self.changes[number], 0, Level(), []
        for moment in moments:
            while at < len(changes) and changes[at][0] <= moment:
                level, at = changes[at][1], at + 1
            found.append(level)
        return found


def total(rows):
    """Of several lists of levels."""
    return [sum(column, Level()) for column in zip(*rows)]


class Survey:
    """A Timeline on its grid."""

    def __init__(self, timeline):
        moments = timeline.grid()
        self.sample_bytes, self.keys = timeline.sample_bytes, list(timeline.stacks)
        self.times = [timeline.times[moment] for moment in moments]
        self.stacks = {}                # {number: (lines from the outermost on, levels)}
        for number, stack in enumerate(self.keys):
            lines = lines_of_program(stack)
            if lines:
                self.stacks[number] = lines, timeline.levels(number, moments)

    @property
    def windows(self):
        return max(len(self.times) - 1, 0)

    @property
    def seconds(self):
        return self.times[-1] - self.times[0]

    @cached_property
    def total(self):
        return total([levels for _, levels in self.stacks.values()]) \
            or [Level()] * len(self.times)

    def take_grouped(self, key, left):
        """Findings of the groups of stacks that grow together; left: the stacks that are in
        none yet.  key: from lines to what is common to a group; (): to nothing."""
        groups = {}
        for number in left:
            groups.setdefault(key(self.stacks[number][0]), []).append(number)
        groups.pop((), None)
        for lines, members in groups.items():
            levels = total([self.stacks[number][1] for number in members])
            grows = growth_that_goes_on(self.times, levels)
            if grows:
                left.difference_update(members)
                yield Finding(list(frames_of(lines)), grows, levels, members)

    @cached_property
    def findings(self):
        """Of sites; of lines that are in many stacks; and of functions whose growth is in
        many lines, the innermost ones first."""
        left = set(self.stacks)
        found = list(self.take_grouped(site_of, left))
        found += self.take_grouped(lambda lines: site_of(lines)[-1:], left)
        deepest = max((len(self.stacks[number][0]) for number in left), default=0)
        for depth in range(deepest, 0, -1):
            found += self.take_grouped(
                lambda lines: lines[:depth] if len(lines) >= depth else (), left)
        return sorted(found, key=lambda finding: -finding.growth.rate)

    @property
    def least_rate(self):
        """Bytes a second; what grows by less may be missed."""
        return SAMPLES * self.sample_bytes / max(self.seconds, 1e-9)

    @property
    def rate(self):
        """Bytes a second of all findings."""
        return sum(finding.growth.rate for finding in self.findings)
