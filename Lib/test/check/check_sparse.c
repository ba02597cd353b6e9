/* Objects/sparse.c: pages of used pools that no block in use needs go back, and come
 * again. */

#include "support.h"
#include "pymemheap.h"
#include "pycore_arenas.h"
#include "pycore_pymem.h"
#include "pycore_sparse.h"
#include "pycore_virtualmem.h"

#include <pthread.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#define MIB ((size_t)1 << 20)

static void
use_pymalloc(void)
{
    ck_assert_int_eq(_PyMem_SetupAllocators(PYMEM_ALLOCATOR_PYMALLOC), 0);
}

static size_t
resident_bytes(void)
{
    return process_size().resident;
}

/* Blocks with a pattern.  Their addresses are in memory that is not ours. */
struct blocks { unsigned char **p; size_t n, least, most; };

static size_t
size_of(const struct blocks *blocks, size_t i)
{
    return blocks->least + i * 7 % (blocks->most - blocks->least + 1);
}

static void
fill(struct blocks *blocks, size_t i)
{
    blocks->p[i] = PyMem_Malloc(size_of(blocks, i));
    if (blocks->p[i] == NULL) {
        ck_abort_msg("no memory");
    }
    fill_pattern(blocks->p[i], size_of(blocks, i), (unsigned)i);
}

static struct blocks
build(size_t n, size_t least, size_t most)
{
    struct blocks blocks = {malloc(n * sizeof(void *)), n, least, most};
    for (size_t i = 0; i < n; i++) {
        fill(&blocks, i);
    }
    return blocks;
}

/* Frees at random all but one of so many. */
static void
thin_out(struct blocks *blocks, unsigned one_of)
{
    for (size_t i = 0; i < blocks->n; i++) {
        if (blocks->p[i] != NULL && random_below(one_of) != 0) {
            PyMem_Free(blocks->p[i]);
            blocks->p[i] = NULL;
        }
    }
}

static void
check_patterns(const struct blocks *blocks)
{
    for (size_t i = 0; i < blocks->n; i++) {
        if (blocks->p[i] != NULL
            && !has_pattern(blocks->p[i], size_of(blocks, i), (unsigned)i))
        {
            ck_abort_msg("block %zu of %zu bytes was written over", i, size_of(blocks, i));
        }
    }
}

static void
refill(struct blocks *blocks)
{
    for (size_t i = 0; i < blocks->n; i++) {
        if (blocks->p[i] == NULL) {
            fill(blocks, i);
        }
    }
}

static void
drop(struct blocks *blocks)
{
    for (size_t i = 0; i < blocks->n; i++) {
        PyMem_Free(blocks->p[i]);
    }
    free(blocks->p);
}

/* Every pool's counts and lists agree: the number of pools with pages that are gone. */
static int
check_pool(void *ngone, const PyMemHeapArena *arena, const PyMemHeapPool *pool)
{
    static uint16_t numbers[1024];
    (void)arena;
    if (pool->blocksize == 0) {
        return 0;
    }
    int n = PyMemHeap_FreeBlocks(pool, numbers);
    if (n < 0 || (unsigned)n + pool->nused != pool->ncut) {
        return 1;
    }
    static unsigned char seen[1024];
    memset(seen, 0, sizeof(seen));
    for (int i = 0; i < n; i++) {
        if (seen[numbers[i]]++) {
            return 2;
        }
    }
    *(size_t *)ngone += pool->gone != 0;
    return 0;
}

static size_t
pools_with_gone_pages(void)
{
    size_t ngone = 0;
    ck_assert_int_eq(PyMemHeap_Visit(NULL, check_pool, &ngone), 0);
    ck_assert_uint_eq(ngone, main_heap.nwith_gone + heap_of_thread->nwith_gone);
    return ngone;
}

static const struct { unsigned one_of, percent; } reach[] = {{100, 60}, {1000, 30}};

START_TEST(what_is_left_of_a_peak)
{
    size_t before = resident_bytes();
    struct blocks blocks = build(2000000, 48, 128);
    size_t peak = resident_bytes() - before;
    thin_out(&blocks, reach[_i].one_of);
    size_t thin = resident_bytes() - before;
    size_t nbytes = PyMem_Trim();
    size_t left = resident_bytes() - before;
    if (virtual_page_size() <= POOL_SIZE / 4) {
        /* An emulator's own memory counts, too: it translated PyMem_Trim(). */
        size_t others = is_emulated() ? 8 * MIB : MIB;
        ck_assert_uint_le(left, peak / 100 * reach[_i].percent);
        ck_assert_uint_ge(nbytes, thin - left - others);
        ck_assert_uint_le(nbytes, thin - left + others);
    }
    check_patterns(&blocks);
    drop(&blocks);
}
END_TEST

