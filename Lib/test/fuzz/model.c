/* See model.h. */

#include "model.h"

#include "Python.h"
#include "pymemheap.h"
#include "pycore_arenas.h"
#include "pycore_pymem.h"
#include "pycore_tracemalloc.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NBLOCKS 8192
static struct {
    unsigned char *ptr;
    size_t size;
    unsigned char fill;
    PyMemAllocatorDomain domain;
    unsigned traced_since;      /* the value of traces_since at that time */
    int trace_may_be_lost;      /* there was no memory for it */
} live[NBLOCKS];
static unsigned traces_since = 1;       /* counts when all traces went */

static void
must(int holds, const char *what)
{
    if (!holds) {
        fprintf(stderr, "model: %s\n", what);
        abort();
    }
}

/* The API by domain. */

static void *
domain_malloc(PyMemAllocatorDomain domain, size_t size)
{
    return domain == PYMEM_DOMAIN_RAW ? PyMem_RawMalloc(size)
        : domain == PYMEM_DOMAIN_MEM ? PyMem_Malloc(size) : PyObject_Malloc(size);
}

static void *
domain_calloc(PyMemAllocatorDomain domain, size_t n, size_t size)
{
    return domain == PYMEM_DOMAIN_RAW ? PyMem_RawCalloc(n, size)
        : domain == PYMEM_DOMAIN_MEM ? PyMem_Calloc(n, size)
        : PyObject_Calloc(n, size);
}

static void *
domain_realloc(PyMemAllocatorDomain domain, void *ptr, size_t size)
{
    return domain == PYMEM_DOMAIN_RAW ? PyMem_RawRealloc(ptr, size)
        : domain == PYMEM_DOMAIN_MEM ? PyMem_Realloc(ptr, size)
        : PyObject_Realloc(ptr, size);
}

static void
domain_free(PyMemAllocatorDomain domain, void *ptr)
{
    domain == PYMEM_DOMAIN_RAW ? PyMem_RawFree(ptr)
        : domain == PYMEM_DOMAIN_MEM ? PyMem_Free(ptr) : PyObject_Free(ptr);
}

/* Hooks that count down to a failure. */

static struct {
    unsigned of;                    /* MODEL_RAW, ... */
    unsigned calls_before, left;
    unsigned nfailed;
} failing;

int
model_fails_now(unsigned what)
{
    if (failing.left == 0 || !(failing.of & what)) {
        return 0;
    }
    if (failing.calls_before > 0) {
        failing.calls_before--;
        return 0;
    }
    failing.left--;
    failing.nfailed++;
    return 1;
}

void
model_fail(unsigned of, unsigned calls_before, unsigned n)
{
    failing.of = of;
    failing.calls_before = calls_before;
    failing.left = n;
    failing.nfailed = 0;
}

unsigned
model_failures(void)
{
    return failing.nfailed;
}

/* A hook's context is the allocator below it. */
static PyMemAllocatorEx below_hook[3];

static int
hook_fails(const PyMemAllocatorEx *below)
{
    return below == &below_hook[PYMEM_DOMAIN_RAW] && model_fails_now(MODEL_RAW);
}

static void *
hook_malloc(void *ctx, size_t size)
{
    const PyMemAllocatorEx *below = ctx;
    return hook_fails(below) ? NULL : below->malloc(below->ctx, size);
}

static void *
hook_calloc(void *ctx, size_t n, size_t size)
{
    const PyMemAllocatorEx *below = ctx;
    return hook_fails(below) ? NULL : below->calloc(below->ctx, n, size);
}

static void *
hook_realloc(void *ctx, void *ptr, size_t size)
{
    const PyMemAllocatorEx *below = ctx;
    return hook_fails(below) ? NULL : below->realloc(below->ctx, ptr, size);
}

static void
hook_free(void *ctx, void *ptr)
{
    const PyMemAllocatorEx *below = ctx;
    below->free(below->ctx, ptr);
}

static int hook_is_installed[3];

