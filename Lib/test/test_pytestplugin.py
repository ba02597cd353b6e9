"""The plugin of pytest, installed by pip and found by its entry point.

Each test of SESSION says what becomes of it: a session in one process, and one with two workers
of xdist, must both say that.
"""

import importlib
import json
import os
import re
import sys
import textwrap
from pathlib import Path

import pytest

from conftest import IS_64_BITS, TOP, clean_environment
from packaged import Environment, call, chosen
from pymem.pytestmemory import BadMark, size_of

RUNNING = "%d.%d" % sys.version_info[:2]
# Of the pytest that runs this, for environments without a network.
NEEDED = ("pytest", "_pytest", "py", "pluggy", "iniconfig", "packaging", "attr", "xdist",
          "execnet", "exceptiongroup", "pygments", "pytest_asyncio")
WORKERS = ["-p", "xdist.plugin", "-p", "xdist.looponfail", "-n", "2"]


def link_pytest(environment):
    for name in NEEDED:
        try:
            file = Path(importlib.import_module(name).__file__)
        except ImportError:
            continue                    # each version needs some of them
        linked = file.parent if file.name == "__init__.py" else file
        (environment.packages / linked.name).symlink_to(linked)


def made_environment(factory, version):
    folder = factory.mktemp("pytestplugin")
    environment = Environment.create(version, chosen()[version], folder / "venv")
    environment.install(factory)
    link_pytest(environment)
    environment.cache = str(folder / "cache")       # none of theirs is written beside pytest
    return environment


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    if RUNNING not in chosen():
        pytest.skip(f"the headers of CPython {RUNNING} are missing (Debian: "
                    f"libpython{RUNNING}-dev)")
    return made_environment(tmp_path_factory, RUNNING)


def run_pytest(environment, folder, *arguments, python=(), columns=80, **variables):
    """Of the tests in a folder."""
    return call(environment.bin("python"), *python, "-m", "pytest", "-p", "no:cacheprovider",
                *arguments, cwd=folder, env=clean_environment(
                    COLUMNS=str(columns), PYTHONPYCACHEPREFIX=environment.cache, **variables))


def run_tests(environment, folder, text, *arguments, **options):
    folder.mkdir(exist_ok=True)
    (folder / "test_it.py").write_text("import pytest\n" + text)
    return run_pytest(environment, folder, "-q", *arguments, **options)


# Sessions.

