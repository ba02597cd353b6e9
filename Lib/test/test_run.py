"""pymem-run: an interpreter as it is, with pymem in it; and the same by a call.

Python/install/install.c and Python/host/hostenv.c, which need an interpreter.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys

import pytest

from conftest import BUILD, SIZE_CLASSES, TOP, VERSION, clean_environment, pythons, run
from elffiles import readelf

PYMEM_RUN = BUILD / "pymem-run"
PYTHONS = pythons(3, 8)


def pymem_run(*arguments, **variables):
    return run(PYMEM_RUN, *arguments, environment=clean_environment(**variables))


def statistics(path):
    return json.loads(path.read_text())


@pytest.mark.parametrize("python", PYTHONS)
def test_objects_are_served_by_pymem(python, tmp_path):
    path = tmp_path / "stats.json"
    result = pymem_run(f"--stats-json={path}", python, "-c", """
import sys
kept = [bytes(100) for _ in range(50_000)]
assert sys.getallocatedblocks() < 100       # the interpreter's own
sys.exit(7)
""")
    assert (result.returncode, result.stderr) == (7, "")
    stats = statistics(path)
    assert stats["arenas"]["highwater"] >= 7
    assert stats["arenas"]["allocated"] == (stats["arenas"]["reclaimed"]
                                            + stats["arenas"]["current"])


@pytest.mark.parametrize("python", PYTHONS)
def test_symbols_stay_the_interpreters(python):
    """An extension module that asks for PyMem_Malloc gets the interpreter's."""
    code = ("import ctypes, sys; address = ctypes.cast(ctypes.CDLL(None)."
            "PyMem_Malloc, ctypes.c_void_p).value\n"
            "for line in open('/proc/self/maps'):\n"
            "    low, high = (int(x, 16) for x in line.split()[0].split('-'))\n"
            "    if low <= address < high: print(line.split()[-1])")
    with_pymem = pymem_run(python, "-c", code).stdout
    assert with_pymem and with_pymem == run(python, "-c", code).stdout
    assert "pymem" not in with_pymem


def test_preloaded_object_exports_nothing_of_cpythons():
    symbols = run("nm", "-D", "--defined-only", BUILD / ".libs" / "pymem-preload.so")
    assert re.findall(r" T (\w+)", symbols.stdout) == [
        "PyMemHeap_FreeBlocks", "PyMemHeap_GetFigures", "PyMemHeap_Visit", "PyMem_Trim",
        "pymem_install", "pymem_write_statistics"]


@pytest.mark.parametrize("python", PYTHONS)
def test_debug_hooks_are_the_interpreters(python):
    code = """
import ctypes
api = ctypes.pythonapi
api.PyObject_Malloc.restype = ctypes.c_void_p
p = api.PyObject_Malloc(ctypes.c_size_t(20))
assert ctypes.string_at(p, 20) == b"\\xcd" * 20
ctypes.memset(p + 20, 1, 1)
api.PyObject_Free(ctypes.c_void_p(p))
"""
    result = pymem_run("--debug", python, "-c", code)
    assert result.returncode == -6
    assert "bad trailing pad byte" in result.stderr


def test_statistics_at_the_end():
    result = pymem_run("--stats", sys.executable, "-c", "print('out')")
    assert result.stdout == "out\n"
    assert result.stderr.startswith(f"Small block threshold = 512, in {SIZE_CLASSES} size")
    assert result.stderr.count("Small block threshold") == 1


def test_statistics_that_cannot_be_written():
    result = pymem_run("--stats-json=/proc/none", sys.executable, "-c", "pass")
    assert result.returncode == 0
    assert result.stderr.startswith("pymem-run: /proc/none: ")


CHILD = """
import os, subprocess, sys
def pymem_here():
    return "pymem-preload" in open("/proc/self/maps").read()
out = subprocess.run([sys.executable, "-c",
    "print('pymem-preload' in open('/proc/self/maps').read())"],
    stdout=subprocess.PIPE, text=True).stdout.strip()
print(pymem_here(), out, os.environ.get("LD_PRELOAD", "none"))
"""


def test_children_inherit_it():
    result = pymem_run(sys.executable, "-c", CHILD)
    assert result.stdout.startswith("True True ")


