"""python -m pymem attach: the tracer in a process that runs already.

In this CPython and in the newest other one here, with what pip installs.  Tools/stress-attach
does the same hundreds of times.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path

import pytest

from conftest import BUILD, IS_64_BITS, TOP, clean_environment, run
from test_package import backend, chosen

import attachprograms
from pymem.heap import HeapError
from pymem.remote import Debuggee

PROGRAM = TOP / "Lib" / "test" / "attachprograms.py"


def may_stop_others():
    child = subprocess.Popen(["sleep", "60"])
    try:
        with Debuggee(child.pid).stopped():
            return True
    except HeapError:
        return False
    finally:
        child.kill()
        child.wait()


def why_not():
    """What is missing to attach to a process; "": nothing."""
    if shutil.which("gdb") is None:
        return "needs gdb (Debian: gdb)"
    return "" if may_stop_others() else "needs the right to stop a process (ptrace)"


WHY_NOT = why_not()
pytestmark = needs_debugger = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)


@pytest.fixture(scope="session")
def native():
    with tempfile.TemporaryDirectory(prefix="pymem-native-") as folder:
        yield attachprograms.compile_native(folder)


class Package:
    """A folder with pymem for a Python, where each user can read it."""

    def __init__(self, python, version, folder):
        self.python, self.version, self.folder = python, version, folder
        wheels = Path(folder).parent / "wheel"
        wheels.mkdir(exist_ok=True)
        # What pip calls, as not every Python has pip.
        result = backend(python, "wheel = pymembuild.build_wheel(sys.argv[2])\n"
                         "pymembuild.zipfile.ZipFile(sys.argv[2] + '/' + wheel)"
                         ".extractall(sys.argv[3])", wheels, folder)
        assert result.returncode == 0, result.stderr

    def attach(self, process, *options, seconds="0.3", **variables):
        """Its command, which runs."""
        words = [self.python, "-m", "pymem", "attach", "--for", seconds, *options,
                 getattr(process, "pid", process)]
        return subprocess.Popen([str(word) for word in words], text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                env=clean_environment(PYTHONPATH=str(self.folder), **variables))

    def tracing(self, process, *options):
        """The same for an hour, when it has begun."""
        attacher = self.attach(process, *options, seconds="1h")
        while "tracing for" not in attacher.stderr.readline():
            assert attacher.poll() is None
        return attacher

    def attached(self, process, *options, **variables):
        """(exit status, what it printed, what went wrong)"""
        attacher = self.attach(process, *options, **variables)
        output, errors = attacher.communicate(timeout=120)
        return attacher.returncode, output, errors.strip().splitlines()[-1]


def packages():
    versions = chosen()
    return [version for version in versions
            if version in (list(versions)[-1], "%d.%d" % sys.version_info[:2])]


@pytest.fixture(scope="session", params=packages())
def package(request):
    with tempfile.TemporaryDirectory(prefix="pymem-package-") as folder:
        os.chmod(folder, 0o755)
        yield Package(chosen()[request.param], request.param, Path(folder) / "a b")


@pytest.fixture(scope="session")
def own_package(tmp_path_factory):
    with tempfile.TemporaryDirectory(prefix="pymem-package-") as folder:
        os.chmod(folder, 0o755)
        yield Package(sys.executable, "%d.%d" % sys.version_info[:2], Path(folder) / "p")


class Running:
    """A program that has said "ready"; it must end with "ok"."""

    def __init__(self, *command, **options):
        self.command, self.options = [str(word) for word in command], options

    def __enter__(self):
        self.process = subprocess.Popen(
            self.command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=clean_environment(), **self.options)
        assert self.process.stdout.readline() == "ready\n", self.process.stderr.read()
        return self.process

    def __exit__(self, kind, *_):
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        try:
            output, errors = self.process.communicate(timeout=60)
        finally:
            self.process.kill()
        if kind is None:
            assert (self.process.returncode, output, errors) == (0, "ok\n", "")


def program(python, name="compute", *arguments, **options):
    return Running(python, PROGRAM, name, *arguments, **options)


def script(python, code, **options):
    """Code that does one thing, and then waits for SIGTERM (see attachprograms)."""
    return Running(python, "-c", "import signal, sys, threading\nover = threading.Event()\n"
                   "signal.signal(signal.SIGTERM, lambda *_:"
                   " threading.Thread(target=over.set).start())\n" + code
                   + "\nprint('ready', flush=True)\nwhile not over.wait(0.1): pass\n"
                   "print('ok', flush=True)\n", **options)


def refused(package, process, *options, **variables):
    status, output, error = package.attached(process, *options, **variables)
    assert (status, output) == (1, ""), (status, output, error)
    assert error.startswith("pymem: ")
    return error[len("pymem: "):]


# What it finds.

@pytest.mark.parametrize("name", [program.__name__ for program in attachprograms.PROGRAMS])
def test_busy_programs_go_on(package, native, name):
    """Twice each, and their allocators are those from before."""
    with program(package.python, name, native) as process:
        for samples in "0", "512K":
            status, output, error = package.attached(process, "--samples", samples,
                                                     "--frames", "3", "--timeout", "60")
            assert status == 0, error
            assert re.search(r"allocated meanwhile and still there, in (about )?[\d,]+ "
                             "blocks\n", output)


LEAK = """
kept = []
def leak():
    kept.append(bytearray(5000))
