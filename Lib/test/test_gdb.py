"""Tools/gdb/pymem.py, on a process and on a core file; probes of --with-dtrace."""

import re
import shutil

import pytest

from conftest import (ALIGNMENT, ARENA_SIZE, BUILD, POOL_OVERHEAD, POOL_SIZE, TOP,
                      clean_environment, compile_with_library, run)

BLOCKSIZE = 48 if ALIGNMENT == 16 else 40       # of 40 bytes
NBLOCKS = (POOL_SIZE - POOL_OVERHEAD) // BLOCKSIZE
SCRIPT = TOP / "Tools" / "gdb" / "pymem.py"
pytestmark = pytest.mark.skipif(shutil.which("gdb") is None,
                                reason="needs gdb (Debian: gdb)")

PROGRAM = """
#include <Python.h>
void *small[100], *medium, *raw;
int main(void)
{
    for (int i = 0; i < 100; i++) small[i] = PyObject_Malloc(%(size)d);
    medium = PyMem_Malloc(5000);
    raw = PyMem_RawMalloc(100);
    PyObject_Free(small[7]);
    PyObject_Free(small[50]);
    abort();
}
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    source = tmp_path_factory.mktemp("gdb") / "prog.c"
    source.write_text(PROGRAM % {"size": 40})
    return compile_with_library(source, "-g")


def gdb(*arguments, commands, **variables):
    words = [word for command in commands for word in ("-ex", command)]
    return run("gdb", "-nx", "-batch", "-iex", "set debuginfod enabled off", "-ex",
               f"source {SCRIPT}", *words, *arguments,
               environment=clean_environment(**variables))


@pytest.fixture(scope="module", params=["process", "core"])
def look(request, program):
    """What commands print where the program has stopped."""
    if request.param == "process":
        return lambda *commands, **variables: gdb(
            program, commands=["run", *commands], **variables)
    core = program.parent / "core"
    gdb(program, commands=["run", f"generate-core-file {core}"])
    assert core.exists()

    def look_at_core(*commands, **variables):
        assert not variables
        return gdb(program, core, commands=commands)
    return look_at_core


def test_arenas(look):
    output = look("pymem-arenas").stdout
    assert re.search(rf"^0x[0-9a-f]+ +{ARENA_SIZE >> 10} KiB  small    1 of 6[34] pools used"
                     r"  #\.+  interpreter 0$", output, re.M)
    assert re.search(r"^0x[0-9a-f]+  1024 KiB  medium   1 of [78] pools used  #\.+"
                     r"  thread \d+$", output, re.M)
    assert f"2 arenas of {(ARENA_SIZE >> 10) + 1024} KiB, 2 pools used" in output


def test_a_pool_and_its_free_list(look):
    output = look("pymem-pool small[0]").stdout
    assert re.search(rf"small pool 0x[0-9a-f]+: blocks of {BLOCKSIZE} bytes, 98 of {NBLOCKS} "
                     r"used, \d+ cut, used", output)
    assert re.search(r"free list: 50 7( \d+)*$", output, re.M)
    assert "broken" not in output
    assert "medium pool" in look("pymem-pool medium").stdout


def test_blocks(look):
    output = look("pymem-block small[7]", "pymem-block (char *)small[8] + 11",
                  "pymem-block medium").stdout
    assert re.search(rf"block 7 at 0x[0-9a-f]+, {BLOCKSIZE} bytes, free; the address is its byte 0"
                     r"\nbefore it: used; behind it: used\n", output)
    assert re.search(r"block 8 .* used; the address is its byte 11\n"
                     r"before it: free; behind it: used", output)
    assert re.search(r"block 0 at 0x[0-9a-f]+, 5\d\d\d bytes, used", output)


def test_addresses_that_are_no_blocks(look):
    result = look("pymem-block raw")
    assert re.search("0x[0-9a-f]+ is in no pool", result.stderr)
    result = look(f"pymem-block (long)small[0] & ~{POOL_SIZE - 1}L")
    assert re.search("is in the small pool .* but in no block of it", result.stderr)
    assert "usage: pymem-block ADDRESS" in look("pymem-block").stderr
    assert "usage: pymem-pool ADDRESS" in look("pymem-pool").stderr
    assert 'No symbol "nothing"' in look("pymem-pool nothing").stderr


def test_structures_print_short(look):
    ring = f"main_heap.usedpools[{BLOCKSIZE // ALIGNMENT - 1}]"
    output = look("print _PyMem_Allocators[2]", f"print *{ring}.next",
                  "print main_heap.first_chunk->objects[0]").stdout
    assert "allocator _PyObject_Malloc ... _PyObject_Free, ctx 0x0" in output
    assert f"pool of {BLOCKSIZE}-byte blocks, 98 used, free from 0x" in output
    assert re.search(r"arena at 0x[0-9a-f]+, 6\d of 6\d pools free", output)


def test_debug_hooks_and_a_broken_list(program):
    output = gdb(program, commands=["run", "pymem-block small[3]"],
                 PYTHONMALLOC="debug").stdout
    assert "debug hooks: API 'o', 40 bytes asked for" in output
    output = gdb(program, commands=[
        "run", "set var *(long *)small[50] = (long)small[50]", "pymem-pool small[0]"]
        ).stdout
    assert "broken: block 50 is in the free list twice" in output
    output = gdb(program, commands=[
        "run", "set var *(long *)small[50] = (long)small[7] + 5", "pymem-block small[0]"]
        ).stdout
    assert "in the free list is no block of the pool" in output


LARGE = """
#include <Python.h>
void *last, *before;
int main(void)
{
    for (int i = 0; i < 600000; i++) { before = last; last = PyObject_Malloc(64); }
    PyObject_Free(last);
    abort();
}
"""


def test_a_block_at_hand_is_free(tmp_path):
    (tmp_path / "large.c").write_text(LARGE)
    output = gdb(compile_with_library(tmp_path / "large.c", "-g"), commands=[
        "run", "pymem-block last", "pymem-block before"]).stdout
    assert re.search(r"^block \d+ at 0x[0-9a-f]+, 64 bytes, free;", output, re.M)
    assert re.search(r"^block \d+ at 0x[0-9a-f]+, 64 bytes, used;", output, re.M)


def test_a_real_python(python):
    output = gdb("--args", python, "-c", "import os; kept = list(range(1000)); os.abort()",
                 commands=["run", "pymem-arenas"]).stdout
    assert re.search(r"\d+ arenas of \d+ KiB, \d+ pools used", output)


def test_a_program_without_pymem():
    result = gdb("/bin/true", commands=["pymem-arenas"])
    assert "this program has no pymem" in result.stderr


# Probes

PROBED = """
#include <Python.h>
int main(void)
{
    char *p = PyMem_Malloc(40);
    p = PyMem_Realloc(p, 90);
    PyMem_Free(p);
    PyObject_Free(PyObject_Calloc(3, 7));
    PyMem_RawFree(PyMem_RawMalloc(11));
    return 0;
}
"""


@pytest.fixture(scope="module")
def probed():
    """The library of a build configured --with-dtrace: Tools/check.sh makes it."""
    library = BUILD / "extras" / ".libs" / "libpymem.so"
    if not library.exists() or "stapsdt" not in run("readelf", "-n", library).stdout:
        pytest.skip("needs build/extras configured --with-dtrace: Tools/check.sh")
    return library


def test_probes_of_each_function(probed, tmp_path):
    (tmp_path / "prog.c").write_text(PROBED)
    result = run("cc", "-g", tmp_path / "prog.c", f"-I{TOP / 'Include'}",
                 f"-I{probed.parent.parent}", probed, f"-Wl,-rpath,{probed.parent}",
                 "-o", tmp_path / "prog")
    assert result.returncode == 0, result.stderr
    script = "break main\nrun\n"
    for name, n in (("alloc", 3), ("realloc", 4), ("free", 2), ("arena__new", 2)):
        arguments = ", ".join(f"(long)$_probe_arg{i}" for i in range(n))
        script += (f'break -probe-stap pymem:{name}\ncommands\nsilent\n'
                   f'printf "{name}{" %ld" * n}\\n", {arguments}\ncontinue\nend\n')
    (tmp_path / "script").write_text(script + "continue\n")
    output = gdb(tmp_path / "prog", commands=[f"source {tmp_path / 'script'}"]).stdout
    events = re.findall(r"^(alloc|realloc|free|arena__new) (\d.*)$", output, re.M)
    events = [(name, *map(int, numbers.split())) for name, numbers in events]
    [malloc] = [event for event in events if event[:3] == ("alloc", 1, 40)]
    [realloc] = [event for event in events if event[:2] == ("realloc", 1)]
    assert realloc[2:4] == (malloc[3], 90)
    assert ("free", 1, realloc[4]) in events
    [calloc] = [event for event in events if event[:3] == ("alloc", 2, 21)]
    assert ("free", 2, calloc[3]) in events
    [raw] = [event for event in events if event[:3] == ("alloc", 0, 11)]
    assert ("free", 0, raw[3]) in events
    assert [event[2] for event in events if event[0] == "arena__new"] == [1 << 20]


def test_a_build_without_probes_has_none():
    assert "stapsdt" not in run("readelf", "-n", BUILD / ".libs" / "libpymem.so").stdout
