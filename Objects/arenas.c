/* Arenas: bought from an arena allocator, lent out pool by pool, given back.
 * A heap has two sets of them, for small and for medium pools; all that is
 * said here holds within each.
 *
 *   usable[n]    lists of arenas with n free pools, n from 1 on
 *        1: ( A, F )
 *        2: ( )            the next pool comes from A, the fullest arena that
 *        3: ( C )          has one, so that the emptiest can become empty
 *       ...
 *   empty        ( D )      all pools free, kept for the next peak
 *   lazily_empty ( E )      the same, and the system may take their memory
 *
 * An arena whose pools are all in use is in no list.
 *
 * Which empty arenas stay, and for how long, is keeping.c's matter.
 *
 * The owner of the heap works here.  It holds the heap's look_lock while an arena
 * comes or goes, never while an arena allocator is called.
 *
 * Owns arena objects.  Calls the arena allocators, keeping.c, poolmap.c,
 * shortways.c and virtualmem.c. */

#include "pycore_arenas.h"
#include "pycore_probes.h"
#include "pycore_shortways.h"
#include "pycore_virtualmem.h"

PyObjectArenaAllocator medium_arena_allocator = {
    NULL, _PyMem_ArenaAlloc, _PyMem_ArenaFree
};

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
    struct arena_set *set = arena->set;
    unsigned n = arena->nfreepools;
    if (n == arena->ntotalpools) {
        arena->is_lent = 0;
        arena_link(&set->empty, arena);
        set->nempty++;
    }
    else if (n > 0) {
        arena_link(&set->usable[n], arena);
        set->usable_mask |= (uint64_t)1 << (n - 1);
        set->nresting += arena->nresting;
    }
}

/* Take it out again, before that number changes. */
static void
arena_unfile(struct arena_object *arena)
{
    struct arena_set *set = arena->set;
    unsigned n = arena->nfreepools;
    if (n == arena->ntotalpools) {
        arena_unlink(arena->is_lent ? &set->lazily_empty : &set->empty, arena);
        set->nlazy -= arena->is_lent;
        set->nempty--;
    }
    else if (n > 0) {
        set->nresting -= arena->nresting;
        arena_unlink(&set->usable[n], arena);
        if (set->usable[n] == NULL) {
            set->usable_mask &= ~((uint64_t)1 << (n - 1));
        }
    }
}

/* Life of an arena. */

static struct arena_object *
arena_object_new(struct heap *heap)
{
    if (heap->unused_objects == NULL) {
        struct arena_chunk *chunk = virtual_alloc_for_good(CHUNK_SIZE);
        if (chunk == NULL) {
            return NULL;
        }
        for (size_t i = CHUNK_OBJECTS; i > 0; i--) {
            arena_link(&heap->unused_objects, &chunk->objects[i - 1]);
        }
        atomic_store_explicit(&heaps[heap->number], heap, memory_order_release);
        pthread_mutex_lock(&heap->look_lock);
        *heap->last_chunk = chunk;
        heap->last_chunk = &chunk->next;
        heap->nchunks++;
        pthread_mutex_unlock(&heap->look_lock);
    }
    struct arena_object *arena = heap->unused_objects;
    arena_unlink(&heap->unused_objects, arena);
    return arena;
}

/* The newest arena of small pools is in a leaf. */
static void
heap_settle(struct heap *heap, size_t leaf)
{
    heap->home.leaf = leaf;
    heap->home.pools = pool_map_leaf(leaf)->small;
    if (heap == &main_heap) {
        short_ways_follow_home();
    }
}

/* Tell an arena object what memory it describes.  The pools are aligned to
 * their size: what lies before the first one and behind the last one stays
 * unused. */
static int
arena_set_memory(struct arena_object *arena, struct arena_set *set,
                 void *memory)
{
    size_t pool_size = set->pool_size;
    uintptr_t address = (uintptr_t)memory;
    uintptr_t first = (address + pool_size - 1) & ~(uintptr_t)(pool_size - 1);
    unsigned npools = (unsigned)(set->arena_size / pool_size)
        - (first != address ? 1u : 0u);
    if (npools == 0
        || pool_map_cover(first) < 0
        || pool_map_cover(first + (npools - 1) * pool_size) < 0)
    {
        return -1;
    }
    if (set->is_medium) {
        short_ways_pass_by(first);
    }
    else {
        heap_settle(set->heap, leaf_of(first));
    }
    pthread_mutex_lock(&set->heap->look_lock);
    arena->set = set;
    arena->address = address;
    arena->pool_address = first;
    arena->freepools = ~(uint64_t)0 >> (64 - npools);
    arena->unbackedpools = arena->freepools;
    arena->nfreepools = arena->ntotalpools = npools;
    arena->nresting = 0;
    arena->nkeptpools = 0;
    pthread_mutex_unlock(&set->heap->look_lock);
    return 0;
}

