"""Heaps of interpreters and threads: linked CPythons from 3.12 on, and pymem-run.

Blocks that are freed in another interpreter, interpreters that end, and requests over 512
bytes without the GIL.

Python/install/installheaps.c needs interpreters.
"""

import re
import sys

import pytest

from conftest import BUILD, clean_environment, pythons, relinkable, run

RUN = {f"run-{path.split('/')[-3]}": [BUILD / "pymem-run", path]
       for path in pythons(3, 12)}
LINKED = [f"linked-{version}" for version in relinkable() if int(version[2:]) >= 12]

INTERPRETERS = """
import os, sys, threading
try:
    import _interpreters
    new, shared = (lambda: _interpreters.create("isolated"),
                   lambda: _interpreters.create("legacy"))
    execute = _interpreters.exec
except ImportError:
    import _xxsubinterpreters as _interpreters
    new, shared = (lambda: _interpreters.create(isolated=True),
                   lambda: _interpreters.create(isolated=False))
    execute = _interpreters.run_string
destroy = _interpreters.destroy
"""


def command(name):
    if name in RUN:
        return RUN[name]
    folder = BUILD / f"cpython-{name.removeprefix('linked-')}"
    python = relinkable()[name.removeprefix("linked-")]
    result = run(BUILD.parent / "Tools" / "relink", f"--build={BUILD}",
                 f"--products={folder}", f"--with-python={python}")
    assert result.returncode == 0, result.stderr
    return [folder / "python"]


@pytest.fixture(scope="module", params=[*RUN, *LINKED])
def several(request):
    return command(request.param)


@pytest.fixture(scope="module", params=LINKED)
def linked(request):
    return command(request.param)


def run_code(python, code, **variables):
    result = run(*python, "-c", code,
                 environment=clean_environment(PYTHONPATH=str(BUILD), **variables))
    assert result.returncode == 0, result.stderr
    return result.stdout


# ctypes is not for isolated interpreters; so the one that uses it shares the main GIL, and
# others with a GIL each work beside it.
CROSSING = INTERPRETERS + """
import ctypes
api = ctypes.pythonapi
for name in ("PyMem_Malloc", "PyObject_Malloc", "PyMem_Realloc"):
    getattr(api, name).restype = ctypes.c_void_p
def malloc(n): return api.PyObject_Malloc(ctypes.c_size_t(n))
def free(p): api.PyObject_Free(ctypes.c_void_p(p))
def realloc(p, n): return api.PyMem_Realloc(ctypes.c_void_p(p), ctypes.c_size_t(n))
"""


def test_blocks_are_freed_in_another_interpreter(several, tmp_path):
    """Both ways round, resized there, small and medium, while others are busy."""
    code = CROSSING + """
WORK = "for _ in range(20): kept = [(i, str(i)) for i in range(10_000)]"
busy = [new() for _ in range(2)]
other = shared()
ours = [malloc(1 + i % 3000) for i in range(20000)]
grown = [malloc(1 + i % 600) for i in range(5000)]
threads = [threading.Thread(target=execute, args=(i, WORK)) for i in busy]
for thread in threads: thread.start()
execute(other, CROSSING + f'''
for p in {ours!r}: free(p)
moved = [realloc(p, 700) for p in {grown!r}]
theirs = [malloc(1 + i % 3000) for i in range(20000)]
with open({PATH!r}, "w") as file: file.write(repr(theirs + moved))
''')
with open(PATH) as file: theirs = eval(file.read())
for p in theirs: free(p)
for thread in threads: thread.join()
kept = [[i] for i in range(100_000)]
destroy(other)
for i in busy: destroy(i)
kept = [[i] for i in range(100_000)]
"""
    run_code(several, f"PATH, CROSSING = {str(tmp_path / 'blocks')!r}, {CROSSING!r}\n" + code)


