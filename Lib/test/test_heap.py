"""pymem.heap and pymem.remote: the heap of this process and of another one."""

import ctypes
import json
import os
import re
import select
import signal
import subprocess
import sys
import time

import pytest

from conftest import (ALIGNMENT, ARENA_SIZE, BUILD, POOL_SIZE, TOP, clean_environment,
                      compile_with_library, pythons, run)

sys.path.insert(0, str(TOP / "Lib"))
from pymem import remote  # noqa: E402
from pymem.heap import HeapError  # noqa: E402
from pymem.heapmap import Frame, terminal_lines  # noqa: E402
from pymem.remote import Process  # noqa: E402

# A command that runs a Python with our heap: the linked one, and others as they are.
RUNNERS = {"build": [BUILD / "python"]}
RUNNERS.update({path.split("/")[-3]: [BUILD / "pymem-run", path]
                for path in pythons(3, 8)})


@pytest.fixture(params=list(RUNNERS))
def runner(request):
    return RUNNERS[request.param]


def run_code(runner, code, **variables):
    result = run(*runner, "-c", code,
                 environment=clean_environment(PYTHONPATH=str(BUILD), **variables))
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_live_blocks_are_where_they_are(runner):
    """Each block that was asked for is a used block of its size, at its start."""
    run_code(runner, """
import random
from pymem.capi import free, malloc
from pymem.heap import Heap
random.seed(1)
blocks = {}
for _ in range(20000):
    size = random.randint(1, 512) if random.random() < .9 else random.randint(513, 9000)
    blocks[malloc(size)] = size
for address in random.sample(sorted(blocks), 7000):
    free(address)
    del blocks[address]
heap = Heap.take()
pools = {pool.address: pool for arena in heap.arenas for pool in arena.pools}
nsmall = 0
for address, size in blocks.items():
    place = heap.find(address + size - 1)
    if place is None:
        assert size > 512       # under pymem-run --raw or a hook: the raw domain's
        continue
    number, pool = place.number, place.pool
    assert pools[pool.address] is pool
    assert pool.block_address(number) == address, (hex(address), size)
    assert pool.block_states()[number] == "u"
    assert pool.blocksize >= size and place.offset == size - 1
    if size <= 512:
        nsmall += 1
        assert pool.blocksize == -(-size // place.alignment) * place.alignment
        assert not place.arena.is_medium
    else:
        assert place.arena.is_medium
assert nsmall > 11000
assert all(pool.free is not None for pool in heap.pools)
assert heap.used_blocks >= len(blocks) - 10
""")


def test_a_heap_does_not_change_afterwards(runner):
    run_code(runner, """
from pymem.heap import Heap
heap = Heap.take()
kept = [bytes(i % 500) for i in range(50000)]
then = heap.used_blocks
del kept
assert heap.used_blocks == then
assert Heap.take().used_blocks < then + 100000
""")


def test_one_heap_does_not_see_the_objects_of_another(runner):
    out = run_code(runner, """
from pymem.heap import Heap
Heap.take()
first = Heap.take()
kept = [bytes(i % 500) for i in range(100000)]
second = Heap.take()
del kept
third = Heap.take()
print(first.used_blocks, second.used_blocks, third.used_blocks)
""")
    first, second, third = map(int, out.split())
    assert second >= first + 90000 and third < first + 200


def test_statistics_are_those_that_are_printed(runner):
    """Between the two Python itself runs: a few blocks come and go."""
    result = run(*runner, "-c", """
import json, sys
from pymem.heap import Heap
kept = [bytes(i % 700) for i in range(50000)]
del kept[::3]
Heap.take()
sys._debugmallocstats(); heap = Heap.take()
print(json.dumps(heap.statistics()), flush=True)
""",
                 environment=clean_environment(PYTHONPATH=str(BUILD)))
    statistics = json.loads(result.stdout)
    parts = statistics["bytes"]
    assert sum(parts.values()) == statistics["arenas"]["bytes"]
    if runner[0].name == "python":
        rows = {int(size): list(map(int, rest.split())) for size, rest in re.findall(
            r"^ +\d+ +(\d+) +(\d+ +\d+ +\d+)$", result.stderr, re.M)}
        for row in statistics["classes"]:
            pools, blocks, free = rows[row["size"]]
            assert abs(row["blocks"] - blocks) < 5
            if row["blocks"] == blocks:
                assert (row["pools"], row["free_blocks"]) == (pools, free)
        assert sum(row["blocks"] == rows[row["size"]][1]
                   for row in statistics["classes"]) > 25


