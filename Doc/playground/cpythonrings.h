/* Which used pool of a class gives the next block, by CPython's rule: the compiler reads this
 * in place of pycore_rings.h (-include), and rings.c stays out.
 *
 *   full --> first in its ring: the pool that had a block freed last gives the next ones
 *
 * A pool that has no free block is in no ring there.  Here malloc takes it out when it finds
 * it, so whatever comes in before such a pool takes it out. */

#ifndef Py_INTERNAL_RINGS_H
#define Py_INTERNAL_RINGS_H

#include "pycore_pools.h"

static inline void
pool_unlink(poolp pool)
{
    pool->prev->next = pool->next;
    pool->next->prev = pool->prev;
}

static inline int
pool_is_exhausted(const struct pool *pool)
{
    return pool->blocksize != 0 && pool->freeblock == NULL
        && pool->inuse == size_classes[pool_class(pool)].nblocks;
}

static inline void
pool_link(poolp ring, poolp pool)
{
    poolp first = ring->next;
    if (first != ring && pool_is_exhausted(first)) {
        pool_unlink(first);
        first->next = NULL;
        first->inuse = 1;
    }
    pool->next = ring->next;
    pool->prev = ring;
    ring->next->prev = pool;
    ring->next = pool;
}

static inline void
pool_link_opened(poolp ring, poolp pool, int is_scattered)
{
    (void)is_scattered;
    pool_link(ring, pool);
}

#define POOL_LEVELS 8u

/* No pool waits for another one. */
static inline int
pool_is_half_full(const struct pool *pool, const struct size_class *class)
{
    (void)pool;
    (void)class;
    return 1;
}

static inline int
pool_waits_in_group(struct heap *heap, unsigned szclass, poolp pool)
{
    (void)heap;
    (void)szclass;
    (void)pool;
    return 0;
}

static inline poolp
ring_take_from_groups(struct heap *heap, unsigned szclass)
{
    (void)heap;
    (void)szclass;
    return NULL;
}

/* An empty pool goes back to its arena, also the last one of its class. */
static inline int
pool_is_last_of_class(const struct heap *heap, const struct pool *pool)
{
    (void)heap;
    (void)pool;
    return 0;
}

#endif /* !Py_INTERNAL_RINGS_H */
