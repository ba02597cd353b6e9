"""Blocks that outlive the interpreter, and requests that come when it has ended: by
destructors of threads, atexit, and the program's own destructors.
"""

import pytest

from conftest import BUILD, clean_environment, embed_flags, run

pytestmark = pytest.mark.few_pythons

PROGRAM = r"""
#include <Python.h>
#include <pthread.h>

typedef void *blocks[3][2];
static void *(*const mallocs[])(size_t) = {PyMem_RawMalloc, PyMem_Malloc, PyObject_Malloc};
static void *(*const reallocs[])(void *, size_t) = {
    PyMem_RawRealloc, PyMem_Realloc, PyObject_Realloc
};
static void (*const frees[])(void *) = {PyMem_RawFree, PyMem_Free, PyObject_Free};

static void
allocate(blocks all)
{
    for (int i = 0; i < 3; i++) {
        all[i][0] = mallocs[i](100);
        all[i][1] = mallocs[i](3000);
    }
}

static void
give_back(blocks all)
{
    for (int i = 0; i < 3; i++) {
        for (int k = 0; k < 2; k++) {
            frees[i](reallocs[i](all[i][k], 400));
            frees[i](mallocs[i](50 + 2000 * (size_t)k));
        }
    }
}

static void
allocate_and_give_back(void)
{
    blocks all;
    allocate(all);
    give_back(all);
}

#define RUN_PYTHON PyRun_SimpleString("kept = [bytearray(i) for i in range(3000)]")

/* In each round of destructors that there is. */
static pthread_key_t key;

static void
end_thread(void *value)
{
    PyGILState_STATE state = PyGILState_Ensure();
    allocate_and_give_back();
    RUN_PYTHON;
    PyGILState_Release(state);
    pthread_setspecific(key, value);
}

static void *
run_thread(void *value)
{
    PyGILState_STATE state = PyGILState_Ensure();
    RUN_PYTHON;
    PyGILState_Release(state);
    pthread_setspecific(key, value);
    return NULL;
}

static blocks kept;

static void
at_exit(void)
{
    FILE *null = fopen("/dev/null", "w");
    give_back(kept);
    allocate_and_give_back();
    _PyObject_DebugMallocStats(null);
    fclose(null);
    puts("at exit");
}

__attribute__((destructor)) static void
destroy(void)
{
    allocate_and_give_back();
    puts("destroyed");
    fflush(stdout);
}

int
main(void)
{
    atexit(at_exit);
    Py_Initialize();
    pthread_key_create(&key, end_thread);
    allocate(kept);
    PyThreadState *state = PyEval_SaveThread();
    for (int i = 0; i < 5; i++) {
        pthread_t thread;
        pthread_create(&thread, NULL, run_thread, &key);
        pthread_join(thread, NULL);
    }
    PyEval_RestoreThread(state);
    PyRun_SimpleString("import atexit, weakref\n"
                       "def work(): return [bytearray(i) for i in range(3000)]\n"
                       "class Named: pass\n"
                       "class Last:\n"
                       "    def __del__(self, work=work): work()\n"
                       "named, last = Named(), Last()\n"
                       "weakref.finalize(named, work)\n"
                       "atexit.register(work)\n");
    return Py_FinalizeEx();
}
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ends")
    (folder / "ends.c").write_text(PROGRAM)
    flags = embed_flags()
    result = run("cc", folder / "ends.c", "-o", folder / "ends", *flags)
    if result.returncode != 0:
        pytest.skip("no libpython to embed here: " + result.stderr[:200])
    return folder / "ends"


@pytest.mark.parametrize("variables", [{}, {"PYTHONTRACEMALLOC": "3"}])
@pytest.mark.parametrize("options", [
    [], ["--debug"], ["--raw"], ["--raw", "--debug"], ["--trim-interval=0.001"],
    ["--mmap-only"], ["--medium=malloc"], ["--keep=0"]], ids=" ".join)
def test_under_pymem_run(program, options, variables):
    result = run(BUILD / "pymem-run", *options, program,
                 environment=clean_environment(**variables))
    assert (result.returncode, result.stdout, result.stderr) == (
        0, "at exit\ndestroyed\n", "")


@pytest.mark.parametrize("variables", [
    {}, {"PYTHONTRACEMALLOC": "3"}, {"PYTHONMALLOC": "debug"}, {"PYTHONMALLOC": "malloc"},
    {"PYTHONMALLOC": "debug", "PYTHONTRACEMALLOC": "3"}])
def test_with_the_linked_library(program, products, variables):
    result = run(program, environment=clean_environment(
        LD_LIBRARY_PATH=str(products), **variables))
    assert (result.returncode, result.stdout, result.stderr) == (
        0, "at exit\ndestroyed\n", "")