/* Of each class, and at random places, so that blocks lie across the edges of pages. */
static const size_t sizes[] = {
    16, 32, 48, 80, 112, 144, 240, 336, 400, 512, 544, 640, 1088, 1500, 2048, 3000, 4096,
    4224, 6000, 9000, 16000, 20000, 32000, 32768,
};

START_TEST(blocks_of_each_class_live_and_come_again)
{
    size_t size = sizes[_i];
    struct blocks blocks = build(8 * MIB / size, size, size);
    for (int round = 0; round < 4; round++) {
        thin_out(&blocks, round == 3 ? 500 : 20);
        PyMem_Trim();
        size_t ngone = pools_with_gone_pages();
        check_patterns(&blocks);
        if (round % 2 == 0) {               /* a pool that was never full may serve, too */
            refill(&blocks);
            ck_assert_uint_le(pools_with_gone_pages(), 1 + ngone / 10);
            check_patterns(&blocks);
        }
    }
    drop(&blocks);
    PyMem_Trim();
    ck_assert_uint_eq(main_heap.nwith_gone + heap_of_thread->nwith_gone, 0);
    ck_assert_uint_eq(main_heap.small_arenas.ncurrent, 0);
    ck_assert_uint_eq(heap_of_thread->medium_arenas.ncurrent, 0);
}
END_TEST

START_TEST(mixed_sizes_that_come_and_go)
{
    struct blocks blocks = build(60000, 1, 2000);
    for (int round = 0; round < 30; round++) {
        thin_out(&blocks, 1 + random_below(40));
        if (round % 3 != 0) {
            PyMem_Trim();
        }
        pools_with_gone_pages();
        for (size_t i = random_below(7); i < blocks.n; i += 1 + random_below(20)) {
            if (blocks.p[i] == NULL) {
                fill(&blocks, i);
            }
        }
        check_patterns(&blocks);
    }
    drop(&blocks);
}
END_TEST

START_TEST(a_second_call_gives_nothing)
{
    struct blocks blocks = build(100000, 64, 64);
    thin_out(&blocks, 100);
    size_t nbytes = PyMem_Trim();
    if (virtual_page_size() < POOL_SIZE) {
        ck_assert_uint_gt(nbytes, MIB);
        ck_assert_uint_gt(pools_with_gone_pages(), 100);
    }
    ck_assert_uint_eq(PyMem_Trim(), 0);
    drop(&blocks);
}
END_TEST

static const struct { size_t n, least, most; unsigned one_of, at_a_time; } swept[] = {
    {400000, 48, 128, 100, 1}, {10000, 2000, 5000, 10, 100},
};

static void
go_on(size_t size, unsigned nblocks)
{
    void *now[100];
    for (unsigned n = 0; n < nblocks; n++) {
        now[n] = PyMem_Malloc(size);
    }
    for (unsigned n = 0; n < nblocks; n++) {
        PyMem_Free(now[n]);
    }
}

/* A program that goes on, if only with a block now and then; of medium ones some. */
START_TEST(a_sweep_comes_by_itself)
{
    struct blocks blocks = build(swept[_i].n, swept[_i].least, swept[_i].most);
    size_t full = resident_bytes();
    /* An emulator's own memory counts, too: it translates what comes first now. */
    size_t gone = is_emulated() ? 12 * MIB : 16 * MIB;
    thin_out(&blocks, swept[_i].one_of);
    for (int i = 0; i < 300 && resident_bytes() + gone > full; i++) {
        go_on(swept[_i].most, swept[_i].at_a_time);
        usleep(20000);
    }
    if (virtual_page_size() <= POOL_SIZE / 4) {
        ck_assert_uint_ge(pools_with_gone_pages(), 100);
        ck_assert_uint_le(resident_bytes() + gone, full);
    }
    check_patterns(&blocks);
    refill(&blocks);
    check_patterns(&blocks);
    drop(&blocks);
}
END_TEST

/* Half of the blocks stay when the sweep comes first.  Later all pools have free blocks
 * already, and none tells that it loses more. */
