/* Arenas: bought from the arena allocator, lent out pool by pool, given back.
 *
 *   usable_arenas[n]   lists of arenas with n free pools, n from 1 on
 *        1: ( A, F )
 *        2: ( )            the next pool comes from A: the fullest arena that
 *        3: ( C )          has one, so that the emptiest can become empty
 *       ...
 *   empty_arenas       ( D, E )   all pools free: kept for the next peak, or
 *                                 given back
 *
 * An arena whose pools are all in use is in no list.
 *
 * Giving an arena back and buying it again costs a page fault for each of its
 * pages, a hundred times more than all the bookkeeping here.  So some empty
 * arenas are kept, and more are held for a moment: see arenas_to_keep() and
 * arenas_hold_goes_on().
 *
 * Owns arena objects and the pool map's leaves.  Calls the arena allocator
 * and virtualmem.c. */

#include "pycore_arenas.h"
#include "pycore_virtualmem.h"

#define MIB_TO_ARENAS(n) ((size_t)(n) << 20 >> ARENA_BITS)

/* Empty arenas that stay: 16 MiB, what a program of the size of a compiler pass
 * builds up and drops again and again, and one for every eight in use. */
#define KEPT_ARENAS_MIN MIB_TO_ARENAS(16)
#define KEPT_ARENAS_SHARE 8

/* Up to 256 MiB more are held for a while, in case the next peak comes soon. */
#define HELD_ARENAS_MAX MIB_TO_ARENAS(256)
#define HELD_MILLISECONDS 200

/* A heap of this many arenas will fill the next one, too. */
#define POPULATED_FROM MIB_TO_ARENAS(32)

poolp pool_map[POOL_MAP_LEAVES];
struct pool_map_home pool_map_home = {SIZE_MAX, NULL};
struct arena_counts arena_counts;

static struct arena_object *usable_arenas[MAX_POOLS_IN_ARENA + 1];
static uint64_t usable_mask;        /* bit n-1: usable_arenas[n] is not empty */
static struct arena_object *empty_arenas;
static size_t nempty_arenas;
int arenas_are_held;                /* more are empty than are to be kept */
static uint64_t hold_ends;          /* in milliseconds: see arenas_tick() */
static size_t least_empty_arenas;   /* since the hold began */
static struct arena_object *unused_objects;

/* Arena objects are cut from chunks that stay for ever. */
#define CHUNK_SIZE ((size_t)16384)
#define CHUNK_OBJECTS \
    ((CHUNK_SIZE - sizeof(void *)) / sizeof(struct arena_object))
struct arena_chunk {
    struct arena_chunk *next;
    struct arena_object objects[CHUNK_OBJECTS];
};
static struct arena_chunk *first_chunk;
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
    unsigned n = arena->nfreepools;
    if (n == arena->ntotalpools) {
        arena_link(&empty_arenas, arena);
        nempty_arenas++;
    }
    else if (n > 0) {
        arena_link(&usable_arenas[n], arena);
        usable_mask |= (uint64_t)1 << (n - 1);
    }
}

