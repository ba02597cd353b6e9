/* Arenas: what pymalloc buys from the arena allocator, cut into pools. */

#ifndef Py_INTERNAL_ARENAS_H
#define Py_INTERNAL_ARENAS_H

#include "pycore_pymalloc.h"

struct arena_object {
    uintptr_t address;          /* as the arena allocator gave it; 0: this
                                   object describes no arena */
    uintptr_t pool_address;     /* of the first pool: the first multiple of
                                   POOL_SIZE from address on */
    uint64_t freepools;         /* bit i: pool i is free; nfreepools bits */
    unsigned nfreepools;
    unsigned ntotalpools;       /* one less than fit, if address is unaligned */
    unsigned nkeptpools;        /* at least as many as are kept: pymalloc.c */
    struct arena_object *nextarena;     /* in the list of arenas with as many */
    struct arena_object *prevarena;     /* free pools, or of unused objects */
};

/* What is counted for _PyObject_DebugMallocStats(). */
struct arena_counts {
    size_t ntimes_allocated;    /* arenas bought so far */
    size_t ncurrent;            /* bought and not given back */
    size_t nhighwater;          /* the most there were at a time */
    size_t nleaves;             /* of the pool map */
    size_t nchunks;             /* of arena objects */
    size_t chunk_size;          /* in bytes */
};
INTERNAL_DATA(struct arena_counts) arena_counts;

/* Is there a free pool in an arena that is here already? */
int arenas_have_free_pool(void);

/* A free pool, from the fullest arena that has one (buying an arena if none
 * has); NULL when the arena allocator has no more.  Its record says where it
 * is; the rest is for the caller to fill. */
poolp arenas_take_pool(void);

/* Give a pool back. */
void arena_release_pool(poolp pool);

/* Give back the empty arenas that are more than may stay. */
void arenas_return_surplus(void);

/* Give back all that no block is in; the number of bytes. */
size_t arenas_trim(void);

/* Time passes: to be called now and then, where it does not matter that it
 * takes a few nanoseconds while arenas are held. */
INTERNAL_DATA(int) arenas_are_held;
void arenas_hold_goes_on(void);
static inline void
arenas_tick(void)
{
    if (UNLIKELY(arenas_are_held)) {
        arenas_hold_goes_on();
    }
}

/* Is this the only arena that has a pool in use? */
int arena_is_last_in_use(const struct arena_object *arena);

/* Visit every arena, oldest first, until visit() returns something else than
 * 0; returns that, or 0. */
int arenas_visit(int (*visit)(const struct arena_object *, void *), void *arg);

/* The record of pool i of an arena. */
static inline poolp
arena_pool(const struct arena_object *arena, unsigned i)
{
    uintptr_t address = arena->pool_address + i * POOL_SIZE;
    return &pool_map[leaf_of(address)][frame_of(address)];
}

/* Does everything an arena says of itself hold? */
int arena_is_valid(const struct arena_object *arena);

#endif /* !Py_INTERNAL_ARENAS_H */
