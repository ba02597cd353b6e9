"""flame --native: the C functions on the Python functions that called them, and their lines."""

import re
import sys

import pytest

from conftest import BUILD, IS_64_BITS, clean_environment, run
from test_see import SCRIPT, see

LIBRARY = """
#include <stddef.h>
extern void *PyBytes_FromStringAndSize(const char *, ptrdiff_t);
__attribute__((noinline)) static void *
innermost(ptrdiff_t size)
{
    void *made = PyBytes_FromStringAndSize(NULL, size);
    __asm__ volatile ("" : : "r" (made) : "memory");    /* no jump in place of the call */
    return made;
}
void *
make(ptrdiff_t size)
{
    void *made = innermost(size);
    __asm__ volatile ("" : : "r" (made) : "memory");
    return made;
}
"""
CALLS = """
import ctypes, sys, threading
library = ctypes.PyDLL(sys.argv[1])
library.make.restype, library.make.argtypes = ctypes.py_object, [ctypes.c_ssize_t]
kept = []
def from_c():
    kept.append(library.make(70_000))
from_c()
thread = threading.Thread(target=from_c)
thread.start()
thread.join()
kept.append(sorted(range(9), key=lambda n: kept.append(bytearray(5000)) or n))
def fails(n):
    try: undefined
    except NameError as error: kept.append(error)
    return n
sorted(range(9), key=fails)
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    folder = tmp_path_factory.mktemp("library")
    (folder / "library.c").write_text(LIBRARY)
    result = run("cc", "-g", "-O1", "-shared", "-fPIC", "-o", folder / "made.so", "library.c",
                 cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder / "made.so"


def flame(tmp_path, *words, **variables):
    """Stacks: {frames: bytes}"""
    out = tmp_path / "flame.txt"
    result = see("flame", "--native", "-o", out, *words, **variables)
    assert result.returncode == 0, result.stderr
    return {tuple(stack.split(";")): int(nbytes) for stack, nbytes in
            (line.rsplit(" ", 1) for line in out.read_text().splitlines())}


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "app.py"
    path.write_text(SCRIPT)
    return path


@pytest.mark.parametrize("malloc", ["default", "debug", "malloc"])
def test_c_functions_stand_on_python_functions(script, tmp_path, malloc):
    stacks = flame(tmp_path, "--samples", 0, "--frames", 6, script, PYTHONMALLOC=malloc)
    lists = {stack: nbytes for stack, nbytes in stacks.items()
             if "Node.__init__ (app.py:5)" in stack}
    assert any(re.match("PyList_New|_PyObject_GC_", name) for stack in lists for name in stack)
    assert sum(lists.values()) > 20_000 * (50 if IS_64_BITS else 24)
    names = {name.split(" (")[0] for stack in stacks for name in stack}
    assert not any(re.match("hook_|stack_capture|capture|_PyTraceMalloc|tracer_|_PyEval_EvalF|"
                            "malloc_that_may|(raw|mem|object)_[mcr]", name) for name in names)
    # A block that was freed would be here.
    outside = sum(nbytes for stack, nbytes in stacks.items()
                  if not any("app.py:" in name for name in stack))
    assert outside < 6_000 * 10


def test_samples_are_about_right(script, tmp_path):
    exact, sampled = (sum(flame(tmp_path, *words, script).values())
                      for words in (["--samples", 0], ["--samples", "4K"]))
    assert 0.8 < sampled / exact < 1.25


def test_lines_of_c_by_debug_information(library, tmp_path):
    """Also in a thread; with the lines that call, not those after."""
    path = tmp_path / "calls.py"
    path.write_text(CALLS)
    stacks = flame(tmp_path, "--samples", 0, path, library)
    made = [stack for stack, nbytes in stacks.items()
            if nbytes > 70_000 and "from_c (calls.py:7)" in stack]
    assert len(made) == 2
    for stack in made:
        at = stack.index("make (library.c:14)")
        assert stack[at + 1] == "innermost (library.c:7)"
        assert "from_c (calls.py:7)" in stack[:at] and "PyBytes" in "".join(stack[at + 2:])


def test_c_functions_stand_between_python_functions(library, tmp_path):
    """Where they were called: sorted() by the module, and the key by it."""
    path = tmp_path / "calls.py"
    path.write_text(CALLS)
    found = {";".join(stack): nbytes for stack, nbytes
             in flame(tmp_path, "--samples", 0, path, library).items()
             if nbytes > 4_500 and "<lambda> (calls.py:12)" in stack}
    assert sum(found.values()) > 45_000         # of 3.15 the first call is another function's
    for stack in found:
        assert re.match(r"<module> \(calls.py:12\);.*builtin_sorted.*;list_sort.*;<lambda> "
                        r"\(calls.py:12\);.*(PyByteArray|bytearray_)", stack), stack
        assert "main (" not in stack and "run_mod" not in stack


def test_what_the_loop_seldom_does_is_the_loop(library, tmp_path):
    """The compiler places it elsewhere: as here, where a name is not known."""
    path = tmp_path / "calls.py"
    path.write_text(CALLS)
    found = [";".join(stack) for stack in flame(tmp_path, "--samples", 0, path, library)
             if any(name.startswith(("format_exc", "_PyErr_Format")) for name in stack)]
    assert found
    for stack in found:
        assert re.match(r"<module> \(calls.py:17\);.*;list_sort.*;fails \(calls.py:14\);.*"
                        "(format_exc|_PyErr_Format)", stack), stack


def test_the_peak_has_them_too(script, tmp_path):
    script.write_text("import time\nkept = bytearray(3_000_000)\ntime.sleep(.2)\ndel kept\n")
    stacks = flame(tmp_path, "--peak", "--samples", 0, script)
    assert any(nbytes > 2_999_999 and stack[0] == "<module> (app.py:2)" and len(stack) > 1
               for stack, nbytes in stacks.items())


def test_snapshots_are_as_without(python, tmp_path):
    """Standard ones: no C function is in them."""
    code = """
import threading
from pymem import tracemalloc
tracemalloc.start(2, native=True)
def f(): return bytearray(5000)
kept = [f(), f()]
traceback = tracemalloc.get_object_traceback(kept[0])
assert [frame.lineno for frame in traceback] == [6, 5], traceback
lines = tracemalloc.take_snapshot().statistics("lineno")
assert lines[0].traceback[0].lineno == 5 and lines[0].size > 10_000
assert all(frame.filename for line in lines for frame in line.traceback)
stack = next(stack for _, size, stack, *_ in tracemalloc._get_named_traces() if 5000 < size < 5100)
assert stack[0][0] == stack[0][2] == "" and stack[0][1] > 4096
assert [frame for frame in stack if frame[0]] == [("<string>", 5, "f"), ("<string>", 6,
                                                                        "<module>")]
tracemalloc.stop()
tracemalloc.start(65_535)
tracemalloc.stop()
try: tracemalloc.start(65_500, native=True)
except ValueError: pass
else: raise AssertionError
"""
    result = run(python, "-c", code, environment=clean_environment(PYTHONPATH=str(BUILD)))
    assert result.returncode == 0, result.stderr


@pytest.mark.once
def test_without_pymems_tracer_it_is_refused(script):
    for words in (["--native"], ["--samples", "16K"]):
        result = see("flame", *words, script, runner=[BUILD / "pymem-run", sys.executable])
        assert result.returncode == 1
        assert re.match(r"pymem: pymem has no tracer for this CPython 3\.\d+ here: pip install",
                        result.stderr) and result.stderr.count("\n") == 1
