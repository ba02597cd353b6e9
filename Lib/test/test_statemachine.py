"""Random sequences of calls, on ours and on CPython's own side by side.

Hypothesis looks for a sequence after which they differ, and shortens it.
"""

import importlib

from conftest import ALIGNMENT, DOMAINS, RAW, SSIZE_MAX, first_difference, need_module

hypothesis = need_module("hypothesis", "python3-hypothesis")
from hypothesis import settings, strategies as st       # noqa: E402
from hypothesis.stateful import (Bundle, RuleBasedStateMachine, consumes,  # noqa: E402
                                 invariant, rule)

IMPLEMENTATIONS = [importlib.import_module(name)
                   for name in ("_testpymem", "_testcpython")]
sizes = st.one_of(st.integers(0, 1100), st.integers(0, 70_000),
                  st.sampled_from([0, 1, 15, 16, 17, 512, 513, 32_832, 32_833]))
domains = st.sampled_from(DOMAINS)
fills = st.integers(0, 255)


class Block:
    """One request, answered by each implementation."""

    def __init__(self, domain, size, addresses):
        self.domain, self.size, self.addresses = domain, size, addresses
        self.fill = None

    def write(self, fill):
        self.fill = fill
        for api, p in zip(IMPLEMENTATIONS, self.addresses):
            api.write(p, bytes([fill]) * self.size)

    def check(self, size):
        for api, p in zip(IMPLEMENTATIONS, self.addresses):
            assert p % ALIGNMENT == 0
            expected = bytes([self.fill]) * size
            assert first_difference(api.read(p, size), expected) is None


class SideBySide(RuleBasedStateMachine):
    blocks = Bundle("blocks")

    def __init__(self):
        super().__init__()
        self.live = set()
        # From the start: ours serves larger blocks without the raw domain while
        # nobody watches it (Doc/differences.rst).
        self.both("hook", RAW)
        self.both("take_calls")

    def both(self, function, *args):
        return [getattr(api, function)(*args) for api in IMPLEMENTATIONS]

    def new(self, domain, size, addresses):
        missing = [p is None for p in addresses]
        assert missing[0] == missing[1]
        if missing[0]:
            return None
        block = Block(domain, size, addresses)
        self.live.add(block)
        return block

    @rule(target=blocks, domain=domains, size=sizes, fill=fills)
    def malloc(self, domain, size, fill):
        block = self.new(domain, size, self.both("malloc", domain, size))
        if block:
            block.write(fill)
        return block

    @rule(target=blocks, domain=domains, nelem=st.integers(0, 40),
          elsize=st.integers(0, 40))
    def calloc(self, domain, nelem, elsize):
        block = self.new(domain, nelem * elsize,
                         self.both("calloc", domain, nelem, elsize))
        if block:
            block.fill = 0
            block.check(block.size)
        return block

    @rule(block=blocks, size=sizes, fill=fills)
    def realloc(self, block, size, fill):
        if block not in self.live:
            return
        moved = [api.realloc(block.domain, p, size)
                 for api, p in zip(IMPLEMENTATIONS, block.addresses)]
        missing = [p is None for p in moved]
        assert missing[0] == missing[1]
        if missing[0]:
            block.check(block.size)
            return
        block.addresses = moved
        block.check(min(size, block.size))
        block.size = size
        block.write(fill)

    @rule(block=consumes(blocks))
    def free(self, block):
        if block in self.live:
            self.live.remove(block)
            block.check(block.size)
            for api, p in zip(IMPLEMENTATIONS, block.addresses):
                api.free(block.domain, p)

    @rule(domain=domains, size=st.sampled_from([SSIZE_MAX + 1, 2 * SSIZE_MAX + 1]))
    def too_much(self, domain, size):
        assert self.both("malloc", domain, size) == [None, None]
        assert self.both("calloc", domain, size, 1) == [None, None]

    @rule(domain=domains, fail_at=st.integers(0, 6), fail_on=st.booleans())
    def hook(self, domain, fail_at, fail_on):
        self.both("hook", domain, fail_at, fail_on)

    @rule(domain=st.sampled_from(DOMAINS[1:]))
    def unhook(self, domain):
        self.both("unhook", domain)

    @invariant()
    def hooks_saw_the_same(self):
        """Which domain, which call, how many bytes, and whether it failed."""
        ours, cpythons = ([(domain, what, size, result is None)
                           for domain, what, _, size, result in api.take_calls()]
                          for api in IMPLEMENTATIONS)
        assert ours == cpythons

    def teardown(self):
        for domain in DOMAINS:
            self.both("unhook", domain)
        for block in self.live:
            block.check(block.size)
            for api, p in zip(IMPLEMENTATIONS, block.addresses):
                api.free(block.domain, p)
        self.both("take_calls")


TestSideBySide = SideBySide.TestCase
TestSideBySide.settings = settings(
    max_examples=150, stateful_step_count=60, deadline=None, database=None)
