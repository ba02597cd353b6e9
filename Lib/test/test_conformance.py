"""python -m pymem conformance: what it finds, what it says, and what it leaves alone."""

import json
import shutil
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from conftest import BUILD, TOP, Child, clean_environment, run

FAULTS_SOURCE = TOP / "Lib" / "test" / "conformance_faults.c"
# Debian's packages: libjemalloc2, libmimalloc2.0, libtcmalloc-minimal4.
LIBRARIES = ["libjemalloc.so.2", "libmimalloc.so.2", "libmimalloc.so.3",
             "libtcmalloc_minimal.so.4"]
FOLDERS = [Path("/usr/lib"), *Path("/usr/lib").glob("*-linux-gnu")]


def conformance(*arguments, **variables):
    return run(sys.executable, "-m", "pymem", "conformance", *arguments,
               environment=clean_environment(PYTHONPATH=str(BUILD), **variables))


def compiled(folder, fault, *options):
    path = folder / f"libfault{fault}.so"
    result = run("cc", "-O1", "-fno-builtin", "-w", "-shared", "-fPIC", "-pthread",
                 f"-DFAULT={fault}", *options, "-o", path, FAULTS_SOURCE, "-ldl")
    assert result.returncode == 0, result.stderr
    return path


def results_of(path, tmp_path, *arguments):
    """{promise: result} and the exit status."""
    file = tmp_path / "results.json"
    done = conformance("--json", file, *arguments, path)
    assert done.returncode in (0, 1), done.stderr
    results = json.loads(file.read_text())["results"]
    return {each["promise"]: each for each in results}, done.returncode


def broken(results):
    return {name for name, each in results.items() if each["result"] == "broken"}


# Which promise each planted fault breaks.
FAULTS = {
    1: "contract.realloc_zero_keeps_block",
    2: "contract.zero_bytes_are_distinct_blocks",
    3: "contract.zero_bytes_are_distinct_blocks",
    4: "contract.calloc_zeroes_used_memory",
    5: "contract.calloc_overflow_fails",
    6: "contract.realloc_null_is_malloc",
    7: "contract.free_null",
    8: "contract.malloc_is_aligned_and_writable",
    9: "contract.calloc_and_realloc_are_aligned",
    10: "contract.realloc_keeps_what_fits",
    11: "contract.failed_realloc_keeps_block",
    12: "contract.too_much_fails",
    13: "contract.too_much_fails",
    14: "contract.freed_memory_is_used_again",
    15: "contract.freed_memory_is_used_again",
    16: "contract.live_blocks_are_distinct",
    17: "contract.live_blocks_are_distinct",
    18: "threads.threads_share_blocks",
    19: "threads.fork_while_threads_allocate",
    20: "threads.blocks_of_an_ended_thread_stay",
    21: "nomemory.limit_of_the_system",
    22: "nomemory.limit_of_the_system",
    23: "nomemory.limit_of_the_system",
    24: "contract.realloc_keeps_what_fits",
}
FAULTS_OF_DOMAINS = {
    51: "hooks.hook_sees_calls_and_arguments",
    52: "hooks.what_is_set_can_be_got",
    53: "hooks.what_is_set_can_be_got",
    54: "hooks.too_much_asks_no_allocator",
    55: "hooks.hook_sees_calls_and_arguments",
    56: "hooks.hook_that_fails_the_kth_call",
    57: "hooks.hook_sees_calls_and_arguments",
    58: "hooks.the_largest_request_is_asked_for",
    59: "hooks.realloc_that_a_hook_fails_keeps_block",
}


@pytest.mark.once
@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(fault, tmp_path):
    results, status = results_of(compiled(tmp_path, fault), tmp_path,
                                 "-k", FAULTS[fault], "--timeout", "5")
    assert (broken(results), status) == ({FAULTS[fault]}, 1)


@pytest.mark.once
@pytest.mark.parametrize("fault", FAULTS_OF_DOMAINS)
def test_a_planted_fault_of_domains_is_found(fault, tmp_path):
    promise = FAULTS_OF_DOMAINS[fault]
    results, status = results_of(compiled(tmp_path, fault, "-DWITH_DOMAINS"), tmp_path,
                                 "-k", promise)
    assert (broken(results), status) == ({promise}, 1)


