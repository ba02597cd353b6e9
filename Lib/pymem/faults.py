"""Memory that runs out on purpose, to test what code does then.

    outcome = faults.call(function, "mem", fail_from=3)
    for outcome in faults.sweep(function, "mem"):
        assert outcome.exception is None or type(outcome.exception) is MemoryError
    with faults.Failing("mem", fail_from=3) as block:
        function()                      # a MemoryError ends the block, and goes no further
    assert block.hit

call() runs function() while the third request of the domain, and each one after it,
fails.  sweep() does it for the first request, the second, and so on, until one runs
without a failure.

    domain        "raw", "mem" or "object"
    fail_from     number of the first request that fails, from 1; 0: none by number
    fail_count    how many fail from there on; 0: all
    fail_share    each request fails with this probability, 0 to 1
    seed          the same seed, the same requests
    quota         requests that would have more bytes than this in use fail

An Outcome has the result and the exception of the function; counts of requests,
failed, frees, blocks, bytes, peak_bytes; and blocks, those that were allocated and
not freed: (address, size, traceback), the last None unless tracemalloc is tracing.
What the function returns is among them.

start() and stop() do the same for a stretch of a program; count() and blocks() look.
While requests of a domain fail Python itself fails, so this is for quotas and counts.

Failing is for one block of code at a time: see there.  In pytest the fixture failing_memory
makes such blocks.
"""

from typing import Any, NamedTuple, Optional

from _pymemfaults import _enter, _leave, blocks, count, start, stop
from _pymemfaults import call as _call

__all__ = ["Failing", "Outcome", "blocks", "call", "count", "start", "stop", "sweep"]


class Outcome(NamedTuple):
    result: Any
    exception: Optional[BaseException]
    counts: dict
    blocks: list


def call(function, domain, **faults):
    """Run function() with the faults; its Outcome."""
    return Outcome(*_call(function, domain, **faults))


def sweep(function, domain, fail_count=1):
    """The Outcome of function() with the first request failing, the second, ...,
    fail_count of them from there on; the last is one without a failure."""
    fail_from, outcome = 0, None
    while outcome is None or outcome.counts["failed"] > 0:
        fail_from += 1
        outcome = call(function, domain, fail_from=fail_from, fail_count=fail_count)
        yield outcome


class Failing:
    """A block of code in which requests fail, of all threads.

    A MemoryError that leaves the block goes no further where a request failed in it; each
    other exception does.  Afterwards counts are those of an Outcome, and exception is what
    left the block.
    """

    __exit__ = staticmethod(_leave)

    def __init__(self, domain, **faults):
        self.domain, self.faults = domain, faults
        self.counts = self.exception = None

    def __enter__(self):
        _enter(self, self.domain, **self.faults)
        return self

    @property
    def hit(self):
        """Whether a request of the block failed."""
        return self.counts is not None and self.counts["failed"] > 0