def run():
    while not over.wait(0.002): leak()
threading.Thread(target=run).start()
"""


def test_the_line_that_leaks(package, tmp_path):
    out = tmp_path / "found"
    with script(package.python, LEAK) as process:
        status, output, error = package.attached(process, "--samples", "0", "-o", out,
                                                 seconds="1")
        assert status == 0, error
    rows = output.splitlines()
    assert re.match(r"[\d.,]+ [KM]iB allocated meanwhile and still there, in [\d,]+ blocks",
                    rows[0])
    assert re.match(r" +[\d.,]+ [KM]iB +\d+\.\d% +[\d,]+  <string>:7 leak$", rows[3])
    assert "outermost call first" in output and '  File "<string>", line 9' in rows
    snapshot = tracemalloc.Snapshot.load(out)
    biggest = snapshot.statistics("lineno")[0]
    assert biggest.traceback[0].lineno == 7 and biggest.count > 20
    flame = run(package.python, "-m", "pymem", "flame", "-o", tmp_path / "flame.txt",
                "--format", "collapsed", out,
                environment=clean_environment(PYTHONPATH=str(package.folder)))
    assert flame.returncode == 0, flame.stderr


def test_samples_are_estimates(package):
    """Of bytes and of blocks, whose number is not that of samples."""
    leak = LEAK.replace("kept.append(bytearray(5000))",
                        "kept.extend(bytes(500) for _ in range(100))")
    with script(package.python, leak) as process:
        status, output, error = package.attached(process, "--samples", "10k", "--frames", "1",
                                                 seconds="1")
        assert status == 0, error
    assert re.match(r".* allocated meanwhile and still there, in about [\d,]+ blocks\n", output)
    size, blocks = re.search(r" ([\d.,]+) MiB +\d+\.\d% +([\d,]+)  <string>:7", output).groups()
    nbytes, blocks = float(size.replace(",", "")) * (1 << 20), int(blocks.replace(",", ""))
    assert 0.8 < blocks * (500 + bytes.__basicsize__) / nbytes < 1.2, output


def test_the_build_needs_no_package(tmp_path):
    """The linked interpreter has the tracer.  flame draws the JSON, which has names."""
    environment = clean_environment(PYTHONPATH=str(BUILD))
    out, drawn = tmp_path / "found.json", tmp_path / "flame.txt"
    with script(BUILD / "python", LEAK) as process:
        result = run(BUILD / "python", "-m", "pymem", "attach", "--samples", "0", "--for", "1s",
                     "-o", out, process.pid, environment=environment)
        assert result.returncode == 0, result.stderr
        assert re.search(r"[KM]iB +\d+\.\d% +\d+  <string>:7 leak$", result.stdout, re.M)
    assert run(BUILD / "python", "-m", "pymem", "flame", "-o", drawn, out,
               environment=environment).returncode == 0
    nbytes, = re.findall(r";run \(<string>:9\);leak \(<string>:7\) (\d+)$", drawn.read_text(),
                         re.M)
    found = json.loads(out.read_text())
    assert int(nbytes) > 100_000 and found["pid"] == process.pid
    assert found["command"][0] == str(BUILD / "python") and found["sample_bytes"] == 0
    assert found["bytes"] == sum(stack["bytes"] for stack in found["stacks"])
    assert found["seconds"] >= 1 and time.time() - 600 < found["started"] < time.time()
    assert any(frame["function"] == "Thread.run" for frame in found["frames"])


# How it ends.

def test_ctrl_c_ends_it_and_shows_what_there_is(package):
    with script(package.python, LEAK) as process:
        attacher = package.tracing(process, "--samples", "0")
        time.sleep(0.5)
        attacher.send_signal(signal.SIGINT)
        output, errors = attacher.communicate(timeout=60)
        assert attacher.returncode == 0 and "<string>:7" in output, errors
        assert package.attached(process)[0] == 0


def test_it_ends_when_nobody_is_there_any_more(package):
    with script(package.python, LEAK) as process:
        attacher = package.tracing(process)
        folder = next(path for path in (os.readlink(link) for link in Path(
            f"/proc/{attacher.pid}/fd").iterdir()) if path.endswith("/alive"))
        attacher.kill()
        attacher.communicate()
        shutil.rmtree(os.path.dirname(folder))
        time.sleep(0.5)
        assert package.attached(process)[0] == 0


def test_a_program_that_ends_meanwhile_still_tells(package):
    with script(package.python, LEAK) as process:
        attacher = package.tracing(process, "--samples", "0")
        time.sleep(0.5)
        process.terminate()
        output, errors = attacher.communicate(timeout=60)
        assert attacher.returncode == 0 and "<string>:7" in output, errors


def test_children_of_a_fork_are_not_traced(package):
    with script(package.python, """
