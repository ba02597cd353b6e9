"""What each family promises, on our library and on CPython's own.

The promises themselves are those of python -m pymem conformance.
"""

import pytest

from conftest import ALIGNMENT, DOMAINS, OBJ, MEM, RAW
from pymem.conformance import contract, hooks, statistics

SIZES = [0, 1, 7, 8, 15, 16, 17, 100, 511, 512, 513, 5000, 100_000]

pytestmark = pytest.mark.parametrize("domain", DOMAINS)


def test_malloc_is_aligned_and_writable(api, domain):
    contract.malloc_is_aligned_and_writable(api, domain, SIZES)
    contract.calloc_and_realloc_are_aligned(api, domain, SIZES)


@pytest.mark.parametrize("size", SIZES)
def test_every_block_is_aligned(api, domain, size):
    """Also a block of 1 byte, which need not be."""
    p = api.malloc(domain, size)
    assert p % ALIGNMENT == 0
    api.free(domain, p)


def test_zero_bytes_are_distinct_blocks(api, domain):
    contract.zero_bytes_are_distinct_blocks(api, domain)


def test_calloc_zeroes_used_memory(api, domain):
    contract.calloc_zeroes_used_memory(api, domain, SIZES)


def test_realloc_keeps_what_fits(api, domain):
    contract.realloc_keeps_what_fits(api, domain, SIZES)


def test_realloc_none_is_malloc(api, domain):
    contract.realloc_null_is_malloc(api, domain)


def test_realloc_zero_keeps_block(api, domain):
    contract.realloc_zero_keeps_block(api, domain)


def test_free_none(api, domain):
    contract.free_null(api, domain)


def test_too_much_asks_no_allocator(api, domain):
    hooks.too_much_asks_no_allocator(api, domain)
    contract.too_much_fails(api, domain)
    contract.calloc_overflow_fails(api, domain)


def test_the_largest_request_is_asked_for(api, domain):
    hooks.the_largest_request_is_asked_for(api, domain)


def test_failed_realloc_keeps_block(api, domain):
    contract.failed_realloc_keeps_block(api, domain)
    hooks.realloc_that_a_hook_fails_keeps_block(api, domain)


def test_hook_sees_calls_and_arguments(api, domain):
    hooks.hook_sees_calls_and_arguments(api, domain)


def test_hook_that_fails_the_kth_call(api, domain):
    hooks.hook_that_fails_the_kth_call(api, domain)


def test_what_reaches_the_raw_domain(api, domain):
    hooks.what_reaches_the_raw_domain(api, domain)


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
    statistics.allocated_blocks(api, domain)


def test_get_allocator(api, domain):
    fields = api.get_allocator(domain)
    assert all(fields[1:])
    assert api.get_allocator(3 + domain) == (0, 0, 0, 0, 0)
    if domain == OBJ:
        assert fields == api.get_allocator(MEM)


def test_track_while_nothing_is_traced(api, domain):
    statistics.track_while_nothing_is_traced(api, domain)