/* Objects/rings.c: which used pool gives the next blocks. */

#include "support.h"
#include "pycore_arenas.h"
#include "pycore_pymem.h"

#define NPOOLS 40u

static const size_t sizes[] = {64, 512, 3000};

static void
use_pymalloc(void)
{
    ck_assert_int_eq(_PyMem_SetupAllocators(PYMEM_ALLOCATOR_PYMALLOC), 0);
}

static poolp
pool_of_any(const void *ptr)
{
    poolp pool = pool_of(ptr);
    return pool != NULL ? pool : medium_pool_of(ptr);
}

static struct arena_set *
set_of(poolp pool)
{
    return pool_is_medium(pool) ? &heap_of_this_thread()->medium_arenas
        : &main_heap.small_arenas;
}

/* Full pools of one class, side by side; the class is this test's alone. */
struct full_pools {
    unsigned nblocks;           /* in each */
    poolp pools[NPOOLS];
    void **blocks;              /* those of pool i from i * nblocks on */
};

static struct full_pools
fill_pools(size_t size)
{
    struct full_pools full = {0, {NULL}, NULL};
    void *p = PyObject_Malloc(size);
    full.nblocks = size_classes[pool_class(pool_of_any(p))].nblocks;
    full.blocks = calloc((size_t)NPOOLS * full.nblocks, sizeof(void *));
    while (pool_of_any(p)->inuse < full.nblocks) {      /* one to begin after */
        PyObject_Malloc(size);
    }
    for (unsigned i = 0; i < NPOOLS * full.nblocks; i++) {
        full.blocks[i] = PyObject_Malloc(size);
    }
    for (unsigned i = 0; i < NPOOLS; i++) {
        full.pools[i] = pool_of_any(full.blocks[i * full.nblocks]);
        ck_assert_ptr_eq(full.pools[i],
                         pool_of_any(full.blocks[(i + 1) * full.nblocks - 1]));
    }
    return full;
}

/* The first blocks of a pool, but for those that are free already. */
static void
free_of_pool(struct full_pools *full, unsigned number, unsigned nfree)
{
    for (unsigned i = 0; i < nfree; i++) {
        void **place = &full->blocks[number * full->nblocks + i];
        PyObject_Free(*place);
        *place = NULL;
    }
}

static unsigned
blocks_in(const struct full_pools *full, unsigned first, unsigned step)
{
    unsigned n = 0;
    for (unsigned i = first; i < NPOOLS; i += step) {
        n += pool_count_blocks(full->pools[i]);
    }
    return n;
}

START_TEST(blocks_come_from_the_fullest_pools)
{
    struct full_pools full = fill_pools(sizes[_i]);
    unsigned few = full.nblocks * 2 / 3, many = full.nblocks * 9 / 10;
    for (unsigned i = 0; i < NPOOLS; i++) {
        free_of_pool(&full, i, i % 2 ? few : many);
    }
    unsigned before = blocks_in(&full, 0, 2);
    for (unsigned i = 0; i < few * (NPOOLS / 2); i++) {
        PyObject_Malloc(sizes[_i]);
    }
    ck_assert_uint_eq(blocks_in(&full, 0, 2), before);
    ck_assert_uint_eq(blocks_in(&full, 1, 2), full.nblocks * (NPOOLS / 2));
}
END_TEST

/* All pools wait with a third of their blocks; then some lose nearly all. */
START_TEST(a_pool_that_became_emptier_while_it_waited_comes_later)
{
    struct full_pools full = fill_pools(sizes[_i]);
    unsigned few = full.nblocks * 2 / 3, many = full.nblocks * 9 / 10;
    for (unsigned i = 0; i < NPOOLS; i++) {
        free_of_pool(&full, i, few);
    }
    void *p = NULL;
    for (unsigned i = 0; i <= few; i++) {       /* the pool at hand becomes full */
        p = PyObject_Malloc(sizes[_i]);
    }
    unsigned lost = 0;
    for (unsigned i = 0; i < NPOOLS; i += 2) {
        for (unsigned n = few; n < many && full.pools[i] != pool_of_any(p); n++) {
            PyObject_Free(full.blocks[i * full.nblocks + n]);
            lost++;
        }
    }
    unsigned before = blocks_in(&full, 0, 2);
    for (unsigned i = 0; i < few * (NPOOLS / 2) - 3 * few; i++) {
        PyObject_Malloc(sizes[_i]);
    }
    ck_assert_uint_gt(lost, 0);
    ck_assert_uint_le(blocks_in(&full, 0, 2), before + few);
}
END_TEST

