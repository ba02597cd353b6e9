/* Objects/heapwalk.c: what is shown is what there is, seen against a model that knows
 * every block that was asked for. */

#include "support.h"
#include "pymemheap.h"
#include "pycore_geometry.h"
#include "pycore_pymem.h"

#include <stdlib.h>

#ifdef WITH_PYMALLOC

/* The model: blocks that are allocated, by their addresses. */
enum { MOST = 20000 };
static struct {
    uintptr_t address;
    size_t size;
    int seen;
} model[MOST];
static size_t nmodel;

static int
compare(const void *a, const void *b)
{
    uintptr_t x = *(const uintptr_t *)a, y = *(const uintptr_t *)b;
    return x < y ? -1 : x > y;
}

static void
model_fill(size_t largest)
{
    for (nmodel = 0; nmodel < MOST; nmodel++) {
        size_t size = 1 + random_below((unsigned)largest);
        model[nmodel].address = (uintptr_t)PyObject_Malloc(size);
        model[nmodel].size = size;
        model[nmodel].seen = 0;
    }
}

static void
model_free_some(unsigned one_of)
{
    for (size_t i = 0; i < nmodel;) {
        if (random_below(one_of) == 0) {
            PyObject_Free((void *)model[i].address);
            model[i] = model[--nmodel];
        }
        else {
            i++;
        }
    }
    qsort(model, nmodel, sizeof(model[0]), compare);
}

/* What a walk saw. */
struct seen {
    size_t narenas, npools, npools_free, nfull, nfull_medium, nused, nfree_in_lists;
    uintptr_t last_pool;
    unsigned npools_of_arena;
};

static int
see_arena(void *arg, const PyMemHeapArena *arena)
{
    struct seen *seen = arg;
    ck_assert_uint_eq(seen->npools_of_arena, 0);
    ck_assert_uint_le(arena->pool_address - arena->address, arena->pool_size - 1);
    ck_assert_uint_le(arena->pool_address + arena->npools * arena->pool_size,
                      arena->address + arena->size);
    seen->narenas++;
    seen->npools_of_arena = arena->npools;
    seen->last_pool = 0;
    return 0;
}

static int
see_pool(void *arg, const PyMemHeapArena *arena, const PyMemHeapPool *pool)
{
    struct seen *seen = arg;
    ck_assert_uint_gt(pool->address, seen->last_pool);
    seen->last_pool = pool->address;
    seen->npools_of_arena--;
    seen->npools++;
    if (pool->blocksize == 0) {
        ck_assert_uint_eq(pool->nblocks + pool->nused, 0);
        seen->npools_free++;
        return 0;
    }
    uint16_t numbers[65536 / 8];
    static char is_free[65536];
    int nfree = PyMemHeap_FreeBlocks(pool, numbers);
    ck_assert_int_eq(nfree, (int)(pool->ncut - pool->nused));
    memset(is_free, 0, sizeof(is_free));
    for (int i = 0; i < nfree; i++) {
        ck_assert_int_eq(is_free[numbers[i]], 0);
        is_free[numbers[i]] = 1;
    }
    seen->nused += pool->nused;
    seen->nfull += pool->nused == pool->nblocks;
    seen->nfull_medium += pool->nused == pool->nblocks && arena->is_medium;
    seen->nfree_in_lists += (size_t)nfree;
    ck_assert_int_eq(arena->is_medium, pool->blocksize > SMALL_REQUEST_THRESHOLD);
    unsigned nfound = 0;
    for (unsigned i = 0; i < pool->ncut; i++) {
        uintptr_t address = pool->first_block + i * pool->blocksize;
        uintptr_t *found = bsearch(&address, model, nmodel, sizeof(model[0]), compare);
        if ((found == NULL) != is_free[i]) {
            ck_abort_msg("block %u of %zu bytes: %s", i, pool->blocksize,
                         is_free[i] ? "used, shown as free" : "free, shown as used");
        }
        if (found != NULL) {
            size_t at = (size_t)((char *)found - (char *)model) / sizeof(model[0]);
            ck_assert_uint_le(model[at].size, pool->blocksize);
            model[at].seen++;
            nfound++;
        }
    }
    ck_assert_uint_eq(nfound, pool->nused);
    return 0;
}

/* Sizes up to _i bytes; where it is 512 arenas are at an offset, else few blocks are
 * freed, so that some pools are full. */
