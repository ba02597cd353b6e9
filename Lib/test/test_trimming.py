"""pymem-run --trim-interval: unused memory goes back, and nothing else can be noticed.
"""

import contextlib
import http.client
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from conftest import clean_environment, embed_flags, pythons, run
from test_run import PYMEM_RUN

pytestmark = pytest.mark.few_pythons

# With nothing kept (--keep=0) an arena goes back when it is empty, by CPython's rule.  What
# is left holds on to most arenas, so that only a trim gives their free pools back.
# So many turns, not seconds: a process that was stopped has had none meanwhile.
PEAK = """
import os, sys, threading, time
TURNS = 500
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")
def goes_back():
    kept = [bytes(400) for _ in range(100_000)]
    low = resident() - (20 << 20)
    del kept[1::2], kept[1::2], kept[1::2], kept[1::2], kept[1::2], kept[1::2], kept[1::2]
    for _ in range(TURNS):
        if resident() < low:
            return True
        time.sleep(0.02)
    print(resident(), "not", low, "threads:", os.listdir("/proc/self/task"), file=sys.stderr)
    return False
def in_thread():
    results = []
    thread = threading.Thread(target=lambda: results.append(goes_back()))
    thread.start()
    thread.join()
    return results[0]
"""


def trimmed(interval, python, *arguments, **options):
    return run(PYMEM_RUN, f"--trim-interval={interval}", "--keep=0", python, *arguments,
               **options)


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
    status = os.waitpid(child, 0)[1]
    assert status == 0, status
assert goes_back() and in_thread()
def from_thread():
    child = os.fork()
    if child == 0:
        os._exit(0 if goes_back() else 1)
    status = os.waitpid(child, 0)[1]
    assert status == 0, status
thread = threading.Thread(target=from_thread)
thread.start()
thread.join()
print(goes_back())
"""
    result = trimmed(0.05, python, "-W", "error::DeprecationWarning:__main__", "-c", code)
    # From 3.12 on a fork from a thread is a reason to warn, with us or without.
    assert result.stdout == "True\n", result.stderr


def test_nothing_else_gives_it_back():
    """Else the other tests could not fail."""
    code = PEAK.replace("500", "50") + "print(goes_back(), in_thread())"
    assert run(PYMEM_RUN, "--keep=0", sys.executable, "-c", code).stdout == (
        "False False\n")


FORKS_IN_C = PEAK + """
import ctypes
fork = (ctypes.PyDLL if WITH_GIL else ctypes.CDLL)(None).fork
def fork_and_look():
    time.sleep(0.2)         # no other thread of the program waits for the GIL
    for i in range(5):
        child = fork()
        if child == 0:
            os._exit(0 if goes_back() and in_thread() else 1)
        status = os.waitpid(child, 0)[1]
        assert status == 0, status
fork_and_look()
thread = threading.Thread(target=fork_and_look)
thread.start()
thread.join()
print(goes_back())
"""


@pytest.mark.parametrize("with_gil", [True, False])
@pytest.mark.parametrize("python", pythons(3, 8))
def test_a_fork_that_the_interpreter_does_not_know_of(python, with_gil):
    """By other code, with the GIL or without.  The thread waits for the GIL most of the
    time; a child that was told to let go of it by a thread that is not there waits."""
    code = FORKS_IN_C.replace("WITH_GIL", str(with_gil))
    result = trimmed(0.001, python, "-c", code)
    assert (result.returncode, result.stdout) == (0, "True\n"), result.stderr


SLOW_TRIM = r"""
#include <unistd.h>

/* The end of PyMem_Trim(), with the GIL. */
int
malloc_trim(size_t unused)
{
    usleep(1500000);
    return unused != 0;
}

