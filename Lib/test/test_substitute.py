"""build/python and build/libpython3.X.so.1.0: a real CPython on our objects."""

import re
import shutil
import sys
import sysconfig

import pytest

from conftest import (ALLOCATOR_NAME, BUILD, DOMAINS, IS_64_BITS, MEM, RAW, VERSION,
                      clean_environment, masked, run)
from test_debug import MISUSES, SIZES, code_for

LIBRARY = BUILD / f"libpython{VERSION}.so.1.0"
SIZES_OF_DICT = "48|64" if IS_64_BITS else "24|28"


def is_of_stock(statistics):
    """CPython has a map of arenas on 64 bits."""
    return "Small block threshold" in statistics and "# pool map leaves" not in statistics \
        and ("# arena map mid nodes" in statistics) == IS_64_BITS


def test_symbols_come_from_our_objects(python):
    """Static symbols of obmalloc.o are gone, ours are there."""
    for product in (python, LIBRARY):
        symbols = run("nm", product).stdout
        assert "pymalloc_malloc_slowly" in symbols
        assert "arena_map_" not in symbols
        assert "_PyObject_DebugDumpAddress" not in symbols
    stock = run("nm", BUILD / "python-stock").stdout
    assert "_PyObject_DebugDumpAddress" in stock and ("arena_map_" in stock) == IS_64_BITS


def test_exported_symbols_are_those_of_stock(python):
    """Nothing that stock exports is lost, and nothing internal is added."""
    def exported(path):
        return {line.split()[-1] for line in
                run("nm", "-D", "--defined-only", path).stdout.splitlines()}
    ours, stock = exported(python), exported(BUILD / "python-stock")
    assert stock - ours == set()
    added = ours - stock
    # The last two are no longer exported by 3.14.
    assert all(name.startswith(("_PyMem_", "_PyObject_", "PyMem_Trim", "PyMemHeap_"))
               or name in ("_PyDebugAllocatorStats", "_Py_GetAllocatedBlocks")
               for name in added), added


def test_statistics_are_ours(python):
    result = run(python, "-c", "import sys; sys._debugmallocstats()")
    assert "# pool map leaves" in result.stderr
    assert re.search(rf"free PyDictObjects \* ({SIZES_OF_DICT}) bytes each", result.stderr)


def test_allocated_blocks(python):
    code = """
import sys
before = sys.getallocatedblocks()
kept = [object() for _ in range(10000)] + [bytes(1000) for _ in range(1000)]
grown = sys.getallocatedblocks() - before
assert 11000 <= grown <= 11100, grown
del kept
assert abs(sys.getallocatedblocks() - before) < 100
"""
    assert run(python, "-c", code).returncode == 0


@pytest.mark.parametrize("name", ["malloc", "malloc_debug", "pymalloc",
                                  "pymalloc_debug", "default", "debug",
                                  "mimalloc", "mimalloc_debug", "hardened",
                                  "hardened_debug"])
def test_pythonmalloc(python, name):
    if name.startswith("mimalloc"):
        config = (BUILD / "pyconfig.h").read_text()
        assert "#define WITH_MIMALLOC 1" in config
    code = ALLOCATOR_NAME + """
import json
print(name())
kept = [json.loads('{"a": [1, 2.5, "x"]}') for _ in range(1000)]
"""
    result = run(python, "-c", code,
                 environment=clean_environment(PYTHONMALLOC=name))
    expected = {"default": "pymalloc", "debug": "pymalloc_debug"}
    assert result.stdout.strip() == expected.get(name, name), result.stderr


def test_unknown_pythonmalloc_is_cpythons_error(python):
    for program in (python, BUILD / "python-stock"):
        result = run(program, "-c", "pass",
                     environment=clean_environment(PYTHONMALLOC="jemalloc"))
        assert result.returncode != 0
        assert result.stderr.startswith(
            "Fatal Python error: preconfig_init_allocator: "
            "PYTHONMALLOC: unknown allocator\n")


def test_isolated_ignores_pythonmalloc(python):
    result = run(python, "-I", "-c", "print('fine')",
                 environment=clean_environment(PYTHONMALLOC="jemalloc"))
    assert result.stdout == "fine\n"


def test_dev_mode_uses_debug_hooks(python):
    code = ALLOCATOR_NAME + "print(name())"
    assert run(python, "-X", "dev", "-c", code).stdout == "pymalloc_debug\n"


