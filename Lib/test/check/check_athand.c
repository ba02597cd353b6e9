/* Objects/athand.c: of a heap whose blocks are freed at random those freed last are given
 * next. */

#include "support.h"
#include "pymemheap.h"
#include "pycore_arenas.h"
#include "pycore_athand.h"
#include "pycore_pymem.h"
#include "pycore_shortways.h"

#include <stdlib.h>
#include <string.h>

#define SIZE 64u
#define STACK (at_hand_for(SIZE))
#define BLOCKS_IN_MIB ((1u << 20) / SIZE)

static int
way(void)
{
    return short_ways[PYMEM_DOMAIN_OBJ].way;
}

static size_t
narenas(void)
{
    return main_heap.small_arenas.ncurrent;
}

/* A heap of so many MiB.  The addresses are in memory that is not ours. */
struct blocks { void **p; size_t n; };

static struct blocks
build(size_t mib)
{
    struct blocks blocks = {malloc(mib * BLOCKS_IN_MIB * sizeof(void *)), mib * BLOCKS_IN_MIB};
    for (size_t i = 0; i < blocks.n; i++) {
        blocks.p[i] = PyObject_Malloc(SIZE);
        ck_assert_ptr_nonnull(blocks.p[i]);
    }
    return blocks;
}

/* Frees all in an order that nobody foresees. */
static void
drop(struct blocks *blocks)
{
    for (size_t i = blocks->n; i > 0; i--) {
        size_t other = random_below((unsigned)i);
        PyObject_Free(blocks->p[other]);
        blocks->p[other] = blocks->p[i - 1];
    }
    free(blocks->p);
}

/* The first n of those that are left, from the lowest address on. */
static void
drop_in_order(struct blocks *blocks, size_t n)
{
    for (size_t i = 0; i < blocks->n && n > 0; i++) {
        n -= blocks->p[i] != NULL;
        PyObject_Free(blocks->p[i]);
        blocks->p[i] = NULL;
    }
}

static void
replace_at_random(struct blocks *blocks, unsigned n)
{
    while (n-- > 0) {
        void **place = &blocks->p[random_below((unsigned)blocks->n)];
        PyObject_Free(*place);
        *place = PyObject_Malloc(SIZE);
    }
}

/* A heap that has blocks at hand from now on; there is none yet. */
static struct blocks
build_scattered(size_t mib)
{
    ck_assert_int_eq(_PyMem_SetupAllocators(PYMEM_ALLOCATOR_PYMALLOC), 0);
    struct blocks blocks = build(mib);
    replace_at_random(&blocks, 200 * 1000);
    ck_assert_int_eq(way(), WAY_BY_HAND);
    at_hand_return();
    at_hand_open(SIZE_TO_INDEX(SIZE));
    return blocks;
}

static struct blocks
build_large(void)
{
    return build_scattered(40);
}

static void
count_one(void *n, block *bp)
{
    ck_assert_ptr_nonnull(bp);
    ++*(size_t *)n;
}

static size_t
count_at_hand(void)
{
    size_t n = 0;
    at_hand_visit(count_one, &n);
    return n;
}

/* Frees n blocks, far from each other: those at hand afterwards. */
static size_t
free_some(struct blocks *blocks, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        size_t place = i * (blocks->n / n);
        PyObject_Free(blocks->p[place]);
        blocks->p[place] = NULL;
    }
    return count_at_hand();
}

START_TEST(a_small_heap_has_none_at_hand)
{
    ck_assert_int_eq(_PyMem_SetupAllocators(PYMEM_ALLOCATOR_PYMALLOC), 0);
    struct blocks blocks = build(2);
    replace_at_random(&blocks, 200 * 1000);
    ck_assert_int_eq(way(), WAY_SHORT);
    ck_assert_uint_eq(free_some(&blocks, 100), 0);
    drop(&blocks);
}
END_TEST

/* Each pool is opened once, and one comes and goes for it. */
START_TEST(who_builds_and_drops_in_order_has_none_at_hand)
{
    ck_assert_int_eq(_PyMem_SetupAllocators(PYMEM_ALLOCATOR_PYMALLOC), 0);
    for (int turn = 0; turn < 12; turn++) {
        struct blocks blocks = build(40);
        ck_assert_int_eq(way(), WAY_SHORT);
        drop_in_order(&blocks, blocks.n);
        free(blocks.p);
        ck_assert_int_eq(way(), WAY_SHORT);
    }
}
END_TEST

START_TEST(a_heap_of_five_MiB_has_some)
{
    struct blocks blocks = build_scattered(5);
    ck_assert_uint_eq(free_some(&blocks, 100), 100);
    drop(&blocks);
}
END_TEST