/* Take it out again, before that number changes. */
static void
arena_unfile(struct arena_object *arena)
{
    unsigned n = arena->nfreepools;
    if (n == arena->ntotalpools) {
        arena_unlink(&empty_arenas, arena);
        nempty_arenas--;
    }
    else if (n > 0) {
        arena_unlink(&usable_arenas[n], arena);
        if (usable_arenas[n] == NULL) {
            usable_mask &= ~((uint64_t)1 << (n - 1));
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
        pool_map[leaf] = virtual_alloc(FRAMES_IN_LEAF * sizeof(struct pool),
                                       SYSTEM_PAGE_SIZE);
        if (pool_map[leaf] == NULL) {
            return -1;
        }
        arena_counts.nleaves++;
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
        arena_counts.nchunks++;
        arena_counts.chunk_size = CHUNK_SIZE;
        for (size_t i = CHUNK_OBJECTS; i > 0; i--) {
            arena_link(&unused_objects, &chunk->objects[i - 1]);
        }
    }
    struct arena_object *arena = unused_objects;
    arena_unlink(&unused_objects, arena);
    return arena;
}

/* Tell an arena object what memory it describes.  The pools are whole frames:
 * what lies before the first one and behind the last one stays unused. */
static int
arena_set_memory(struct arena_object *arena, void *memory)
{
    uintptr_t address = (uintptr_t)memory;
    uintptr_t first = (address + POOL_SIZE_MASK) & ~(uintptr_t)POOL_SIZE_MASK;
    unsigned npools =
        (unsigned)MAX_POOLS_IN_ARENA - (first != address ? 1u : 0u);
    if (npools == 0
        || pool_map_cover(first) < 0
        || pool_map_cover(first + (npools - 1) * POOL_SIZE) < 0)
    {
        return -1;
    }
    pool_map_home.leaf = leaf_of(first);
    pool_map_home.pools = pool_map[pool_map_home.leaf];
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
    DEBUG_ASSERT(arena->nfreepools == arena->ntotalpools);
    arena_unfile(arena);
    _PyObject_Arena.free(_PyObject_Arena.ctx, (void *)arena->address,
                         ARENA_SIZE);
    arena->address = 0;
    arena_link(&unused_objects, arena);
    arena_counts.ncurrent--;
}

static size_t
arenas_in_use(void)
{
    return arena_counts.ncurrent - nempty_arenas;
}

static int
is_default_allocator(void)
{
    return _PyObject_Arena.alloc == _PyMem_ArenaAlloc;
}

/* How many empty arenas may stay.  An arena allocator that somebody installed
 * sees CPython's rule: an empty arena goes back at once, unless it is the only
 * one with a free pool. */
static size_t
arenas_to_keep(void)
{
    if (!is_default_allocator()) {
        return usable_mask == 0 ? 1 : 0;
    }
    return KEPT_ARENAS_MIN + arenas_in_use() / KEPT_ARENAS_SHARE;
}

static void
hold_begin(void)
{
    arenas_are_held = 1;
    hold_ends = virtual_clock() + HELD_MILLISECONDS;
    least_empty_arenas = nempty_arenas;
}

void
arenas_return_surplus(void)
{
    size_t keep = arenas_to_keep();
    size_t most = keep + (is_default_allocator() ? HELD_ARENAS_MAX : 0);
    while (nempty_arenas > most) {
        arena_return(empty_arenas);
    }
    if (nempty_arenas > keep && !arenas_are_held) {
        hold_begin();
    }
}

/* Give back the memory of the free pools of an arena, and count it. */
static int
arena_purge_pools(const struct arena_object *arena, void *arg)
{
    for (unsigned i = 0; i < arena->ntotalpools; i++) {
        if (arena->freepools >> i & 1) {
            virtual_purge((void *)(arena->pool_address + i * POOL_SIZE),
                          POOL_SIZE);
            *(size_t *)arg += POOL_SIZE;
        }
    }
    return 0;
}

/* Only the system takes back part of an arena. */
size_t
arenas_trim(void)
{
    size_t nbytes = 0;
    while (empty_arenas != NULL) {
        arena_return(empty_arenas);
        nbytes += ARENA_SIZE;
    }
    if (is_default_allocator()) {
        arenas_visit(arena_purge_pools, &nbytes);
    }
    return nbytes;
}

/* At the end of each hold those arenas go back that were not needed in all of
 * it, some at a time, and what is left is held anew. */
void
arenas_hold_goes_on(void)
{
    enum { AT_A_TIME = 16 };
    if (virtual_clock() < hold_ends) {
        return;
    }
    size_t keep = arenas_to_keep();
    for (int i = 0; i < AT_A_TIME; i++) {
        if (least_empty_arenas <= keep || nempty_arenas <= keep) {
            arenas_are_held = 0;
            arenas_return_surplus();
            return;
        }
        arena_return(empty_arenas);
        least_empty_arenas--;
    }
}

static COLD struct arena_object *
arena_buy(void)
{
    struct arena_object *arena = arena_object_new();
    if (arena == NULL) {
        return NULL;
    }
    void *memory = _PyObject_Arena.alloc(_PyObject_Arena.ctx, ARENA_SIZE);
    if (memory != NULL && arena_set_memory(arena, memory) < 0) {
        _PyObject_Arena.free(_PyObject_Arena.ctx, memory, ARENA_SIZE);
        memory = NULL;
    }
    if (memory == NULL) {
        arena_link(&unused_objects, arena);
        return NULL;
    }
    if (arena_counts.ncurrent >= POPULATED_FROM && is_default_allocator()) {
        virtual_populate(memory, ARENA_SIZE);
    }
    arena_file(arena);
    arena_counts.ntimes_allocated++;
    arena_counts.ncurrent++;
    if (arena_counts.ncurrent > arena_counts.nhighwater) {
        arena_counts.nhighwater = arena_counts.ncurrent;
    }
    return arena;
}

/* Pools. */

int
arenas_have_free_pool(void)
{
    return usable_mask != 0 || empty_arenas != NULL;
}

int
arena_is_last_in_use(const struct arena_object *arena)
{
    return arena->nfreepools < arena->ntotalpools && arenas_in_use() == 1;
}

poolp
arenas_take_pool(void)
{
    struct arena_object *arena;
    if (usable_mask != 0) {
        arena = usable_arenas[lowest_bit(usable_mask) + 1];
    }
    else if (empty_arenas != NULL) {
        arena = empty_arenas;
    }
    else if ((arena = arena_buy()) == NULL) {
        return NULL;
    }
    arena_unfile(arena);
    if (nempty_arenas < least_empty_arenas) {
        least_empty_arenas = nempty_arenas;
    }
    unsigned i = lowest_bit(arena->freepools);
    arena->freepools &= arena->freepools - 1;
    arena->nfreepools--;
    arena_file(arena);

    poolp pool = arena_pool(arena, i);
    pool->leaf = (uint16_t)leaf_of(arena->pool_address + i * POOL_SIZE);
    pool_header_of(pool)->arena = arena;
    DEBUG_ASSERT(arena_is_valid(arena));
    return pool;
}

void
arena_release_pool(poolp pool)
{
    struct arena_object *arena = pool_header_of(pool)->arena;
    uintptr_t offset = (uintptr_t)pool_address(pool) - arena->pool_address;
    uint64_t bit = (uint64_t)1 << (offset >> POOL_BITS);
    DEBUG_ASSERT((arena->freepools & bit) == 0);
    pool->blocksize = 0;
    arena_unfile(arena);
    arena->freepools |= bit;
    arena->nfreepools++;
    arena_file(arena);
    DEBUG_ASSERT(arena_is_valid(arena));
    if (arena->nfreepools == arena->ntotalpools) {
        arenas_return_surplus();
    }
}

int
arenas_visit(int (*visit)(const struct arena_object *, void *), void *arg)
{
    for (const struct arena_chunk *c = first_chunk; c != NULL; c = c->next) {
        for (size_t i = 0; i < CHUNK_OBJECTS; i++) {
            if (c->objects[i].address != 0) {
                int result = visit(&c->objects[i], arg);
                if (result != 0) {
                    return result;
                }
            }
        }
    }
    return 0;
}

int
arena_is_valid(const struct arena_object *arena)
{
    unsigned nfree = 0;
    for (unsigned i = 0; i < arena->ntotalpools; i++) {
        if (arena->freepools >> i & 1) {
            nfree++;
            if (arena_pool(arena, i)->blocksize != 0) {
                return 0;
            }
        }
    }
    return arena->address <= arena->pool_address
        && arena->pool_address - arena->address < POOL_SIZE
        && arena->nfreepools == nfree
        && (arena->ntotalpools == 64
            || arena->freepools >> arena->ntotalpools == 0);
}
