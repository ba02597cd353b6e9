/* Objects/shortways.c: what passes a domain's table by, and that a hook ends it. */

#include "support.h"
#include "pycore_pymem.h"

#include <pthread.h>
#include <stdlib.h>

/* An allocator of which one function was replaced. */

static unsigned ncalls;
static PyMemAllocatorEx below;

static void *
counting_malloc(void *ctx, size_t size)
{
    ncalls++;
    return below.malloc(ctx, size);
}

static void *
counting_calloc(void *ctx, size_t nelem, size_t elsize)
{
    ncalls++;
    return below.calloc(ctx, nelem, elsize);
}

static void *
counting_realloc(void *ctx, void *ptr, size_t size)
{
    ncalls++;
    return below.realloc(ctx, ptr, size);
}

static void
counting_free(void *ctx, void *ptr)
{
    ncalls++;
    below.free(ctx, ptr);
}

#ifdef WITH_PYMALLOC
#  define UNHOOKED PYMEM_ALLOCATOR_PYMALLOC
#else
#  define UNHOOKED PYMEM_ALLOCATOR_MALLOC
#endif

static void
hook_one_function(PyMemAllocatorDomain domain, int which)
{
    PyMem_GetAllocator(domain, &below);
    PyMemAllocatorEx alloc = below;
    switch (which) {
    case 0: alloc.malloc = counting_malloc; break;
    case 1: alloc.calloc = counting_calloc; break;
    case 2: alloc.realloc = counting_realloc; break;
    default: alloc.free = counting_free; break;
    }
    PyMem_SetAllocator(domain, &alloc);
}

/* Sizes that the mem and object domains do not pass on to the raw one. */
START_TEST(a_hook_of_one_function_sees_every_call)
{
    const size_t sizes[] = {0, 1, 16, 512};
    int domain = _i / 4, which = _i % 4;
    _PyMem_SetupAllocators(UNHOOKED);
    const struct family *f = &families[domain];
    for (size_t i = 0; i < 4; i++) {
        hook_one_function((PyMemAllocatorDomain)domain, which);
        ncalls = 0;
        void *p = f->malloc(sizes[i]);
        void *q = f->calloc(1, sizes[i]);
        p = f->realloc(p, sizes[i]);
        f->free(p);
        ck_assert_uint_eq(ncalls, 1);
        PyMem_SetAllocator((PyMemAllocatorDomain)domain, &below);
        f->free(q);
        f->free(f->malloc(sizes[i]));
        ck_assert_uint_eq(ncalls, 1);
    }
}
END_TEST

START_TEST(a_way_is_open_while_its_allocator_is_the_first)
{
    _PyMem_SetupAllocators(UNHOOKED);
    int is_malloc = _PyMem_Allocators[PYMEM_DOMAIN_RAW].malloc == _PyMem_RawMalloc;
    ck_assert_int_eq(short_ways[PYMEM_DOMAIN_RAW].span != 0, is_malloc);
    ck_assert_int_eq(no_medium_below != 0, is_malloc);
    PyMem_Free(PyMem_Malloc(16));
#ifdef WITH_PYMALLOC
    for (int domain = PYMEM_DOMAIN_MEM; domain <= PYMEM_DOMAIN_OBJ; domain++) {
        ck_assert_uint_eq(short_ways[domain].span, SMALL_REQUEST_THRESHOLD);
        ck_assert_uint_eq(short_ways[domain].home.leaf, main_heap.home.leaf);
    }
#endif
    PyMem_SetupDebugHooks();
    for (int domain = 0; domain < NB_DOMAINS; domain++) {
        ck_assert_uint_eq(short_ways[domain].span, 0);
        ck_assert_uint_eq(short_ways[domain].home.leaf, SIZE_MAX);
    }
    ck_assert_uint_eq(no_medium_below, 0);
}
END_TEST

#ifdef WITH_PYMALLOC