SESSION = '''
import gc
import threading

import pytest

gc.disable()                            # only the plugin collects garbage
kept, counts = [], {}


def make(n):
    return [bytes(1000) for _ in range(n)]


@pytest.mark.pymem(limit="1 MiB")
def test_over():
    data = make(3000)
    more = bytearray(500_000)


@pytest.mark.pymem(limit="4 MiB")
def test_under():
    make(3000)
    make(3000)


@pytest.mark.pymem(limit=1_000_000)
def test_threads():
    threads = [threading.Thread(target=make, args=(2000,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.pymem(limit="1K")
def test_little():
    make(2)


@pytest.fixture
def large():
    return make(3000)


@pytest.mark.pymem(limit="0.5 MB")
def test_fixture(large):
    assert len(large) == 3000


@pytest.mark.xfail(strict=True)
@pytest.mark.pymem(limit="1 MiB")
def test_expected():
    make(3000)


@pytest.mark.pymem(leaks="100 KiB")
def test_leak():
    kept.append(make(200))


@pytest.mark.pymem(leaks="300 KiB")
def test_small_leak():
    kept.append(make(200))


class Cycle:
    pass


@pytest.mark.pymem(leaks="10 KiB", limit="3 MiB")
def test_garbage():
    cycle = Cycle()
    cycle.me, cycle.data = cycle, make(1000)


@pytest.mark.pymem(leaks="10 KiB")
def test_replaced():
    kept[:] = make(1000)


@pytest.mark.pymem(leaks="10 KiB")
def test_second_time():
    counts["second"] = counts.get("second", 0) + 1
    if counts["second"] == 2:
        kept.append(make(1000))


@pytest.mark.pymem(leaks="10 KiB", limit="3 MiB")
def test_both():
    kept.append(make(4000))


@pytest.mark.pymem(leaks="10 KiB")
def test_again():
    counts["again"] = counts.get("again", 0) + 1
    assert counts["again"] == 1


@pytest.mark.pymem(leaks="10 KiB")
def test_skipped():
    pytest.skip("for a reason")


@pytest.mark.pymem(leaks="10 KiB", limit="2 MiB")
class TestMarks:
    @pytest.mark.pymem(leaks=None)
    def test_inner(self):
        kept.append(make(100))

    @pytest.mark.pymem(limit="1 KiB")
    def test_limit(self):
        make(10)


@pytest.mark.pymem(limits="1 MiB")
def test_unknown():
    pass


@pytest.mark.pymem
def test_neither():
    pass


@pytest.mark.pymem("1 MiB")
def test_position():
    pass


@pytest.mark.pymem(leaks="10 potatoes")
def test_size():
    pass


@pytest.mark.pymem(limit="1 MiB")
def test_traces():
    import tracemalloc
    tracemalloc.start(3)
    data = make(10)
    assert tracemalloc.get_traceback_limit() == 3
    assert tracemalloc.get_object_traceback(data[0])
    tracemalloc.stop()


def test_traces_unmarked():
    import pymem.tracemalloc
    pymem.tracemalloc.start(2)
    assert pymem.tracemalloc.get_traceback_limit() == 2
    pymem.tracemalloc.stop()


def work():
    return sorted({str(i): [i] * 5 for i in range(40)}.items())


def test_nth(failing_memory):
    with failing_memory.nth(2) as block:
        work()
    assert block.hit and type(block.exception) is MemoryError
    with failing_memory.nth(10**9) as block:
        work()
    assert not block.hit and block.exception is None


def test_each(failing_memory):
    for domain in "mem", "object":
        numbers = []
        for k in failing_memory.each(domain=domain):
            with k:
                result = work()
            numbers.append(k.number)
        assert result == work() and len(numbers) > 5
        assert numbers == list(range(1, len(numbers) + 1))


def failed_of(block):
    failed = bytearray(1000)            # an append() could fail as well
    with block:
        for i in range(1000):
            try:
                [i] * 200
            except MemoryError:
                failed[i] = 1
    return failed


def test_share(failing_memory):
    failed = failed_of(failing_memory.share(0.2))
    assert 100 < sum(failed) < 500
    assert failed == failed_of(failing_memory.share(0.2))
    assert failed != failed_of(failing_memory.share(0.2, seed=7))
    assert sum(failed_of(failing_memory.share(0))) == 0


def test_wrong(failing_memory):
    for block in (lambda: failing_memory.nth(0), lambda: failing_memory.nth(1, count=0)):
        with pytest.raises(ValueError, match="the number of a request"):
            block()
    with pytest.raises(ValueError, match="0 to 1"):
        failed_of(failing_memory.share(1.5))
    with pytest.raises(RuntimeError, match="stands in a block .with k:."):
        for k in failing_memory.each():
            work()


def test_what_failed(failing_memory):
    for k in failing_memory.each():
        with k:
            work()
        assert k.number < 4
'''
# A header of a bytes object has 16 bytes less on 32 bits.
OVER, LEFT, LEFT_ABOUT = ("3.5", "203", r"20\d") if IS_64_BITS else ("3.4", "199", "199")
# {test: (what becomes of it, what it says)}
EXPECTED = {
    "test_over": ("failed", f"pymem: {OVER} MiB at the peak, and the limit is 1.0 MiB"),
    "test_under": ("passed", ""),
    "test_threads": ("failed", r"pymem: [\d.]+ MiB at the peak, and the limit is 976.6 KiB"),
    "test_little": ("failed", r"pymem: [\d.]+ KiB at the peak, and the limit is 1.0 KiB"),
    "test_fixture": ("passed", ""),
    "test_expected": ("skipped", ""),
    "test_leak": ("failed", rf"pymem: each run leaves {LEFT}.\d KiB, and 100.0 KiB are allowed"),
    "test_small_leak": ("passed", ""),
    "test_garbage": ("passed", ""),
    "test_replaced": ("passed", ""),
    "test_second_time": ("passed", ""),
    "test_both": ("failed", r"pymem: [\d.]+ MiB at the peak, and the limit is 3.0 MiB"),
    "test_again": (
        "failed", "pymem: leaks= runs a test more than once, .* the next time its call is failed"),
    "test_skipped": ("skipped", ""),
    "test_inner": ("passed", ""),
    "test_limit": ("failed", r"pymem: [\d.]+ KiB at the peak, .*"),
    "test_unknown": (
        "error", '@pytest.mark.pymem takes limit="24 MiB" or leaks="100 KiB" or .* is limits='),
    "test_neither": ("error", "@pytest.mark.pymem takes .*, and here is none of them"),
    "test_position": ("error", "@pytest.mark.pymem takes .*, and here is '1 MiB'"),
    "test_size": (
        "error", """@pytest.mark.pymem.leaks=....: '10 potatoes' is no size, as "24 MiB", .*"""),
    "test_traces": (
        "failed", "pymem: the test uses tracemalloc itself, and there is one tracer at a time"),
    "test_traces_unmarked": ("passed", ""),
    "test_nth": ("passed", ""),
    "test_each": ("passed", ""),
    "test_share": ("passed", ""),
    "test_wrong": ("passed", ""),
    "test_what_failed": ("failed", "assert .*"),
}

