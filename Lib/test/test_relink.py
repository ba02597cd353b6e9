"""Tools/relink: what it refuses, and that it changes nothing then."""

import os
import shutil
import stat
import subprocess
import sys
import sysconfig

import pytest

from conftest import BUILD, TOP, run

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
              "Py_GIL_DISABLED": 0, "Py_DEBUG": 0, "version": "3.11",
              "implementation": "cpython",
              "include": sysconfig.get_path("include"), **answers}
    import json
    path = directory / "fake-python"
    path.write_text(f"#!/bin/sh\ncat <<'END'\n{json.dumps(answer)}\nEND\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def refused(build, python, *words):
    result = run(RELINK, f"--build={build}", f"--with-python={python}")
    assert result.returncode == 1
    assert result.stderr.startswith("relink: ")
    assert "Traceback (most" not in result.stderr
    for word in words:
        assert word in result.stderr, result.stderr
    assert sorted(os.listdir(build)) == [".libs"]


def test_makes_its_products(build):
    result = run(RELINK, f"--build={build}")
    assert result.returncode == 0, result.stderr
    assert ("symbols of obmalloc.o and _tracemalloc.o from libpymemcore.a"
            in result.stdout)
    assert sorted(os.listdir(build)) == [
        ".libs", "libpython3.11.so.1.0", "python", "python-stock",
        "relink.stamp"]
    before = (build / "python").stat().st_mtime_ns
    assert run(RELINK, f"--build={build}").stdout == ""
    assert (build / "python").stat().st_mtime_ns == before


def test_no_such_python(build):
    refused(build, "/nonexistent/python", "no program /nonexistent/python")


def test_not_a_python(build):
    refused(build, "/bin/false", "is no Python that answers")


@pytest.mark.parametrize("answers, words", [
    ({"version": "3.9"}, ["is version 3.9", "supported: 3.10, 3.11, 3.12, 3.13"]),
    ({"implementation": "pypy"}, ["is pypy"]),
    ({"Py_GIL_DISABLED": 1}, ["free-threaded"]),
    ({"Py_DEBUG": 1}, ["debug build"]),
    ({"LIBPL": "/nonexistent"}, ["no static archive",
                                 "/nonexistent/libpython3.11-pic.a",
                                 "apt-get install libpython3.11-dev"]),
])
def test_unsuitable_pythons(build, tmp_path, answers, words):
    refused(build, fake_python(tmp_path, **answers), *words)


def archive_of(tmp_path, name, source, *flags):
    directory = tmp_path / "config"
    directory.mkdir()
    (directory / f"{name}.c").write_text(source)
    (directory / "_tracemalloc.c").write_text("int tracing;")
    for stem in (name, "_tracemalloc"):
        subprocess.run(["gcc", "-c", *flags, f"{stem}.c", "-o", f"{stem}.o"],
                       cwd=directory, check=True)
        subprocess.run(["gcc-ar", "rc", "libpython3.11-pic.a", f"{stem}.o"],
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


def test_archive_that_is_not_position_independent(build, tmp_path):
    directory = tmp_path / "config"
    directory.mkdir()
    for name in ("libpython3.11.a", "python.o"):
        shutil.copy(f"{LIBPL}/{name}", directory)
    names = ("LIBS", "MODLIBS", "SYSLIBS", "LINKFORSHARED")
    python = fake_python(tmp_path, LIBPL=str(directory), **{
        name: sysconfig.get_config_var(name) for name in names})
    refused(build, python, "is not position-independent", "--enable-shared")


def test_archive_that_does_not_link(build, tmp_path):
    directory = archive_of(tmp_path, "obmalloc", "int PyMem_Malloc;")
    shutil.copy(f"{LIBPL}/python.o", directory)
    refused(build, fake_python(tmp_path, LIBPL=str(directory)), "failed:")


def test_a_symbol_we_lack_is_named(build, tmp_path):
    """An obmalloc.o of a version to come, in an archive that links."""
    directory = archive_of(tmp_path, "obmalloc",
                           "int PyMem_OfTheFuture(void) { return 0; }")
    shutil.copy(f"{LIBPL}/python.o", directory)
    shutil.copy(f"{LIBPL}/libpython3.11-pic.a", directory)
    subprocess.run(["ar", "r", "libpython3.11-pic.a", "obmalloc.o"],
                   cwd=directory, check=True)
    names = ("LIBS", "MODLIBS", "SYSLIBS", "LINKFORSHARED")
    python = fake_python(tmp_path, LIBPL=str(directory), **{
        name: sysconfig.get_config_var(name) for name in names})
    refused(build, python, "PyMem_OfTheFuture is defined in nowhere")


def test_headers_that_are_not_there(build, tmp_path):
    refused(build, fake_python(tmp_path, include="/nonexistent"),
            "/nonexistent/internal/pycore_code.h is missing")


def test_library_not_built(tmp_path):
    result = run(RELINK, f"--build={tmp_path}")
    assert result.returncode == 1
    assert "libpymemcore.a is missing; run make first" in result.stderr


def test_unknown_option():
    result = run(RELINK, "--frobnicate")
    assert result.returncode == 2
    assert "usage: relink" in result.stderr
    assert "--frobnicate" in result.stderr


def test_runs_from_any_folder(build, tmp_path):
    result = run(sys.executable, RELINK, f"--build={build}", cwd="/")
    assert result.returncode == 0, result.stderr


# --install

@pytest.fixture(scope="module")
def prefix(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prefix")
    for _ in range(2):                  # over itself, too
        result = run(RELINK, f"--build={BUILD}", f"--install={folder}")
        assert result.returncode == 0, result.stderr
    return folder


def test_an_installed_interpreter_is_ours(prefix):
    for name in ("python", "python3", "python3.11"):
        result = run(prefix / "bin" / name, "-c",
                     "import sys, ssl, ctypes, sqlite3; sys._debugmallocstats()")
        assert "# pool map leaves" in result.stderr
    result = run("readelf", "-d", prefix / "lib" / "libpython3.11.so")
    assert "[libpython3.11.so.1.0]" in result.stdout


def test_a_venv_of_an_installed_interpreter(prefix, tmp_path):
    venv = tmp_path / "venv"
    assert run(prefix / "bin" / "python3", "-m", "venv", "--without-pip",
               venv).returncode == 0
    result = run(venv / "bin" / "python", "-c",
                 "import sys; print(sys.prefix); sys._debugmallocstats()")
    assert result.stdout == f"{venv}\n"
    assert "# pool map leaves" in result.stderr


def test_numpy_traces_appear(prefix):
    """NumPy tells the tracer of its arrays in a domain of its own."""
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


@pytest.mark.parametrize("name", ["bin/python3", "lib/libpython3.11.so.1.0"])
def test_the_prefix_of_something_else_is_left_alone(tmp_path, name):
    (tmp_path / name).parent.mkdir()
    (tmp_path / name).write_text("mine")
    result = run(RELINK, f"--build={BUILD}", f"--install={tmp_path}")
    assert result.returncode == 1
    assert f"{tmp_path / name} exists, and relink did not put it there" in result.stderr
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [
        (tmp_path / name).name]
