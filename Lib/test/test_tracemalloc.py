"""The tracer in each CPython that is linked with it: as CPython's own, and where it
is more.

CPython's whole test_tracemalloc runs in Tools/regrtest.
"""

import json
import sys
from ast import literal_eval
from collections import Counter

import pytest

from conftest import BUILD, clean_environment, run

@pytest.fixture
def python(products):
    return products / "python"


def version(program):
    return literal_eval(run(program, "-c", "import sys; print(sys.version_info[:2])")
                        .stdout)


def check(program, script, tmp_path, *arguments, **variables):
    path = tmp_path / "script.py"
    path.write_text(script)
    result = run(program, *arguments, path,
                 environment=clean_environment(**variables))
    assert result.returncode == 0, result.stderr
    return result.stdout


SNAPSHOT = """
import gc, json, tracemalloc
def leaf(n): return bytearray(n)
def deep(k, n): return deep(k - 1, n) if k else leaf(n)
def numbers(n):
    for i in range(n): yield i * 1.5, str(i)
class Slots: __slots__ = ("a", "b")
class Plain: pass
kept = []
# The list of traces is none of the script's.
end = compile("gc.collect(); traces = __import__('_tracemalloc')._get_traces()", "other",
              "exec")
tracemalloc.start({nframe})
# Free lists are emptied, as their blocks are not traced: how long the lists are depends
# on addresses (each type has its own as a key, and an int of a high one is in no list)
# and on how start() takes its arguments.
gc.collect()
kept.append(list(range(1000, 1200)))
kept.append([deep(k, 100 * k) for k in range(40)])
kept.append(dict(numbers(300)))
kept.append([Slots() for i in range(50)])
for i in range(30):
    kept.append(Plain())
    kept[-1].number = i
buffer = bytearray()
for i in range(2000):
    buffer.append(i % 256)
kept += [eval(f"[{{i}}, 'x' * {{i}}]") for i in range(100, 140)]
exec(end)
print(json.dumps(sorted((domain, size, total, stack) for domain, size, stack, total
                        in traces if stack[0][0] == __file__)))
"""


@pytest.mark.parametrize("nframe", [1, 2, 5, 25, 100])
def test_traces_are_those_of_stock(python, stock, tmp_path, nframe):
    """Sizes, lines and depths of all that the script's own lines allocate."""
    script = SNAPSHOT.format(nframe=nframe)
    ours, stock = (Counter(map(json.dumps, json.loads(
        check(program, script, tmp_path, PYTHONHASHSEED="0"))))
        for program in (python, stock))
    assert stock.total() > 900
    assert (ours - stock, stock - ours) == (Counter(), Counter())


@pytest.mark.parametrize("malloc", ["default", "debug", "malloc"])
def test_code_that_dies_leaves_no_lines_behind(python, tmp_path, malloc):
    """Other code at the same address has other lines."""
    check(python, """
import tracemalloc
tracemalloc.start(1)
def block_on_line(line, extra):
    source = "\\n" * (line - 1) + "made = bytearray(100)" + "; pass" * extra
    scope = {}
    exec(compile(source, f"file{line % 3}", "exec"), scope)
    return scope["made"]
for i in range(3000):
    line = 1 + i * 7 % 100
    made = block_on_line(line, i % 5)
    frame = tracemalloc.get_object_traceback(made)[0]
    assert frame.lineno == line, (frame, line)
    assert frame.filename == f"file{line % 3}"
""", tmp_path, PYTHONMALLOC=malloc)


def test_names_of_any_characters(python, tmp_path):
    check(python, r"""
import tracemalloc
tracemalloc.start(1)
for name in ("a", "\xe9\xff", "\u20ac", "\U0001f600 x", "\udc80", "n" * 5000):
    scope = {}
    exec(compile("made = bytearray(50)", name, "exec"), scope)
    frame = tracemalloc.get_object_traceback(scope["made"])[0]
    assert frame.filename == name, frame
""", tmp_path)


