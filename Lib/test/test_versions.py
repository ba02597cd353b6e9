"""CPythons of other versions, linked with our objects: Python/tracer/abi/.

The tracer's tests run over them in test_tracemalloc.py.  Where none has a static
archive here, only build/python is tested.
"""

import json
import re

import pytest

from conftest import BUILD, TOP, clean_environment, masked, run
from test_run import SUBINTERPRETERS


def exported(path):
    return {line.split()[-1] for line in
            run("nm", "-D", "--defined-only", path).stdout.splitlines()}


@pytest.fixture
def python(products):
    return products / "python"


def test_objects_are_ours(python):
    result = run(python, "-c", "import sys; sys._debugmallocstats()")
    assert "# pool map leaves" in result.stderr
    symbols = run("nm", python).stdout
    assert "pymalloc_malloc_slowly" in symbols
    assert "_PyObject_DebugDumpAddress" not in symbols


def test_nothing_that_stock_exports_is_lost(python, stock):
    lost = {name for name in exported(stock) - exported(python)
            if not re.match("_?mi_|_Py(Mem|Object)_Mi|_Py__ZSt", name)}
    assert lost == set()


def test_modules_need_nothing_that_is_lost(python):
    """Not even the test modules that come with CPython."""
    code = """
import glob, importlib, sysconfig, warnings
warnings.simplefilter("ignore")
folder = sysconfig.get_config_var("DESTSHARED")
names = {path.split("/")[-1].split(".")[0] for path in glob.glob(f"{folder}/*.so")}
imported = 0
for name in sorted(names):
    try:
        importlib.import_module(name)
        imported += 1
    except ImportError as error:
        assert "undefined symbol" not in str(error), error
print(imported > 30)
"""
    result = run(python, "-c", code)
    assert result.stdout == "True\n", result.stderr


@pytest.mark.parametrize("name, hooked", [
    ("", False), ("pymalloc", False), ("malloc", False), ("debug", True),
    ("pymalloc_debug", True), ("malloc_debug", True)])
def test_pythonmalloc(python, name, hooked):
    code = "import ctypes; p = ctypes.pythonapi.PyMem_Malloc; " \
           "p.restype = ctypes.c_void_p; print(ctypes.string_at(p(20), 20))"
    result = run(python, "-c", code, environment=clean_environment(PYTHONMALLOC=name))
    assert ((r"\xcd" * 20) in result.stdout) == hooked, result.stderr


@pytest.mark.parametrize("malloc", ["pymalloc", "debug"])
@pytest.mark.parametrize("nframe", ["0", "3"])
def test_interpreters_with_a_gil_each(python, malloc, nframe):
    order = ["created-before"] if malloc == "debug" else []
    result = run(python, "-c", SUBINTERPRETERS, *order, environment=clean_environment(
        PYTHONMALLOC=malloc, PYTHONTRACEMALLOC=nframe))
    assert result.stdout == "fine\n", result.stderr


def test_a_fault_has_the_text_of_stock(python, stock):
    code = """
import ctypes
api = ctypes.pythonapi
api.PyMem_Malloc.restype = ctypes.c_void_p
p = api.PyMem_Malloc(40)
ctypes.memset(p, 65, 41)
api.PyMem_Free(ctypes.c_void_p(p))
"""
    texts = [masked(run(program, "-c", code, environment=clean_environment(
        PYTHONMALLOC="debug", PYTHONTRACEMALLOC="5")).stderr)
        for program in (python, stock)]
    assert "bad trailing pad byte" in texts[0]
    assert 'File "<string>", line 5' in texts[0]
    assert texts[0] == texts[1]


def test_statistics_add_up(python):
    code = """
import sys
def blocks(n):
    before = sys.getallocatedblocks()
    kept = [bytes(100) for _ in range(n)]
    return sys.getallocatedblocks() - before
print(10_000 <= blocks(10_000) <= 10_050)
"""
    assert run(python, "-c", code).stdout == "True\n"


def test_codes_that_share_their_bytes(python, tmp_path):
    """In 3.10 the instructions lie in an object apart, which replace() shares."""
    script = tmp_path / "script.py"
    script.write_text("""
import tracemalloc
tracemalloc.start(1)
def make(): return bytearray(500)
for i in range(50):
    made = eval(make.__code__.replace(co_filename=f"file{i}", co_firstlineno=100 + i))
    frame = tracemalloc.get_object_traceback(made)[0]
    assert (frame.filename, frame.lineno) == (f"file{i}", 100 + i), frame
print("fine")
""")
    result = run(python, script)
    assert result.stdout == "fine\n", result.stderr


def test_own_tests(products):
    """Those of memory, interpreters and threads, as on stock; build/python's run in
    Tools/check.sh."""
    if products == BUILD:
        pytest.skip("Tools/check.sh runs all of them on build/python")
    folder = json.loads(run(products / "python", "-c", "import json, os, test; "
                            "print(json.dumps(os.listdir(test.__path__[0])))").stdout)
    tests = [name for name in (
        "test_tracemalloc", "test_sys", "test_gc", "test_embed", "test_capi",
        "test_interpreters", "test__interpreters", "test__xxsubinterpreters")
        if {name, f"{name}.py"} & set(folder)]
    result = run(TOP / "Tools" / "regrtest", f"--build={products}", *tests)
    assert result.returncode == 0, result.stdout
    assert re.search(r"(\d+) files of \d+ tests, \1 pass, 0 differ", result.stdout)