import os, warnings
warnings.simplefilter("ignore")         # of a fork with threads
def run():
    while not over.wait(0.01):
        pid = os.fork()
        if not pid:
            tracer = sys.modules.get("_pymemtracer")
            os._exit(tracer is not None and tracer.is_tracing())
        if os.waitpid(pid, 0)[1]:
            print("a child is traced", file=sys.stderr)
thread = threading.Thread(target=run)
thread.start()
""") as process:
        status, _, error = package.attached(process, seconds="1")
        assert status == 0, error


# x86's rep movsl, as compilers have it where size is all: without REX.W, so of 4 bytes.
SETS_HALVES = r"""
import ctypes, platform, sys
place = ctypes.cast(ctypes.pythonapi.PyMem_SetAllocator, ctypes.c_void_p).value
sys.exit(platform.machine() != "x86_64" or b"\xf3\xa5" not in ctypes.string_at(place, 160))
"""


def test_native_threads_allocate_while_it_starts(package, native):
    """A hook and its context are read one after the other."""
    if run(package.python, "-c", SETS_HALVES).returncode == 0:
        pytest.skip("PyMem_SetAllocator() of this interpreter writes half a pointer at a "
                    "time, so that its own tracemalloc crashes as well")
    code = """
import ctypes, sys, time
library = ctypes.PyDLL(sys.argv[1])
assert library.start_threads() == 0
import _pymemtracer as tracer
until = time.monotonic() + 1.5
while time.monotonic() < until:
    for sample_bytes in 0, 100_000:
        tracer.start(1, sample_bytes)
        tracer.stop()
