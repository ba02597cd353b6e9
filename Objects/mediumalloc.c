/* Medium blocks: malloc and free for 513 bytes to 32 KiB.
 *
 * They work as small blocks do (see pymalloc.c): rings of pools by size class,
 * a list of free blocks in each pool.  Two things differ.  There are eight size
 * classes for each doubling, not one for each 16 bytes, and room in each for
 * the header of an object whose contents are a power of two:
 *
 *   544  576    640  704 ... 1088    1216  1344 ... 2112    2368 ...    32832
 *
 * and blocks are cut from a pool one at a time, as each is many cache lines.
 *
 * Why not leave them to malloc?  It looks for the place that fits best, merges
 * neighbours, and gives the end of its heap back to the system to buy it again;
 * a list of free blocks of the right size needs none of it.
 *
 * Owns usedpools[] of its own.  Calls arenas.c. */

#include "pycore_mediumalloc.h"
#include "pycore_arenas.h"

static struct medium_pool usedpools_of_class[NB_MEDIUM_SIZE_CLASSES];

/* What is left of a size without the header, less 1: its highest bit tells which
 * doubling from 256 on, the three below which eighth of that.  Classes count
 * from the one of 513 bytes. */
#define FIRST_CLASS 6

static unsigned
size_to_class(size_t nbytes)
{
    size_t n = nbytes - MEDIUM_HEADER - 1;
    unsigned highest = highest_bit(n);
    unsigned eighth = (unsigned)(n >> (highest - 3)) & 7;
    return (highest - 8) * 8 + eighth - FIRST_CLASS;
}

static uint32_t
class_to_size(unsigned szidx)
{
    unsigned i = szidx + FIRST_CLASS;
    return ((i % 8 + 9) << (i / 8 + 5)) + MEDIUM_HEADER;
}

static struct medium_pool *
class_ring(unsigned szidx)
{
    struct medium_pool *ring = &usedpools_of_class[szidx];
    if (UNLIKELY(ring->next == NULL)) {
        ring->next = ring->prev = ring;
    }
    return ring;
}

static void
pool_link(struct medium_pool *pool)
{
    struct medium_pool *ring = class_ring(pool->szidx);
    pool->next = ring;
    pool->prev = ring->prev;
    ring->prev->next = pool;
    ring->prev = pool;
}

static void
pool_unlink(struct medium_pool *pool)
{
    pool->prev->next = pool->next;
    pool->next->prev = pool->prev;
}

static uintptr_t
medium_pool_address(const struct medium_pool *pool)
{
    size_t i = (size_t)(pool - leaf_medium_pools(pool_map[pool->leaf]));
    return (uintptr_t)((uint64_t)pool->leaf << 32 | i << MEDIUM_POOL_BITS);
}

static void
pool_release(struct medium_pool *pool)
{
    DEBUG_ASSERT(pool->inuse == 0);
    pool_unlink(pool);
    pool->blocksize = 0;
    arena_release_pool(pool->arena, medium_pool_address(pool));
}

/* The last pool of a class stays when it is empty, for the next request.  It is
 * alone in its ring then, and others are linked in behind it. */
static void
pools_release_kept(void)
{
    for (unsigned i = 0; i < NB_MEDIUM_SIZE_CLASSES; i++) {
        struct medium_pool *pool = class_ring(i)->next;
        if (pool != class_ring(i) && pool->inuse == 0) {
            pool_release(pool);
        }
    }
}

size_t
medium_trim(void)
{
    pools_release_kept();
    return arenas_trim(&medium_arenas);
}

static COLD struct medium_pool *
pool_new(unsigned szidx)
{
    if (!arenas_have_free_pool(&medium_arenas)) {
        pools_release_kept();
    }
    uintptr_t address;
    struct arena_object *arena = arenas_take_pool(&medium_arenas, &address);
    if (arena == NULL) {
        return NULL;
    }
    struct medium_pool *pool = medium_pool_at(address);
    pool->freeblock = NULL;
    pool->arena = arena;
    pool->blocksize = class_to_size(szidx);
    pool->inuse = 0;
    pool->ncut = 0;
    pool->nblocks = (uint16_t)(MEDIUM_POOL_SIZE / pool->blocksize);
    pool->szidx = (uint16_t)szidx;
    pool->leaf = (uint16_t)leaf_of(address);
    pool_link(pool);
    return pool;
}

/* The first pool in a ring has no free block: cut one from it, or go on to the
 * next one, or to a new one. */
static NOINLINE void *
take_block_slowly(unsigned szidx)
{
    struct medium_pool *ring = class_ring(szidx);
    for (;;) {
        struct medium_pool *pool = ring->next;
        if (pool == ring && (pool = pool_new(szidx)) == NULL) {
            return NULL;
        }
        block *bp = pool->freeblock;
        if (bp != NULL) {
            pool->freeblock = *(block **)bp;
            pool->inuse++;
            return bp;
        }
        if (pool->ncut < pool->nblocks && pool->next != ring) {
            pool_unlink(pool);      /* blocks that were freed come first */
            pool_link(pool);
        }
        else if (pool->ncut < pool->nblocks) {
            pool->inuse++;
            return (block *)medium_pool_address(pool) + pool->blocksize * pool->ncut++;
        }
        else {
            DEBUG_ASSERT(pool->inuse == pool->nblocks);
            pool_unlink(pool);
            pool->next = NULL;
            pool->inuse = 1;
        }
    }
}

void *
medium_malloc(size_t nbytes)
{
    DEBUG_ASSERT(nbytes > SMALL_REQUEST_THRESHOLD
                 && nbytes <= MEDIUM_REQUEST_THRESHOLD);
    unsigned szidx = size_to_class(nbytes);
    struct medium_pool *pool = usedpools_of_class[szidx].next;
    block *bp;
    if (UNLIKELY(pool == NULL) || UNLIKELY((bp = pool->freeblock) == NULL)) {
        return take_block_slowly(szidx);
    }
    pool->freeblock = *(block **)bp;
    pool->inuse++;
    return bp;
}

/* A full pool got a free block, or a used one is empty. */
static NOINLINE void
pool_reached_its_border(struct medium_pool *pool)
{
    if (pool->next == NULL) {
        pool->inuse = (uint16_t)(pool->nblocks - 1);
        pool_link(pool);
    }
    else {
        arenas_tick();
    }
    if (pool->inuse == 0 && pool->next != pool->prev) {
        pool_release(pool);
    }
}

void
medium_free(struct medium_pool *pool, void *ptr)
{
    *(block **)ptr = pool->freeblock;
    pool->freeblock = ptr;
    if (UNLIKELY(--pool->inuse == 0)) {
        pool_reached_its_border(pool);
    }
}