# What a plugin of the tests' own writes, in the process that has the terminal.
TELLS = '''
import json

results = {}


def pytest_runtest_logreport(report):
    if report.when == "call" or report.outcome != "passed":
        crash = getattr(report.longrepr, "reprcrash", None)
        outcome = "error" if report.failed and report.when != "call" else report.outcome
        results[report.nodeid.split("::")[-1]] = outcome, getattr(crash, "message", "")


def pytest_sessionfinish(session):
    if not hasattr(session.config, "workerinput"):
        with open("results.json", "w") as file:
            json.dump(results, file)
'''


def workers(where):
    """Options of pytest."""
    if where == "in one process":
        return []
    pytest.importorskip("xdist", reason="needs pytest-xdist (Debian: python3-pytest-xdist)")
    return WORKERS


@pytest.fixture(scope="module", params=["in one process", "with xdist"])
def session(request, environment, tmp_path_factory):
    """(what it printed, {test: [outcome, message]})"""
    folder = tmp_path_factory.mktemp("session")
    (folder / "conftest.py").write_text(TELLS)
    (folder / "test_it.py").write_text(SESSION)
    result = run_pytest(environment, folder, "--pymem", "--pymem-top", "9",
                        *workers(request.param))
    assert result.returncode == 1, result.stdout + result.stderr
    return result.stdout, json.loads((folder / "results.json").read_text())


@pytest.mark.parametrize("name", EXPECTED)
def test_a_test_with_a_mark(session, name):
    outcome, message = session[1][name]
    assert outcome == EXPECTED[name][0], message
    assert re.fullmatch(EXPECTED[name][1] or ".*", message.split("\n")[0]), message


@pytest.mark.parametrize("text, nbytes", [("24 MiB", 24 << 20), ("1.5k", 1536), (0, 0), (7, 7)])
def test_sizes(text, nbytes):
    assert size_of(text) == nbytes


@pytest.mark.parametrize("text", ["MiB", -1, 1.5, True, b"1"])
def test_sizes_that_are_none(text):
    with pytest.raises(BadMark, match="is no size, as"):
        size_of(text)