def test_stacks_deeper_than_the_most_frames(python, stock, tmp_path):
    """No more than 65,535 are counted, and as many as asked for are kept."""
    script = """
import sys, threading, tracemalloc
sys.setrecursionlimit(100_000)
made = []
def deep(n):
    if n > 0:
        return deep(n - 1)
    tracemalloc.start({nframe})
    made.append(bytearray(1000))
threading.stack_size(1 << 30)       # 3.10 needs it for calls of Python functions
thread = threading.Thread(target=deep, args=(70_000,))
thread.start()
thread.join()
print([(len(trace.traceback), trace.traceback.total_nframe)
       for trace in tracemalloc.take_snapshot().traces if 1000 < trace.size < 1100])
"""
    for nframe in (1, 20, 65_535):
        results = [run(program, "-c", script.format(nframe=nframe)).stdout
                       for program in (python, stock)]
        assert results == [f"[({nframe}, 65535)]\n"] * 2


def test_an_object_from_a_free_list_is_traced_anew(python, stock, tmp_path):
    """It has the block that was traced last, and is made by another line."""
    script = tmp_path / "floats.py"
    script.write_text("""
import tracemalloc
fill = [i * 0.5 for i in range(1000)]       # no float is left in the free list
two, three = 2.0, 3.0
tracemalloc.start(1)
made = two * three
made = None
again = two * two
print(tracemalloc.get_object_traceback(again)[0].lineno)
""")
    ours, stock = (run(program, script).stdout
                   for program in (python, stock))
    assert ours == stock == "8\n"


def test_frames_of_a_subinterpreter(python, stock, tmp_path):
    """Its own, as in CPython 3.12; before, stock takes those of the main one, which
    the thread has as well."""
    script = tmp_path / "sub.py"
    script.write_text("""
import tracemalloc
try:
    import _interpreters
except ImportError:
    import _xxsubinterpreters as _interpreters
interpreter = _interpreters.create()
tracemalloc.start(3)
_interpreters.run_string(interpreter, '''
def make(n):
    kept.append(bytearray(n))
kept = []
for i in range(20):
    make(5000 + i)
''')
for trace in sorted(tracemalloc.take_snapshot().traces, key=lambda trace: trace.size):
    if 5000 < trace.size < 5100:
        print(trace.size, [(frame.filename, frame.lineno) for frame in trace.traceback])
""")
    # How such code is called; and 3.15 keeps the bytes of a bytearray in an object.
    name = "<string>" if version(python) < (3, 14) else "<script>"
    more = 1 if version(python) < (3, 15) else 33
    expected = "".join(f"{5000 + more + i} [('{name}', 6), ('{name}', 3)]\n"
                       for i in range(20))
    assert run(python, script).stdout == expected
    if version(python) >= (3, 12):
        assert run(stock, script).stdout == expected


def test_threads_with_and_without_the_gil(python, tmp_path):
    """Track and Untrack, raw blocks and objects from eight threads."""
    check(python, """
import _testcapi, sys, threading, tracemalloc, zlib
tracemalloc.start(10)
far = 1 << (32 if sys.maxsize > 2**32 else 27)      # from each other
def work(number):
    for i in range(400):
        address = number * far + 16 * i + 16
        _testcapi.tracemalloc_track(7, address, 100, i % 2)
        zlib.compress(b"x" * 5000)
        kept = [bytearray(50) for _ in range(20)]
        if i % 4:
            _testcapi.tracemalloc_untrack(7, address)
threads = [threading.Thread(target=work, args=(n,)) for n in range(1, 9)]
for thread in threads: thread.start()
for thread in threads: thread.join()
traces = [t for t in tracemalloc.take_snapshot().traces if t.domain == 7]
assert len(traces) == 8 * 100, len(traces)
assert sum(t.size for t in traces) == 80000
""", tmp_path)


def test_a_thread_that_python_does_not_know(python, tmp_path):
    """pthread_create() runs the API's own functions, without a thread state."""
    check(python, """
import ctypes, tracemalloc, _tracemalloc
libc, api = ctypes.CDLL(None), ctypes.pythonapi
address = lambda function: ctypes.cast(function, ctypes.c_void_p)
def in_thread(function, argument):
    thread, result = ctypes.c_ulong(), ctypes.c_void_p()
    assert libc.pthread_create(ctypes.byref(thread), None, address(function),
                               ctypes.c_void_p(argument)) == 0
    libc.pthread_join(thread, ctypes.byref(result))
    return result.value
tracemalloc.start(5)
block = in_thread(api.PyMem_RawMalloc, 12345)
found = [t for t in _tracemalloc._get_traces() if t[1] == 12345]
assert found == [(0, 12345, (("<unknown>", 0),), 1)], found
in_thread(api.PyMem_RawFree, block)
assert not [t for t in _tracemalloc._get_traces() if t[1] == 12345]
""", tmp_path)