def test_usage_is_the_sum_of_the_heap(runner):
    run_code(runner, """
from collections import Counter
from pymem.capi import free, malloc
from pymem.heap import Heap, Usage
kept = [bytes(i % 2000) for i in range(30000)]
del kept[::4]
# Pools of their own, which stay while there are free ones.
for p in [malloc(30000) for _ in range(200)]: free(p)
for p in [malloc(size) for size in range(9000, 32000, 1000)]: free(p)
Usage.now(), Heap.take()
heap, usage = Heap.take(), Usage.now()
states = Counter(pool.state for arena in heap.arenas for pool in arena.pools)
assert states["empty"] >= 6
for state, count in zip(("free", "empty", "used", "full"), usage.pools):
    assert abs(states[state] - count) <= 3, (states, usage.pools)
assert abs(heap.used_blocks - usage.used_blocks) < 50
assert heap.held_bytes == usage.held_bytes
assert sum(usage.pools) == sum(len(arena.pools) for arena in heap.arenas)
assert abs(usage.fragmentation - heap.fragmentation) < 0.01
by_class = {**heap.classes(), **heap.classes(is_medium=True)}
# The heap that is kept is three bytes objects, each perhaps the only one of its size.
assert len(by_class.keys() ^ usage.sizes.keys()) <= 3
assert sum(size in by_class and pools == by_class[size]["pools"]
           for size, (pools, _) in usage.sizes.items()) >= len(by_class) - 4
""")


def test_without_our_heap_it_says_so():
    result = run(sys.executable, "-c", "from pymem.heap import Heap; Heap.take()",
                 environment=clean_environment(PYTHONPATH=str(BUILD)))
    assert "this Python's memory is not pymem's; run it as build/python, or as: pymem-run" \
        in result.stderr
    result = run(BUILD / "python", "-c", "from pymem.heap import Heap; Heap.take()",
                 environment=clean_environment(PYTHONPATH=str(TOP / "Lib")))
    assert "the module _pymem is not here" in result.stderr
    result = run(BUILD / "python", "-c", "from pymem.heap import Heap; Heap.take()",
                 environment=clean_environment(PYTHONPATH=str(BUILD),
                                               PYTHONMALLOC="malloc"))
    assert "pymalloc serves nothing in this process" in result.stderr


def test_a_broken_free_list_is_shown(python):
    """The first word of a free block leads to another block that is used."""
    out = run_code([python], """
import struct, sys
from pymem.capi import free, malloc, read_pointer, write
from pymem.heap import Heap
word = struct.calcsize("P")
blocks = [malloc(500) for _ in range(100)]
pool_of = lambda heap, p: heap.find(p).pool
free(blocks[50]); free(blocks[51])
good = read_pointer(blocks[51])
write(blocks[51], (blocks[40] + 8).to_bytes(word, sys.byteorder))
heap = Heap.take()
write(blocks[51], good.to_bytes(word, sys.byteorder))
print(pool_of(heap, blocks[51]).free, pool_of(heap, blocks[51]))
print(pool_of(Heap.take(), blocks[51]).free is not None)
""")
    assert re.match(r"None pool 0x\w+: .*, its free list is broken\nTrue", out)


# Another process.

