/* Free blocks of the hardened allocator by class, for one heap. */

#ifndef Py_INTERNAL_HARDRINGS_H
#define Py_INTERNAL_HARDRINGS_H

#include "pycore_hardened.h"

#define SMALL_MAX ((size_t)NSMALL * 16)

static inline unsigned
class_of(size_t size)
{
    if (LIKELY(size < SMALL_MAX)) {
        return (unsigned)size >> 4;
    }
    unsigned highest = highest_bit(size);
    return NSMALL + (highest - 9) * 8 + (unsigned)(size >> (highest - 3)) - 8;
}

/* A block: where it is from the first slab on, and in the lowest 15 bits its number.  FRESH is
 * set while it was never in use. */
typedef uint64_t handle;
#define FRESH ((handle)1 << 15)

static inline handle
handle_of(size_t offset, unsigned number)
{
    return (uint64_t)offset << 16 | number;
}

static inline unsigned
handle_number(handle block)
{
    return block & (FRESH - 1);
}

static inline unsigned char *
handle_address(handle block)
{
    return hard_slabs_start + (size_t)(block >> 16);
}

static inline uint32_t
handle_slab(handle block)
{
    return (uint32_t)(block >> (16 + HARD_SLAB_BITS));
}

/* Free blocks of a class are in a ring, the first of them in the hand.
 *
 *   | in the hand |   ready ...            |  in quarantine ...  |  <- what is freed
 *                  first             ready_end                 end
 *
 * The hand is handed out in a random order, so nobody foresees which one is next, and what was
 * asked for in a row is near to each other, as the processor expects it.  (A random one of all
 * that are ready would be as hard to foresee, and programs twice as slow.)  Fresh blocks come
 * before the first.  Positions only grow, modulo 2**32. */
enum { MOST_IN_HAND = 16 };

struct ready {
    _Alignas(64) handle *ring;
    uint64_t order;             /* of the hand: four bits for each, the lowest is next */
    uint32_t nhand;
    uint32_t first, ready_end, end;
    uint32_t mask;              /* of a position: its place in the ring */
    uint32_t longest;           /* as many are in quarantine at the most */
    uint32_t most;              /* as many are from the first to the end at the most */
    uint16_t blocksize;
    uint8_t hand_size;          /* as many are taken from the ring at once */
    uint8_t nrow;               /* as many are taken from slabs at once */
    uint32_t slabs;             /* with free blocks; 0: none */
    uint32_t uncut;             /* with blocks that were never in use; 0: none */
};

static ALWAYS_INLINE handle
next_in_hand(const struct ready *class)
{
    uint32_t position = class->first - MOST_IN_HAND + (class->order & (MOST_IN_HAND - 1));
    return class->ring[position & class->mask];
}

static ALWAYS_INLINE void
leaves_hand(struct ready *class)
{
    class->order >>= 4;
    class->nhand--;
}

/* Take blocks of a class of a heap, by their numbers, into its empty hand; order is one of
 * random_order().  -1: no memory. */
int hard_hand_fill(struct ready *class, unsigned number, unsigned heap, uint64_t order);

/* What is in the hand is the first of the ring again. */
void hard_hand_put_back(struct ready *class);

/* As many of the ring are ready. */
uint32_t hard_ready(struct ready *class);

/* Give the hand back, and ready blocks to their slabs, but for so many. */
void hard_ready_give_back(struct ready *class, unsigned nleft);

static ALWAYS_INLINE int
ring_is_full(const struct ready *class)
{
    return class->end - class->first >= class->most;
}

/* Whether another one is ready then is asked when the hand is empty. */
static ALWAYS_INLINE void
ring_append(struct ready *class, handle block)
{
    class->ring[class->end & class->mask] = block;
    class->end++;
}

/* A block was freed: it waits until others were. */
static inline void
hard_quarantine(struct ready *class, handle block)
{
    if (UNLIKELY(ring_is_full(class))) {
        hard_ready_give_back(class, hard_ready(class) / 2);
    }
    ring_append(class, block);
}

#endif /* !Py_INTERNAL_HARDRINGS_H */
