"""What the interpreter counts of its blocks."""

import array
import os
import re
import subprocess
import sys
import tempfile

from pymem.conformance.promises import OBJ, RAW, USING, C_API, expect, promise

SYS = "docs.python.org/3/library/sys.html"
ROW = re.compile(r"^ +\d+ +(\d+) +(\d+) +(\d+) +(\d+)$", re.M)


def take_and_free(api, domain, addresses):
    """The count of blocks while these are there."""
    for i in range(len(addresses)):
        addresses[i] = api.malloc(domain, 1000 if i % 2 else 100)
    count = api.allocated_blocks()
    for i in range(len(addresses)):
        api.free(domain, addresses[i])
    return count


@promise("sys.getallocatedblocks() counts the blocks of the mem and object domains, of any "
         "size, and not those of the raw domain.",
         SYS + "#sys.getallocatedblocks", interpreter=True)
def allocated_blocks(api, domain):
    api.need_pymalloc()
    # No int is kept for an address: ints are blocks, too, and have a free list since 3.14.
    addresses = array.array("Q", bytes(8 * 1000))
    take_and_free(api, domain, addresses)
    before = api.allocated_blocks()
    grown = take_and_free(api, domain, addresses) - before
    expected = 0 if domain == RAW else 1000
    expect(abs(grown - expected) <= 10, "1,000 blocks more count as %d" % grown)
    left = api.allocated_blocks() - before
    expect(abs(left) <= 10, "after they were freed %d blocks more are counted" % left)


def statistics_text(api):
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "statistics")
        printed = api.malloc_stats(path)
        with open(path) as file:
            return printed, file.read()


def number(text, label):
    found = re.search(label + r".*= *([\d,]+)$", text, re.M)
    expect(found is not None, "the statistics have no line %r" % label)
    return int(found.group(1).replace(",", ""))


@promise("The statistics of pymalloc add up: what is in use, free and lost is what all "
         "arenas hold.", SYS + "#sys._debugmallocstats", domains=(), interpreter=True)
def lines_add_up(api):
    api.need_pymalloc()
    blocks = [api.malloc(OBJ, i % 512 + 1) for i in range(30000)]
    for block in blocks[::3]:
        api.free(OBJ, block)
    printed, text = statistics_text(api)
    expect(printed == 1, "the result is %s, not 1" % printed)
    parts = sum(number(text, label) for label in (
        "# bytes in allocated", "# bytes in available", "unused pools",
        "lost to pool headers", "lost to quantization", "lost to arena"))
    for label in (r"^Total", r"arenas \* \d+ bytes/arena"):
        expect(parts == number(text, label), "the parts are %d bytes, and the line %r says %d"
               % (parts, label, number(text, label)))


def in_use(text, size):
    return sum(int(used) for cut, _, used, _ in ROW.findall(text) if int(cut) == size)


@promise("The row of a size class counts its blocks.", SYS + "#sys._debugmallocstats",
         domains=(), interpreter=True)
def rows_count_blocks(api):
    api.need_pymalloc()
    for size in (16, 48, 272, 496, 512):
        before = in_use(statistics_text(api)[1], size)
        blocks = [api.malloc(OBJ, size) for _ in range(3000)]
        after = in_use(statistics_text(api)[1], size)
        expect(abs(after - before - 3000) <= 20 + 3000 * (size in (16, 32)),
               "3,000 blocks of %d bytes more count as %d" % (size, after - before))
        for block in blocks:
            api.free(OBJ, block)


@promise("With PYTHONMALLOCSTATS the statistics are printed at the end.",
         USING + "#envvar-PYTHONMALLOCSTATS", domains=(), interpreter=True)
def variable_prints_them(api):
    api.need_pymalloc()
    done = subprocess.run([sys.executable, "-S", "-c", "pass"], stderr=subprocess.PIPE,
                          env=dict(os.environ, PYTHONMALLOCSTATS="1"), timeout=60)
    text = done.stderr.decode()
    expect(done.returncode == 0, "with PYTHONMALLOCSTATS=1 the interpreter ends with status "
           "%d, and not 0" % done.returncode)
    expect("Small block threshold = 512" in text,
           "with PYTHONMALLOCSTATS=1 it prints %r" % text[:100])


@promise("PyTraceMalloc_Track and Untrack give -2 while nothing is traced.",
         C_API + "#c.PyTraceMalloc_Track", interpreter=True)
def track_while_nothing_is_traced(api, domain):
    for name, result in (("Track", api.track(domain, 0x1000, 10)),
                         ("Untrack", api.untrack(domain, 0x1000))):
        expect(result == -2, "PyTraceMalloc_%s gives %d" % (name, result))