COLD void
arena_return(struct arena_object *arena)
{
    struct arena_set *set = arena->set;
    struct heap *heap = set->heap;
    void *memory = (void *)arena->address;
    DEBUG_ASSERT(arena->nfreepools == arena->ntotalpools);
    PROBE2(arena__free, arena->address, set->arena_size);
    pthread_mutex_lock(&heap->look_lock);
    arena_unfile(arena);
    arena->address = 0;
    set->ncurrent--;
    pthread_mutex_unlock(&heap->look_lock);
    arena_link(&heap->unused_objects, arena);
    pool_map_uncover();
    arenas_are_now(set);
    set->allocator->free(set->allocator->ctx, memory, set->arena_size);
}

COLD int
arena_lend(struct arena_object *arena)
{
    struct arena_set *set = arena->set;
    if (virtual_lend((void *)arena->address, set->arena_size) < 0) {
        return 0;
    }
    arena_unlink(&set->empty, arena);
    arena_link(&set->lazily_empty, arena);
    arena->is_lent = 1;
    set->nlazy++;
    return 1;
}

struct arena_object *
arenas_oldest_empty(const struct arena_set *set)
{
    struct arena_object *arena =
        set->lazily_empty != NULL ? set->lazily_empty : set->empty;
    while (arena->nextarena != NULL) {
        arena = arena->nextarena;
    }
    return arena;
}

/* Give back the memory of the free pools of an arena, neighbours at once; the number of
 * bytes.  Where a page of the system is larger than a pool, those without memory help to
 * fill one. */
static size_t
arena_purge_resting(struct arena_object *arena)
{
    const struct arena_set *set = arena->set;
    uint64_t pools = arena->freepools;
    size_t nbytes = 0;
    if (virtual_page_size() <= set->pool_size) {
        pools &= ~arena->unbackedpools;
    }
    while (arena->is_the_systems && pools != 0) {
        unsigned first = lowest_bit(pools), end = first;
        while (end < 64 && (pools >> end & 1) != 0) {
            pools &= ~((uint64_t)1 << end++);
        }
        nbytes += virtual_purge(arena_pool_address(arena, first),
                                (end - first) * set->pool_size);
    }
    arena->set->nresting -= arena->nresting;
    arena->unbackedpools = arena->freepools;
    arena->nresting = 0;
    return nbytes;
}

size_t
arenas_purge_resting(struct arena_set *set, size_t npools)
{
    size_t nbytes = 0, until = set->nresting > npools ? set->nresting - npools : 0;
    for (uint64_t sizes = set->usable_mask;
         sizes != 0 && set->nresting > until;
         sizes &= ~((uint64_t)1 << highest_bit(sizes)))
    {
        for (struct arena_object *arena = set->usable[highest_bit(sizes) + 1];
             arena != NULL && set->nresting > until;
             arena = arena->nextarena)
        {
            nbytes += arena->nresting > 0 ? arena_purge_resting(arena) : 0;
        }
    }
    return nbytes;
}

size_t
arenas_return_empty(struct arena_set *set, size_t nkept)
{
    size_t nbytes = 0;
    while (set->nempty > nkept) {
        arena_return(set->lazily_empty != NULL ? set->lazily_empty : set->empty);
        nbytes += set->arena_size;
    }
    return nbytes;
}

/* Only the system takes back part of an arena. */
size_t
arenas_trim(struct arena_set *set)
{
    size_t nbytes = arenas_return_empty(set, 0);
    set->earned = 0;
    if (arenas_are_the_systems(set)) {
        nbytes += arenas_purge_resting(set, SIZE_MAX);
    }
    return nbytes;
}

static COLD struct arena_object *
arena_buy(struct arena_set *set)
{
    struct arena_object *arena = arena_object_new(set->heap);
    if (arena == NULL) {
        return NULL;
    }
    const PyObjectArenaAllocator *allocator = set->allocator;
    void *memory = allocator->alloc(allocator->ctx, set->arena_size);
    if (memory != NULL && arena_set_memory(arena, set, memory) < 0) {
        allocator->free(allocator->ctx, memory, set->arena_size);
        memory = NULL;
    }
    if (memory == NULL) {
        arena_link(&set->heap->unused_objects, arena);
        return NULL;
    }
    arena->is_the_systems = (uint16_t)arenas_are_the_systems(set);
    if (set->ncurrent >= set->populated_from && arena->is_the_systems) {
        virtual_populate(memory, set->arena_size);
        arena->unbackedpools = 0;
        arena->nresting = arena->nfreepools;
    }
    PROBE2(arena__new, arena->address, set->arena_size);
    arena_file(arena);
    pthread_mutex_lock(&set->heap->look_lock);
    set->ntimes_allocated++;
    set->ncurrent++;
    if (set->ncurrent > set->nhighwater) {
        set->nhighwater = set->ncurrent;
    }
    pthread_mutex_unlock(&set->heap->look_lock);
    arenas_are_now(set);
    arenas_lacked(set, arena->nresting);
    return arena;
}

/* Pools. */

int
arenas_have_free_pool(const struct arena_set *set)
{
    return set->usable_mask != 0 || set->nempty != 0;
}

