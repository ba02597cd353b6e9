/* Blocks and pools: requests of 1 to 512 bytes, and where others go.
 *
 *   arena (1 MiB)                    pool (16 KiB)
 *   +------+------+-- ... --+        +--------+-------+-------+-- ... --+
 *   | pool | pool |         |        | header | block | block |         |
 *   +------+------+-- ... --+        +--------+-------+-------+-- ... --+
 *
 * Life of a pool:
 *
 *              +-----------------------------------------------+
 *              v                                               | its last block
 *   arena --> used --- malloc finds no block in it --> full    | is freed
 *              |  <--- its first block is freed -------        |
 *              +-----------------------------------------------+
 *
 * The fast paths are in pycore_pymalloc.h; here is what happens when a pool
 * reaches a border, and pymalloc as an allocator for a domain.
 *
 * Owns usedpools[].  Calls arenas.c for pools, never the system; mediumalloc.c
 * and the raw domain for what is not small. */

#include "pycore_pymalloc.h"
#include "pycore_arenas.h"
#include "pycore_host.h"
#include "pycore_mediumalloc.h"
#include "pycore_pymem.h"
#include "pycore_sharedheap.h"
#include "pycore_valgrind.h"
#include "cpython/pymem.h"
#include "cpython/objimpl.h"

#include <string.h>

/* Rings of one, and the blocks of a pool, for each size class. */
#define RING(i) [i] = {.next = &usedpools[i], .prev = &usedpools[i]}
#define COUNT(i) [i] = NUMBLOCKS(INDEX_TO_SIZE(i))
#define EIGHT(OF, i) OF(i), OF((i) + 1), OF((i) + 2), OF((i) + 3),          \
                     OF((i) + 4), OF((i) + 5), OF((i) + 6), OF((i) + 7)
#define THIRTY_TWO(OF, i) EIGHT(OF, i), EIGHT(OF, (i) + 8),                 \
                          EIGHT(OF, (i) + 16), EIGHT(OF, (i) + 24)

struct pool usedpools[NB_SMALL_SIZE_CLASSES] = {
    THIRTY_TWO(RING, 0),
#if NB_SMALL_SIZE_CLASSES > 32
    THIRTY_TWO(RING, 32),
#endif
};

static const uint16_t blocks_in_pool[NB_SMALL_SIZE_CLASSES] = {
    THIRTY_TWO(COUNT, 0),
#if NB_SMALL_SIZE_CLASSES > 32
    THIRTY_TWO(COUNT, 32),
#endif
};

Py_ssize_t raw_allocated_blocks;

/* What must hold for a pool that is used or full. */
#ifdef Py_DEBUG
static int
pool_is_valid(poolp pool)
{
    unsigned szidx = SIZE_TO_INDEX(pool->blocksize);
    unsigned cut = (unsigned)((pool->nextoffset - POOL_OVERHEAD)
                              / pool->blocksize);
    unsigned nfree = 0;
    for (block *bp = pool->freeblock; bp != NULL; bp = *(block **)bp) {
        size_t offset = (size_t)(bp - pool_address(pool));
        if (offset < POOL_OVERHEAD || offset >= pool->nextoffset
            || (offset - POOL_OVERHEAD) % pool->blocksize != 0
            || ++nfree > cut)
        {
            return 0;
        }
    }
    return szidx < NB_SMALL_SIZE_CLASSES
        && pool->blocksize == INDEX_TO_SIZE(szidx)
        && pool_header_of(pool)->pool == pool
        && cut <= blocks_in_pool[szidx]
        && pool_count_blocks(pool) == cut - nfree
        && (pool->next == NULL
            || (pool->next->prev == pool && pool->prev->next == pool));
}
#endif

/* A pool comes in last.  While it waits for its turn more of its blocks are
 * freed, so that malloc finds several in it: with the first place it would find
 * one, and every other call would move a pool out of the ring or back. */
static void
pool_link(poolp pool)
{
    poolp ring = &usedpools[SIZE_TO_INDEX(pool->blocksize)];
    pool->next = ring;
    pool->prev = ring->prev;
    ring->prev->next = pool;
    ring->prev = pool;
}