START_TEST(every_block_is_seen_once)
{
    static struct arena_source source;
    _PyMem_SetupAllocators(PYMEM_ALLOCATOR_PYMALLOC);
    source.offset = _i == 512 ? 5000 : 0;
    arena_source_install(&source);
    model_fill((size_t)_i);
    model_free_some(_i == 512 ? 3 : 60);
    struct seen seen = {0};
    ck_assert_int_eq(PyMemHeap_Visit(see_arena, see_pool, &seen), 0);
    ck_assert(_i == 512 || seen.nfull > 0);
    ck_assert(_i <= 512 || seen.nfull_medium > 0 || !_PyMem_RawIsUntouched());
    size_t nseen = 0, nlarge = 0;
    for (size_t i = 0; i < nmodel; i++) {
        ck_assert_int_le(model[i].seen, 1);
        nseen += model[i].seen != 0;
        nlarge += model[i].size > SMALL_REQUEST_THRESHOLD;
    }
    ck_assert_uint_eq(nseen, seen.nused);
    ck_assert_uint_eq(nseen, _PyMem_RawIsUntouched() ? nmodel : nmodel - nlarge);
    PyMemHeapFigures figures;
    PyMemHeap_GetFigures(&figures);
    ck_assert_uint_eq(figures.arenas_current + figures.medium_arenas_current,
                      seen.narenas);
    ck_assert_uint_eq(figures.larger_blocks, nlarge);
    ck_assert_uint_gt(seen.nfree_in_lists, 0);
    ck_assert_uint_gt(seen.npools_free, 0);
    arena_source_remove(&source);
}
END_TEST

START_TEST(a_walk_changes_nothing)
{
    _PyMem_SetupAllocators(PYMEM_ALLOCATOR_PYMALLOC);
    model_fill(512);
    model_free_some(3);
    Py_ssize_t blocks = _Py_GetAllocatedBlocks();
    struct seen before = {0}, after = {0};
    PyMemHeap_Visit(see_arena, see_pool, &before);
    PyMemHeap_Visit(see_arena, see_pool, &after);
    ck_assert_int_eq(_Py_GetAllocatedBlocks(), blocks);
    ck_assert_mem_eq(&before, &after, sizeof(before));
}
END_TEST

static int
stop_at_third(void *count, const PyMemHeapArena *arena, const PyMemHeapPool *pool)
{
    (void)arena;
    (void)pool;
    return ++*(int *)count == 3 ? 42 : 0;
}

static int
stop_at_once(void *count, const PyMemHeapArena *arena)
{
    (void)arena;
    ++*(int *)count;
    return 7;
}

START_TEST(a_visitor_ends_the_walk)
{
    int count = 0;
    _PyMem_SetupAllocators(PYMEM_ALLOCATOR_PYMALLOC);
    ck_assert_int_eq(PyMemHeap_Visit(stop_at_once, stop_at_third, &count), 0);
    ck_assert_int_eq(count, 0);         /* nothing there */
    model_fill(512);
    ck_assert_int_eq(PyMemHeap_Visit(NULL, stop_at_third, &count), 42);
    ck_assert_int_eq(count, 3);
    ck_assert_int_eq(PyMemHeap_Visit(stop_at_once, stop_at_third, &count), 7);
    ck_assert_int_eq(count, 4);
    ck_assert_int_eq(PyMemHeap_Visit(NULL, NULL, NULL), 0);
}
END_TEST

static int
ask_for_too_much(void *count, const PyMemHeapArena *arena)
{
    (void)arena;
    ++*(int *)count;
    ck_assert(is_out_of_memory(&families[PYMEM_DOMAIN_RAW]));
    void *p = PyMem_RawMalloc(100000);
    ck_assert_ptr_nonnull(p);
    PyMem_RawFree(p);
    return 0;
}

/* A request that fails asks the heaps to give back what they keep, which are locked. */
START_TEST(a_visitor_may_use_the_raw_domain_until_it_fails)
{
    int count = 0;
    _PyMem_SetupAllocators(PYMEM_ALLOCATOR_PYMALLOC);
    model_fill(3000);
    ck_assert_int_eq(PyMemHeap_Visit(ask_for_too_much, NULL, &count), 0);
    ck_assert_int_gt(count, 1);
    ck_assert(is_out_of_memory(&families[PYMEM_DOMAIN_RAW]));
}
END_TEST

static PyMemHeapPool pool_of_64;

static int
keep_pool(void *arg, const PyMemHeapArena *arena, const PyMemHeapPool *pool)
{
    (void)arg;
    (void)arena;
    if (pool->blocksize == 64) {
        pool_of_64 = *pool;
    }
    return 0;
}

/* The first word of a free block leads to: itself, the middle of a block, a block that
 * was never cut, another pool, the end while others are still free; and that of the last
 * but one to a block that was never cut, and to the middle of one, so that the count is
 * right. */