def test_the_end_of_the_interpreter(python, tmp_path):
    """Threads that allocate raw blocks while Python ends."""
    for _ in range(5):
        check(python, """
import atexit, threading, tracemalloc, zlib
def busy():
    while True: zlib.compress(b"x" * 100000)
for _ in range(4): threading.Thread(target=busy, daemon=True).start()
atexit.register(lambda: tracemalloc.take_snapshot())
class Late:
    def __del__(self): bytearray(1000)
late = Late()
""", tmp_path, "-X", "tracemalloc=5")


def test_a_child_goes_on_tracing(python, tmp_path):
    check(python, """
import os, threading, tracemalloc
tracemalloc.start(3)
stop = False
def busy():
    while not stop: bytearray(100)
threads = [threading.Thread(target=busy, daemon=True) for _ in range(3)]
for thread in threads: thread.start()
for _ in range(20):
    child = os.fork()
    if child == 0:
        made = bytearray(1000)
        line = tracemalloc.get_object_traceback(made)[0].lineno
        os._exit(0 if line == 12 else 1)
    assert os.waitpid(child, 0)[1] == 0
stop = True
for thread in threads: thread.join()
""", tmp_path)


def test_traces_cleared_while_they_are_listed(python, tmp_path):
    """A finaliser that runs in the middle of a snapshot stops the tracer."""
    check(python, """
import gc, tracemalloc, _tracemalloc
class Stops:
    def __del__(self): tracemalloc.stop()
class Clears:
    def __del__(self): tracemalloc.clear_traces()
gc.set_threshold(1)
for kind in Clears, Stops:
    tracemalloc.start(5)
    kept = [[bytearray(i) for i in range(100 + k)] for k in range(10)]
    rubbish = kind(); rubbish.self = rubbish; del rubbish
    traces = _tracemalloc._get_traces()
    assert len(traces) > 1000
    assert all(stack[0][1] >= 0 for _, _, stack, _ in traces)
tracemalloc.start(1)
assert tracemalloc.get_object_traceback(bytearray(9))
""", tmp_path)


def test_no_memory_for_a_block(python, stock, tmp_path):
    """The domains fail one call after the other: traces stay true."""
    script = """
import _testcapi, tracemalloc
tracemalloc.start(5)
for k in range(1, 60):
    data = [bytearray(10) for _ in range(10)]
    _testcapi.set_nomemory(k, k + 1)
    try:
        for i in range(30):
            data.append(bytearray(3000 + i))
            data[0].extend(b"abc" * 300)
    except MemoryError:
        pass
    finally:
        _testcapi.remove_mem_hooks()
    del data
before = tracemalloc.get_traced_memory()[0]
for _ in range(10):
    data = [bytearray(100) for _ in range(1000)]
    del data
assert abs(tracemalloc.get_traced_memory()[0] - before) < 2000
"""
    if run(stock, "-c", script).returncode < 0:
        pytest.skip("this CPython crashes here with its own allocator and tracer, too")
    check(python, script, tmp_path)


# Errors.

@pytest.mark.parametrize("call, error", [
    ("start(0)", "the number of frames must be in range [1; 65535]"),
    ("start(65536)", "the number of frames must be in range [1; 65535]"),
])
def test_errors_are_those_of_stock(python, stock, call, error):
    lines = [run(program, "-c", f"import tracemalloc as t; t.{call}")
             .stderr.splitlines()[-1] for program in (python, stock)]
    assert lines[0] == lines[1] == f"ValueError: {error}"


def test_the_memory_of_the_tracer_goes_back(python, tmp_path):
    check(python, """
import tracemalloc
for _ in range(3):
    tracemalloc.start(25)
    kept = [[i] for i in range(10000)]
    assert tracemalloc.get_tracemalloc_memory() > 10000 * 4
    tracemalloc.stop()
    assert tracemalloc.get_tracemalloc_memory() == 0
    assert tracemalloc.get_traced_memory() == (0, 0)
""", tmp_path)


# What public reports led to.