static void
pool_unlink(poolp pool)
{
    pool->prev->next = pool->next;
    pool->next->prev = pool->prev;
}

/* Is there memory in a pool that was never cut into blocks?  There is in one
 * pool of a ring at the most: another is got only when the ring is empty. */
static int
pool_is_uncut(poolp pool)
{
    return (size_t)pool->nextoffset + pool->blocksize <= POOL_SIZE;
}

/* Cut the rest of the current page into free blocks, lowest address first; 0
 * if there is no more to cut.  The pool has no free block. */
static int
pool_cut_blocks(poolp pool)
{
    if (!pool_is_uncut(pool)) {
        return 0;
    }
    unsigned size = pool->blocksize;
    unsigned offset = pool->nextoffset;
    unsigned page_end = (offset / SYSTEM_PAGE_SIZE + 1) * SYSTEM_PAGE_SIZE;
    block *bp = pool_address(pool) + offset;
    pool->freeblock = bp;
    for (offset += size;
         offset < page_end && offset + size <= POOL_SIZE;
         offset += size)
    {
        *(block **)bp = bp + size;
        bp += size;
    }
    *(block **)bp = NULL;
    pool->nextoffset = (uint16_t)offset;
    return 1;
}

static void
pool_became_full(poolp pool)
{
    DEBUG_ASSERT(pool->inuse
                 == blocks_in_pool[SIZE_TO_INDEX(pool->blocksize)]);
    pool_unlink(pool);
    pool->next = NULL;
    pool->inuse = 1;
    DEBUG_ASSERT(pool_is_valid(pool));
}

static void
pool_became_used_again(poolp pool)
{
    pool->inuse = (uint16_t)(
        blocks_in_pool[SIZE_TO_INDEX(pool->blocksize)] - 1);
    pool_link(pool);
    DEBUG_ASSERT(pool_is_valid(pool));
}

/* Pools that are kept though they are empty. */

static void
pool_release(poolp pool)
{
    struct pool_header *header = pool_header_of(pool);
    struct arena_object *arena = header->arena;
    DEBUG_ASSERT(pool->inuse == 0 && pool_is_valid(pool));
    if (header->kept) {
        header->kept = 0;
        arena->nkeptpools--;
    }
    pool_unlink(pool);
    pool->blocksize = 0;
    arena_release_pool(arena, (uintptr_t)header);
}

/* A kept pool was alone in its ring when it became empty, and others are linked
 * in behind it. */
static void
pools_release_kept(void)
{
    for (unsigned i = 0; i < NB_SMALL_SIZE_CLASSES; i++) {
        poolp pool = usedpools[i].next;
        if (pool != &usedpools[i] && pool->inuse == 0) {
            pool_release(pool);
        }
    }
}

size_t
pymalloc_trim(void)
{
    int is_locked = heap_enter();
    pools_release_kept();
    size_t nbytes = arenas_trim(&small_arenas) + medium_trim();
    heap_leave(is_locked);
    return nbytes;
}

/* Could all of an arena's pools be free, but for kept ones?  nkeptpools counts
 * pools that came into use again too, which malloc does not notice. */
static int
arena_may_be_empty(const struct arena_object *arena)
{
    return arena->nfreepools + arena->nkeptpools == arena->ntotalpools;
}

/* Find out: release the kept pools of an arena that are still empty. */
static COLD void
arena_release_kept(struct arena_object *arena)
{
    for (unsigned i = 0; i < arena->ntotalpools && arena->nkeptpools > 0; i++) {
        poolp pool = arena_pool(arena, i);
        if (pool->blocksize == 0 || !pool_header_of(pool)->kept) {
            continue;
        }
        if (pool->inuse == 0) {
            pool_release(pool);
        }
        else {
            pool_header_of(pool)->kept = 0;
            arena->nkeptpools--;
        }
    }
}

/* A program that takes and frees one block again and again must not get and
 * release a pool each time, so the last pool of a class stays, unless an
 * arena could become empty by it. */
