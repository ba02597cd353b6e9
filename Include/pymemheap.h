/* Look at the heap of pymalloc: arenas, their pools, the blocks in them.
 *
 *     static int
 *     print_pool(void *arg, const PyMemHeapArena *arena, const PyMemHeapPool *pool)
 *     {
 *         printf("%#zx: %u of %u blocks\n", pool->address, pool->nused, pool->nblocks);
 *         return 0;
 *     }
 *     PyMemHeap_Visit(NULL, print_pool, NULL);
 *
 * Nothing is allocated and nothing is changed, so what is seen is exact.  pymem's
 * own: CPython prints statistics only.  With the GIL held, which also means that
 * nobody else allocates while a visit lasts; what visits must not use the mem and
 * object domains.  In a build without pymalloc there is nothing to see. */

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
} PyMemHeapArena;

typedef struct {
    uintptr_t address;
    uintptr_t first_block;      /* behind the pool's header */
    const void *freeblock;      /* the block that is given next, or NULL */
    size_t blocksize;           /* 0: the pool is free, and all below is 0 */
    unsigned nblocks;           /* as many as fit */
    unsigned ncut;              /* the first so many were allocated once, */
    unsigned nused;             /* and so many are now; 0: kept for the next one */
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
 * pool is being visited, or while nobody allocates. */
PyAPI_FUNC(int) PyMemHeap_FreeBlocks(const PyMemHeapPool *pool, uint16_t *numbers);

/* What there is once. */
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
} PyMemHeapFigures;

PyAPI_FUNC(void) PyMemHeap_GetFigures(PyMemHeapFigures *figures);

/* For those who read the heap from outside, as debuggers do: where it begins and
 * how its structures look.  All numbers are bytes from the start of a structure
 * (or its size), in the order of the names in Lib/pymem/remote.py. */
typedef struct {
    char cookie[8];             /* "pymemhp1" */
    const void *first_chunk, *small_arenas, *medium_arenas, *pool_map;
    const void *larger_blocks, *bookkeeping;
    uint32_t alignment, threshold, pool_overhead, frames_in_leaf, map_root;
    uint32_t chunk_objects, chunk_nobjects, arena_object;
    uint32_t arena_heap, arena_address, arena_pool_address;
    uint32_t arena_nfreepools, arena_ntotalpools;
    uint32_t heap_arena_size, heap_pool_size, heap_ntimes_allocated;
    uint32_t heap_ncurrent, heap_nhighwater;
    uint32_t pool, pool_freeblock, pool_next, pool_inuse, pool_blocksize;
    uint32_t pool_nextoffset;
    uint32_t medium, medium_freeblock, medium_next, medium_inuse, medium_blocksize;
    uint32_t medium_ncut, medium_nblocks;
} PyMemHeapLayout;

PyAPI_DATA(const PyMemHeapLayout) _PyMem_HeapLayout;

#ifdef __cplusplus
}
#endif

#endif /* !PYMEMHEAP_H */
