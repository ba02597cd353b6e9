/* The host of a program that has no interpreter: what pycore_host.h asks for,
 * and what CPython does at start and end of a process.
 *
 * Not part of a substitute: there the host is CPython.
 *
 * The GIL is one lock.  It comes to life with the first PyGILState_Ensure():
 * before that every thread counts as holding it.  The child of a fork has a GIL as
 * new: its only thread holds it if it did before. */

#include "Python.h"
#include "pycore_compiler.h"
#include "pycore_deadblocks.h"
#include "pycore_host.h"
#include "pycore_pymem.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <string.h>

/* The GIL. */

static pthread_mutex_t gil = PTHREAD_MUTEX_INITIALIZER;
static atomic_int gil_was_used;
static _Thread_local int gil_depth;     /* Ensures of this thread not released */

static void
gil_after_fork_in_child(void)
{
    gil = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
    if (gil_depth > 0) {
        pthread_mutex_lock(&gil);
    }
}

static void
make_gil_safe_at_fork(void)
{
    pthread_atfork(NULL, NULL, gil_after_fork_in_child);
}

PyGILState_STATE
PyGILState_Ensure(void)
{
    static pthread_once_t is_safe = PTHREAD_ONCE_INIT;
    if (gil_depth++ > 0) {
        return PyGILState_LOCKED;
    }
    pthread_once(&is_safe, make_gil_safe_at_fork);
    atomic_store(&gil_was_used, 1);
    pthread_mutex_lock(&gil);
    return PyGILState_UNLOCKED;
}

void
PyGILState_Release(PyGILState_STATE state)
{
    if (gil_depth == 0) {
        Py_FatalError("this thread does not hold the GIL");
    }
    if ((gil_depth == 1) != (state == PyGILState_UNLOCKED)) {
        Py_FatalError("the state is not that of the matching "
                      "PyGILState_Ensure()");
    }
    if (--gil_depth == 0) {
        pthread_mutex_unlock(&gil);
    }
}

int
PyGILState_Check(void)
{
    return gil_depth > 0 || !atomic_load(&gil_was_used);
}

int
_PyMem_HoldsGIL(void)
{
    return PyGILState_Check();
}

/* The environment. */

char *
Py_GETENV(const char *name)
{
    return getenv(name);
}

/* Errors. */

static COLD void _Py_NO_RETURN
fatal_error(const char *func, const char *format, va_list args)
{
    fflush(stdout);
    fprintf(stderr, "Fatal Python error: %s: ", func);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    fflush(stderr);
    abort();
}

void
_Py_FatalErrorFormat(const char *func, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fatal_error(func, format, args);
}

void
_Py_FatalErrorFunc(const char *func, const char *message)
{
    _Py_FatalErrorFormat(func, "%s", message);
}

/* Start and end of the process. */

static void
print_statistics(void)
{
    _PyObject_DebugMallocStats(stderr);
}

#ifdef Py_STATS
static void
print_object_statistics(void)
{
    _PyMem_PrintObjectStats(stderr);
}
#endif

static int
variable_is_set(const char *name)
{
    const char *value = Py_GETENV(name);
    return value != NULL && *value != '\0';
}

void _PyTraceMalloc_StartFromEnvironment(void);     /* nativeframes.c */

/* PYTHONMALLOC decides where blocks come from. */
static void
setup_from_environment(void)
{
    const char *value = Py_GETENV("PYTHONMALLOC");
    PyMemAllocatorName name = PYMEM_ALLOCATOR_NOT_SET;
    if (value != NULL && *value != '\0'
        && _PyMem_GetAllocatorName(value, &name) < 0)
    {
        _Py_FatalErrorFormat(__func__, "PYTHONMALLOC: unknown allocator "
                             "\"%s\"; this build knows %s",
                             value, _PyMem_AllocatorNames);
    }
    if (_PyMem_SetupAllocators(name) < 0) {
        _Py_FatalErrorFormat(__func__, "PYTHONMALLOC: the allocator \"%s\" "
                             "can't be used on this machine", value);
    }
    _PyTraceMalloc_StartFromEnvironment();
    atexit(dead_blocks_check_all);
    if (variable_is_set("PYTHONMALLOCSTATS")) {
        atexit(print_statistics);
    }
#ifdef Py_STATS
    if (variable_is_set("PYTHONSTATS")) {
        atexit(print_object_statistics);
    }
#endif
}

/* All this before main(), and before any block exists.  The constructor of a global
 * object may run before ours and allocate: so until then the domains are served by
 * functions that look into the environment first. */

static const PyMemAllocatorEx *
allocator_after_setup(void *ctx)
{
    _PyMem_BeforeFirstUse();
    return &_PyMem_Allocators[(uintptr_t)ctx];
}

static void *
first_malloc(void *ctx, size_t size)
{
    const PyMemAllocatorEx *alloc = allocator_after_setup(ctx);
    return alloc->malloc(alloc->ctx, size);
}

static void *
first_calloc(void *ctx, size_t nelem, size_t elsize)
{
    const PyMemAllocatorEx *alloc = allocator_after_setup(ctx);
    return alloc->calloc(alloc->ctx, nelem, elsize);
}

static void *
first_realloc(void *ctx, void *ptr, size_t size)
{
    const PyMemAllocatorEx *alloc = allocator_after_setup(ctx);
    return alloc->realloc(alloc->ctx, ptr, size);
}

static void
first_free(void *ctx, void *ptr)
{
    const PyMemAllocatorEx *alloc = allocator_after_setup(ctx);
    alloc->free(alloc->ctx, ptr);
}

#define FIRST_ALLOC(domain) [domain] = {(void *)(domain), first_malloc, first_calloc, \
                                        first_realloc, first_free}
PyMemAllocatorEx _PyMem_Allocators[NB_DOMAINS] = {
    FIRST_ALLOC(PYMEM_DOMAIN_RAW), FIRST_ALLOC(PYMEM_DOMAIN_MEM),
    FIRST_ALLOC(PYMEM_DOMAIN_OBJ),
};
struct short_way short_ways[NB_DOMAINS] = NO_SHORT_WAYS;    /* none passes these by */
atomic_uintptr_t no_medium_below = 0;

__attribute__((constructor)) static void
before_main(void)
{
    _PyMem_BeforeFirstUse();
}

void
_PyMem_BeforeFirstUse(void)
{
    static const PyMemAllocatorEx born[NB_DOMAINS] = BORN_ALLOCS;
    static int is_done;
    if (!is_done) {
        is_done = 1;
        memcpy(_PyMem_Allocators, born, sizeof(born));
        _PyMem_ChooseShortWays();
        setup_from_environment();
    }
}