/* An arena comes while the way of one domain is closed: the next one that opens it must
 * find the arena's leaf. */
START_TEST(a_way_that_opens_again_leads_to_the_newest_arena)
{
    static struct recorder recorder;
    _PyMem_SetupAllocators(UNHOOKED);
    recorder_install(&recorder, PYMEM_DOMAIN_OBJ);
    void *mem = PyMem_Malloc(16);
    ck_assert_uint_eq(short_ways[PYMEM_DOMAIN_MEM].home.leaf, leaf_of((uintptr_t)mem));
    ck_assert_uint_eq(short_ways[PYMEM_DOMAIN_OBJ].home.leaf, SIZE_MAX);
    recorder_remove(&recorder);
    ck_assert_uint_eq(short_ways[PYMEM_DOMAIN_OBJ].home.leaf, leaf_of((uintptr_t)mem));
    PyMem_Free(mem);
}
END_TEST

static int
is_medium(const void *ptr)
{
    return pymalloc_medium_size(ptr) != 0;
}

/* Blocks of the mem domain that are freed as raw ones, which malloc must not see. */
START_TEST(no_medium_block_is_below_the_bound)
{
    _PyMem_SetupAllocators(UNHOOKED);
    enum { BLOCKS = 400 };
    void *blocks[BLOCKS];
    for (size_t i = 0; i < BLOCKS; i++) {
        blocks[i] = PyMem_Malloc(10000 + i);
        ck_assert(!is_medium(blocks[i]) || (uintptr_t)blocks[i] >= no_medium_below);
        memset(blocks[i], 1, 10000 + i);
    }
    for (size_t i = 0; i < BLOCKS; i++) {
        PyMem_RawFree(blocks[i]);
    }
}
END_TEST

/* Two threads work, one buys arenas and one opens and closes the way meanwhile. */

static atomic_int is_over;

static void *
buy_arenas(void *lowest)
{
    for (int turn = 0; turn < 300; turn++) {
        void *blocks[64];
        for (size_t i = 0; i < 64; i++) {
            blocks[i] = PyMem_Malloc(32000);
            if (is_medium(blocks[i]) && (uintptr_t)blocks[i] < *(uintptr_t *)lowest) {
                *(uintptr_t *)lowest = (uintptr_t)blocks[i];
            }
        }
        for (size_t i = turn % 2 ? 0 : 60; i < 64; i++) {
            PyMem_RawFree(blocks[i]);
        }
    }
    is_over = 1;
    return NULL;
}

START_TEST(the_bound_is_right_though_the_way_opens_meanwhile)
{
    uintptr_t lowest = UINTPTR_MAX;
    pthread_t thread;
    _PyMem_SetupAllocators(UNHOOKED);
    size_t span = short_ways[PYMEM_DOMAIN_RAW].span;
    ck_assert_int_eq(pthread_create(&thread, NULL, buy_arenas, &lowest), 0);
    while (!is_over) {
        short_way_set(PYMEM_DOMAIN_RAW, 0);
        short_way_set(PYMEM_DOMAIN_RAW, span);
    }
    pthread_join(thread, NULL);
    ck_assert_uint_le(no_medium_below, lowest);
}
END_TEST

#endif

int
main(void)
{
    Suite *suite = suite_create("shortways");
    TCase *all = tcase_create("all");
    tcase_set_timeout(all, 60);
    suite_add_tcase(suite, all);
    tcase_add_loop_test(all, a_hook_of_one_function_sees_every_call, 0, 3 * 4);
    tcase_add_test(all, a_way_is_open_while_its_allocator_is_the_first);
#ifdef WITH_PYMALLOC
    tcase_add_test(all, a_way_that_opens_again_leads_to_the_newest_arena);
    tcase_add_test(all, no_medium_block_is_below_the_bound);
    tcase_add_test(all, the_bound_is_right_though_the_way_opens_meanwhile);
#endif
    return run_suite(suite);
}
