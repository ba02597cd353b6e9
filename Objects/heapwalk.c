/* The heaps as they are seen from outside: pymemheap.h.
 *
 * Reads the structures of arenas.c and pools.c and shows all arenas as one kind, and all
 * pools.  Blocks that others freed are taken in before by the owner, if that is the caller.
 * Else they are sorted here, and shown as free, as are blocks at hand.  Changes nothing
 * else. */

#include "pymemheap.h"
#include "pycore_hardened.h"
#include "pycore_pymem.h"

#include <stdlib.h>
#include <string.h>

#ifdef WITH_PYMALLOC

#include "pycore_arenas.h"
#include "pycore_athand.h"
#include "pycore_sparse.h"

struct visitor {
    PyMemHeapArenaVisitor visit_arena;
    PyMemHeapPoolVisitor visit_pool;
    void *arg;
    uintptr_t *freed;           /* by others, or at hand, of this heap, sorted */
    size_t nfreed, nroom;
};

/* Blocks that others freed, and those at hand. */

static int
compare_addresses(const void *a, const void *b)
{
    uintptr_t x = *(const uintptr_t *)a, y = *(const uintptr_t *)b;
    return x < y ? -1 : x > y;
}

static size_t
freed_size(const struct visitor *visitor)
{
    return (visitor->nroom + 1) * sizeof(uintptr_t);
}

static void
freed_count(void *arg, block *bp)
{
    (void)bp;
    ((struct visitor *)arg)->nroom++;
}

static void
freed_add(void *arg, block *bp)
{
    struct visitor *visitor = arg;
    if (visitor->nfreed < visitor->nroom) {
        visitor->freed[visitor->nfreed++] = (uintptr_t)bp;
    }
}

/* -1: no memory. */
static int
freed_collect(struct visitor *visitor, const struct heap *heap)
{
    block *first = heap->freed_by_others;
    visitor->nroom = visitor->nfreed = 0;
    heap_visit_freed(heap, first, freed_count, visitor);
    visitor->freed = virtual_alloc(freed_size(visitor), 1);
    if (visitor->freed == NULL) {
        return -1;
    }
    heap_visit_freed(heap, first, freed_add, visitor);
    qsort(visitor->freed, visitor->nfreed, sizeof(uintptr_t), compare_addresses);
    return 0;
}

static size_t
freed_below(const struct visitor *visitor, uintptr_t address)
{
    size_t low = 0, high = visitor->nfreed;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (visitor->freed[middle] < address) {
            low = middle + 1;
        }
        else {
            high = middle;
        }
    }
    return low;
}

/* The walk. */

static void
show_pool(const struct visitor *visitor, poolp pool, PyMemHeapPool *shown)
{
    struct pool_view view = pool_look(pool);
    if (view.class == NULL) {
        return;
    }
    size_t first = freed_below(visitor, shown->address);
    size_t nfreed = freed_below(visitor, shown->address + view.class->pool_size) - first;
    shown->first_block = shown->address + view.class->first;
    shown->freeblock = view.freeblock;
    shown->blocksize = view.class->blocksize;
    shown->nblocks = view.class->nblocks;
    shown->ncut = view.ncut;
    shown->nfreed_by_others = (unsigned)nfreed;
    shown->freed_by_others = visitor->freed + first;
    shown->nused = view.nused > nfreed ? view.nused - (unsigned)nfreed : 0;
    shown->gone = pool_header_of(pool)->gone;
}

static READS_WHILE_OTHERS_WRITE int
show_arena(const struct arena_object *arena, void *visitor_of_heap)
{
    const struct visitor *visitor = visitor_of_heap;
    const struct arena_set *set = arena->set;
    const PyMemHeapArena shown = {
        .address = arena->address,
        .pool_address = arena->pool_address,
        .size = set->arena_size,
        .pool_size = set->pool_size,
        .npools = arena->ntotalpools,
        .nfreepools = arena->nfreepools,
        .is_medium = set->is_medium,
        .heap = set->heap->number,
        .interpreter = set->heap->interpreter,
        .thread = set->heap->thread,
    };
    int result = visitor->visit_arena == NULL ? 0
        : visitor->visit_arena(visitor->arg, &shown);
    for (unsigned i = 0;
         result == 0 && visitor->visit_pool != NULL && i < arena->ntotalpools; i++)
    {
        PyMemHeapPool pool = {.address = (uintptr_t)arena_pool_address(arena, i)};
        show_pool(visitor, arena_pool(arena, i), &pool);
        result = visitor->visit_pool(visitor->arg, &shown, &pool);
    }
    return result;
}

