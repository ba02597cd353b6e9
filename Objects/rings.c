/* Rings of used pools: which pool of a class gives the next blocks.
 *
 *   full --> ring                              blocks come from its first pool
 *             |   ^
 *             |   | the ring is empty: the fullest
 *             v   |
 *      groups, by sixteenths of free blocks:  8  9 10 11 12 13 14 | 15, or need fresh memory
 *
 * Blocks that are freed at random leave many pools with few blocks.  A block that is taken from
 * such a pool keeps it alive, perhaps for hours.  So the fullest gives blocks first, and
 * the others have time to become empty.  The fullest has few blocks to give, and to look
 * for it at each call would cost more than the call: pools that are half full give in the
 * order in which they came to have a free block, others wait in a group.
 *
 * A pool is put into a group when its turn comes and it is not full enough.  Blocks of it
 * are freed while it waits: the one that is taken moves on where it now belongs, which
 * happens to a pool a few times at most.  An empty one leaves its group as it would leave
 * the ring.
 *
 * Where each class has one such pool at most there is no need for groups, and no memory
 * is taken for them.
 *
 * Works on used pools for their owner.  Calls virtualmem.c. */

#include "pycore_rings.h"
#include "pycore_virtualmem.h"

#define LEVELS POOL_LEVELS
#define NEEDS_MEMORY LEVELS

/* rings[class][level - 1]; zeros are an empty one. */
struct pool_groups {
    struct pool rings[NB_SIZE_CLASSES][LEVELS];
};

static unsigned
level_of(const struct pool *pool, const struct size_class *class)
{
    unsigned nfree = (unsigned)class->nblocks - pool->inuse;
    unsigned level = nfree * 2 * LEVELS / (class->nblocks + 1u);
    return pool->freeblock == NULL ? NEEDS_MEMORY : level <= LEVELS ? 1 : level + 1 - LEVELS;
}

static poolp
group(const struct heap *heap, unsigned szclass, unsigned level)
{
    return &heap->groups->rings[szclass][level - 1];
}

static int
group_is_empty(const struct pool *ring)
{
    return ring->next == NULL || ring->next == ring;
}

static int
some_wait(const struct heap *heap, unsigned szclass)
{
    for (unsigned level = 1; heap->groups != NULL && level <= LEVELS; level++) {
        if (!group_is_empty(group(heap, szclass, level))) {
            return 1;
        }
    }
    return 0;
}

static void
wait_in_group(struct heap *heap, unsigned szclass, unsigned level, poolp pool)
{
    poolp ring = group(heap, szclass, level);
    if (ring->next == NULL) {
        ring->next = ring->prev = ring;
    }
    pool_unlink(pool);
    pool_link(ring, pool);
}

static int
have_groups(struct heap *heap)
{
    if (heap->groups == NULL) {
        heap->groups = virtual_alloc_for_good(sizeof(*heap->groups));
    }
    return heap->groups != NULL;
}

int
pool_waits_in_group(struct heap *heap, unsigned szclass, poolp pool)
{
    unsigned level = level_of(pool, &size_classes[szclass]);
    int is_alone = pool->next == &heap->usedpools[szclass] && !some_wait(heap, szclass);
    int is_kept = pool->inuse == 0;     /* where heap_release_kept() looks for it */
    if (is_alone || is_kept || !have_groups(heap)) {
        return 0;
    }
    wait_in_group(heap, szclass, level, pool);
    return 1;
}

poolp
ring_take_from_groups(struct heap *heap, unsigned szclass)
{
    for (unsigned level = 1; heap->groups != NULL && level <= LEVELS; level++) {
        poolp ring = group(heap, szclass, level);
        while (!group_is_empty(ring)) {
            poolp pool = ring->next;
            unsigned now = level_of(pool, &size_classes[szclass]);
            if (now <= level) {
                pool_unlink(pool);
                pool_link(&heap->usedpools[szclass], pool);
                return pool;
            }
            wait_in_group(heap, szclass, now, pool);
        }
    }
    return NULL;
}

int
pool_has_others_waiting(const struct heap *heap, const struct pool *pool)
{
    unsigned szclass = pool_class(pool);
    return pool->next != &heap->usedpools[szclass] || some_wait(heap, szclass);
}
