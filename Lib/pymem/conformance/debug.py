"""The debug hooks, and the names that PYTHONMALLOC takes."""

import os
import re
import signal
import struct
import subprocess
import sys

from pymem.conformance.promises import (C_API, LETTERS, OBJ, RAW, USING, expect,
                                        expect_bytes, in_a_fork, promise)

HOOKS = C_API + "#debug-hooks-on-the-python-memory-allocators"
VARIABLE = USING + "#envvar-PYTHONMALLOC"
# From the start: an interpreter has blocks that later hooks would not know.
DEBUG = dict(environment={"PYTHONMALLOC": "debug"}, interpreter=True)
SIZES = [0, 1, 16, 17, 5000]
WORD = struct.calcsize("P")             # the hooks' marks: a size, as many bytes, as many behind


def fatal_line(api, function, text):
    name = function + ": " if api.version >= (3, 9) else ""
    return "Fatal Python error: %s%s\n" % (name, text)


def masked(text):
    """Without addresses, the serial number of a debug build, and what follows the fatal
    error; 3.14 and later tell the thread's name."""
    text = re.sub(r"0x[0-9a-f]{6,}", "0x...", text)
    text = re.sub(r"    The block was made by call #.*\n", "", text)
    end = re.search(r"Fatal Python error: .*\n", text)
    return text[:end.end()] if end else text


def death(action, expected, what):
    status, text = in_a_fork(action)
    expect(status != 0, "%s was not noticed" % what)
    expect(os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGABRT,
           "%s did not end with abort(), but with status %#x: %r" % (what, status, text))
    got = masked(text)
    if got == expected:
        return
    pairs = list(zip(got.splitlines(), expected.splitlines()))
    line = next(((a, b) for a, b in pairs if a != b),
                ("%d lines" % len(got.splitlines()), "%d" % len(expected.splitlines())))
    expect(False, "%s: the text has %r, not %r" % (what, line[0], line[1]))


@promise("Around a block of N bytes are N as a size_t (most significant byte first), the "
         "letter of the domain, 7 and 8 bytes 0xFD (on 32 bits 3 and 4). New bytes are 0xCD.",
         HOOKS, **DEBUG)
def layout(api, domain):
    api.need_debug_hooks(domain)
    for size in SIZES:
        block = api.malloc(domain, size)
        head = size.to_bytes(WORD, "big") + LETTERS[domain].encode() + b"\xfd" * (WORD - 1)
        expect_bytes(api, block - 2 * WORD, head,
                     "%d bytes before a block of %d" % (2 * WORD, size))
        expect_bytes(api, block, b"\xcd" * size + b"\xfd" * WORD, "a block of %d" % size)
        zeroes = api.calloc(domain, 1, size)
        expect_bytes(api, zeroes, bytes(size) + b"\xfd" * WORD, "calloc of %d" % size)
        grown = api.realloc(domain, zeroes, size + 100)
        expect_bytes(api, grown, bytes(size) + b"\xcd" * 100 + b"\xfd" * WORD,
                     "a block of %d that grew by 100" % size)
        api.free(domain, block)
        api.free(domain, grown)


@promise("Freed bytes are 0xDD.", HOOKS, **DEBUG)
def freed_bytes_are_dead(api, domain):
    api.need_debug_hooks(domain)
    block = api.malloc(domain, 400)
    api.write(block, b"x" * 400)
    kept = api.malloc(domain, 400)      # the page stays
    api.free(domain, block)
    data = api.read(block + 64, 300)    # what frees may write at the beginning
    expect(data == b"\xdd" * 300, "after free() its bytes are %r" % data[:8])
    api.free(domain, kept)


def overflow_text(domain):
    return ("Debug memory block at address p=0x...: API '%s'\n"
            "    16 bytes originally requested\n"
            "    The %d pad bytes at p-%d are FORBIDDENBYTE, as expected.\n"
            "    The %d pad bytes at tail=0x... are not all FORBIDDENBYTE (0xfd):\n"
            "        at tail+0: 0x78 *** OUCH\n" % (LETTERS[domain], WORD - 1, WORD - 1, WORD)
            + "".join("        at tail+%d: 0xfd\n" % i for i in range(1, WORD))
            + "    Data at p: cd cd cd cd cd cd cd cd cd cd cd cd cd cd cd cd\n\n"
            "Enable tracemalloc to get the memory block allocation traceback\n\n")