START_TEST(a_sweep_comes_again)
{
    struct blocks blocks = build(400000, 48, 128);
    thin_out(&blocks, 2);
    struct arena_set *set = &main_heap.small_arenas;
    for (int i = 0; i < 300 && set->sweep_again == 0; i++) {
        go_on(100, 1);
        usleep(20000);
    }
    ck_assert_uint_ne(set->sweep_again, 0);
    size_t before = resident_bytes();
    thin_out(&blocks, 50);
    for (int i = 0; i < 600 && resident_bytes() + 8 * MIB > before; i++) {
        go_on(100, 1);
        usleep(20000);
    }
    if (virtual_page_size() <= POOL_SIZE / 4) {
        ck_assert_uint_le(resident_bytes() + 8 * MIB, before);
    }
    check_patterns(&blocks);
    drop(&blocks);
}
END_TEST

/* A second trim looks at no page that is gone: that would be a page fault. */
START_TEST(pages_that_are_gone_stay_gone)
{
    struct blocks blocks = build(400000, 48, 128);
    thin_out(&blocks, 100);
    PyMem_Trim();
    struct rusage before, after;
    getrusage(RUSAGE_SELF, &before);
    PyMem_Trim();
    getrusage(RUSAGE_SELF, &after);
    ck_assert_int_lt(after.ru_minflt - before.ru_minflt, 100);
    check_patterns(&blocks);
    drop(&blocks);
}
END_TEST

/* A page comes back for one block, and with it only its own blocks. */
START_TEST(a_block_takes_one_page_back)
{
    struct blocks blocks = build(127 * 4, 128, 128);
    for (size_t i = 0; i < blocks.n; i++) {     /* in each pool the first one stays */
        if ((uintptr_t)blocks.p[i] % POOL_SIZE >= 256) {
            PyMem_Free(blocks.p[i]);
            blocks.p[i] = NULL;
        }
    }
    size_t nbytes = PyMem_Trim(), page = virtual_page_size();
    if (page * 4 <= POOL_SIZE) {
        ck_assert_uint_ge(nbytes, 3 * 3 * page);
        uint32_t gone[2];
        unsigned char *p = NULL;
        for (int i = 0; i < 400; i++) {         /* until the pages at hand are full */
            p = PyMem_Malloc(128);
            gone[i % 2] = pool_header_of(pool_of(p))->gone;
            memset(p, 'x', 128);
            ck_assert_uint_eq(gone[i % 2] >> ((uintptr_t)p % POOL_SIZE / page) & 1, 0);
        }
    }
    check_patterns(&blocks);
}
END_TEST

/* By another thread, after its pages went: its page stayed. */

static void *
free_some(void *arg)
{
    struct blocks *blocks = arg;
    for (size_t i = 0; i < blocks->n; i += 2) {
        PyMem_Free(blocks->p[i]);
        blocks->p[i] = NULL;
    }
    return NULL;
}

START_TEST(blocks_that_others_freed_keep_their_page)
{
    struct blocks blocks = build(20000, 600, 900);
    thin_out(&blocks, 20);
    PyMem_Trim();
    pthread_t thread;
    ck_assert_int_eq(pthread_create(&thread, NULL, free_some, &blocks), 0);
    ck_assert_int_eq(pthread_join(thread, NULL), 0);
    pools_with_gone_pages();
    PyMem_Trim();
    pools_with_gone_pages();
    check_patterns(&blocks);
    refill(&blocks);
    check_patterns(&blocks);
    drop(&blocks);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("sparse");
    TCase *tc = tcase_create("sparse");
    tcase_set_timeout(tc, 120);
    tcase_add_checked_fixture(tc, use_pymalloc, NULL);
    suite_add_tcase(suite, tc);
    tcase_add_loop_test(tc, what_is_left_of_a_peak, 0, sizeof(reach) / sizeof(*reach));
    tcase_add_loop_test(tc, blocks_of_each_class_live_and_come_again, 0,
                        sizeof(sizes) / sizeof(*sizes));
    tcase_add_test(tc, mixed_sizes_that_come_and_go);
    tcase_add_test(tc, a_second_call_gives_nothing);
    tcase_add_loop_test(tc, a_sweep_comes_by_itself, 0, sizeof(swept) / sizeof(*swept));
    tcase_add_test(tc, a_sweep_comes_again);
    tcase_add_test(tc, pages_that_are_gone_stay_gone);
    tcase_add_test(tc, a_block_takes_one_page_back);
    tcase_add_test(tc, blocks_that_others_freed_keep_their_page);
    return run_suite(suite);
}
