/* Blocks at hand: when there are any, and when they go back.
 *
 * A block at hand keeps its pool, and the pool its arena.  So there are so many at most
 * for each class, and all go back to their pools
 *
 *   when pools become empty one after another, as then the heap shrinks,
 *   before an arena is bought,
 *   at the end of a window of time (keeping.c),
 *   when memory is given back: PyMem_Trim(), or a request failed,
 *   when the heap is small again, or its blocks are freed in order,
 *   when somebody hooks a domain.
 *
 * Owns at_hand[], at_hand_places[] and at_hand_scatter.  Calls pools.c and shortways.c. */

#include "pycore_athand.h"
#include "pycore_pools.h"
#include "pycore_shortways.h"

/* Smaller heaps are in the cache: the second level has 1 to 2 MiB. */
#define LARGE_FROM (((size_t)4 << 20) / ARENA_SIZE)
#define SMALL_BELOW (LARGE_FROM * 3 / 4)

unsigned at_hand_scatter;
static size_t heap_size;        /* in arenas */

block *at_hand_places[NB_SMALL_SIZE_CLASSES][AT_HAND_PLACES];

#define ROOM_IN_BYTES (64u * 1024u)

#define STACK(i) [i] = {at_hand_places[i], at_hand_places[i]}
#define EIGHT(i) STACK(i), STACK((i) + 1), STACK((i) + 2), STACK((i) + 3), \
                 STACK((i) + 4), STACK((i) + 5), STACK((i) + 6), STACK((i) + 7)

struct at_hand at_hand[NB_SMALL_SIZE_CLASSES] = {
    EIGHT(0), EIGHT(8), EIGHT(16), EIGHT(24),
#if NB_SMALL_SIZE_CLASSES > 32
    EIGHT(32), EIGHT(40), EIGHT(48), EIGHT(56),
#endif
};

/* Asked first, so that the pages of stacks that were never used are not even read. */
static int
has_places(const struct at_hand *stack, unsigned szclass)
{
    return stack->top != at_hand_places[szclass];
}

static int
is_hidden(const struct at_hand *stack, unsigned szclass)
{
    return has_places(stack, szclass) && *stack->top == NULL;
}

void
at_hand_open(unsigned szclass)
{
    struct at_hand *stack = &at_hand[szclass];
    unsigned room = ROOM_IN_BYTES / INDEX_TO_SIZE(szclass), most = AT_HAND_PLACES - 2;
    stack->top -= is_hidden(stack, szclass);
    stack->end = &at_hand_places[szclass][room < most ? room : most];
}

/* NULL above the blocks hides them. */
void
at_hand_close(void)
{
    for (unsigned i = 0; i < NB_SMALL_SIZE_CLASSES; i++) {
        struct at_hand *stack = &at_hand[i];
        if (has_places(stack, i) && *stack->top != NULL) {
            stack->top[1] = NULL;
            stack->top++;
        }
        stack->end = at_hand_places[i];
    }
}

/* What is at hand goes back where the heap's owner takes blocks: an arena may come or go
 * now, which is no time to free any. */
void
at_hand_choose(void)
{
    int was_by_hand = short_ways_are_by_hand;
    int is_by_hand = heap_size >= (was_by_hand ? SMALL_BELOW : LARGE_FROM)
        && at_hand_scatter >= (was_by_hand ? MOST_SCATTERED / 2 : MOST_SCATTERED);
    if (is_by_hand != was_by_hand) {
        short_ways_lead_by_hand(is_by_hand);
        heap_tell(&main_heap, HEAP_HAS_FREED);
    }
}

/* The blocks of one stack: how many, and how many are in another pool than the one before.
 * A block leaves its stack before its pool has it. */
struct returned { size_t nblocks, nmoves; };

static void
return_stack(unsigned szclass, struct returned *returned)
{
    struct at_hand *stack = &at_hand[szclass];
    stack->end = at_hand_places[szclass];
    poolp before = NULL;
    for (; has_places(stack, szclass); returned->nblocks++) {
        stack->top -= is_hidden(stack, szclass);    /* a window may have begun meanwhile */
        block *bp = at_hand_take(stack);
        poolp pool = pool_of(bp);
        returned->nmoves += pool != before;
        before = pool;
        pool_free_block(&main_heap, pool, bp);
    }
}

/* Full pools that are opened by it tell nothing of the program. */
COLD void
at_hand_return(void)
{
    enum { MANY = 256 };
    unsigned scatter = at_hand_scatter;
    struct returned returned = {0, 0};
    for (unsigned i = 0; i < NB_SMALL_SIZE_CLASSES; i++) {
        return_stack(i, &returned);
    }
    int in_order = returned.nblocks >= MANY && returned.nmoves < returned.nblocks / 4;
    at_hand_scatter = in_order ? 0 : scatter;
    at_hand_choose();
}

/* In a heap that neither grows nor shrinks hardly a pool does. */
void
at_hand_count_pool(void)
{
    enum { COUNTS = 8 };
    at_hand_scatter -= at_hand_scatter < COUNTS ? at_hand_scatter : COUNTS;
    if (short_ways_are_by_hand) {
        at_hand_choose();
    }
}

void
at_hand_pool_went(void)
{
    static unsigned nwent;
    at_hand_count_pool();
    if (UNLIKELY(++nwent % (unsigned)MAX_POOLS_IN_ARENA == 0)) {
        at_hand_return();
    }
}

void
at_hand_follow_size(size_t narenas)
{
    heap_size = narenas;
    at_hand_choose();
}

READS_WHILE_OTHERS_WRITE void
at_hand_visit(void (*visit)(void *arg, block *bp), void *arg)
{
    for (unsigned i = 0; i < NB_SMALL_SIZE_CLASSES; i++) {
        const struct at_hand *stack = &at_hand[i];
        block *const volatile *place = stack->top - is_hidden(stack, i);
        for (block *bp; (bp = *place) != NULL; place--) {
            visit(arg, bp);
        }
    }
}
