"""A program without an interpreter, told by environment variables what to do."""

import re
import shutil

import pytest

from conftest import BUILD, LETTERS, SIZE_CLASSES, TOP, clean_environment, run


@pytest.fixture(scope="module")
def faults():
    """A program with one fault: Lib/test/check/faults.c."""
    result = run("make", "-s", "-C", BUILD, "faults")
    assert result.returncode == 0, result.stderr
    return BUILD / "faults"


@pytest.fixture(scope="module")
def no_mimalloc(tmp_path_factory):
    """To be loaded before a program: mimalloc's library is not found, or is
    another one."""
    folder = tmp_path_factory.mktemp("shim")
    (folder / "shim.c").write_text("""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
static int failed;
void *dlopen(const char *name, int flags)
{
    void *(*next)(const char *, int) = dlsym(RTLD_NEXT, "dlopen");
    if (name != NULL && strstr(name, "mimalloc") != NULL) {
        failed = getenv("LACKS_FUNCTIONS") == NULL;
        return failed ? NULL : next("libm.so.6", RTLD_NOW);
    }
    return next(name, flags);
}
char *dlerror(void) { return failed ? "no such file" : NULL; }
""")
    path = folder / "shim.so"
    result = run("cc", "-shared", "-fPIC", folder / "shim.c", "-o", path, "-ldl")
    assert result.returncode == 0, result.stderr
    return path


def run_fault(faults, fault, domain=2, size=37, **variables):
    return run(faults, fault, str(domain), str(size),
               environment=clean_environment(**variables))


@pytest.mark.parametrize("domain", [0, 1, 2])
@pytest.mark.parametrize("fault, text", [
    ("overrun", "bad trailing pad byte"), ("underrun", "bad leading pad byte"),
    ("after-free", "block was written to after free"), ("twice", "bad ID")])
def test_debug_hooks_find_each_fault(faults, fault, text, domain):
    result = run_fault(faults, fault, domain, PYTHONMALLOC="debug")
    assert result.returncode == -6
    assert text in result.stderr
    if fault != "twice":
        assert f"API '{LETTERS[domain]}'" in result.stderr


def test_without_a_fault_nothing_is_said(faults):
    for name in ("debug", "malloc", "pymalloc", "malloc_debug"):
        result = run_fault(faults, "none", PYTHONMALLOC=name)
        assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_where_a_block_was_allocated(faults):
    result = run_fault(faults, "overrun", PYTHONMALLOC="debug",
                       PYTHONTRACEMALLOC="5")
    text = result.stderr.split("Memory block allocated at ")[1]
    assert text.startswith("(most recent call first):\n")
    lines = text.splitlines()[1:]
    assert re.match(rf'  File "{re.escape(str(faults))}", at offset 0x[0-9a-f]+$',
                    lines[0])
    assert any("__libc_start_main" in line or "libc.so" in line
               for line in lines[:5]), lines


@pytest.mark.parametrize("value", ["no", "-1", "65536", "1x", "9" * 30])
def test_a_bad_number_of_frames_is_named(faults, value):
    result = run_fault(faults, "none", PYTHONTRACEMALLOC=value)
    assert result.returncode == -6
    assert result.stderr == (
        "Fatal Python error: _PyTraceMalloc_StartFromEnvironment: "
        f'PYTHONTRACEMALLOC: "{value}" is no number of frames; '
        "1 to 65535, or 0 for no tracing\n")


@pytest.mark.parametrize("value", ["", "0"])
def test_no_tracing(faults, value):
    result = run_fault(faults, "overrun", PYTHONMALLOC="debug",
                       PYTHONTRACEMALLOC=value)
    assert "Enable tracemalloc to get" in result.stderr


def test_an_unknown_allocator_is_named(faults):
    result = run_fault(faults, "none", PYTHONMALLOC="jemalloc")
    assert result.returncode == -6
    assert 'unknown allocator "jemalloc"; this build knows ' in result.stderr
    assert "pymalloc_debug" in result.stderr


@pytest.mark.parametrize("why, text", [
    ({}, "pymem: mimalloc can't be used: no such file"),
    ({"LACKS_FUNCTIONS": "1"}, "lacks mi_malloc, mi_calloc, mi_realloc or mi_free")])
def test_mimalloc_that_is_not_there(faults, no_mimalloc, why, text):
    if "#define WITH_MIMALLOC" not in (BUILD / "pyconfig.h").read_text():
        pytest.skip("this build has no mimalloc")
    result = run_fault(faults, "none", PYTHONMALLOC="mimalloc",
                       LD_PRELOAD=str(no_mimalloc), **why)
    assert result.returncode == -6
    assert text in result.stderr
    assert ('PYTHONMALLOC: the allocator "mimalloc" can\'t be used on this '
            "machine\n") in result.stderr