/* While that goes on. */
int
fork_later(void)
{
    usleep(300000);
    return fork();
}
"""


def test_a_fork_waits_for_a_slow_trim(tmp_path):
    """Else the child has heaps that are half changed, and nobody lets go of its GIL."""
    (tmp_path / "slow.c").write_text(SLOW_TRIM)
    library = tmp_path / "slow.so"
    assert run("cc", "-shared", "-fPIC", tmp_path / "slow.c", "-o", library).returncode == 0
    result = trimmed(0.05, sys.executable, "-c", f"""
import ctypes, os
child = ctypes.CDLL({str(library)!r}).fork_later()
if child == 0:
    os._exit(len([bytes(400) for _ in range(1000)]) - 1000)
print(os.waitpid(child, 0)[1])
""", environment=clean_environment(LD_PRELOAD=str(library)))
    assert (result.stdout, result.stderr) == ("0\n", "")


# Its main thread holds the GIL for good, and runs Python code now and then.
HOLDS_GIL = r"""
#include <Python.h>
#include <dirent.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* How often our other threads woke up. */
static long
wakeups(void)
{
    long all = 0, number;
    DIR *tasks = opendir("/proc/self/task");
    for (struct dirent *task; (task = readdir(tasks)) != NULL;) {
        char path[400], line[200];
        snprintf(path, sizeof(path), "/proc/self/task/%s/status", task->d_name);
        FILE *file = atoi(task->d_name) == getpid() ? NULL : fopen(path, "r");
        while (file != NULL && fgets(line, sizeof(line), file) != NULL) {
            all += sscanf(line, "voluntary_ctxt_switches: %ld", &number) == 1
                ? number : 0;
        }
        if (file != NULL) {
            fclose(file);
        }
    }
    closedir(tasks);
    return all;
}

static double
seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec + now.tv_nsec / 1e9;
}

/* 20 times a second; 200 and more where it waits for the GIL.  It may wait until Python runs
 * again where it saw a GIL that was free and then was taken, so one look says little: that
 * it waits each time is what the test finds. */
static int
is_quiet(void)
{
    long before = wakeups();
    double start = seconds();
    usleep(500000);
    return (wakeups() - before) / (seconds() - start) < 60;
}

static int
trims_when_it_runs(void)
{
    PyRun_SimpleString("kept = [bytes(400) for _ in range(100_000)]\n"
                       "low = resident() - (20 << 20)\n"
                       "for _ in range(7): del kept[1::2]\n");
    usleep(300000);
    PyRun_SimpleString("time.sleep(0)");
    return PyRun_SimpleString("for _ in range(1000): pass\n"
                              "assert resident() < low, (resident(), low)\n");
}

int
main(void)
{
    Py_Initialize();
    PyRun_SimpleString("import time\n"
                       "def resident():\n"
                       "    with open('/proc/self/statm') as file:\n"
                       "        return int(file.read().split()[1]) * 4096\n");
    int failed = 0, nquiet = 0;
    for (int i = 0; i < 3; i++) {
        failed |= trims_when_it_runs();
        nquiet += is_quiet();
    }
    printf("%s ", nquiet > 0 ? "quiet" : "restless");
    fflush(stdout);
    for (int i = 0; i < 5; i++) {
        int status;
        if (fork() == 0) {
            alarm(20);
            _exit(trims_when_it_runs() != 0);
        }
        wait(&status);
        failed |= status;
    }
    printf("%d\n", failed);
    return Py_FinalizeEx();
}
"""


def test_a_program_that_holds_the_gil_for_good(tmp_path):
    """uWSGI without --enable-threads: a child that it forks later must not hang."""
    flags = embed_flags()
    (tmp_path / "holds.c").write_text(HOLDS_GIL)
    if run("cc", tmp_path / "holds.c", "-o", tmp_path / "holds", *flags).returncode != 0:
        pytest.skip("no libpython to embed here")
    result = trimmed(0.05, tmp_path / "holds")
    assert (result.returncode, result.stdout, result.stderr) == (0, "quiet 0\n", "")


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


APPLICATION = """
import os
kept = []
def application(environ, start_response):
    if environ["PATH_INFO"] == "/load":
        kept[:] = [bytes(400) for _ in range(100_000)]
        for _ in range(7): del kept[1::2]
    body = str(os.getpid()).encode()
    start_response("200 OK", [("Content-Length", str(len(body))), ("Connection", "close")])
    return [body]
