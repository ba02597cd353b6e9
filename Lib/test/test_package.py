"""What pip installs, in a fresh virtual environment of CPythons found here.

The oldest, the newest and the one that runs the tests; with PYMEM_PYTHONS=all (make
check-pythons) every one from 3.8 on.  packaged.py builds the wheels: the running one's from the
source distribution.
"""

import json
import os
import re
import sys

import pytest

from conftest import BUILD, TOP, clean_environment
from elffiles import checked_calls, is_bound_at_once, is_elf
from packaged import ODD_NAME, Environment, backend, call, chosen

sys.path.insert(0, str(TOP / "Tools" / "package"))
import projectfiles  # noqa: E402

@pytest.fixture(scope="session", params=list(chosen()))
def environment(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(ODD_NAME) / ODD_NAME
    made = Environment.create(request.param, chosen()[request.param], folder)
    made.before = made.listing()
    made.install(tmp_path_factory)
    yield made
    made.run("python", "-m", "pip", "uninstall", "-y", "pymem-cpython")
    left = set(made.listing()) ^ set(made.before)
    assert left == set(), left


def test_commands_work_at_once(environment):
    version = projectfiles.version()
    assert environment.run("pymem", "--version") == f"pymem {version}\n"
    assert environment.run("python", "-m", "pymem", "--version") == f"pymem {version}\n"
    assert environment.run("pymem-run", "--version") == f"pymem-run {version}\n"
    assert f"Version: {version}\n" in environment.run("python", "-m", "pip", "show",
                                                      "pymem-cpython")


def test_pymem_run_takes_the_environments_python(environment):
    """Though it is not active; and pymem serves."""
    out = environment.run("pymem-run", "python", "-c", "import sys; print(sys.prefix)\n"
                          "from pymem.heap import Heap\n"
                          "print(Heap.take().statistics()['arenas']['current'] > 0)")
    assert out.splitlines() == [str(environment.folder), "True"]


def test_worker_and_faults_are_found(environment):
    out = environment.python("""
import pymem
from pymem import faults
print(pymem.beside("bench-worker") is not None)
print(faults.call(lambda: [1] * 1000, "mem", fail_from=1).exception)""")
    assert out.splitlines() == ["True", ""]


def test_what_is_installed_is_hardened(environment):
    files = [path for path in environment.packages.glob("**/*")
             if "pymem" in str(path.relative_to(environment.packages)) and is_elf(path)]
    has_near = (BUILD / ".libs" / "pymem-preload-near.so").exists()
    assert len(files) == 8 + has_near
    for path in [*files, environment.bin("pymem-run")]:
        assert is_bound_at_once(path), path.name
    checked = set().union(*map(checked_calls, files))
    assert {"__snprintf_chk", "__memcpy_chk"} <= checked


def test_conformance_needs_no_compiler(environment):
    """Its driver is in the package."""
    out = environment.run("python", "-m", "pymem", "conformance", "-k", "hooks.,threads.many",
                          env=clean_environment(CC="no-such-compiler"))
    assert "No C compiler" not in out and "not provided" not in out
    assert "hooks: what is set can be got                           kept" in out


# The tracer.

def test_each_block_has_its_trace(environment):
    """Over each allocator: sizes, lines, sums; blocks that are freed and moved."""
    script = """
import gc, random, pymem.tracemalloc as tracemalloc
rng = random.Random(7)
before = [bytes(n) for n in range(500)]     # not traced, and freed while others are
tracemalloc.start(2)
def make(n): return bytes(n)
kept = {}
for i in range(30000):
    n = rng.choice((rng.randrange(40), rng.randrange(700), rng.randrange(5000)))
    kept[rng.randrange(3000)] = make(n), n
    if i == 9000: before.clear()
array = bytearray()
for i in range(3000): array.append(1)
blocks = {}
for trace in tracemalloc.take_snapshot().traces:
    blocks.setdefault((trace.traceback[-1].lineno, trace.size), []).append(trace)
expected = {}
for key, (block, n) in kept.items():
    if n > 1:
        assert tracemalloc.get_object_traceback(block)[-1].lineno == 6
        size = n + bytes.__basicsize__
        expected[size] = expected.get(size, 0) + 1
others = sum(len(blocks[6, size]) - count for size, count in expected.items())
assert 0 <= others <= 3, others         # of the call itself, as a frame
assert all(len(blocks[6, size]) >= count for size, count in expected.items())
assert tracemalloc.get_object_traceback(before) is None
del block, trace, blocks
gc.collect()
current = tracemalloc.get_traced_memory()[0]
sizes = sum(trace[1] for trace in tracemalloc._get_traces())
assert 0 <= sizes - current <= 4096, (sizes, current)
kept.clear()
assert tracemalloc.get_traced_memory()[0] < current - 1_000_000
tracemalloc.clear_traces()
assert tracemalloc.get_traced_memory()[0] < 10_000
"""
    mallocs = ["", "malloc", "debug", "malloc_debug"]
    if environment.minor >= 13:
        mallocs.append("mimalloc")
    for malloc in mallocs:
        environment.python(script, PYTHONMALLOC=malloc)
    for options in ([], ["--debug"], ["--raw"]):
        environment.run("pymem-run", *options, "python", "-c", script)


def test_as_the_interpreters_own(environment):
    """CPython's test_tracemalloc, with ours in place of the standard module."""
    script = """
import sys, unittest
import tracemalloc as standard
import pymem.tracemalloc as ours, _pymemtracer
try:
    from test import test_tracemalloc as tests
except ImportError:
    sys.exit("no test suite")
tests.tracemalloc = ours
sys.modules["_tracemalloc"] = _pymemtracer
result = unittest.TextTestRunner().run(
    unittest.defaultTestLoader.loadTestsFromModule(tests))
print(result.testsRun, *sorted(test.id().split(".")[-1] for test, _ in
                               result.failures + result.errors))
"""
    result = call(environment.bin("python"), "-c", script, cwd=environment.folder.parent)
    if "no test suite" in result.stderr:
        pytest.skip("this CPython has no test suite (Debian: libpython3-testsuite)")
    number, *failed = result.stdout.splitlines()[-1].split()
    assert int(number) > 40
    known = set(KNOWN)
    if environment.minor >= 13:
        known.remove("test_new_reference")
    assert set(failed) <= known, result.stderr


# Before 3.13 nobody is told of an object that comes from a free list.
KNOWN = ["test_new_reference"]


def test_interpreters_threads_and_forks(environment):
    environment.python("""
import os, sys, threading
import pymem.tracemalloc as tracemalloc
def work(n):
    kept = []
    for i in range(n):
        kept.append((i, str(i), [i] * (i % 70)))
        if len(kept) > 500: kept = []
def together(n, function, *arguments):
    threads = [threading.Thread(target=function, args=arguments) for _ in range(n)]
    for thread in threads: thread.start()
    return threads
tracemalloc.start(5)
threads = together(3, work, 10000)
for _ in range(5):
    pid = os.fork()
    if pid == 0:
        work(1000)
        os._exit(len(tracemalloc.take_snapshot().traces) < 10)
    assert os.waitpid(pid, 0)[1] == 0
for thread in threads: thread.join()
try:
    import _xxsubinterpreters as interpreters
except ImportError:
    import _interpreters as interpreters
run = getattr(interpreters, "run_string", None) or interpreters.exec
def interpret():
    interpreter = interpreters.create()
    run(interpreter, "kept = [(i, str(i)) for i in range(20000)]")
    interpreters.destroy(interpreter)
for _ in range(3):
    for thread in together(2, interpret): thread.join()
for thread in together(2, work, 10**8): pass
""".replace("for thread in together(2, work, 10**8): pass", """
for thread in (threading.Thread(target=work, args=(10**8,), daemon=True)
               for _ in range(2)): thread.start()
for i in range(40):
    tracemalloc.stop()
    tracemalloc.start(1 + i % 3, i % 2 * 1000)
    tracemalloc.take_snapshot()
class Late:
    def __del__(self): self.made = [str(i) for i in range(1000)]
late = Late()
late.self = late"""))      # and the end, while threads allocate and all is traced


def test_hooks_over_the_tracers_stay(environment):
    environment.python("""
import _pymem, pymem.tracemalloc as tracemalloc
for sample in (0, 2000):
    tracemalloc.start(1, sample)
    early = [str(i) for i in range(5000)]
    _pymem.count()
    tracemalloc.stop()
    assert tracemalloc.get_traced_memory() == (0, 0)
    late = [str(i) for i in range(5000)]
    early.clear()
    assert tracemalloc.get_tracemalloc_memory() < 100_000
    tracemalloc.start(1, sample)
    last = [str(i) * 20 for i in range(5000)]
    assert tracemalloc.get_traced_memory()[0] > 300_000
    requests = _pymem.stop()[0]
    assert requests > 5000, requests
    late.clear()
    last.clear()
    tracemalloc.stop()
    assert [str(i) for i in range(5000)]
""")
    environment.python("""
import sys, _pymem, pymem.tracemalloc as tracemalloc
sys.path.insert(0, sys.argv[1])
from attachprograms import allocators
before = allocators()
tracemalloc.start()
_pymem.count()
tracemalloc.stop()
assert allocators() != before
_pymem.stop()
kept = [str(i) for i in range(1000)]
assert allocators() == before           # nothing is left
""", TOP / "Lib" / "test")


def test_the_traces_of_the_peak_are_kept(environment):
    """Of a moment that is over, and within a sixteenth of the peak; the most in another line
    than at the end.  reset_peak() drops them."""
    environment.python("""
import sys, pymem.tracemalloc as tracemalloc
try: tracemalloc.take_peak_snapshot()
except RuntimeError: pass
else: sys.exit("a snapshot of nothing")
tracemalloc.start(2)
assert len(tracemalloc.take_peak_snapshot().traces) == 0
tracemalloc.keep_peak(1_000_000)
def make(): return [bytes(n) for n in range(2000)]
small = bytes(500_000)
assert len(tracemalloc.take_peak_snapshot().traces) == 0
make()
end = [bytes(1000) for _ in range(300)]
peak = tracemalloc.get_traced_memory()[1]
snapshot = tracemalloc.take_peak_snapshot()
assert snapshot.traceback_limit == 2
total = sum(trace.size for trace in snapshot.traces)
assert peak * 15 / 16 - 1 <= total <= peak, (total, peak)
biggest = snapshot.statistics("lineno")[0]
assert biggest.traceback[0].lineno == 9 and biggest.size > 1_400_000, biggest
tracemalloc.reset_peak()
assert len(tracemalloc.take_peak_snapshot().traces) == 0
for wrong, error in (-1, ValueError), ("a", TypeError):
    try: tracemalloc.keep_peak(wrong)
    except error: pass
    else: sys.exit(wrong)
tracemalloc.stop()
tracemalloc.start()
make()
assert len(tracemalloc.take_peak_snapshot().traces) == 0
""")


def test_one_tracer_at_a_time(environment):
    out = environment.python("""
import tracemalloc, pymem.tracemalloc as ours
ours.start()
for start in (tracemalloc.start, lambda: (tracemalloc.start(), ours.start())):
    try: start()
    except RuntimeError as error: print(error)
    ours.stop()
tracemalloc.stop()
ours.start()
try: ours.start(-1)
except ValueError as error: print(error)
ours.stop()
for arguments in ((0,), (1, -1)):
    try: ours.start(*arguments)
    except ValueError as error: print(error)
try: ours.take_snapshot()
except RuntimeError as error: print(error)
""")
    first, second, third, fourth, fifth, last = out.splitlines()
    assert "pymem.tracemalloc is tracing" in first and "stop() first" in first
    assert "interpreter's own tracemalloc is tracing" in second
    assert "range [1; 65535]" in third and third == fourth
    assert "sample_bytes is a number" in fifth
    assert last.endswith("must be tracing memory allocations to take a snapshot")


def test_another_version_is_told(environment):
    """Its tracer is refused, and pymem-run serves it."""
    others = [python for version, python in chosen().items()
              if version != environment.version]
    if not others:
        pytest.skip("there is one version here")
    site = environment.python("import _pymemtracer as m; print(m.__file__)").strip()
    folder = os.path.dirname(site)
    result = call(environment.bin("pymem-run"), "--stats", others[0], "-c",
                  "import pymem.tracemalloc", env=clean_environment(
                      PYTHONPATH=folder, PYTHONDONTWRITEBYTECODE="1"))
    assert result.returncode == 1
    assert "ImportError: pymem has no tracer for this CPython" in result.stderr
    assert re.search(r"# arenas allocated total +=", result.stderr)
    result = call(others[0], "-c", "import importlib.util as u; s = "
                  f"u.spec_from_file_location('_pymemtracer', {site!r}); "
                  "s.loader.exec_module(u.module_from_spec(s))")
    assert result.returncode == 1
    assert re.search(rf"ImportError: .*(built for CPython {environment.version}\.|undefined "
                     "symbol|PyInit)", result.stderr)


def test_flames_are_of_pymems_tracer(environment, tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import _pymemtracer, sys\ndef make(): return [bytes(5000) for _ in "
                      "range(50)]\nkept = make()\nassert _pymemtracer.is_tracing()\n")
    for native in ([], ["--native"]):
        output = tmp_path / "flame.txt"
        environment.run("pymem", "flame", *native, "--format", "collapsed", "-o", output,
                        script)
        assert re.search(r"make \(script.py:2\)", output.read_text())


def test_a_program_that_forks_is_tracked(environment, tmp_path):
    """And is not warned of a thread that is not its own (3.12 and later)."""
    script = tmp_path / "script.py"
    script.write_text("import os\nkept = []\ndef keep(): kept.append(bytes(50_000))\n"
                      "if os.fork() == 0:\n    keep()\n    os._exit(0)\nos.wait()\nkeep()\n")
    result = call(environment.bin("python"), "-W", "error:This process:DeprecationWarning",
                  "-m", "pymem", "track", "--samples", "0", "-o", "%p.pymem", script,
                  cwd=tmp_path)
    assert (result.returncode, result.stderr.count("\n")) == (0, 1), result.stderr
    files = sorted(tmp_path.glob("*.pymem"))
    report = environment.run("pymem", "report", *files)
    assert len(files) == 2
    assert re.search(r"^ *9\d\.\d KiB .*script.py:3 keep$", report, re.M), report


LEAKING = """
import os, sys, time
kept = []
def remember(n): kept.append(bytes(n))
def main():
    for i in range(100):
        remember(20_000)
        time.sleep(0.02)
main()
if os.fork() == 0:
    remember(3_000_000)
    os._exit(0)
os.wait()
"""


@pytest.fixture
def leaking(tmp_path):
    """A folder with a module and a script of that name."""
    (tmp_path / "leaking.py").write_text(LEAKING)
    return tmp_path


def in_folder(environment, folder, program, *words, status=0):
    result = call(environment.bin(program), *words, cwd=folder)
    assert result.returncode == status, result.stdout + result.stderr
    return result.stdout


def test_from_growth_to_the_line(environment, leaking):
    """By leaks, of a script, a module and a file; a limit, a page, and its picture."""
    for words in ["leaking.py"], ["-m", "leaking"]:
        found = in_folder(environment, leaking, "pymem", "leaks", "--window", "0.05s",
                          "--samples", "1K", "--limit", "1K/h", "-o", "found.json", *words,
                          status=3)
        assert re.match(r"\+[\d.]+ MiB/min .* +leaking\.py:4 remember$", found.splitlines()[1])
        assert "called by leaking.py:7 main" in found and "over the limit of 1K/h" in found
    assert len(list(leaking.glob("found*.json"))) == 2
    in_folder(environment, leaking, "pymem", "flame", "-o", "found.txt", "found.json")
    assert "remember (leaking.py:4)" in (leaking / "found.txt").read_text()


def test_from_a_file_of_evidence_to_each_format(environment, leaking):
    in_folder(environment, leaking, "pymem", "track", "--samples", "0", "-o", "app.%p.pymem",
              "leaking.py")
    files = sorted(leaking.glob("app.*.pymem"))
    assert len(files) == 2
    for form in "table", "summary", "tree", "json", "collapsed":
        assert "remember" in in_folder(environment, leaking, "pymem", "report", "--format", form,
                                       *files)
    for name in "app.html", "app.svg", "app.pb.gz":
        in_folder(environment, leaking, "pymem", "report", "-o", name, *files)
        assert (leaking / name).stat().st_size > 200
    text = in_folder(environment, leaking, "pymem", "report", *files)
    assert re.search(r"^ *4\.8 MiB +\d+\.\d% +10\d  leaking.py:4 remember$", text, re.M), text


def test_each_process_has_a_flame_and_a_map(environment, leaking):
    for command, words in ("flame", []), ("heapmap", ["pymem-run"]), ("stats", ["pymem-run"]):
        in_folder(environment, leaking, *words, "python", "-m", "pymem", command, "-o",
                  f"{command}.%p.html", "leaking.py")
        assert len(list(leaking.glob(f"{command}.*.html"))) == 2
    screen = call(environment.bin("pymem-run"), "python", "-m", "pymem", "watch", "--samples",
                  "1K", "leaking.py", cwd=leaking)
    assert screen.returncode == 0 and "leaking.py:4 remember" in screen.stderr, screen.stderr


def test_other_pythons_get_the_tools_from_pymem_run(environment):
    for version, python in chosen().items():
        found = environment.run("pymem-run", python, "-IB", "-m", "pymem", "stats", "--json", "-c",
                                "import sys; print(any('site-packages' in folder and sys.prefix "
                                "not in folder for folder in sys.path))")
        first, rest = found.split("\n", 1)
        assert first == "False" and json.loads(rest)["arenas"]["current"] > 0


def test_page_of_who_allocates(environment):
    """Its programs run, and the first line is the one that leaks."""
    page = (TOP / "Doc" / "who-allocates.rst").read_text()
    blocks = ["\n".join(line[3:] for line in block.splitlines())
              for block in re.findall(r"code-block:: python\n\n((?:   .*\n|\n)+)", page)]
    program = blocks[1]
    out = environment.python(program + "\n" + blocks[2].replace("...", "kept = bytes(10**6)")
                             + "\n" + blocks[3] + "\ntracemalloc.stop()\n" + blocks[4])
    number = program.splitlines().index(next(
        line for line in program.splitlines() if "never taken out" in line)) + 1
    assert re.match(rf"<string>:{number}: size=\d+ KiB, count=\d+", out), out
    assert "<string>:" in out.splitlines()[3] and "+977 KiB" in out


def test_others_blocks_reach_it(environment):
    """A module that reports blocks, loaded before the tracer starts and after."""
    if call(environment.bin("python"), "-c", "import _testcapi").returncode != 0:
        pytest.skip("this CPython has no _testcapi (Debian: libpython3-testsuite)")
    environment.python("""
import sys, _testcapi, pymem.tracemalloc as tracemalloc
track, untrack = _testcapi.tracemalloc_track, _testcapi.tracemalloc_untrack
def domain_5():
    return [trace[1] for trace in tracemalloc._get_traces() if trace[0] == 5]
tracemalloc.start(2)
there = 1 << (40 if sys.maxsize > 2**32 else 30)
track(5, there, 777)
assert domain_5() == [777]
untrack(5, there)
assert domain_5() == []
tracemalloc.stop()
try: track(5, there, 777)
except RuntimeError: pass
else: sys.exit("traced by nobody")
import tracemalloc as standard
standard.start()
track(5, there, 778)
assert [t.size for t in standard.take_snapshot().traces if t.domain == 5] == [778]
""")
    environment.python("""
import sys, pymem.tracemalloc as tracemalloc
tracemalloc.start(2)
import _testcapi
_testcapi.tracemalloc_track(5, 1 << (40 if sys.maxsize > 2**32 else 30), 777)
assert 777 in [trace[1] for trace in tracemalloc._get_traces() if trace[0] == 5]
""")


# The build.

def test_missing_headers_are_named(tmp_path):
    result = backend(sys.executable, "import sysconfig\n"
                     "sysconfig.get_path = lambda name: '/nowhere'\n"
                     "pymembuild.build_wheel(sys.argv[2])", tmp_path)
    version = "%d.%d" % sys.version_info[:2]
    assert result.returncode == 1
    assert result.stderr == (
        f"pymem: /nowhere/Python.h is missing: the headers of CPython {version} (Debian, "
        f"Ubuntu: apt-get install libpython{version}-dev; Fedora: dnf install "
        f"python{version}-devel)\n")
    assert not list(tmp_path.iterdir())


def test_missing_compiler_is_named(tmp_path):
    result = backend(sys.executable, "pymembuild.build_wheel(sys.argv[2])", tmp_path,
                     env=clean_environment(CC="no-such-compiler -O2"))
    assert result.returncode == 1
    assert result.stderr.startswith("pymem: there is no C compiler no-such-compiler (")


def test_choices_are_those_of_configure():
    configured = (BUILD / "pyconfig.h").read_text()
    ours = projectfiles.configured(8 if sys.maxsize > 2**32 else 4)
    mimalloc = re.compile("^#(?:define|undef) WITH_MIMALLOC.*$", re.M)
    assert "configure" not in ours.split("*/")[1]
    # It is configured where its library is found.
    assert (re.sub(r"/\* pyconfig.h.  Generated from .*\n", "", mimalloc.sub("", configured))
            == mimalloc.sub("", ours))


def test_a_source_distribution_is_what_is_committed():
    """Each file of Makefile.am; nothing of a build."""
    result = call("git", "-C", TOP, "ls-files")
    if result.returncode != 0:
        pytest.skip("this is no clone")
    committed = set(result.stdout.splitlines())
    assert set(projectfiles.all_files()) <= committed
    assert len(projectfiles.all_files()) > 200
    assert json.dumps(projectfiles.make_list("PACKAGE_SOURCES")).count(".py") > 15


def test_debians_packages_have_the_version_of_the_project():
    first = (TOP / "debian" / "changelog").read_text().split("\n")[0]
    version = re.fullmatch(r"pymem \((.*)\) \w+; urgency=\w+", first)[1]
    assert version == projectfiles.version().replace(".dev", "~dev")
