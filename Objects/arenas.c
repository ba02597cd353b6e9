/* Arenas: bought from an arena allocator, lent out pool by pool, given back.
 * There are two heaps of them, for small and for medium blocks; all that is
 * said here holds within each.
 *
 *   usable[n]    lists of arenas with n free pools, n from 1 on
 *        1: ( A, F )
 *        2: ( )            the next pool comes from A: the fullest arena that
 *        3: ( C )          has one, so that the emptiest can become empty
 *       ...
 *   empty        ( D, E )   all pools free: kept for the next peak, or given
 *                           back
 *
 * An arena whose pools are all in use is in no list.
 *
 * Giving an arena back and buying it again costs a page fault for each of its
 * pages, a hundred times more than all the bookkeeping here.  So some empty
 * arenas are kept, and more are held for a moment: see arenas_to_keep() and
 * heap_hold_goes_on().
 *
 * Owns arena objects and the pool map's leaves.  Calls the arena allocators
 * and virtualmem.c. */

#include "pycore_arenas.h"
#include "pycore_probes.h"
#include "pycore_virtualmem.h"

/* Empty arenas that stay: 16 MiB of small blocks, what a program of the size of
 * a compiler pass builds up and drops again and again, and one for every eight
 * in use.  Up to 256 MiB more are held for a while, in case the next peak comes
 * soon.  A heap of 32 MiB will fill the next arena, too: it is put in place at
 * once.  Medium blocks take a lesser part of a program's memory, and pools of
 * them are not always filled to their ends. */
#define KEPT_SHARE 8
#define HELD_MILLISECONDS 200

struct arena_heap small_arenas = {
    .arena_size = ARENA_SIZE,
    .pool_size = POOL_SIZE,
    .kept_min = ((size_t)16 << 20) / ARENA_SIZE,
    .held_max = ((size_t)256 << 20) / ARENA_SIZE,
    .populated_from = ((size_t)32 << 20) / ARENA_SIZE,
    .allocator = &_PyObject_Arena,
};

static PyObjectArenaAllocator medium_arena_allocator = {
    NULL, _PyMem_ArenaAlloc, _PyMem_ArenaFree
};
struct arena_heap medium_arenas = {
    .arena_size = MEDIUM_ARENA_SIZE,
    .pool_size = MEDIUM_POOL_SIZE,
    .kept_min = ((size_t)4 << 20) / MEDIUM_ARENA_SIZE,
    .held_max = ((size_t)64 << 20) / MEDIUM_ARENA_SIZE,
    .populated_from = SIZE_MAX,
    .allocator = &medium_arena_allocator,
};

poolp pool_map[POOL_MAP_LEAVES];
struct pool_map_home pool_map_home = {SIZE_MAX, NULL};
struct arena_bookkeeping arena_bookkeeping;
int arenas_are_held;
static struct arena_object *unused_objects;

struct arena_chunk *first_chunk;
static struct arena_chunk **last_chunk = &first_chunk;

/* Lists of arenas.  An arena is in one of them, or full. */

static void
arena_link(struct arena_object **list, struct arena_object *arena)
{
    arena->prevarena = NULL;
    arena->nextarena = *list;
    if (*list != NULL) {
        (*list)->prevarena = arena;
    }
    *list = arena;
}

static void
arena_unlink(struct arena_object **list, struct arena_object *arena)
{
    if (arena->prevarena != NULL) {
        arena->prevarena->nextarena = arena->nextarena;
    }
    else {
        *list = arena->nextarena;
    }
    if (arena->nextarena != NULL) {
        arena->nextarena->prevarena = arena->prevarena;
    }
}

/* Put an arena where its number of free pools belongs. */
static void
arena_file(struct arena_object *arena)
{
    struct arena_heap *heap = arena->heap;
    unsigned n = arena->nfreepools;
    if (n == arena->ntotalpools) {
        arena_link(&heap->empty, arena);
        heap->nempty++;
    }
    else if (n > 0) {
        arena_link(&heap->usable[n], arena);
        heap->usable_mask |= (uint64_t)1 << (n - 1);
    }
}

/* Take it out again, before that number changes. */
static void
arena_unfile(struct arena_object *arena)
{
    struct arena_heap *heap = arena->heap;
    unsigned n = arena->nfreepools;
    if (n == arena->ntotalpools) {
        arena_unlink(&heap->empty, arena);
        heap->nempty--;
    }
    else if (n > 0) {
        arena_unlink(&heap->usable[n], arena);
        if (heap->usable[n] == NULL) {
            heap->usable_mask &= ~((uint64_t)1 << (n - 1));
        }
    }
}

/* The pool map. */

/* Make sure that the frame at an address has a record.  Leaves stay: a few
 * pages of each are in memory. */
static int
pool_map_cover(uintptr_t address)
{
    size_t leaf = leaf_of(address);
    if (leaf >= POOL_MAP_LEAVES) {
        return -1;
    }
    if (pool_map[leaf] == NULL) {
        pool_map[leaf] = virtual_alloc(LEAF_SIZE, SYSTEM_PAGE_SIZE);
        if (pool_map[leaf] == NULL) {
            return -1;
        }
        arena_bookkeeping.nleaves++;
    }
    return 0;
}

