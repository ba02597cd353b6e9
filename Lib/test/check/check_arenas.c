/* Objects/arenas.c, poolmap.c, arenaalloc.c: how arenas are bought, told apart, kept and
 * returned. */

#include "support.h"
#include <unistd.h>
#include "pycore_arenas.h"
#include "pycore_pymem.h"
#include "pycore_virtualmem.h"

#include <sys/mman.h>

static struct arena_source source;
enum { MANY = 40000 };
static void *blocks[MANY * 4];
static size_t nblocks;

static void
use_pymalloc(void)
{
    ck_assert_int_eq(_PyMem_SetupAllocators(PYMEM_ALLOCATOR_PYMALLOC), 0);
}

/* Take blocks of 512 bytes until the source has given n arenas. */
static void
fill_arenas(size_t n)
{
    while (source.nalloc < n) {
        blocks[nblocks] = PyObject_Malloc(512);
        if (blocks[nblocks] == NULL || nblocks++ == MANY) {
            ck_abort_msg("the allocator was not asked for %zu arenas", n);
        }
    }
}

static void
free_blocks(void)
{
    while (nblocks > 0) {
        PyObject_Free(blocks[--nblocks]);
    }
}

START_TEST(an_installed_allocator_is_asked_for_arenas_of_one_size)
{
    arena_source_install(&source);
    fill_arenas(5);
    ck_assert_uint_eq(source.bad_size, 0);
    ck_assert_uint_eq(source.nlive, 5);
    ck_assert_uint_eq(main_heap.small_arenas.ncurrent, 5);
    ck_assert_uint_eq(main_heap.small_arenas.nhighwater, 5);
    free_blocks();
    ck_assert_uint_eq(source.bad_size, 0);
    ck_assert_uint_eq(main_heap.small_arenas.nhighwater, 5);
}
END_TEST

START_TEST(an_installed_allocator_gets_all_arenas_back_but_one)
{
    arena_source_install(&source);
    fill_arenas(8);
    free_blocks();
    ck_assert_uint_eq(source.nlive, 1);
    ck_assert_uint_eq(source.nfree, 7);
    ck_assert_uint_eq(main_heap.small_arenas.ncurrent, 1);
}
END_TEST

/* One size class each: the last pool of a class is kept in its list, and must
 * not hold on to an arena. */
START_TEST(kept_pools_hold_no_arena)
{
    arena_source_install(&source);
    for (unsigned i = 0; i < NB_SMALL_SIZE_CLASSES; i++) {
        for (unsigned k = 0; k < ARENA_SIZE / 512; k++) {
            blocks[nblocks++] = PyObject_Malloc(INDEX_TO_SIZE(i));
        }
    }
    ck_assert_uint_gt(source.nlive, 8);
    free_blocks();
    ck_assert_uint_eq(source.nlive, 1);
}
END_TEST

static void
peak(size_t n)
{
    for (nblocks = 0; nblocks < n; nblocks++) {
        blocks[nblocks] = PyObject_Malloc(512);
    }
    free_blocks();
}

START_TEST(trim_returns_all_that_no_block_is_in)
{
    block *first = PyObject_Malloc(512);
    memset(first, 'x', 512);
    peak(50000);
    size_t current = main_heap.small_arenas.ncurrent;
    size_t trimmed = PyMem_Trim();
    ck_assert_uint_eq(main_heap.small_arenas.ncurrent, 1);
    ck_assert_uint_eq(trimmed, current * ARENA_SIZE - virtual_page_size());
    ck_assert(is_filled(first, 512, 'x'));
    PyObject_Free(first);
    ck_assert_uint_eq(PyMem_Trim(), ARENA_SIZE);
    ck_assert_uint_eq(main_heap.small_arenas.ncurrent, 0);
    peak(100);
    ck_assert_uint_eq(main_heap.small_arenas.ncurrent, 1);
}
END_TEST

START_TEST(trim_leaves_the_memory_of_others_alone)
{
    arena_source_install(&source);
    void *p = PyObject_Malloc(512);
    ck_assert_uint_eq(PyMem_Trim(), 0);
    PyObject_Free(p);
    ck_assert_uint_eq(PyMem_Trim(), ARENA_SIZE);
    ck_assert_uint_eq(source.nlive, 0);
}
END_TEST

START_TEST(arenas_that_are_not_to_be_had_cost_nothing)
{
    source.fail_at = 1;
    source.fail_on = 1;
    arena_source_install(&source);
    for (int i = 0; i < 2000; i++) {
        PyObject_Free(PyObject_Malloc(100));
    }
    ck_assert_uint_eq(source.nalloc, 2000);
    ck_assert_uint_le(main_heap.nchunks, 1);
}
END_TEST