def test_what_interpreters_leave_is_in_the_count(linked):
    """As stock counts it; and their memory is used again."""
    code = INTERPRETERS + """
counts = []
for _ in range(30):
    interpreter = new()
    execute(interpreter, "kept = [str(i) * 3 for i in range(5000)]")
    destroy(interpreter)
    counts.append(sys.getallocatedblocks())
print((counts[-1] - counts[9]) // 20)
"""
    ours = int(run_code(linked, code))
    stock = int(run_code([linked[0].parent / "python-stock"], code))
    assert abs(ours - stock) <= 2, (ours, stock)


CYCLES = INTERPRETERS + """
def resident():
    with open("/proc/self/statm") as file: return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")
for number in range(320):
    interpreter = new()
    execute(interpreter, "kept = [str(i) * 3 for i in range(3000)]")
    destroy(interpreter)
    if number == 20: before = resident()
print(resident() - before)
"""


def test_many_interpreters_grow_no_more_than_stock(several):
    """From 3.14 on stock does not grow at all."""
    python = several[-1]
    stock = python if len(several) > 1 else python.parent / "python-stock"
    ours, theirs = (int(run_code(command, CYCLES)) for command in (several, [stock]))
    assert ours < 1.1 * theirs + (1 << 19), (ours, theirs)


def test_an_interpreter_that_shares_the_gil_shares_the_heap(several):
    run_code(several, INTERPRETERS + """
from pymem.heap import Heap
interpreter = shared()
execute(interpreter, "kept = [str(i) for i in range(1000)]")
owners = [owner for owner in Heap.take().owners() if owner.startswith("interp")]
assert owners == ["interpreter 0"], owners
""")


def test_interpreters_that_ended_have_no_heap(several):
    """Its blocks are the main interpreter's then, where any are left."""
    run_code(several, INTERPRETERS + """
from pymem.heap import Heap
for _ in range(20):
    interpreter = new()
    execute(interpreter, "kept = [str(i) * 3 for i in range(3000)]")
    destroy(interpreter)
kept = [[i] for i in range(100_000)]
owners = {owner for owner in Heap.take().owners() if owner.startswith("interp")}
assert owners == {"interpreter 0"}, owners
""")


SLOW_FORK = r"""
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

/* It comes late to the list of what is done before a fork: after the lock of the table of
 * interpreters, before that of all heaps.  In the other order it runs. */
static void
give_others_time(void)
{
    usleep(300000);
}

__attribute__((constructor)) static void
start(void)
{
    pthread_atfork(give_others_time, NULL, NULL);
}

int
fork_and_wait(void)
{
    int status;
    pid_t child = fork();
    if (child == 0) {
        _exit(0);
    }
    return child < 0 || waitpid(child, &status, 0) < 0 ? -1 : status;
}
"""


def test_a_fork_while_interpreters_begin(several, tmp_path):
    """Locks are taken in one order: by the fork, and by the first request of each."""
    (tmp_path / "fork.c").write_text(SLOW_FORK)
    library = tmp_path / "fork.so"
    assert run("cc", "-shared", "-fPIC", tmp_path / "fork.c", "-o", library).returncode == 0
    run_code(several, INTERPRETERS + f"""
import ctypes
fork_and_wait = ctypes.CDLL({str(library)!r}).fork_and_wait
forked = False
def begin_and_end():
    while not forked: destroy(new())
threads = [threading.Thread(target=begin_and_end) for _ in range(2)]
for thread in threads: thread.start()
statuses = [fork_and_wait() for _ in range(5)]
forked = True
for thread in threads: thread.join()
assert statuses == [0] * 5, statuses
""", LD_PRELOAD=str(library))


def test_a_child_makes_interpreters(several):
    """No lock of the parent's is left in it."""
    assert run_code(several, INTERPRETERS + """
destroy(new())
child = os.fork()
if child == 0:
    for _ in range(3): destroy(new())
    os._exit(0)
print(os.waitpid(child, 0)[1])
""") == "0\n"


