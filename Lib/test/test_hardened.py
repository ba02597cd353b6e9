"""PYTHONMALLOC=hardened in whole Pythons: what people see of it, interpreters, forks, and
the tools above it.  Misuse is test_misuse.py's matter, and the inner parts check_hardened.c's.
"""

import re
import sys

import pytest

from conftest import BUILD, clean_environment, pythons, run

RUN = [BUILD / "pymem-run", "--hardened"]
LINKED = [BUILD / "python"]
WAYS = {"linked": (LINKED, {"PYTHONMALLOC": "hardened"}),
        "run": ([*RUN, sys.executable], {})}
PYTHONS = {path.split("/")[-3] + "-" + path.split("/")[-1]: path for path in pythons(3, 8)}


def hardened(way, code, **variables):
    """What a Python says that runs the code; its exit status and stderr."""
    command, environment = WAYS[way]
    return run(*command, "-c", code, environment=clean_environment(
        PYTHONPATH=str(BUILD), **environment, **variables))


@pytest.fixture(params=WAYS)
def way(request):
    return request.param


FREE_TWICE = """
import ctypes
def function(name, *types):
    function = getattr(ctypes.pythonapi, name)
    function.restype, function.argtypes = ctypes.c_void_p, types
    return function
malloc = function("PyMem_Malloc", ctypes.c_size_t)
free = function("PyMem_Free", ctypes.c_void_p)
def twice():
    block = malloc(100)
    free(block)
    free(block)
"""


def test_the_message_and_pythons_traceback_follow(way):
    result = hardened(way, FREE_TWICE + "\ntwice()")
    assert result.returncode == -6
    assert re.fullmatch(
        r"Hardened memory block at address p=0x[0-9a-f]+: API 'm'\n"
        r"    a block of 112 bytes at 0x[0-9a-f]+\n"
        r"    The block is free already\.\n\n"
        r"Fatal Python error: _PyMem_Hardened: freed twice\n"
        r"Python runtime state: initialized\n\n"
        r"Current thread 0x[0-9a-f]+( \[python[0-9.]*\])? \(most recent call first\):\n"
        r'  File "<string>", line 12 in twice\n'
        r'  File "<string>", line 14 in <module>\n(.|\n)*', result.stderr)


def test_where_it_was_allocated_is_told_while_it_is_traced():
    # Another byte than the one that is there, which is random.
    code = FREE_TWICE + "\nblock = malloc(64)\n" \
        "ctypes.c_ubyte.from_address(block + 64).value ^= 1\nfree(block)\n"
    result = hardened("linked", code, PYTHONTRACEMALLOC="1")
    assert "    64 bytes requested, in a block of 80 bytes at 0x" in result.stderr
    assert re.search(r"    The byte at p\+64 is 0x(..), and was 0x(?!\1)", result.stderr)
    assert 'Memory block allocated at (most recent call first):\n  File "<string>", line 14\n' \
        in result.stderr
    assert "Fatal Python error: _PyMem_Hardened: written behind its end\n" in result.stderr


@pytest.mark.parametrize("name", PYTHONS)
def test_each_python_runs_under_it(name):
    code = ("import json, threading, re, decimal\n"
            "data = [{'a': [i, str(i) * 9], 'b': i / 7} for i in range(3000)]\n"
            "def work(): assert json.loads(json.dumps(data)) == data\n"
            "threads = [threading.Thread(target=work) for _ in range(3)]\n"
            "for t in threads: t.start()\n"
            "for t in threads: t.join()\n"
            "print(len(bytearray(10**6) * 20), sum(map(len, re.findall('a+', 'aab' * 999))))\n")
    result = run(*RUN, PYTHONS[name], "-c", code, environment=clean_environment())
    assert (result.returncode, result.stdout, result.stderr) == (0, "20000000 1998\n", "")


FORKS = """
import os
x = [[i] for i in range(1000)]
for _ in range(5):
    pid = os.fork()
    if not pid:
        x = [[str(i)] * 9 for i in range(5000)]
        os._exit(len(x) == 5000)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1
print(len(x))
"""


@pytest.mark.skipif(sys.version_info < (3, 9), reason="os.waitstatus_to_exitcode is 3.9's")
def test_forks(way):
    result = hardened(way, FORKS)
    assert (result.returncode, result.stdout) == (0, "1000\n"), result.stderr


def test_blocks_are_counted():
    code = ("import sys; before = sys.getallocatedblocks(); x = [[] for _ in range(5000)]\n"
            "print(before > 5000, 4800 < sys.getallocatedblocks() - before < 5200)")
    assert hardened("linked", code).stdout == "True True\n"


