"""What an installed arena allocator sees, on ours and on CPython's own.

The promises themselves are those of python -m pymem conformance.
"""

import pytest


@pytest.mark.parametrize("offset", [0, 8, 4096, 16384, 20000])
def test_arenas_are_asked_for_and_given_back(child, offset):
    child.keeps("arenas.arenas_at_an_offset", offset)


def test_unaligned_arenas_hold_blocks_of_their_own(child):
    child.keeps("arenas.unaligned_arenas_hold_blocks_of_their_own")


@pytest.mark.parametrize("k", range(1, 6))
def test_kth_arena_fails(child, k):
    """The block comes from the raw domain then, and nothing is lost.  Of an interpreter's
    own allocator its own request may be the one that meets the failure."""
    result = child.run(f"""
from asked import Asked
from pymem.conformance import arenas
print(arenas.fail_the_kth_arena(Asked(api), {k}), api.arenas()[0])
""")
    assert result.returncode == 0, result.stderr
    raw_blocks, asked = map(int, result.stdout.split())
    assert asked >= 8
    assert raw_blocks == 1 or child.implementation != "ours"


def test_no_arena_at_all(child):
    child.keeps("arenas.no_arena_at_all")
