"""Kernels with pages of 16 and 64 KiB, pretended by Lib/test/check/pages.c before the C
library: interpreters keep what is theirs.
"""

import sys

import pytest

from conftest import BUILD, TOP, clean_environment, run

pytestmark = pytest.mark.few_pythons

SIZES = [16384, 65536]


@pytest.fixture(scope="module")
def pretended(tmp_path_factory):
    library = tmp_path_factory.mktemp("pages") / "pages.so"
    result = run("cc", "-shared", "-fPIC", "-O1", "-Wall", "-o", library,
                 TOP / "Lib" / "test" / "check" / "pages.c", "-ldl")
    assert (result.returncode, result.stderr) == (0, "")
    return library


def run_with_pages(library, size, *command, **variables):
    return run(*command, environment=clean_environment(
        LD_PRELOAD=str(library), CHECK_PAGE_SIZE=str(size), **variables))


LIFE = """
import mmap, os, random, threading, time
random.seed(1)
kept = {}
def live():
    mine = {}
    for number in range(60_000):
        size = random.choice((30, 60, 400, 3000))
        mine[number] = bytes([number % 251]) * size
    numbers = sorted(mine, key=lambda number: id(mine[number]))
    for first in range(0, len(numbers), 500):
        if random.random() < 0.8:
            for number in numbers[first:first + 500]:
                del mine[number]
    kept[threading.get_ident()] = mine
def check():
    for mine in kept.values():
        for number, data in mine.items():
            assert data == bytes([number % 251]) * len(data), number
def trim():
    TRIM
threads = [threading.Thread(target=live) for _ in range(3)]
for thread in threads: thread.start()
live()
for thread in threads: thread.join()
for _ in range(3):
    trim()
    check()
    new = [bytes(400) for _ in range(50_000)]
    del new
    check()
for size in range(60_000, 3_000_000, 70_001):
    data = bytearray(size)
    data += bytes(size)
    del data
print(os.sysconf("SC_PAGESIZE"), mmap.PAGESIZE)
"""
BY_CTYPES = LIFE.replace("TRIM", "import ctypes; ctypes.pythonapi.PyMem_Trim()")
BY_WAITING = LIFE.replace("TRIM", "time.sleep(0.1)")


@pytest.mark.parametrize("name", ["pymalloc", "pymalloc_debug", "malloc_debug"])
@pytest.mark.parametrize("size", SIZES)
def test_a_linked_interpreter(products, pretended, size, name):
    result = run_with_pages(pretended, size, products / "python", "-c", BY_CTYPES,
                            PYTHONMALLOC=name)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == f"{size} {size}\n"


@pytest.mark.parametrize("options", [(), ("--debug",), ("--mmap-only",), ("--hugepages",)])
@pytest.mark.parametrize("size", SIZES)
def test_under_pymem_run(pretended, size, options):
    result = run_with_pages(pretended, size, BUILD / "pymem-run", "--trim-interval=0.01",
                            *options, sys.executable, "-c", BY_WAITING)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == f"{size} {size}\n"
