/* Look at the heaps of pymalloc: arenas, their pools, the blocks in them.
 *
 *     static int
 *     print_pool(void *arg, const PyMemHeapArena *arena, const PyMemHeapPool *pool)
 *     {
 *         printf("%#zx: %u of %u blocks\n", pool->address, pool->nused, pool->nblocks);
 *         return 0;
 *     }
 *     PyMemHeap_Visit(NULL, print_pool, NULL);
 *
 * Blocks of up to 512 bytes are in the heap of an interpreter, larger ones in the heap
 * of the thread that asked for them.  Nothing is allocated in them and no block is
 * changed, so what is seen of the caller's own interpreter and thread is exact.  Others
 * go on meanwhile, unless they need the GIL that the caller holds: of them each number was
 * right at some moment of the visit.  Only pymem has it; CPython only prints statistics.  With
 * the GIL held; what visits must not use the mem and object domains.  In a build without
 * pymalloc there is nothing to see. */

#ifndef PYMEMHEAP_H
#define PYMEMHEAP_H

#include "pyport.h"

#ifdef __cplusplus
extern "C" {
#endif

/* An arena: memory that was bought at once, a multiple of pools.  Sizes are in
 * bytes. */
typedef struct {
    uintptr_t address;          /* as it was bought */
    uintptr_t pool_address;     /* of its first pool, up to one pool further on */
    size_t size;
    size_t pool_size;
    unsigned npools;
    unsigned nfreepools;        /* of those: nobody's */
    int is_medium;              /* for requests over 512 bytes */
    unsigned heap;              /* the number of its heap: 0 is the main one */
    int64_t interpreter;        /* whose heap that is, by its ID; -1: a thread's */
    uintptr_t thread;           /* the system's number of the thread, that has it or
                                   had it last; 0: an interpreter's */
    int is_hardened;            /* PYTHONMALLOC=hardened: its pools are slabs, of any class */
} PyMemHeapArena;

typedef struct {
    uintptr_t address;
    uintptr_t first_block;      /* behind the pool's header */
    const void *freeblock;      /* the block that is given next, or NULL */
    size_t blocksize;           /* 0: the pool is free, and all below is 0 */
    unsigned nblocks;           /* as many as fit */
    unsigned ncut;              /* the first so many were allocated once, */
    unsigned nused;             /* and so many are now; 0: kept for the next one */
    unsigned nfreed_by_others;  /* free, but not in the list yet: freed where another
                                   heap is at work, or at hand for the next requests */
    const uintptr_t *freed_by_others;   /* their addresses, while the pool is visited */
    uint32_t gone;              /* bit i: page i of the pool went back to the system; the
                                   blocks in it are free, and in the list again with it */
    const uint16_t *states;     /* of a slab, else NULL: what PyMemHeap_FreeBlocks() reads */
} PyMemHeapPool;

typedef int (*PyMemHeapArenaVisitor)(void *arg, const PyMemHeapArena *arena);
typedef int (*PyMemHeapPoolVisitor)(void *arg, const PyMemHeapArena *arena,
                                    const PyMemHeapPool *pool);

/* Visit each arena and after it its pools, by their addresses, also those that are
 * free.  Arenas come in no order.  Either visitor may be NULL.  Ends when one
 * returns not 0, and returns that. */
PyAPI_FUNC(int) PyMemHeap_Visit(PyMemHeapArenaVisitor visit_arena,
                                PyMemHeapPoolVisitor visit_pool, void *arg);

/* The numbers of a pool's free blocks, in the order in which they will be given;
 * numbers has room for pool->nblocks.  How many there are; -1: the list leads to
 * what is no free block of the pool, so something wrote over it.  Only while the
 * pool is being visited, or while nobody allocates.  Of a slab they are in no order, and
 * PYMEMHEAP_WAITS is added to those in quarantine or ready to be given. */
#define PYMEMHEAP_WAITS 0x8000
PyAPI_FUNC(int) PyMemHeap_FreeBlocks(const PyMemHeapPool *pool, uint16_t *numbers);

/* Of all heaps together. */
typedef struct {
    size_t threshold;           /* requests of up to so many bytes are small */
    size_t alignment;
    size_t pool_overhead;       /* the header of a pool of small blocks */
    size_t arena_size, pool_size;
    size_t arenas_allocated, arenas_current, arenas_highwater;
    size_t medium_arena_size, medium_pool_size;
    size_t medium_arenas_allocated, medium_arenas_current, medium_arenas_highwater;
    size_t larger_blocks;       /* asked of pymalloc, and over the threshold */
    size_t map_root, map_leaves, map_records;   /* bytes; number; bytes in use */
    size_t arena_objects;       /* bytes */
    size_t heaps;               /* of interpreters and threads */
} PyMemHeapFigures;

PyAPI_FUNC(void) PyMemHeap_GetFigures(PyMemHeapFigures *figures);

/* For readers of the heaps from outside, as debuggers: where the heaps begin and how
 * their structures look.  heaps is an array of nheaps pointers, NULL behind the
 * last; map_leaves leads to a size_t.  All numbers are bytes from the start of a structure
 * (or its size), in the order of the names in Lib/pymem/remote.py. */
typedef struct {
    char cookie[8];             /* "pymemhp5" */
    const void *heaps, *pool_map, *map_leaves, *at_hand, *at_hand_places;
    uint32_t alignment, threshold, pool_overhead, map_root, nheaps;
    uint32_t nat_hand, at_hand_nplaces;
    uint32_t heap_owner, heap_interpreter, heap_thread, heap_small_arenas;
    uint32_t heap_medium_arenas, heap_first_chunk, heap_nchunks, heap_raw_blocks;
    uint32_t heap_freed_by_others;
    uint32_t chunk, chunk_objects, chunk_nobjects, arena_object;
    uint32_t arena_set, arena_address, arena_pool_address;
    uint32_t arena_nfreepools, arena_ntotalpools;
    uint32_t set_arena_size, set_pool_size, set_ntimes_allocated;
    uint32_t set_ncurrent, set_nhighwater;
    uint32_t leaf_medium, medium_record, medium_gone, pool_gone;
    uint32_t pool, pool_freeblock, pool_next, pool_inuse, pool_blocksize;
    uint32_t pool_nextoffset, pool_owner;
} PyMemHeapLayout;

PyAPI_DATA(const PyMemHeapLayout) _PyMem_HeapLayout;

#ifdef __cplusplus
}
#endif

#endif /* !PYMEMHEAP_H */