@promise("A write behind a block is noticed when it is freed. The text tells the block, its "
         "size and the bytes, and the process ends by abort().", HOOKS, **DEBUG)
def overflow_is_told(api, domain):
    api.need_debug_hooks(domain)

    def misuse():
        block = api.malloc(domain, 16)
        api.write(block + 16, b"x")
        api.free(domain, block)
    death(misuse, overflow_text(domain)
          + fatal_line(api, "_PyMem_DebugRawFree", "bad trailing pad byte"),
          "a write behind a block")


@promise("A write before a block is noticed when it is freed.", HOOKS, **DEBUG)
def underflow_is_told(api, domain):
    api.need_debug_hooks(domain)

    def misuse():
        block = api.malloc(domain, 16)
        api.write(block - 2, b"A")
        api.free(domain, block)
    pads = "".join("        at p-%d: 0x%s\n" % (i, "41 *** OUCH" if i == 2 else "fd")
                   for i in range(WORD - 1, 0, -1))
    death(misuse, (
        "Debug memory block at address p=0x...: API '%s'\n"
        "    16 bytes originally requested\n"
        "    The %d pad bytes at p-%d are not all FORBIDDENBYTE (0xfd):\n%s"
        "    Because memory is corrupted at the start, the count of bytes requested\n"
        "       may be bogus, and checking the trailing pad bytes may segfault.\n"
        "    The %d pad bytes at tail=0x... are FORBIDDENBYTE, as expected.\n"
        "    Data at p: cd cd cd cd cd cd cd cd cd cd cd cd cd cd cd cd\n\n"
        "Enable tracemalloc to get the memory block allocation traceback\n\n"
        % (LETTERS[domain], WORD - 1, WORD - 1, pads, WORD))
        + fatal_line(api, "_PyMem_DebugRawFree", "bad leading pad byte"),
        "a write before a block")


@promise("A block that another domain frees is noticed.", HOOKS, **DEBUG)
def wrong_domain_is_told(api, domain):
    api.need_debug_hooks(domain)
    other = (domain + 1) % 3

    def misuse():
        api.free(other, api.malloc(domain, 16))
    death(misuse, (
        "Debug memory block at address p=0x...: API '%s'\n"
        "    16 bytes originally requested\n"
        "    The %d pad bytes at p-%d are FORBIDDENBYTE, as expected.\n"
        "    The %d pad bytes at tail=0x... are FORBIDDENBYTE, as expected.\n"
        "    Data at p: cd cd cd cd cd cd cd cd cd cd cd cd cd cd cd cd\n\n"
        "Enable tracemalloc to get the memory block allocation traceback\n\n"
        % (LETTERS[domain], WORD - 1, WORD - 1, WORD))
        + fatal_line(api, "_PyMem_DebugRawFree", "bad ID: Allocated using API '%s', verified "
                     "using API '%s'" % (LETTERS[domain], LETTERS[other])),
        "a free in another domain")


@promise("The mem and object domains are not called without the GIL: this is noticed.",
         HOOKS, domains=(1, 2), **DEBUG)
def call_without_gil_is_told(api, domain):
    api.need_debug_hooks(domain)
    api.need_gil()
    death(lambda: api.malloc_without_gil(domain),
          fatal_line(api, "_PyMem_DebugMalloc",
                     "Python memory allocator called without holding the GIL"),
          "malloc without the GIL")


@promise("The raw domain needs no GIL.", C_API + "#raw-memory-interface", domains=(),
         **DEBUG)
def raw_needs_no_gil(api):
    status, text = in_a_fork(lambda: api.malloc_without_gil(RAW))
    expect(status == 0, "PyMem_RawMalloc without the GIL ended the process: " + text)


@promise("Three words are added to a request. One that would be too large then gives NULL, "
         "and realloc leaves the block.", HOOKS, **DEBUG)
def request_without_room_for_the_marks_fails(api, domain):
    api.need_debug_hooks(domain)
    block = api.malloc(domain, 10)
    api.write(block, b"0123456789")
    for size in (sys.maxsize, sys.maxsize + 1 - 3 * WORD):
        given = [api.malloc(domain, size), api.calloc(domain, 1, size),
                 api.realloc(domain, block, size)]
        expect(given == [None] * 3, "a request for %#x bytes is not NULL" % size)
        expect_bytes(api, block, b"0123456789" + b"\xfd" * WORD, "the block after it")
    api.free(domain, block)


