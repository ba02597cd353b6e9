/* Hooks for a while: to count requests, and to keep the C stack of each block.
 *
 *   PyObject_Malloc() --> hook_malloc() --> the allocator that was there
 *
 * Needs no header of CPython: what it uses is the same from 3.8 to 3.13. */

#define _GNU_SOURCE
#include "_pymem.h"
#include "Python.h"                     /* ours, for the names */
#include "pycore_tracetables.h"

#include <dlfcn.h>
#include <link.h>
#include <string.h>
#include <unwind.h>

static PyMemAllocatorEx wrapped[PYMEM_DOMAIN_OBJ + 1];
static int is_on, is_recording;
static struct hook_counts counted;
static struct pointer_map blocks;
static struct intern_table stacks = {.item_size = NATIVE_FRAMES * sizeof(uintptr_t)};

/* What is kept of a block. */

static void
block_forget(const void *ptr)
{
    struct map_entry *entry = map_find(&blocks, (uintptr_t)ptr, 0);
    if (entry != NULL) {
        map_remove(&blocks, entry);
    }
}

/* A stack ends with the function that runs Python code: the ones further out are told
 * by the Python stack, and it takes a microsecond to find each. */

static uintptr_t evaluation, evaluation_end;

static void
find_evaluation(void)
{
    Dl_info info;
    const ElfW(Sym) *symbol;
    void *function = dlsym(RTLD_DEFAULT, "_PyEval_EvalFrameDefault");
    if (function != NULL
        && dladdr1(function, &info, (void **)&symbol, RTLD_DL_SYMENT) != 0
        && symbol != NULL)
    {
        evaluation = (uintptr_t)function;
        evaluation_end = evaluation + symbol->st_size;
    }
}

struct unwinding {
    uintptr_t *frames;
    int n;
};

static _Unwind_Reason_Code
add_frame(struct _Unwind_Context *context, void *arg)
{
    struct unwinding *unwinding = arg;
    uintptr_t address = _Unwind_GetIP(context);
    unwinding->frames[unwinding->n++] = address;
    return unwinding->n == NATIVE_FRAMES
        || (address > evaluation && address <= evaluation_end) ? _URC_END_OF_STACK
        : _URC_NO_REASON;
}

/* A block whose stack there is no memory for is left out. */
static void
block_keep(const void *ptr, size_t size)
{
    uintptr_t frames[NATIVE_FRAMES];
    struct unwinding unwinding = {frames, 0};
    memset(frames, 0, sizeof(frames));
    _Unwind_Backtrace(add_frame, &unwinding);
    uint32_t stack = intern(&stacks, frames);
    if (stack != 0 && map_reserve(&blocks) == 0) {
        struct map_entry *entry = map_add(&blocks, (uintptr_t)ptr, 0);
        entry->value = stack;
        entry->size = size;
    }
}

static void *
counted_request(void *ptr, size_t size)
{
    if (is_on && ptr != NULL) {
        counted.requests++;
        counted.bytes += size;
        if (is_recording) {
            block_keep(ptr, size);
        }
    }
    return ptr;
}

/* The allocator; its context is the one that it wraps. */

static void *
hook_malloc(void *ctx, size_t size)
{
    PyMemAllocatorEx *alloc = ctx;
    return counted_request(alloc->malloc(alloc->ctx, size), size);
}

static void *
hook_calloc(void *ctx, size_t nelem, size_t elsize)
{
    PyMemAllocatorEx *alloc = ctx;
    return counted_request(alloc->calloc(alloc->ctx, nelem, elsize), nelem * elsize);
}

static void *
hook_realloc(void *ctx, void *ptr, size_t new_size)
{
    PyMemAllocatorEx *alloc = ctx;
    void *result = alloc->realloc(alloc->ctx, ptr, new_size);
    if (is_recording && result != NULL && ptr != NULL) {
        block_forget(ptr);
    }
    return counted_request(result, new_size);
}

static void
hook_free(void *ctx, void *ptr)
{
    PyMemAllocatorEx *alloc = ctx;
    if (is_on && ptr != NULL) {
        counted.frees++;
        if (is_recording) {
            block_forget(ptr);
        }
    }
    alloc->free(alloc->ctx, ptr);
}

/* On and off. */

/* Is the hook of a domain asked?  Somebody may have set an allocator around it, or
 * have taken it off together with one below. */
static int
hook_is_asked(int domain)
{
    uint64_t before = counted.requests;
    is_on = 1;
    if (domain == PYMEM_DOMAIN_MEM) {
        PyMem_Free(PyMem_Malloc(1));
    }
    else {
        PyObject_Free(PyObject_Malloc(1));
    }
    is_on = 0;
    return counted.requests != before;
}

int
hooks_count(void)
{
    if (is_on) {
        return -1;
    }
    for (int domain = PYMEM_DOMAIN_MEM; domain <= PYMEM_DOMAIN_OBJ; domain++) {
        if (!hook_is_asked(domain)) {
            PyMem_GetAllocator(domain, &wrapped[domain]);
            PyMemAllocatorEx hook = {&wrapped[domain], hook_malloc, hook_calloc,
                                     hook_realloc, hook_free};
            PyMem_SetAllocator(domain, &hook);
        }
    }
    memset(&counted, 0, sizeof(counted));
    is_on = 1;
    return 0;
}

int
hooks_record(void)
{
    if (hooks_count() < 0) {
        return -1;
    }
    find_evaluation();
    is_recording = 1;
    return 0;
}

void
hooks_stop(struct hook_counts *counts)
{
    is_on = is_recording = 0;
    *counts = counted;
    map_clear(&blocks);
    intern_clear(&stacks);
    for (int domain = PYMEM_DOMAIN_MEM; domain <= PYMEM_DOMAIN_OBJ; domain++) {
        PyMemAllocatorEx current;
        PyMem_GetAllocator(domain, &current);
        if (current.malloc == hook_malloc) {
            PyMem_SetAllocator(domain, &wrapped[domain]);
        }
    }
}

int
hooks_visit(int (*visit)(void *arg, uintptr_t address, size_t size,
                         const uintptr_t *frames), void *arg)
{
    for (size_t i = 0; blocks.entries != NULL && i <= blocks.mask; i++) {
        const struct map_entry *entry = &blocks.entries[i];
        if (entry->key != 0) {
            int result = visit(arg, entry->key, entry->size,
                               interned(&stacks, entry->value));
            if (result != 0) {
                return result;
            }
        }
    }
    return 0;
}