/* The blocks at hand lie side by side then. */
START_TEST(a_heap_that_comes_to_be_freed_in_order_has_none_any_more)
{
    struct blocks blocks = build_large();
    free_some(&blocks, 900);
    at_hand_return();
    ck_assert_int_eq(way(), WAY_BY_HAND);
    at_hand_open(SIZE_TO_INDEX(SIZE));
    drop_in_order(&blocks, 200);
    at_hand_return();
    ck_assert_int_eq(way(), WAY_BY_HAND);       /* they are too few to tell */
    at_hand_open(SIZE_TO_INDEX(SIZE));
    drop_in_order(&blocks, 900);
    at_hand_return();
    ck_assert_int_eq(way(), WAY_SHORT);
    drop(&blocks);
}
END_TEST

#define MIB_OF_POOLS(n) ((n) * POOL_SIZE >> 20)

/* To grow it needs pools, of which some say nothing yet. */
START_TEST(a_heap_that_grows_has_none_any_more)
{
    struct blocks blocks = build_large();
    struct blocks more = build(MIB_OF_POOLS(MOST_SCATTERED / 32));
    ck_assert_int_eq(way(), WAY_BY_HAND);
    struct blocks much_more = build(MIB_OF_POOLS(MOST_SCATTERED / 8));
    ck_assert_int_eq(way(), WAY_SHORT);
    replace_at_random(&much_more, 300 * 1000);
    ck_assert_int_eq(way(), WAY_BY_HAND);
    drop(&blocks);
    drop(&more);
    drop(&much_more);
}
END_TEST

START_TEST(the_block_freed_last_is_given_next)
{
    struct blocks blocks = build_large();
    void *last[100];
    for (size_t i = 0; i < 100; i++) {
        last[i] = blocks.p[i * 1000];
    }
    for (size_t i = 0; i < 100; i++) {
        PyObject_Free(last[i]);
    }
    for (size_t i = 100; i > 0; i--) {
        ck_assert_ptr_eq(PyObject_Malloc(SIZE - i % ALIGNMENT), last[i - 1]);
    }
    PyObject_Free(last[7]);
    ck_assert_ptr_eq(PyMem_Malloc(SIZE), last[7]);      /* both domains */
    PyMem_Free(last[7]);
    ck_assert_ptr_ne(PyObject_Malloc(SIZE + 1), last[7]);
    ck_assert_ptr_eq(PyObject_Malloc(SIZE), last[7]);
    drop(&blocks);
}
END_TEST

START_TEST(those_at_hand_are_bounded)
{
    struct blocks blocks = build_large();
    ck_assert_uint_eq(free_some(&blocks, 5000), AT_HAND_PLACES - 2);
    size_t nfull = 0;
    for (size_t size = ALIGNMENT; size <= 512; size += ALIGNMENT) {
        void *others[1200];
        for (size_t i = 0; i < 1200; i++) {
            others[i] = PyObject_Malloc(size);
        }
        for (size_t i = 0; i < 1200; i++) {
            PyObject_Free(others[i]);
        }
        size_t n = (size_t)(at_hand_for(size)->top - at_hand_places[SIZE_TO_INDEX(size)]);
        ck_assert_uint_le(n * size, 64 * 1024);
        nfull += (n + 1) * size > 64 * 1024 || n == AT_HAND_PLACES - 2;
    }
    ck_assert_uint_ge(nfull, 4);        /* others have just gone back */
    drop(&blocks);
}
END_TEST

/* What is shown of a pool agrees: the sum of the blocks in use. */
static int
add_used(void *sum, const PyMemHeapArena *arena, const PyMemHeapPool *pool)
{
    static uint16_t numbers[4096];
    if (!arena->is_medium && pool->blocksize != 0) {
        *(Py_ssize_t *)sum += pool->nused;
        return PyMemHeap_FreeBlocks(pool, numbers) + (int)pool->nused != (int)pool->ncut;
    }
    return 0;
}

static Py_ssize_t
count_shown(void)
{
    Py_ssize_t sum = 0;
    ck_assert_int_eq(PyMemHeap_Visit(NULL, add_used, &sum), 0);
    return sum;
}

START_TEST(every_count_knows_them)
{
    struct blocks blocks = build_large();
    Py_ssize_t blocks_before = _Py_GetAllocatedBlocks(), shown_before = count_shown();
    ck_assert_uint_eq(free_some(&blocks, 500), 500);
    ck_assert_int_eq(_Py_GetAllocatedBlocks(), blocks_before - 500);
    ck_assert_int_eq(count_shown(), shown_before - 500);
    at_hand_close();
    ck_assert_uint_eq(count_at_hand(), 500);
    ck_assert_int_eq(_Py_GetAllocatedBlocks(), blocks_before - 500);
    ck_assert_int_eq(count_shown(), shown_before - 500);
    at_hand_return();
    ck_assert_uint_eq(count_at_hand(), 0);
    ck_assert_int_eq(_Py_GetAllocatedBlocks(), blocks_before - 500);
    ck_assert_int_eq(count_shown(), shown_before - 500);
    drop(&blocks);
}
END_TEST