PROGRAM = """
#include <Python.h>
#include <unistd.h>
static unsigned long long state = 1;
static unsigned below(unsigned n)
{
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    return (unsigned)(state >> 33) %% n;
}
static void *blocks[20000];
void change(void);
void change(void)
{
    unsigned i = below(20000);
    PyObject_Free(blocks[i]);
    blocks[i] = PyObject_Malloc(1 + below(below(10) ? 512 : 20000));
}
int main(void)
{
    for (int i = 0; i < KEPT; i++) if (PyObject_Malloc(64) == NULL) return 1;
    for (int i = 0; i < 100000; i++) change();
    for (int i = 0; i < 8000; i++) { PyObject_Free(blocks[i]); blocks[i] = NULL; }
    %s
}
"""
STILL = ("_PyObject_DebugMallocStats(stdout); fflush(stdout); "
         "for (;;) pause();")
BUSY = ("for (unsigned long n = 1; ; n++) { change(); "
        "if (n %% 100000 == 0) { putchar('.'); fflush(stdout); } }")


# Blocks that stay: none, or so many that the last freed ones are at hand.
KEPT = [0, 500_000]


def compile_program(folder, end, *others, kept=0):
    (folder / "prog.c").write_text(PROGRAM % end.replace("%%", "%"))
    return compile_with_library(folder / "prog.c", "-O1", f"-DKEPT={kept}", *others)


class Running:
    def __init__(self, program):
        self.process = subprocess.Popen([program], stdout=subprocess.PIPE, text=True,
                                        env=clean_environment())

    def __enter__(self):
        return self.process

    def __exit__(self, *error):
        self.process.kill()
        self.process.communicate()


@pytest.mark.parametrize("kept", KEPT)
def test_another_process_is_seen_exactly(tmp_path, kept):
    """Every number that it prints itself."""
    with Running(compile_program(tmp_path, STILL, kept=kept)) as process:
        text = ""
        while text.count("Total") < 2:
            text += process.stdout.readline()
        seen = Process(process.pid)
        heap, usage = seen.heap(), seen.usage()
    statistics = heap.statistics()
    rows = re.findall(r"^ +(\d+) +(\d+) +(\d+) +(\d+) +(\d+)$", text, re.M)
    assert [tuple(map(int, row)) for row in rows] == [
        (row["class"], row["size"], row["pools"], row["blocks"], row["free_blocks"])
        for row in statistics["classes"]]
    lines = {label.strip(" #"): int(number.replace(",", "")) for label, number in
             re.findall(r"^(.{35})= +([\d,]+)$", text, re.M)}
    assert lines == {
        "arenas allocated total": statistics["arenas"]["allocated"],
        "arenas reclaimed": statistics["arenas"]["reclaimed"],
        "arenas highwater mark": statistics["arenas"]["highwater"],
        "arenas allocated current": statistics["arenas"]["current"],
        f"{statistics['arenas']['current']} arenas * {ARENA_SIZE} bytes/arena":
            statistics["arenas"]["bytes"],
        "bytes in allocated blocks": statistics["bytes"]["allocated_blocks"],
        "bytes in available blocks": statistics["bytes"]["available_blocks"],
        f"{statistics['unused_pools']} unused pools * {POOL_SIZE} bytes":
            statistics["bytes"]["unused_pools"],
        "bytes lost to pool headers": statistics["bytes"]["pool_headers"],
        "bytes lost to quantization": statistics["bytes"]["quantization"],
        "bytes lost to arena alignment": statistics["bytes"]["arena_alignment"],
        "pool map leaves": statistics["map"]["leaves"],
        # The interpreter's, the thread's; a chunk does not hold 145 arenas of 256 KiB.
        "arena object chunks": 2 + (ALIGNMENT == 8 and kept > 0),
        "bytes lost to pool map root": statistics["map"]["root_bytes"],
        "bytes lost to pool map records": statistics["map"]["record_bytes"],
        "bytes lost to arena objects": statistics["map"]["arena_object_bytes"],
        "Total": lines["Total"]}
    assert statistics["medium"]["classes"]
    assert all(pool.free is not None for pool in heap.pools)
    assert (usage.used_blocks, usage.held_bytes, usage.used_bytes) == (
        heap.used_blocks, heap.held_bytes, heap.used_bytes)
    assert {size: counts[1] for size, counts in usage.sizes.items()} == {
        size: row["blocks"] for size, row in
        {**heap.classes(), **heap.classes(is_medium=True)}.items()}