START_TEST(a_pool_that_becomes_empty_while_it_waits_goes_back)
{
    struct full_pools full = fill_pools(sizes[_i]);
    for (unsigned i = 0; i < NPOOLS; i++) {
        free_of_pool(&full, i, full.nblocks * 2 / 3);
    }
    for (unsigned i = 0; i <= full.nblocks * 2 / 3; i++) {      /* the same */
        PyObject_Malloc(sizes[_i]);
    }
    size_t nfree = 0;
    for (unsigned i = 0; i < NPOOLS; i++) {
        for (unsigned n = full.nblocks * 2 / 3; n < full.nblocks; n++) {
            PyObject_Free(full.blocks[i * full.nblocks + n]);
        }
        nfree += full.pools[i]->blocksize == 0;
    }
    ck_assert_uint_ge(nfree, NPOOLS - 3);
    ck_assert_uint_gt(heap_trim(set_of(pool_of_any(PyObject_Malloc(sizes[_i])))->heap), 0);
}
END_TEST

/* The pool at hand is alone in its ring, and not the last one of its class. */
START_TEST(an_empty_pool_goes_back_though_it_is_alone_in_its_ring)
{
    struct full_pools full = fill_pools(sizes[_i]);
    unsigned few = full.nblocks * 2 / 3, number = 0;
    for (unsigned i = 0; i < NPOOLS; i++) {
        free_of_pool(&full, i, few);
    }
    void *p = NULL;
    for (unsigned i = 0; i <= few; i++) {       /* the one before becomes full */
        p = PyObject_Malloc(sizes[_i]);
    }
    poolp pool = pool_of_any(p);
    while (full.pools[number] != pool) {
        ck_assert_uint_lt(++number, NPOOLS);
    }
    ck_assert_ptr_eq(pool->next, pool->prev);
    PyObject_Free(p);
    for (unsigned i = few; i < full.nblocks; i++) {
        PyObject_Free(full.blocks[number * full.nblocks + i]);
    }
    ck_assert_uint_eq(pool->blocksize, 0);
}
END_TEST

/* The last pool of a class stays, and where nothing is off the fast path a lookout meets it
 * beside others: it must still go when all that is free goes. */
START_TEST(an_empty_pool_is_found_though_others_wait)
{
    struct full_pools full = fill_pools(64);
    void *last = PyObject_Malloc(64);
    PyObject_Free(last);                        /* its pool is kept */
    poolp kept = pool_of_any(last);
    ck_assert_uint_eq(kept->inuse, 0);
    for (unsigned i = 0; i < NPOOLS; i++) {
        free_of_pool(&full, i, full.nblocks / 2);
    }
    heap_post_lookouts(&main_heap);
    PyObject_Free(PyObject_Malloc(64));
    heap_trim(&main_heap);
    ck_assert(kept->blocksize == 0 || kept->inuse > 0);
}
END_TEST

static int
count_pools_of_64(const struct arena_object *arena, void *npools)
{
    for (unsigned i = 0; i < arena->ntotalpools; i++) {
        *(unsigned *)npools += arena_pool(arena, i)->blocksize == 64;
    }
    return 0;
}

/* Blocks come and go at random, and slowly become fewer.  If each pool gave blocks in its
 * turn, all would be as full as the others.  They are too few for any to be at hand. */
START_TEST(where_blocks_become_fewer_pools_become_fewer)
{
    enum { MOST = 40000, LEFT = 10000 };
    static void *blocks[MOST];
    unsigned n = 0;
    while (n < MOST) {
        blocks[n++] = PyObject_Malloc(64);
    }
    poolp pool = pool_of(blocks[0]);
    unsigned in_pool = size_classes[pool_class(pool)].nblocks;
    while (n > LEFT) {
        for (unsigned i = 0; i < 20; i++) {
            unsigned gone = random_below(n);
            PyObject_Free(blocks[gone]);
            blocks[gone] = i < 19 ? PyObject_Malloc(64) : blocks[--n];
        }
    }
    unsigned npools = 0;
    arenas_visit(&main_heap.small_arenas, count_pools_of_64, &npools);
    ck_assert_uint_le(npools, LEFT / in_pool * 2);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("rings");
    TCase *tc = tcase_create("rings");
    int nsizes = sizeof(sizes) / sizeof(*sizes);
    tcase_set_timeout(tc, 60);
    tcase_add_checked_fixture(tc, use_pymalloc, NULL);
    tcase_add_loop_test(tc, blocks_come_from_the_fullest_pools, 0, nsizes);
    tcase_add_loop_test(tc, a_pool_that_became_emptier_while_it_waited_comes_later, 0, nsizes);
    tcase_add_loop_test(tc, a_pool_that_becomes_empty_while_it_waits_goes_back, 0, nsizes);
    tcase_add_loop_test(tc, an_empty_pool_goes_back_though_it_is_alone_in_its_ring, 0, nsizes);
    tcase_add_test(tc, an_empty_pool_is_found_though_others_wait);
    tcase_add_test(tc, where_blocks_become_fewer_pools_become_fewer);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
