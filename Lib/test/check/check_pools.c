/* Objects/pools.c: blocks of 513 bytes to 32 KiB while nobody hooked the raw domain.
 * Small ones are tested in check_pymalloc.c. */

#include "support.h"
#include "pycore_arenas.h"
#include "pycore_pymalloc.h"
#include "pycore_pymem.h"

#define SMALLEST (SMALL_REQUEST_THRESHOLD + 1)
#define LARGEST MEDIUM_REQUEST_THRESHOLD

static void
use_pymalloc(void)
{
    ck_assert_int_eq(_PyMem_SetupAllocators(PYMEM_ALLOCATOR_PYMALLOC), 0);
}

static int
is_medium_block(const void *ptr)
{
    return medium_pool_of(ptr) != NULL && pool_of(ptr) == NULL;
}

START_TEST(each_size_has_a_class_that_wastes_less_than_an_eighth)
{
    size_t last = 0;
    unsigned nclasses = 0;
    int fits = 1;
    for (size_t size = SMALLEST; size <= LARGEST; size++) {
        void *p = PyObject_Malloc(size);
        size_t blocksize = medium_pool_of(p)->blocksize;
        fits &= is_medium_block(p) && blocksize >= size
            && (blocksize - size) * 8 < size
            && (uintptr_t)p % ALIGNMENT == 0;
        nclasses += blocksize != last;
        last = blocksize;
        PyObject_Free(p);
    }
    ck_assert(fits);
    ck_assert_uint_eq(nclasses, NB_MEDIUM_SIZE_CLASSES);
    ck_assert_uint_eq(last, LARGEST);
}
END_TEST

START_TEST(others_are_not_medium)
{
    const size_t sizes[] = {0, 1, SMALLEST - 1, LARGEST + 1, 1000000};
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        void *p = PyMem_Malloc(sizes[i]);
        ck_assert(!is_medium_block(p));
        PyMem_Free(p);
    }
    void *raw = PyMem_RawMalloc(2000);      /* raw blocks are the C library's */
    ck_assert(!is_medium_block(raw));
    PyMem_RawFree(raw);
}
END_TEST

START_TEST(they_count_as_blocks_and_as_no_arena)
{
    Py_ssize_t before = _Py_GetAllocatedBlocks();
    size_t arenas = main_heap.small_arenas.ncurrent;
    void *p = PyMem_Calloc(2, 1000);
    ck_assert(is_medium_block(p) && is_filled(p, 2000, 0));
    ck_assert_int_eq(_Py_GetAllocatedBlocks(), before + 1);
    ck_assert_uint_eq(main_heap.small_arenas.ncurrent, arenas);
    ck_assert_uint_eq(heap_of_this_thread()->medium_arenas.ncurrent, 1);
    PyMem_Free(p);
    ck_assert_int_eq(_Py_GetAllocatedBlocks(), before);
}
END_TEST

START_TEST(a_block_that_was_used_is_cleared_by_calloc)
{
    void *p = PyMem_Malloc(2000);
    memset(p, 'x', 2000);
    PyMem_Free(p);
    void *q = PyMem_Calloc(4, 500);
    ck_assert_ptr_eq(p, q);
    ck_assert(is_filled(q, 2000, 0));
    PyMem_Free(q);
}
END_TEST

/* Thousands of blocks of all sizes, replaced at random; each has its pattern as
 * long as it lives. */
START_TEST(blocks_keep_what_is_in_them)
{
    enum { N = 3000, STEPS = 60000 };
    static struct { void *ptr; size_t size; } live[N];
    int intact = 1;
    for (unsigned step = 0; step < STEPS; step++) {
        unsigned i = random_below(N);
        unsigned what = random_below(4);
        size_t size = random_below(8) ? 400 + random_below(4000)
                                      : 1 + random_below(40000);
        if (live[i].ptr != NULL) {
            intact &= has_pattern(live[i].ptr, live[i].size, i);
        }
        if (live[i].ptr == NULL || what == 0) {
            PyMem_Free(live[i].ptr);
            live[i].ptr = PyMem_Malloc(size);
        }
        else if (what == 1) {
            PyMem_Free(live[i].ptr);
            live[i].ptr = NULL;
            continue;
        }
        else {
            size_t kept = size < live[i].size ? size : live[i].size;
            live[i].ptr = PyMem_Realloc(live[i].ptr, size);
            intact &= has_pattern(live[i].ptr, kept, i);
        }
        live[i].size = size;
        fill_pattern(live[i].ptr, size, i);
    }
    for (unsigned i = 0; i < N; i++) {
        intact &= live[i].ptr == NULL
            || has_pattern(live[i].ptr, live[i].size, i);
        PyMem_Free(live[i].ptr);
    }
    ck_assert(intact);
    ck_assert_int_eq(_Py_GetAllocatedBlocks(), 0);
}
END_TEST