static void
hook(PyMemAllocatorDomain domain)
{
    /* Not over the tracer: whoever comes last has to go first. */
    if (!hook_is_installed[domain] && !tracer_is_tracing()) {
        PyMem_GetAllocator(domain, &below_hook[domain]);
        PyMemAllocatorEx alloc = {&below_hook[domain], hook_malloc, hook_calloc,
                                  hook_realloc, hook_free};
        PyMem_SetAllocator(domain, &alloc);
        hook_is_installed[domain] = 1;
    }
}

/* Unless something came above it. */
static void
unhook(PyMemAllocatorDomain domain)
{
    PyMemAllocatorEx current;
    PyMem_GetAllocator(domain, &current);
    if (current.malloc == hook_malloc) {
        PyMem_SetAllocator(domain, &below_hook[domain]);
        hook_is_installed[domain] = 0;
    }
}

static PyObjectArenaAllocator arenas_below;
static int arenas_are_hooked;

static void *
arena_alloc(void *ctx, size_t size)
{
    (void)ctx;
    return model_fails_now(MODEL_ARENAS) ? NULL
        : arenas_below.alloc(arenas_below.ctx, size);
}

static void
arena_free(void *ctx, void *ptr, size_t size)
{
    (void)ctx;
    arenas_below.free(arenas_below.ctx, ptr, size);
}

static void
hook_arenas(void)
{
    PyObject_GetArenaAllocator(&arenas_below);
    PyObjectArenaAllocator hook = {NULL, arena_alloc, arena_free};
    PyMem_Trim();
    PyObject_SetArenaAllocator(&hook);
    arenas_are_hooked = 1;
}

/* Debug hooks. */

static int is_debugging, was_ever_debugging;

/* The debug hooks hold dead blocks of each domain.  When as many as they can
 * are held, the count of blocks stands still. */
static void
fill_up_with_dead_blocks(void)
{
    for (int i = 0; i < 64; i++) {
        PyMem_Free(PyMem_Malloc(1));
        PyObject_Free(PyObject_Malloc(1));
    }
}

static void
debug(void)
{
#ifndef Py_DEBUG    /* there they are below all others from the start */
    PyMem_SetupDebugHooks();
#endif
    fill_up_with_dead_blocks();
    is_debugging = was_ever_debugging = 1;
}

/* Steps. */

/* Small ones mostly, around every border sometimes. */
static size_t
size_from(unsigned a, unsigned b)
{
    static const unsigned borders[] = {0, 16, 512, 513, 1024, 16384, 32768,
                                       32832, 65536, 200000};
    switch (a & 3) {
    case 0:
        return borders[b % 10] + (a >> 2 & 3);
    case 1:
        return 500 + b * 130;
    default:
        return 1 + b * 2 + (a >> 7);
    }
}

static int
is_intact(size_t i)
{
    for (size_t k = 0; k < live[i].size; k++) {
        if (live[i].ptr[k] != live[i].fill) {
            return 0;
        }
    }
    return 1;
}

static void
fill(size_t i, unsigned char with)
{
    must((uintptr_t)live[i].ptr % ALIGNMENT == 0, "a block is not aligned");
    live[i].fill = with;
    live[i].traced_since = tracer_is_tracing() ? traces_since : 0;
    memset(live[i].ptr, with, live[i].size);
}

static void
release(size_t i)
{
    must(is_intact(i), "a block has changed");
    domain_free(live[i].domain, live[i].ptr);
    live[i].ptr = NULL;
}

static void
change_block(unsigned what, size_t i, size_t size)
{
    PyMemAllocatorDomain domain = (PyMemAllocatorDomain)(what % 3);
    unsigned char with = (unsigned char)(what * 31 + i + size);
    unsigned nfailed = failing.nfailed;
    if (live[i].ptr == NULL) {
        live[i].domain = domain;
        live[i].size = size;
        live[i].ptr = what & 64 ? domain_calloc(domain, 1, size)
                                : domain_malloc(domain, size);
        if (live[i].ptr != NULL) {
            live[i].fill = 0;
            must((what & 64) == 0 || is_intact(i), "calloc did not clear");
            fill(i, with);
        }
        live[i].trace_may_be_lost = failing.nfailed > nfailed;
        must(live[i].ptr != NULL || failing.nfailed > nfailed,
             "malloc or calloc returned NULL without a reason");
    }
    else if (what & 64) {
        must(is_intact(i), "a block has changed");
        void *moved = domain_realloc(live[i].domain, live[i].ptr, size);
        if (moved != NULL) {
            size_t kept = size < live[i].size ? size : live[i].size;
            live[i].ptr = moved;
            live[i].size = kept;
            must(is_intact(i), "realloc lost what was in the block");
            live[i].size = size;
            fill(i, with);
        }
        live[i].trace_may_be_lost = failing.nfailed > nfailed;
        must(moved != NULL || failing.nfailed > nfailed,
             "realloc returned NULL without a reason");
    }
    else {
        release(i);
    }
}

