"""The arena allocator of pymalloc: PyObject_SetArenaAllocator()."""

from pymem.conformance.contract import ALIGNMENT
from pymem.conformance.promises import C_API, OBJ, RAW, expect, promise

ARENAS = C_API + "#customize-pymalloc-arena-allocator"
TOGETHER = dict(domains=(), interpreter=True)
OFFSETS = [0, 8, 4096, 16384, 20000]


def fill(api, count):
    return [api.malloc(OBJ, 512) for _ in range(count)]


def drop(api, blocks):
    for block in blocks:
        api.free(OBJ, block)


def arena_size(api):
    return 1 << (20 if api.version >= (3, 10) and ALIGNMENT == 16 else 18)


@promise("PyObject_GetArenaAllocator gives what PyObject_SetArenaAllocator was given.",
         ARENAS, **TOGETHER)
def what_is_set_can_be_got(api):
    api.need_pymalloc()
    api.arena_hook(0)
    expect(api.arena_hook_is_set(), "another arena allocator is got than was set")


@promise("pymalloc asks the arena allocator for arenas of one size: 1 MiB since 3.10, "
         "256 KiB before and on 32 bits. It gives empty ones back.",
         C_API + "#the-pymalloc-allocator", **TOGETHER)
def arenas_are_asked_for_and_given_back(api):
    for offset in OFFSETS:
        arenas_at_an_offset(api, offset)


def arenas_at_an_offset(api, offset):
    api.need_pymalloc()
    size, before = arena_size(api), api.arenas()
    api.arena_hook(offset)
    blocks = fill(api, 20000)
    for block in blocks:
        api.write(block, b"x" * 512)
    drop(api, blocks)
    del blocks, block   # in CPython their addresses are blocks in the arenas, too
    asked, back, wrong = (now - then for now, then in zip(api.arenas(), before))
    needed = 20000 * 512 // size
    expect(wrong == (0 if size == 1 << 20 else asked + back),
           "arenas were asked for that have not %d bytes" % size)
    expect(needed <= asked <= needed * 1.4,
           "20,000 blocks of 512 bytes asked for %d arenas of %d bytes" % (asked, size))
    expect(asked - 3 - needed // 10 <= back <= asked + 2,
           "%d arenas were asked for, %d given back" % (asked, back))


@promise("An arena may begin anywhere. Blocks in it are aligned and do not overlap.",
         ARENAS, **TOGETHER)
def unaligned_arenas_hold_blocks_of_their_own(api):
    api.need_pymalloc()
    api.arena_hook(12345)
    blocks = fill(api, 10000)
    expect(len(set(blocks)) == 10000, "a block was given twice")
    expect(all(block % ALIGNMENT == 0 for block in blocks),
           "a block is not aligned by %d" % ALIGNMENT)
    for i, block in enumerate(blocks):
        api.write(block, i.to_bytes(4, "big") * 128)
    expect(all(api.read(block, 512) == i.to_bytes(4, "big") * 128
               for i, block in enumerate(blocks)), "a block has the contents of another")
    drop(api, blocks)


@promise("Where an arena can't be had the block comes from the raw domain, and nothing is "
         "lost.", C_API + "#the-pymalloc-allocator", **TOGETHER)
def kth_arena_fails(api):
    for k in range(1, 6):
        fail_the_kth_arena(api, k)


def fail_the_kth_arena(api, k):
    """How many blocks came from the raw domain: one, or none where the interpreter's own
    request met the failure."""
    api.need_pymalloc()
    api.arena_hook(0, k)
    api.hook(RAW)
    blocks = fill(api, 16000)
    calls = [call for call in api.take_calls() if call[1] == "malloc"]
    api.unhook(RAW)
    expect(None not in blocks, "arena %d could not be had, and a block is NULL" % k)
    for block in blocks:
        api.write(block, b"y" * 512)
    drop(api, blocks)
    api.take_calls()
    expect(len(calls) <= 1, "one arena could not be had, and %d blocks came from the raw "
           "domain" % len(calls))
    return len(calls)


@promise("pymalloc works without any further arena.", C_API + "#the-pymalloc-allocator",
         **TOGETHER)
def no_arena_at_all(api):
    api.need_pymalloc()
    api.arena_hook(0, 1, True)
    api.hook(RAW)
    blocks = fill(api, 8000)
    passed_on = [call for call in api.take_calls() if call[1] == "malloc"]
    api.unhook(RAW)
    expect(None not in blocks, "a block is NULL")
    expect(len(passed_on) > 4000, "of 8,000 blocks only %d came from the raw domain"
           % len(passed_on))
    expect({call[3] for call in passed_on} == {512}, "another size was asked for")
    drop(api, blocks)
