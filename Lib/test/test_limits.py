"""Under a limit on memory: right after a peak was freed, or many, whatever works on stock
works.  What passes through us is asked for again after all that is only held was given
back; what does not, a mapping of an extension or the stack of a thread, finds little held.
"""

import os
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from conftest import BUILD, clean_environment, run

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def ways():
    """Commands: linked and its stock, under pymem-run and its stock."""
    if not (BUILD / "python-stock").exists():
        pytest.skip("build/python is not there: run Tools/relink")
    return (([BUILD / "python"], [BUILD / "python-stock"]),
            ([BUILD / "pymem-run", sys.executable], [sys.executable]))


MIB = 1 << 20
LIMIT = 168 * MIB       # a peak of 100 MiB fits, then a request of 100, and what is kept
# Of address space the C library reserves 64 MiB for a thread, and 8 for its stack.
LIMIT_WITH_THREAD = LIMIT + 72 * MIB

PEAKS = {
    "small": "[bytes(40) for _ in range(1_100_000)]",
    "medium": "[bytes(2000) for _ in range(45_000)]",
    "objects": "[[{}] for _ in range(600_000)]",
}

REQUESTS = {
    "bytearray": "bytearray(100 << 20)",
    "written": "bytearray(b'x') * (100 << 20)",
    "list": "[None] * (12 << 20)",
    "growing": "grow(100 << 20)",
    "medium": "[bytes(2000) for _ in range(45_000)]",
    "mmap": "map_pages(100 << 20)",
    "stack": "start_thread(90 << 20)",
}

SCRIPT = """
import mmap, sys, threading, time
def grow(size):
    data = bytearray()
    while len(data) < size // 2:
        data += bytes(4 << 20)
    return data
def map_pages(size):
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for place in range(0, size, 4096):
        pages[place] = 1
    return pages
def start_thread(size):
    threading.stack_size(size)
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()
def peak():
    kept = PEAK
    del kept
def from_thread():
    thread = threading.Thread(target=peak)
    thread.start()
    thread.join()
BEFORE
for _ in range(TIMES):
    WORK()
time.sleep(WAIT)
REQUEST
print("worked")
"""

SET_LIMIT = "import resource; resource.setrlimit(resource.RLIMIT_%s, (%d, %d))"


def script(peak, request, before="", times=1, work="peak", wait=0):
    text = SCRIPT
    for name, value in (("PEAK", PEAKS[peak]), ("REQUEST", REQUESTS[request]),
                        ("BEFORE", before), ("TIMES", str(times)), ("WORK", work),
                        ("WAIT", str(wait))):
        text = text.replace(name, value)
    return text


# What stock holds after a peak differs from run to run, and once in a while is too much.
TRIES_OF_STOCK = 5


def expect_works_where_stock_does(ways, text, **options):
    for ours, stock in ways:
        for _ in range(TRIES_OF_STOCK):
            result = run(*stock, "-c", text, environment=clean_environment(), **options)
            if result.stdout == "worked\n":
                break
        assert result.stdout == "worked\n", f"stock: {result.stderr}"
        result = run(*ours, "-c", text, environment=clean_environment(), **options)
        assert (result.returncode, result.stdout) == (0, "worked\n"), (ours, result.stderr)


def limit_of(name, limit=LIMIT):
    return SET_LIMIT % (name, limit, limit)


@pytest.mark.parametrize("request_", REQUESTS)
@pytest.mark.parametrize("name", ["AS", "DATA"])
def test_after_a_peak(ways, name, request_):
    few = name == "DATA" or request_ not in ("bytearray", "mmap")
    for peak in ["small"] if few else PEAKS:
        expect_works_where_stock_does(ways, script(peak, request_, limit_of(name)))


@pytest.mark.parametrize("wait", [0, 0.5])
@pytest.mark.parametrize("request_", ["bytearray", "mmap", "stack"])
@pytest.mark.parametrize("name", ["AS", "DATA"])
def test_after_many_peaks(ways, name, request_, wait):
    """Which earn the right to hold arenas where there is no limit."""
    expect_works_where_stock_does(
        ways, script("small", request_, limit_of(name), times=4, wait=wait))


@pytest.mark.parametrize("request_", ["bytearray", "mmap", "stack"])
def test_after_a_limit_nothing_is_earned_any_more(ways, request_):
    text = script("small", request_, times=4).replace(
        "time.sleep(0)", limit_of("AS") + "\npeak()")
    expect_works_where_stock_does(ways, text)


@pytest.mark.parametrize("request_", ["bytearray", "mmap", "stack"])
def test_after_a_peak_of_another_thread(ways, request_):
    for peak in PEAKS:
        expect_works_where_stock_does(ways, script(
            peak, request_, limit_of("AS", LIMIT_WITH_THREAD), work="from_thread"))


# Control groups: of version 2, or 1, where this user may make one.

def memory_group():
    """A folder to make groups in, and the name of the limit; None: there is none."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            return Path("/sys/fs/cgroup/memory" + path), "memory.limit_in_bytes"
        folder = Path("/sys/fs/cgroup" + path)
        if not controllers and (folder / "cgroup.controllers").exists():
            # A group with processes has no children with limits: beside it.
            for parent in (folder, *folder.parents):
                control = parent / "cgroup.subtree_control"
                if control.exists() and "memory" in control.read_text().split():
                    return parent, "memory.max"
    return None


@contextmanager
def limited_group():
    found = memory_group()
    if found is None:
        pytest.skip("there is no control group for memory here")
    group = found[0] / f"pymem-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    try:
        (group / found[1]).write_text(str(LIMIT))
        for name in ("memory.swap.max", "memory.swappiness"):
            if (group / name).exists():
                (group / name).write_text("0")
        yield group
    finally:
        group.rmdir()


@pytest.mark.parametrize("times", [1, 4])
@pytest.mark.parametrize("request_", ["written", "medium", "mmap"])
def test_in_a_control_group(ways, request_, times):
    """Whoever goes beyond its limit is killed."""
    with limited_group() as group:
        def enter():
            (group / "cgroup.procs").write_text(str(os.getpid()))
        for peak in PEAKS if times == 1 else ["small"]:
            expect_works_where_stock_does(ways, script(peak, request_, times=times),
                                          preexec_fn=enter)
        text = script("small", "mmap").replace("100 << 20", "250 << 20")
        result = run(*ways[0][1], "-c", text, preexec_fn=enter)
        assert result.returncode == -9      # the limit is one
