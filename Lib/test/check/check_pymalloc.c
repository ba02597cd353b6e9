/* Objects/pymalloc.c: blocks, pools, and where a request goes. */

#include "support.h"
#include "pycore_arenas.h"
#include "pycore_athand.h"
#include "pycore_pymem.h"

/* These look at pymalloc's own structures, so objects come from it directly,
 * also in a build whose domains start with debug hooks. */
static void
use_pymalloc(void)
{
    ck_assert_int_eq(_PyMem_SetupAllocators(PYMEM_ALLOCATOR_PYMALLOC), 0);
}

START_TEST(small_requests_come_from_pools)
{
    for (size_t size = 1; size <= SMALL_REQUEST_THRESHOLD; size++) {
        void *p = PyObject_Malloc(size);
        poolp pool = pool_of(p);
        ck_assert_ptr_nonnull(pool);
        ck_assert_uint_eq(pool->blocksize,
                          (size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT);
        PyObject_Free(p);
    }
}
END_TEST

START_TEST(what_is_not_small_reaches_the_raw_domain)
{
    static struct recorder raw;
    recorder_install(&raw, PYMEM_DOMAIN_RAW);
    void *zero = PyObject_Malloc(0);
    void *large = PyMem_Malloc(SMALL_REQUEST_THRESHOLD + 1);
    void *cleared = PyObject_Calloc(3, 300);
    void *larger = PyMem_Realloc(large, 2000);
    PyObject_Free(zero);
    PyMem_Free(larger);
    PyObject_Free(cleared);
    recorder_remove(&raw);
    const char *expected = "mmcrfff";
    const size_t expected_sizes[] = {0, SMALL_REQUEST_THRESHOLD + 1, 900, 2000,
                                     0, 0, 0};
    ck_assert_uint_eq(raw.ncalls, strlen(expected));
    for (size_t i = 0; i < raw.ncalls; i++) {
        ck_assert_int_eq(raw.calls[i].what, expected[i]);
        ck_assert_uint_eq(raw.calls[i].size, expected_sizes[i]);
    }
    ck_assert_ptr_eq(raw.calls[1].result, large);
    ck_assert_ptr_null(pool_of(zero));
}
END_TEST

START_TEST(small_requests_do_not_reach_the_raw_domain)
{
    static struct recorder raw;
    recorder_install(&raw, PYMEM_DOMAIN_RAW);
    for (size_t size = 1; size <= SMALL_REQUEST_THRESHOLD; size++) {
        void *p = PyMem_Realloc(PyObject_Malloc(size), 1 + size / 2);
        PyObject_Free(p);
        PyObject_Free(PyObject_Calloc(1, size));
    }
    ck_assert_uint_eq(raw.ncalls, 0);
    recorder_remove(&raw);
}
END_TEST

START_TEST(blocks_of_a_pool_have_cpythons_addresses)
{
    for (unsigned szidx = 0; szidx < NB_SMALL_SIZE_CLASSES; szidx++) {
        unsigned size = INDEX_TO_SIZE(szidx);
        unsigned n = (unsigned)((POOL_SIZE - POOL_OVERHEAD) / size);
        block *first = PyObject_Malloc(size);
        ck_assert_uint_eq((uintptr_t)first & POOL_SIZE_MASK, POOL_OVERHEAD);
        unsigned in_order = 1;
        while (in_order < n && PyObject_Malloc(size) == first + in_order * size) {
            in_order++;
        }
        ck_assert_uint_eq(in_order, n);
        block *other = PyObject_Malloc(size);
        ck_assert_ptr_ne(pool_of(other), pool_of(first));
        ck_assert_uint_eq(pool_count_blocks(pool_of(first)), n);
    }
}
END_TEST

START_TEST(the_last_block_freed_is_the_next_one_given)
{
    void *p[5];
    for (int i = 0; i < 5; i++) {
        p[i] = PyObject_Malloc(48);
    }
    PyObject_Free(p[3]);
    PyObject_Free(p[1]);
    ck_assert_ptr_eq(PyObject_Malloc(41), p[1]);
    ck_assert_ptr_eq(PyObject_Malloc(48), p[3]);
}
END_TEST

START_TEST(a_full_pool_gives_the_block_that_is_freed_in_it)
{
    enum { N = 20 * NUMBLOCKS(64) };
    static void *p[N];
    for (int i = 0; i < N; i++) {
        p[i] = PyObject_Malloc(64);
    }
    for (int i = 0; i < N; i += 70) {
        poolp pool = pool_of(p[i]);
        unsigned before = pool_count_blocks(pool);
        PyObject_Free(p[i]);
        ck_assert_uint_eq(pool_count_blocks(pool), before - 1);
        ck_assert_ptr_eq(PyObject_Malloc(64), p[i]);
        ck_assert_uint_eq(pool_count_blocks(pool), before);
    }
    for (int i = 0; i < N; i++) {
        PyObject_Free(p[i]);
    }
    ck_assert_int_eq(_Py_GetAllocatedBlocks(), 0);
}
END_TEST

/* Two full pools that come to have a free block: whose comes first? */
START_TEST(the_pool_opened_last_is_next_and_the_first_one_where_frees_are_scattered)
{
    enum { N = 6 * NUMBLOCKS(64) };
    static void *p[N];
    for (int i = 0; i < N; i++) {
        p[i] = PyObject_Malloc(64);
    }
    void *opened_first = p[NUMBLOCKS(64) + 9], *opened_last = p[3 * NUMBLOCKS(64) + 9];
    ck_assert_ptr_ne(pool_of(opened_first), pool_of(opened_last));
    at_hand_scatter = _i == 0 ? 0 : MOST_SCATTERED;
    PyObject_Free(opened_first);
    PyObject_Free(opened_last);
    void *given;
    do {
        given = PyObject_Malloc(64);
    } while (given != opened_first && given != opened_last);
    ck_assert_ptr_eq(given, _i == 0 ? opened_last : opened_first);
}
END_TEST

#if POOL_BITS == 14   /* the classic pool is one page */
START_TEST(freed_blocks_come_before_memory_never_used)
{
    enum { IN_POOL = NUMBLOCKS(512), CUT = 4096 / 512 };
    block *full[IN_POOL];
    for (int i = 0; i < IN_POOL; i++) {
        full[i] = PyObject_Malloc(512);
    }
    block *fresh = PyObject_Malloc(512);    /* its first page is cut now */
    ck_assert_ptr_ne(pool_of(fresh), pool_of(full[0]));
    PyObject_Free(full[3]);
    for (int i = 1; i < CUT; i++) {
        ck_assert_ptr_eq(PyObject_Malloc(512), fresh + i * 512);
    }
    ck_assert_ptr_eq(PyObject_Malloc(512), full[3]);
    ck_assert_ptr_eq(PyObject_Malloc(512), fresh + CUT * 512);
}
END_TEST
#endif

START_TEST(a_pool_that_is_empty_serves_another_class)
{
    enum { N = 2000 };
    static void *p[N];
    PyObject_Malloc(16);        /* so that the arena stays in use */
    size_t bought = main_heap.small_arenas.ntimes_allocated;
    for (int round = 0; round < 40; round++) {
        size_t size = 16 + (size_t)(round % 32) * 16;
        for (int i = 0; i < N; i++) {
            p[i] = PyObject_Malloc(size);
        }
        for (int i = 0; i < N; i++) {
            PyObject_Free(p[(i * 7) % N]);
        }
    }
    ck_assert_uint_le(main_heap.small_arenas.ntimes_allocated - bought, 4);
    ck_assert_int_eq(_Py_GetAllocatedBlocks(), 1);
}
END_TEST

START_TEST(one_block_taken_and_freed_again_keeps_its_pool)
{
    static struct arena_source source;
    arena_source_install(&source);
    void *p = PyObject_Malloc(100);
    PyObject_Free(p);
    for (int i = 0; i < 1000; i++) {
        void *q = PyObject_Malloc(100);
        ck_assert_ptr_eq(q, p);
        PyObject_Free(q);
    }
    ck_assert_uint_eq(source.nalloc, 1);
    ck_assert_uint_eq(source.nfree, 0);
    arena_source_remove(&source);
}
END_TEST

START_TEST(realloc_within_the_class_stays)
{
    size_t size = INDEX_TO_SIZE(SIZE_TO_INDEX(100));
    void *p = PyObject_Malloc(100);
    ck_assert_ptr_eq(PyObject_Realloc(p, size), p);
    ck_assert_ptr_eq(PyObject_Realloc(p, 97), p);
    ck_assert_ptr_ne(PyObject_Realloc(p, size + 1), p);
}
END_TEST

START_TEST(realloc_shrinking_below_three_quarters_moves)
{
    void *p = PyObject_Malloc(512);
    ck_assert_ptr_eq(PyObject_Realloc(p, 385), p);
    void *q = PyObject_Realloc(p, 384);
    ck_assert_ptr_ne(q, p);
    ck_assert_uint_eq(pool_of(q)->blocksize, 384);
}
END_TEST

START_TEST(realloc_across_the_threshold_moves_between_domains)
{
    static struct recorder raw;
    char *p = PyObject_Malloc(500);
    memset(p, 'x', 500);
    recorder_install(&raw, PYMEM_DOMAIN_RAW);
    p = PyObject_Realloc(p, 1000);
    ck_assert_ptr_null(pool_of(p));
    ck_assert_uint_eq(raw.ncalls, 1);
    ck_assert_int_eq(raw.calls[0].what, 'm');
    ck_assert_uint_eq(raw.calls[0].size, 1000);
    ck_assert(is_filled(p, 500, 'x'));
    p = PyObject_Realloc(p, 100);           /* a raw block stays one */
    ck_assert_ptr_null(pool_of(p));
    ck_assert_int_eq(raw.calls[1].what, 'r');
    PyObject_Free(p);
    recorder_remove(&raw);
}
END_TEST

START_TEST(realloc_that_fails_keeps_the_block)
{
    static struct recorder raw;
    char *p = PyObject_Malloc(300);
    memset(p, 'x', 300);
    raw.fail_at = 1;
    raw.fail_on = 1;
    recorder_install(&raw, PYMEM_DOMAIN_RAW);
    Py_ssize_t before = _Py_GetAllocatedBlocks();
    ck_assert_ptr_null(PyObject_Realloc(p, 1000));
    ck_assert_ptr_null(PyObject_Realloc(p, 0));
    ck_assert_ptr_nonnull(pool_of(p));
    ck_assert(is_filled(p, 300, 'x'));
    ck_assert_int_eq(_Py_GetAllocatedBlocks(), before);
    recorder_remove(&raw);
}
END_TEST

START_TEST(blocks_in_the_raw_domain_count_too)
{
    ck_assert_int_eq(_Py_GetAllocatedBlocks(), 0);
    void *small = PyObject_Malloc(10), *large = PyObject_Malloc(1000);
    void *cleared = PyMem_Calloc(10, 100), *raw = PyMem_RawMalloc(10);
    ck_assert_int_eq(_Py_GetAllocatedBlocks(), 3);
    PyObject_Free(large);
    PyMem_Free(cleared);
    PyMem_RawFree(raw);
    ck_assert_int_eq(_Py_GetAllocatedBlocks(), 1);
    PyObject_Free(small);
    ck_assert_int_eq(_Py_GetAllocatedBlocks(), 0);
}
END_TEST

/* Thousands of mixed requests against a model: contents, overlap, alignment,
 * accounting. */

enum { SLOTS = 3000 };
static struct slot {
    unsigned char *ptr;
    size_t size;
    unsigned char fill;
} slots[SLOTS];

static void
slot_fill(struct slot *slot)
{
    slot->fill = (unsigned char)random_below(256);
    memset(slot->ptr, slot->fill, slot->size);
}

static void
slot_check(const struct slot *slot, size_t size)
{
    if (!is_filled(slot->ptr, size, slot->fill)) {
        ck_abort_msg("a block of %zu bytes has changed", slot->size);
    }
}

static size_t
random_size(void)
{
    switch (random_below(10)) {
    case 0:
        return random_below(3000);
    case 1:
        return 500 + random_below(30);
    default:
        return random_below(200);
    }
}

static void
slot_step(struct slot *slot)
{
    size_t size = random_size();
    if (slot->ptr == NULL) {
        slot->ptr = random_below(4) ? PyObject_Malloc(size)
                                    : PyObject_Calloc(1, size);
        slot->size = size;
    }
    else {
        slot_check(slot, slot->size);
        if (random_below(3)) {
            PyObject_Free(slot->ptr);
            slot->ptr = NULL;
            return;
        }
        slot->ptr = PyObject_Realloc(slot->ptr, size);
        slot_check(slot, size < slot->size ? size : slot->size);
        slot->size = size;
    }
    if (slot->ptr == NULL || (uintptr_t)slot->ptr % ALIGNMENT != 0) {
        ck_abort_msg("%zu bytes at %p", size, (void *)slot->ptr);
    }
    slot_fill(slot);
}

static int
check_arena(const struct arena_object *arena, void *arg)
{
    (void)arg;
    ck_assert(arena_is_valid(arena));
    return 0;
}

START_TEST(random_requests_agree_with_a_model)
{
    static struct arena_source source;
    source.offset = (size_t)_i * 4096 + (_i == 3 ? 8 : 0);
    if (_i > 0) {
        arena_source_install(&source);
    }
    for (int step = 0; step < 150000; step++) {
        slot_step(&slots[random_below(SLOTS)]);
    }
    arenas_visit(&main_heap.small_arenas, check_arena, NULL);
    Py_ssize_t live = 0;
    for (int i = 0; i < SLOTS; i++) {
        live += slots[i].ptr != NULL;
    }
    ck_assert_int_eq(_Py_GetAllocatedBlocks(), live);
    for (int i = 0; i < SLOTS; i++) {
        if (slots[i].ptr != NULL) {
            slot_check(&slots[i], slots[i].size);
            PyObject_Free(slots[i].ptr);
        }
    }
    ck_assert_int_eq(_Py_GetAllocatedBlocks(), 0);
    arenas_visit(&main_heap.small_arenas, check_arena, NULL);
    ck_assert_uint_eq(source.bad_size, 0);
    if (_i > 0) {
        ck_assert_uint_ge(source.nalloc, 1);
        ck_assert_uint_le(source.nlive, 1);
    }
}
END_TEST

#if UINTPTR_MAX > 0xFFFFFFFFu
/* A raw allocator may have a tag in the top byte of its addresses, which arm64 passes by.
 * Such a block is the raw domain's, whatever the address without the tag belongs to. */

static void *tagged, *seen;

static void *
tagged_malloc(void *ctx, size_t size)
{
    (void)ctx;
    (void)size;
    return tagged;
}

static void *
tagged_realloc(void *ctx, void *ptr, size_t size)
{
    seen = ptr;
    return tagged_malloc(ctx, size);
}

static void
tagged_free(void *ctx, void *ptr)
{
    (void)ctx;
    seen = ptr;
}

START_TEST(a_tagged_address_is_the_raw_domains)
{
    static const size_t sizes[] = {513, 5000, 100000};
    PyMemAllocatorEx raw, tagging;
    PyMem_GetAllocator(PYMEM_DOMAIN_RAW, &raw);
    tagging = raw;
    tagging.malloc = tagged_malloc;
    tagging.realloc = tagged_realloc;
    tagging.free = tagged_free;
    void *ours = PyObject_Malloc(64), *medium = PyMem_Malloc(2000);
    for (int i = 0; i < 6; i++) {
        tagged = (void *)((uintptr_t)(i % 2 ? ours : medium) | (uintptr_t)0xa5 << 56);
        PyMem_SetAllocator(PYMEM_DOMAIN_RAW, &tagging);
        void *p = PyMem_Malloc(sizes[i / 2]);
        seen = NULL;
        void *q = PyMem_Realloc(p, 200000);
        void *seen_by_realloc = seen;
        seen = NULL;
        PyMem_Free(q);
        void *seen_by_free = seen;
        PyMem_SetAllocator(PYMEM_DOMAIN_RAW, &raw);
        ck_assert(p == tagged && q == tagged);
        ck_assert(seen_by_realloc == tagged && seen_by_free == tagged);
    }
    ck_assert_uint_eq(pool_count_blocks(pool_of(ours)), 1);
    PyMem_Free(medium);
    PyObject_Free(ours);
}
END_TEST
#endif

int
main(void)
{
    Suite *suite = suite_create("pymalloc");
    TCase *tc = tcase_create("pymalloc");
    tcase_set_timeout(tc, 120);
    tcase_add_checked_fixture(tc, use_pymalloc, NULL);
    suite_add_tcase(suite, tc);
    tcase_add_test(tc, small_requests_come_from_pools);
    tcase_add_test(tc, what_is_not_small_reaches_the_raw_domain);
    tcase_add_test(tc, small_requests_do_not_reach_the_raw_domain);
    tcase_add_test(tc, blocks_of_a_pool_have_cpythons_addresses);
    tcase_add_test(tc, the_last_block_freed_is_the_next_one_given);
    tcase_add_test(tc, a_full_pool_gives_the_block_that_is_freed_in_it);
    tcase_add_loop_test(
        tc, the_pool_opened_last_is_next_and_the_first_one_where_frees_are_scattered, 0, 2);
#if POOL_BITS == 14
    tcase_add_test(tc, freed_blocks_come_before_memory_never_used);
#endif
    tcase_add_test(tc, a_pool_that_is_empty_serves_another_class);
    tcase_add_test(tc, one_block_taken_and_freed_again_keeps_its_pool);
    tcase_add_test(tc, realloc_within_the_class_stays);
#if UINTPTR_MAX > 0xFFFFFFFFu
    tcase_add_test(tc, a_tagged_address_is_the_raw_domains);
#endif
    tcase_add_test(tc, realloc_shrinking_below_three_quarters_moves);
    tcase_add_test(tc, realloc_across_the_threshold_moves_between_domains);
    tcase_add_test(tc, realloc_that_fails_keeps_the_block);
    tcase_add_test(tc, blocks_in_the_raw_domain_count_too);
    tcase_add_loop_test(tc, random_requests_agree_with_a_model, 0, 5);
    return run_suite(suite);
}