@pytest.mark.once
def test_a_wrapper_without_fault_keeps_all(tmp_path):
    results, status = results_of(compiled(tmp_path, 0), tmp_path)
    assert (broken(results), status) == (set(), 0)
    kept = {name for name, each in results.items() if each["result"] == "kept"}
    assert kept >= set(FAULTS.values())
    assert results["arenas.no_arena_at_all"]["result"] == "not-asked"
    results, status = results_of(compiled(tmp_path, 0, "-DWITH_DOMAINS"), tmp_path,
                                 "-k", "contract,hooks")
    assert (broken(results), status) == (set(), 0)
    assert {name for name, each in results.items() if each["result"] == "kept"} >= set(
        FAULTS_OF_DOMAINS.values())


@pytest.mark.parametrize("library", LIBRARIES)
def test_other_allocators(library, tmp_path):
    """The library itself, a wrapper of it without fault, and one with the fault that
    jemalloc and tcmalloc have: a realloc to 0 bytes frees."""
    path = next((folder / library for folder in FOLDERS if (folder / library).exists()), None)
    if path is None:
        pytest.skip(f"there is no {library}")
    results, _ = results_of(path, tmp_path, "-k", "contract,threads,nomemory")
    breaks, may_break = {"contract.realloc_zero_keeps_block"}, set()
    if "mimalloc" in library:
        # It has no fork handlers: a child hangs where another thread held a lock.
        breaks, may_break = set(), {"threads.fork_while_threads_allocate"}
    if "jemalloc" in library:
        # Seen twice, on a busy machine, and not in 30 runs after it; why is not known.
        may_break = {"nomemory.limit_of_the_system", "nomemory.every_limit_of_the_system"}
    assert broken(results) - may_break == breaks, [
        results[name]["detail"] for name in broken(results)]
    base = f'-DBASE="{library}"'
    wrapped, status = results_of(compiled(tmp_path, 0, base), tmp_path, "-k", "contract.")
    assert (broken(wrapped), status) == (set(), 0)
    faulty, status = results_of(compiled(tmp_path, 1, base), tmp_path, "-k", "contract.r")
    assert (broken(faulty), status) == ({"contract.realloc_zero_keeps_block"}, 1)


def test_what_a_broken_promise_says(tmp_path):
    """The rule, since when it holds and where it is written; JUnit's has the same."""
    done = conformance("--junit", tmp_path / "junit.xml", "-k", "realloc_zero,free_null",
                       compiled(tmp_path, 1))
    assert done.returncode == 1
    for words in ("contract: free null                                     kept",
                  "contract: realloc zero keeps block                      BROKEN        malloc",
                  "  seen   realloc(p, 0) is NULL: it freed a block of 0 bytes",
                  "  rule   realloc(p, 0) makes the block small.", "  since  all versions",
                  "  where  docs.python.org/3/c-api/memory.html#raw-memory-interface",
                  "1 kept, 1 broken"):
        assert words in done.stdout
    suite = ElementTree.parse(tmp_path / "junit.xml").getroot()
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")
    failure = suite.find("testcase[@name='realloc_zero_keeps_block']/failure")
    assert "where  docs.python.org" in failure.text


@pytest.mark.once
def test_a_hang_and_a_crash_break_one_promise_each(tmp_path):
    hang = conformance("--timeout", "2", "-k", "contract.realloc_keeps,zero_bytes",
                       compiled(tmp_path, 24))
    assert hang.returncode == 1
    assert "seen   it did not end in time" in hang.stdout
    crash = conformance("-k", "free_null,zero_bytes", compiled(tmp_path, 7))
    assert crash.returncode == 1
    assert "seen   the process ended by SIGSEGV" in crash.stdout
    for done in (hang, crash):
        assert done.stdout.rstrip().endswith("1 kept, 1 broken")


