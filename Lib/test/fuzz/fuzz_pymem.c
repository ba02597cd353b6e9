/* Random programs against a model.
 *
 * Each input is a program: three bytes a step, of which the first says what is
 * done, the others to which block and with which size.  The model knows of every
 * block that lives its size and what is in it, and after each program the counts:
 * blocks, traced bytes, arenas.
 *
 *   clang -fsanitize=fuzzer    LLVMFuzzerTestOneInput() is called by libFuzzer
 *   -DFUZZ_BY_ITSELF           main(): programs of pseudo-random bytes
 *
 *     fuzz_pymem [SECONDS [SEED]]
 */

#include "Python.h"
#include "pycore_arenas.h"
#include "pycore_pymem.h"
#include "pycore_tracemalloc.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define NBLOCKS 1024
static struct {
    unsigned char *ptr;
    size_t size;
    unsigned char fill;
    PyMemAllocatorDomain domain;
    unsigned traced_since;      /* the value of traces_since at that time */
} live[NBLOCKS];
static unsigned traces_since = 1;       /* counts when all traces went */

static void
must(int holds, const char *what)
{
    if (!holds) {
        fprintf(stderr, "fuzz_pymem: %s\n", what);
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

/* A raw hook and an arena allocator that fail now and then. */

static PyMemAllocatorEx raw_below;
static int raw_is_hooked;
static unsigned failures_left, calls_to_failure;

static int
fails_now(void)
{
    if (failures_left == 0 || calls_to_failure-- != 0) {
        return 0;
    }
    failures_left--;
    calls_to_failure = 0;
    return 1;
}

static void *
hook_malloc(void *ctx, size_t size)
{
    (void)ctx;
    return fails_now() ? NULL : raw_below.malloc(raw_below.ctx, size);
}

static void *
hook_calloc(void *ctx, size_t n, size_t size)
{
    (void)ctx;
    return fails_now() ? NULL : raw_below.calloc(raw_below.ctx, n, size);
}

static void *
hook_realloc(void *ctx, void *ptr, size_t size)
{
    (void)ctx;
    return fails_now() ? NULL : raw_below.realloc(raw_below.ctx, ptr, size);
}

static void
hook_free(void *ctx, void *ptr)
{
    (void)ctx;
    raw_below.free(raw_below.ctx, ptr);
}

static void
hook_raw_domain(void)
{
    /* Not over the tracer: whoever comes last has to go first. */
    if (!raw_is_hooked && !tracer_is_tracing()) {
        PyMem_GetAllocator(PYMEM_DOMAIN_RAW, &raw_below);
        PyMemAllocatorEx hook = {NULL, hook_malloc, hook_calloc, hook_realloc,
                                 hook_free};
        PyMem_SetAllocator(PYMEM_DOMAIN_RAW, &hook);
        raw_is_hooked = 1;
    }
}

static void
unhook_raw_domain(void)
{
    if (raw_is_hooked && !tracer_is_tracing()) {
        PyMem_SetAllocator(PYMEM_DOMAIN_RAW, &raw_below);
        raw_is_hooked = 0;
    }
}

static PyObjectArenaAllocator arenas_below;

static void *
arena_alloc(void *ctx, size_t size)
{
    (void)ctx;
    return fails_now() ? NULL : arenas_below.alloc(arenas_below.ctx, size);
}

static void
arena_free(void *ctx, void *ptr, size_t size)
{
    (void)ctx;
    arenas_below.free(arenas_below.ctx, ptr, size);
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
    }
    else {
        release(i);
    }
}

static void
do_step(unsigned what, unsigned a, unsigned b)
{
    if (what < 240) {
        change_block(what, (a * 4u + (what >> 4 & 3)) % NBLOCKS,
                     size_from(a, b));
        return;
    }
    switch (what) {
    case 240: hook_raw_domain(); break;
    case 241: unhook_raw_domain(); break;
    case 242: _PyTraceMalloc_Start(1 + (int)a % 8); break;
    case 243: _PyTraceMalloc_Stop(); traces_since++; break;
    case 244: PyMem_Trim(); break;
    case 245: tracer_clear(); traces_since++; break;
    case 246: case 247:
        failures_left = 1 + a % 4;
        calls_to_failure = b % 16;
        break;
    default:                    /* many of one class, so that pools fill up */
        for (size_t i = 0; i < 200; i++) {
            size_t k = (a * 4u + i) % NBLOCKS;
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

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    Py_ssize_t before = _Py_GetAllocatedBlocks();
    int use_arena_hook = size > 0 && data[0] & 1;
    if (use_arena_hook) {
        PyObject_GetArenaAllocator(&arenas_below);
        PyObjectArenaAllocator hook = {NULL, arena_alloc, arena_free};
        PyMem_Trim();
        PyObject_SetArenaAllocator(&hook);
    }
    for (size_t i = 1; i + 3 <= size; i += 3) {
        do_step(data[i], data[i + 1], data[i + 2]);
    }
    failures_left = 0;
    size_t traced = 0, current, peak;
    for (size_t i = 0; i < NBLOCKS; i++) {
        struct trace trace;
        if (live[i].ptr != NULL) {
            int is_traced = tracer_find(0, (uintptr_t)live[i].ptr, &trace);
            must(is_traced == (live[i].traced_since == traces_since),
                 "a block has a trace that it should not have, or has none");
            if (is_traced) {
                must(trace.size == live[i].size, "a trace has another size");
                traced += trace.size;
            }
        }
    }
    _PyTraceMalloc_GetTracedMemory(&current, &peak);
    must(current == traced && peak >= current, "traced bytes do not add up");
    arenas_visit(&small_arenas, check_arena, NULL);
    arenas_visit(&medium_arenas, check_arena, NULL);
    for (size_t i = 0; i < NBLOCKS; i++) {
        if (live[i].ptr != NULL) {
            release(i);
        }
    }
    _PyTraceMalloc_GetTracedMemory(&current, &peak);
    must(current == 0, "traced bytes are left");
    _PyTraceMalloc_Stop();
    must(tracer_own_memory() == 0, "the tracer keeps memory");
    unhook_raw_domain();
    traces_since++;
    must(_Py_GetAllocatedBlocks() == before, "blocks do not add up");
    static unsigned nprograms;
    if (use_arena_hook || nprograms++ % 8 == 0) {
        PyMem_Trim();
        must(small_arenas.ncurrent == 0, "an arena is left");
        must(medium_arenas.ncurrent == 0, "an arena of medium blocks is left");
    }
    if (use_arena_hook) {
        PyObject_SetArenaAllocator(&arenas_below);
    }
    return 0;
}

#ifdef FUZZ_BY_ITSELF
int
main(int argc, char **argv)
{
    long seconds = argc > 1 ? strtol(argv[1], NULL, 10) : 10;
    uint64_t state = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
    time_t end = time(NULL) + seconds;
    unsigned long programs = 0;
    static uint8_t program[6000];
    do {
        uint64_t seed = state;
        for (size_t i = 0; i < sizeof(program); i++) {
            state = state * 6364136223846793005u + 1442695040888963407u;
            program[i] = (uint8_t)(state >> 56);
        }
        if (getenv("FUZZ_SHOW_SEEDS") != NULL) {
            fprintf(stderr, "%llu\n", (unsigned long long)seed);
        }
        LLVMFuzzerTestOneInput(program, 1 + state % (sizeof(program) - 1));
        programs++;
    } while (time(NULL) < end);
    printf("fuzz_pymem: %lu programs in %ld seconds, no fault\n", programs,
           seconds);
    return 0;
}
#endif