/* A kept pool that went no longer counts: the arena is seen to be empty as soon
 * as its last block is freed. */
START_TEST(a_kept_pool_that_was_released)
{
    arena_source_install(&source);
    fill_arenas(2);
    void *last = PyObject_Malloc(100);          /* in the second arena */
    PyObject_Free(blocks[--nblocks]);           /* its pool is kept ... */
    PyMem_Trim();                               /* ... and released */
    for (size_t i = 0; i < 2 * NUMBLOCKS(512); i++) {
        PyObject_Free(blocks[i]);               /* the first one has room now */
        blocks[i] = NULL;
    }
    ck_assert_uint_eq(source.nlive, 2);
    PyObject_Free(last);
    ck_assert_uint_eq(source.nlive, 1);
}
END_TEST

#if UINTPTR_MAX > 0xFFFFFFFFu
/* An address that no map covers, as 32 bits have none: such an arena goes back at
 * once, and the block comes from elsewhere. */

static size_t nfar;

static void *
far_alloc(void *ctx, size_t size)
{
    (void)ctx;
    (void)size;
    nfar++;
    return (void *)((uintptr_t)1 << 56);
}

static void
far_free(void *ctx, void *ptr, size_t size)
{
    (void)ctx;
    ck_assert_ptr_eq(ptr, far_alloc(NULL, size));
    nfar -= 2;
}

START_TEST(an_arena_beyond_the_map)
{
    PyObjectArenaAllocator far = {NULL, far_alloc, far_free};
    PyObject_SetArenaAllocator(&far);
    unsigned char *p = PyObject_Malloc(37);
    ck_assert_ptr_nonnull(p);
    memset(p, 1, 37);
    PyObject_Free(p);
    ck_assert_uint_eq(nfar, 0);
    ck_assert_uint_eq(main_heap.small_arenas.ncurrent, 0);
}
END_TEST
#endif

START_TEST(the_next_pool_comes_from_the_fullest_arena)
{
    arena_source_install(&source);
    fill_arenas(3);
    /* Empty most of the first arena and one pool of the second. */
    block *in_first = blocks[0];
    block *in_second = blocks[MAX_POOLS_IN_ARENA * NUMBLOCKS(512) + 5];
    const struct arena_object *first = pool_header_of(pool_of(in_first))->arena;
    const struct arena_object *second =
        pool_header_of(pool_of(in_second))->arena;
    ck_assert_ptr_ne(first, second);
    poolp second_pool = pool_of(in_second);
    for (size_t i = 0; i < nblocks; i++) {
        poolp pool = pool_of(blocks[i]);
        if ((pool_header_of(pool)->arena == first && pool != pool_of(in_first))
            || pool == second_pool)
        {
            PyObject_Free(blocks[i]);
            blocks[i] = NULL;
        }
    }
    ck_assert_uint_eq(second->nfreepools, 1);
    ck_assert_uint_gt(first->nfreepools, 1);
    void *p = PyObject_Malloc(16);
    ck_assert_ptr_eq(pool_header_of(pool_of(p))->arena, second);
}
END_TEST

START_TEST(unaligned_arenas_lose_a_pool_and_nothing_else)
{
    static const size_t offsets[] = {1, 8, 4096, 16384, 16385, 100000};
    source.offset = offsets[_i];
    arena_source_install(&source);
    fill_arenas(3);
    for (size_t i = 0; i < nblocks; i += 13) {
        poolp pool = pool_of(blocks[i]);
        ck_assert_ptr_nonnull(pool);
        ck_assert(arena_is_valid(pool_header_of(pool)->arena));
        ck_assert_uint_eq(pool_header_of(pool)->arena->ntotalpools,
                          MAX_POOLS_IN_ARENA
                          - (offsets[_i] % POOL_SIZE != 0 ? 1 : 0));
        uintptr_t start = pool_header_of(pool)->arena->address;
        ck_assert_uint_ge((uintptr_t)blocks[i], start);
        ck_assert_uint_le((uintptr_t)blocks[i] + 512, start + ARENA_SIZE);
    }
    free_blocks();
    ck_assert_uint_eq(source.nlive, 1);
}
END_TEST

/* Addresses right before and behind each border of an arena and of its pools
 * are told apart, and nothing beside it is read: the neighbours have no access
 * at all. */