def both(python, *arguments, **variables):
    """(exit status, stderr with addresses masked) on ours and on stock."""
    results = []
    for program in (python, BUILD / "python-stock"):
        result = run(program, *arguments, environment=clean_environment(
            PYTHONPATH=str(BUILD), **variables))
        results.append((result.returncode, masked(result.stderr)))
    return results


MISUSES_HERE = {**MISUSES, "without the GIL": "api.malloc_without_gil(domain)"}


@pytest.mark.parametrize("tracing", ["0", "5"])
@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("misuse", list(MISUSES_HERE))
def test_faults_have_the_text_of_stock(python, misuse, domain, tracing, tmp_path):
    """The whole of stderr, with CPython's traceback of the block."""
    if misuse == "without the GIL" and domain == RAW and tracing == "5":
        domain = MEM        # stock's tracer waits for the GIL, for ever
    for size in SIZES:
        script = tmp_path / "fault.py"
        script.write_text("import _testcpython as api\n"
                          + code_for(MISUSES_HERE[misuse], domain, size))
        ours, stock = both(python, script, PYTHONMALLOC="debug",
                           PYTHONTRACEMALLOC=tracing)
        assert ours == stock
        raw_without_gil = misuse == "without the GIL" and domain == RAW
        assert ours[0] == (0 if raw_without_gil else -6)
        traced = "Memory block allocated at (most recent call first):"
        if tracing == "5" and "GIL" not in misuse and misuse != "underflow by a word":
            assert traced in ours[1]


@pytest.mark.parametrize("name", ["a b", "\xe9\xff", "\u20ac", "\U0001f600 x", "\udc80",
                                  "tab\t\x7f", "n" * 500, "n" * 501])
def test_names_in_a_traceback_are_written_as_on_stock(python, name, tmp_path):
    script = tmp_path / "fault.py"
    script.write_text(f"""
import _testcpython as api
exec(compile("p = api.malloc(1, 20)", {ascii(name)}, "exec"))
api.write(p + 20, b"x")
api.free(1, p)
""")
    ours, stock = both(python, script, PYTHONMALLOC="debug", PYTHONTRACEMALLOC="3")
    assert ours == stock
    assert "Memory block allocated at" in ours[1]


@pytest.mark.parametrize("tracing", ["0", "5"])
@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("second", ["free(domain, p)", "realloc(domain, p, 40)"])
def test_a_dead_block_begins_as_on_stock(python, second, domain, tracing, tmp_path):
    """Stock crashes in its dump, or in the allocator; ours tells to the end.  What
    is in a dead block differs: stock's allocators have put it to use again."""
    def beginning(text):
        text = text[:text.index("may segfault.")]
        text = re.sub(r"\d+ bytes originally", "N bytes originally", text)
        return re.sub(r"API '.*?'(?=\n)|0x\w\w\b( \*\*\* OUCH)?", "?", text, flags=re.S)

    compared = 0
    for size in SIZES:
        script = tmp_path / "fault.py"
        script.write_text("import _testcpython as api\n" + code_for(
            f"api.free(domain, p); api.{second}", domain, size))
        ours, stock = both(python, script, PYTHONMALLOC="debug",
                           PYTHONTRACEMALLOC=tracing)
        assert ours[0] == -6
        assert "Fatal Python error: _PyMem_DebugRaw" in ours[1]
        if "may segfault." in stock[1] and "may segfault." in ours[1]:
            assert beginning(ours[1]) == beginning(stock[1])
            compared += 1
    assert compared >= 1


def test_standard_library_runs(python, tmp_path):
    """C extension modules, subprocesses, threads, compression, databases."""
    code = """
import ctypes, hashlib, json, sqlite3, ssl, subprocess, sys, threading, zlib
assert ctypes.CDLL(None).strlen(b"four") == 4
pointer = ctypes.pythonapi.PyMem_Malloc
pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
free = ctypes.pythonapi.PyMem_Free
free.argtypes = [ctypes.c_void_p]
block = pointer(100)
ctypes.memset(block, 1, 100)
free(block)
database = sqlite3.connect(":memory:")
database.execute("create table t (x)")
database.executemany("insert into t values (?)", [(i,) for i in range(1000)])
assert database.execute("select sum(x) from t").fetchone() == (499500,)
ssl.create_default_context()
data = zlib.decompress(zlib.compress(json.dumps(list(range(9999))).encode()))
assert hashlib.sha256(data).hexdigest()
results = []
threads = [threading.Thread(target=lambda: results.append(
    sum(len(str(i)) for i in range(20000)))) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert len(set(results)) == 1
child = subprocess.run([sys.executable, "-c", "print(6 * 7)"],
                       capture_output=True, text=True)
assert child.stdout == "42\\n"
print("all of it")
"""
    result = run(python, "-c", code)
    assert result.stdout == "all of it\n", result.stderr


