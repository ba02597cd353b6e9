"""try.sh and its neighbours: options, folders, what they say."""

import json
import os
import platform
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time

import pytest

from conftest import BUILD, C_SOURCES, TOP, VERSION, clean_environment, run

TOOLS = TOP / "Tools"


def test_try_runs_a_script_with_arguments(python, tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import sys; print(sys.argv[1:], sys.executable)")
    start = time.monotonic()
    result = run("sh", TOOLS / "try.sh", script, "one", "two words",
                 cwd=tmp_path)
    assert result.stdout == f"['one', 'two words'] {BUILD / 'python'}\n", (
        result.stderr)
    assert time.monotonic() - start < 60    # nothing was built anew


def test_try_passes_the_exit_code_on(python, tmp_path):
    script = tmp_path / "script.py"
    script.write_text("raise SystemExit(3)")
    assert run("sh", TOOLS / "try.sh", script).returncode == 3


def test_sample_shows_what_memory_did(python):
    result = run("sh", TOOLS / "try.sh", cwd="/")
    assert result.returncode == 0, result.stderr
    assert "blocks came back" in result.stdout
    assert "# arenas allocated current" in result.stderr


@pytest.mark.parametrize("script", ["try.sh", "check.sh"])
def test_unknown_options_are_refused(script):
    result = run("sh", TOOLS / script, "--frobnicate")
    assert result.returncode == 2
    assert "unknown option --frobnicate" in result.stderr
    assert f"usage: sh Tools/{script}" in result.stderr


@pytest.mark.parametrize("script", ["try.sh", "check.sh"])
def test_help(script):
    result = run("sh", TOOLS / script, "--help")
    assert result.returncode == 0
    assert f"sh Tools/{script}" in result.stdout


@pytest.mark.parametrize("argument, said", [
    ("vax", "PLATFORM is arm64, armhf, i386, riscv64, ppc64el, s390x or musl, not vax"),
    ("--frobnicate", "unknown option --frobnicate"),
    ("--seconds=soon", '--seconds takes a number, not "soon"'),
])
def test_platforms_that_are_none_are_refused(argument, said):
    result = run("sh", TOOLS / "check-platforms", argument)
    assert result.returncode == 2
    assert said in result.stderr


@pytest.mark.parametrize("argument, said", [
    ("buster", "KERNEL is bookworm, trixie, testing or sid, or of arm64 trixie-16k or sid-16k, "
               "not buster"),
    ("--frobnicate", "unknown option --frobnicate"),
])
def test_kernels_that_are_none_are_refused(argument, said):
    result = run("sh", TOOLS / "check-kernels", argument)
    assert result.returncode == 2
    assert said in result.stderr


def test_compilers_with_an_unknown_option_are_refused():
    result = run("sh", TOOLS / "check-compilers", "--frobnicate")
    assert result.returncode == 2
    assert "unknown option --frobnicate" in result.stderr
    assert "usage: check-compilers [--quick] [COMPILER...]" in result.stderr


def fake_commands(directory, **commands):
    for name, body in commands.items():
        path = directory / name.replace("_", "-")
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
    return clean_environment(PATH=f"{directory}:/usr/bin:/bin")


@pytest.fixture
def bare_machine(tmp_path):
    """Run try.sh where commands are replaced: a machine that lacks packages."""
    tools, commands = tmp_path / "Tools", tmp_path / "commands"
    tools.mkdir()
    commands.mkdir()
    for name in ("try.sh", "setup.sh"):
        (tools / name).write_text((TOOLS / name).read_text())

    def run_try(**bodies):
        result = run("sh", tools / "try.sh", stdin=open(os.devnull),
                     environment=fake_commands(commands, id="echo 1000",
                                               **bodies))
        assert result.returncode == 1
        assert sorted(os.listdir(tools)) == ["setup.sh", "try.sh"]
        assert not (tmp_path / "build").exists()
        return result.stderr

    return run_try


def missing(packages):
    return f"case $4 in {packages}) exit 1;; *) printf installed;; esac"


def test_without_root_the_apt_line_is_printed(bare_machine):
    said = bare_machine(sudo="exit 1", dpkg_query=missing("libtool"))
    assert ("neither root nor sudo. Please run as root: apt-get install -y "
            "--no-install-recommends libtool") in said


def test_installing_is_announced_and_goes_through_sudo(bare_machine, tmp_path):
    log = tmp_path / "log"
    said = bare_machine(
        sudo=f'printf "%s\\n" "$*" >> {log}; [ "$1" = -n ]',
        dpkg_query=missing("libtool|gcc"))      # and this apt-get fails
    assert "installing with apt-get: gcc libtool" in said
    assert "apt-get failed. What was tried: apt-get install" in said
    assert log.read_text().splitlines()[:2] == ["-n true", "apt-get update"]


@pytest.fixture
def two_pythons(python, tmp_path):
    """A folder with ours, and with a stock one that is a script."""
    (tmp_path / "python").symlink_to(BUILD / "python")
    stock = tmp_path / "python-stock"

    def script(text):
        stock.write_text(f"#!/bin/sh\n{text}\n")
        stock.chmod(0o755)
        os.utime(stock, (1, 1))
        return tmp_path
    return script


def regrtest(*arguments):
    return run(TOOLS / "regrtest", *arguments)


def test_regrtest_compares_each_test(python):
    result = regrtest(f"--build={BUILD}", "test_bool")
    assert result.returncode == 0, result.stdout
    assert re.search(r"1 files of \d\d tests, 1 pass, 0 differ from stock", result.stdout)


def test_regrtest_names_a_difference(two_pythons):
    folder = two_pythons("exit 1")
    result = regrtest(f"--build={folder}", "test_bool")
    assert result.returncode == 1
    assert "test_bool: passed on ours, crashed on stock" in result.stdout


def test_regrtest_names_a_test_that_differs(two_pythons):
    """The file passes on both, but not with the same tests."""
    folder = two_pythons(f'exec {BUILD}/python-stock "$@" -m test_i*')
    result = regrtest(f"--build={folder}", "test_bool")
    assert result.returncode == 1
    assert "test_bool: passed on ours, passed on stock" in result.stdout
    assert "only on ours: test.test_bool.BoolTest.test_blocked passed" in result.stdout
    assert "BoolTest.test_int" not in result.stdout


@pytest.mark.parametrize("printed, returncode, state", [
    ("1 test OK.", 0, "passed"), ("All 9 tests OK.", 0, "passed"),
    ("1 test altered the execution environment (env changed):\n    x", 0, "passed"),
    ("1 test skipped:\n    x\n\nNo tests ran", 0, "skipped"),
    ("1 test skipped:\n    x\n\n8 tests OK.", 0, "passed"),
    ("2 tests skipped:\n    x y", 0, "skipped"), ("No tests ran", 0, "skipped"),
    ("1 test run no tests:\n    x", 0, "run no tests"),
    ("1 test failed:\n    x", 2, "failed"), ("7 tests OK.\n\n2 tests failed:", 2, "failed"),
    ("2 tests failed:\n    x\n\n7 tests OK.", 2, "failed"),
    ("Timeout (0:05:00)!", 1, "timed out"), ("", -9, "timed out"),
    ("0:00:03 [7/9] test_io.test_signals", -11, "crashed")])
def test_regrtest_reads_what_became_of_a_file(monkeypatch, printed, returncode, state):
    """Also of a folder of files that stands under one name (test_io, from 3.15 on)."""
    monkeypatch.syspath_prepend(TOOLS)
    tool = runpy.run_path(str(TOOLS / "regrtest"))
    assert tool["state_of"](f"== Tests result ==\n\n{printed}\n", returncode) == state


@pytest.mark.once
def test_regrtest_goes_on_after_an_interruption(two_pythons):
    folder = two_pythons(f'exec {BUILD}/python-stock "$@"')
    kept = folder / "regrtest" / "python-stock" / "test_bool.json"
    kept.parent.mkdir(parents=True)
    kept.write_text('{"state": "failed", "tests": []}')
    result = regrtest(f"--build={folder}", "test_bool", "test_fork1")
    assert "regrtest: going on after 1 of 4" in result.stderr
    assert result.returncode == 0, result.stdout      # once more on both
    assert "regrtest: test_bool once more" in result.stderr
    assert not kept.exists()


def test_regrtest_against_the_record(two_pythons):
    """What agrees with it needs no stock interpreter; of another version both are
    run."""
    record = TOP / "Lib" / "test" / "regrtest-stock" / f"{VERSION}.txt"
    known = record.read_text() if record.exists() else ""
    if f"# CPython {platform.python_version()}\n" not in known:
        result = regrtest(f"--build={BUILD}", "--recorded", "test_list")
        assert "python-stock test_list passed" in result.stderr
        return
    folder = two_pythons("exit 1")
    result = regrtest(f"--build={folder}", "--recorded", "test_list")
    assert result.returncode == 0, result.stdout
    assert "0 differ" in result.stdout


# The own tests of packages: a small one in place of NumPy or lxml.

TESTS_OF_PACKAGE = """
import os
import unittest
import pytest

def test_passes():
    assert "PYTHONMALLOC" not in os.environ

def test_fails():
    assert "PYTHONMALLOC" in os.environ

@pytest.mark.slow
def test_slow():
    pass

class Case(unittest.TestCase):
    def test_skipped(self):
        self.skipTest("why not")

    def test_broken(self):
        if "CRASH" in os.environ:
            os.abort()
        raise ValueError

def test_suite():
    return unittest.defaultTestLoader.loadTestsFromTestCase(Case)
"""


@pytest.fixture
def package_tests(tmp_path, monkeypatch):
    """(what is run by, environment) -> what became of a file of tests of a package: an
    installed one, with tests that only its source has where unittest runs them."""
    monkeypatch.syspath_prepend(TOOLS)
    regrtest = runpy.run_path(str(TOOLS / "regrtest"))
    packagetests = sys.modules["packagetests"]
    installed = tmp_path / "installed" / "small"
    installed.mkdir(parents=True)
    (installed / "__init__.py").write_text("here = True\n")
    monkeypatch.setenv("PYTHONPATH", str(installed.parent))

    def run_tests(runner, **environment):
        source = tmp_path / "source"
        top = source / "src" / "small" if runner == "unittest" else installed
        (top / "tests").mkdir(parents=True)
        (top / "tests" / "__init__.py").touch()
        (top / "tests" / "test_one.py").write_text(TESTS_OF_PACKAGE)
        monkeypatch.setitem(packagetests.PACKAGES, "small",
                            "src/small" if runner == "unittest" else None)
        monkeypatch.setattr(packagetests, "fetch_source", lambda *_: source)
        suite = packagetests.PackageTests("small", [sys.executable], tmp_path, False)
        assert suite.names() == ["tests.test_one"]
        result, output = regrtest["run_file"](
            suite, [sys.executable], "tests.test_one",
            clean_environment(PYTHONPATH=str(installed.parent), **environment))
        return result["state"], {name.rpartition(".")[2]: state
                                 for name, state, _ in result["tests"]}, output
    return run_tests


@pytest.mark.parametrize("runner, states", [
    ("pytest", {"test_passes": "passed", "test_fails": "failed", "test_suite": "passed",
                "test_skipped": "skipped", "test_broken": "failed"}),
    ("unittest", {"test_skipped": "skipped", "test_broken": "failed"})])
def test_tests_of_a_package(package_tests, runner, states):
    state, tests, output = package_tests(runner)
    assert (state, tests) == ("failed", states), output


@pytest.mark.parametrize("runner", ["pytest", "unittest"])
def test_tests_of_a_package_that_crash(package_tests, runner):
    state, tests, output = package_tests(runner, CRASH="1")
    assert (state, tests) == ("crashed", {}), output


def test_tests_that_no_package_has():
    result = regrtest(f"--build={BUILD}", "--of=numpy", "test_none")
    assert result.returncode != 0
    assert re.search(r"regrtest: numpy(.s tests can.t be had| has no tests test_none; some "
                     r"are \w+\.\w+)", result.stderr), result.stderr


def test_sources_are_asked_of_the_archives_of_this_system(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(TOOLS)
    tool = runpy.run_path(str(TOOLS / "packagetests.py"))
    write = tool["write_source_lists"]
    apt = tmp_path / "apt"
    (apt / "sources.list.d").mkdir(parents=True)
    (apt / "sources.list").write_text("# ours\ndeb http://here trixie main\n"
                                      "deb-src http://here trixie main\n")
    (apt / "sources.list.d" / "more.sources").write_text(
        "Types: deb deb-src\nURIs: http://there\nSuites: trixie\n")
    (apt / "sources.list.d" / "off.disabled").write_text("deb http://nowhere trixie main\n")
    monkeypatch.setitem(write.__globals__, "LISTS", apt)
    lists = tmp_path / "lists"
    lists.mkdir()
    write(lists)
    assert {path.name: path.read_text() for path in lists.iterdir()} == {
        "sources.list": "deb-src http://here trixie main\n",
        "more.sources": "Types: deb-src\nURIs: http://there\nSuites: trixie\n"}


@pytest.mark.parametrize("tool", ["regrtest", "relink"])
def test_python_tools_refuse_unknown_options(tool):
    result = run(TOOLS / tool, "--frobnicate")
    assert result.returncode == 2
    assert f"usage: {tool}" in result.stderr


# check-oracle: the tests of the contract over any library.

ALLOCATOR = """
#include <stdlib.h>
#include <stdint.h>
#define FAMILY(prefix) \\
    void *prefix##Malloc(size_t n) { return n > PTRDIFF_MAX ? NULL : malloc(n + !n); } \\
    void *prefix##Calloc(size_t n, size_t m) { return CALLOC(n, m); } \\
    void *prefix##Realloc(void *p, size_t n) { \\
        return n > PTRDIFF_MAX ? NULL : realloc(p, n + !n); } \\
    void prefix##Free(void *p) { free(p); }
FAMILY(PyMem_Raw) FAMILY(PyMem_) FAMILY(PyObject_)
"""


def check_library(tmp_path, name, source, *options):
    path = tmp_path / name
    (tmp_path / "allocator.c").write_text(source)
    result = run("cc", "-shared", "-fPIC", *options, tmp_path / "allocator.c",
                 "-o", path)
    assert result.returncode == 0, result.stderr
    return run(TOP / "Tools" / "check-oracle", f"--implementation={path}",
               f"--build={BUILD}")


@pytest.mark.once
def test_another_allocator_is_tested(tmp_path):
    result = check_library(tmp_path, "good.so", ALLOCATOR,
                           "-DCALLOC(n,m)=(n&&m?calloc(n,m):calloc(1,1))")
    assert result.returncode == 0, result.stdout
    assert re.search(r"^\d+ passed, \d+ skipped", result.stdout, re.M)


@pytest.mark.once
def test_another_allocator_with_a_fault_is_caught(tmp_path):
    result = check_library(tmp_path, "bad.so", ALLOCATOR,
                           "-DCALLOC(n,m)=malloc(n*m+1)")
    assert result.returncode == 1
    assert "test_calloc_zeroes_used_memory" in result.stdout


@pytest.mark.parametrize("source, reason", [
    ("int x;", "does not export PyMem_Calloc, PyMem_Free"),
    (ALLOCATOR.replace("FAMILY(PyMem_) ", ""), "does not export PyMem_Calloc"),
    (ALLOCATOR + "void Py_Initialize(void) {}", "is a whole interpreter")])
def test_what_is_no_allocator_is_refused(tmp_path, source, reason):
    result = check_library(tmp_path, "none.so", source, "-DCALLOC(n,m)=calloc(n,m)")
    assert result.returncode == 1
    assert reason in result.stderr


OTHER_RUN = {
    "test_free_none": {"CPython 3.9.1": {"passed": [""]}, "good.so": {"failed": [""]},
                       "CPython 3.10.0": {"skipped": ["there is none"]}}}


@pytest.mark.once
def test_a_table_takes_in_what_ran_on_another_system(tmp_path):
    """Versions are in the order of numbers; of an implementation that ran in both the
    worse counts."""
    source = tmp_path / "allocator.c"
    source.write_text(ALLOCATOR)
    assert run("cc", "-shared", "-fPIC", "-DCALLOC(n,m)=(n&&m?calloc(n,m):calloc(1,1))",
               source, "-o", tmp_path / "good.so").returncode == 0
    (tmp_path / "other.json").write_text(json.dumps(OTHER_RUN))
    result = run(TOOLS / "check-oracle", f"--implementation={tmp_path}/good.so",
                 f"--build={BUILD}", f"--table={tmp_path}/table.rst",
                 f"--add={tmp_path}/other.json")
    assert result.returncode == 0, result.stdout
    rows = [re.split("  +", line)
            for line in (tmp_path / "table.rst").read_text().splitlines()]
    assert rows[1] == ["promise", "CPython 3.9.1", "CPython 3.10.0", "good.so"]
    assert ["free none", "yes", "not provided (1)", "**failed**"] in rows
    assert ["1. there is none"] in rows
    assert ["zero bytes are distinct blocks", "yes"] in rows


@pytest.mark.parametrize("text, reason", [
    (None, "can't be read: No such file"), ("[1]", "is not what check-oracle leaves"),
    ("{", "is not what check-oracle leaves"), ('{"a": {"b": 1}}', "is not what"),
    ('{"a": {"b": {"passed": "x"}}}', "reasons are not lists")])
def test_results_that_are_none_are_refused(tmp_path, text, reason):
    path = tmp_path / "other.json"
    if text is not None:
        path.write_text(text)
    result = run(TOOLS / "check-oracle", f"--build={BUILD}", f"--table={tmp_path}/t.rst",
                 f"--add={path}", "/bin/true")
    assert result.returncode == 1
    assert result.stderr.startswith(f"check-oracle: {path} ") and reason in result.stderr
    assert not (tmp_path / "t.rst").exists()


def test_an_oracle_that_is_no_python_is_refused(tmp_path):
    result = run(TOP / "Tools" / "check-oracle", f"--build={BUILD}", "/bin/true")
    assert result.returncode == 1
    assert "/bin/true is not a Python" in result.stderr


def copy_project(folder):
    """What git knows, and what autoreconf made of it."""
    for name in run("git", "ls-files", "-z", cwd=TOP).stdout.split("\0"):
        if name and (TOP / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(TOP / name, folder / name)
    for name in ("configure", "Makefile.in", "aclocal.m4", "build-aux", "m4"):
        copy = shutil.copytree if (TOP / name).is_dir() else shutil.copy2
        copy(TOP / name, folder / name)


@pytest.mark.once
def test_a_folder_with_any_name(tmp_path):
    """A space, an apostrophe, quotes, a letter that is not ASCII: configure, make, relink,
    a script, a C test, and a test of pytest."""
    if not (TOP / "configure").exists() or not (TOP / ".git").exists():
        pytest.skip("no configure here: sh Tools/try.sh makes it")
    folder = tmp_path / "it's d\u00e9j\u00e0 \"the\" folder"
    folder.mkdir()
    copy_project(folder)
    (folder / "script.py").write_text("print('ran', sum(range(10)))\n")
    result = subprocess.run(["sh", folder / "Tools" / "try.sh", folder / "script.py"],
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            timeout=600, cwd="/", env=clean_environment())
    assert (result.returncode, result.stdout) == (0, "ran 45\n"), result.stderr
    assert "through the link" in result.stderr
    for command in (["make", "-s", "-C", folder / "build", "contract"],
                    [folder / "build" / "contract"],
                    [sys.executable, "-m", "pytest", "-q", folder / "Lib/test/test_stats.py"],
                    [folder / "Tools" / "relink", f"--build={folder / 'build'}",
                     f"--products={folder / 'a b'}"],
                    [folder / "a b" / "python", "-c", "import json"]):
        result = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, text=True, timeout=300,
                                env=clean_environment())
        assert result.returncode == 0, (command, result.stdout)


@pytest.mark.parametrize("name", ["a,b", "a b", "it's", "d\u00e9j\u00e0", "a:b", "$x", "a;b"])
def test_a_folder_whose_name_a_tool_splits_is_reached_by_a_link(tmp_path, name):
    """A comma is the compiler's, between options for the linker."""
    tools = tmp_path / name / "Tools"
    tools.mkdir(parents=True)
    shutil.copy(TOOLS / "setup.sh", tools)
    (tools / "where.sh").write_text('. "$(dirname "$0")/setup.sh"\necho "$top"\n')
    result = run("sh", tools / "where.sh")
    link = result.stdout.strip()
    assert result.returncode == 0 and name not in link, result.stderr
    assert os.path.samefile(link, tmp_path / name)


def test_each_c_file_has_a_test_that_names_it():
    """In the first lines: a check_*.c, or pytest where it takes an interpreter."""
    tests = [*(TOP / "Lib/test/check").glob("check_*.c"), *(TOP / "Lib/test").glob("test_*.py")]
    named = " ".join(path.read_text()[:700] for path in tests)
    assert len(C_SOURCES) > 40
    assert [path.name for path in C_SOURCES if not re.search(rf"\b{path.name}\b", named)] == []


@pytest.mark.once
def test_each_fault_of_mutate_is_one_that_can_be_planted():
    """Its lines are in the sources, once: else nobody would notice that it is gone."""
    faults = runpy.run_path(str(TOOLS / "mutate"))["read_faults"]()
    assert len(faults) > 150
    for fault in faults:
        assert fault.planted() != (TOP / fault.file).read_text(), fault.title


@pytest.fixture
def small_system(tmp_path):
    """A folder with what in-debian needs, in place of a whole system."""
    if os.getuid() != 0 or subprocess.run(["unshare", "--mount", "true"]).returncode != 0:
        pytest.skip("a namespace takes root")
    if not (TOP / ".git").exists():
        pytest.skip("in-debian runs in a clone: this is none")
    system = tmp_path / "trixie"
    programs = [shutil.which(name) for name in ("sh", "sleep", "env")]
    libraries = re.findall(r"(/\S+) \(0x", run("ldd", *programs).stdout)
    for name in ("proc", "sys", "dev", "etc", "root"):
        (system / name).mkdir(parents=True)
    for path in {*programs, *libraries}:
        copy = system / path.lstrip("/")
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    (tmp_path / "trixie.bare").mkdir()
    return tmp_path


def in_debian(folder, *command):
    return [TOOLS / "in-debian", f"--folder={folder}", "trixie", *command]


@pytest.mark.once
def test_in_debian_ends_with_the_status_of_the_command(small_system):
    assert run(*in_debian(small_system, "sh", "-c", "exit 7")).returncode == 7
    assert os.listdir(small_system / "trixie" / "root") == []


@pytest.mark.once
@pytest.mark.parametrize("kill", [os.killpg, os.kill])
def test_in_debian_stops_when_it_is_told_to(small_system, kill):
    """timeout and ctrl-C tell the whole group; the first process of a namespace would
    not hear it.  A signal to the shell alone ends the command, too."""
    command = in_debian(small_system, "sh", "-c", "echo begun; sleep 60; echo went on")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                               text=True, start_new_session=True)
    assert process.stdout.readline() == "begun\n"
    start = time.monotonic()
    kill(process.pid, signal.SIGTERM)
    rest = process.communicate(timeout=90)[0]
    assert (rest, process.returncode) == ("", 1)
    assert time.monotonic() - start < 30
    assert os.listdir(small_system / "trixie" / "root") == []


@pytest.mark.once
def test_in_debian_says_which_processors_it_knows(tmp_path):
    result = run(TOOLS / "in-debian", f"--folder={tmp_path}", "--arch=vax", "trixie", "true")
    assert result.returncode == 2
    assert '"vax" is no architecture' in result.stderr and "i386, arm64" in result.stderr
    assert os.listdir(tmp_path) == []


@pytest.mark.once
def test_in_debian_leaves_interrupts_to_the_command(small_system):
    """A shell would have what runs behind it ignore them."""
    result = run(*in_debian(small_system, "sh", "-c", "kill -INT $$; echo ignored"))
    assert (result.stdout, result.returncode) == ("", 130)