#define GUARD ((size_t)65536)
static void *
guarded_alloc(void *ctx, size_t size)
{
    char *memory = mmap(NULL, size + 2 * GUARD, PROT_NONE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ck_assert_ptr_ne(memory, MAP_FAILED);
    memory += GUARD;
    ck_assert_int_eq(mprotect(memory, size, PROT_READ | PROT_WRITE), 0);
    *(char **)ctx = memory;
    return memory;
}

static void
guarded_free(void *ctx, void *ptr, size_t size)
{
    (void)ctx;
    munmap((char *)ptr - GUARD, size + 2 * GUARD);
}

START_TEST(addresses_beside_an_arena_are_not_its_blocks)
{
    char *arena;
    PyObjectArenaAllocator guarded = {&arena, guarded_alloc, guarded_free};
    PyObject_SetArenaAllocator(&guarded);
    block *p = PyObject_Malloc(16);
    const struct arena_object *object = pool_header_of(pool_of(p))->arena;
    while (object->nfreepools > 0) {
        PyObject_Malloc(512);
    }
    char *first = (char *)object->pool_address;
    char *end = first + object->ntotalpools * POOL_SIZE;
    ck_assert_ptr_eq((char *)object->address, arena);
    ck_assert_ptr_nonnull(pool_of(first));
    ck_assert_ptr_nonnull(pool_of(end - 1));
    ck_assert_ptr_null(pool_of(first - 1));
    ck_assert_ptr_null(pool_of(end));
    ck_assert_ptr_null(pool_of(arena - 1));
    ck_assert_ptr_null(pool_of(arena + ARENA_SIZE));
    ck_assert_ptr_null(pool_of(NULL));
    ck_assert_ptr_null(pool_of((void *)1));
    ck_assert_ptr_null(pool_of((void *)UINTPTR_MAX));
    ck_assert_ptr_null(pool_of(&arena));
    ck_assert_ptr_null(pool_of((void *)((uintptr_t)first ^ (UINTPTR_MAX / 2 + 1))));
}
END_TEST

#if UINTPTR_MAX > 0xFFFFFFFFu
/* Arenas far apart, the first of them across a multiple of 4 GiB, where two
 * leaves of the pool map meet. */
static void *
distant_alloc(void *ctx, size_t size)
{
    uintptr_t *next = ctx;
    *next += ((uintptr_t)8 << 30) + (*next & ((uintptr_t)1 << 33) ? 0 : size / 2);
    void *memory = mmap((void *)*next, size, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1,
                        0);
    ck_assert_ptr_ne(memory, MAP_FAILED);
    return memory;
}

static void
distant_free(void *ctx, void *ptr, size_t size)
{
    (void)ctx;
    munmap(ptr, size);
}

START_TEST(arenas_far_apart_are_all_known)
{
    uintptr_t next = ((uintptr_t)1 << 44) - ARENA_SIZE / 2;
    PyObjectArenaAllocator distant = {&next, distant_alloc, distant_free};
    PyObject_SetArenaAllocator(&distant);
    while (main_heap.small_arenas.ncurrent < 6) {
        blocks[nblocks] = PyObject_Malloc(512);
        fill_pattern(blocks[nblocks], 512, (unsigned)nblocks);
        nblocks++;
    }
    ck_assert_uint_ge(pool_map_nleaves, 6);
    size_t known = 0;
    while (known < nblocks && pool_of(blocks[known]) != NULL
           && has_pattern(blocks[known], 512, (unsigned)known))
    {
        known++;
    }
    ck_assert_uint_eq(known, nblocks);
    ck_assert_ptr_null(pool_of((void *)(next + 3 * ARENA_SIZE)));
    ck_assert_ptr_null(pool_of((void *)(next ^ ((uintptr_t)1 << 45))));
    free_blocks();
    ck_assert_int_eq(_Py_GetAllocatedBlocks(), 0);
    ck_assert_uint_eq(main_heap.small_arenas.ncurrent, 1);
}
END_TEST
#endif

START_TEST(a_free_pool_owns_no_address)
{
    void *keep = PyObject_Malloc(512);
    block *p = PyObject_Malloc(16);
    ck_assert_ptr_nonnull(pool_of(p));
    void *first = p, *other;
    do {                    /* until the class goes on to a second pool */
        other = PyObject_Malloc(16);
    } while (pool_of(other) == pool_of(first));
    poolp pool = pool_of(first);
    for (unsigned i = 0; i < NUMBLOCKS(16); i++) {
        PyObject_Free(p + i * 16);
    }
    ck_assert_uint_eq(pool->blocksize, 0);
    ck_assert_ptr_null(pool_of(first));
    PyObject_Free(keep);
}
END_TEST

START_TEST(without_arenas_blocks_come_from_the_raw_domain)
{
    static struct recorder raw;
    source.fail_at = 1;
    source.fail_on = 1;
    arena_source_install(&source);
    recorder_install(&raw, PYMEM_DOMAIN_RAW);
    char *p = PyObject_Malloc(30);
    char *q = PyMem_Calloc(3, 10);
    ck_assert_ptr_nonnull(p);
    ck_assert_ptr_null(pool_of(p));
    ck_assert_uint_eq(raw.ncalls, 2);
    ck_assert_int_eq(raw.calls[0].what, 'm');
    ck_assert_int_eq(raw.calls[1].what, 'c');
    ck_assert_int_eq(q[29], 0);
    ck_assert_int_eq(_Py_GetAllocatedBlocks(), 2);
    p = PyObject_Realloc(p, 60);
    ck_assert_int_eq(raw.calls[2].what, 'r');
    PyObject_Free(p);
    PyMem_Free(q);
    recorder_remove(&raw);
    ck_assert_uint_ge(source.nalloc, 2);
    ck_assert_int_eq(_Py_GetAllocatedBlocks(), 0);
    ck_assert_uint_eq(main_heap.small_arenas.ncurrent, 0);
}
END_TEST

START_TEST(the_kth_arena_fails_and_nothing_is_lost)
{
    source.fail_at = _i + 1;
    arena_source_install(&source);
    while (source.nalloc < 9) {
        blocks[nblocks] = PyObject_Malloc(500);
        if (blocks[nblocks] == NULL || nblocks == MANY) {
            ck_abort_msg("block %zu: %p", nblocks, blocks[nblocks]);
        }
        memset(blocks[nblocks], (int)(nblocks & 0xff), 500);
        nblocks++;
    }
    size_t kept = 0;
    while (kept < nblocks
           && is_filled(blocks[kept], 500, (unsigned char)(kept & 0xff)))
    {
        kept++;
    }
    ck_assert_uint_eq(kept, nblocks);
    ck_assert_uint_eq(source.nlive, 8);
    free_blocks();
    ck_assert_uint_eq(source.nlive, 1);
    ck_assert_int_eq(_Py_GetAllocatedBlocks(), 0);
}
END_TEST

static int
count_arena(const struct arena_object *arena, void *arg)
{
    ck_assert(arena_is_valid(arena));
    return ++*(int *)arg == 3 ? 7 : 0;
}

START_TEST(a_visit_ends_when_it_is_told)
{
    arena_source_install(&source);
    fill_arenas(5);
    int n = 0;
    ck_assert_int_eq(arenas_visit(&main_heap.small_arenas, count_arena, &n), 7);
    ck_assert_int_eq(n, 3);
}
END_TEST

START_TEST(more_arenas_than_one_chunk_of_objects_describes)
{
    enum { N = 700 };
    static void *p[N * 64];
    size_t n = 0;
    while (main_heap.small_arenas.ncurrent < N / 2) {
        p[n++] = PyObject_Malloc(512);
        for (unsigned i = 1; i < NUMBLOCKS(512); i++) {
            PyObject_Malloc(512);
        }
    }
    ck_assert_uint_ge(main_heap.nchunks, 2);
    for (size_t i = 0; i < n; i += 50) {
        ck_assert(arena_is_valid(pool_header_of(pool_of(p[i]))->arena));
    }
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("arenas");
    TCase *tc = tcase_create("arenas");
    tcase_set_timeout(tc, 120);
    tcase_add_checked_fixture(tc, use_pymalloc, NULL);
    suite_add_tcase(suite, tc);
    tcase_add_test(tc, an_installed_allocator_is_asked_for_arenas_of_one_size);
    tcase_add_test(tc, an_installed_allocator_gets_all_arenas_back_but_one);
    tcase_add_test(tc, kept_pools_hold_no_arena);
    tcase_add_test(tc, trim_returns_all_that_no_block_is_in);
    tcase_add_test(tc, trim_leaves_the_memory_of_others_alone);
    tcase_add_test(tc, arenas_that_are_not_to_be_had_cost_nothing);
    tcase_add_test(tc, a_kept_pool_that_was_released);
#if UINTPTR_MAX > 0xFFFFFFFFu
    tcase_add_test(tc, an_arena_beyond_the_map);
#endif
    tcase_add_test(tc, the_next_pool_comes_from_the_fullest_arena);
    tcase_add_loop_test(tc, unaligned_arenas_lose_a_pool_and_nothing_else, 0, 6);
    tcase_add_test(tc, addresses_beside_an_arena_are_not_its_blocks);
    /* The thread sanitizer allows no mappings where this test wants them. */
#if UINTPTR_MAX > 0xFFFFFFFFu && !defined(__SANITIZE_THREAD__)
    tcase_add_test(tc, arenas_far_apart_are_all_known);
#endif
    tcase_add_test(tc, a_free_pool_owns_no_address);
    tcase_add_test(tc, without_arenas_blocks_come_from_the_raw_domain);
    tcase_add_loop_test(tc, the_kth_arena_fails_and_nothing_is_lost, 0, 9);
    tcase_add_test(tc, a_visit_ends_when_it_is_told);
    tcase_add_test(tc, more_arenas_than_one_chunk_of_objects_describes);
    return run_suite(suite);
}
