/* Free blocks of the hardened allocator by class, for one heap. */

#ifndef Py_INTERNAL_HARDLANES_H
#define Py_INTERNAL_HARDLANES_H

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

/* A block: where it is from the first slab on, and in the lowest 16 bits its number. */
typedef uint64_t handle;

static inline handle
handle_of(size_t offset, unsigned number)
{
    return (uint64_t)offset << 16 | number;
}

static inline unsigned
handle_number(handle block)
{
    return block & 0xffff;
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

/* Ready blocks are in lanes of blocks in a row.  Each request has the next block of a random
 * lane: nobody foresees which, and what was asked for in a row is in a few rows, as the
 * processor expects it.  (A random one of all would be as hard to foresee, and programs twice
 * as slow.) */
enum { LANE_BITS = 2, NLANES = 1 << LANE_BITS, LANE_MAX = 64 };

struct ready {
    _Alignas(64) handle *blocks;        /* of all lanes; the last of a lane is the next */
    handle *waiting;            /* in quarantine */
    uint8_t n[NLANES];
    uint16_t nwaiting, next;    /* as many; the one that has waited longest */
    uint16_t longest;           /* as many may be there */
    uint16_t blocksize;
    uint8_t nrow, most;         /* as many are put into an empty lane; and may be there */
    uint32_t slabs;             /* with free blocks; 0: none */
    uint32_t uncut;             /* with blocks that were never in use; 0: none */
};

static inline void
put_into_lane(struct ready *class, unsigned lane, handle block)
{
    class->blocks[lane * LANE_MAX + class->n[lane]++] = block;
}

/* Put blocks into an empty lane of a class of a heap, by their numbers; -1: no memory. */
int hard_lane_fill(struct ready *class, unsigned number, unsigned heap, unsigned lane);

/* Give them back to their slabs, but for so many. */
void hard_lane_empty(struct ready *class, unsigned lane, unsigned nleft);

/* A block was freed: it waits, and the one that has waited longest is ready. */
static inline void
hard_quarantine(struct ready *class, handle block)
{
    if (UNLIKELY(class->nwaiting < class->longest)) {
        class->waiting[class->nwaiting++] = block;
        return;
    }
    unsigned next = class->next, lane = next % NLANES;
    if (LIKELY(class->longest != 0)) {
        handle goes = class->waiting[next];
        class->waiting[next] = block;
        block = goes;
    }
    next++;
    class->next = (uint16_t)(next < class->longest ? next : 0);
    if (UNLIKELY(class->n[lane] >= class->most)) {
        hard_lane_empty(class, lane, class->most / 2u);
    }
    put_into_lane(class, lane, block);
}

/* Another order of what is ready. */
void hard_lanes_mix(struct ready *class, struct hard_random *random);

#endif /* !Py_INTERNAL_HARDLANES_H */