START_TEST(a_broken_free_list_is_noticed)
{
    _PyMem_SetupAllocators(PYMEM_ALLOCATOR_PYMALLOC);
    void *blocks[10];
    for (int i = 0; i < 10; i++) {
        blocks[i] = PyObject_Malloc(64);
    }
    void *elsewhere = PyObject_Malloc(100);
    PyObject_Free(blocks[3]);
    PyObject_Free(blocks[7]);
    PyMemHeap_Visit(NULL, keep_pool, NULL);
    uint16_t numbers[POOL_SIZE / ALIGNMENT];
    int nfree = PyMemHeap_FreeBlocks(&pool_of_64, numbers);
    ck_assert_int_eq(nfree, (int)pool_of_64.ncut - 8);
    ck_assert_uint_eq(numbers[0], 7);
    ck_assert_uint_eq(numbers[1], 3);
    void *bad[] = {blocks[7], (char *)blocks[5] + 16,
                   (void *)(pool_of_64.first_block + pool_of_64.ncut * 64), elsewhere, NULL};
    void **changed = blocks[7];
    if (_i >= 5) {
        changed = (void **)(pool_of_64.first_block + numbers[nfree - 2] * 64u);
        bad[1] = (void *)(pool_of_64.first_block + numbers[nfree - 1] * 64u + 16);
        *(void **)bad[1] = NULL;
    }
    void *good = *changed;
    *changed = bad[_i == 5 ? 2 : _i == 6 ? 1 : _i];
    ck_assert_int_eq(PyMemHeap_FreeBlocks(&pool_of_64, numbers), -1);
    *changed = good;
    ck_assert_int_eq(PyMemHeap_FreeBlocks(&pool_of_64, numbers), nfree);
}
END_TEST

START_TEST(the_layout_leads_to_the_structures)
{
    _PyMem_SetupAllocators(PYMEM_ALLOCATOR_PYMALLOC);
    const PyMemHeapLayout *at = &_PyMem_HeapLayout;
    ck_assert_mem_eq(at->cookie, "pymemhp5", 8);
    model_fill(512);
    const char *heap = *(const char *const *)at->heaps;
    const char *small = heap + at->heap_small_arenas;
    PyMemHeapFigures figures;
    PyMemHeap_GetFigures(&figures);
    ck_assert_uint_eq(*(const size_t *)(const void *)(small + at->set_ncurrent),
                      figures.arenas_current);
    ck_assert_uint_eq(*(const size_t *)(const void *)(small + at->set_arena_size),
                      ARENA_SIZE);
    const char *chunk = *(const char *const *)(const void *)(heap + at->heap_first_chunk);
    const char *arena = chunk + at->chunk_objects;
    ck_assert_ptr_eq(*(void *const *)(const void *)(arena + at->arena_set), small);
    ck_assert_uint_eq(at->pool_overhead, POOL_OVERHEAD);
    ck_assert_uint_eq(at->threshold, SMALL_REQUEST_THRESHOLD);
}
END_TEST

#else

static int
fail_at_once(void *arg, const PyMemHeapArena *arena)
{
    (void)arg;
    (void)arena;
    return 1;
}

START_TEST(without_pymalloc_there_is_nothing)
{
    void *p = PyObject_Malloc(10);
    ck_assert_int_eq(PyMemHeap_Visit(fail_at_once, NULL, NULL), 0);
    PyMemHeapFigures figures;
    PyMemHeap_GetFigures(&figures);
    ck_assert_uint_eq(figures.arenas_allocated, 0);
    PyMemHeapPool pool = {0};
    ck_assert_int_eq(PyMemHeap_FreeBlocks(&pool, NULL), 0);
    ck_assert_str_eq(_PyMem_HeapLayout.cookie, "");
    PyObject_Free(p);
}
END_TEST

#endif

int
main(void)
{
    Suite *suite = suite_create("heapwalk");
    TCase *tests = tcase_create("heapwalk");
#ifdef WITH_PYMALLOC
    tcase_add_loop_test(tests, every_block_is_seen_once, 512, 513);
    tcase_add_loop_test(tests, every_block_is_seen_once, 300, 301);
    tcase_add_loop_test(tests, every_block_is_seen_once, 5000, 5001);
    tcase_add_test(tests, a_walk_changes_nothing);
    tcase_add_test(tests, a_visitor_ends_the_walk);
    tcase_add_test(tests, a_visitor_may_use_the_raw_domain_until_it_fails);
    tcase_add_loop_test(tests, a_broken_free_list_is_noticed, 0, 7);
    tcase_add_test(tests, the_layout_leads_to_the_structures);
#else
    tcase_add_test(tests, without_pymalloc_there_is_nothing);
#endif
    suite_add_tcase(suite, tests);
    return run_suite(suite);
}