def test_statistics_at_the_end(faults):
    result = run_fault(faults, "none", PYTHONMALLOCSTATS="1")
    assert result.stderr.startswith(f"Small block threshold = 512, in {SIZE_CLASSES} size")


BOX = r"""
#include "Python.h"
#include "pymem.h"
#include <cstdio>
#include <cstring>
#include <vector>
struct Box {
    std::vector<void *> blocks;
    Box()
    {
        for (int i = 0; i < 5; i++) {
            blocks.push_back(PyMem_Malloc(40 + i * 300));
            blocks.push_back(PyObject_Calloc(1, 40));
            blocks.push_back(PyMem_RawRealloc(nullptr, 50));
        }
        PyMem_Free(nullptr);
    }
    ~Box()
    {
        for (size_t i = 0; i < blocks.size(); i += 3) {
            PyMem_Free(blocks[i]);
            PyObject_Free(blocks[i + 1]);
            PyMem_RawFree(blocks[i + 2]);
        }
        std::puts("freed");
    }
};
PRIORITY Box box;
#ifndef LIBRARY
int main()
{
    box.blocks[0] = PyMem_Realloc(box.blocks[0], 900);
    PyMem_Free(PyMem_Malloc(30));
    PyMemAllocatorEx alloc;
    PyMem_GetAllocator(PYMEM_DOMAIN_MEM, &alloc);
    void *block = alloc.malloc(alloc.ctx, 3);
    PyMem_Free(block);
    std::puts("main");
}
#endif
"""

PRIORITIES = ["", "__attribute__((init_priority(101)))",
              "__attribute__((init_priority(65535)))"]
SETTINGS = [{"PYTHONMALLOC": name} for name in
            ("default", "debug", "malloc", "malloc_debug", "pymalloc_debug")] + [
    {"PYTHONTRACEMALLOC": "5", "PYTHONMALLOC": "debug"}, {"PYTHONMALLOCSTATS": "1"}]


@pytest.mark.parametrize("library", ["libpymem.a", "libpymem.so"])
@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("priority", PRIORITIES)
def test_constructors_before_main_in_any_order(tmp_path, priority, is_first, library):
    """Blocks of a global object are the allocator's that frees them."""
    if shutil.which("g++") is None:
        pytest.skip("g++ is not here")
    (tmp_path / "box.cc").write_text(BOX.replace("PRIORITY", priority))
    (tmp_path / "empty.cc").write_text("")
    path = BUILD / ".libs" / library
    files = (["-Wl,--no-as-needed", path, "box.cc"]
             if is_first and library == "libpymem.so" else ["box.cc", path])
    if is_first and library == "libpymem.a":
        files = ["-Wl,--whole-archive", path, "-Wl,--no-whole-archive", "box.cc"]
    result = run("g++", f"-I{TOP / 'Include'}", f"-I{BUILD}", *files, "-lm", "-ldl",
                 "-lpthread", f"-Wl,-rpath,{BUILD / '.libs'}", "-o", "box", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    for setting in SETTINGS:
        result = run(tmp_path / "box", environment=clean_environment(**setting))
        assert (result.returncode, result.stdout) == (0, "main\nfreed\n"), (
            setting, result.stderr)


HOOK_IN_CONSTRUCTOR = r"""
#include "Python.h"
#include "pymem.h"
#include <stdio.h>
const char *_PyMem_GetCurrentAllocatorName(void);
static PyMemAllocatorEx found;
static int ncalls;
static void *counted_malloc(void *ctx, size_t size)
{
    ncalls++;
    return found.malloc(found.ctx, size);
}
__attribute__((constructor(101))) static void begin(void)
{
    printf("%s ", _PyMem_GetCurrentAllocatorName());
    PyMem_GetAllocator(PYMEM_DOMAIN_MEM, &found);
    PyMemAllocatorEx hook = found;
    hook.malloc = counted_malloc;
    PyMem_SetAllocator(PYMEM_DOMAIN_MEM, &hook);
}
int main(void)
{
    PyMem_Free(PyMem_Malloc(30));
    printf("%d\n", ncalls);
    return 0;
}
"""


@pytest.mark.parametrize("name", ["pymalloc", "malloc", "malloc_debug"])
def test_a_hook_that_a_constructor_sets_stays(tmp_path, name):
    (tmp_path / "hook.c").write_text(HOOK_IN_CONSTRUCTOR)
    result = run("cc", f"-I{TOP / 'Include'}", f"-I{BUILD}", "hook.c",
                 BUILD / ".libs" / "libpymem.a", "-lm", "-ldl", "-lpthread", "-o", "hook",
                 cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert run(tmp_path / "hook", environment=clean_environment(PYTHONMALLOC=name)
               ).stdout == f"{name} 1\n"