WHERE = """
import os, subprocess, sys
name = os.path.basename(os.environ["LD_PRELOAD"])
for line in open("/proc/self/maps"):
    if name in line:
        print(name, int(line.split("-")[0], 16) < 0x400000, flush=True)
        break
if sys.argv[1:]:
    subprocess.run(sys.argv[1:])
"""
LIBRARIES = BUILD / ".libs"
FAR, NEAR = "pymem-preload.so False\n", "pymem-preload-near.so True\n"


def preload_of(python):
    near = LIBRARIES / "pymem-preload-near.so"
    is_at_fixed_place = "EXEC (" in readelf("-h", python)
    return near if near.exists() and is_at_fixed_place else LIBRARIES / "pymem-preload.so"


@pytest.mark.parametrize("python", PYTHONS)
def test_the_library_lies_near_an_interpreter_at_a_fixed_place(python):
    near = NEAR if "near" in preload_of(python).name else FAR
    assert pymem_run(python, "-c", WHERE).stdout == near
    assert pymem_run("--hardened", python, "-c", WHERE).stdout == FAR
    within = [python, "-c", WHERE]
    for outer, inner in ((), ["--hardened"]), (["--hardened"], ()):
        result = pymem_run(*outer, *within, PYMEM_RUN, *inner, *within)
        assert result.stdout == (FAR if outer else near) + (FAR if inner else near)


def test_children_without():
    result = pymem_run("--no-children", sys.executable, "-c", CHILD)
    assert result.stdout == "True False none\n"
    other = "libm.so.6"
    result = pymem_run("--no-children", sys.executable, "-c", CHILD, LD_PRELOAD=other)
    assert result.stdout == f"True False {other}\n"


def test_a_child_says_nothing_at_its_end(tmp_path):
    path = tmp_path / "stats.json"
    result = pymem_run("--stats", f"--stats-json={path}", sys.executable, "-c", CHILD)
    assert result.stderr.count("Small block threshold") == 1


def test_trimming():
    """A peak goes back while the program does something else."""
    code = """
import os, time
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGESIZE")
peak = [bytes(400) for _ in range(600_000)]
high = resident()
del peak
end = time.monotonic() + 10
while resident() > high / 3 and time.monotonic() < end:
    sum(range(1000))
print(resident() < high / 3)
"""
    result = pymem_run("--trim-interval=0.05", sys.executable, "-c", code)
    assert result.stdout == "True\n"


def test_huge_pages():
    code = ("kept = [bytes(400) for _ in range(100_000)]\n"
            "print('VmFlags' in open('/proc/self/smaps').read() and"
            " ' hg' in open('/proc/self/smaps').read())")
    assert pymem_run("--hugepages", sys.executable, "-c", code).stdout == "True\n"
    if sys.version_info < (3, 15):      # which asks for them itself, for all that it maps
        assert pymem_run(sys.executable, "-c", code).stdout == "False\n"


def test_signals_and_exit_codes_pass_through():
    for code, status in (("raise SystemExit(3)", 3), ("import os; os.abort()", -6),
                         ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
                          -15)):
        assert pymem_run(sys.executable, "-c", code).returncode == status
    process = subprocess.Popen(
        [PYMEM_RUN, sys.executable, "-c", "print('here', flush=True)\nwhile True: pass"],
        stdout=subprocess.PIPE)
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == -signal.SIGINT


def test_venv_and_scripts(tmp_path):
    assert run(sys.executable, "-m", "venv", "--without-pip",
               tmp_path / "venv").returncode == 0
    code = "import sys; print(sys.prefix, 'pymem-preload' in open('/proc/self/maps').read())"
    result = pymem_run(tmp_path / "venv" / "bin" / "python", "-c", code)
    assert result.stdout == f"{tmp_path / 'venv'} True\n"
    for first_line in (f"#!{tmp_path}/venv/bin/python", "#!/usr/bin/env python3"):
        script = tmp_path / "script"
        script.write_text(f"{first_line}\n{code}\n")
        script.chmod(0o755)
        assert pymem_run(script).stdout.endswith(" True\n")
    script.write_text(f"#!/bin/sh\nexec {tmp_path}/venv/bin/python -c \"$@\"\n")
    assert pymem_run(script, code).stdout.endswith(" True\n")


