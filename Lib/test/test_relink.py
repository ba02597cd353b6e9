"""Tools/relink: what it refuses, and that it changes nothing then."""

import json
import os
import platform
import re
import shutil
import signal
import stat
import subprocess
import sys
import sysconfig
import time

import pytest

from conftest import BUILD, TOP, VERSION, run

RELINK = TOP / "Tools" / "relink"
LIBPL = sysconfig.get_config_var("LIBPL")


@pytest.fixture
def build(tmp_path):
    """A build folder with our libraries and no products."""
    directory = tmp_path / "build"
    (directory / ".libs").mkdir(parents=True)
    for name in ("libpymemcore.a", "libpymemtrace.a"):
        shutil.copy(BUILD / ".libs" / name, directory / ".libs")
    return directory


def fake_python(directory, **answers):
    """A program that answers relink's question as a Python would."""
    answer = {"LIBPL": LIBPL, "LIBDIR": "/nonexistent", "LIBS": "", "CC": "gcc",
              "MODLIBS": "", "SYSLIBS": "", "LINKFORSHARED": "",
              "CFLAGS": "", "Py_GIL_DISABLED": 0, "Py_DEBUG": 0, "version": VERSION,
              "full_version": platform.python_version(),
              "executable": sys._base_executable, "implementation": "cpython",
              "include": sysconfig.get_path("include"), **answers}
    path = directory / "fake-python"
    path.write_text(f"#!/bin/sh\ncat <<'END'\n{json.dumps(answer)}\nEND\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def relink(*options, python=sys.executable, **how):
    """Of the Python that runs the tests, unless another is named."""
    return run(RELINK, *options, f"--with-python={python}", **how)


def refused(build, python, *words):
    result = relink(f"--build={build}", python=python)
    assert result.returncode == 1
    assert result.stderr.startswith("relink: ")
    assert "Traceback (most" not in result.stderr
    for word in words:
        assert word in result.stderr, result.stderr
    assert sorted(os.listdir(build)) == [".libs"]


def test_makes_its_products(build):
    result = relink(f"--build={build}")
    assert result.returncode == 0, result.stderr
    objects = "obmalloc.o and _tracemalloc.o"
    if sys.version_info >= (3, 12):
        objects += " and tracemalloc.o"
    assert f"symbols of {objects} from libpymemcore.a" in result.stdout
    assert sorted(os.listdir(build)) == [
        ".libs", f"libpython{VERSION}.so.1.0", "python", "python-stock",
        "relink.stamp"]
    before = (build / "python").stat().st_mtime_ns
    assert relink(f"--build={build}").stdout == ""
    assert (build / "python").stat().st_mtime_ns == before


def test_no_such_python(build):
    refused(build, "/nonexistent/python", "no program /nonexistent/python")


def test_not_a_python(build):
    refused(build, "/bin/false", "is no Python that answers")


@pytest.mark.parametrize("answers, words", [
    ({"version": "3.9"}, ["is version 3.9; supported: 3.10, 3.11, 3.12, 3.13, 3.14, 3.15"]),
    ({"version": "3.16"}, ["is version 3.16, which is not known yet; supported: 3.10, "]),
    ({"implementation": "pypy"}, ["is pypy"]),
    ({"Py_GIL_DISABLED": 1}, ["free-threaded"]),
    ({"Py_DEBUG": 1}, ["debug build"]),
    ({"LIBPL": "/nonexistent"}, ["no static archive",
                                 f"/nonexistent/libpython{VERSION}-pic.a",
                                 f"apt-get install libpython{VERSION}-dev"]),
])
def test_unsuitable_pythons(build, tmp_path, answers, words):
    refused(build, fake_python(tmp_path, **answers), *words)


def archive_of(tmp_path, name, source, *flags):
    directory = tmp_path / "config"
    directory.mkdir()
    (directory / f"{name}.c").write_text(source)
    for stem in ("_tracemalloc", "tracemalloc"):        # the latter from 3.12 on
        (directory / f"{stem}.c").write_text(f"int {stem};")
    for stem in (name, "_tracemalloc", "tracemalloc"):
        subprocess.run(["gcc", "-c", *flags, f"{stem}.c", "-o", f"{stem}.o"],
                       cwd=directory, check=True)
        subprocess.run(["gcc-ar", "rc", f"libpython{VERSION}-pic.a", f"{stem}.o"],
                       cwd=directory, check=True)
    return directory


def test_archive_of_lto_objects(build, tmp_path):
    directory = archive_of(tmp_path, "obmalloc", "void *PyMem_Malloc(void) "
                           "{ return 0; }", "-flto", "-fno-fat-lto-objects")
    refused(build, fake_python(tmp_path, LIBPL=str(directory)),
            str(directory), "LTO only")


def test_archive_without_the_object(build, tmp_path):
    directory = archive_of(tmp_path, "other", "int x;")
    refused(build, fake_python(tmp_path, LIBPL=str(directory)), "obmalloc.o")


def debian_archive(directory, *archives):
    """A Python whose archives are these copies of Debian's."""
    directory.mkdir()
    for name in (*archives, "python.o"):
        shutil.copy(f"{LIBPL}/{name}", directory)
    names = ("LIBS", "MODLIBS", "SYSLIBS", "LINKFORSHARED", "CFLAGS")
    return fake_python(directory, LIBPL=str(directory), **{
        name: sysconfig.get_config_var(name) for name in names})


def test_interpreter_is_linked_from_the_optimised_archive(build, tmp_path):
    """At a fixed address where the interpreter that it replaces is."""
    result = relink(f"--build={build}")
    assert f"from {LIBPL}/libpython{VERSION}.a, " in result.stdout
    assert f"libpython{VERSION}.so.1.0: from {LIBPL}/libpython{VERSION}-pic.a" in result.stdout
    kinds = {re.search(r"Type:\s+(\w+)", run("readelf", "-h", path).stdout)[1]
             for path in (build / "python", build / "python-stock",
                          os.path.realpath(sys._base_executable))}
    assert len(kinds) == 1


def test_archive_that_is_not_position_independent(build, tmp_path):
    """The interpreter is made, and a library of before does not stay."""
    python = debian_archive(tmp_path / "config", f"libpython{VERSION}.a")
    library = build / f"libpython{VERSION}.so.1.0"
    library.write_text("of before")
    result = relink(f"--build={build}", python=python)
    assert result.returncode == 0, result.stderr
    assert f"no libpython{VERSION}.so.1.0: " in result.stdout
    assert "is not position-independent" in result.stdout
    assert "--enable-shared" in result.stdout
    assert sorted(os.listdir(build)) == [".libs", "python", "python-stock",
                                         "relink.stamp"]
    assert relink(f"--build={build}", python=python).stdout == ""


@pytest.mark.parametrize("what", ["headers", "archive", "interpreter"])
def test_parts_of_different_releases_are_noticed(build, tmp_path, what):
    python = debian_archive(tmp_path / "config", f"libpython{VERSION}-pic.a")
    answer = json.loads(python.read_text().split("\n")[2])
    release, other = platform.python_version(), f"{VERSION}.99"
    if what == "headers":
        shutil.copytree(answer["include"], tmp_path / "include")
        patchlevel = tmp_path / "include" / "patchlevel.h"
        patchlevel.write_text(patchlevel.read_text().replace(f'"{release}', f'"{other}'))
        answer["include"] = str(tmp_path / "include")
    elif what == "interpreter":
        answer["full_version"] = other
    else:
        directory = tmp_path / "config"
        (directory / "getversion.c").write_text(f'const char version[] = "\\0" "{other}";')
        for command in (["gcc", "-c", "getversion.c"],
                        ["ar", "r", f"libpython{VERSION}-pic.a", "getversion.o"]):
            subprocess.run(command, cwd=directory, check=True)
    refused(build, fake_python(tmp_path, **answer), "of different versions: ",
            f" of {other}", f" of {release}", "Needed: one release")


def test_packages_are_named(build):
    result = relink("--packages")
    assert "zlib1g-dev" in result.stdout.split()
    assert "libexpat1-dev" in result.stdout.split()
    assert os.listdir(build) == [".libs"]


def test_archive_that_does_not_link(build, tmp_path):
    directory = archive_of(tmp_path, "obmalloc", "int PyMem_Malloc;")
    shutil.copy(f"{LIBPL}/python.o", directory)
    refused(build, fake_python(tmp_path, LIBPL=str(directory)), "failed:")


def test_a_symbol_we_lack_is_named(build, tmp_path):
    """An obmalloc.o of a version to come, in an archive that links."""
    python = debian_archive(tmp_path / "all", f"libpython{VERSION}-pic.a")
    directory = archive_of(tmp_path, "obmalloc",
                           "int PyMem_OfTheFuture(void) { return 0; }")
    subprocess.run(["ar", "r", tmp_path / "all" / f"libpython{VERSION}-pic.a",
                    "obmalloc.o"], cwd=directory, check=True)
    refused(build, python, "PyMem_OfTheFuture is defined in nowhere")


def test_headers_that_are_not_there(build, tmp_path):
    refused(build, fake_python(tmp_path, include="/nonexistent"),
            "/nonexistent/patchlevel.h is missing")


def test_nothing_half_made_stays_when_it_is_stopped(build):
    process = subprocess.Popen([RELINK, f"--build={build}", f"--with-python={sys.executable}"],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 60
    while os.listdir(build) == [".libs"] and time.monotonic() < end:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=60)
    assert (said, process.returncode) == (("", "relink: stopped\n"), 1)
    assert os.listdir(build) == [".libs"]


def test_library_not_built(tmp_path):
    result = relink(f"--build={tmp_path}")
    assert result.returncode == 1
    assert "libpymemcore.a is missing; run make first" in result.stderr


def test_unknown_option():
    result = run(RELINK, "--frobnicate")
    assert result.returncode == 2
    assert "usage: relink" in result.stderr
    assert "--frobnicate" in result.stderr


def test_runs_from_any_folder(build, tmp_path):
    result = relink(f"--build={build}", cwd="/")
    assert result.returncode == 0, result.stderr


# --install

@pytest.fixture(scope="module")
def prefix(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prefix")
    for _ in range(2):                  # over itself, too
        result = relink(f"--build={BUILD}", f"--install={folder}")
        assert result.returncode == 0, result.stderr
    return folder


def test_an_installed_interpreter_is_ours(prefix):
    for name in ("python", "python3", f"python{VERSION}"):
        result = run(prefix / "bin" / name, "-c",
                     "import sys, ssl, ctypes, sqlite3; sys._debugmallocstats()")
        assert "# pool map leaves" in result.stderr
    result = run("readelf", "-d", prefix / "lib" / f"libpython{VERSION}.so")
    assert f"[libpython{VERSION}.so.1.0]" in result.stdout


def test_a_venv_of_an_installed_interpreter(prefix, tmp_path):
    venv = tmp_path / "venv"
    assert run(prefix / "bin" / "python3", "-m", "venv", "--without-pip",
               venv).returncode == 0
    result = run(venv / "bin" / "python", "-c",
                 "import sys; print(sys.prefix); sys._debugmallocstats()")
    assert result.stdout == f"{venv}\n"
    assert "# pool map leaves" in result.stderr


def test_numpy_traces_appear(prefix):
    """NumPy tells the tracer of its arrays in a separate domain."""
    if run(prefix / "bin" / "python3", "-c", "import numpy").returncode != 0:
        pytest.skip("needs NumPy (Debian: python3-numpy)")
    result = run(prefix / "bin" / "python3", "-c", """
import tracemalloc
tracemalloc.start(2)
import numpy
made = numpy.zeros(100_000)
numbers = sum(numpy.arange(n) for n in (10, 10))
traces = tracemalloc.take_snapshot().filter_traces(
    [tracemalloc.DomainFilter(True, 389047)]).traces
print(sum(trace.size == made.nbytes for trace in traces), len(traces) >= 2)
""")
    assert result.stdout == "1 True\n", result.stderr


@pytest.mark.parametrize("name", ["bin/python3", f"lib/libpython{VERSION}.so.1.0"])
def test_the_prefix_of_something_else_is_left_alone(tmp_path, name):
    (tmp_path / name).parent.mkdir()
    (tmp_path / name).write_text("mine")
    result = relink(f"--build={BUILD}", f"--install={tmp_path}")
    assert result.returncode == 1
    assert f"{tmp_path / name} exists, and relink did not put it there" in result.stderr
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [
        (tmp_path / name).name]