def test_statistics_at_the_end_are_the_main_interpreters(several):
    """When no thread has an interpreter any more."""
    if "pymem-run" not in str(several[0]):
        pytest.skip("pymem-run --stats is at the end of the process")
    result = run(several[0], "--stats", *several[1:], "-c", INTERPRETERS + """
destroy(new())
kept = [bytes(300) for _ in range(20000)]
""")
    assert result.returncode == 0, result.stderr
    total = int(re.search(r"# arenas allocated total += +([\d,]+)", result.stderr)[1])
    assert total >= 6, result.stderr


# Over 512 bytes without the GIL: functions of a CDLL are called without it.

ANY_THREAD = """
import ctypes, random, sys, threading
api = ctypes.CDLL(None)
for name in "PyMem_Malloc PyObject_Malloc PyMem_Realloc PyMem_Calloc PyMem_RawRealloc".split():
    getattr(api, name).restype = ctypes.c_void_p
size_t, pointer = ctypes.c_size_t, ctypes.c_void_p
slots = [[] for _ in range(8)]
def work(seed):
    random.seed(seed)
    for i in range(3000):
        n = random.randint(513, 60_000)
        p = random.choice([api.PyMem_Malloc, api.PyObject_Malloc])(size_t(n))
        ctypes.memset(p, seed, n)
        if i % 3 == 0:
            p = random.choice([api.PyMem_Realloc, api.PyMem_RawRealloc])(
                pointer(p), size_t(n + 1000))
        slots[seed].append((p, n, seed))
        others = slots[random.randrange(8)]
        try: q, m, filled = others.pop()
        except IndexError: continue
        assert ctypes.string_at(q, m) == bytes([filled]) * m
        random.choice([api.PyMem_Free, api.PyMem_RawFree, api.PyObject_Free])(pointer(q))
threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
failed = []
threading.excepthook = failed.append
for thread in threads: thread.start()
for thread in threads: thread.join()
assert not failed, failed
print("fine")
"""
ALL = {"build": [BUILD / "python"],
       **{f"run-{path.split('/')[-3]}": [BUILD / "pymem-run", path]
          for path in pythons(3, 8)}}


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("medium", ["", "pools", "malloc"])
def test_large_requests_need_no_gil(name, medium):
    assert run_code(ALL[name], ANY_THREAD, PYMEM_MEDIUM=medium) == "fine\n"


@pytest.mark.parametrize("name", ALL)
def test_medium_requests_left_to_malloc(name):
    code = """
from pymem.capi import malloc
from pymem.heap import Heap
p = malloc(3000)
print(Heap.take().find(p) is None)
"""
    assert run_code(ALL[name], code) == "False\n"
    assert run_code(ALL[name], code, PYMEM_MEDIUM="malloc") == "True\n"
    if name != "build":
        option = [ALL[name][0], "--medium=malloc", *ALL[name][1:]]
        assert run_code(option, code) == "True\n"


@pytest.mark.parametrize("name", ALL)
def test_medium_requests_have_pools_once_a_size_was_asked_for_often(name):
    code = """
from pymem.capi import free, malloc
from pymem.heap import Heap
heap = Heap.take
blocks = [malloc(30_000) for i in range(40)]
found = [heap().find(p) is not None for p in blocks]
print(found == sorted(found), found[-1], heap().find(malloc(20_000)) is not None)
for p in blocks: free(p)
"""
    assert run_code(ALL[name], code, PYMEM_MEDIUM="") == "True True False\n"


def test_an_unknown_server_of_medium_requests():
    result = run(BUILD / "python", "-c", "bytes(1000)",
                 environment=clean_environment(PYMEM_MEDIUM="mmap"))
    assert result.returncode == -6
    assert 'PYMEM_MEDIUM is "pools" or "malloc", not "mmap"' in result.stderr
    run_program = BUILD / "pymem-run"
    result = run(run_program, "--medium=mmap", BUILD / "python")
    assert (result.returncode, result.stderr) == (
        125, 'pymem-run: --medium takes pools or malloc, not "mmap"\n')
    result = run(run_program, sys.executable,
                 environment=clean_environment(PYMEM_MEDIUM="mmap"))
    assert result.returncode == 126
    assert re.match("pymem-run: PYMEM_MEDIUM is pools or malloc", result.stderr)