@pytest.mark.parametrize("arguments, reason", [
    (["/nowhere/lib.so"], "/nowhere/lib.so: no such file"),
    (["/bin/true"], "/bin/true is no Python"),
    (["nosuchpython"], "nosuchpython is neither a shared object nor a program that can be run"),
    (["-k", "nosuchpromise"], "no promise has 'nosuchpromise' in its name (see --list)"),
    (["--json", "/nowhere/x.json"], "/nowhere/x.json: No such file or directory"),
    (["--timeout", "x"], "argument --timeout: 'x' is no time over 0, as 60s, 5m, 1h or 200ms (see --help)"),
])
def test_what_cannot_be_tested_is_told_in_a_line(arguments, reason):
    done = conformance(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1 and reason in done.stderr


def test_a_library_of_another_kind_is_told(tmp_path):
    text, empty = tmp_path / "text.so", tmp_path / "empty.so"
    text.write_text("no library")
    done = conformance(text)
    assert done.returncode == 2
    assert "text.so can't be loaded: " in done.stderr and done.stderr.count("\n") == 1
    (tmp_path / "empty.c").write_text("int nothing;\n")
    assert run("cc", "-shared", "-fPIC", "-o", empty, tmp_path / "empty.c").returncode == 0
    done = conformance(empty)
    assert done.returncode == 2
    assert "exports neither malloc, calloc, realloc and free nor" in done.stderr


def test_every_promise_says_where_it_is_written():
    done = conformance("--list")
    assert done.returncode == 0
    blocks = done.stdout.strip().split("\n")
    assert len([line for line in blocks if line.startswith("  rule ")]) >= 50
    for word in ("rule", "since", "where"):
        assert all(len(line) > 12 for line in blocks if line.startswith(f"  {word}"))


QUICK = "contract.,hooks,arenas,layout,underflow,statistics,ended_thread"


def test_the_running_interpreter_keeps_all(tmp_path):
    """With the driver of the build: no compiler is needed."""
    file = tmp_path / "own.json"
    done = conformance("--json", file, "-k", QUICK, CC="no-such-compiler")
    assert done.returncode == 0, done.stdout
    data = json.loads(file.read_text())
    assert data["facts"]["implementation"] == "CPython"
    assert {each["result"] for each in data["results"]} == {"kept"}


def test_a_python_is_named_by_a_relative_path(tmp_path):
    (tmp_path / "python").symlink_to(sys.executable)
    done = run(sys.executable, "-m", "pymem", "conformance", "-k", "free_null", "./python",
               cwd=tmp_path, environment=clean_environment(PYTHONPATH=str(BUILD)))
    assert done.returncode == 0, done.stderr


def test_pypy(tmp_path):
    """PyPy has no hooks; its object domain frees at 0 bytes."""
    python = shutil.which("pypy3")
    if python is None:
        pytest.skip("pypy3 is not here")
    results, _ = results_of(python, tmp_path, "-k", "realloc_zero,live_blocks,track,threads_share,what_is_set")
    assert broken(results) == {"contract.realloc_zero_keeps_block",
                               "statistics.track_while_nothing_is_traced"}
    assert results["contract.realloc_zero_keeps_block"]["domains"] == ["object"]
    assert results["hooks.what_is_set_can_be_got"]["result"] == "not-provided"


def package_alone(folder):
    return shutil.copytree(TOP / "Lib" / "pymem", folder / "site" / "pymem").parent


@pytest.mark.once
def test_without_a_compiler_calls_are_still_tested(tmp_path):
    bare = run(sys.executable, "-m", "pymem", "conformance", "-k", "contract.,hooks",
               environment=clean_environment(PYTHONPATH=str(package_alone(tmp_path)),
                                             CC="no-such-compiler"))
    assert bare.returncode == 0
    assert "No C compiler is here" in bare.stdout
    assert "contract: realloc zero keeps block                      kept" in bare.stdout
    assert "hooks: what is set can be got                           not provided" in bare.stdout


def test_the_package_alone_is_enough(tmp_path):
    """No source tree, no build; the driver is compiled on demand."""
    site = package_alone(tmp_path)
    done = run(sys.executable, "-m", "pymem", "conformance", "-k", "live_blocks,what_is_set",
               cwd=tmp_path, environment=clean_environment(PYTHONPATH=str(site)))
    assert done.returncode == 0, done.stderr
    assert "3 kept" in done.stdout


@pytest.mark.parametrize("promise", [
    "layout", "freed_bytes_are_dead", "overflow_is_told", "underflow_is_told",
    "wrong_domain_is_told", "request_without_room_for_the_marks_fails"])
def test_debug_hooks_that_are_not_there_are_noticed(promise):
    """Promises that a planted fault can't break can fail, too."""
    with pytest.raises(AssertionError, match="promises.Broken: "):
        Child("ours").keeps(f"debug.{promise}", 1)


def test_statistics_that_count_nothing_are_noticed():
    """PYTHONMALLOC=malloc: nothing reaches the pools, nor the arena allocator."""
    for promise, *domain in (["statistics.allocated_blocks", 1], ["statistics.lines_add_up"],
                             ["statistics.rows_count_blocks"], ["arenas.no_arena_at_all"],
                             ["arenas.arenas_at_an_offset", 0]):
        with pytest.raises(AssertionError, match="promises.Broken: "):
            Child("ours").keeps(promise, *domain, PYTHONMALLOC="malloc")