@pytest.mark.parametrize("kept", KEPT)
def test_a_busy_process_is_seen_at_one_moment(tmp_path, kept):
    with Running(compile_program(tmp_path, BUSY, kept=kept)) as process:
        process.stdout.read(1)
        seen = Process(process.pid)
        counts = set()
        for _ in range(40):
            heap = seen.heap()
            assert all(pool.free is not None for pool in heap.pools)
            for pool in heap.pools:
                assert len(pool.free) + pool.nused == pool.ncut
            # 8,000 of 20,000 are empty at first, and one in ten is large.
            assert 10_000 < heap.used_blocks - kept <= 20_000
            counts.add(heap.used_bytes)
            time.sleep(0.005)
        assert len(counts) > 5          # it did go on in between
        # It goes on, and nobody was told that it stopped.
        assert os.waitpid(process.pid, os.WNOHANG | os.WUNTRACED) == (0, 0)
        process.stdout.read(1)


SIGNALLED = "extern void count_signals(void); count_signals();"
COUNTING = """
#include <signal.h>
#include <stdio.h>
static volatile sig_atomic_t n;
static void count(int signal) { (void)signal; n++; }
void change(void);
void count_signals(void)
{
    signal(SIGRTMIN, count);
    puts("ready"); fflush(stdout);
    while (n < 10) change();
    puts("all came"); fflush(stdout);
}
"""


def test_a_process_gets_each_signal_while_it_is_seen(tmp_path, monkeypatch):
    """Also one that comes just before it is stopped, and stops it itself."""
    ptrace = ctypes.CDLL(None, use_errno=True).ptrace
    ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    ptrace.restype = ctypes.c_long

    class Libc:
        def __init__(self, *_, **__):
            def ptrace_and_signal(request, thread, *rest):
                result = ptrace(request, thread, *rest)
                if request == remote.SEIZE:
                    os.kill(thread, signal.SIGRTMIN)
                    time.sleep(0.005)
                return result
            self.ptrace = ptrace_and_signal
    (tmp_path / "counting.c").write_text(COUNTING)
    program = compile_program(tmp_path, SIGNALLED, tmp_path / "counting.c")
    with Running(program) as process:
        assert process.stdout.readline() == "ready\n"
        seen = Process(process.pid)
        with monkeypatch.context() as patch:
            patch.setattr(ctypes, "CDLL", Libc)
            for _ in range(10):
                with seen.stopped():
                    pass
        assert select.select([process.stdout], [], [], 20)[0], "signals were lost"
        assert process.stdout.readline() == "all came\n"


def test_of_a_process_that_is_not_there_or_not_ours(tmp_path):
    with pytest.raises(HeapError, match="there is no process 4194305"):
        Process(4194305)
    other = subprocess.Popen(["sleep", "60"])
    try:
        time.sleep(0.1)
        with pytest.raises(HeapError, match=f"process {other.pid} has no heap of pymem: it "
                           "runs neither build/python nor under pymem-run"):
            Process(other.pid)
    finally:
        other.kill()
        other.wait()
    program = compile_program(tmp_path, STILL)
    with Running(program) as process:
        while "Total" not in process.stdout.readline():
            pass
        seen = Process(process.pid)
    with pytest.raises(HeapError, match=f"process {process.pid} ended"):
        seen.heap()
    with pytest.raises(HeapError, match=f"process {process.pid} ended"):
        seen.usage()


# Interpreters with a GIL each, and threads.