ctypes.CDLL(sys.argv[1]).end_threads()
"""
    result = run(package.python, "-c", code, native,
                 environment=clean_environment(PYTHONPATH=str(package.folder)))
    assert result.returncode == 0, result.stderr


# Refusals.

@pytest.mark.once
def test_no_process_and_no_python(own_package):
    assert refused(own_package, 4194300) == "there is no process 4194300"
    child = subprocess.Popen(["sleep", "60"])
    try:
        error = refused(own_package, child)
    finally:
        child.kill()
        child.wait()
    assert re.match(rf"process {child.pid} is no CPython that can be seen \(/.*\)$", error)
    result = run(sys.executable, "-c", "import os\nfrom pymem.attach import Target\n"
                 "Target(os.getpid())", environment=clean_environment(
                     PYTHONPATH=str(own_package.folder)))
    assert "attach takes another process" in result.stderr


def test_an_output_that_cannot_be_written_is_told_before_the_wait(own_package, tmp_path):
    with program(own_package.python) as process:
        error = refused(own_package, process, "-o", tmp_path / "none" / "found")
    assert error == f"{tmp_path}/none/found: No such file or directory"


def test_a_refusal_leaves_no_file_and_takes_none_away(own_package, tmp_path):
    found = tmp_path / "found.json"
    with program(own_package.python) as process:
        process.send_signal(signal.SIGSTOP)
        for text in None, "from before":
            if text:
                found.write_text(text)
            refused(own_package, process, "-o", found)
            assert (found.read_text() if found.exists() else None) == text
        process.send_signal(signal.SIGCONT)


def test_a_process_that_is_stopped(own_package):
    with program(own_package.python) as process:
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.1)
        assert "is stopped, and does nothing" in refused(own_package, process)


def test_one_tracer_at_a_time(package):
    with script(package.python, "import tracemalloc; tracemalloc.start()") as process:
        assert refused(package, process).endswith(
            "tracemalloc is tracing there already; one tracer at a time")
    with script(package.python, f"sys.path.insert(0, {str(package.folder)!r})\n"
                "import pymem.tracemalloc as t; t.start()") as process:
        assert refused(package, process).endswith(
            "pymem.tracemalloc is tracing there already; one tracer at a time")


def test_remote_debugging_disabled(package):
    if int(package.version[2:]) < 14:
        pytest.skip("since 3.14")
    with Running(package.python, "-X", "disable-remote-debug", PROGRAM, "idle") as process:
        assert "remote debugging disabled" in refused(package, process)


FAKE = """
#include <unistd.h>
int Py_IsInitialized(void) { return 0; }
int PyGILState_Ensure(void) { return 0; }
int PyRun_SimpleString(const char *code) { return code == 0; }
void PyGILState_Release(int state) { (void)state; }
const unsigned long Py_Version = %s;
%s
int main(void) { return pause(); }
"""


@pytest.mark.parametrize("version, more, expected", [
    ("0x030D00F0", "void _Py_MergeZeroLocalRefcount(void) {}", "is free-threaded"),
    ("0x030700F0", "", "is none that pymem knows: 3.8 to 3.15"),
    ("0x031000F0", "", "is none that pymem knows: 3.8 to 3.15"),
    ("0x030900F0", "", r"needs a tracer of its version, and /.* has none: python3\.9 -m pip "
                       "install --no-deps --target /.*"),
])
def test_other_interpreters(own_package, tmp_path, version, more, expected):
    (tmp_path / "fake.c").write_text(FAKE % (version, more))
    result = run("cc", "-rdynamic", "-o", tmp_path / "fake", tmp_path / "fake.c")
    assert result.returncode == 0, result.stderr
    process = subprocess.Popen([tmp_path / "fake"])
    try:
        time.sleep(0.1)
        assert re.search(f", {expected}", refused(own_package, process))
    finally:
        process.kill()
        process.wait()


def test_another_type_of_machine(own_package, tmp_path):
    """A program of 32 bits for x86: pause(), again and again."""
    if not IS_64_BITS:
        pytest.skip("on 32 bits no program of 64 bits is made here")
    code = bytes.fromhex("b81d000000cd80ebf7")
    start, size = 0x10000, 84 + len(code)
    header = b"\x7fELF\1\1\1" + bytes(9) + b"".join(
        value.to_bytes(n, "little") for value, n in (
            (2, 2), (3, 2), (1, 4), (start + 84, 4), (52, 4), (0, 4), (0, 4), (52, 2), (32, 2),
            (1, 2), (0, 2), (0, 2), (0, 2),
            (1, 4), (0, 4), (start, 4), (start, 4), (size, 4), (size, 4), (5, 4), (4096, 4)))
    path = tmp_path / "small"
    path.write_bytes(header + code)
    path.chmod(0o755)
    try:
        process = subprocess.Popen([path])
        time.sleep(0.2)
        if process.poll() is not None:
            raise OSError
    except OSError:
        pytest.skip("this machine runs no program of 32 bits")
    try:
        assert "is a program for another type of machine" in refused(own_package, process)
    finally:
        process.kill()
        process.wait()


def test_a_thread_that_keeps_the_gil(own_package):
    """Nothing is traced when it comes too late."""
    code = """