def test_hash_modules_that_are_built_in(python):
    """Some archives lack their functions; then they are ours.  The values are those of
    the Python that runs the tests."""
    code = """
import importlib, random
for module, name, options in [
        ("_md5", "md5", {}), ("_sha1", "sha1", {}), ("_sha2", "sha224", {}),
        ("_sha2", "sha256", {}), ("_sha2", "sha384", {}), ("_sha2", "sha512", {}),
        ("_sha3", "sha3_256", {}), ("_sha3", "shake_128", {}), ("_blake2", "blake2b", {}),
        ("_blake2", "blake2b", dict(digest_size=20, key=b"key", salt=b"salt", person=b"p",
                                    fanout=2, depth=3, leaf_size=4, node_offset=5,
                                    node_depth=1, inner_size=30, last_node=True)),
        ("_blake2", "blake2s", dict(key=b"k"))]:
    try:
        made = getattr(importlib.import_module(module), name)(b"abc" * 1000, **options)
    except ImportError as error:        # _sha2 is _sha256 and _sha512 up to 3.11
        assert module == "_sha2" and "_sha2" in str(error), error
        continue
    made.update(bytes(5000))
    print(name, made.hexdigest(*([20] if name == "shake_128" else [])),
          made.digest_size, made.block_size, made.name)
random.seed("text")
print(random.random())
"""
    ours, theirs = (run(program, "-c", code) for program in (python, sys.executable))
    assert ours.stderr == theirs.stderr == ""
    assert ours.stdout == theirs.stdout
    assert len(ours.stdout.splitlines()) >= 8


@pytest.mark.parametrize("tool", [["json.tool", "--help"], ["pydoc", "json"],
                                  ["timeit", "-n1", "-r1", "pass"],
                                  ["compileall", "--help"], ["sysconfig"]])
def test_m_tools(python, tool):
    result = run(python, "-m", *tool)
    assert result.returncode == 0, result.stderr
    assert result.stdout


def test_venv(python, tmp_path):
    """A virtual environment made from it runs on our objects, too."""
    result = run(python, "-m", "venv", "--without-pip", tmp_path / "venv")
    assert result.returncode == 0, result.stderr
    result = run(tmp_path / "venv" / "bin" / "python", "-c",
                 "import sys; sys._debugmallocstats(); print(sys.prefix)")
    assert result.stdout.strip() == str(tmp_path / "venv")
    assert "# pool map leaves" in result.stderr


def test_a_program_that_embeds_python(python):
    """gdb's own Python, through LD_LIBRARY_PATH."""
    gdb = shutil.which("gdb", path="/usr/bin:/bin")
    assert gdb, "gdb is missing (Debian: gdb)"
    embedded = re.search(r"libpython(3\.\d+)", run("ldd", gdb).stdout)
    if embedded is None or embedded[1] != VERSION:
        pytest.skip(f"gdb here embeds another Python than {VERSION}")
    result = run(gdb, "-nx", "-batch", "-ex",
                 "python import sys, json; json.loads('[1, 2]'); "
                 "sys._debugmallocstats()",
                 environment=clean_environment(LD_LIBRARY_PATH=str(BUILD)))
    assert "# pool map leaves" in result.stdout + result.stderr, result.stderr
    plain = run(gdb, "-nx", "-batch", "-ex",
                "python import sys; sys._debugmallocstats()")
    assert is_of_stock(plain.stdout + plain.stderr)


def test_a_program_linked_with_libpython(python, tmp_path):
    """Compiled against Debian's headers and library, run on ours."""
    source = tmp_path / "embed.c"
    source.write_text("""
#include <Python.h>
int main(void)
{
    Py_Initialize();
    PyRun_SimpleString("import sys; sys._debugmallocstats()");
    return Py_FinalizeEx();
}
""")
    program = tmp_path / "embed"
    result = run("cc", source, "-o", program, f"-I{sysconfig.get_path('include')}",
                 f"-lpython{VERSION}")
    assert result.returncode == 0, result.stderr
    result = run(program, environment=clean_environment(
        LD_LIBRARY_PATH=str(BUILD)))
    assert "# pool map leaves" in result.stderr
    assert is_of_stock(run(program).stderr)


