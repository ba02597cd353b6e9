/* Free blocks of the hardened allocator: slots of slabs, ready ones, and those that wait.
 *
 *   slots of slabs  -- hard_lane_fill() -->  4 lanes of ready blocks  -->  in use
 *        ^                                     |      ^                       |
 *        +----------- hard_lane_empty() -------+      +--- hard_quarantine() -+
 *
 * The caller has the lock of the heap.  Calls hardslabs.c. */

#include "pycore_hardlanes.h"
#include "pycore_hardblocks.h"

static unsigned
class_size(unsigned class)
{
    if (class < NSMALL) {
        return (class + 1) * 16;
    }
    unsigned doubling = (class - NSMALL) / 8, eighth = (class - NSMALL) % 8;
    return (9 + eighth) << (6 + doubling);
}

/* Rows are short as long as a program needs few blocks of a class. */
enum { PAGE = 4096, NROW_FIRST = PAGE / NLANES, LONGEST = 4096 };

static COLD int
class_begin(struct ready *class, unsigned blocksize)
{
    size_t longest = hard_options.quarantine / NCLASSES / blocksize;
    longest = longest == 0 && hard_options.quarantine != 0 ? 1 : longest;
    class->longest = (uint16_t)(longest < LONGEST ? longest : LONGEST);
    class->blocksize = (uint16_t)blocksize;
    class->nrow = (uint8_t)(blocksize < NROW_FIRST ? NROW_FIRST / blocksize : 1);
    class->most = (uint8_t)(2 * PAGE / blocksize > LANE_MAX ? LANE_MAX
                            : blocksize < PAGE ? 2 * PAGE / blocksize : 2);
    handle *blocks = hard_metadata(
        (1 + NLANES * LANE_MAX + (size_t)class->longest) * sizeof(handle));
    if (blocks == NULL) {
        return -1;
    }
    class->blocks = blocks + 1;
    class->waiting = class->blocks + NLANES * LANE_MAX;
    return 0;
}

/* Slots of slabs. */

static void
slab_link(struct ready *class, uint32_t number, struct hard_slab *slab)
{
    slab->next = class->slabs;
    slab->previous = 0;
    if (slab->next != 0) {
        hard_slab_records[slab->next].previous = number;
    }
    class->slabs = number;
}

static void
slab_unlink(struct ready *class, const struct hard_slab *slab)
{
    if (slab->previous != 0) {
        hard_slab_records[slab->previous].next = slab->next;
    }
    else {
        class->slabs = slab->next;
    }
    if (slab->next != 0) {
        hard_slab_records[slab->next].previous = slab->previous;
    }
}

/* A slab that nothing is in goes, but for the one that is being cut.  A block that was never in
 * use must be found as any other. */
static void
slot_free(struct ready *class, handle block)
{
    uint32_t number = handle_slab(block);
    struct hard_slab *slab = &hard_slab_records[number];
    uint16_t *state = &slab->states[handle_number(block)];
    if (*state == WAITS_FRESH && hard_options.fill) {
        make_dead(handle_address(block), slab->blocksize);
    }
    *state = slab->free;
    slab->free = (uint16_t)(FREE_NEXT + handle_number(block));
    if (slab->nfree++ == 0) {
        slab_link(class, number, slab);
    }
    if (slab->nfree == slab->ncut && number != class->uncut) {
        slab_unlink(class, slab);
        hard_slab_free(number);
    }
}

static void
take_slots(struct ready *class, unsigned lane)
{
    uint32_t number = class->slabs;
    struct hard_slab *slab = &hard_slab_records[number];
    size_t first = ((size_t)number << HARD_SLAB_BITS) + slab->first;
    for (; class->n[lane] < class->nrow && slab->nfree > 0; slab->nfree--) {
        unsigned block = slab->free - (unsigned)FREE_NEXT;
        slab->free = slab->states[block];
        slab->states[block] = WAITS_DEAD;
        put_into_lane(class, lane, handle_of(first + block * slab->blocksize, block));
    }
    if (slab->nfree == 0) {
        slab_unlink(class, slab);
    }
}

/* The first one is the next. */
static int
cut_slots(struct ready *class, unsigned number, unsigned heap, unsigned lane)
{
    if (class->uncut == 0) {
        class->uncut = hard_slab_new(number, class_size(number), heap);
        if (class->uncut == 0) {
            return -1;
        }
    }
    struct hard_slab *slab = &hard_slab_records[class->uncut];
    size_t first = ((size_t)class->uncut << HARD_SLAB_BITS) + slab->first;
    unsigned left = hard_slab_nblocks(slab) - slab->ncut;
    unsigned n = left < class->nrow ? left : class->nrow;
    slab->ncut = (uint16_t)(slab->ncut + n);
    for (unsigned block = slab->ncut; n-- > 0;) {
        block--;
        slab->states[block] = WAITS_FRESH;
        put_into_lane(class, lane, handle_of(first + block * slab->blocksize, block));
    }
    if (slab->ncut == hard_slab_nblocks(slab)) {
        class->uncut = 0;
    }
    unsigned longer = 2u * class->nrow;
    if (longer <= LANE_MAX && longer * slab->blocksize <= PAGE) {
        class->nrow = (uint8_t)longer;
    }
    return 0;
}

/* Lanes. */

int
hard_lane_fill(struct ready *class, unsigned number, unsigned heap, unsigned lane)
{
    if (class->blocks == NULL && class_begin(class, class_size(number)) < 0) {
        return -1;
    }
    if (class->slabs != 0) {
        take_slots(class, lane);
        return 0;
    }
    return cut_slots(class, number, heap, lane);
}

void
hard_lane_empty(struct ready *class, unsigned lane, unsigned nleft)
{
    while (class->n[lane] > nleft) {
        slot_free(class, class->blocks[lane * LANE_MAX + --class->n[lane]]);
    }
}

/* Of large blocks a few are ready, and the same ones in each child of a process. */
void
hard_lanes_mix(struct ready *class, struct hard_random *random)
{
    for (unsigned lane = 0; lane < NLANES; lane++) {
        for (unsigned i = 0; i < class->n[lane]; i++) {
            unsigned other_lane = hard_random_below(random, NLANES);
            if (class->n[other_lane] != 0) {
                unsigned other = hard_random_below(random, class->n[other_lane]);
                handle *a = &class->blocks[lane * LANE_MAX + i];
                handle *b = &class->blocks[other_lane * LANE_MAX + other];
                handle kept = *a;
                *a = *b;
                *b = kept;
            }
        }
    }
}