import ctypes, signal, threading
over = threading.Event()
print('ready', flush=True)
ctypes.PyDLL(None).sleep(6)
signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=over.set).start())
while not over.wait(0.1): pass
print('ok')
"""
    with Running(own_package.python, "-c", code) as process:
        time.sleep(0.1)
        error = refused(own_package, process, "--timeout", "2")
        # The second where gdb itself took that long.
        assert re.search("did not start it within 2 s|no thread of it was in a place", error)
        time.sleep(5)
        status, _, error = own_package.attached(process)
        assert status == 0, error


def test_gdb_is_needed(own_package, tmp_path):
    if sys.version_info >= (3, 14):
        pytest.skip("only before 3.14")
    with program(own_package.python) as process:
        assert refused(own_package, process, PATH=str(tmp_path)).endswith(
            "gdb is needed, and not here (Debian: apt-get install gdb)")
        with Debuggee(process.pid).stopped():
            error = refused(own_package, process)
        assert re.search(rf"another debugger has it \(process {os.getpid()}\)", error)


# Users and roots.

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
NOBODY = 65534


@needs_root
def test_no_right_to(own_package):
    with program(own_package.python) as process:
        result = run(sys.executable, "-c", f"""
import os
from pymem.attach import Target
os.setgid({NOBODY}), os.setuid({NOBODY})
Target({process.pid})""", environment=clean_environment(PYTHONPATH=str(own_package.folder)))
        assert f"process {process.pid} may not be looked at" in result.stderr


@needs_root
def test_root_attaches_to_a_users_process(own_package):
    with script(own_package.python, f"import os\nos.setgid({NOBODY}), os.setuid({NOBODY})"
                + LEAK) as process:
        own_package.folder.chmod(0o700)
        try:
            assert re.search(r"/.*\.so: .*: Permission denied$", refused(own_package, process))
        finally:
            own_package.folder.chmod(0o755)
        status, output, error = own_package.attached(process, "--samples", "0", seconds="1")
        assert status == 0 and "<string>:8" in output, error


@needs_root
def test_other_files_there(own_package):
    """As in a container: what is there by the package's name is something else."""
    if run("unshare", "--mount", "true").returncode != 0:
        pytest.skip("needs unshare")
    with Running("unshare", "--mount", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"',
                 own_package.folder, own_package.python, PROGRAM, "idle") as process:
        error = refused(own_package, process)
        assert re.search(r"does not see .*: it has other files \(a container\)", error)