@pytest.mark.parametrize("path", [None, "", ":/nowhere", "/nowhere:", "folder:usual"])
def test_a_program_is_found_as_the_shell_finds_it(tmp_path, path):
    """Without PATH where programs usually are; an empty place is the folder one is in; a
    folder of that name is no program."""
    environment = clean_environment()
    del environment["PATH"]
    name = "python3" if path in (None, "folder:usual") else "own-python"
    (tmp_path / "folder" / "python3").mkdir(parents=True)
    (tmp_path / "own-python").symlink_to(sys.executable)
    if path is not None:
        environment["PATH"] = path.replace("usual", os.confstr("CS_PATH"))
    question = [name, "-c", "import sys; print(sys.executable)"]
    if shutil.which("python3", path=os.confstr("CS_PATH")) is None:
        pytest.skip("no python3 where programs usually are")
    theirs = run("/bin/sh", "-c", 'exec "$@"', "sh", *question, environment=environment,
                 cwd=tmp_path)
    ours = run(PYMEM_RUN, *question, environment=environment, cwd=tmp_path)
    assert theirs.returncode == 0, theirs.stderr
    assert (ours.returncode, ours.stdout, ours.stderr) == (0, theirs.stdout, "")


# What is refused, and why.

@pytest.mark.parametrize("program, status, reason", [
    ("ls", 126, "/ls is not a CPython: it exports no PyMem_SetAllocator"),
    ("/etc/passwd", 126, "is not a CPython: it is neither a program nor a script"),
    ("/", 126, "/ is not a file"),
    ("no-such-program", 127, "no-such-program: not found in PATH"),
    ("./no-such-program", 127, "No such file or directory")])
def test_what_is_no_python_is_refused(program, status, reason):
    result = pymem_run(program)
    assert result.returncode == status
    assert result.stderr.startswith("pymem-run: ") and reason in result.stderr


def test_a_script_of_another_program_is_refused(tmp_path):
    script = tmp_path / "script"
    script.write_text("#!/bin/ls\n")
    script.chmod(0o755)
    assert "/bin/ls is not a CPython" in pymem_run(script).stderr


def test_another_machine_is_refused(tmp_path):
    program = bytearray((BUILD / "python").read_bytes())
    program[18] ^= 0xFF                 # e_machine
    (tmp_path / "python").write_bytes(program)
    result = pymem_run(tmp_path / "python", "-c", "pass")
    assert result.returncode == 126
    assert "is for another type of machine" in result.stderr


def test_a_static_program_is_refused(tmp_path):
    (tmp_path / "a.c").write_text('char name[] = "\\0PyMem_SetAllocator";\n'
                                  "int main(int c, char **v) { return name[c]; }")
    assert run("cc", "-static", tmp_path / "a.c", "-o", tmp_path / "a").returncode == 0
    result = pymem_run(tmp_path / "a")
    assert result.returncode == 126
    assert "is linked statically" in result.stderr


@pytest.mark.parametrize("arguments, variables, reason", [
    ([], {"PYTHONMALLOC": "debug"}, "PYTHONMALLOC=debug would replace pymem"),
    ([], {"PYTHONDEVMODE": "1"}, "the developer mode"),
    (["-X", "dev"], {}, "the developer mode"),
    (["-I", "-Xdev"], {}, "the developer mode")])
def test_what_would_replace_it_is_refused(arguments, variables, reason):
    result = pymem_run(sys.executable, *arguments, "-c", "pass", **variables)
    assert result.returncode == 126
    assert reason in result.stderr


@pytest.fixture
def preloaded(tmp_path):
    """A library from C source, to be loaded before our own starts."""
    def build(source):
        (tmp_path / "a.c").write_text(source)
        path = tmp_path / "a.so"
        result = run("cc", "-shared", "-fPIC", tmp_path / "a.c", "-o", path)
        assert result.returncode == 0, result.stderr
        return str(path)
    return build


