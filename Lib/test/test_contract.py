"""What each family promises, on our library and on CPython's own."""

import pytest

from conftest import DOMAINS, OBJ, MEM, RAW, SSIZE_MAX, first_difference

SIZES = [0, 1, 7, 8, 15, 16, 17, 100, 511, 512, 513, 5000, 100_000]

pytestmark = pytest.mark.parametrize("domain", DOMAINS)


@pytest.mark.parametrize("size", SIZES)
def test_malloc_is_aligned_and_writable(api, domain, size):
    p = api.malloc(domain, size)
    assert p % 16 == 0
    api.write(p, b"x" * size)
    assert first_difference(api.read(p, size), b"x" * size) is None
    api.free(domain, p)


def test_zero_bytes_are_distinct_blocks(api, domain):
    blocks = [api.malloc(domain, 0), api.malloc(domain, 0),
              api.calloc(domain, 0, 0), api.calloc(domain, 0, 9)]
    assert None not in blocks
    assert len(set(blocks)) == 4
    for p in blocks:
        api.free(domain, p)


@pytest.mark.parametrize("size", SIZES)
def test_calloc_zeroes_used_memory(api, domain, size):
    p = api.malloc(domain, size)
    api.write(p, b"\xff" * size)
    api.free(domain, p)
    p = api.calloc(domain, 1, size)
    assert first_difference(api.read(p, size), bytes(size)) is None
    api.free(domain, p)


@pytest.mark.parametrize("old", SIZES)
@pytest.mark.parametrize("new", SIZES)
def test_realloc_keeps_what_fits(api, domain, old, new):
    data = bytes(i * 7 % 256 for i in range(old))
    p = api.malloc(domain, old)
    api.write(p, data)
    p = api.realloc(domain, p, new)
    kept = min(old, new)
    assert first_difference(api.read(p, kept), data[:kept]) is None
    api.free(domain, p)


def test_realloc_none_is_malloc(api, domain):
    for size in (0, 30):
        p = api.realloc(domain, None, size)
        assert p is not None
        api.free(domain, p)


def test_realloc_zero_keeps_block(api, domain):
    p = api.realloc(domain, api.malloc(domain, 40), 0)
    assert p is not None
    p = api.realloc(domain, p, 50)
    api.write(p, b"y" * 50)
    api.free(domain, p)


def test_free_none(api, domain):
    api.free(domain, None)


@pytest.mark.parametrize("size", [SSIZE_MAX + 1, 2 * SSIZE_MAX + 1])
def test_too_much_asks_no_allocator(api, domain, size):
    api.hook(domain)
    assert api.malloc(domain, size) is None
    assert api.calloc(domain, size, 1) is None
    assert api.calloc(domain, 1, size) is None
    assert api.calloc(domain, SSIZE_MAX // 8 + 1, 8) is None
    assert api.realloc(domain, None, size) is None
    assert api.take_calls() == []


def test_the_largest_request_is_asked_for(api, domain):
    api.hook(domain, 1, True)
    assert api.malloc(domain, SSIZE_MAX) is None
    assert api.calloc(domain, SSIZE_MAX, 1) is None
    assert api.calloc(domain, 1, SSIZE_MAX) is None
    assert api.realloc(domain, None, SSIZE_MAX) is None
    assert [call[3] for call in api.take_calls()] == [SSIZE_MAX] * 4


def test_failed_realloc_keeps_block(api, domain):
    p = api.malloc(domain, 20)
    api.write(p, b"still here")
    assert api.realloc(domain, p, SSIZE_MAX + 1) is None
    api.hook(domain, 1, True)
    assert api.realloc(domain, p, 5000) is None
    api.unhook(domain)
    assert api.read(p, 10) == b"still here"
    api.free(domain, p)


def test_hook_sees_calls_and_arguments(api, domain):
    api.hook(domain)
    p = api.malloc(domain, 42)
    q = api.calloc(domain, 3, 5)
    r = api.realloc(domain, p, 43)
    api.free(domain, r)
    api.free(domain, q)
    api.unhook(domain)
    assert api.take_calls() == [
        (domain, "malloc", None, 42, p), (domain, "calloc", None, 15, q),
        (domain, "realloc", p, 43, r), (domain, "free", r, 0, None),
        (domain, "free", q, 0, None)]
    api.free(domain, api.malloc(domain, 1))
    assert api.take_calls() == []


def test_hook_that_fails_the_kth_call(api, domain):
    for k in range(1, 6):
        api.hook(domain, k)
        blocks = [api.malloc(domain, 24) for _ in range(5)]
        api.unhook(domain)
        assert [p is None for p in blocks] == [i == k for i in range(1, 6)]
        for p in blocks:
            api.free(domain, p)


def test_what_reaches_the_raw_domain(api, domain):
    """Small requests stay in pymalloc; 0 bytes and over 512 pass through."""
    if domain == RAW:
        return
    api.hook(RAW)
    for size in (1, 16, 512):
        api.free(domain, api.malloc(domain, size))
        api.free(domain, api.calloc(domain, 1, size))
    assert api.take_calls() == []
    zero = api.malloc(domain, 0)
    large = api.malloc(domain, 513)
    larger = api.realloc(domain, large, 2000)
    cleared = api.calloc(domain, 30, 30)
    small = api.malloc(domain, 500)
    moved = api.realloc(domain, small, 600)
    blocks = [zero, larger, cleared, moved]
    for p in blocks:
        api.free(domain, p)
    assert [(what, size) for _, what, _, size, _ in api.take_calls()] == [
        ("malloc", 0), ("malloc", 513), ("realloc", 2000), ("calloc", 900),
        ("malloc", 600)] + [("free", 0)] * 4


def test_realloc_in_place(api, domain):
    """A pymalloc block stays while over three quarters of it are used."""
    if domain == RAW:
        return
    p = api.malloc(domain, 512)
    assert api.realloc(domain, p, 385) == p
    q = api.realloc(domain, p, 384)
    assert q != p
    assert api.realloc(domain, q, 370) == q
    api.free(domain, q)


def test_allocated_blocks(api, domain):
    """Blocks asked of pymalloc count, those it passed on included."""
    before = api.allocated_blocks()
    addresses = [2**40 + i for i in range(1000)]    # blocks of the host's own
    of_host = api.allocated_blocks() - before
    addresses[:500] = [api.malloc(domain, 1000) for _ in range(500)]
    addresses[500:] = [api.malloc(domain, 100) for _ in range(500)]
    grown = api.allocated_blocks() - before - of_host
    for p in addresses:
        api.free(domain, p)
    del addresses, p
    assert abs(grown - (0 if domain == RAW else 1000)) <= 10
    assert abs(api.allocated_blocks() - before) <= 10


def test_get_allocator(api, domain):
    fields = api.get_allocator(domain)
    assert all(fields[1:])
    assert api.get_allocator(3 + domain) == (0, 0, 0, 0, 0)
    if domain == OBJ:
        assert fields == api.get_allocator(MEM)


def test_track_while_nothing_is_traced(api, domain):
    assert api.track(domain, 0x1000, 10) == -2
    assert api.untrack(domain, 0x1000) == -2
