"""Programs that lock their memory (mlockall) or bind it to nodes (set_mempolicy, mbind):
they work as on stock, and what is only reserved takes no memory.
"""

import platform
import sys

import pytest

from conftest import BUILD, clean_environment, run

pytestmark = pytest.mark.few_pythons

LOCKED = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
CURRENT, FUTURE = 1, 2
def lock(how=CURRENT | FUTURE):
    if libc.mlockall(how):
        print("no right to lock", ctypes.get_errno())
        sys.exit()
def resident():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS")) << 10
"""


def outcome(code, *command, **variables):
    result = run(*command, "-W", "ignore", "-c", LOCKED + code,
                 environment=clean_environment(**variables))
    assert (result.returncode, result.stderr) == (0, ""), result.stdout[-300:]
    if result.stdout.startswith("no "):
        pytest.skip(result.stdout)
    return result.stdout


def three_ways(products):
    """Commands: linked and its stock, under pymem-run and its stock."""
    yield [products / "python"], [products / "python-stock"]
    if products == BUILD:
        yield [BUILD / "pymem-run", sys.executable], [sys.executable]


OBJECTS = """
lock()
kept = [object() for _ in range(100_000)]
print(resident())
"""
MIB = 1 << 20


def test_tables_are_not_made_resident(products):
    """Of medium blocks apart, which have pools of their own where stock has malloc."""
    for ours, stock in three_ways(products):
        assert int(outcome(OBJECTS, *ours, PYMEM_MEDIUM="malloc")) <= int(
            outcome(OBJECTS, *stock)) + 2 * MIB, ours


LIFE = """
import threading
def work():
    for number in range(3):
        kept = [bytes(size % 3000) for size in range(40_000)]
        del kept[::3]
    assert all(not any(data) for data in kept[:100])
lock()
work()
threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
child = os.fork()
if child == 0:
    work()
    lock()
    work()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
libc.munlockall()
work()
lock(FUTURE)
work()
print("worked")
"""


@pytest.mark.parametrize("variables", [
    {}, {"PYTHONMALLOC": "debug"}, {"PYTHONTRACEMALLOC": "3"},
    {"PYTHON_PYMALLOC_HUGEPAGES": "1"}, {"PYTHON_PYMALLOC_MMAP_ONLY": "1"}])
def test_a_program_that_locks_all_works(products, variables):
    assert outcome(LIFE, products / "python", **variables) == "worked\n"


@pytest.mark.parametrize("options", [[], ["--debug"], ["--hugepages"], ["--mmap-only"]])
def test_the_same_under_pymem_run(options):
    assert outcome(LIFE, BUILD / "pymem-run", "--trim-interval=0.01", *options,
                   sys.executable) == "worked\n"


def test_trim_counts_what_went(products):
    """Not the free pools of arenas that are locked: the system does not take them."""
    code = """
trim = ctypes.pythonapi.PyMem_Trim
trim.restype = ctypes.c_size_t
lock()
kept = [bytes(400) for _ in range(200_000)]
kept = kept[::1000]
trim()
before = resident()
kept += [bytes(400) for _ in range(200_000)]
del kept[200:]
high, count = resident(), trim()
print(count, high - resident())
"""
    count, fell = map(int, outcome(code, products / "python").split())
    assert count <= fell + MIB


def test_a_limit_for_locked_memory(products):
    """Without the right to lock more, memory ends at the limit, and the program lives on."""
    code = """
import resource
hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)[1]
most = 40 << 20 if hard == resource.RLIM_INFINITY else min(hard, 40 << 20)
resource.setrlimit(resource.RLIMIT_MEMLOCK, (most, most))
if os.getuid() == 0:
    os.setuid(65534)
lock(FUTURE)                    # what is there already would not fit
try:
    kept = []
    while True:
        kept.append([bytes(size) for size in range(0, 2000, 10)])
except MemoryError:
    count = len(kept)
    del kept
again = [bytes(300) for _ in range(2_000)]
print(count)
"""
    for ours, stock in three_ways(products):
        assert int(outcome(code, *ours)) > 0.75 * int(outcome(code, *stock)), ours


# set_mempolicy, get_mempolicy and mbind by number; modes of linux/mempolicy.h
POLICIES = """
import ctypes, sys, threading
SET, GET, MBIND = NUMBERS
libc = ctypes.CDLL(None, use_errno=True)
node = ctypes.c_ulong(1)
def call(*arguments):
    return libc.syscall(*(ctypes.c_long(argument) if isinstance(argument, int) else argument
                          for argument in arguments))
if call(SET, 2, ctypes.byref(node), 64):
    print("no policies:", ctypes.get_errno())
    sys.exit()
def work():
    for number in range(3):
        kept = [bytes([size % 251]) * (size % 3000) for size in range(1, 40_000)]
        del kept[::3]
    assert all(len(set(data)) <= 1 for data in kept[:1000])
    return kept
for mode in 1, 2, 3, 0:         # preferred, bind, interleave, default
    assert call(SET, mode, ctypes.byref(node) if mode else None, 64 if mode else 0) == 0
    kept = work()
    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    # Some pages in the middle of the heap, moved where they must be.
    for data in kept[::1000]:
        page = id(data) & -65536
        assert call(MBIND, ctypes.c_void_p(page), 65536, 2, ctypes.byref(node), 64, 2) == 0
    del kept[::2]
    TRIM
    assert all(len(set(data)) <= 1 for data in kept)
print("worked")
"""
NUMBERS = {"x86_64": (238, 239, 237), "aarch64": (237, 236, 235), "ppc64le": (261, 260, 259)}


@pytest.mark.once
@pytest.mark.parametrize("variables", [{}, {"PYTHON_PYMALLOC_HUGEPAGES": "1"}])
def test_memory_policies(products, variables):
    if platform.machine() not in NUMBERS:
        pytest.skip("the numbers of these system calls are not known here")
    code = POLICIES.replace("NUMBERS", str(NUMBERS[platform.machine()]))
    trim = code.replace("TRIM", "ctypes.pythonapi.PyMem_Trim()")
    assert outcome(trim, products / "python", **variables) == "worked\n"
    if products == BUILD:
        assert outcome(code.replace("TRIM", "pass"), BUILD / "pymem-run",
                       "--trim-interval=0.01", sys.executable, **variables) == "worked\n"