def test_an_allocator_that_was_replaced_is_refused(preloaded, tmp_path):
    """Libraries behind ours begin before it; those that were there, after it."""
    path = preloaded("""
#include <stddef.h>
#include <stdlib.h>
struct alloc { void *ctx; void *(*malloc)(void *, size_t); void *rest[3]; } a;
#pragma weak PyMem_GetAllocator
#pragma weak PyMem_SetAllocator
void PyMem_GetAllocator(int domain, struct alloc *alloc);
void PyMem_SetAllocator(int domain, struct alloc *alloc);
static void *other(void *ctx, size_t n) { return malloc(n + 1); }
__attribute__((constructor)) static void set(void)
{
    if (PyMem_SetAllocator == NULL) {
        return;         /* pymem-run itself */
    }
    PyMem_GetAllocator(1, &a);
    a.malloc = other;
    PyMem_SetAllocator(1, &a);
}
""")
    script = tmp_path / "script"
    script.write_text(f"#!/bin/sh\nexport LD_PRELOAD=$LD_PRELOAD:{path}\n"
                      f"exec {sys.executable} -c pass\n")
    script.chmod(0o755)
    result = pymem_run(script)
    assert result.returncode == 126
    assert "the allocator of the mem domain was replaced already" in result.stderr
    result = pymem_run("--stats", sys.executable, "-c", "pass", LD_PRELOAD=path)
    assert result.returncode == 0
    assert result.stderr.startswith("Small block threshold")


@pytest.mark.parametrize("version, reason", [
    ("3.13.0 experimental free-threading build (main)", "is a free-threaded CPython"),
    ("3.14.0 free-threading build (main)\\n[GCC 12.2.0]", "is a free-threaded CPython"),
    ("3.7.9 (default) \\n[GCC 12.2.0]", "CPython 3.8 or later is needed, and this is 3.7.9\n"),
    ("2.7.18 (default)", "CPython 3.8 or later is needed"),
    ("3.16.0a1 (main)", "this is CPython 3.16.0a1, which is not known yet; supported: 3.8 to "
     "3.15\n")])
def test_a_version_that_is_not_known_is_refused(tmp_path, version, reason):
    """A program that says it is such a CPython."""
    (tmp_path / "a.c").write_text(f"""
const char *Py_GetVersion(void) {{ return "{version}"; }}
int Py_IsInitialized(void) {{ return 0; }}
int PyGILState_Check(void) {{ return 1; }}
void PyMem_GetAllocator(int domain, void *alloc) {{}}
void PyMem_SetAllocator(int domain, void *alloc) {{}}
void PyMem_SetupDebugHooks(void) {{}}
int main(void) {{ return 0; }}
""")
    assert run("cc", "-rdynamic", tmp_path / "a.c", "-o", tmp_path / "a").returncode == 0
    result = pymem_run(tmp_path / "a")
    assert result.returncode == 126
    assert reason in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("words", [["-m", "pymem"], ["-X", "utf8", "-I", "-mpymem"]], ids=" ".join)
def test_the_tools_are_there_for_a_python_without_pymem(words, tmp_path):
    """Which finds nothing else for it; what is a script's own -m is left alone."""
    for python in pythons(3, 8):
        result = pymem_run(python, *words, "stats", "--json", "-c", "import sys\n"
                           f"print({str(BUILD)!r} in sys.path, {str(TOP / 'Lib')!r} in sys.path, "
                           "sys.argv)", "-m", "pymem")
        assert result.returncode == 0, result.stderr
        first, rest = result.stdout.split("\n", 1)
        assert first == "False False ['-c', '-m', 'pymem']"
        assert json.loads(rest)["arenas"]["current"] > 0
    script = tmp_path / "tool"
    script.write_text(f"#!{sys.executable}\nimport sys\nprint(sys.argv[1:])\n")
    script.chmod(0o755)
    assert pymem_run(script, "-m", "pymem").stdout == "['-m', 'pymem']\n"


@pytest.mark.parametrize("options, reason", [
    ([], "usage: pymem-run"), (["--frobnicate"], "unrecognized option"),
    (["--trim-interval=soon"], '--trim-interval takes seconds, 0.001 to 1000000, '
     'or 90s, 5m, 1h, not "soon"'), (["--trim-interval=0"], "--trim-interval takes seconds")])
