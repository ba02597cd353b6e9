"""pymem-run --trim-interval: unused memory goes back, and nothing else is to be noticed.
"""

import sys

import pytest

from conftest import clean_environment, embed_flags, pythons, run
from test_run import PYMEM_RUN

PEAK = """
import os, threading, time
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")
def goes_back():
    kept = [bytes(400) for _ in range(200_000)]
    high = resident()
    del kept
    end = time.monotonic() + 10
    while resident() > high / 2 and time.monotonic() < end:
        time.sleep(0.02)
    return resident() < high / 2
def in_thread():
    results = []
    thread = threading.Thread(target=lambda: results.append(goes_back()))
    thread.start()
    thread.join()
    return results[0]
"""


def trimmed(interval, python, *arguments, **options):
    return run(PYMEM_RUN, f"--trim-interval={interval}", python, *arguments, **options)


@pytest.mark.parametrize("python", pythons(3, 8))
def test_a_short_life(python):
    """The interpreter begins and ends while the thread is at work."""
    for _ in range(30):
        result = trimmed(0.001, python, "-c", "pass")
        assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("python", pythons(3, 8))
def test_while_the_main_thread_waits_and_in_children(python):
    """Idle, in join(), and where the program forked; without a warning of threads."""
    code = PEAK + """
assert goes_back() and in_thread()
for i in range(2):
    child = os.fork()
    if child == 0:
        os._exit(0 if goes_back() and in_thread() else 1)
    assert os.waitpid(child, 0)[1] == 0
assert goes_back() and in_thread()
def from_thread():
    child = os.fork()
    if child == 0:
        os._exit(0 if goes_back() else 1)
    assert os.waitpid(child, 0)[1] == 0
thread = threading.Thread(target=from_thread)
thread.start()
thread.join()
print(goes_back())
"""
    result = trimmed(0.05, python, "-W", "error::DeprecationWarning:__main__", "-c", code)
    # From 3.12 on a fork from a thread is a reason to warn, with us or without.
    assert result.stdout == "True\n", result.stderr


WORKERS = PEAK + """
import multiprocessing
def work(unused):
    return goes_back()
if __name__ == "__main__":
    for method in "fork", "forkserver", "spawn":
        with multiprocessing.get_context(method).Pool(2) as pool:
            assert pool.map(work, range(2)) == [True, True], method
    print("all")
"""


def test_workers_of_a_pool(tmp_path):
    (tmp_path / "workers.py").write_text(WORKERS)
    result = trimmed(0.05, sys.executable, tmp_path / "workers.py")
    assert (result.stdout, result.stderr) == ("all\n", "")


@pytest.mark.parametrize("where", ["main", "thread"])
def test_signals_are_the_programs(where):
    """Blocked by all its threads, and waited for."""
    code = """
import os, signal, threading, time
signal.pthread_sigmask(signal.SIG_BLOCK, range(1, signal.NSIG))
def wait():
    print("got", signal.sigwait([signal.SIGTERM, signal.SIGUSR1]), flush=True)
for number in (signal.SIGTERM, signal.SIGUSR1):
    time.sleep(0.1)
    if WHERE == "thread":
        thread = threading.Thread(target=wait)
        thread.start()
        time.sleep(0.1)
        os.kill(os.getpid(), number)
        thread.join()
    else:
        os.kill(os.getpid(), number)
        wait()
""".replace("WHERE", repr(where))
    for interval in (0.01, 1000):
        result = trimmed(interval, sys.executable, "-c", code)
        assert result.returncode == 0, result.stderr
        assert [line.split()[1] for line in result.stdout.splitlines()] == [
            "15", "10"] or "SIGTERM" in result.stdout


EMBEDDER = r"""
#include <Python.h>
#include <unistd.h>
int main(void)
{
    usleep(30000);
    for (int i = 0; i < 4; i++) {
        Py_Initialize();
        PyRun_SimpleString("import threading, time; time.sleep(0.03); print('ran', flush=True)");
        if (Py_FinalizeEx() < 0) {
            return 1;
        }
        usleep(30000);
    }
    return 0;
}
"""


def test_before_and_after_an_interpreter(tmp_path):
    """And in each of its cycles."""
    flags = embed_flags()
    (tmp_path / "embed.c").write_text(EMBEDDER)
    if run("cc", tmp_path / "embed.c", "-o", tmp_path / "embed", *flags).returncode != 0:
        pytest.skip("no libpython to embed here")
    for interval in (0.001, 0.01):
        result = trimmed(interval, tmp_path / "embed")
        assert (result.returncode, result.stdout, result.stderr) == (0, "ran\n" * 4, "")


def test_no_thread_is_left_at_the_end():
    """Of the process: what atexit runs after us sees none."""
    code = """
import atexit, os, time
atexit.register(lambda: None)
time.sleep(0.1)
import threading
def last():
    print(len(os.listdir("/proc/self/task")), threading.active_count())
class Last:
    def __del__(self): last()
kept = Last()
"""
    result = trimmed(0.001, sys.executable, "-c", code)
    assert result.stdout == "1 1\n"


def test_with_the_debug_hooks_of_the_interpreter():
    """They are above: a fault is found, and hooks that are asked for again are there."""
    code = """
import ctypes
api = ctypes.pythonapi
api.PyMem_SetupDebugHooks()
api.PyMem_Malloc.restype = ctypes.c_void_p
p = api.PyMem_Malloc(ctypes.c_size_t(20))
assert ctypes.string_at(p, 20) == b"\\xcd" * 20
ctypes.memset(p + 20, 1, 1)
api.PyMem_Free(ctypes.c_void_p(p))
"""
    result = run(PYMEM_RUN, "--debug", "--trim-interval=0.01", sys.executable, "-c", code,
                 environment=clean_environment())
    assert result.returncode == -6
    assert "bad trailing pad byte" in result.stderr
