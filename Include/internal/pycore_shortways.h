/* The short way of a domain passes its allocator by, while that is the one it had first.
 *
 *   raw            malloc and free of the C library
 *   mem, object    main_heap, while there is no other heap of small blocks
 *
 * Both a request and a free look at one number for it that they need anyway: the number is
 * such that nothing goes the short way where there is a hook.  So a hook costs nobody a
 * test who has none. */

#ifndef Py_INTERNAL_SHORTWAYS_H
#define Py_INTERNAL_SHORTWAYS_H

#include "pycore_poolmap.h"

#define NB_DOMAINS 3        /* by PyMemAllocatorDomain */

/* Where the mem and object domains lead. */
enum way {
    WAY_CLOSED,                 /* to an allocator, or to heaps of interpreters */
    WAY_SHORT,                  /* to main_heap */
    WAY_BY_HAND,                /* the same, with blocks at hand: pycore_athand.h */
};

struct short_way {
    size_t span;                /* requests of 1 to so many bytes; 0: it is not short */
    struct pool_map_home home;  /* of mem and object: main_heap's; NO_HOME: the same */
    atomic_int way;             /* of mem and object: enum way */
};
INTERNAL_DATA(struct short_way) short_ways[NB_DOMAINS];
#define NO_SHORT_WAY {0, NO_HOME, WAY_CLOSED}
#define NO_SHORT_WAYS {NO_SHORT_WAY, NO_SHORT_WAY, NO_SHORT_WAY}

/* No block at a lower address is one of a medium pool: so it is the C library's, if the raw
 * domain has it.  0 while that domain's way is closed. */
INTERNAL_DATA(atomic_uintptr_t) no_medium_below;

/* Open a way for requests of up to span bytes, or close it. */
void short_way_set(int domain, size_t span);

/* The newest arena of main_heap is in a leaf, perhaps another one. */
void short_ways_follow_home(void);

/* main_heap has blocks at hand, or none any more: by its owner. */
INTERNAL_DATA(atomic_int) short_ways_are_by_hand;
void short_ways_lead_by_hand(int is_by_hand);

/* There will be medium blocks from an address on.  From any thread. */
void short_ways_pass_by(uintptr_t address);

#endif /* !Py_INTERNAL_SHORTWAYS_H */
