"""pymem-run and what is there already: options and variables of the interpreter, other
preloaded libraries, scripts, names in a debugger.
"""

import json
import re
import shutil
import subprocess
import sys

import pytest

from conftest import BUILD, TOP, clean_environment, embed_flags, pythons, run
from test_run import (preload_of, pymem_run, preloaded,     # noqa: F401 (a fixture)
                      statistics)

PRELOAD = BUILD / ".libs" / "pymem-preload.so"
DEVELOPER_MODE = "the developer mode (-X dev, PYTHONDEVMODE) would replace pymem"
PYTHONMALLOC = "PYTHONMALLOC=debug would replace pymem"
HERE = "print('pymem-preload' in open('/proc/self/maps').read())"


# Options and variables.

@pytest.mark.parametrize("python", pythons(3, 8))
@pytest.mark.parametrize("options", ["-E", "-I", "-sE", "-bIs", "-W error -E",
                                     "-Werror -BE", "-X utf8 -I", "-Xutf8 -E",
                                     "--check-hash-based-pycs default -E"])
def test_what_the_interpreter_ignores_is_ignored(python, options, tmp_path):
    path = tmp_path / "stats.json"
    result = pymem_run(f"--stats-json={path}", python, *options.split(), "-c",
                       "kept = [bytes(300) for _ in range(20_000)]",
                       PYTHONMALLOC="debug", PYTHONDEVMODE="1", PYTHONMALLOCSTATS="1",
                       PYTHON_PYMALLOC_HUGEPAGES="1")
    assert (result.returncode, result.stderr) == (0, "")
    assert statistics(path)["arenas"]["highwater"] >= 6


def test_a_variable_that_is_not_ignored_is_obeyed():
    result = pymem_run(sys.executable, "-c", "pass", PYTHONMALLOCSTATS="1")
    assert "Small block threshold = 512" in result.stderr


@pytest.mark.parametrize("options, variables, reason", [
    ("-W error -X dev", {}, DEVELOPER_MODE),
    ("-bX dev", {}, DEVELOPER_MODE),
    ("-IXdev", {}, DEVELOPER_MODE),
    ("-X dev=1", {}, DEVELOPER_MODE),
    ("-X utf8 -BbX dev", {}, DEVELOPER_MODE),
    ("--check-hash-based-pycs never -Xdev", {}, DEVELOPER_MODE),
    ("-W E -c pass", {"PYTHONMALLOC": "debug"}, PYTHONMALLOC),
    ("-c pass -E", {"PYTHONMALLOC": "debug"}, PYTHONMALLOC),
    ("-m this -I", {"PYTHONDEVMODE": "0"}, DEVELOPER_MODE),
    ("- -E", {"PYTHONDEVMODE": "1"}, DEVELOPER_MODE),
    ("-- -E", {"PYTHONDEVMODE": "1"}, DEVELOPER_MODE)])
def test_what_would_replace_it_is_refused_in_any_form(options, variables, reason):
    result = pymem_run(sys.executable, *options.split(), "-c", "pass", **variables)
    assert result.returncode == 126
    assert reason in result.stderr


@pytest.mark.parametrize("options", ["-c pass -X dev", "-m this -Xdev", "-Wdev",
                                     "-X devel", "-W dev"])
def test_what_only_looks_like_developer_mode(options):
    result = pymem_run(sys.executable, *options.split(), "-c", "pass")
    assert result.returncode in (0, 1) and DEVELOPER_MODE not in result.stderr


def test_options_of_a_script_count(tmp_path):
    """They are in its first line, or a shell's."""
    script = tmp_path / "script"
    for line in (f"#!{sys.executable} -Xdev", f"#!/usr/bin/env -S {sys.executable} -b -Xdev",
                 f"#!/bin/sh\nexec {sys.executable} -bXdev -c pass",
                 f"#!/bin/sh\nPYTHONDEVMODE=1 exec {sys.executable} -c pass"):
        script.write_text(f"{line}\n")
        script.chmod(0o755)
        result = pymem_run(script)
        assert result.returncode == 126, line
        assert DEVELOPER_MODE in result.stderr


@pytest.mark.parametrize("line", [
    "/usr/bin/env -S python3 -u", "/usr/bin/env -S -i PATH=/usr/bin:/bin python3 -u",
    "/usr/bin/env -S -u HOME -C / python3", "/usr/bin/env  python3", "/usr/bin/env -S VAR=1 python3 -u",
    "/usr/bin/env -Spython3 -u", "/usr/bin/env -S sh -c 'exec python3 \"$0\"'",
    "/usr/bin/env -S ${SHELL} -c 'exec python3 \"$0\"'"])
