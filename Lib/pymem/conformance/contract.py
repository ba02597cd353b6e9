"""Each family of functions: what malloc, calloc, realloc and free owe."""

import random
import struct
import sys

from pymem.conformance.promises import (C_API, EACH, MEM, OBJ, RAW, expect, expect_bytes,
                                        promise)

SSIZE_MAX = sys.maxsize
ALIGNMENT = 2 * struct.calcsize("P")    # of pymalloc
SIZES = [0, 1, 7, 8, 15, 16, 17, 100, 511, 512, 513, 5000, 100000, 3000000]
FAMILIES = C_API + "#raw-memory-interface, #memory-interface, #object-allocators"


def pattern(size, seed=0):
    return bytes((i * 7 + seed) % 256 for i in range(min(size, 4096))) * (size // 4096 + 1)


def alignment_for(size):
    """Of what fits into so many bytes: no object of 8 bytes needs 16."""
    return 1 if size == 0 else min(ALIGNMENT, 1 << (size.bit_length() - 1))


def get(api, domain, size):
    block = api.malloc(domain, size)
    expect(block is not None, "malloc(%d) is NULL" % size)
    return block


@promise("Each block is aligned for whatever fits into it: by 16 bytes from 16 bytes on, "
         "on 32 bits by 8. All of it can be written.",
         "ISO C, 7.24.3 (memory management functions); ALIGNMENT of pymalloc, "
         + C_API + "#the-pymalloc-allocator")
def malloc_is_aligned_and_writable(api, domain, sizes=SIZES):
    for size in sizes:
        block = get(api, domain, size)
        expect(block % alignment_for(size) == 0,
               "malloc(%d) is %#x, no multiple of %d" % (size, block, alignment_for(size)))
        data = pattern(size)[:size]
        api.write(block, data)
        expect_bytes(api, block, data, "malloc(%d), written" % size)
        api.free(domain, block)


@promise("Blocks of calloc and of realloc are aligned as those of malloc.",
         "ISO C, 7.24.3 (memory management functions)")
def calloc_and_realloc_are_aligned(api, domain, sizes=SIZES):
    for size in sizes[1:]:
        blocks = [api.calloc(domain, 1, size),
                  api.realloc(domain, get(api, domain, 3), size)]
        for name, block in zip(("calloc", "realloc"), blocks):
            expect(block is not None, "%s of %d bytes is NULL" % (name, size))
            expect(block % alignment_for(size) == 0, "%s of %d bytes is %#x, no multiple "
                   "of %d" % (name, size, block, alignment_for(size)))
            api.free(domain, block)


@promise("A request for 0 bytes gives a block of its own, not NULL, as if 1 byte was "
         "asked for.", FAMILIES)
def zero_bytes_are_distinct_blocks(api, domain):
    blocks = [api.malloc(domain, 0), api.malloc(domain, 0), api.calloc(domain, 0, 0),
              api.calloc(domain, 0, 9), api.calloc(domain, 9, 0)]
    expect(None not in blocks, "a request for 0 bytes gave NULL")
    expect(len(set(blocks)) == len(blocks), "two requests for 0 bytes gave one block")
    for block in blocks:
        api.free(domain, block)


@promise("calloc gives zeroes, also where there was something else before.", FAMILIES)
def calloc_zeroes_used_memory(api, domain, sizes=SIZES):
    for size in sizes:
        used = [get(api, domain, size) for _ in range(5)]
        for block in used:
            api.write(block, b"\xff" * size)
        for block in used:
            api.free(domain, block)
        blocks = [api.calloc(domain, 1, size), api.calloc(domain, size, 1)]
        for block in blocks:
            expect(block is not None, "calloc(1, %d) is NULL" % size)
            expect_bytes(api, block, bytes(size), "calloc of %d bytes is not zero" % size)
        for block in blocks:
            api.free(domain, block)


@promise("calloc(nelem, elsize) fails where the product does not fit; it gives no smaller "
         "block.", FAMILIES)
def calloc_overflow_fails(api, domain):
    half = 1 << (SSIZE_MAX.bit_length() // 2 + 1)
    for nelem, elsize in ((half, half), (half + 1, half), (SSIZE_MAX, 3), (3, SSIZE_MAX),
                          (2 * SSIZE_MAX + 1, 2), (2, 2 * SSIZE_MAX + 1)):
        expect(api.calloc(domain, nelem, elsize) is None,
               "calloc(%#x, %#x) is not NULL" % (nelem, elsize))


@promise("realloc keeps the contents, as much as the smaller size holds.", FAMILIES)
def realloc_keeps_what_fits(api, domain, sizes=SIZES):
    for old in sizes:
        for new in sizes[1:]:       # 0 is a separate promise
            data = pattern(old, new)[:old]
            block = get(api, domain, old)
            api.write(block, data)
            moved = api.realloc(domain, block, new)
            expect(moved is not None, "realloc from %d to %d bytes is NULL" % (old, new))
            expect_bytes(api, moved, data[:min(old, new)],
                         "realloc from %d to %d bytes" % (old, new))
            api.write(moved, b"\x5a" * new)
            api.free(domain, moved)


@promise("realloc(NULL, n) is malloc(n).", FAMILIES)
def realloc_null_is_malloc(api, domain):
    blocks = []
    for size in (0, 30, 5000):
        blocks.append(api.realloc(domain, None, size))
        expect(blocks[-1] is not None, "realloc(NULL, %d) is NULL" % size)
        api.write(blocks[-1], b"n" * size)
    expect(len(set(blocks)) == len(blocks), "realloc(NULL, n) gave one block twice")
    for block in blocks:
        api.free(domain, block)


@promise("realloc(p, 0) makes the block small. It does not free it, and does not give NULL. "
         "(Where malloc's realloc frees, whoever hands it to PyMem_SetAllocator asks for 1 "
         "byte instead, as CPython does.)", FAMILIES)
def realloc_zero_keeps_block(api, domain):
    for size in (0, 40, 5000):
        block = api.realloc(domain, get(api, domain, size), 0)
        expect(block is not None, "realloc(p, 0) is NULL: it freed a block of %d bytes"
               % size)
        others = [get(api, domain, 0) for _ in range(20)]
        expect(block not in others, "realloc(p, 0) freed the block, and malloc gave it again")
        block = api.realloc(domain, block, 50)
        expect(block is not None, "a block that realloc(p, 0) left can't grow")
        api.write(block, b"y" * 50)
        for each in [block] + others:
            api.free(domain, each)


@promise("free(NULL) does nothing.", FAMILIES)
def free_null(api, domain):
    block = get(api, domain, 20)
    for _ in range(3):
        api.free(domain, None)
    other = get(api, domain, 20)
    expect(other != block, "after free(NULL) a live block was given again")
    api.free(domain, block)
    api.free(domain, other)


@promise("A request over PY_SSIZE_T_MAX bytes gives NULL.",
         FAMILIES + "; PY_SSIZE_T_MAX: PEP 353")
def too_much_fails(api, domain):
    for size in (SSIZE_MAX + 1, 2 * SSIZE_MAX - 4096, 2 * SSIZE_MAX + 1):
        for what, block in (("malloc(%#x)", api.malloc(domain, size)),
                            ("calloc(1, %#x)", api.calloc(domain, 1, size)),
                            ("calloc(%#x, 1)", api.calloc(domain, size, 1)),
                            ("realloc(NULL, %#x)", api.realloc(domain, None, size))):
            expect(block is None, what % size + " is not NULL")


@promise("A realloc that fails gives NULL and leaves the block as it was.", FAMILIES)
def failed_realloc_keeps_block(api, domain):
    # On 32 bits the system may have so much once, and not twice.
    much = api.calloc(domain, 1, SSIZE_MAX)
    for size in (20, 400, 5000):
        block = get(api, domain, size)
        data = pattern(size)[:size]
        api.write(block, data)
        for too_much in (SSIZE_MAX + 1, SSIZE_MAX, 2 * SSIZE_MAX + 1,
                         min(1 << 60, SSIZE_MAX)):
            expect(api.realloc(domain, block, too_much) is None,
                   "realloc(p, %#x) is not NULL" % too_much)
        expect(get(api, domain, size) != block,
               "a realloc that failed freed the block of %d bytes" % size)
        expect_bytes(api, block, data, "after a realloc that failed")
        block = api.realloc(domain, block, 2 * size)
        expect_bytes(api, block, data, "after a realloc that failed and one that did not")
        api.free(domain, block)
    api.free(domain, much)


class Model:
    """What lives: address, size and what is in it."""

    def __init__(self, api, domain):
        self.api, self.domain, self.live, self.number = api, domain, [], 0

    def keep(self, block, size, what):
        expect(block is not None, "%s of %d bytes is NULL" % (what, size))
        self.number += 1
        mark = self.number.to_bytes(4, "little") * (size // 4 + 1)
        self.api.write(block, mark[:size])
        self.live.append((block, size, mark[:size]))

    def take(self, chosen):
        block, size, data = self.live.pop(chosen % len(self.live))
        expect_bytes(self.api, block, data, "a live block of %d bytes" % size)
        return block, size, data

    def distinct(self):
        """No two live blocks overlap; of 0 bytes is as of 1."""
        end, before = 0, 0
        for block, size, _ in sorted(self.live):
            expect(block >= end, "two live blocks overlap: %d bytes at %#x, and %#x"
                   % (end - before, before, block))
            before, end = block, block + max(size, 1)


@promise("Live blocks never overlap, whatever was asked, resized and freed before.", FAMILIES)
def live_blocks_are_distinct(api, domain):
    chance = random.Random(20)
    model = Model(api, domain)
    for step in range(12000):
        size = chance.choice((chance.randrange(64), chance.randrange(600),
                              chance.randrange(600), chance.randrange(20000)))
        what = chance.randrange(8)
        if what < 3 or len(model.live) < 10:
            model.keep(api.malloc(domain, size), size, "malloc")
        elif what == 3:
            block = api.calloc(domain, 1, size)
            if block is not None:
                expect_bytes(api, block, bytes(size), "calloc of %d bytes" % size)
            model.keep(block, size, "calloc")
        elif what < 6 and len(model.live) < 1500:
            block, old, data = model.take(chance.randrange(1 << 30))
            size += size == 0
            block = api.realloc(domain, block, size)
            if block is not None:
                expect_bytes(api, block, data[:size], "realloc from %d to %d bytes"
                             % (old, size))
            model.keep(block, size, "realloc")
        else:
            api.free(domain, model.take(chance.randrange(1 << 30))[0])
        if step % 1000 == 0:
            model.distinct()
    model.distinct()
    while model.live:
        api.free(domain, model.take(0)[0])


@promise("What is freed is used again: memory does not grow without an end.", FAMILIES,
         driver=True)
def freed_memory_is_used_again(api, domain):
    for size, grown, rounds in ((100, 0, 6000000), (5000, 0, 200000), (200000, 0, 6000),
                                (100, 3000, 300000), (3000, 100, 300000),
                                (20000, 200000, 6000)):
        problem = api.churn(domain, size, grown, rounds, 256 << 20)
        expect(problem is None, problem)


@promise("No call sets an exception, also where there is no memory.",
         "docs.python.org/3/c-api/exceptions.html#c.PyErr_NoMemory (whoever gets NULL "
         "calls it)", interpreter=True)
def no_exception_is_set(api, domain):
    for size in (SSIZE_MAX, SSIZE_MAX + 1):
        for name, call in (("malloc", lambda: api.malloc(domain, size)),
                           ("calloc", lambda: api.calloc(domain, size, 1)),
                           ("realloc", lambda: api.realloc(domain, None, size))):
            try:
                call()
                is_set = api.takes_exception()
            except (MemoryError, SystemError):      # ctypes looks on CPython
                is_set = True
            expect(not is_set, "%s of %#x bytes set an exception" % (name, size))


@promise("The mem and object domains have one allocator from the start.",
         C_API + "#default-memory-allocators", domains=(), interpreter=True)
def mem_and_object_begin_alike(api):
    fields = [api.get_allocator(domain) for domain in EACH]
    expect(all(all(each[1:]) for each in fields), "a function of an allocator is NULL")
    if not api.free_threaded:
        expect(fields[MEM] == fields[OBJ], "the two have different allocators")
    expect(api.get_allocator(RAW) == fields[RAW], "the raw domain's changes by itself")