def part(text, title, end=r"\n[=_]+ |\Z"):
    """Of what was printed, under a title."""
    found = re.search(rf"^[=_]+ {re.escape(title)} [=_]+\n(.*?)(?={end})", text, re.M | re.S)
    assert found, text
    return found[1]


def line_of(words):
    return next(number for number, line in enumerate(SESSION.splitlines(), 1)
                if words in line)


def test_who_had_the_memory_at_the_peak(session):
    said = part(session[0], "test_over")
    assert said.count("pymem: who had the memory") == 1
    assert re.search(
        r"-- pymem: who had the memory at the peak --+\n"
        rf"[23]\.\d MiB in [23],\d\d\d blocks  test_it.py:{line_of('bytes(1000)')} make\n"
        rf"    called by test_it.py:{line_of('data = make(3000)')} test_over\n"
        rf"488\.\d KiB in \d blocks?  test_it.py:{line_of('bytearray')} test_over", said), said


def test_who_holds_what_each_run_leaves(session):
    said = part(session[0], "test_leak")
    assert re.search(
        r"-- pymem: who holds what each run leaves --+\n"
        rf"{LEFT_ABOUT}\.\d KiB in 20\d blocks  test_it.py:{line_of('bytes(1000)')} make\n"
        rf"    called by test_it.py:{line_of('kept.append(make(200))')} test_leak", said), said


def test_the_tests_with_most_memory(session):
    said = part(session[0], "pymem: tests with most memory").splitlines()
    assert re.fullmatch(" +peak +limit  test", said[0])
    peaks = [line.split() for line in said if "::" in line]
    assert len(peaks) == 9 and [row[-1] for row in peaks][0] == "test_it.py::test_both"
    assert [OVER, "MiB", "1.0", "MiB", "test_it.py::test_over"] in peaks
    assert f"MiB by test_it.py:{line_of('bytes(1000)')} make" in said[2]
    assert re.fullmatch(r"\d+ tests more \(--pymem-top\)", said[-3])
    assert " ".join(said[-2:]) == ("Not measured: 2 tests, as the test uses tracemalloc itself, "
                                   "and there is one tracer at a time.")
    assert all(len(line) <= 80 for line in said)


def test_which_request_failed_is_told(session):
    assert re.search(r"-- pymem: memory that failed --+\n1 of \d+ requests of the mem domain "
                     r"failed \(number 4\)", part(session[0], "test_what_failed"))


def test_each_width(environment, tmp_path):
    """A deep stack, and names longer than a line."""
    name = "test_" + "long_" * 40
    for columns in 80, 200:
        result = run_tests(environment, tmp_path, f"""
def even(n):
    return odd(n)

def odd(n):
    return even(n - 1) if n else bytes(5000)

@pytest.mark.pymem(limit="1 KiB")
def {name}():
    even(6)
""", "--pymem", columns=columns)
        assert "    and 6 callers more" in result.stdout, result.stdout
        table = part(result.stdout, "pymem: tests with most memory")
        assert "…" in table if columns == 80 else name[-150:] in table
        assert all(len(line) <= columns for line in table.splitlines())


PAGES_OWN = """
import pytest

LARGE, SMALL = range(20000), range(40)
EXPECTED = {i: [i] * 5 for i in SMALL}

@pytest.fixture
def client():
    import types
    return types.SimpleNamespace(get=lambda page: bytes(1000))

def parse(numbers):
    return {i: [i] * 5 for i in numbers}

def is_consistent():
    return True
"""


