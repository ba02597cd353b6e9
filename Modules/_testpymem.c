/* Drives the memory API: see _testpymem.h. */

#include "_testpymem.h"

#include <Python.h>

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#ifdef PYPY_VERSION
/* PyPy has the three families and the tracer's functions, and nothing else. */
typedef int PyMemAllocatorName;
typedef int PyMemAllocatorDomain;
typedef struct {
    void *ctx;
    void *(*malloc)(void *ctx, size_t size);
    void *(*calloc)(void *ctx, size_t nelem, size_t elsize);
    void *(*realloc)(void *ctx, void *ptr, size_t new_size);
    void (*free)(void *ctx, void *ptr);
} PyMemAllocatorEx;
typedef struct {
    void *ctx;
    void *(*alloc)(void *ctx, size_t size);
    void (*free)(void *ctx, void *ptr, size_t size);
} PyObjectArenaAllocator;
PyAPI_FUNC(void) PyMem_GetAllocator(PyMemAllocatorDomain, PyMemAllocatorEx *);
PyAPI_FUNC(void) PyMem_SetAllocator(PyMemAllocatorDomain, PyMemAllocatorEx *);
PyAPI_FUNC(void) PyMem_SetupDebugHooks(void);
PyAPI_FUNC(void) PyObject_SetArenaAllocator(PyObjectArenaAllocator *);
#endif

/* Private functions that CPython declares in internal headers. */
PyAPI_FUNC(int) _PyMem_GetAllocatorName(const char *name,
                                        PyMemAllocatorName *allocator);
PyAPI_FUNC(int) _PyMem_SetupAllocators(PyMemAllocatorName allocator);
PyAPI_FUNC(int) _PyObject_DebugMallocStats(FILE *out);
PyAPI_FUNC(Py_ssize_t) _Py_GetGlobalAllocatedBlocks(void);  /* 3.12 */
PyAPI_FUNC(Py_ssize_t) _Py_GetAllocatedBlocks(void);        /* before */
PyAPI_FUNC(const char *) _PyMem_GetCurrentAllocatorName(void);
PyAPI_FUNC(int) PyTraceMalloc_Track(unsigned int domain, uintptr_t ptr,
                                    size_t size);
PyAPI_FUNC(int) PyTraceMalloc_Untrack(unsigned int domain, uintptr_t ptr);

/* What an implementation may lack.  A test that asks for it hears its name. */
#define OPTIONAL(function) \
    extern __typeof__(function) function __attribute__((weak))
OPTIONAL(PyMem_GetAllocator);
OPTIONAL(PyMem_SetAllocator);
OPTIONAL(PyMem_SetupDebugHooks);
OPTIONAL(PyObject_SetArenaAllocator);
OPTIONAL(_PyMem_GetAllocatorName);
OPTIONAL(_PyMem_SetupAllocators);
OPTIONAL(_PyObject_DebugMallocStats);
OPTIONAL(_Py_GetGlobalAllocatedBlocks);
OPTIONAL(_Py_GetAllocatedBlocks);
OPTIONAL(_PyMem_GetCurrentAllocatorName);
OPTIONAL(PyTraceMalloc_Track);
OPTIONAL(PyTraceMalloc_Untrack);

const char *testpymem_missing;

static int
lacks(const void *function, const char *name)
{
    if (function == NULL) {
        testpymem_missing = name;
    }
    return function == NULL;
}
#define LACKS(function) lacks((const void *)(function), #function)

static const struct {
    void *(*malloc)(size_t size);
    void *(*calloc)(size_t nelem, size_t elsize);
    void *(*realloc)(void *ptr, size_t new_size);
    void (*free)(void *ptr);
} families[] = {
    {PyMem_RawMalloc, PyMem_RawCalloc, PyMem_RawRealloc, PyMem_RawFree},
    {PyMem_Malloc, PyMem_Calloc, PyMem_Realloc, PyMem_Free},
    {PyObject_Malloc, PyObject_Calloc, PyObject_Realloc, PyObject_Free},
};

/* Hooks record only inside a call of this driver. */
static _Thread_local int driving;

void *
testpymem_malloc(int domain, size_t size)
{
    driving = 1;
    void *result = families[domain].malloc(size);
    driving = 0;
    return result;
}

void *
testpymem_calloc(int domain, size_t nelem, size_t elsize)
{
    driving = 1;
    void *result = families[domain].calloc(nelem, elsize);
    driving = 0;
    return result;
}

void *
testpymem_realloc(int domain, void *ptr, size_t new_size)
{
    driving = 1;
    void *result = families[domain].realloc(ptr, new_size);
    driving = 0;
    return result;
}

