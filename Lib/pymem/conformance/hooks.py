"""Allocators that are put on a domain: who is asked, with what, in which order."""

import sys

from pymem.conformance.promises import C_API, RAW, expect, promise

SSIZE_MAX = sys.maxsize
CUSTOM = C_API + "#customize-memory-allocators"


def expect_calls(api, expected, what):
    got = api.take_calls()
    expect(got == expected, "%s: the hook saw %s, not %s" % (what, got, expected))


@promise("Each call reaches the hook once, with its context and arguments; its result is "
         "what the caller gets.", CUSTOM)
def hook_sees_calls_and_arguments(api, domain):
    api.hook(domain)
    block = api.malloc(domain, 42)
    zeroes = api.calloc(domain, 3, 5)
    moved = api.realloc(domain, block, 43)
    api.free(domain, moved)
    api.free(domain, zeroes)
    api.unhook(domain)
    expect_calls(api, [
        (domain, "malloc", None, 42, block), (domain, "calloc", None, 15, zeroes),
        (domain, "realloc", block, 43, moved), (domain, "free", moved, 0, None),
        (domain, "free", zeroes, 0, None)], "five calls")
    api.free(domain, api.malloc(domain, 1))
    expect_calls(api, [], "after it was taken off")


@promise("PyMem_GetAllocator gives what PyMem_SetAllocator was given; other domains "
         "keep theirs.", CUSTOM)
def what_is_set_can_be_got(api, domain):
    others = [other for other in range(3) if other != domain]
    before = [api.get_allocator(other) for other in range(3)]
    api.hook(domain)
    is_set = api.hook_is_set(domain)
    during = [api.get_allocator(other) for other in others]
    api.unhook(domain)
    expect(is_set, "PyMem_GetAllocator gives another allocator")
    expect(during == [before[other] for other in others], "another domain's changed, too")
    expect(api.get_allocator(domain) == before[domain], "the one before did not come back")


@promise("Of two hooks the one that was put on last is asked first, and asks the other.",
         CUSTOM)
def last_hook_is_asked_first(api, domain):
    outer = domain + 3
    api.hook(domain)
    api.hook(outer)
    api.free(domain, api.realloc(domain, api.malloc(domain, 600), 700))
    api.unhook(outer)
    api.free(domain, api.malloc(domain, 30))
    api.unhook(domain)
    got = [(who, what) for who, what, _, _, _ in api.take_calls()]
    expected = [(who, what) for what in ("malloc", "realloc", "free")
                for who in (outer, domain)] + [(domain, "malloc"), (domain, "free")]
    expect(got == expected, "the hooks were asked in the order %s" % got)


@promise("Where a hook gives NULL the caller gets NULL, and nothing else is lost.", CUSTOM)
def hook_that_fails_the_kth_call(api, domain):
    for k in range(1, 6):
        api.hook(domain, k)
        blocks = [api.malloc(domain, 24) for _ in range(5)]
        api.unhook(domain)
        expect([block is None for block in blocks] == [i == k for i in range(1, 6)],
               "call %d of 5 failed in the hook, and not in the caller" % k)
        for block in blocks:
            api.free(domain, block)


@promise("A request over PY_SSIZE_T_MAX bytes asks no allocator.",
         C_API + "#customize-memory-allocators; PyMem_RawMalloc and its kind in "
         "Objects/obmalloc.c (limited to PY_SSIZE_T_MAX: bpo-2620)")
def too_much_asks_no_allocator(api, domain):
    api.hook(domain)
    for size in (SSIZE_MAX + 1, 2 * SSIZE_MAX + 1):
        blocks = [api.malloc(domain, size), api.calloc(domain, size, 1),
                  api.calloc(domain, 1, size), api.calloc(domain, SSIZE_MAX // 8 + 1, 8),
                  api.realloc(domain, None, size)]
        expect(blocks == [None] * 5, "a request for %#x bytes is not NULL" % size)
    api.unhook(domain)
    expect_calls(api, [], "requests over PY_SSIZE_T_MAX")


@promise("A request of PY_SSIZE_T_MAX bytes asks the allocator.", CUSTOM)
def the_largest_request_is_asked_for(api, domain):
    api.hook(domain, 1, True)
    blocks = [api.malloc(domain, SSIZE_MAX), api.calloc(domain, SSIZE_MAX, 1),
              api.calloc(domain, 1, SSIZE_MAX), api.realloc(domain, None, SSIZE_MAX)]
    api.unhook(domain)
    expect(blocks == [None] * 4, "the hook gave NULL, and the caller got a block")
    sizes = [call[3] for call in api.take_calls()]
    expect(sizes == [SSIZE_MAX] * 4, "the hook was asked for %s" % sizes)


@promise("A realloc that a hook fails leaves the block as it was.", CUSTOM)
def realloc_that_a_hook_fails_keeps_block(api, domain):
    block = api.malloc(domain, 20)
    api.write(block, b"still here")
    api.hook(domain, 1, True)
    moved = api.realloc(domain, block, 5000)
    api.unhook(domain)
    expect(moved is None, "the hook gave NULL, and realloc did not")
    expect(api.read(block, 10) == b"still here", "the block changed")
    api.free(domain, block)


@promise("pymalloc keeps requests of 1 to 512 bytes to itself; 0 bytes and larger ones reach "
         "the hook of the raw domain.", C_API + "#the-pymalloc-allocator", domains=(1, 2), interpreter=True)
def what_reaches_the_raw_domain(api, domain):
    if domain == RAW:
        return
    api.need_pymalloc()
    api.hook(RAW)
    for size in (1, 16, 512):
        api.free(domain, api.malloc(domain, size))
        api.free(domain, api.calloc(domain, 1, size))
    expect_calls(api, [], "requests of 1 to 512 bytes")
    zero = api.malloc(domain, 0)
    larger = api.realloc(domain, api.malloc(domain, 513), 2000)
    cleared = api.calloc(domain, 30, 30)
    moved = api.realloc(domain, api.malloc(domain, 500), 600)
    for block in (zero, larger, cleared, moved):
        api.free(domain, block)
    api.unhook(RAW)
    got = [(what, size) for _, what, _, size, _ in api.take_calls()]
    expected = [("malloc", 0), ("malloc", 513), ("realloc", 2000), ("calloc", 900),
                ("malloc", 600)] + [("free", 0)] * 4
    expect(got == expected, "the hook of the raw domain saw %s, not %s" % (got, expected))