"""
UWSGI_PLUGIN = Path("/usr/lib/uwsgi/plugins/python3_plugin.so")
UWSGI = ("uwsgi-core", "--plugin=python3", "--http-socket=127.0.0.1:{port}", "--master",
         "--processes=2", "--die-on-term", "--need-app", "--module=app:application")
GUNICORN = ("gunicorn", "--workers=2", "--bind=127.0.0.1:{port}", "app:application")
# As they are, and whether a worker lets go of the GIL while it waits.
SERVERS = {
    "gunicorn": (GUNICORN, True),
    "gunicorn-preload": ((*GUNICORN, "--preload"), True),
    "gunicorn-gevent": ((*GUNICORN, "--worker-class=gevent"), True),
    "uwsgi": (UWSGI, False),
    "uwsgi-lazy": ((*UWSGI, "--lazy-apps"), False),
    "uwsgi-osafterfork": ((*UWSGI, "--py-call-osafterfork"), False),
    "uwsgi-threads": ((*UWSGI, "--threads=3"), True),
}


def server_command(name, folder, port, environment):
    """uWSGI loads its libpython too late to be served; see Doc/pymem-run.rst."""
    command = [word.format(port=port) for word in SERVERS[name][0]]
    if "gevent" in name and run("/usr/bin/python3", "-c", "import gevent").returncode:
        pytest.skip("no gevent here")
    if command[0] == "uwsgi-core":
        if not UWSGI_PLUGIN.exists():
            pytest.skip("no uWSGI here")
        linked = run("ldd", UWSGI_PLUGIN).stdout.splitlines()
        environment["LD_PRELOAD"] = next(
            line.split()[2] for line in linked if "libpython3" in line)
        script = folder / "uwsgi"
        script.write_text('#!/bin/sh\nexec uwsgi-core "$@"\n')
        script.chmod(0o700)
        command[0] = str(script)
    elif shutil.which(command[0]) is None:
        pytest.skip(f"no {command[0]} here")
    return command


@contextlib.contextmanager
def serving(name, folder):
    """The port of a server that has begun."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    (folder / "app.py").write_text(APPLICATION)
    environment = clean_environment()
    command = server_command(name, folder, port, environment)
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(
            [PYMEM_RUN, "--trim-interval=0.05", "--keep=0", *command], cwd=folder, env=environment,
            stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        yield port
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def ask(port, path):
    """The worker that answered."""
    end = time.monotonic() + 20
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            connection.request("GET", path)
            return int(connection.getresponse().read())
        except ConnectionError:         # it begins, or a worker was killed
            if time.monotonic() > end:
                raise
            time.sleep(0.1)
        finally:
            connection.close()


def resident(pid):
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def wait_until_trimmed(worker, port, asks):
    """It has less than its peak by 20 MiB."""
    status = Path(f"/proc/{worker}/status").read_text()
    peak = int(status.partition("VmHWM:")[2].split()[0]) * 1024
    end = time.monotonic() + 10
    while resident(worker) > peak - (20 << 20):
        assert time.monotonic() < end, (peak, resident(worker))
        if asks:
            ask(port, "/")
        time.sleep(0.05)


@pytest.mark.parametrize("name", SERVERS)
def test_workers_of_a_server(tmp_path, name):
    """And those that take the place of others later.  Where a worker holds the GIL while
    it waits its memory goes back with the next requests."""
    with serving(name, tmp_path) as port:
        for turn in range(3):
            worker = ask(port, "/load")
            wait_until_trimmed(worker, port, asks=not SERVERS[name][1])
            time.sleep(0.2)
            os.kill(worker, 9)


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