void
testpymem_free(int domain, void *ptr)
{
    driving = 1;
    families[domain].free(ptr);
    driving = 0;
}

/* Hooks. */

struct countdown {
    long ncalls;
    long fail_at;
    int fail_on;
};

static int
countdown_fails(struct countdown *countdown)
{
    long n = ++countdown->ncalls;
    return countdown->fail_at > 0
        && (n == countdown->fail_at
            || (countdown->fail_on && n > countdown->fail_at));
}

static struct hook {
    int domain;
    int installed;
    PyMemAllocatorEx wrapped;
    struct countdown countdown;
} hooks[3];

static struct testpymem_call calls[65536];
static size_t ncalls;

/* Write a call down; its place for the result, or NULL if it is to fail. */
static struct testpymem_call *
hook_record(struct hook *hook, char what, void *ptr, size_t size)
{
    static struct testpymem_call dropped;
    size_t room = sizeof(calls) / sizeof(calls[0]);
    struct testpymem_call *call = ncalls < room ? &calls[ncalls++] : &dropped;
    *call = (struct testpymem_call){hook->domain, what, (uintptr_t)ptr, size, 0};
    return countdown_fails(&hook->countdown) && what != 'f' ? NULL : call;
}

static void *
hook_malloc(void *ctx, size_t size)
{
    struct hook *hook = ctx;
    struct testpymem_call *call = NULL;
    if (driving && (call = hook_record(hook, 'm', NULL, size)) == NULL) {
        return NULL;
    }
    void *result = hook->wrapped.malloc(hook->wrapped.ctx, size);
    if (call != NULL) {
        call->result = (uintptr_t)result;
    }
    return result;
}

static void *
hook_calloc(void *ctx, size_t nelem, size_t elsize)
{
    struct hook *hook = ctx;
    struct testpymem_call *call = NULL;
    if (driving
        && (call = hook_record(hook, 'c', NULL, nelem * elsize)) == NULL) {
        return NULL;
    }
    void *result = hook->wrapped.calloc(hook->wrapped.ctx, nelem, elsize);
    if (call != NULL) {
        call->result = (uintptr_t)result;
    }
    return result;
}

static void *
hook_realloc(void *ctx, void *ptr, size_t new_size)
{
    struct hook *hook = ctx;
    struct testpymem_call *call = NULL;
    if (driving && (call = hook_record(hook, 'r', ptr, new_size)) == NULL) {
        return NULL;
    }
    void *result = hook->wrapped.realloc(hook->wrapped.ctx, ptr, new_size);
    if (call != NULL) {
        call->result = (uintptr_t)result;
    }
    return result;
}

static void
hook_free(void *ctx, void *ptr)
{
    struct hook *hook = ctx;
    if (driving) {
        hook_record(hook, 'f', ptr, 0);
    }
    hook->wrapped.free(hook->wrapped.ctx, ptr);
}

void
testpymem_hook(int domain, long fail_at, int fail_on)
{
    if (LACKS(PyMem_GetAllocator) || LACKS(PyMem_SetAllocator)) {
        return;
    }
    struct hook *hook = &hooks[domain];
    hook->domain = domain;
    hook->countdown = (struct countdown){0, fail_at, fail_on};
    if (!hook->installed) {
        PyMem_GetAllocator((PyMemAllocatorDomain)domain, &hook->wrapped);
        PyMemAllocatorEx alloc = {hook, hook_malloc, hook_calloc, hook_realloc,
                                  hook_free};
        PyMem_SetAllocator((PyMemAllocatorDomain)domain, &alloc);
        hook->installed = 1;
    }
}

void
testpymem_unhook(int domain)
{
    if (hooks[domain].installed) {
        PyMem_SetAllocator((PyMemAllocatorDomain)domain,
                           &hooks[domain].wrapped);
        hooks[domain].installed = 0;
    }
}

size_t
testpymem_take_calls(struct testpymem_call *taken, size_t room)
{
    size_t n = ncalls < room ? ncalls : room;
    memcpy(taken, calls, n * sizeof(calls[0]));
    ncalls = 0;
    return n;
}

/* Arenas. */

#define MIB ((size_t)1 << 20)

static struct arena_hook {
    size_t offset;
    struct countdown countdown;
    struct testpymem_arenas counts;
    char *given[1024];      /* base of each arena that is out; NULL: none */
} arena_hook;