def test_every_key_is_a_key(python, tmp_path):
    check(python, """
import _testcapi, _tracemalloc, sys, tracemalloc
try:
    from _testcapi import tracemalloc_get_traceback as get_traceback
except ImportError:
    from _testinternalcapi import _PyTraceMalloc_GetTraceback as get_traceback
tracemalloc.start()
keys = [(domain, address) for domain in (1, 2**32 - 1)
        for address in (0, 1, 2 * sys.maxsize + 1)]
for number, (domain, address) in enumerate(keys):
    _testcapi.tracemalloc_track(domain, address, 7 + number)
    assert get_traceback(domain, address)[0][0] == __file__
found = sorted(trace[:2] for trace in _tracemalloc._get_traces() if trace[0])
assert found == [(key[0], 7 + number) for number, key in enumerate(keys)], found
for domain, address in keys:
    _testcapi.tracemalloc_untrack(domain, address)
    assert get_traceback(domain, address) is None
assert not [trace for trace in _tracemalloc._get_traces() if trace[0]]
""", tmp_path)


def test_an_address_inside_a_block_is_not_the_block(python, tmp_path):
    check(python, """
import _testcapi, tracemalloc
try:
    from _testcapi import tracemalloc_get_traceback as get_traceback
except ImportError:
    from _testinternalcapi import _PyTraceMalloc_GetTraceback as get_traceback
tracemalloc.start()
kept = [object() for i in range(2000)]
for thing in kept:
    line = get_traceback(0, id(thing))[0]
    for offset in (1, object.__basicsize__ // 2, object.__basicsize__ - 1):
        assert get_traceback(0, id(thing) + offset) is None
        _testcapi.tracemalloc_untrack(0, id(thing) + offset)
    assert get_traceback(0, id(thing))[0] == line
""", tmp_path)


@pytest.mark.parametrize("made", ["{}", "(kept,)", "(kept, 1)", "(kept, 1, 2, 3)"])
@pytest.mark.parametrize("query", ["tracemalloc.get_object_traceback(kept)",
                                   "tracemalloc.take_snapshot()",
                                   "_tracemalloc._get_traces()"])
def test_objects_made_after_a_query_have_their_own_line(python, tmp_path, query, made):
    """The query left its own objects in free lists."""
    check(python, f"""
import gc, tracemalloc, _tracemalloc
gc.disable()
tracemalloc.start(2)
kept = [2.5]
garbage = [{{}} for i in range(90)] + [(i,) * n for n in range(1, 5) for i in range(2001)]
for i in range(3):
    {query}
    made = [
{(made + "," + chr(10)) * 30}]
    lines = [tracemalloc.get_object_traceback(thing) for thing in made]
    assert [line and line[-1].lineno for line in lines] == list(range(10, 40)), lines
    del made
""", tmp_path)


def test_a_query_of_one_block_counts_as_in_stock(python, stock, tmp_path):
    """What it returns is the caller's."""
    script = """
import tracemalloc, _tracemalloc
tracemalloc.start(3)
garbage = [(i,) * n for n in range(1, 3) for i in range(2001)]   # none in free lists
made = bytearray(9)
found = _tracemalloc._get_object_traceback(made)
print([[frame.lineno for frame in tracemalloc.get_object_traceback(made) or ()]
       for made in (found, found[0])], found == ((__file__, 5),))
"""
    assert check(python, script, tmp_path) == "[[6], [6]] True\n"
    if version(stock) < (3, 14):        # later, stock loses what free lists give out
        assert check(stock, script, tmp_path) == "[[6], [6]] True\n"


def test_no_memory_for_a_list_of_traces(python, tmp_path):
    """Each call fails in turn, until none does: always MemoryError."""
    check(python, """
import _testcapi, tracemalloc, _tracemalloc
tracemalloc.start(5)
kept = [bytearray(10) for _ in range(10)]
def fails(function, *arguments):
    for n in range(1, 2000):
        _testcapi.set_nomemory(n, n + 1)
        try:
            result = function(*arguments)
        except MemoryError:
            continue
        finally:
            _testcapi.remove_mem_hooks()
        if n > 1:
            return n, result
for n in range(3):
    assert fails(_tracemalloc._get_traces)[0] > 5
    assert fails(_tracemalloc._get_object_traceback, kept[3])[1][0][1] == 4
    fails(tracemalloc.take_snapshot)
""", tmp_path)


