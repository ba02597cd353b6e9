/* Blocks at hand: of a heap whose blocks are freed at random, the small ones freed last.
 *
 *   PyObject_Free() --> [ p, q, r, s ] --> PyObject_Malloc()      a stack for each class
 *          |                  |                  |
 *          | no room          | time passes      | none
 *          v                  v                  v
 *         pool <------------- + ----------      pool
 *
 * Where blocks are freed at random, in a heap larger than the caches, each goes back to a pool
 * far away, and the next request gets a block that has long left the cache.  With the stack
 * it gets one that is there still.  In a small heap the pools are as near as a stack, and one
 * look less.  So they are where a program builds and drops, whose blocks lie side by side.
 * There all stays with the pools.
 *
 * Whoever owns main_heap uses the stacks, where the mem and object domains lead to it
 * (WAY_BY_HAND): a hook or a heap for each interpreter never meets them.  For its pool a
 * block at hand is in use.  Whoever counts blocks subtracts those at hand, as those that
 * other threads freed. */

#ifndef Py_INTERNAL_ATHAND_H
#define Py_INTERNAL_ATHAND_H

#include "pycore_poolmap.h"

struct at_hand {
    block **top;            /* the place of the block freed last; NULL there: no block */
    block **end;            /* where top is when there is no room */
};
INTERNAL_DATA(struct at_hand) at_hand[NB_SMALL_SIZE_CLASSES];

/* The first place of each stack has no block, which ends it.  With a power of two the tops
 * of all stacks would compete for the same few lines of the cache. */
#define AT_HAND_PLACES 1000
INTERNAL_DATA(block *) at_hand_places[NB_SMALL_SIZE_CLASSES][AT_HAND_PLACES];

static inline struct at_hand *
at_hand_for(size_t nbytes)
{
    return &at_hand[(nbytes - 1) / ALIGNMENT];
}

/* The block freed last; NULL: none is at hand. */
static inline void *
at_hand_take(struct at_hand *stack)
{
    block **top = stack->top, *bp = *top;
    if (LIKELY(bp != NULL)) {
        stack->top = top - 1;
    }
    return bp;
}

/* 0: there is no room. */
static inline int
at_hand_put(struct at_hand *stack, void *ptr)
{
    block **top = stack->top;
    if (UNLIKELY(top >= stack->end)) {
        return 0;
    }
    top[1] = ptr;
    stack->top = top + 1;
    return 1;
}

/* Out of line, by the owner of main_heap. */

/* The heap has so many arenas now, or as good as none. */
void at_hand_follow_size(size_t narenas);

/* How scattered frees are: full pools that came to have a free block, less some for each
 * pool that came from an arena or went back.  Frees at random open a pool every few calls, and
 * hardly one comes or goes.  A program that builds and drops opens as many as come.  With
 * the most of it pools take turns, and in a large heap blocks are at hand. */
#define MOST_SCATTERED 8192u
INTERNAL_DATA(unsigned) at_hand_scatter;

/* Are there to be blocks at hand? */
void at_hand_choose(void);

static inline void
at_hand_pool_opened(void)
{
    if (at_hand_scatter < MOST_SCATTERED && ++at_hand_scatter == MOST_SCATTERED) {
        at_hand_choose();
    }
}

/* A pool came from an arena, or went back. */
void at_hand_count_pool(void);

/* A stack that is closed neither gives blocks nor takes them.  All are closed until
 * at_hand_open(): when a request of the class has left its fast path. */
void at_hand_open(unsigned szclass);
void at_hand_close(void);

/* The same, and the blocks go back to their pools. */
void at_hand_return(void);

/* A pool has lost its last block and is its arena's again. */
void at_hand_pool_went(void);

/* Visit the blocks at hand, from any thread.  Those that are taken or put meanwhile are
 * seen or not. */
void at_hand_visit(void (*visit)(void *arg, block *bp), void *arg);

#endif /* !Py_INTERNAL_ATHAND_H */