def resident(code):
    return f"""
import ctypes, os, time
trim = ctypes.pythonapi.PyMem_Trim
trim.restype = ctypes.c_size_t
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")
start = resident()
{code}
"""


def test_memory_of_a_peak_goes_back(python):
    """While the program goes on, within a second."""
    result = run(python, "-c", resident(f"""
kept = [(i, float(i)) for i in range(6_000_000)]
peak = resident() - start
assert peak > {500 if IS_64_BITS else 350} << 20, peak
del kept
begin = time.monotonic()
while time.monotonic() < begin + 1:
    [object() for i in range(1000)]
left = resident() - start
print(left < peak * 0.05, left, peak)
"""))
    assert result.stdout.startswith("True"), result


def test_of_one_peak_little_stays_though_nothing_is_called_any_more(python):
    result = run(python, "-c", resident("""
kept = [(i, float(i)) for i in range(3_000_000)]
peak = resident() - start
del kept
left = resident() - start
print(left <= (16 << 20) + peak * 0.05, left, peak)
"""))
    assert result.stdout.startswith("True"), result


def test_trim_gives_back_what_is_kept(python):
    result = run(python, "-c", resident("""
kept = [(i, float(i)) for i in range(1_000_000)]
peak = resident() - start
del kept
before = resident()
given = trim()
left = resident() - start
assert given >= 3 << 20 and before - resident() > given / 2, (given, before, resident())
print(left < peak * 0.05, left, peak)
kept = [(i, float(i)) for i in range(1000)]
"""))
    assert result.stdout.startswith("True"), result


def test_address_space_limit(python):
    """A limit ends in MemoryError, and the program goes on."""
    code = """
import resource
resource.setrlimit(resource.RLIMIT_AS, (300 << 20, 300 << 20))
kept = []
try:
    while True:
        kept.append([object() for _ in range(10000)])
except MemoryError:
    n = len(kept)
    kept.clear()
    print(n > 10, sum(range(1000)), len([str(i) for i in range(10000)]))
"""
    result = run(python, "-c", code)
    assert result.stdout == "True 499500 10000\n", result.stderr


NO_MEMORY = """
from _testcapi import set_nomemory, remove_mem_hooks

def work():
    text = [str(i) * 3 for i in range(100)]
    table = {word: [i, float(i)] for i, word in enumerate(text)}
    large = [bytes(i * 97) for i in range(100)]
    large[3:9] = []
    return sorted(table), "".join(table).encode(), set(text), large

def attempt(start, stop):
    set_nomemory(start, stop)
    try:
        return "fine" if work() == expected else "wrong"
    except MemoryError:
        return "no memory"
    finally:
        remove_mem_hooks()

expected = work()
for forever in (True, False):
    outcomes = []
    while outcomes[-50:] != ["fine"] * 50:
        k = len(outcomes)
        outcomes.append(attempt(k, 0 if forever else k + 1))
        assert work() == expected
    print(forever, k, outcomes.count("no memory"), outcomes.count("wrong"))
"""


@pytest.mark.parametrize("name", ["pymalloc", "pymalloc_debug", "malloc"])
def test_each_request_of_an_interpreter_fails(python, name, tmp_path):
    script = tmp_path / "nomemory.py"
    script.write_text(NO_MEMORY)
    ours, stock = (run(program, script,
                       environment=clean_environment(PYTHONMALLOC=name))
                   for program in (python, BUILD / "python-stock"))
    assert ours.returncode == 0, ours.stderr
    assert ours.stdout == stock.stdout
    for line in ours.stdout.splitlines():
        _, k, failed, wrong = line.split()
        assert int(failed) >= 500 and wrong == "0"


def test_fork_in_the_middle(python):
    code = """
import os, threading
stop = False
def work():
    while not stop:
        [bytes(i) for i in range(600)]
threads = [threading.Thread(target=work) for _ in range(3)]
for thread in threads: thread.start()
for _ in range(20):
    pid = os.fork()
    if pid == 0:
        [bytes(i) for i in range(2000)]
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
stop = True
for thread in threads: thread.join()
print("done")
"""
    assert run(python, "-c", code).stdout == "done\n"


def test_versions_agree(python):
    assert (run(python, "--version").stdout
            == run(sys.executable, "--version").stdout)