def test_statistics():
    form = (r"Small block threshold = 512, hardened\.\n\n"
            r"class   size   num slabs   blocks in use  waiting blocks  avail blocks\n"
            r"-----   ----   ---------   -------------  --------------  ------------\n"
            r"( +\d+ +\d+ +\d+ +\d+ +\d+ +\d+\n)+\n"
            r"# arenas allocated current         = +[1-9]\d*\n# unused slabs +=.*\n"
            r"# large blocks +=.*\n# bytes in arenas +=.*\n")
    assert re.match(form, hardened("linked", "pass", PYTHONMALLOCSTATS="1").stderr)
    result = run(*RUN, "--stats", sys.executable, "-c", "pass", environment=clean_environment())
    assert re.match(form, result.stderr)


EXPLAIN = """
from pymem.explain import explain, explain_address
from pymem.heap import Heap
kept = bytes(5000)
print(explain(kept))
gone = id(bytes(200))
print(explain_address(gone))
print(Heap.take().statistics()["hardened"])
"""


def test_tools_tell_slabs_and_what_waits():
    result = hardened("linked", EXPLAIN)
    assert result.returncode == 0, result.stderr
    assert "domain     any: the hardened allocator serves all\n" in result.stdout
    assert re.search(r"arena      hardened arena 0x[0-9a-f]+ of 1024 KiB", result.stdout)
    assert re.search(r"block      number \d+ of \d+, .*free, in quarantine or ready to be "
                     r"handed out; the address is its byte \d+\n", result.stdout)
    counts = re.search(r"\{'arenas': (\d+), 'blocks': (\d+), 'waiting': (\d+)\}", result.stdout)
    arenas, blocks, waiting = map(int, counts.groups())
    assert arenas >= 1 and blocks > 10000 and 0 < waiting < blocks


def test_a_heap_map_of_it(tmp_path):
    page = tmp_path / "map.html"
    result = run(*LINKED, "-m", "pymem", "heapmap", "-o", page, "-c",
                 "x = [str(i) for i in range(9999)]",
                 environment=clean_environment(PYTHONPATH=str(BUILD), PYTHONMALLOC="hardened"))
    assert result.returncode == 0, result.stderr
    assert re.search(r'"kind": ?"hardened"', page.read_text())


@pytest.mark.parametrize("text", ["colour=1", "quarantine=much", "canary"])
def test_wrong_options_are_refused(way, text):
    result = hardened(way, "pass", PYMEM_HARDENED=text)
    assert result.returncode != 0
    assert "PYMEM_HARDENED is a list like \"quarantine=1M,canary=0,fill=0,guard=0," \
        f"foreign=1\", not \"{text}\"" in result.stderr


def test_options_of_pymem_run():
    result = run(*RUN, sys.executable, "-c", "pass",
                 environment=clean_environment(PYMEM_HARDENED="canary=0"))
    assert result.returncode == 0
    result = run(BUILD / "pymem-run", "--hardened=canary=7", sys.executable, "-c", "pass",
                 environment=clean_environment())
    assert "not \"canary=7\"" in result.stderr


def test_what_malloc_gave_may_go_back_where_that_is_asked_for(way):
    code = FREE_TWICE + ("\nlibc = ctypes.CDLL(None)\nlibc.malloc.restype = ctypes.c_void_p\n"
                         "free(libc.malloc(100)); print('freed')\n")
    assert hardened(way, code, PYMEM_HARDENED="foreign=1").stdout == "freed\n"
    assert "Fatal Python error: _PyMem_Hardened: not a block" in hardened(way, code).stderr


INTERPRETERS = """
import _xxsubinterpreters as interpreters, threading
def work(id):
    interpreters.run_string(id, "x = [[str(i)] * 5 for i in range(20000)]; del x")
ids = [interpreters.create(isolated=True) for _ in range(4)]
threads = [threading.Thread(target=work, args=(id,)) for id in ids]
for t in threads: t.start()
x = [[str(i)] * 5 for i in range(50000)]
for t in threads: t.join()
for id in ids: interpreters.destroy(id)
print(len(x))
"""
NEWER = INTERPRETERS.replace("_xxsubinterpreters", "_interpreters").replace(
    "create(isolated=True)", "create('isolated')").replace("run_string", "exec")


@pytest.mark.parametrize("path", pythons(3, 12))
def test_interpreters_with_a_gil_each(path):
    version = run(path, "-c", "import sys; print(sys.version_info[1])").stdout
    result = run(*RUN, path, "-c", INTERPRETERS if int(version) == 12 else NEWER,
                 environment=clean_environment())
    assert (result.returncode, result.stdout) == (0, "50000\n"), result.stderr
