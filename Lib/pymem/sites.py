"""What each site of this program holds while it runs, look by look: pymem watch shows it.

The tracer samples, pymem.attached.Moments tells which stacks changed, and pymem.growth which
lines are a site.  Owns the sums of the sites; and the tracer, unless that was on before.
"""

from typing import NamedTuple

from pymem import running, signed_size, size_text
from pymem.attached import Moments
from pymem.flame import frames_of, lines_of_program
from pymem.growth import Level, site_of
from pymem.leaksreport import place

STARTING = 2            # looks, after which growth counts: imports are over
LEAST = 0.001           # of all that is held: what is less, and was, is no line on the screen


class Site(NamedTuple):
    lines: tuple                # the outermost first
    nbytes: float               # that it holds
    last: float                 # of them since the look before,
    grown: float                # and since the start

    @property
    def frames(self):
        """The innermost first."""
        return frames_of(self.lines)[::-1]


class Sites:
    """From start() to stop().  HeapError: why there are none."""

    def __init__(self, samples, frames):
        self.samples, self.nframes = samples, frames
        self.levels, self.held, self.nlooks = {}, {}, 0     # {stack: bytes}, {site: bytes}

    def start(self):
        self.was_tracing = running.tracer().is_tracing()
        self.tracer = running.start_tracer(self.nframes, self.samples)
        self.moments = Moments(self.tracer, 0, False)

    def stop(self):
        if not self.was_tracing:
            self.tracer.stop()

    def look(self):
        """First those that grew most since the start; without what is very little."""
        before = dict(self.held)
        sample_bytes = self.tracer.get_sample_bytes()
        for stack, blocks in self.moments.look()[1].items():
            site = site_of(tuple(lines_of_program(stack[0])))
            if site:
                level = Level.of(blocks, sample_bytes).nbytes
                self.held[site] = self.held.get(site, 0) + level - self.levels.pop(stack, 0)
                if blocks:
                    self.levels[stack] = level
        self.nlooks += 1
        if self.nlooks <= STARTING:
            self.first = dict(self.held)
        sites = [Site(site, nbytes, nbytes - before.get(site, 0),
                      nbytes - self.first.get(site, 0))
                 for site, nbytes in self.held.items()]
        least = LEAST * sum(self.held.values())
        found = [site for site in sites if max(map(abs, site[1:])) > least]
        return sorted(found, key=lambda site: (-site.grown, -site.nbytes, site.lines))


# As text.

CALLER = 40             # columns, at the most
HEADINGS = "site holds", "last look", "since start", "where"


def where(site, room):
    """Its line and function; and of its callers as many as there is room for."""
    innermost, *callers = site.frames
    text = place(innermost, min(max(room // 3, CALLER), room))
    for frame in callers:
        longer = f"{text} < {place(frame, CALLER)}"
        if len(longer) > room:
            break
        text = longer
    return text


def site_rows(sites, width):
    """The heading, and a row a site; none is wider."""
    sizes = [HEADINGS[:3]] + [(size_text(site.nbytes), signed_size(site.last),
                               signed_size(site.grown)) for site in sites]
    widths = [max(map(len, column)) for column in zip(*sizes)]
    room = width - sum(widths) - 2 * len(widths)
    places = [HEADINGS[3]] + [where(site, room) for site in sites]
    for row, text in zip(sizes, places):
        yield "  ".join(size.rjust(width) for size, width in zip(row, widths)) + f"  {text}"