def test_a_script_by_env(tmp_path, line, monkeypatch):
    monkeypatch.setenv("SHELL", "/bin/sh")
    script = tmp_path / "script"
    script.write_text(f"#!{line}\n{HERE}\n")
    script.chmod(0o755)
    result = pymem_run(script)
    # An empty environment has no LD_PRELOAD.
    expected = "False\n" if "-i" in line else "True\n"
    alone = run(script)
    assert alone.returncode == result.returncode == 0, (alone.stderr, result.stderr)
    assert result.stdout == expected


@pytest.fixture
def embedder(tmp_path):
    """A program that runs Python with a separate configuration."""
    def build(configure):
        flags = embed_flags()
        (tmp_path / "embed.c").write_text("""
#include <Python.h>
int main(int argc, char **argv)
{
    PyPreConfig pre;
    PyPreConfig_InitIsolatedConfig(&pre);
    PyConfig config;
    PyConfig_InitIsolatedConfig(&config);
    %s
    if (PyStatus_Exception(Py_PreInitialize(&pre))
        || PyStatus_Exception(Py_InitializeFromConfig(&config))) {
        return 1;
    }
    PyConfig_Clear(&config);
    PyRun_SimpleString("kept = [bytes(300) for _ in range(20000)]");
    return Py_FinalizeEx();
}
""" % configure)
        result = run("cc", tmp_path / "embed.c", "-o", tmp_path / "embed", *flags)
        if result.returncode != 0:
            pytest.skip("no libpython to embed here: " + result.stderr[:200])
        return tmp_path / "embed"
    return build


def test_an_embedder_that_ignores_the_environment(embedder, tmp_path):
    path = tmp_path / "stats.json"
    result = pymem_run(f"--stats-json={path}", embedder(""), PYTHONMALLOC="debug",
                       PYTHONDEVMODE="1", PYTHONMALLOCSTATS="1")
    assert (result.returncode, result.stderr) == (0, "")
    assert statistics(path)["arenas"]["highwater"] >= 6


@pytest.mark.parametrize("configure, variables", [
    ("pre.allocator = PYMEM_ALLOCATOR_MALLOC;", {}),
    ("pre.dev_mode = 1;", {}),
    ("PyPreConfig_InitPythonConfig(&pre);", {"PYTHONMALLOC": "malloc"})])
def test_where_pymem_serves_nothing_it_is_said(embedder, configure, variables):
    program = embedder(configure)
    result = pymem_run(program, **variables)
    assert result.returncode == 0
    assert result.stderr.startswith("pymem-run: pymem serves nothing: the program chose ")
    assert result.stderr.count("\n") == 1


def test_an_interpreter_that_is_loaded_later(tmp_path):
    """It has its own allocators, and pymem-run says so."""
    (tmp_path / "late.c").write_text("""
#include <dlfcn.h>
#include <stdio.h>
int main(void)
{
    void *python = dlopen("libpython3." VERSION ".so.1.0", RTLD_NOW | RTLD_GLOBAL);
    if (python == NULL) {
        return 1;
    }
    void (*begin)(void) = (void (*)(void))dlsym(python, "Py_Initialize");
    int (*end)(void) = (int (*)(void))dlsym(python, "Py_FinalizeEx");
    begin();
    puts("ran");
    return end();
}
/* What pymem-run looks for: */
const char name[] = "\\0libpython3";
""".replace("VERSION", f'"{sys.version_info[1]}"'))
    assert run("cc", tmp_path / "late.c", "-ldl", "-o", tmp_path / "late").returncode == 0
    if run(tmp_path / "late").returncode != 0:
        pytest.skip("no libpython to load here")
    result = pymem_run(tmp_path / "late")
    assert (result.returncode, result.stdout) == (0, "ran\n")
    assert result.stderr == ("pymem-run: pymem serves nothing: there was no CPython in this "
                             "program when it began\n")


@pytest.mark.parametrize("python", pythons(3, 8))
def test_a_fork_where_other_hooks_are_installed(python):
    """What is asked before a fork is asked while the heaps are locked for it."""
    result = pymem_run(python, "-W", "ignore", "-c", """
import os, threading, tracemalloc
threading.Thread(target=lambda: bytearray(2000)).start()
tracemalloc.start()
for _ in range(3):
    child = os.fork()
    if child == 0:
        os._exit(len(bytearray(1000)) - 1000)
    assert os.waitpid(child, 0)[1] == 0
""")
    assert (result.returncode, result.stderr) == (0, "")


def test_an_interpreter_that_never_began_is_no_reason():
    result = pymem_run(sys.executable, "--version")
    assert (result.stdout[:7], result.stderr) == ("Python ", "")