NAMES = ["n" * 499, "n" * 500, "n" * 501, "n" * 5000, "\u20ac" * 600, "a\0b", "\0",
         "\ud800x\udfff", "\U0001f600" * 3, "\x7f\x80\xff", "\xe9" * 300, ""]


@pytest.mark.parametrize("number", range(len(NAMES)))
def test_a_dump_names_files_as_stock(python, stock, tmp_path, number):
    script = f"""
import _testcapi
name = {NAMES[number]!a}
def fails():
    _testcapi.pymem_buffer_overflow()
fails.__code__ = fails.__code__.replace(co_filename=name)
fails()
"""
    path = tmp_path / "script.py"
    path.write_text(script)
    dumps = []
    for program in (python, stock):
        text = run(program, "-X", "tracemalloc=3", path,
                   environment=clean_environment(PYTHONMALLOC="debug")).stderr
        begin = text.index("Memory block allocated at")
        dumps.append(text[begin:text.index("\n\n", begin)])
    assert dumps[0] == dumps[1]
    assert dumps[0].count("\n") == 2


def test_signatures_and_help_are_those_of_stock(python, stock):
    """Docstrings say the same in other words."""
    code = """
import inspect, json, _tracemalloc as t
print(json.dumps({name: [str(inspect.signature(f)), len(f.__doc__) > 20] for name, f
                  in vars(t).items() if inspect.isbuiltin(f)}))
print(bool(t.__doc__))
"""
    ours, theirs = (run(program, "-c", code).stdout.splitlines()
                    for program in (python, stock))
    ours, more = json.loads(ours[0]), ours[1]
    theirs = json.loads(theirs[0])
    assert more == "True"
    assert {name: ours.pop(name) for name in theirs} == theirs
    assert ours == {"_get_block_size": ["(address, /)", True],
                    "_get_peak_traces": ["()", True], "_keep_peak": ["(from_bytes, /)", True],
                    "_get_named_traces": ["()", True],
                    "_get_named_peak_traces": ["()", True],
                    "get_sample_bytes": ["()", True]}
    for call in ("start(nframe=2)", "start('x')", "start(1.5)", "is_tracing(1)"):
        kinds = [run(program, "-c", f"import _tracemalloc as t; t.{call}")
                 .stderr.splitlines()[-1].split(":")[0] for program in (python, stock)]
        assert kinds == ["TypeError"] * 2


CYCLES = r"""
#include <Python.h>
int main(void)
{
    for (int i = 0; i < 4; i++) {
        Py_Initialize();
        PyRun_SimpleString(
            "import tracemalloc, _tracemalloc\n"
            "assert not tracemalloc.is_tracing()\n"
            "tracemalloc.start(3)\n"
            "kept = [bytearray(1000 + i) for i in range(100)]\n"
            "trace = tracemalloc.get_object_traceback(kept[3])\n"
            "assert [frame.lineno for frame in trace] == [4, 4] or len(trace) == 1\n"
            "tracemalloc.take_snapshot()\n"
            "print('traced', tracemalloc.get_traced_memory()[0] > 100000)\n");
        if (Py_FinalizeEx() < 0) {
            return 1;
        }
    }
    return 0;
}
"""


def test_each_cycle_of_an_embedder_can_trace(products, tmp_path):
    """Where CPython says from the second on that the module was unloaded."""
    library = next(products.glob("libpython3.*.so.1.0"), None)
    config = json.loads(run(products / "python", "-c", """
import json, sysconfig
print(json.dumps([sysconfig.get_path('include'), sysconfig.get_config_var('LIBDIR'),
                  sysconfig.get_config_var('prefix')]))""").stdout)
    (tmp_path / "cycles.c").write_text(CYCLES)
    result = run("cc", tmp_path / "cycles.c", f"-I{config[0]}", "-o", tmp_path / "cycles",
                 library, f"-Wl,-rpath,{products}")
    assert result.returncode == 0, result.stderr
    # The library's own name has no version of a patch: it is found in its folder.
    result = run(tmp_path / "cycles", environment=clean_environment(
        LD_LIBRARY_PATH=str(products), PYTHONHOME=config[2]))
    assert (result.returncode, result.stdout, result.stderr) == (
        0, "traced True\n" * 4, "")