INTERPRETERS = """
import gc, threading
from pymem.heap import Heap
try:
    import _interpreters
    new, execute = lambda: _interpreters.create("isolated"), _interpreters.exec
except ImportError:
    import _xxsubinterpreters as _interpreters
    new, execute = lambda: _interpreters.create(isolated=True), _interpreters.run_string
first, second = new(), new()
execute(first, "kept = [str(i) * 3 for i in range(50000)]")
execute(second, "kept = [bytes(600) for i in range(100)]")
"""


@pytest.fixture(params=[path.split("/")[-3] for path in pythons(3, 12)])
def several(request):
    return RUNNERS[request.param]


def test_each_heap_is_shown_by_its_interpreter(several):
    run_code(several, INTERPRETERS + """
heap = Heap.take()
owners = heap.owners()
own = {owner: counts for owner, counts in owners.items() if owner.startswith("interp")}
assert set(own) == {"interpreter 0", f"interpreter {int(first)}",
                    f"interpreter {int(second)}"}, own
assert own[f"interpreter {int(first)}"][2] > 50000
assert own[f"interpreter {int(second)}"][2] < 50000
assert sum(blocks for _, _, blocks in owners.values()) == heap.used_blocks
for arena in heap.arenas:
    assert arena.is_medium == (arena.interpreter < 0) == (arena.thread > 0)
    assert str(arena).endswith("of " + arena.owner)
_interpreters.destroy(first)
_interpreters.destroy(second)
left = Heap.take().owners().get(f"interpreter {int(first)}", (0, 0, 0))
assert left[2] < 20000, left
""")


def test_threads_have_their_medium_blocks(runner):
    run_code(runner, """
import threading
from pymem.capi import free, malloc
from pymem.heap import Heap
found, done, go_on = [], threading.Event(), threading.Event()
def work():
    found.extend(malloc(3000) for i in range(50))
    done.set()
    go_on.wait()
thread = threading.Thread(target=work)
thread.start()
done.wait()
heap = Heap.take()
place = heap.find(found[7])
assert place.arena.owner == f"thread {thread.native_id}", place.arena
assert heap.find(malloc(3000)).arena.owner == f"thread {threading.main_thread().native_id}"
for p in found[::2]: free(p)            # here, where they are not at home
pools = {p: heap.find(p).pool for p in found}
heap = Heap.take()
for i, p in enumerate(found):
    place = heap.find(p)
    assert (place.number in place.pool.free) == (i % 2 == 0)
assert all(pool.free is not None for pool in heap.pools)
go_on.set()
thread.join()
""")


def test_another_process_with_several_heaps(several, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(INTERPRETERS + "print(int(first), int(second), flush=True)\ninput()\n")
    with subprocess.Popen([*map(str, several), script], stdin=subprocess.PIPE, text=True,
                          stdout=subprocess.PIPE,
                          env=clean_environment(PYTHONPATH=str(BUILD))) as process:
        first, second = process.stdout.readline().split()
        heap = Process(process.pid).heap()
        process.communicate("\n")
    owners = heap.owners()
    assert owners[f"interpreter {first}"][2] > 50000
    assert f"interpreter {second}" in owners and "interpreter 0" in owners
    assert all(pool.free is not None for pool in heap.pools)
    text = "\n".join(terminal_lines([Frame("now", heap)], False))
    assert text.index("\ninterpreter 0:\n") < text.index(f"\ninterpreter {first}:\n")


def test_the_layout_is_that_of_the_header():
    """Its fields stand in C and in Python: the names, their order and their types."""
    header = (TOP / "Include" / "pymemheap.h").read_text()
    structure = re.search(r"typedef struct \{([^}]*)\} PyMemHeapLayout;", header)[1]
    fields = {}
    for kind, names in re.findall(r"(const void|uint32_t|char)\s+([^;]+);", structure):
        fields.setdefault(kind, []).extend(re.sub(r"[*\s]", "", names).split(","))
    assert fields == {"char": ["cookie[8]"], "const void": remote.POINTERS,
                      "uint32_t": remote.NUMBERS}
    assert f'"{remote.COOKIE.decode()}"' in structure