void
model_step(unsigned what, unsigned a, unsigned b)
{
    if (what < 240) {
        change_block(what, (a * 32u + (what >> 4 & 3) * 8u) % NBLOCKS,
                     size_from(a, b));
        return;
    }
    switch (what) {
    case 240: hook(PYMEM_DOMAIN_RAW); break;
    case 241: unhook(PYMEM_DOMAIN_RAW); break;
    case 242: _PyTraceMalloc_Start(1 + (int)a % 8); break;
    case 243: _PyTraceMalloc_Stop(); traces_since++; break;
    case 244: PyMem_Trim(); break;
    case 245: tracer_clear(); traces_since++; break;
    case 246: case 247:
        model_fail(MODEL_RAW | MODEL_ARENAS, b % 16, 1 + a % 4);
        break;
    default:                    /* many of one class: pools and arenas fill up */
        for (size_t i = 0; i < (a % 4 == 0 ? 2000 : 200); i++) {
            size_t k = (a * 32u + i) % NBLOCKS;
            if (live[k].ptr == NULL) {
                change_block(2, k, 1 + b * 2);
            }
            else {
                release(k);
            }
        }
    }
}

static int
check_arena(const struct arena_object *arena, void *arg)
{
    (void)arg;
    must(arena_is_valid(arena), "an arena is not valid");
    return 0;
}

static void
check_traces(void)
{
    size_t traced = 0, current, peak;
    for (size_t i = 0; i < NBLOCKS; i++) {
        struct trace trace;
        if (live[i].ptr != NULL) {
            int is_traced = tracer_find(0, (uintptr_t)live[i].ptr, &trace);
            must(is_traced == (live[i].traced_since == traces_since)
                 || (live[i].trace_may_be_lost && !is_traced),
                 "a block has a trace that it should not have, or has none");
            if (is_traced) {
                must(trace.size == live[i].size, "a trace has another size");
                traced += trace.size;
            }
        }
    }
    _PyTraceMalloc_GetTracedMemory(&current, &peak);
    must(current == traced && peak >= current, "traced bytes do not add up");
}

/* The walk of the heap: each block that lives in a pool is one of it, and used; and no
 * other is. */

static size_t by_address[NBLOCKS], nsorted;

static int
compare_addresses(const void *a, const void *b)
{
    uintptr_t x = (uintptr_t)live[*(const size_t *)a].ptr;
    uintptr_t y = (uintptr_t)live[*(const size_t *)b].ptr;
    return x < y ? -1 : x > y;
}

/* The first of by_address from an address on. */
static size_t
first_from(uintptr_t address)
{
    size_t low = 0, high = nsorted;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if ((uintptr_t)live[by_address[middle]].ptr < address) {
            low = middle + 1;
        }
        else {
            high = middle;
        }
    }
    return low;
}

