"""Tools/relink --source, over a small source tree in place of CPython's.

Its configure and make write down what they are told.  The libraries are small, too: a
Makefile stands where relink would configure.
"""

import shlex
import sys

import pytest

from conftest import TOP, run

CONFIGURE = """#!/bin/sh
for word; do echo "$word"; done >../configured
cat >Makefile <<'END'
OBJECT_OBJS=	Objects/obmalloc.o
all:
	echo $(OBJECT_OBJS) >../linked
	cp made-python python
altinstall:
	mkdir -p PREFIX/bin
	cp made-python PREFIX/bin/python3.13
END
"""
LIBRARIES = """
lib%.la:
	echo "int $*;" >$*.c
	cc -c $*.c
	mkdir -p .libs
	ar rc .libs/lib$*.a $*.o
"""


@pytest.fixture
def source(tmp_path):
    """A folder with a source and the one for the products; version and what python
    prints may be changed."""
    tree = tmp_path / "Python-3.13.5"
    for name in ("Include", "Objects", "Modules", "Python"):
        (tree / name).mkdir(parents=True)
    (tree / "Include/patchlevel.h").write_text("#define PY_MINOR_VERSION        13\n")
    for name in ("Objects/obmalloc.c", "Modules/_tracemalloc.c", "Python/tracemalloc.c"):
        (tree / name).write_text("int theirs;\n")
    (tree / "configure").write_text(
        CONFIGURE.replace("PREFIX", str(tmp_path / "prefix")))
    (tree / "made-python").write_text('#!/bin/sh\necho "# pool map leaves = 1" >&2\n')
    for name in ("configure", "made-python"):
        (tree / name).chmod(0o755)
    libraries = tmp_path / "products" / "pymem-lto"
    libraries.mkdir(parents=True)
    (libraries / "Makefile").write_text(LIBRARIES)
    return tree


def relink(source, *options):
    products = source.parent / "products"
    return run(sys.executable, TOP / "Tools/relink", f"--source={source}",
               f"--products={products}", *options), products


def configured(products):
    return (products / "configured").read_text().split("\n")[:-1]


def test_cpythons_configure_is_asked_for_its_best_build(source):
    result, products = relink(source)
    assert result.returncode == 0, result.stderr
    assert configured(products) == ["--enable-optimizations", "--with-lto"]
    assert f"{products}/cpython-3.13-source/python: CPython from" in result.stdout


def test_other_options_take_the_place_of_these(source):
    options = ["--enable-optimizations", "--without-ensurepip", "CFLAGS=-g -O1"]
    result, products = relink(source, f"--configure={shlex.join(options)}")
    assert result.returncode == 0, result.stderr
    assert configured(products) == options
    result, products = relink(source, "--configure=")
    assert result.returncode == 0, result.stderr
    assert configured(products) == []


def test_install_goes_to_the_prefix(source):
    prefix = source.parent / "prefix"
    result, products = relink(source, f"--install={prefix}")
    assert result.returncode == 0, result.stderr
    assert configured(products)[-1] == f"--prefix={prefix}"
    assert (prefix / "bin/python3.13").exists()


def test_the_copy_has_our_files_and_the_source_its_own(source):
    result, products = relink(source)
    assert result.returncode == 0, result.stderr
    tree = products / "cpython-3.13-source"
    assert f'"{TOP}/Python/tracer/abi/cpython313.c"' in (tree / "Objects/obmalloc.c").read_text()
    assert f'"{TOP}/Modules/_tracemalloc.c"' in (tree / "Modules/_tracemalloc.c").read_text()
    assert "theirs" not in (tree / "Python/tracemalloc.c").read_text()
    assert (source / "Objects/obmalloc.c").read_text() == "int theirs;\n"
    linked = (products / "linked").read_text().split()
    objects = products / "pymem-lto" / "objects"
    assert set(linked) == {f"{objects}/pymemcore.o", f"{objects}/pymemtrace.o",
                           "Objects/obmalloc.o"}


@pytest.mark.parametrize("break_it, words", [
    (lambda tree: (tree / "configure").unlink(), "is no source of CPython"),
    (lambda tree: (tree / "Include/patchlevel.h").write_text("#define PY_MINOR_VERSION 16\n"),
     "is of version 3.16; supported: 3.10, "),
    (lambda tree: (tree / "configure").write_text("#!/bin/sh\necho no compiler\nexit 1\n"),
     "no compiler"),
    (lambda tree: (tree / "configure").write_text("#!/bin/sh\necho all: >Makefile\n"),
     "has no line OBJECT_OBJS"),
    (lambda tree: (tree / "made-python").write_text("#!/bin/sh\n"),
     "does not have this memory subsystem"),
], ids=["no source", "too new", "configure fails", "another Makefile", "not ours"])
def test_what_is_wrong_is_said(source, break_it, words):
    break_it(source)
    result, _ = relink(source)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith("relink: ") or words == "no compiler"
    assert words in result.stderr


def test_options_for_configure_need_a_source(tmp_path):
    for options in ("--configure=--with-lto", "--configure="):
        result = run(sys.executable, TOP / "Tools/relink", options,
                     f"--products={tmp_path}")
        assert result.returncode == 2
        assert "--configure is for --source" in result.stderr