REFUSES = """
#include "{abi}/abi.h"
#include <string.h>
int python_trace_references(int on)
{{
    if (on) {{
        PyErr_SetString(PyExc_KeyError, "the tracer that was there");
        return -1;
    }}
    return 0;
}}
"""


def test_a_reference_tracer_that_raises_at_its_removal(tmp_path):
    """As from CPython 3.15 on: start() gives its exception, and nothing is traced.
    The module with a file of a version that refuses."""
    if sys.version_info >= (3, 12):
        pytest.skip("as an extension the module lacks what the interpreter exports to "
                    "none; the next test has a tracer of CPython 3.13 and later")
    from conftest import TOP
    import sysconfig
    include = sysconfig.get_path("include")
    (tmp_path / "refuses.c").write_text(REFUSES.format(abi=TOP / "Python" / "tracer" / "abi"))
    abi = TOP / "Python" / "tracer" / "abi" / f"cpython{sysconfig.get_config_var('py_version_nodot')}.c"
    flags = ["-O1", "-fPIC", "-DPy_BUILD_CORE", f"-I{include}", f"-I{include}/internal"]
    for source, more in ((tmp_path / "refuses.c", []),
                         (TOP / "Modules" / "_tracemalloc.c", []),
                         (abi, ["-Dpython_trace_references=not_used"])):
        result = run("cc", *flags, *more, "-c", source, "-o",
                     tmp_path / f"{source.stem}.o")
        assert result.returncode == 0, result.stderr
    result = run("cc", "-shared", "-o", tmp_path / "_tracemalloc.so",
                 *tmp_path.glob("*.o"), BUILD / ".libs" / "libpymemtrace.a",
                 BUILD / ".libs" / "libpymemcore.a", "-lm", "-Wl,-Bsymbolic")
    assert result.returncode == 0, result.stderr
    code = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("_tracemalloc", sys.argv[1])
tracer = importlib.util.module_from_spec(spec)
for i in range(3):
    try:
        tracer.start(7)
    except KeyError as error:
        print(error, tracer.is_tracing(), tracer.get_traceback_limit())
    tracer.stop()
"""
    result = run("/usr/bin/python3", "-c", code, tmp_path / "_tracemalloc.so")
    assert (result.stdout, result.stderr) == ("'the tracer that was there' False 1\n" * 3,
                                              "")


REFERENCE_TRACER = r"""
#include <Python.h>
static int raises;
static int
tracer(PyObject *op, PyRefTracerEvent event, void *data)
{
    (void)op; (void)data;
    if (event > PyRefTracer_DESTROY && raises) {
        PyErr_SetString(PyExc_KeyError, "the tracer that was there");
        return -1;
    }
    return 0;
}
static PyObject *
set(PyObject *self, PyObject *arg)
{
    (void)self;
    raises = PyObject_IsTrue(arg);
    return PyRefTracer_SetTracer(tracer, NULL) < 0 ? NULL : Py_NewRef(Py_None);
}
static PyObject *
is_set(PyObject *self, PyObject *unused)
{
    (void)self; (void)unused;
    void *data;
    return PyBool_FromLong(PyRefTracer_GetTracer(&data) == tracer);
}
static PyMethodDef methods[] = {
    {"set", set, METH_O, NULL}, {"is_set", is_set, METH_NOARGS, NULL}, {0}
};
static PyModuleDef module = {PyModuleDef_HEAD_INIT, "reftracer", NULL, -1, methods};
PyMODINIT_FUNC PyInit_reftracer(void) { return PyModule_Create(&module); }
"""


def test_start_over_another_reference_tracer(python, stock, tmp_path):
    """Of 3.13 and later, set by an extension; from 3.15 on it may refuse to go.  A start()
    that comes later succeeds; on stock of 3.15.0 it waits for ever for a lock."""
    if version(python) < (3, 13):
        pytest.skip("no reference tracers before 3.13")
    include = run(stock, "-c", "import sysconfig as s; print(s.get_path('include'))")
    (tmp_path / "reftracer.c").write_text(REFERENCE_TRACER)
    result = run("cc", "-shared", "-fPIC", f"-I{include.stdout.strip()}",
                 tmp_path / "reftracer.c", "-o", tmp_path / "reftracer.so")
    assert result.returncode == 0, result.stderr
    script = tmp_path / "script.py"
    script.write_text("""