static size_t
unused_pools(void)
{
    char line[200];
    size_t npools = SIZE_MAX;
    FILE *file = tmpfile();
    ck_assert_int_eq(_PyObject_DebugMallocStats(file), 1);
    rewind(file);
    while (fgets(line, sizeof(line), file) != NULL) {
        if (strstr(line, " unused pools * ") != NULL) {
            npools = strtoul(line, NULL, 10);
        }
    }
    fclose(file);
    return npools;
}

START_TEST(a_pool_whose_blocks_are_all_at_hand_is_shown_as_unused)
{
    struct blocks blocks = build_large();
    size_t before = unused_pools(), nfreed = 0;
    poolp pool = pool_of(blocks.p[BLOCKS_IN_MIB]);
    for (size_t i = 0; i < blocks.n; i++) {
        if (pool_of(blocks.p[i]) == pool) {
            PyObject_Free(blocks.p[i]);
            blocks.p[i] = NULL;
            nfreed++;
        }
    }
    ck_assert_uint_eq(count_at_hand(), nfreed);
    ck_assert_uint_eq(unused_pools(), before + 1);
    drop(&blocks);
}
END_TEST

START_TEST(a_closed_stack_keeps_its_blocks_to_itself)
{
    struct blocks blocks = build_large();
    unsigned szclass = SIZE_TO_INDEX(SIZE);
    void *p = blocks.p[12345], *q = blocks.p[23456];
    PyObject_Free(p);
    at_hand_close();
    at_hand_close();
    ck_assert_ptr_null(at_hand_take(STACK));
    ck_assert_int_eq(at_hand_put(STACK, q), 0);
    at_hand_open(szclass);
    at_hand_open(szclass);
    ck_assert_ptr_eq(PyObject_Malloc(SIZE), p);
    drop(&blocks);
}
END_TEST

/* Of every other one of the first pools all blocks go, so that pools rest in arenas that are in
 * use.  The blocks of one pool more are at hand above one of another. */
START_TEST(all_go_back_though_a_window_begins_meanwhile)
{
    ck_assert_int_eq(_PyMem_SetupAllocators(PYMEM_ALLOCATOR_PYMALLOC), 0);
    struct blocks blocks = build(40);
    void *below = blocks.p[blocks.n - 1];
    poolp pool = pool_of(blocks.p[blocks.n / 2]);
    for (size_t i = 0; i < blocks.n / 4; i++) {
        if ((uintptr_t)blocks.p[i] / POOL_SIZE % 2 == 0) {
            PyObject_Free(blocks.p[i]);
            blocks.p[i] = NULL;
        }
    }
    main_heap.small_arenas.is_watched = 0;
    at_hand_open(SIZE_TO_INDEX(SIZE));
    ck_assert_int_eq(at_hand_put(STACK, below), 1);
    for (size_t i = 0; i < blocks.n; i++) {
        if (blocks.p[i] != NULL && pool_of(blocks.p[i]) == pool) {
            ck_assert_int_eq(at_hand_put(STACK, blocks.p[i]), 1);
            blocks.p[i] = NULL;
        }
    }
    blocks.p[blocks.n - 1] = NULL;
    Py_ssize_t before = _Py_GetAllocatedBlocks();
    at_hand_return();
    ck_assert_int_eq(main_heap.small_arenas.is_watched, 1);
    ck_assert_uint_eq(count_at_hand(), 0);
    ck_assert_int_eq(_Py_GetAllocatedBlocks(), before);
    drop(&blocks);
}
END_TEST

START_TEST(a_trim_takes_them_in)
{
    struct blocks blocks = build_large();
    ck_assert_uint_gt(free_some(&blocks, 500), 0);
    PyMem_Trim();
    ck_assert_uint_eq(count_at_hand(), 0);
    drop(&blocks);
}
END_TEST

START_TEST(a_hook_sees_every_call)
{
    static struct recorder recorder;
    struct blocks blocks = build_large();
    void *p = blocks.p[1000], *q = blocks.p[2000];
    PyObject_Free(p);
    Py_ssize_t before = _Py_GetAllocatedBlocks();
    recorder_install(&recorder, PYMEM_DOMAIN_OBJ);
    ck_assert_int_eq(way(), WAY_CLOSED);
    ck_assert_int_eq(short_ways[PYMEM_DOMAIN_MEM].way, WAY_BY_HAND);
    PyObject_Free(q);
    ck_assert_int_eq(recorder.ncalls, 1);
    ck_assert_int_eq(_Py_GetAllocatedBlocks(), before - 1);
    recorder_remove(&recorder);
    ck_assert_int_eq(way(), WAY_BY_HAND);
    blocks.p[1000] = PyObject_Malloc(SIZE);
    blocks.p[2000] = PyObject_Malloc(SIZE);
    ck_assert_int_eq(_Py_GetAllocatedBlocks(), before + 1);
    drop(&blocks);
}
END_TEST