def test_the_page(environment, tmp_path):
    """Its programs do what it says; the limit for all tests is the outermost one."""
    page = (TOP / "Doc" / "pytest.rst").read_text()
    tests, conftest, failing = (
        textwrap.dedent(block)
        for block in re.findall(r"code-block:: python\n\n((?:   .*\n|\n)+)", page))
    (tmp_path / "conftest.py").write_text(conftest)
    result = run_tests(environment, tmp_path, PAGES_OWN + tests + failing + """
def test_over_all():
    bytearray(101 << 20)

@pytest.mark.pymem(limit=None)
def test_none():
    bytearray(101 << 20)
""", "-rA")
    assert "1 failed, 5 passed" in result.stdout, result.stdout
    assert "pymem: 101.0 MiB at the peak, and the limit is 100.0 MiB" in result.stdout


# Other plugins and versions.

def test_asyncio(environment, tmp_path):
    if not (environment.packages / "pytest_asyncio").exists():
        pytest.skip("needs pytest-asyncio (Debian: python3-pytest-asyncio)")
    result = run_tests(environment, tmp_path, """
import asyncio
kept = []

async def fetch(n):
    data = bytes(n)
    await asyncio.sleep(0)
    return data

@pytest.mark.pymem(limit="1 MiB")
async def test_gathered():
    await asyncio.gather(*(fetch(300_000) for _ in range(8)))

@pytest.mark.pymem(limit="1 MiB", leaks="10 KiB")
async def test_in_turn():
    for _ in range(8):
        await fetch(300_000)

@pytest.mark.pymem(leaks="100 KiB")
async def test_leaks():
    kept.append(await fetch(300_000))
""", "-p", "pytest_asyncio.plugin", "--asyncio-mode=auto", "-rA")
    assert "PASSED test_it.py::test_in_turn" in result.stdout, result.stdout
    assert "pymem: 2.3 MiB at the peak, and the limit is 1.0 MiB" in result.stdout
    assert re.search(r"^2\.\d MiB in \d+ blocks  test_it.py:7 fetch$", result.stdout, re.M)
    assert re.search(r"each run leaves 293.\d KiB, and 100.0 KiB are allowed", result.stdout)
    assert "2 failed, 1 passed" in result.stdout


CACHES = '''
import functools, sys, threading

pytestmark = pytest.mark.pymem(leaks="2 KiB")

def test_nothing():
    pass

def test_patterns():
    import re
    for i in range(300):
        re.compile(f"x{i}(a|b)*")

def test_traceback():
    import traceback
    try:
        1 / 0
    except ZeroDivisionError:
        traceback.format_exc()

@functools.lru_cache(None)
def listed(n):
    return [n] * 100

def test_lru_cache():
    for i in range(100):
        listed(i)

def test_imports():
    import asyncio, decimal, email, json, sqlite3, unittest.mock, xml.etree.ElementTree

def test_captured(caplog, capsys):
    import logging
    logging.getLogger("a.b").warning("x")
    print("hello" * 1000)

def test_files(tmp_path):
    (tmp_path / "x").write_text("a" * 10000)
    (tmp_path / "x").read_text()

def test_free_lists():
    [float(i) for i in range(2000)], [(i,) for i in range(2000)], [[i] for i in range(2000)]

def test_classes():
    class Made:
        pass
    made = Made()
    for i in range(100):
        setattr(made, f"name{i}", i)

def test_exceptions():
    with pytest.raises(ValueError):
        raise ValueError("x" * 1000)

def test_executor():
    from concurrent.futures import ThreadPoolExecutor
    with ThreadPoolExecutor(4) as executor:
        list(executor.map(str, range(100)))

def test_loop():
    import asyncio
    async def main():
        await asyncio.gather(*(asyncio.sleep(0) for _ in range(10)))
    asyncio.run(main())

def test_dataclass():
    import dataclasses
    @dataclasses.dataclass
    class Made:
        x: int
    Made(1)

def test_times():
    import datetime
    datetime.datetime.strptime("2026", "%Y")
'''


def can_run_pytest(environment):
    """The pytest of this Python, and what it needs of that version, may be others."""
    result = call(environment.bin("python"), "-c", "import pytest", env=clean_environment(
        PYTHONPYCACHEPREFIX=environment.cache))
    return result.returncode == 0


