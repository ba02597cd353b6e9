"""What an installed arena allocator sees, on ours and on CPython's own."""

import pytest

FILL = """
def fill(n):
    return [api.malloc(2, 512) for _ in range(n)]
def drop(blocks):
    for p in blocks:
        api.free(2, p)
"""


def run(child, code):
    result = child.run(FILL + code)
    assert result.returncode == 0, result.stderr
    return result.stdout.split()


@pytest.mark.parametrize("offset", [0, 8, 4096, 16384, 20000])
def test_arenas_are_asked_for_and_given_back(child, offset):
    asked, back, wrong = map(int, run(child, f"""
api.arena_hook({offset})
blocks = fill(20000)
for p in blocks:
    api.write(p, b'x' * 512)
drop(blocks)
del blocks, p       # in CPython their addresses are blocks in the arenas, too
print(*api.arenas())
"""))
    assert wrong == 0
    assert 9 <= asked <= 13
    assert asked - 3 <= back <= asked + 2   # the interpreter's own may go too


def test_unaligned_arenas_hold_blocks_of_their_own(child):
    assert run(child, """
api.arena_hook(12345)
blocks = fill(10000)
assert len(set(blocks)) == 10000
assert all(p % 16 == 0 for p in blocks)
for i, p in enumerate(blocks):
    api.write(p, i.to_bytes(4, 'big') * 128)
assert all(api.read(p, 512) == i.to_bytes(4, 'big') * 128
           for i, p in enumerate(blocks))
drop(blocks)
print('ok')
""") == ["ok"]


@pytest.mark.parametrize("k", range(1, 6))
def test_kth_arena_fails(child, k):
    """The block comes from the raw domain then, and nothing is lost."""
    asked, raw_blocks = map(int, run(child, f"""
api.arena_hook(0, {k})
api.hook(0)
blocks = fill(16000)
calls = [call for call in api.take_calls() if call[1] == 'malloc']
assert None not in blocks
for p in blocks:
    api.write(p, b'y' * 512)
asked = api.arenas()[0]
drop(blocks)
print(asked, len(calls))
"""))
    assert asked >= 8
    # The interpreter's own request may be the one that meets the failure.
    assert raw_blocks == 1 or (raw_blocks == 0
                               and child.implementation != "ours")


def test_no_arena_at_all(child):
    assert run(child, """
api.arena_hook(0, 1, True)
api.hook(0)
blocks = fill(8000)
assert None not in blocks
passed_on = [call for call in api.take_calls() if call[1] == 'malloc']
assert len(passed_on) > 4000
assert {call[3] for call in passed_on} == {512}
drop(blocks)
print('ok')
""") == ["ok"]
