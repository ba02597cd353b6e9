"""A CPython built from its source with this memory subsystem in place of its own.

What Tools/relink --source=DIR does.  CPython's own configure and make do the work, with
profile-guided and link-time optimisation; they work in a copy, in which

    Objects/obmalloc.c        is the file of the version in our Python/tracer/abi
    Python/tracemalloc.c      is empty (3.12 and later)
    Modules/_tracemalloc.c    is our Modules/_tracemalloc.c
    OBJECT_OBJS               also names the objects of our libraries

so that libpython3.X.a of such a build is complete, and each program linked from it has
this memory subsystem.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
CONFIGURE = ["--enable-optimizations", "--with-lto"]
# Machine code beside what link-time optimisation needs, so that every linker takes them.
OUR_CFLAGS = "-O2 -g -flto -ffat-lto-objects"
OUR_LIBRARIES = ["libpymemcore.la", "libpymemtrace.la"]


class SourceError(Exception):
    """What was wrong, and what is needed."""


def version_of(source):
    """3.X of an unpacked source."""
    header = source / "Include" / "patchlevel.h"
    if not header.exists() or not (source / "configure").exists():
        raise SourceError(f"{source} is no source of CPython: it has no configure or no "
                          "Include/patchlevel.h; --source takes the folder that a "
                          "Python-3.X.Y.tar.xz is unpacked to")
    text = header.read_text()
    return "3." + re.search(r"PY_MINOR_VERSION\s+(\d+)", text)[1]


def run_logged(log, command, folder, **variables):
    """Run a command, its output in a file; a line with the time while it works."""
    print(f"relink: {shlex.join(map(str, command))} (output: {log})", file=sys.stderr)
    with open(log, "w") as output:
        result = subprocess.run([str(word) for word in command], cwd=folder, stdout=output,
                                stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                                env={**os.environ, **variables})
    if result.returncode != 0:
        last = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
        raise SourceError(f"{shlex.join(map(str, command))} failed:\n{last}")


def build_libraries(folder, jobs):
    """Our objects, compiled for link-time optimisation."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (TOP / "configure").exists():
        raise SourceError(f"{TOP}/configure is missing; sh Tools/try.sh makes it")
    if not (folder / "Makefile").exists():
        run_logged(folder / "configure.log", [TOP / "configure", f"CFLAGS={OUR_CFLAGS}"],
                   folder)
    run_logged(folder / "make.log", ["make", f"-j{jobs}", *OUR_LIBRARIES], folder)
    objects = folder / "objects"
    shutil.rmtree(objects, ignore_errors=True)
    objects.mkdir()
    for library in OUR_LIBRARIES:
        archive = folder / ".libs" / Path(library).with_suffix(".a")
        subprocess.run(["ar", "x", archive], cwd=objects, check=True)
    return sorted(objects.glob("*.o"))


def put_ours_in(tree, version):
    """The three files of the copy."""
    abi = TOP / "Python" / "tracer" / "abi" / f"cpython{version.replace('.', '')}.c"
    (tree / "Objects" / "obmalloc.c").write_text(f'#include "{abi}"\n')
    (tree / "Modules" / "_tracemalloc.c").write_text(
        f'#include "{TOP / "Modules" / "_tracemalloc.c"}"\n')
    if (tree / "Python" / "tracemalloc.c").exists():
        (tree / "Python" / "tracemalloc.c").write_text(
            "/* What was here is in Objects/obmalloc.c. */\ntypedef int nothing;\n")


def name_objects(tree, objects):
    """OBJECT_OBJS in the Makefile: also ours."""
    makefile = tree / "Makefile"
    text, count = re.subn(r"^(OBJECT_OBJS=)", lambda match: match[1] + " "
                          + " ".join(map(str, objects)) + " ", makefile.read_text(),
                          flags=re.M)
    if count != 1:
        raise SourceError(f"{makefile} has no line OBJECT_OBJS: not a CPython that is known")
    makefile.write_text(text)


def build(source, folder, supported, prefix=None, configure=None, jobs=None):
    """The interpreter's path: PREFIX/bin/python3.X, or python in the copy."""
    source = source.resolve()
    version = version_of(source)
    if version not in supported:
        raise SourceError(f"{source} is of version {version}; supported: "
                          f"{', '.join(supported)}")
    if re.search(r"[^\w/.+,@%=~-]", str(folder) + str(TOP)):
        raise SourceError(f"CPython's make takes no folder with such a name: {folder}, {TOP}")
    jobs = jobs or os.cpu_count() or 1
    objects = build_libraries(folder / "pymem-lto", jobs)
    tree = folder / f"cpython-{version}-source"
    shutil.rmtree(tree, ignore_errors=True)
    shutil.copytree(source, tree, symlinks=True)
    put_ours_in(tree, version)
    options = CONFIGURE if configure is None else configure
    run_logged(folder / "configure.log",
               ["./configure", *options, *([f"--prefix={prefix}"] if prefix else [])], tree)
    name_objects(tree, objects)
    run_logged(folder / "make.log", ["make", f"-j{jobs}"], tree)
    check(tree / "python")
    if not prefix:
        return tree / "python"
    run_logged(folder / "install.log", ["make", "altinstall"], tree)
    installed = prefix / "bin" / f"python{version}"
    check(installed)
    return installed


def check(python):
    """Is the memory subsystem that answers ours?"""
    result = subprocess.run([python, "-I", "-c", "import sys, tracemalloc; "
                             "sys._debugmallocstats(); tracemalloc.start()"], text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if "# pool map leaves" not in result.stderr:
        raise SourceError(f"{python} does not have this memory subsystem: "
                          + result.stderr[-500:])