@pytest.mark.few_pythons
@pytest.mark.parametrize("version", list(chosen()))
def test_what_fills_once_is_no_leak(environment, tmp_path_factory, tmp_path, version):
    """Of each version; a leak in the middle is found, with its line."""
    if version != RUNNING:
        environment = made_environment(tmp_path_factory, version)
        if not can_run_pytest(environment):
            pytest.skip(f"the pytest of CPython {RUNNING} does not run in {version}")
    leak = """
kept = []
def test_leak():
    kept.append(bytes(5000))

@pytest.mark.pymem(limit="1 MiB", leaks=None)
def test_peak():
    [bytes(1000) for _ in range(2000)]

@pytest.mark.pymem(leaks=None)
def test_failing(failing_memory):
    for k in failing_memory.each():
        with k:
            sorted({str(i): [i] * 5 for i in range(40)}.items())
    assert k.number > 5
"""
    result = run_tests(environment, tmp_path, CACHES + leak)
    line = (CACHES + leak).splitlines().index("    kept.append(bytes(5000))") + 2
    assert re.search(rf"^\d.*block.*  test_it.py:{line} test_leak$", result.stdout, re.M), (
        result.stdout + result.stderr)
    assert re.search(r"FAILED test_it.py::test_peak - pymem: 2.\d MiB", result.stdout)
    assert re.search(r"^2 failed, 15 passed", result.stdout, re.M), result.stdout


def test_another_version_is_told(environment, tmp_path):
    """It has pymem in its path, and no tracer; --pymem refuses, and so do marks."""
    others = [python for version, python in chosen().items() if version != RUNNING]
    if not others:
        pytest.skip("there is one version here")
    (tmp_path / "test_it.py").write_text("""
import pytest

@pytest.mark.pymem(limit="1 MiB")
def test_limit():
    pass

def test_failing(failing_memory):
    pass

def test_other():
    pass
""")
    no_tracer = "pymem has no tracer for this CPython"
    for arguments, said in (
            ([], [f"pymem: {no_tracer}", "1 failed, 1 passed, ", "1 error",
                  "failing_memory: pymem was not built for this CPython"]),
            (["--pymem"], [f"ERROR: --pymem: {no_tracer}"])):
        result = call(others[-1], "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments,
                      cwd=tmp_path, env=clean_environment(
                          PYTHONPATH=str(environment.packages),
                          PYTHONPYCACHEPREFIX=environment.cache))
        for words in said:
            assert words in result.stdout + result.stderr


# One tracer at a time.

def test_a_session_that_is_traced_already(environment, tmp_path):
    text = """
@pytest.mark.pymem(limit="1 MiB")
def test_limit():
    pass

def test_other():
    pass
"""
    result = run_tests(environment, tmp_path, text, PYTHONTRACEMALLOC="1")
    assert "1 failed, 1 passed" in result.stdout
    assert "pymem: tracemalloc is on already (PYTHONTRACEMALLOC" in result.stdout
    result = run_tests(environment, tmp_path, text, "--pymem", python=["-X", "tracemalloc"])
    assert result.returncode == 4
    assert re.fullmatch(r"ERROR: --pymem: tracemalloc is on already .*tracemalloc.stop\(\) "
                        r"first\n+", result.stderr)


def test_nothing_is_traced_that_is_not_asked_for(environment, tmp_path):
    result = run_tests(environment, tmp_path, """
import sys, tracemalloc

def test_nothing():
    assert not any(name in sys.modules for name in (
        "_pymemtracer", "_pymemfaults", "pymem.tracemalloc", "pymem.pytestmemory", "ctypes"))

@pytest.mark.pymem(limit="1 MiB")
def test_limit():
    assert sys.modules["_pymemtracer"].is_tracing()

def test_after():
    assert not sys.modules["_pymemtracer"].is_tracing()
    tracemalloc.start()
    tracemalloc.stop()
""")
    assert "3 passed" in result.stdout, result.stdout
    result = run_tests(environment, tmp_path, "def test_it(): pass", "--markers")
    assert "@pytest.mark.pymem(limit=SIZE, leaks=SIZE): " in result.stdout