# Other preloaded libraries.

LIST = "import os; print(os.environ.get('LD_PRELOAD'), 'PYMEM_RUN' in os.environ)"


@pytest.mark.parametrize("before", [None, "", "libm.so.6", "libm.so.6:libdl.so.2",
                                    "libm.so.6 libdl.so.2", "libm.so.6:"])
def test_the_order_is_kept_and_ours_is_last(before):
    variables = {} if before is None else {"LD_PRELOAD": before}
    ours = str(preload_of(sys.executable))
    expected = "".join([before or "", "" if before is None else ":", ours])
    assert pymem_run(sys.executable, "-c", LIST, **variables).stdout == f"{expected} True\n"
    assert pymem_run("--no-children", sys.executable, "-c", LIST, **variables
                     ).stdout == f"{before} False\n"


def test_children_have_what_a_script_added(tmp_path):
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\nexport LD_PRELOAD=$LD_PRELOAD:libm.so.6\n"
                      f"exec {sys.executable} -c \"$@\"\n")
    script.chmod(0o755)
    result = pymem_run("--no-children", script, LIST, LD_PRELOAD="libdl.so.2")
    assert result.stdout == "libdl.so.2:libm.so.6 False\n"


def test_under_the_address_sanitizer(tmp_path):
    library = run("gcc", "-print-file-name=libasan.so").stdout.strip()
    if "/" not in library:
        pytest.skip("gcc has no libasan here")
    path = tmp_path / "stats.json"
    result = pymem_run(f"--stats-json={path}", sys.executable, "-c", "print(1)",
                       LD_PRELOAD=library, ASAN_OPTIONS="detect_leaks=0")
    assert (result.stdout, result.stderr) == ("1\n", "")
    assert statistics(path)["arenas"]["highwater"] >= 1


@pytest.mark.parametrize("folder", ["a folder", "it's one", "d\u00e9j\u00e0", '"quoted" $x'])
def test_a_path_of_any_characters(tmp_path, folder):
    """Of the program, of the library, of the file of statistics."""
    home = tmp_path / folder
    (home / ".libs").mkdir(parents=True)
    shutil.copy(BUILD / "pymem-run", home)
    for library in {PRELOAD, preload_of(sys.executable)}:
        shutil.copy(library, home / ".libs")
    script = home / "script"
    script.write_text(f"#!{sys.executable}\n{HERE}\n{LIST}\n")
    script.chmod(0o755)
    for option in ("--stats", "--no-children"):
        result = run(home / "pymem-run", option, f"--stats-json={home / 's.json'}", script)
        assert result.returncode == 0, result.stderr
        assert result.stdout.startswith("True\n")
        assert result.stdout.endswith("True\n" if option == "--stats" else "None False\n")
        assert json.loads((home / "s.json").read_text())["threshold"] == 512


# Names.

def names_of(path):
    """Of all functions and variables, also those that are not exported."""
    lines = run("nm", path).stdout.splitlines()
    return {line.split()[-1].split(".")[0] for line in lines
            if len(line.split()) == 3 and line.split()[1] in "TtDdBbRr"}


THE_LINKERS = {"_init", "_fini", "_DYNAMIC", "_GLOBAL_OFFSET_TABLE_", "frame_dummy",
               "register_tm_clones", "deregister_tm_clones", "atexit", "completed"}


@pytest.mark.parametrize("library", ["pymem-preload.so", "libpymeminstall.so"])
def test_no_name_of_ours_is_the_interpreters(library, products):
    """What a debugger or a profiler shows is whose it says."""
    ours = {name for name in names_of(BUILD / ".libs" / library)
            if re.match(r"_?Py", name)}
    theirs = names_of(products / "python-stock")
    assert len(theirs) > 5000
    assert ours & theirs == set()


def test_a_breakpoint_stops_in_the_interpreter_only(tmp_path):
    if shutil.which("gdb") is None:
        pytest.skip("gdb is not here")
    result = subprocess.run(
        ["gdb", "-batch", "-nx", "-ex", "set breakpoint pending on",
         "-ex", "set startup-with-shell off", "-ex", f"set environment LD_PRELOAD {PRELOAD}",
         "-ex", "break main", "-ex", "run -c pass", "-ex", "break PyMem_Malloc",
         "-ex", "break PyObject_Malloc", "-ex", "info breakpoints", BUILD / "python-stock"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120,
        env=clean_environment())
    assert "PyMem_Malloc" in result.stdout, result.stdout
    assert "2 locations" not in result.stdout and "pymem" not in (
        result.stdout.split("Num ")[-1]), result.stdout
