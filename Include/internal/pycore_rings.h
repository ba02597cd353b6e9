/* Rings of used pools, and which pool is next: rings.c. */

#ifndef Py_INTERNAL_RINGS_H
#define Py_INTERNAL_RINGS_H

#include "pycore_pools.h"

/* Before another one, or last: before the ring's own entry. */
static inline void
pool_link(poolp before, poolp pool)
{
    pool->next = before;
    pool->prev = before->prev;
    before->prev->next = pool;
    before->prev = pool;
}

/* A full pool that came to have a free block.  While it waits for its turn more of its blocks
 * are freed, so that malloc finds several in it: with the first place it would find one, and
 * every other call would move a pool out of the ring or back.  Where blocks are freed in
 * order it is second, and the next blocks are in the cache still.  Where they are freed at
 * random it is last. */
static inline void
pool_link_opened(poolp ring, poolp pool, int is_scattered)
{
    pool_link(is_scattered || ring->next == ring ? ring : ring->next->next, pool);
}

static inline void
pool_unlink(poolp pool)
{
    pool->prev->next = pool->next;
    pool->next->prev = pool->prev;
}

#define POOL_LEVELS 8u

/* At least half of the blocks are in use, and one that is free needs no fresh memory. */
static inline int
pool_is_half_full(const struct pool *pool, const struct size_class *class)
{
    return pool->inuse * 2u >= class->nblocks && pool->freeblock != NULL;
}

/* A pool at the head of a class's ring that is not half full waits for its turn in a
 * group.  0: it is not to wait, as it is the only one, or there is no memory. */
int pool_waits_in_group(struct heap *heap, unsigned szclass, poolp pool);

/* The fullest pool that waits comes into the ring, which is empty; those that need fresh
 * memory come last.  NULL: none waits. */
poolp ring_take_from_groups(struct heap *heap, unsigned szclass);

/* A pool is alone in its ring or group.  Has its class others in groups, or is it itself in
 * one? */
int pool_has_others_waiting(const struct heap *heap, const struct pool *pool);

/* Is a pool the only used one of its class? */
static inline int
pool_is_last_of_class(const struct heap *heap, const struct pool *pool)
{
    return pool->next == pool->prev
        && (heap->groups == NULL || !pool_has_others_waiting(heap, pool));
}

#endif /* !Py_INTERNAL_RINGS_H */