/* Life of an arena. */

static struct arena_object *
arena_object_new(void)
{
    if (unused_objects == NULL) {
        struct arena_chunk *chunk = virtual_alloc(CHUNK_SIZE, SYSTEM_PAGE_SIZE);
        if (chunk == NULL) {
            return NULL;
        }
        *last_chunk = chunk;
        last_chunk = &chunk->next;
        arena_bookkeeping.nchunks++;
        arena_bookkeeping.chunk_size = CHUNK_SIZE;
        for (size_t i = CHUNK_OBJECTS; i > 0; i--) {
            arena_link(&unused_objects, &chunk->objects[i - 1]);
        }
    }
    struct arena_object *arena = unused_objects;
    arena_unlink(&unused_objects, arena);
    return arena;
}

/* Tell an arena object what memory it describes.  The pools are aligned to
 * their size: what lies before the first one and behind the last one stays
 * unused. */
static int
arena_set_memory(struct arena_object *arena, struct arena_heap *heap,
                 void *memory)
{
    size_t pool_size = heap->pool_size;
    uintptr_t address = (uintptr_t)memory;
    uintptr_t first = (address + pool_size - 1) & ~(uintptr_t)(pool_size - 1);
    unsigned npools = (unsigned)(heap->arena_size / pool_size)
        - (first != address ? 1u : 0u);
    if (npools == 0
        || pool_map_cover(first) < 0
        || pool_map_cover(first + (npools - 1) * pool_size) < 0)
    {
        return -1;
    }
    pool_map_home.leaf = leaf_of(first);
    pool_map_home.pools = pool_map[pool_map_home.leaf];
    arena->heap = heap;
    arena->address = address;
    arena->pool_address = first;
    arena->freepools = ~(uint64_t)0 >> (64 - npools);
    arena->nfreepools = arena->ntotalpools = npools;
    arena->nkeptpools = 0;
    return 0;
}

/* Give an empty arena back. */
static COLD void
arena_return(struct arena_object *arena)
{
    struct arena_heap *heap = arena->heap;
    DEBUG_ASSERT(arena->nfreepools == arena->ntotalpools);
    arena_unfile(arena);
    PROBE2(arena__free, arena->address, heap->arena_size);
    heap->allocator->free(heap->allocator->ctx, (void *)arena->address,
                          heap->arena_size);
    arena->address = 0;
    arena_link(&unused_objects, arena);
    heap->ncurrent--;
}

static size_t
arenas_in_use(const struct arena_heap *heap)
{
    return heap->ncurrent - heap->nempty;
}

static int
is_default_allocator(const struct arena_heap *heap)
{
    return heap->allocator->alloc == _PyMem_ArenaAlloc;
}

/* How many empty arenas may stay.  An arena allocator that somebody installed
 * sees CPython's rule: an empty arena goes back at once, unless it is the only
 * one with a free pool. */
static size_t
arenas_to_keep(const struct arena_heap *heap)
{
    if (!is_default_allocator(heap)) {
        return heap->usable_mask == 0 ? 1 : 0;
    }
    return heap->kept_min + arenas_in_use(heap) / KEPT_SHARE;
}

static void
hold_begin(struct arena_heap *heap)
{
    arenas_are_held = heap->is_held = 1;
    heap->hold_ends = virtual_clock() + HELD_MILLISECONDS;
    heap->least_empty = heap->nempty;
}

void
arenas_return_surplus(struct arena_heap *heap)
{
    size_t keep = arenas_to_keep(heap);
    size_t most = keep + (is_default_allocator(heap) ? heap->held_max : 0);
    while (heap->nempty > most) {
        arena_return(heap->empty);
    }
    if (heap->nempty > keep && !heap->is_held) {
        hold_begin(heap);
    }
}

/* Give back the memory of the free pools of an arena, and count it. */
static int
arena_purge_pools(const struct arena_object *arena, void *arg)
{
    for (unsigned i = 0; i < arena->ntotalpools; i++) {
        if (arena->freepools >> i & 1) {
            virtual_purge(arena_pool_address(arena, i), arena->heap->pool_size);
            *(size_t *)arg += arena->heap->pool_size;
        }
    }
    return 0;
}

/* Only the system takes back part of an arena. */
size_t
arenas_trim(struct arena_heap *heap)
{
    size_t nbytes = 0;
    while (heap->empty != NULL) {
        arena_return(heap->empty);
        nbytes += heap->arena_size;
    }
    if (is_default_allocator(heap)) {
        arenas_visit(heap, arena_purge_pools, &nbytes);
    }
    return nbytes;
}

/* At the end of each hold those arenas go back that were not needed in all of
 * it, some at a time, and what is left is held anew. */
