/* Arenas: what is bought from an arena allocator, cut into pools. */

#ifndef Py_INTERNAL_ARENAS_H
#define Py_INTERNAL_ARENAS_H

#include "pycore_mediumalloc.h"
#include "pycore_virtualmem.h"

struct arena_object {
    struct arena_heap *heap;
    uintptr_t address;          /* as the arena allocator gave it; 0: this
                                   object describes no arena */
    uintptr_t pool_address;     /* of the first pool: the first multiple of
                                   the heap's pool size from address on */
    uint64_t freepools;         /* bit i: pool i is free; nfreepools bits */
    unsigned nfreepools;
    unsigned ntotalpools;       /* one less than fit, if address is unaligned */
    unsigned nkeptpools;        /* at least as many as are kept: pymalloc.c */
    struct arena_object *nextarena;     /* in the list of arenas with as many */
    struct arena_object *prevarena;     /* free pools, or of unused objects */
};

/* Arenas of one kind: those of pools of small blocks, or of medium ones. */
struct arena_heap {
    size_t arena_size;          /* in bytes, as pool_size */
    size_t pool_size;
    size_t kept_min;            /* in arenas, as all of these: empty ones that
                                   stay for good, */
    size_t held_max;            /* and for a moment; */
    size_t populated_from;      /* the heap's size from which a new one is put
                                   into memory at once */
    PyObjectArenaAllocator *allocator;

    struct arena_object *usable[64 + 1];
    uint64_t usable_mask;       /* bit n-1: usable[n] is not empty */
    struct arena_object *empty;
    size_t nempty;

    int is_held;                /* more are empty than are to be kept */
    uint64_t hold_ends;         /* in milliseconds: see arenas_tick() */
    size_t least_empty;         /* since the hold began */

    size_t ntimes_allocated;    /* arenas bought so far */
    size_t ncurrent;            /* bought and not given back */
    size_t nhighwater;          /* the most there were at a time */
};
INTERNAL_DATA(struct arena_heap) small_arenas;
INTERNAL_DATA(struct arena_heap) medium_arenas;

/* Arena objects are cut from chunks that stay for ever. */
#define CHUNK_SIZE ((size_t)16384)
#define CHUNK_OBJECTS \
    ((CHUNK_SIZE - sizeof(void *)) / sizeof(struct arena_object))
struct arena_chunk {
    struct arena_chunk *next;
    struct arena_object objects[CHUNK_OBJECTS];
};
INTERNAL_DATA(struct arena_chunk *) first_chunk;

/* What the bookkeeping takes, for _PyObject_DebugMallocStats(). */
struct arena_bookkeeping {
    size_t nleaves;             /* of the pool map */
    size_t nchunks;             /* of arena objects */
    size_t chunk_size;          /* in bytes */
};
INTERNAL_DATA(struct arena_bookkeeping) arena_bookkeeping;

/* Is there a free pool in an arena that is here already? */
int arenas_have_free_pool(const struct arena_heap *heap);

/* A free pool, from the fullest arena that has one (buying an arena if none
 * has): the arena, and where the pool is.  NULL when the arena allocator has no
 * more. */
struct arena_object *arenas_take_pool(struct arena_heap *heap,
                                      uintptr_t *address);

/* Give a pool back.  Its record says already that it is none. */
void arena_release_pool(struct arena_object *arena, uintptr_t address);

/* Give back the empty arenas that are more than may stay. */
void arenas_return_surplus(struct arena_heap *heap);

/* Give back all that no block is in; the number of bytes. */
size_t arenas_trim(struct arena_heap *heap);

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

/* Visit every arena of a heap, oldest first, until visit() returns something
 * else than 0; returns that, or 0. */
int arenas_visit(const struct arena_heap *heap,
                 int (*visit)(const struct arena_object *, void *), void *arg);

/* Where pool i of an arena is. */
static inline void *
arena_pool_address(const struct arena_object *arena, unsigned i)
{
    return (void *)(arena->pool_address + i * arena->heap->pool_size);
}

/* The record of pool i of an arena of small blocks. */
static inline poolp
arena_pool(const struct arena_object *arena, unsigned i)
{
    uintptr_t address = (uintptr_t)arena_pool_address(arena, i);
    return &pool_map[leaf_of(address)][frame_of(address)];
}

/* Does everything an arena says of itself hold? */
int arena_is_valid(const struct arena_object *arena);

#endif /* !Py_INTERNAL_ARENAS_H */
