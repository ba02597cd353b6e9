/* Arenas: what is bought from an arena allocator, cut into pools. */

#ifndef Py_INTERNAL_ARENAS_H
#define Py_INTERNAL_ARENAS_H

#include "pycore_heap.h"
#include "pycore_virtualmem.h"

struct arena_object {
    struct arena_set *set;
    uintptr_t address;          /* as the arena allocator gave it; 0: this
                                   object describes no arena */
    uintptr_t pool_address;     /* of the first pool: the first multiple of
                                   the set's pool size from address on */
    uint64_t freepools;         /* bit i: pool i is free; nfreepools bits */
    uint64_t unbackedpools;     /* bit i: there is no memory behind free pool i; it
                                   was never used, or its memory went back */
    unsigned nfreepools;
    unsigned nresting;          /* free pools with memory behind them */
    unsigned ntotalpools;       /* one less than fit, if address is unaligned */
    unsigned nkeptpools;        /* at least as many as are kept: pools.c */
    uint16_t is_lent;           /* empty, and the system may take its memory */
    uint16_t is_the_systems;    /* came from it, so that it takes part of it back */
    struct arena_object *nextarena;     /* in the list of arenas with as many */
    struct arena_object *prevarena;     /* free pools, or of unused objects */
};

/* Arena objects of a heap are cut from chunks that stay: those of some fifty arenas. */
#define CHUNK_SIZE ((size_t)4096)
#define CHUNK_OBJECTS \
    ((CHUNK_SIZE - sizeof(void *)) / sizeof(struct arena_object))
struct arena_chunk {
    struct arena_chunk *next;
    struct arena_object objects[CHUNK_OBJECTS];
};

/* The arena sets of a heap, as they are before the first arena.  The main heap may
 * keep more than others, which may stand still for long. */
INTERNAL_DATA(PyObjectArenaAllocator) medium_arena_allocator;
#define SMALL_ARENA_SET(OF, EARNED_MIB) { \
    .heap = (OF), \
    .arena_size = ARENA_SIZE, \
    .pool_size = POOL_SIZE, \
    .kept_sixteenths = 13, \
    .earned_max = ((size_t)(EARNED_MIB) << 20) / POOL_SIZE, \
    .populated_from = ((size_t)32 << 20) / ARENA_SIZE, \
    .allocator = &_PyObject_Arena}
#define MEDIUM_ARENA_SET(OF, SIXTEENTHS, EARNED_MIB) { \
    .heap = (OF), \
    .is_medium = 1, \
    .arena_size = MEDIUM_ARENA_SIZE, \
    .pool_size = MEDIUM_POOL_SIZE, \
    .kept_sixteenths = (SIXTEENTHS), \
    .earned_max = ((size_t)(EARNED_MIB) << 20) / MEDIUM_POOL_SIZE, \
    .populated_from = SIZE_MAX, \
    .allocator = &medium_arena_allocator}

/* Do arenas come straight from the system?  An arena allocator that somebody installed
 * sees CPython's rule, and its memory is nobody else's to purge. */
static inline int
arenas_are_the_systems(const struct arena_set *set)
{
    return set->allocator->alloc == _PyMem_ArenaAlloc;
}

/* Is there a free pool in an arena that is here already? */
int arenas_have_free_pool(const struct arena_set *set);

/* A free pool, from the fullest arena that has one (buying an arena if none
 * has): the arena, and where the pool is.  NULL when the arena allocator has no
 * more. */
struct arena_object *arenas_take_pool(struct arena_set *set,
                                      uintptr_t *address);

/* Give a pool back.  Its record says already that it is none. */
void arena_release_pool(struct arena_object *arena, uintptr_t address);

/* The end of an empty arena: it goes back to the arena allocator. */
void arena_return(struct arena_object *arena);

/* The system may have the memory of an empty arena from now on, until that is written to.
 * 0: the system knows no such thing. */
int arena_lend(struct arena_object *arena);

/* The empty arena that is least worth to be kept; there is one. */
struct arena_object *arenas_oldest_empty(const struct arena_set *set);

/* Give back empty arenas, but so many; the number of bytes. */
size_t arenas_return_empty(struct arena_set *set, size_t nkept);

/* Give back all that no block is in; the number of bytes. */
size_t arenas_trim(struct arena_set *set);

/* Give back the memory of so many resting pools, or of a few more; the number of
 * bytes.  They are taken where most pools are free: those arenas are used last. */
size_t arenas_purge_resting(struct arena_set *set, size_t npools);

/* keeping.c.  Bytes that may stay though nobody uses them: PYMEM_KEEP, or what it is by
 * default. */
size_t arenas_keep(void);

/* An arena became empty, or a pool came back to one that did not: what may not
 * stay goes back. */
void arenas_became_empty(struct arena_set *set);
void arenas_pool_rests(struct arena_set *set);

/* One was bought, or given back. */
void arenas_are_now(struct arena_set *set);

/* An arena was bought with memory behind so many pools, perhaps none; or a pool was taken
 * that had none behind it. */
void arenas_lacked(struct arena_set *set, size_t npools);

/* Now and then: full pools came to have free blocks, and are perhaps on their way to
 * become sparse. */
void arenas_pools_opened(struct arena_set *set);

/* A medium pool is kept in its ring. */
void arenas_pool_is_kept(struct arena_set *set);

/* Others need so many bytes more than they ever did: give back as much, if it only rests here. */
void arenas_make_way(struct arena_set *set, size_t nbytes);

/* Time passes: to be called now and then, where it does not matter that it
 * takes a few nanoseconds while arenas are kept. */
void arenas_windows_go_on(struct heap *heap);
static inline void
arenas_tick(struct heap *heap)
{
    if (UNLIKELY(atomic_load_explicit(&heap->to_do, memory_order_relaxed)
                 & HEAP_KEEPS_ARENAS))
    {
        arenas_windows_go_on(heap);
    }
}

/* All arenas of a heap that has no owner any more become another's; the records of
 * their pools tell the new owner already. */
void arenas_change_owner(struct heap *from, struct heap *to);

/* Is this the only arena that has a pool in use? */
static inline int
arena_is_last_in_use(const struct arena_object *arena)
{
    return arena->nfreepools < arena->ntotalpools
        && arena->set->ncurrent - arena->set->nempty == 1;
}

/* Visit every arena of a set, oldest first, until visit() returns something
 * else than 0; returns that, or 0. */
int arenas_visit(const struct arena_set *set,
                 int (*visit)(const struct arena_object *, void *), void *arg);

/* Where pool i of an arena is. */
static inline void *
arena_pool_address(const struct arena_object *arena, unsigned i)
{
    return (void *)(arena->pool_address + i * arena->set->pool_size);
}

/* The record of pool i of an arena. */
static inline poolp
arena_pool(const struct arena_object *arena, unsigned i)
{
    return pool_record((uintptr_t)arena_pool_address(arena, i), arena->set->is_medium);
}

/* Does everything an arena says of itself hold? */
int arena_is_valid(const struct arena_object *arena);

#endif /* !Py_INTERNAL_ARENAS_H */