static void *
arena_hook_alloc(void *ctx, size_t size)
{
    struct arena_hook *hook = ctx;
    hook->counts.nalloc++;
    hook->counts.wrong_size += size != MIB;
    if (countdown_fails(&hook->countdown)) {
        return NULL;
    }
    for (size_t i = 0; i < sizeof(hook->given) / sizeof(hook->given[0]); i++) {
        if (hook->given[i] == NULL) {
            hook->given[i] = aligned_alloc(MIB, size + MIB);
            return hook->given[i] != NULL ? hook->given[i] + hook->offset : NULL;
        }
    }
    return NULL;
}

static void
arena_hook_free(void *ctx, void *ptr, size_t size)
{
    struct arena_hook *hook = ctx;
    hook->counts.nfree++;
    hook->counts.wrong_size += size != MIB;
    /* Arenas from before the hook are not from aligned_alloc(): they stay. */
    char *base = (char *)ptr - hook->offset;
    for (size_t i = 0; i < sizeof(hook->given) / sizeof(hook->given[0]); i++) {
        if (hook->given[i] == base) {
            hook->given[i] = NULL;
            free(base);
        }
    }
}

void
testpymem_arena_hook(size_t offset, long fail_at, int fail_on)
{
    if (LACKS(PyObject_SetArenaAllocator)) {
        return;
    }
    arena_hook.offset = offset;
    arena_hook.countdown = (struct countdown){0, fail_at, fail_on};
    PyObjectArenaAllocator alloc = {&arena_hook, arena_hook_alloc,
                                    arena_hook_free};
    PyObject_SetArenaAllocator(&alloc);
}

struct testpymem_arenas
testpymem_arenas(void)
{
    return arena_hook.counts;
}

/* The rest. */

void
testpymem_get_allocator(int domain, uintptr_t fields[5])
{
    if (LACKS(PyMem_GetAllocator)) {
        return;
    }
    PyMemAllocatorEx alloc;
    PyMem_GetAllocator((PyMemAllocatorDomain)domain, &alloc);
    fields[0] = (uintptr_t)alloc.ctx;
    fields[1] = (uintptr_t)alloc.malloc;
    fields[2] = (uintptr_t)alloc.calloc;
    fields[3] = (uintptr_t)alloc.realloc;
    fields[4] = (uintptr_t)alloc.free;
}

void
testpymem_setup_debug_hooks(void)
{
    if (LACKS(PyMem_SetupDebugHooks)) {
        return;
    }
    PyMem_SetupDebugHooks();
}

int
testpymem_setup_allocators(const char *name)
{
    if (LACKS(_PyMem_GetAllocatorName) || LACKS(_PyMem_SetupAllocators)) {
        return -1;
    }
    PyMemAllocatorName value;
    if (_PyMem_GetAllocatorName(name, &value) < 0) {
        return -1;
    }
    return _PyMem_SetupAllocators(value);
}

const char *
testpymem_current_name(void)
{
    if (LACKS(_PyMem_GetCurrentAllocatorName)) {
        return NULL;
    }
    return _PyMem_GetCurrentAllocatorName();
}

ptrdiff_t
testpymem_allocated_blocks(void)
{
    if (_Py_GetAllocatedBlocks != NULL) {
        return _Py_GetAllocatedBlocks();
    }
    return LACKS(_Py_GetGlobalAllocatedBlocks) ? -1
        : _Py_GetGlobalAllocatedBlocks();
}

int
testpymem_malloc_stats(const char *path)
{
    if (LACKS(_PyObject_DebugMallocStats)) {
        return -1;
    }
    FILE *out = fopen(path, "a");
    if (out == NULL) {
        return -1;
    }
    int result = _PyObject_DebugMallocStats(out);
    fclose(out);
    return result;
}

int
testpymem_track(unsigned domain, uintptr_t ptr, size_t size)
{
    if (LACKS(PyTraceMalloc_Track)) {
        return -1;
    }
    return PyTraceMalloc_Track(domain, ptr, size);
}

int
testpymem_untrack(unsigned domain, uintptr_t ptr)
{
    if (LACKS(PyTraceMalloc_Untrack)) {
        return -1;
    }
    return PyTraceMalloc_Untrack(domain, ptr);
}

static void *
call_in_thread(void *domain)
{
    families[*(int *)domain].malloc(1);
    return NULL;
}

void
testpymem_malloc_without_gil(int domain)
{
    /* The lock counts as taken from here on in a host without interpreter. */
    PyGILState_STATE state = PyGILState_Ensure();
    pthread_t thread;
    if (pthread_create(&thread, NULL, call_in_thread, &domain) == 0) {
        pthread_join(thread, NULL);
    }
    PyGILState_Release(state);
}