static int
show_heap(struct heap *heap, void *visitor_of_heaps)
{
    struct visitor *visitor = visitor_of_heaps;
    if (freed_collect(visitor, heap) < 0) {
        return -1;
    }
    int result = arenas_visit(&heap->small_arenas, show_arena, visitor);
    if (result == 0) {
        result = arenas_visit(&heap->medium_arenas, show_arena, visitor);
    }
    virtual_free(visitor->freed, freed_size(visitor));
    return result;
}

/* Slabs of the hardened allocator, each as a pool. */

static void
show_slab(const struct hard_slab *slab, PyMemHeapPool *shown)
{
    if (slab->states == NULL) {
        return;
    }
    shown->first_block = shown->address + slab->first;
    shown->blocksize = slab->blocksize;
    shown->nblocks = hard_slab_nblocks(slab);
    shown->ncut = slab->ncut;
    shown->states = slab->states;
    shown->nused = hard_slab_count(slab).used;
}

static READS_WHILE_OTHERS_WRITE int
show_hardened_arena(void *arg, uint32_t first, unsigned nslabs)
{
    const struct visitor *visitor = arg;
    uintptr_t address = (uintptr_t)hard_slab_address(first);
    PyMemHeapArena shown = {.address = address, .pool_address = address,
                            .size = nslabs * HARD_SLAB_SIZE, .pool_size = HARD_SLAB_SIZE,
                            .npools = nslabs, .is_hardened = 1};
    for (uint32_t i = first; i < first + nslabs; i++) {
        shown.nfreepools += hard_slab_records[i].states == NULL;
    }
    int result = visitor->visit_arena == NULL ? 0
        : visitor->visit_arena(visitor->arg, &shown);
    for (unsigned i = 0; result == 0 && visitor->visit_pool != NULL && i < nslabs; i++) {
        PyMemHeapPool pool = {.address = address + i * HARD_SLAB_SIZE};
        show_slab(&hard_slab_records[first + i], &pool);
        result = visitor->visit_pool(visitor->arg, &shown, &pool);
    }
    return result;
}

static int
free_blocks_of_slab(const PyMemHeapPool *pool, uint16_t *numbers)
{
    int n = 0;
    for (unsigned i = 0; i < pool->ncut; i++) {
        unsigned state = pool->states[i];
        if (!hard_is_in_use(state)) {
            numbers[n++] = (uint16_t)(i | (state >= WAITS_FRESH ? PYMEMHEAP_WAITS : 0));
        }
    }
    return n;
}

int
PyMemHeap_Visit(PyMemHeapArenaVisitor visit_arena, PyMemHeapPoolVisitor visit_pool,
                void *arg)
{
    struct visitor visitor = {visit_arena, visit_pool, arg, NULL, 0, 0};
    heaps_take_in_own();
    int result = heaps_visit(show_heap, &visitor);
    return result != 0 ? result : hard_arenas_visit(show_hardened_arena, &visitor);
}

int
PyMemHeap_FreeBlocks(const PyMemHeapPool *pool, uint16_t *numbers)
{
    unsigned n = 0;
    uintptr_t address = (uintptr_t)pool->freeblock;
    if (pool->states != NULL) {
        return free_blocks_of_slab(pool, numbers);
    }
    while (address != 0) {
        int number = block_number(address - pool->first_block, pool->blocksize, pool->ncut);
        if (number < 0 || n == pool->ncut) {
            return -1;
        }
        numbers[n++] = (uint16_t)number;
        address = *(const uintptr_t *)address;
    }
    struct pool of_class = {.blocksize = (uint16_t)pool->blocksize};
    const struct size_class *class = &size_classes[pool_class(&of_class)];
    for (unsigned i = 0; pool->gone != 0 && i < pool->ncut && n < pool->ncut; i++) {
        if (block_is_gone(pool->gone, class, i)) {
            numbers[n++] = (uint16_t)i;
        }
    }
    for (unsigned i = 0; i < pool->nfreed_by_others && n < pool->ncut; i++) {
        size_t offset = pool->freed_by_others[i] - pool->first_block;
        numbers[n++] = (uint16_t)(offset / pool->blocksize);
    }
    return n + pool->nused == pool->ncut ? (int)n : -1;
}

