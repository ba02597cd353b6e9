/* Free blocks of the hardened allocator: slots of slabs, ready ones, and those that wait.
 *
 *   slots of slabs  -- ring_fill() -->  ready  -- hard_hand_fill() -->  hand  -->  in use
 *        ^                              |   ^                                        |
 *        +--- hard_ready_give_back() ---+   +--  in quarantine  <- hard_quarantine() -+
 *
 * The caller has the lock of the heap.  Calls hardslabs.c. */

#include "pycore_hardrings.h"
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

/* A page of fresh blocks is taken at once, and a hand is one at the most, or four blocks: a
 * program that needs few blocks of a class gets few. */
enum { PAGE = 4096, LONGEST_ROW = 64, LONGEST = 4096 };

static unsigned
between(unsigned least, unsigned n, unsigned most)
{
    return n < least ? least : n > most ? most : n;
}

/* Eight pages of blocks are ready at the most.  The ring has room for these, for what waits, and
 * for the hand. */
static COLD int
class_begin(struct ready *class, unsigned blocksize)
{
    size_t longest = hard_options.quarantine / NCLASSES / blocksize;
    longest = longest == 0 && hard_options.quarantine != 0 ? 1 : longest;
    class->longest = (uint32_t)(longest < LONGEST ? longest : LONGEST);
    class->blocksize = (uint16_t)blocksize;
    class->hand_size = (uint8_t)between(4, PAGE / blocksize, MOST_IN_HAND);
    class->nrow = (uint8_t)between(1, PAGE / blocksize, LONGEST_ROW);
    class->most = class->longest + between(8, 8 * PAGE / blocksize, 2 * LONGEST_ROW);
    class->mask = (2u << highest_bit(class->most + MOST_IN_HAND - 1)) - 1;
    class->ring = hard_metadata((class->mask + 1) * sizeof(handle));
    return class->ring == NULL ? -1 : 0;
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
        memset(handle_address(block), DEADBYTE, slab->blocksize);
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
put_first(struct ready *class, handle block)
{
    class->first--;
    class->ring[class->first & class->mask] = block;
}

static void
take_slots(struct ready *class)
{
    uint32_t number = class->slabs;
    struct hard_slab *slab = &hard_slab_records[number];
    size_t first = ((size_t)number << HARD_SLAB_BITS) + slab->first;
    for (unsigned n = class->nrow; n > 0 && slab->nfree > 0; n--, slab->nfree--) {
        unsigned block = slab->free - (unsigned)FREE_NEXT;
        slab->free = slab->states[block];
        slab->states[block] = WAITS_DEAD;
        put_first(class, handle_of(first + block * slab->blocksize, block));
    }
    if (slab->nfree == 0) {
        slab_unlink(class, slab);
    }
}

/* The one with the lowest address is the first. */
static int
cut_slots(struct ready *class, unsigned number, unsigned heap)
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
        put_first(class, FRESH | handle_of(first + block * slab->blocksize, block));
    }
    if (slab->ncut == hard_slab_nblocks(slab)) {
        class->uncut = 0;
    }
    return 0;
}

/* The ring. */

/* All but the last ones that were freed. */
uint32_t
hard_ready(struct ready *class)
{
    if (class->end - class->ready_end > class->longest) {
        class->ready_end = class->end - class->longest;
    }
    return class->ready_end - class->first;
}

static int
ring_fill(struct ready *class, unsigned number, unsigned heap)
{
    if (class->ring == NULL && class_begin(class, class_size(number)) < 0) {
        return -1;
    }
    while (hard_ready(class) < class->hand_size) {
        if (class->slabs != 0) {
            take_slots(class);
        }
        else if (cut_slots(class, number, heap) < 0) {
            return hard_ready(class) != 0 ? 0 : -1;
        }
    }
    return 0;
}

/* The hand is right before the first: the numbers of its n places. */
static uint64_t
order_of_last(uint64_t order, unsigned n)
{
    uint64_t last = 0;
    for (unsigned i = 0; i < MOST_IN_HAND; i++, order >>= 4) {
        unsigned place = order & (MOST_IN_HAND - 1);
        if (place >= MOST_IN_HAND - n) {
            last = last << 4 | place;
        }
    }
    return last;
}

int
hard_hand_fill(struct ready *class, unsigned number, unsigned heap, uint64_t order)
{
    if (hard_ready(class) < MOST_IN_HAND && ring_fill(class, number, heap) < 0) {
        return -1;
    }
    uint32_t n = hard_ready(class);
    n = n < class->hand_size ? n : class->hand_size;
    class->first += n;
    class->nhand = n;
    class->order = n == MOST_IN_HAND ? order : order_of_last(order, n);
    return 0;
}

void
hard_hand_put_back(struct ready *class)
{
    handle hand[MOST_IN_HAND];
    unsigned n = 0;
    for (; class->nhand != 0; leaves_hand(class)) {
        hand[n++] = next_in_hand(class);
    }
    while (n > 0) {
        put_first(class, hand[--n]);
    }
}

/* Those that are ready for the shortest time go.  The others move up, so that they are handed
 * out before, and are checked then. */
void
hard_ready_give_back(struct ready *class, unsigned nleft)
{
    hard_hand_put_back(class);
    uint32_t n = hard_ready(class), nback = n > nleft ? n - nleft : 0;
    for (uint32_t i = 1; i <= nback; i++) {
        slot_free(class, class->ring[(class->ready_end - i) & class->mask]);
    }
    for (uint32_t from = class->ready_end - nback; from != class->first; from--) {
        class->ring[(from - 1 + nback) & class->mask] = class->ring[(from - 1) & class->mask];
    }
    class->first += nback;
}