def test_bad_options(options, reason):
    result = pymem_run(*options)
    assert result.returncode == 125
    assert reason in result.stderr


def test_help_and_version():
    assert pymem_run("--help").stdout.startswith("usage: pymem-run")
    assert re.fullmatch(r"pymem-run \d+\.\d+\.\d+\S*\n", pymem_run("--version").stdout)


# Interpreters with a GIL each have a heap each.
#
# CPython 3.12 exchanges the raw domain's allocator for its default, for the whole
# process, while it creates or destroys an interpreter.  A block that another thread asks
# for meanwhile has no debug header, and aborts the process when it is freed.  CPython's own
# allocator does so too, in a few runs of a hundred.  With debug hooks the interpreters are created
# before the first one runs, and destroyed after the last one has.

SUBINTERPRETERS = """
import sys, threading
try:
    import _interpreters
    create = lambda: _interpreters.create("isolated")
except ImportError:
    import _xxsubinterpreters as _interpreters
    create = _interpreters.create
code = '''
for i in range(80_000):
    made = [bytes(i % 600), str(i), {i: (i,)}]
'''
def work(interpreter=None):
    interpreter, mine = interpreter or create(), not interpreter
    _interpreters.run_string(interpreter, code)
    if mine:
        _interpreters.destroy(interpreter)
created = [create() for _ in range(4)] if "created-before" in sys.argv else []
threads = [threading.Thread(target=work, args=created[i:i + 1]) for i in range(4)]
for thread in threads: thread.start()
exec(code)
for thread in threads: thread.join()
for interpreter in created: _interpreters.destroy(interpreter)
print("fine")
"""


@pytest.mark.parametrize("python", pythons(3, 12))
def test_interpreters_with_a_gil_each(python):
    assert pymem_run(python, "-c", SUBINTERPRETERS).stdout == "fine\n"


# The library call.

def embed(tmp_path, source, with_python=True):
    """The header is installed in a separate folder, without our Python.h."""
    headers = tmp_path / "include"
    headers.mkdir(exist_ok=True)
    shutil.copy(TOP / "Include" / "pymeminstall.h", headers)
    flags = run("pkg-config", "--cflags", "--libs",
                f"python-{VERSION}-embed").stdout.split() if with_python else []
    program = tmp_path / "embed"
    result = run("cc", "-Wall", source, f"-I{headers}", "-o", program, *flags,
                 f"-L{BUILD / '.libs'}", "-lpymeminstall",
                 f"-Wl,-rpath,{BUILD / '.libs'}")
    assert (result.returncode, result.stderr) == (0, "")
    return program


def test_the_embedding_example(tmp_path):
    program = embed(tmp_path, TOP / "Doc" / "examples" / "embed.c")
    result = run(program)
    assert result.returncode == 0, result.stderr
    first, _, rest = result.stdout.partition("{")
    stats = json.loads("{" + rest)
    assert first == "488890\n"
    assert stats["arenas"]["highwater"] >= 1


def test_installing_too_late_or_twice(tmp_path):
    source = tmp_path / "late.c"
    source.write_text("""
#include <Python.h>
#include <pymeminstall.h>
int main(int argc, char **argv)
{
    char error[200] = "";
    if (argc > 1) {
        Py_Initialize();
    }
    printf("%d ", pymem_install(0, error, sizeof(error)));
    printf("%d ", pymem_install(0, error, sizeof(error)));
    printf("%d ", pymem_install(0, NULL, 0));
    puts(error);
    return 0;
}
""")
    program = embed(tmp_path, source)
    assert run(program).stdout == "0 -1 -1 pymem is installed already\n"
    assert run(program, "late").stdout == (
        "-1 -1 -1 the interpreter is initialized, and has blocks of its own "
        "allocator\n")


def test_a_program_without_python(tmp_path):
    (tmp_path / "a.c").write_text("""
#include <pymeminstall.h>
#include <stdio.h>
int main(void)
{
    char error[200];
    printf("%d ", pymem_install(0, error, sizeof(error)));
    puts(error);
    return 0;
}
""")
    program = embed(tmp_path, tmp_path / "a.c", with_python=False)
    assert run(program).stdout == ("-1 there is no CPython in this program: it "
                                   "exports no Py_GetVersion\n")
