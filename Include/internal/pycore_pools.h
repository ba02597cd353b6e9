/* The pool machine: blocks of a heap, from 16 bytes to 32 KiB.
 *
 * What differs between small and medium blocks is in one table of size classes:
 * how large a block is, how many there are in a pool, where the first one is, how
 * much of a fresh pool is cut at a time.  All else is the same. */

#ifndef Py_INTERNAL_POOLS_H
#define Py_INTERNAL_POOLS_H

#include "pycore_heap.h"

struct size_class {
    uint16_t blocksize;     /* in bytes */
    uint16_t nblocks;       /* in a pool */
    uint16_t first;         /* offset of the first block */
    uint16_t cut_mask;      /* blocks are cut up to the next multiple of this and
                               one: CUT_SIZE; or one block at a time */
    uint32_t pool_size;
};
INTERNAL_DATA(const struct size_class) size_classes[NB_SIZE_CLASSES];

/* Are medium classes to have pools from their first request on? */
INTERNAL_DATA(atomic_int) medium_pools_at_once;

/* The size class of a medium request.  n is the size without the header, less 1.  The
 * highest bit of n says which doubling it is, counted from 256.  The next three bits say
 * which eighth of the doubling.  The first class is the one of 513 bytes. */
static inline unsigned
medium_class(size_t nbytes)
{
    size_t n = nbytes - MEDIUM_HEADER - 1;
    unsigned highest = highest_bit(n);
    unsigned eighth = (unsigned)(n >> (highest - 3)) & 7;
    return NB_SMALL_SIZE_CLASSES + (highest - 8) * 8 + eighth - MEDIUM_FIRST_EIGHTH;
}

static inline unsigned
pool_class(const struct pool *pool)
{
    return pool_is_medium(pool) ? medium_class(pool->blocksize)
        : SIZE_TO_INDEX(pool->blocksize);
}

/* Blocks that were cut, in use or free. */
static inline unsigned
pool_count_cut(const struct pool *pool, const struct size_class *class)
{
    return (pool->nextoffset * ALIGNMENT - class->first) / class->blocksize;
}

/* Blocks allocated, whichever state the pool is in. */
static inline unsigned
pool_count_blocks(const struct pool *pool)
{
    return pool->next == NULL ? size_classes[pool_class(pool)].nblocks : pool->inuse;
}

/* The number of the block that begins so many bytes behind the first one, of those that were
 * cut; -1: none does. */
static inline int
block_number(size_t offset, size_t blocksize, unsigned ncut)
{
    return offset % blocksize == 0 && offset / blocksize < ncut ? (int)(offset / blocksize) : -1;
}

/* Out of line, where the common case ends. */
void *heap_take_block_slowly(struct heap *heap, unsigned szclass);
void pool_reached_border(struct heap *heap, poolp pool);
void medium_pool_reached_border(struct heap *heap, poolp pool); /* and heap_leave() */

/* A block from the pool at hand, the next one in its ring; NULL when that has none, for
 * heap_take_block_slowly() to go on.  Five loads and stores and one test. */
static inline void *
ring_take_block(const struct pool *ring)
{
    poolp pool = ring->next;
    block *bp = pool->freeblock;
    if (LIKELY(bp != NULL)) {
        pool->freeblock = *block_link(bp);
        pool->inuse++;
    }
    return bp;
}

/* The ring for a small request.  Where records are multiples of ALIGNMENT the class need
 * not be calculated. */
static inline poolp
ring_of_small(struct heap *heap, size_t nbytes)
{
    size_t below = (nbytes - 1) & ~(size_t)(ALIGNMENT - 1);
    return sizeof(struct pool) % ALIGNMENT == 0
        ? (void *)((char *)heap->usedpools + below * (sizeof(struct pool) / ALIGNMENT))
        : &heap->usedpools[below / ALIGNMENT];
}

/* Take back a block of a pool that the heap owns.  Four loads and stores, one
 * test.  1: pool_reached_border() has to follow. */
static inline int
pool_put_block(poolp pool, void *ptr)
{
    *block_link(ptr) = pool->freeblock;
    pool->freeblock = ptr;
    return --pool->inuse == 0;
}

static inline void
pool_free_block(struct heap *heap, poolp pool, void *ptr)
{
    if (UNLIKELY(pool_put_block(pool, ptr))) {
        pool_reached_border(heap, pool);
    }
}

/* pool_of() for the owner of a heap, who finds most in the leaf at hand.  The
 * common case: two tests, and one load that depends on the address, of a line that
 * free() needs anyway. */
static inline poolp
heap_pool_of(const struct heap *heap, const void *ptr)
{
    uintptr_t address = (uintptr_t)ptr;
    size_t number = leaf_of(address);
    poolp pools = heap->home.pools;
    if (UNLIKELY(number != heap->home.leaf)) {
        struct pool_leaf *leaf = pool_map_leaf(number);
        if (leaf == NULL) {
            return NULL;
        }
        pools = leaf->small;
    }
    poolp pool = &pools[frame_of(address)];
    return LIKELY(pool->blocksize != 0) ? pool : NULL;
}

/* Lookouts are pools without blocks.  malloc that comes upon one leaves its fast path, so
 * that a program is noticed that only ever takes a block and frees it again.  From then on
 * each is met so many times, and no more: by the heap's owner. */
#define LOOKOUT_TURNS 64
void heap_post_lookouts(struct heap *heap);

/* Empty pools that wait in their rings for the next request go to their arenas. */
void heap_release_kept(struct heap *heap);
void heap_release_kept_medium(struct heap *heap);

/* A pool of a heap that has no owner any more becomes this one's. */
void pool_change_owner(struct heap *heap, poolp pool);

/* A pool as others see it, who do not own its heap: each number was right at some moment.
 * nused is never more than ncut, nor that than the class has blocks. */
struct pool_view {
    const block *freeblock;
    const struct size_class *class;     /* NULL: no pool */
    unsigned szclass;
    unsigned ncut, nused;
};
struct pool_view pool_look(const struct pool *pool);

/* Does everything a pool says of itself hold? */
int pool_is_valid(poolp pool);

#endif /* !Py_INTERNAL_POOLS_H */