def test_options(environment, tmp_path):
    text = "@pytest.mark.pymem(limit=0)\ndef test_it(): [bytes(5000)]"
    result = run_tests(environment, tmp_path, text, "--pymem-top=-1")
    assert result.returncode == 4
    assert result.stderr == ("ERROR: --pymem-top takes how many tests to list, or 0 for all, "
                             "not -1\n\n")
    result = run_pytest(environment, tmp_path, "-p", "no:terminal", "--strict-markers")
    assert (result.returncode, result.stdout) == (1, "")
    result = run_tests(environment, tmp_path, text, "-p", "no:pymem")
    assert result.returncode == 0 and "PytestUnknownMarkWarning" in result.stdout


def test_under_another_tool_pytest_has_nothing_to_warn_of(environment, tmp_path):
    (tmp_path / "test_it.py").write_text("def test_it(): pass")
    result = call(environment.bin("python"), "-m", "pymem", "flame", "--frames", "1",
                  "-o", tmp_path / "flame.txt", "-m", "pytest", "-p", "no:cacheprovider",
                  cwd=tmp_path, env=clean_environment(PYTHONPYCACHEPREFIX=environment.cache))
    assert re.search(r"\d passed in ", result.stdout), result.stdout
    assert "warning" not in result.stdout


# Debug hooks.

OVERFLOW = """
import os

def test_hooks():
    assert os.environ["PYTHONMALLOC"].endswith("debug")

def test_overflow():
    from pymem import capi
    block = capi.malloc(20)
    capi.write(block + 20, b"xx")
    capi.free(block)
"""


@pytest.mark.parametrize("where", ["in one process", "with xdist"])
def test_debug_hooks_name_the_block_and_the_test(environment, tmp_path, where):
    result = run_tests(environment, tmp_path, OVERFLOW, "--pymem-debug", *workers(where))
    assert "20 bytes originally requested" in result.stderr, result.stdout + result.stderr
    assert "at tail+0: 0x78 *** OUCH" in result.stderr
    assert "test_it.py\", line 12 in test_overflow" in result.stderr
    if where == "with xdist":
        assert "crashed while running 'test_it.py::test_overflow'" in result.stdout
        assert "1 failed, 1 passed" in result.stdout
    else:
        assert result.returncode == -6


def test_debug_hooks_over_another_allocator_and_with_the_tracer(environment, tmp_path):
    result = run_tests(environment, tmp_path, """
import os

@pytest.mark.pymem(limit="1 MiB")
def test_hooks():
    assert os.environ["PYTHONMALLOC"] == "malloc_debug"
    [bytes(1000) for _ in range(2000)]
""", "--pymem-debug", "--pymem", PYTHONMALLOC="malloc")
    assert f"FAILED test_it.py::test_hooks - pymem: {2.0 if IS_64_BITS else 1.9} MiB at the peak" \
        in result.stdout


def test_debug_hooks_that_can_not_be(environment, tmp_path):
    (tmp_path / "test_it.py").write_text("def test_it(): pass")
    result = run_pytest(environment, tmp_path, "--pymem-debug", python=["-E"])
    assert result.returncode == 4
    assert result.stderr.startswith("ERROR: --pymem-debug sets PYTHONMALLOC=debug, and this "
                                    "Python does not heed it (-E, -I)")
    result = call(environment.bin("python"), "-c",
                  "import pytest; raise SystemExit(pytest.main(['--pymem-debug']))",
                  cwd=tmp_path, env=clean_environment(PYTHONPYCACHEPREFIX=environment.cache))
    assert result.returncode == 4
    assert "set PYTHONMALLOC=debug before it starts" in result.stderr