static void
pool_became_empty(poolp pool)
{
    arenas_tick();
    struct pool_header *header = pool_header_of(pool);
    struct arena_object *arena = header->arena;
    if (pool->next != pool->prev) {
        pool_release(pool);
    }
    else if (!header->kept) {
        header->kept = 1;
        arena->nkeptpools++;
    }
    if (arena->nkeptpools == 0 || !arena_may_be_empty(arena)) {
        return;
    }
    if (arena_is_last_in_use(arena)) {
        arenas_return_surplus(&small_arenas);
    }
    else {
        arena_release_kept(arena);
    }
}

/* free() counted inuse down to 0. */
void
pool_reached_border(poolp pool)
{
    if (pool->next == NULL) {
        pool_became_used_again(pool);
    }
    else {
        pool_became_empty(pool);
    }
}

/* PYTHONMALLOCSTATS: show the state before each arena that is bought. */
static void
print_statistics_if_asked(void)
{
    static int asked = -1;
    if (asked < 0) {
        const char *value = Py_GETENV("PYTHONMALLOCSTATS");
        asked = value != NULL && *value != '\0';
    }
    if (asked) {
        _PyObject_DebugMallocStats(stderr);
    }
}

static COLD poolp
pool_new(unsigned szidx)
{
    if (!arenas_have_free_pool(&small_arenas)) {
        pools_release_kept();
        if (!arenas_have_free_pool(&small_arenas)) {
            print_statistics_if_asked();
        }
    }
    uintptr_t address;
    struct arena_object *arena = arenas_take_pool(&small_arenas, &address);
    if (arena == NULL) {
        return NULL;
    }
    poolp pool = &pool_map[leaf_of(address)][frame_of(address)];
    pool->leaf = (uint16_t)leaf_of(address);
    pool->freeblock = NULL;
    pool->inuse = 0;
    pool->blocksize = (uint16_t)INDEX_TO_SIZE(szidx);
    pool->nextoffset = (uint16_t)POOL_OVERHEAD;
    struct pool_header *header = pool_header_of(pool);
    header->arena = arena;
    header->pool = pool;
    header->kept = 0;
    pool_link(pool);
    return pool;
}

/* The pool that malloc looked at has no free block: cut more from it, go on
 * to the next one in its class, or get another from an arena.  NULL when the
 * arena allocator has no more.  Under Valgrind no pool is ever made, so that
 * every block comes from malloc. */
static void *
take_block_from_other_pool(size_t nbytes)
{
    unsigned szidx = SIZE_TO_INDEX(nbytes);
    poolp ring = &usedpools[szidx];
    for (;;) {
        poolp pool = ring->next;
        if (pool == ring
            && (running_on_valgrind() || (pool = pool_new(szidx)) == NULL))
        {
            return NULL;
        }
        if (pool->freeblock == NULL && pool->next != ring
            && pool_is_uncut(pool))
        {
            pool_unlink(pool);      /* blocks that were freed come first */
            pool_link(pool);
            continue;
        }
        if (pool->freeblock != NULL || pool_cut_blocks(pool)) {
            block *bp = pool->freeblock;
            pool->freeblock = *(block **)bp;
            pool->inuse++;
            DEBUG_ASSERT(pool_is_valid(pool));
            return bp;
        }
        pool_became_full(pool);
    }
}

/* pymalloc as an allocator.  What is not small, and what no arena could be had
 * for, is asked of the raw domain, so that its hooks see it.  As long as there
 * is no hook nobody can tell who serves it. */

static int
is_small(size_t nbytes)
{
    return nbytes - 1 < SMALL_REQUEST_THRESHOLD;
}

static int
is_medium(size_t nbytes)
{
    return nbytes - (SMALL_REQUEST_THRESHOLD + 1)
            < MEDIUM_REQUEST_THRESHOLD - SMALL_REQUEST_THRESHOLD
        && _PyMem_RawIsUntouched()
        && !running_on_valgrind();
}

static void *
counted(void *block_not_small)
{
    if (block_not_small != NULL) {
        raw_allocated_blocks++;
    }
    return block_not_small;
}