struct arena_object *
arenas_take_pool(struct arena_set *set, uintptr_t *address)
{
    struct arena_object *arena;
    if (set->usable_mask != 0) {
        arena = set->usable[lowest_bit(set->usable_mask) + 1];
    }
    else if (set->nempty != 0) {
        arena = set->empty != NULL ? set->empty : set->lazily_empty;
    }
    else if ((arena = arena_buy(set)) == NULL) {
        return NULL;
    }
    arena_unfile(arena);
    uint64_t resting = arena->freepools & ~arena->unbackedpools;
    unsigned i = lowest_bit(resting != 0 ? resting : arena->freepools);
    uint64_t bit = (uint64_t)1 << i;
    int is_backed = resting != 0;
    arena->freepools &= ~bit;
    arena->unbackedpools &= ~bit;
    arena->nfreepools--;
    arena->nresting -= (unsigned)is_backed;
    arena_file(arena);
    if (set->nempty < set->least_empty) {
        set->least_empty = set->nempty;
    }
    if (set->nresting < set->least_resting) {
        set->least_resting = set->nresting;
    }
    *address = (uintptr_t)arena_pool_address(arena, i);
    DEBUG_ASSERT(arena_is_valid(arena));
    if (!is_backed) {
        arenas_lacked(set, 1);
    }
    return arena;
}

void
arena_release_pool(struct arena_object *arena, uintptr_t address)
{
    size_t i = (address - arena->pool_address) / arena->set->pool_size;
    DEBUG_ASSERT((arena->freepools >> i & 1) == 0);
    arena_unfile(arena);
    arena->freepools |= (uint64_t)1 << i;
    arena->nfreepools++;
    arena->nresting++;
    arena_file(arena);
    DEBUG_ASSERT(arena_is_valid(arena));
    if (arena->nfreepools == arena->ntotalpools) {
        arenas_became_empty(arena->set);
    }
    else {
        arenas_pool_rests(arena->set);
    }
}

int
arenas_visit(const struct arena_set *set,
             int (*visit)(const struct arena_object *, void *), void *arg)
{
    for (const struct arena_chunk *c = set->heap->first_chunk; c != NULL; c = c->next) {
        for (size_t i = 0; i < CHUNK_OBJECTS; i++) {
            const struct arena_object *arena = &c->objects[i];
            if (arena->address != 0 && arena->set == set) {
                int result = visit(arena, arg);
                if (result != 0) {
                    return result;
                }
            }
        }
    }
    return 0;
}

/* Lists of objects change hands whole, arenas one by one: each is filed anew. */
static void
arena_set_change_owner(struct arena_set *from, struct arena_set *to)
{
    for (struct arena_chunk *c = from->heap->first_chunk; c != NULL; c = c->next) {
        for (size_t i = 0; i < CHUNK_OBJECTS; i++) {
            struct arena_object *arena = &c->objects[i];
            if (arena->address != 0 && arena->set == from) {
                arena_unfile(arena);
                arena->set = to;
                arena_file(arena);
            }
        }
    }
    to->ntimes_allocated += from->ntimes_allocated;
    to->ncurrent += from->ncurrent;
    if (to->ncurrent > to->nhighwater) {
        to->nhighwater = to->ncurrent;
    }
    from->ntimes_allocated = from->ncurrent = from->nhighwater = 0;
    from->is_watched = 0;
    from->nkept = 0;
}

void
arenas_change_owner(struct heap *from, struct heap *to)
{
    arena_set_change_owner(&from->small_arenas, &to->small_arenas);
    arena_set_change_owner(&from->medium_arenas, &to->medium_arenas);
    while (from->unused_objects != NULL) {
        struct arena_object *arena = from->unused_objects;
        arena_unlink(&from->unused_objects, arena);
        arena_link(&to->unused_objects, arena);
    }
    if (from->first_chunk != NULL) {
        *to->last_chunk = from->first_chunk;
        to->last_chunk = from->last_chunk;
        to->nchunks += from->nchunks;
    }
    from->first_chunk = NULL;
    from->last_chunk = &from->first_chunk;
    from->nchunks = 0;
    atomic_fetch_and(&from->to_do, ~(unsigned)HEAP_KEEPS_ARENAS);
}

int
arena_is_valid(const struct arena_object *arena)
{
    unsigned nfree = 0, nresting = 0;
    for (unsigned i = 0; i < arena->ntotalpools; i++) {
        if (arena->freepools >> i & 1) {
            nfree++;
            nresting += (arena->unbackedpools >> i & 1) == 0;
            if (arena_pool(arena, i)->blocksize != 0) {
                return 0;
            }
        }
    }
    return arena->address <= arena->pool_address
        && arena->pool_address - arena->address < arena->set->pool_size
        && arena->nfreepools == nfree
        && arena->nresting == nresting
        && (arena->unbackedpools & ~arena->freepools) == 0
        && (arena->ntotalpools == 64
            || arena->freepools >> arena->ntotalpools == 0);
}
