"""Where a process has no more mappings (vm.max_map_count), or hardly any address space,
what works on stock works: what no arena can be had for is served by malloc.
"""

import sys
from pathlib import Path

import pytest

from conftest import clean_environment, pythons, run
from test_run import PYMEM_RUN

pytestmark = pytest.mark.few_pythons

# Chains of blocks: a list of that size would ask the system for mappings itself.
BLOCKS = """
import ctypes, sys, tracemalloc
def chain(size, number):
    kept = None
    for i in range(number):
        kept = (kept, bytes(size), i)
    return kept
def length(kept):
    n = 0
    while kept:
        kept, block, i = kept
        assert block == bytes(len(block))
        n += 1
    return n
def work():
    for size, number in (10, 60_000), (400, 20_000), (3000, 3000), (60_000, 100):
        assert length(chain(size, number)) == number
"""

MAPPINGS = BLOCKS + """
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
left = int(sys.argv[1])
pages = (ctypes.c_void_p * (1 << 21))()
number = 0
NONE, READ = 0, 1
while number < len(pages):
    page = libc.mmap(None, 4096, READ if number % 2 else NONE, 0x22, -1, 0)
    if page == ctypes.c_void_p(-1).value:
        break
    pages[number] = page
    number += 1
for i in range(left):
    number -= 1
    libc.munmap(pages[number], 4096)
work()
if tracemalloc.is_tracing():
    kept = chain(10, 1000)
    assert tracemalloc.get_object_traceback(kept[1]) is not None
    assert tracemalloc.get_traced_memory()[0] > 50_000
while number > 0:
    number -= 1
    libc.munmap(pages[number], 4096)
work()
print("worked")
"""


def worked(tmp_path, text, left, *command, **variables):
    if int(Path("/proc/sys/vm/max_map_count").read_text()) > 1 << 20:
        pytest.skip("more mappings than a test can use up")
    (tmp_path / "script.py").write_text(text)
    result = run(*command, tmp_path / "script.py", str(left),
                 environment=clean_environment(**variables))
    return result.stdout == "worked\n", result.stderr[-2000:]


@pytest.mark.parametrize("variables", [
    {}, {"PYTHONMALLOC": "debug"}, {"PYTHONTRACEMALLOC": "3"}, {"PYMEM_MEDIUM": "malloc"},
    {"PYTHON_PYMALLOC_HUGEPAGES": "1"}, {"PYTHON_PYMALLOC_MMAP_ONLY": "1"}])
def test_with_few_mappings_left(products, tmp_path, variables):
    """A table of the tracer that grows is two mappings for a moment, as stock's is, and
    malloc's own heap grows only where one is left.  (Stock: 7 while traced, on 3.15.)"""
    for left in (3, 6) if "PYTHONTRACEMALLOC" in variables else (1, 3):
        assert worked(tmp_path, MAPPINGS, left, products / "python", **variables) == (
            True, ""), left


def test_stock_works_with_few_mappings_left(stock, tmp_path):
    """With fewer it may: an arena that is a mapping by itself takes the last one."""
    for left in (8, 9):
        assert worked(tmp_path, MAPPINGS, left, stock) == (True, "")


@pytest.mark.parametrize("python", pythons(3, 8))
def test_with_few_mappings_left_under_pymem_run(tmp_path, python):
    for options in [], ["--raw"], ["--debug"]:
        assert worked(tmp_path, MAPPINGS, 2, PYMEM_RUN, *options, python) == (
            True, ""), options


def test_statistics_with_few_mappings_left(products, tmp_path):
    text = MAPPINGS.replace("\nwork()\n", "\nwork()\nsys._debugmallocstats()\n", 1)
    done, errors = worked(tmp_path, text, 1, products / "python")
    assert done, errors


# As many objects as fit, again and again; and the rest of the limit is malloc's.
LIMITS = BLOCKS + """
import resource
limit = getattr(resource, sys.argv[1])
with open("/proc/self/statm") as file:
    words = file.read().split()
used = int(words[0 if limit == resource.RLIMIT_AS else 5]) * 4096
resource.setrlimit(limit, (used + (200 << 20), resource.RLIM_INFINITY))
numbers = []
for round in range(2):
    kept, n = None, 0
    try:
        while True:
            kept = (kept, bytes((20, 100, 400, 700, 3000, 20_000)[n % 6]))
            n += 1
    except MemoryError:
        pass
    while kept:
        kept = kept[0]
    numbers.append(n)
print(*numbers)
"""


@pytest.mark.parametrize("limit, variables", [
    ("RLIMIT_AS", {}), ("RLIMIT_AS", {"PYTHONTRACEMALLOC": "1"}), ("RLIMIT_DATA", {})])
def test_a_limit_holds_about_as_many_objects(products, stock, tmp_path, limit, variables):
    (tmp_path / "script.py").write_text(LIMITS)
    ours, theirs = (
        list(map(int, run(python, tmp_path / "script.py", limit,
                          environment=clean_environment(**variables)).stdout.split()))
        for python in (products / "python", stock))
    assert len(ours) == len(theirs) == 2
    # Of 4 GiB of addresses each 10 MiB are the pool map's.
    assert min(ours) > 0.8 * max(theirs)