NOINLINE void *
pymalloc_malloc_slowly(size_t nbytes)
{
    arenas_tick();
    void *ptr = NULL;
    if (is_small(nbytes)) {
        ptr = take_block_from_other_pool(nbytes);
        if (ptr != NULL) {
            return ptr;
        }
    }
    else if (is_medium(nbytes)) {
        ptr = medium_malloc(nbytes);
    }
    return counted(ptr != NULL ? ptr : PyMem_RawMalloc(nbytes));
}

static COLD void *
shared_malloc(size_t nbytes)
{
    heap_lock();
    void *ptr = pymalloc_malloc(nbytes);
    heap_unlock();
    return ptr;
}

void *
_PyObject_Malloc(void *ctx, size_t nbytes)
{
    (void)ctx;
    return UNLIKELY(heap_is_shared) ? shared_malloc(nbytes)
        : pymalloc_malloc(nbytes);
}

static inline void *
pymalloc_calloc(size_t nelem, size_t elsize)
{
    size_t nbytes = nelem * elsize;     /* no overflow: see PyObject_Calloc() */
    void *ptr;
    if (LIKELY(is_small(nbytes))) {
        ptr = pymalloc_take_block(nbytes);
        if (ptr != NULL || (ptr = take_block_from_other_pool(nbytes)) != NULL) {
            return memset(ptr, 0, nbytes);
        }
    }
    else if (is_medium(nbytes) && (ptr = medium_malloc(nbytes)) != NULL) {
        return counted(memset(ptr, 0, nbytes));
    }
    return counted(PyMem_RawCalloc(nelem, elsize));
}

void *
_PyObject_Calloc(void *ctx, size_t nelem, size_t elsize)
{
    (void)ctx;
    int is_locked = heap_enter();
    void *ptr = pymalloc_calloc(nelem, elsize);
    heap_leave(is_locked);
    return ptr;
}

NOINLINE void
pymalloc_free_elsewhere(void *ptr)
{
    if (ptr == NULL) {
        return;
    }
    raw_allocated_blocks--;
    struct medium_pool *pool = medium_pool_of(ptr);
    if (pool != NULL) {
        medium_free(pool, ptr);
    }
    else {
        PyMem_RawFree(ptr);
    }
}

static COLD void
shared_free(void *ptr)
{
    heap_lock();
    pymalloc_free_anywhere(ptr);
    heap_unlock();
}

void
_PyObject_Free(void *ctx, void *ptr)
{
    (void)ctx;
    if (UNLIKELY(heap_is_shared)) {
        shared_free(ptr);
    }
    else {
        pymalloc_free_anywhere(ptr);
    }
}

/* A block may stay where it is when it is large enough and at least three
 * quarters of it are still used. */
static int
block_fits(size_t blocksize, size_t nbytes)
{
    return nbytes <= blocksize && 4 * nbytes > 3 * blocksize;
}

/* A block that was made larger once is mostly made larger again, and malloc can
 * often do that in place: it goes there when it is no longer small. */
static void *
malloc_for_move(size_t blocksize, size_t nbytes)
{
    return nbytes > blocksize && !is_small(nbytes)
        ? counted(PyMem_RawMalloc(nbytes))
        : pymalloc_malloc(nbytes);
}

static inline void *
pymalloc_realloc(void *ptr, size_t nbytes)
{
    if (ptr == NULL) {
        return pymalloc_malloc(nbytes);
    }
    poolp pool = pool_of(ptr);
    struct medium_pool *medium_pool = NULL;
    if (pool == NULL && (medium_pool = medium_pool_of(ptr)) == NULL) {
        return PyMem_RawRealloc(ptr, nbytes);
    }
    size_t blocksize = pool != NULL ? pool->blocksize : medium_pool->blocksize;
    if (block_fits(blocksize, nbytes)) {
        return ptr;
    }
    void *moved = malloc_for_move(blocksize, nbytes);
    if (moved != NULL) {
        memcpy(moved, ptr, nbytes < blocksize ? nbytes : blocksize);
        pymalloc_free_anywhere(ptr);
    }
    return moved;
}

void *
_PyObject_Realloc(void *ctx, void *ptr, size_t nbytes)
{
    (void)ctx;
    int is_locked = heap_enter();
    ptr = pymalloc_realloc(ptr, nbytes);
    heap_leave(is_locked);
    return ptr;
}