START_TEST(realloc_stays_where_it_fits_and_grows_in_the_raw_domain)
{
    char *p = PyMem_Malloc(1000);
    fill_pattern(p, 1000, 1);
    ck_assert_ptr_eq(PyMem_Realloc(p, 1024), p);
    ck_assert_ptr_eq(PyMem_Realloc(p, 900), p);
    char *shrunk = PyMem_Realloc(p, 600);
    ck_assert(is_medium_block(shrunk) && has_pattern(shrunk, 600, 1));
    char *grown = PyMem_Realloc(shrunk, 3000);
    ck_assert(!is_medium_block(grown) && has_pattern(grown, 600, 1));
    char *small = PyMem_Realloc(PyMem_Malloc(2000), 100);
    ck_assert_ptr_nonnull(pool_of(small));
    char *again = PyMem_Realloc(small, 2000);
    ck_assert(!is_medium_block(again));
    ck_assert_int_eq(_Py_GetAllocatedBlocks(), 2);
    PyMem_Free(grown);
    PyMem_Free(again);
    ck_assert_int_eq(_Py_GetAllocatedBlocks(), 0);
}
END_TEST

/* A hook of the raw domain may come and go at any time: it sees each request
 * from then on, and no block that it did not give. */
START_TEST(a_raw_hook_in_the_middle_sees_all_from_then_on)
{
    static struct recorder raw;
    void *before = PyMem_Malloc(2000);
    void *resized = PyMem_Malloc(3000);
    fill_pattern(resized, 3000, 7);
    recorder_install(&raw, PYMEM_DOMAIN_RAW);
    void *during = PyMem_Malloc(2000);
    void *cleared = PyObject_Calloc(10, 100);
    resized = PyMem_Realloc(resized, 6000);
    PyMem_Free(before);
    ck_assert_uint_eq(raw.ncalls, 3);
    ck_assert_int_eq(raw.calls[0].what, 'm');
    ck_assert_int_eq(raw.calls[1].what, 'c');
    ck_assert_int_eq(raw.calls[2].what, 'm');       /* moved out of our pool */
    ck_assert_uint_eq(raw.calls[2].size, 6000);
    ck_assert(has_pattern(resized, 3000, 7));
    ck_assert(!is_medium_block(during) && !is_medium_block(resized));
    PyMem_Free(cleared);
    recorder_remove(&raw);
    ck_assert_int_eq(raw.calls[3].what, 'f');
    ck_assert_ptr_eq(raw.calls[3].ptr, cleared);
    PyMem_Free(during);
    PyMem_Free(resized);
    void *after = PyMem_Malloc(2000);
    ck_assert(is_medium_block(after));
    PyMem_Free(after);
    ck_assert_uint_eq(raw.ncalls, 4);
    ck_assert_int_eq(_Py_GetAllocatedBlocks(), 0);
}
END_TEST

START_TEST(debug_hooks_and_other_allocators_have_none)
{
    const PyMemAllocatorName names[] = {
        PYMEM_ALLOCATOR_DEBUG, PYMEM_ALLOCATOR_MALLOC,
        PYMEM_ALLOCATOR_MALLOC_DEBUG, PYMEM_ALLOCATOR_PYMALLOC_DEBUG,
    };
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        ck_assert_int_eq(_PyMem_SetupAllocators(names[i]), 0);
        void *p = PyMem_Malloc(2000);
        ck_assert(!is_medium_block(p));
        PyMem_Free(p);
        use_pymalloc();
    }
}
END_TEST

START_TEST(a_peak_goes_back)
{
    enum { N = 40000 };     /* of 8 KiB: 312 MiB */
    static void *p[N];
    for (int i = 0; i < N; i++) {
        p[i] = PyMem_Malloc(8000);
    }
    ck_assert_uint_ge(heap_of_this_thread()->medium_arenas.ncurrent, 300);
    for (int i = 0; i < N; i++) {
        PyMem_Free(p[i]);
    }
    ck_assert_uint_le(heap_of_this_thread()->medium_arenas.ncurrent, 4 + 64 + 1);
    uint64_t end = virtual_clock() + 900;
    while (virtual_clock() < end) {
        PyMem_Free(PyMem_Malloc(600 + random_below(30000)));
    }
    /* one pool of each class that was asked for may be kept */
    ck_assert_uint_le(heap_of_this_thread()->medium_arenas.ncurrent, 4 + 1 + NB_MEDIUM_SIZE_CLASSES / 8);
    PyMem_Trim();
    ck_assert_uint_eq(heap_of_this_thread()->medium_arenas.ncurrent, 0);
}
END_TEST

