/* The heap as it is seen from outside: pymemheap.h.
 *
 * Reads the structures of arenas.c, pymalloc.c and mediumalloc.c and shows them as
 * one kind of arena and one kind of pool; changes nothing. */

#include "pymemheap.h"
#include "pycore_pymem.h"

#include <string.h>

#ifdef WITH_PYMALLOC

#include "pycore_arenas.h"
#include "pycore_sharedheap.h"

/* One pool, of either kind. */

static void
show_small_pool(const struct pool *pool, PyMemHeapPool *shown)
{
    if (pool->blocksize == 0) {
        return;
    }
    shown->first_block = shown->address + POOL_OVERHEAD;
    shown->freeblock = pool->freeblock;
    shown->blocksize = pool->blocksize;
    shown->nblocks = NUMBLOCKS(pool->blocksize);
    shown->ncut = (unsigned)((pool->nextoffset - POOL_OVERHEAD) / pool->blocksize);
    shown->nused = pool_count_blocks(pool);
}

static void
show_medium_pool(const struct medium_pool *pool, PyMemHeapPool *shown)
{
    if (pool->blocksize == 0) {
        return;
    }
    shown->first_block = shown->address;
    shown->freeblock = pool->freeblock;
    shown->blocksize = pool->blocksize;
    shown->nblocks = pool->nblocks;
    shown->ncut = pool->ncut;
    shown->nused = pool->next == NULL ? pool->nblocks : pool->inuse;
}

/* The walk. */

struct visitor {
    PyMemHeapArenaVisitor visit_arena;
    PyMemHeapPoolVisitor visit_pool;
    void *arg;
};

static int
show_arena(const struct arena_object *arena, void *visitor_of_heap)
{
    const struct visitor *visitor = visitor_of_heap;
    const PyMemHeapArena shown = {
        .address = arena->address,
        .pool_address = arena->pool_address,
        .size = arena->heap->arena_size,
        .pool_size = arena->heap->pool_size,
        .npools = arena->ntotalpools,
        .nfreepools = arena->nfreepools,
        .is_medium = arena->heap == &medium_arenas,
    };
    int result = visitor->visit_arena == NULL ? 0
        : visitor->visit_arena(visitor->arg, &shown);
    for (unsigned i = 0;
         result == 0 && visitor->visit_pool != NULL && i < arena->ntotalpools; i++)
    {
        PyMemHeapPool pool = {.address = (uintptr_t)arena_pool_address(arena, i)};
        if (shown.is_medium) {
            show_medium_pool(medium_pool_at(pool.address), &pool);
        }
        else {
            show_small_pool(arena_pool(arena, i), &pool);
        }
        result = visitor->visit_pool(visitor->arg, &shown, &pool);
    }
    return result;
}

int
PyMemHeap_Visit(PyMemHeapArenaVisitor visit_arena, PyMemHeapPoolVisitor visit_pool,
                void *arg)
{
    struct visitor visitor = {visit_arena, visit_pool, arg};
    int is_locked = heap_enter();
    int result = arenas_visit(&small_arenas, show_arena, &visitor);
    if (result == 0) {
        result = arenas_visit(&medium_arenas, show_arena, &visitor);
    }
    heap_leave(is_locked);
    return result;
}

int
PyMemHeap_FreeBlocks(const PyMemHeapPool *pool, uint16_t *numbers)
{
    unsigned n = 0;
    uintptr_t address = (uintptr_t)pool->freeblock;
    while (address != 0) {
        size_t offset = address - pool->first_block;
        if (address < pool->first_block || offset % pool->blocksize != 0
            || offset / pool->blocksize >= pool->ncut || n == pool->ncut)
        {
            return -1;
        }
        numbers[n++] = (uint16_t)(offset / pool->blocksize);
        address = *(const uintptr_t *)address;
    }
    return n + pool->nused == pool->ncut ? (int)n : -1;
}