static int
check_pool(void *arg, const PyMemHeapArena *arena, const PyMemHeapPool *pool)
{
    (void)arg;
    (void)arena;
    static uint16_t numbers[1 << 16];
    static unsigned char is_free[1 << 16];
    if (pool->blocksize == 0) {
        return 0;
    }
    int nfree = PyMemHeap_FreeBlocks(pool, numbers);
    must(nfree >= 0, "a free list is broken, says the walk");
    must((unsigned)nfree + pool->nused == pool->ncut && pool->ncut <= pool->nblocks,
         "a pool's blocks do not add up");
    for (int i = 0; i < nfree; i++) {
        is_free[numbers[i]] = 1;
    }
    size_t head = is_debugging ? 2 * sizeof(size_t) : 0;
    unsigned nlive = 0;
    uintptr_t end = pool->first_block + pool->nblocks * pool->blocksize;
    for (size_t k = first_from(pool->address); k < nsorted; k++) {
        size_t i = by_address[k];
        uintptr_t start = (uintptr_t)live[i].ptr - head;
        if (start >= end) {
            break;
        }
        size_t number = (start - pool->first_block) / pool->blocksize;
        must(start >= pool->first_block && number < pool->ncut
             && start == pool->first_block + number * pool->blocksize,
             "a block begins where the walk has none");
        must(!is_free[number], "a block that lives is free, says the walk");
        must(live[i].size + head <= pool->blocksize, "a block is larger than its place");
        must(live[i].domain != PYMEM_DOMAIN_RAW, "a block of the raw domain is in a pool");
        nlive++;
    }
    must(nlive <= pool->nused && (was_ever_debugging || nlive == pool->nused),
         "the walk shows used blocks that nobody has");
    for (int i = 0; i < nfree; i++) {
        is_free[numbers[i]] = 0;
    }
    return 0;
}

static void
check_walk(void)
{
    nsorted = 0;
    for (size_t i = 0; i < NBLOCKS; i++) {
        if (live[i].ptr != NULL) {
            by_address[nsorted++] = i;
        }
    }
    qsort(by_address, nsorted, sizeof(by_address[0]), compare_addresses);
    PyMemHeap_Visit(NULL, check_pool, NULL);
}

static PyMemAllocatorEx allocators_before[3];
static Py_ssize_t blocks_before;

void
model_begin(unsigned setting)
{
    for (int domain = 0; domain < 3; domain++) {
        PyMem_GetAllocator((PyMemAllocatorDomain)domain,
                           &allocators_before[domain]);
        if (setting & MODEL_HOOK_ALL
            || (domain == PYMEM_DOMAIN_RAW && setting & MODEL_HOOK_RAW)) {
            hook((PyMemAllocatorDomain)domain);
        }
    }
    if (setting & MODEL_HOOK_ARENAS) {
        hook_arenas();
    }
#ifdef Py_DEBUG
    setting |= MODEL_DEBUG;
#endif
    if (setting & MODEL_DEBUG) {
        debug();
    }
    blocks_before = _Py_GetAllocatedBlocks();
}

void
model_end(void)
{
    model_fail(0, 0, 0);
    check_traces();
    check_walk();
    arenas_visit(&main_heap.small_arenas, check_arena, NULL);
    arenas_visit(&heap_of_this_thread()->medium_arenas, check_arena, NULL);
    for (size_t i = 0; i < NBLOCKS; i++) {
        if (live[i].ptr != NULL) {
            release(i);
        }
    }
    size_t current, peak;
    _PyTraceMalloc_GetTracedMemory(&current, &peak);
    must(current == 0, "traced bytes are left");
    _PyTraceMalloc_Stop();
    must(tracer_own_memory() == 0, "the tracer keeps memory");
    traces_since++;
    if (is_debugging) {
        fill_up_with_dead_blocks();
        is_debugging = 0;
    }
    for (int domain = 0; domain < 3; domain++) {
        PyMem_SetAllocator((PyMemAllocatorDomain)domain,
                           &allocators_before[domain]);
        hook_is_installed[domain] = 0;
    }
    must(_Py_GetAllocatedBlocks() == blocks_before, "blocks do not add up");
    static unsigned nprograms;
    if (arenas_are_hooked || nprograms++ % 8 == 0) {
        PyMem_Trim();
        must(was_ever_debugging || main_heap.small_arenas.ncurrent == 0,
             "an arena is left");
        must(was_ever_debugging || heap_of_this_thread()->medium_arenas.ncurrent == 0,
             "an arena of medium blocks is left");
    }
    if (arenas_are_hooked) {
        PyObject_SetArenaAllocator(&arenas_below);
        arenas_are_hooked = 0;
    }
}

void
model_random_program(uint64_t *state, uint8_t *program, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        *state = *state * 6364136223846793005u + 1442695040888963407u;
        program[i] = (uint8_t)(*state >> 56);
    }
}