/* Each block at hand could keep an arena. */
START_TEST(a_heap_that_shrinks_has_none_at_hand)
{
    struct blocks blocks = build_large();
    size_t most = narenas();
    drop(&blocks);
    ck_assert_uint_le(narenas(), most / 2);
    ck_assert_int_eq(way(), WAY_SHORT);
    for (unsigned i = 0; i < 2 * BLOCKS_IN_MIB; i++) {
        PyObject_Malloc(SIZE);          /* the owner comes by */
    }
    ck_assert_uint_eq(count_at_hand(), 0);
    void *p = PyObject_Malloc(SIZE);
    PyObject_Free(p);
    ck_assert_ptr_eq(PyObject_Malloc(SIZE), p);
}
END_TEST

/* A block of any class says in its first and last word which one it is. */
struct stamped { size_t *p; size_t nwords; };

static void
stamped_drop(struct stamped *it, size_t number)
{
    if (it->p != NULL) {
        ck_assert_uint_eq(it->p[0], number);
        ck_assert_uint_eq(it->p[it->nwords - 1], number);
        PyObject_Free(it->p);
        it->p = NULL;
    }
}

static void
stamped_make(struct stamped *it, size_t number)
{
    it->nwords = 1 + random_below(512 / sizeof(size_t));
    it->p = PyObject_Malloc(it->nwords * sizeof(size_t));
    ck_assert_ptr_nonnull(it->p);
    it->p[0] = it->p[it->nwords - 1] = number;
}

/* For some windows of time, through heaps of many sizes. */
START_TEST(no_block_is_anybody_elses)
{
    enum { N = 60 * 1000, TURNS = 15 };
    static struct stamped blocks[N];
    unsigned nby_hand = 0;
    ck_assert_int_eq(_PyMem_SetupAllocators(PYMEM_ALLOCATOR_PYMALLOC), 0);
    for (unsigned turn = 0; turn < TURNS; turn++) {
        unsigned stays = 1 + turn * 7 % 10;     /* of eleven */
        for (unsigned i = 0; i < 2 * N; i++) {
            size_t number = random_below(N);
            stamped_drop(&blocks[number], number);
            if (random_below(11) < stays) {
                stamped_make(&blocks[number], number);
            }
        }
        nby_hand += way() == WAY_BY_HAND;
        if (turn % 5 == 4) {
            PyMem_Trim();
        }
    }
    ck_assert_uint_gt(nby_hand, 0);
    for (size_t number = 0; number < N; number++) {
        stamped_drop(&blocks[number], number);
    }
    ck_assert_int_eq(count_shown(), 0);
}
END_TEST

START_TEST(others_arenas_go_back_at_once)
{
    static struct arena_source source;
    ck_assert_int_eq(_PyMem_SetupAllocators(PYMEM_ALLOCATOR_PYMALLOC), 0);
    arena_source_install(&source);
    struct blocks blocks = build(40);
    ck_assert_int_eq(way(), WAY_SHORT);
    drop(&blocks);
    ck_assert_uint_le(narenas(), 1);
    arena_source_remove(&source);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("athand");
    TCase *all = tcase_create("all");
    tcase_set_timeout(all, 120);
    suite_add_tcase(suite, all);
    tcase_add_test(all, a_small_heap_has_none_at_hand);
    tcase_add_test(all, who_builds_and_drops_in_order_has_none_at_hand);
    tcase_add_test(all, a_heap_of_five_MiB_has_some);
    tcase_add_test(all, a_heap_that_comes_to_be_freed_in_order_has_none_any_more);
    tcase_add_test(all, a_heap_that_grows_has_none_any_more);
    tcase_add_test(all, the_block_freed_last_is_given_next);
    tcase_add_test(all, those_at_hand_are_bounded);
    tcase_add_test(all, every_count_knows_them);
    tcase_add_test(all, a_pool_whose_blocks_are_all_at_hand_is_shown_as_unused);
    tcase_add_test(all, a_closed_stack_keeps_its_blocks_to_itself);
    tcase_add_test(all, all_go_back_though_a_window_begins_meanwhile);
    tcase_add_test(all, a_trim_takes_them_in);
    tcase_add_test(all, a_hook_sees_every_call);
    tcase_add_test(all, a_heap_that_shrinks_has_none_at_hand);
    tcase_add_test(all, no_block_is_anybody_elses);
    tcase_add_test(all, others_arenas_go_back_at_once);
    return run_suite(suite);
}