import os, reftracer, sys, tracemalloc
def start():
    try:
        tracemalloc.start(7)
        return "started"
    except KeyError as error:
        return error.args[0]
for turn in range(3):
    reftracer.set(True)
    print(start(), tracemalloc.is_tracing(), tracemalloc.get_traceback_limit(),
          reftracer.is_set(), flush=True)
    if sys.argv[1] == "first":
        os._exit(0)
    if not tracemalloc.is_tracing():
        reftracer.set(False)
        print(start(), tracemalloc.is_tracing(), reftracer.is_set())
    block = bytearray(1000)
    print(tracemalloc.get_object_traceback(block) is not None)
    tracemalloc.stop()
    print(tracemalloc.is_tracing(), reftracer.is_set())
""")
    first, later = "started True 7 False\n", "True\nFalse False\n"
    if version(python) >= (3, 15):
        first = "the tracer that was there False 1 True\n"
        later = "started True False\n" + later
    result = run(stock, script, "first")        # of 3.15 has the limit of what failed
    assert result.stdout.replace("False 7", "False 1") == first, result.stderr
    result = run(python, script, "all")
    assert (result.stdout, result.stderr) == ((first + later) * 3, "")


def test_finalisers_while_a_list_of_traces_is_made(python, tmp_path):
    """Up to 3.11 the garbage collector comes in the middle.  They stop the tracer, start
    it with as many frames or more, clear it, ask for another list, run new code."""
    assert check(python, """
import _tracemalloc, gc, tracemalloc
def restart(nframe):
    tracemalloc.stop()
    tracemalloc.start(nframe)
deeds = [tracemalloc.stop, lambda: restart(1), lambda: restart(30),
         tracemalloc.clear_traces, _tracemalloc._get_traces, lambda: None]
def allocate_at_places(name):
    exec(compile("\\n".join(f"kept{i} = str({i}) * 9" for i in range(400)), name, "exec"), {})
ncalls = 0
class Cycle:
    def __init__(self, deed): self.itself, self.deed = self, deed
    def __del__(self):
        global ncalls
        ncalls += 1
        if ncalls % 30 == 1:
            self.deed()
            allocate_at_places(f"in call {ncalls}")
for nframe in (1, 5):
    for deed in deeds:
        for turn in range(8):
            tracemalloc.start(nframe)
            allocate_at_places(f"turn {turn}")
            gc.collect()
            gc.disable()
            for _ in range(30): Cycle(deed)
            gc.set_threshold(1 + 90 * turn)
            gc.enable()
            traces = _tracemalloc._get_traces()
            gc.set_threshold(700)
            for trace in traces:
                assert trace[1] >= 0
                assert all(type(name) is str and line >= 0 for name, line in trace[2])
        del traces
        gc.collect()
        tracemalloc.stop()
        assert tracemalloc.get_tracemalloc_memory() < 10_000
print(ncalls)
""", tmp_path) == "2880\n"


def test_hooks_over_the_tracers_stay(python, tmp_path):
    """They and the tracer's below them go on when it stops."""
    check(python, """
import _pymem, tracemalloc
tracemalloc.start()
early = [str(i) for i in range(5000)]
_pymem.count()
tracemalloc.stop()
late = [str(i) for i in range(5000)]
early.clear()
tracemalloc.start()
last = [str(i) * 20 for i in range(5000)]
assert tracemalloc.get_traced_memory()[0] > 300_000
requests = _pymem.stop()[0]
assert requests > 10_000, requests
late.clear()
last.clear()
tracemalloc.stop()
assert [str(i) for i in range(5000)]
""", tmp_path, PYTHONPATH=str(BUILD))


def test_module_of_the_package_is_the_interpreters_tracer(python, tmp_path):
    check(python, """
import _tracemalloc, tracemalloc as standard
from pymem import tracemalloc
assert tracemalloc.is_tracing is _tracemalloc.is_tracing
tracemalloc.start(3, sample_bytes=1000, seed=5)
assert tracemalloc.get_sample_bytes() == 1000 and standard.is_tracing()
tracemalloc.stop()
standard.start()
tracemalloc.start()
assert isinstance(tracemalloc.take_snapshot(), standard.Snapshot)
standard.stop()
""", tmp_path, PYTHONPATH=str(BUILD))