static int
add_figures(struct heap *heap, void *of_all)
{
    PyMemHeapFigures *figures = of_all;
    const struct arena_set *small = &heap->small_arenas, *medium = &heap->medium_arenas;
    figures->heaps++;
    figures->arenas_allocated += small->ntimes_allocated;
    figures->arenas_current += small->ncurrent;
    figures->arenas_highwater += small->nhighwater;
    figures->medium_arenas_allocated += medium->ntimes_allocated;
    figures->medium_arenas_current += medium->ncurrent;
    figures->medium_arenas_highwater += medium->nhighwater;
    figures->larger_blocks += (size_t)heap_count_larger(heap);
    figures->arena_objects += heap->nchunks * CHUNK_SIZE;
    return 0;
}

void
PyMemHeap_GetFigures(PyMemHeapFigures *figures)
{
    *figures = (PyMemHeapFigures){
        .threshold = SMALL_REQUEST_THRESHOLD,
        .alignment = ALIGNMENT,
        .pool_overhead = POOL_OVERHEAD,
        .arena_size = ARENA_SIZE,
        .pool_size = POOL_SIZE,
        .medium_arena_size = MEDIUM_ARENA_SIZE,
        .medium_pool_size = MEDIUM_POOL_SIZE,
        .map_root = sizeof(pool_map),
        .map_leaves = pool_map_nleaves,
    };
    heaps_visit(add_figures, figures);
    figures->map_records = figures->arenas_current * MAX_POOLS_IN_ARENA
        * sizeof(struct pool);
}

#define SIZE(field, structure) .field = (uint32_t)sizeof(structure)
#define OFFSET(field, structure, member) \
    .field = (uint32_t)offsetof(structure, member)

const PyMemHeapLayout _PyMem_HeapLayout = {
    .cookie = {'p', 'y', 'm', 'e', 'm', 'h', 'p', '5'},
    .heaps = heaps,
    .pool_map = pool_map,
    .map_leaves = &pool_map_nleaves,
    .at_hand = at_hand,
    .at_hand_places = at_hand_places,
    .alignment = ALIGNMENT,
    .threshold = SMALL_REQUEST_THRESHOLD,
    .pool_overhead = POOL_OVERHEAD,
    .map_root = sizeof(pool_map),
    .nheaps = MAX_HEAPS,
    .nat_hand = NB_SMALL_SIZE_CLASSES,
    .at_hand_nplaces = AT_HAND_PLACES,
    OFFSET(heap_owner, struct heap, owner),
    OFFSET(heap_interpreter, struct heap, interpreter),
    OFFSET(heap_thread, struct heap, thread),
    OFFSET(heap_small_arenas, struct heap, small_arenas),
    OFFSET(heap_medium_arenas, struct heap, medium_arenas),
    OFFSET(heap_first_chunk, struct heap, first_chunk),
    OFFSET(heap_nchunks, struct heap, nchunks),
    OFFSET(heap_raw_blocks, struct heap, raw_blocks),
    OFFSET(heap_freed_by_others, struct heap, freed_by_others),
    .chunk = CHUNK_SIZE,
    OFFSET(chunk_objects, struct arena_chunk, objects),
    .chunk_nobjects = CHUNK_OBJECTS,
    SIZE(arena_object, struct arena_object),
    OFFSET(arena_set, struct arena_object, set),
    OFFSET(arena_address, struct arena_object, address),
    OFFSET(arena_pool_address, struct arena_object, pool_address),
    OFFSET(arena_nfreepools, struct arena_object, nfreepools),
    OFFSET(arena_ntotalpools, struct arena_object, ntotalpools),
    OFFSET(set_arena_size, struct arena_set, arena_size),
    OFFSET(set_pool_size, struct arena_set, pool_size),
    OFFSET(set_ntimes_allocated, struct arena_set, ntimes_allocated),
    OFFSET(set_ncurrent, struct arena_set, ncurrent),
    OFFSET(set_nhighwater, struct arena_set, nhighwater),
    OFFSET(leaf_medium, struct pool_leaf, medium),
    SIZE(medium_record, struct medium_record),
    OFFSET(medium_gone, struct medium_record, header.gone),
    OFFSET(pool_gone, struct pool_header, gone),
    SIZE(pool, struct pool),
    OFFSET(pool_freeblock, struct pool, freeblock),
    OFFSET(pool_next, struct pool, next),
    OFFSET(pool_inuse, struct pool, inuse),
    OFFSET(pool_blocksize, struct pool, blocksize),
    OFFSET(pool_nextoffset, struct pool, nextoffset),
    OFFSET(pool_owner, struct pool, owner),
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