@promise("PyMem_SetupDebugHooks puts the hooks around an allocator that was set, once.",
         C_API + "#c.PyMem_SetupDebugHooks", interpreter=True)
def hooks_go_around_what_was_set(api, domain):
    api.take_calls()
    api.debug_hooks_around_hook(domain)
    got = [(what, size) for _, what, _, size, _ in api.take_calls()]
    words = (4 if api.debug_build else 3) * WORD    # a debug build adds a serial number
    expected = [("malloc", 1000 + words), ("realloc", 2000 + words), ("free", 0)]
    expect(got == expected, "the allocator below the hooks saw %s, not %s" % (got, expected))


NAMES = {"default": ("pymalloc", (3, 8)), "debug": ("pymalloc_debug", (3, 8)),
         "malloc": ("malloc", (3, 8)), "malloc_debug": ("malloc_debug", (3, 8)),
         "pymalloc": ("pymalloc", (3, 8)), "pymalloc_debug": ("pymalloc_debug", (3, 8)),
         "mimalloc": ("mimalloc", (3, 13)), "mimalloc_debug": ("mimalloc_debug", (3, 13))}
ASK = """
import ctypes
name = ctypes.pythonapi._PyMem_GetCurrentAllocatorName
name.restype = ctypes.c_char_p
print((name() or b"none of them").decode())
"""


def run_named(name, code):
    environment = dict(os.environ, PYTHONMALLOC=name)
    done = subprocess.run([sys.executable, "-S", "-c", code], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, env=environment, timeout=60)
    return done.returncode, done.stdout.decode().strip(), done.stderr.decode()


@promise("PYTHONMALLOC takes default, debug, malloc, malloc_debug, pymalloc, pymalloc_debug "
         "(mimalloc, mimalloc_debug since 3.13), and each sets what it says.",
         VARIABLE, domains=(), interpreter=True)
def names_set_their_allocator(api):
    api.need("_PyMem_GetCurrentAllocatorName")
    api.need_pymalloc()
    for name, (expected, since) in NAMES.items():
        if api.version < since or (name.startswith("mimalloc") and not api.mimalloc):
            continue
        if name == "default" and api.debug_build:
            expected = "pymalloc_debug"
        status, got, text = run_named(name, ASK)
        expect((status, got) == (0, expected),
               "PYTHONMALLOC=%s sets %s: %s" % (name, got or "nothing", text[:200]))


@promise("PYTHONMALLOC with another name stops the interpreter at its start, and says so.",
         VARIABLE, domains=(), interpreter=True)
def unknown_name_is_refused(api):
    api.need("PyMem_SetAllocator")
    status, _, text = run_named("nonsense", "pass")
    expect(status != 0, "PYTHONMALLOC=nonsense is taken")
    expect("PYTHONMALLOC" in text and "unknown allocator" in text,
           "PYTHONMALLOC=nonsense ends it without a reason: %r" % text[:200])


@promise("With each name of PYTHONMALLOC blocks are what the contract says.", VARIABLE,
         domains=(), interpreter=True)
def each_name_serves(api):
    api.need("PyMem_SetAllocator")
    code = "x = [bytes(i % 3000) for i in range(30000)]; del x[::2]\n" \
           "assert all(len(b) == (2 * i + 1) % 3000 for i, b in enumerate(x)); print('ok')"
    for name, (_, since) in NAMES.items():
        if api.version >= since and not (name.startswith("mimalloc") and not api.mimalloc) \
                and not (name.startswith("pymalloc") and not api.pymalloc) \
                and not (name.startswith("malloc") and api.free_threaded):
            status, out, text = run_named(name, code)
            expect((status, out) == (0, "ok"), "PYTHONMALLOC=%s: %s" % (name, text[:200]))


@promise("The debug hooks are an allocator like others: they can be got and set back.",
         C_API + "#c.PyMem_SetAllocator", domains=(), **DEBUG)
def hooks_are_an_allocator_like_others(api):
    api.need_debug_hooks(OBJ)
    before = [api.get_allocator(domain) for domain in range(3)]
    for domain in range(3):
        api.hook(domain)
        api.unhook(domain)
    expect(before == [api.get_allocator(domain) for domain in range(3)],
           "an allocator that was set back is another one")