static void
heap_hold_goes_on(struct arena_heap *heap)
{
    enum { AT_A_TIME = 16 };
    if (!heap->is_held || virtual_clock() < heap->hold_ends) {
        return;
    }
    size_t keep = arenas_to_keep(heap);
    for (int i = 0; i < AT_A_TIME; i++) {
        if (heap->least_empty <= keep || heap->nempty <= keep) {
            heap->is_held = 0;
            arenas_return_surplus(heap);
            return;
        }
        arena_return(heap->empty);
        heap->least_empty--;
    }
}

void
arenas_hold_goes_on(void)
{
    heap_hold_goes_on(&small_arenas);
    heap_hold_goes_on(&medium_arenas);
    arenas_are_held = small_arenas.is_held || medium_arenas.is_held;
}

static COLD struct arena_object *
arena_buy(struct arena_heap *heap)
{
    struct arena_object *arena = arena_object_new();
    if (arena == NULL) {
        return NULL;
    }
    const PyObjectArenaAllocator *allocator = heap->allocator;
    void *memory = allocator->alloc(allocator->ctx, heap->arena_size);
    if (memory != NULL && arena_set_memory(arena, heap, memory) < 0) {
        allocator->free(allocator->ctx, memory, heap->arena_size);
        memory = NULL;
    }
    if (memory == NULL) {
        arena_link(&unused_objects, arena);
        return NULL;
    }
    if (heap->ncurrent >= heap->populated_from && is_default_allocator(heap)) {
        virtual_populate(memory, heap->arena_size);
    }
    PROBE2(arena__new, arena->address, heap->arena_size);
    arena_file(arena);
    heap->ntimes_allocated++;
    heap->ncurrent++;
    if (heap->ncurrent > heap->nhighwater) {
        heap->nhighwater = heap->ncurrent;
    }
    return arena;
}

/* Pools. */

int
arenas_have_free_pool(const struct arena_heap *heap)
{
    return heap->usable_mask != 0 || heap->empty != NULL;
}

int
arena_is_last_in_use(const struct arena_object *arena)
{
    return arena->nfreepools < arena->ntotalpools
        && arenas_in_use(arena->heap) == 1;
}

struct arena_object *
arenas_take_pool(struct arena_heap *heap, uintptr_t *address)
{
    struct arena_object *arena;
    if (heap->usable_mask != 0) {
        arena = heap->usable[lowest_bit(heap->usable_mask) + 1];
    }
    else if (heap->empty != NULL) {
        arena = heap->empty;
    }
    else if ((arena = arena_buy(heap)) == NULL) {
        return NULL;
    }
    arena_unfile(arena);
    if (heap->nempty < heap->least_empty) {
        heap->least_empty = heap->nempty;
    }
    unsigned i = lowest_bit(arena->freepools);
    arena->freepools &= arena->freepools - 1;
    arena->nfreepools--;
    arena_file(arena);
    *address = (uintptr_t)arena_pool_address(arena, i);
    DEBUG_ASSERT(arena_is_valid(arena));
    return arena;
}

void
arena_release_pool(struct arena_object *arena, uintptr_t address)
{
    size_t i = (address - arena->pool_address) / arena->heap->pool_size;
    DEBUG_ASSERT((arena->freepools >> i & 1) == 0);
    arena_unfile(arena);
    arena->freepools |= (uint64_t)1 << i;
    arena->nfreepools++;
    arena_file(arena);
    DEBUG_ASSERT(arena_is_valid(arena));
    if (arena->nfreepools == arena->ntotalpools) {
        arenas_return_surplus(arena->heap);
    }
}

int
arenas_visit(const struct arena_heap *heap,
             int (*visit)(const struct arena_object *, void *), void *arg)
{
    for (const struct arena_chunk *c = first_chunk; c != NULL; c = c->next) {
        for (size_t i = 0; i < CHUNK_OBJECTS; i++) {
            const struct arena_object *arena = &c->objects[i];
            if (arena->address != 0 && arena->heap == heap) {
                int result = visit(arena, arg);
                if (result != 0) {
                    return result;
                }
            }
        }
    }
    return 0;
}

/* Is there nothing in a pool that its arena calls free? */
static int
pool_is_unused(const struct arena_object *arena, unsigned i)
{
    uintptr_t address = (uintptr_t)arena_pool_address(arena, i);
    return arena->heap == &small_arenas
        ? pool_map[leaf_of(address)][frame_of(address)].blocksize == 0
        : medium_pool_at(address)->blocksize == 0;
}

int
arena_is_valid(const struct arena_object *arena)
{
    unsigned nfree = 0;
    for (unsigned i = 0; i < arena->ntotalpools; i++) {
        if (arena->freepools >> i & 1) {
            nfree++;
            if (!pool_is_unused(arena, i)) {
                return 0;
            }
        }
    }
    return arena->address <= arena->pool_address
        && arena->pool_address - arena->address < arena->heap->pool_size
        && arena->nfreepools == nfree
        && (arena->ntotalpools == 64
            || arena->freepools >> arena->ntotalpools == 0);
}