static int
check_arena(const struct arena_object *arena, void *arg)
{
    (void)arg;
    return !arena_is_valid(arena);
}

START_TEST(trim_keeps_what_is_in_use)
{
    void *p[200];
    for (unsigned i = 0; i < 200; i++) {
        p[i] = PyMem_Malloc(5000);
        fill_pattern(p[i], 5000, i);
    }
    for (unsigned i = 0; i < 200; i += 2) {
        PyMem_Free(p[i]);
    }
    PyMem_Trim();
    int intact = 1;
    for (unsigned i = 1; i < 200; i += 2) {
        intact &= has_pattern(p[i], 5000, i);
        PyMem_Free(p[i]);
    }
    ck_assert(intact);
    ck_assert_int_eq(arenas_visit(&heap_of_this_thread()->medium_arenas, check_arena, NULL), 0);
    PyMem_Trim();
    ck_assert_uint_eq(heap_of_this_thread()->medium_arenas.ncurrent, 0);
}
END_TEST

static void
live_without_arenas(void *arg)
{
    (void)arg;
    heap_of_this_thread()->medium_arenas.arena_size = SIZE_MAX - 0xffff;  /* no system has that */
    char *p = PyMem_Malloc(2000);
    if (p == NULL || is_medium_block(p) || _Py_GetAllocatedBlocks() != 1) {
        abort();
    }
    PyMem_Free(p);
}

START_TEST(without_an_arena_malloc_serves_them)
{
    struct child child = run_child(live_without_arenas, NULL);
    ck_assert_msg(child.signal == 0 && child.status == 0, "%s", child.text);
}
END_TEST

#if MEDIUM_POOLS_BY_DEFAULT
static void
ask_often(void *arg)
{
    enum { SIZE = 2000, OFTEN = 1 << 20 };
    (void)arg;
    medium_pools_at_once = 0;       /* PYMEM_MEDIUM is not set */
    size_t nbytes = 0, most = OFTEN + 4096;
    void *p = PyMem_Malloc(SIZE), *other = PyMem_Malloc(5000);
    for (; nbytes < most && !is_medium_block(p); nbytes += SIZE) {
        PyMem_Free(p);
        p = PyMem_Malloc(SIZE);
    }
    ck_assert_uint_gt(nbytes, OFTEN / 10 * 9);
    ck_assert(is_medium_block(p));
    ck_assert(!is_medium_block(other) && !is_medium_block(PyMem_Malloc(5000)));
    PyMem_Free(p);
    PyMem_Free(other);
}

START_TEST(a_class_has_a_pool_once_it_was_asked_for_often)
{
    struct child child = run_child(ask_often, NULL);
    ck_assert_msg(child.signal == 0 && child.status == 0, "%s", child.text);
}
END_TEST
#endif

int
main(void)
{
    Suite *suite = suite_create("pools");
    TCase *tc = tcase_create("medium blocks");
    tcase_add_checked_fixture(tc, use_pymalloc, NULL);
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, each_size_has_a_class_that_wastes_less_than_an_eighth);
    tcase_add_test(tc, others_are_not_medium);
    tcase_add_test(tc, they_count_as_blocks_and_as_no_arena);
    tcase_add_test(tc, a_block_that_was_used_is_cleared_by_calloc);
    tcase_add_test(tc, blocks_keep_what_is_in_them);
    tcase_add_test(tc, realloc_stays_where_it_fits_and_grows_in_the_raw_domain);
    tcase_add_test(tc, a_raw_hook_in_the_middle_sees_all_from_then_on);
    tcase_add_test(tc, debug_hooks_and_other_allocators_have_none);
    tcase_add_test(tc, a_peak_goes_back);
    tcase_add_test(tc, trim_keeps_what_is_in_use);
    tcase_add_test(tc, without_an_arena_malloc_serves_them);
#if MEDIUM_POOLS_BY_DEFAULT
    tcase_add_test(tc, a_class_has_a_pool_once_it_was_asked_for_often);
#endif
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