void
PyMemHeap_GetFigures(PyMemHeapFigures *figures)
{
    int is_locked = heap_enter();
    *figures = (PyMemHeapFigures){
        .threshold = SMALL_REQUEST_THRESHOLD,
        .alignment = ALIGNMENT,
        .pool_overhead = POOL_OVERHEAD,
        .arena_size = ARENA_SIZE,
        .pool_size = POOL_SIZE,
        .arenas_allocated = small_arenas.ntimes_allocated,
        .arenas_current = small_arenas.ncurrent,
        .arenas_highwater = small_arenas.nhighwater,
        .medium_arena_size = MEDIUM_ARENA_SIZE,
        .medium_pool_size = MEDIUM_POOL_SIZE,
        .medium_arenas_allocated = medium_arenas.ntimes_allocated,
        .medium_arenas_current = medium_arenas.ncurrent,
        .medium_arenas_highwater = medium_arenas.nhighwater,
        .larger_blocks = (size_t)raw_allocated_blocks,
        .map_root = sizeof(pool_map),
        .map_leaves = arena_bookkeeping.nleaves,
        .map_records = small_arenas.ncurrent * MAX_POOLS_IN_ARENA
            * sizeof(struct pool),
        .arena_objects = arena_bookkeeping.nchunks * arena_bookkeeping.chunk_size,
    };
    heap_leave(is_locked);
}

#define OFFSET(field, structure, member) \
    .field = (uint32_t)offsetof(structure, member)

const PyMemHeapLayout _PyMem_HeapLayout = {
    .cookie = {'p', 'y', 'm', 'e', 'm', 'h', 'p', '1'},
    .first_chunk = &first_chunk,
    .small_arenas = &small_arenas,
    .medium_arenas = &medium_arenas,
    .pool_map = pool_map,
    .larger_blocks = &raw_allocated_blocks,
    .bookkeeping = &arena_bookkeeping,
    .alignment = ALIGNMENT,
    .threshold = SMALL_REQUEST_THRESHOLD,
    .pool_overhead = POOL_OVERHEAD,
    .frames_in_leaf = FRAMES_IN_LEAF,
    .map_root = sizeof(pool_map),
    OFFSET(chunk_objects, struct arena_chunk, objects),
    .chunk_nobjects = CHUNK_OBJECTS,
    .arena_object = sizeof(struct arena_object),
    OFFSET(arena_heap, struct arena_object, heap),
    OFFSET(arena_address, struct arena_object, address),
    OFFSET(arena_pool_address, struct arena_object, pool_address),
    OFFSET(arena_nfreepools, struct arena_object, nfreepools),
    OFFSET(arena_ntotalpools, struct arena_object, ntotalpools),
    OFFSET(heap_arena_size, struct arena_heap, arena_size),
    OFFSET(heap_pool_size, struct arena_heap, pool_size),
    OFFSET(heap_ntimes_allocated, struct arena_heap, ntimes_allocated),
    OFFSET(heap_ncurrent, struct arena_heap, ncurrent),
    OFFSET(heap_nhighwater, struct arena_heap, nhighwater),
    .pool = sizeof(struct pool),
    OFFSET(pool_freeblock, struct pool, freeblock),
    OFFSET(pool_next, struct pool, next),
    OFFSET(pool_inuse, struct pool, inuse),
    OFFSET(pool_blocksize, struct pool, blocksize),
    OFFSET(pool_nextoffset, struct pool, nextoffset),
    .medium = sizeof(struct medium_pool),
    OFFSET(medium_freeblock, struct medium_pool, freeblock),
    OFFSET(medium_next, struct medium_pool, next),
    OFFSET(medium_inuse, struct medium_pool, inuse),
    OFFSET(medium_blocksize, struct medium_pool, blocksize),
    OFFSET(medium_ncut, struct medium_pool, ncut),
    OFFSET(medium_nblocks, struct medium_pool, nblocks),
};

#else /* without pymalloc: no heap of ours */

int
PyMemHeap_Visit(PyMemHeapArenaVisitor visit_arena, PyMemHeapPoolVisitor visit_pool,
                void *arg)
{
    (void)visit_arena;
    (void)visit_pool;
    (void)arg;
    return 0;
}

int
PyMemHeap_FreeBlocks(const PyMemHeapPool *pool, uint16_t *numbers)
{
    (void)pool;
    (void)numbers;
    return 0;
}

void
PyMemHeap_GetFigures(PyMemHeapFigures *figures)
{
    memset(figures, 0, sizeof(*figures));
}

const PyMemHeapLayout _PyMem_HeapLayout = {.cookie = ""};

#endif
