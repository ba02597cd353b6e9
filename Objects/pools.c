/* The pool machine: blocks of every size class, small and medium.
 *
 *   arena (1 MiB)                    pool (16 KiB, or 128)
 *   +------+------+-- ... --+        +--------+-------+-------+-- ... --+
 *   | pool | pool |         |        | header | block | block |         |
 *   +------+------+-- ... --+        +--------+-------+-------+-- ... --+
 *
 * Life of a pool:
 *
 *              +-----------------------------------------------+
 *              v                                               | its last block
 *   arena --> used --- malloc finds no block in it --> full    | is freed
 *              |  <--- its first block is freed -------        |
 *              +-----------------------------------------------+
 *
 * There is a class for each 16 bytes up to 512, and from there on eight for each
 * doubling, with room in each for the header of an object whose contents are a power
 * of two:
 *
 *   16 32 48 ... 512   544  576    640  704 ... 1088    1216  1344 ...    32832
 *
 * Why are medium ones not left to malloc?  It looks for the place that fits best,
 * merges neighbours, and gives the end of its heap back to the system to buy it again;
 * a list of free blocks of the right size needs none of it.
 *
 * The fast paths are in pycore_pools.h; here is what happens when a pool reaches a
 * border.  Owns size_classes[] and medium_pools_at_once.  Calls arenas.c for pools, heaps.c
 * for what others freed. */

#include "pycore_rings.h"
#include "pycore_arenas.h"
#include "pycore_athand.h"
#include "pycore_host.h"
#include "pycore_sparse.h"
#include "pycore_valgrind.h"

/* The table: eight rows a line. */
#define SMALL(i) [i] = { \
    INDEX_TO_SIZE(i), NUMBLOCKS(INDEX_TO_SIZE(i)), POOL_OVERHEAD, \
    CUT_SIZE - 1, POOL_SIZE}
#define MEDIUM_SIZE(i) \
    ((((i) % 8u + 9u) << ((i) / 8u + 5u)) + MEDIUM_HEADER)
#define MEDIUM(i) [NB_SMALL_SIZE_CLASSES + (i) - MEDIUM_FIRST_EIGHTH] = { \
    MEDIUM_SIZE(i), MEDIUM_POOL_SIZE / MEDIUM_SIZE(i), 0, 0, MEDIUM_POOL_SIZE}
#define EIGHT(ROW, i) ROW(i), ROW((i) + 1), ROW((i) + 2), ROW((i) + 3), \
                      ROW((i) + 4), ROW((i) + 5), ROW((i) + 6), ROW((i) + 7)
#define THIRTY_TWO(ROW, i) EIGHT(ROW, i), EIGHT(ROW, (i) + 8), \
                           EIGHT(ROW, (i) + 16), EIGHT(ROW, (i) + 24)

const struct size_class size_classes[NB_SIZE_CLASSES] = {
    THIRTY_TWO(SMALL, 0),
#if NB_SMALL_SIZE_CLASSES > 32
    THIRTY_TWO(SMALL, 32),
#endif
    MEDIUM(6), MEDIUM(7),
    THIRTY_TWO(MEDIUM, 8), EIGHT(MEDIUM, 40), EIGHT(MEDIUM, 48),
};

/* What must hold for a pool that is used or full. */
int
pool_is_valid(poolp pool)
{
    const struct size_class *class = &size_classes[pool_class(pool)];
    const block *first = pool_address(pool) + class->first;
    unsigned cut = pool_count_cut(pool, class);
    unsigned nfree = 0, ngone = 0;
    for (unsigned i = 0; i < cut; i++) {
        ngone += (unsigned)block_is_gone(pool_header_of(pool)->gone, class, i);
    }
    for (block *bp = pool->freeblock; bp != NULL; bp = *block_link(bp)) {
        if (block_number((size_t)(bp - first), class->blocksize, cut) < 0 || ++nfree > cut) {
            return 0;
        }
    }
    return pool->blocksize == class->blocksize
        && pool_header_of(pool)->pool == pool
        && cut <= class->nblocks
        && pool_count_blocks(pool) == cut - nfree - ngone
        && (pool->next == NULL
            || (pool->next->prev == pool && pool->prev->next == pool));
}

/* The header, which few calls need, is looked at only where there are such pools. */
static int
pool_has_gone_pages(const struct heap *heap, poolp pool)
{
    return heap->nwith_gone > 0 && pool_header_of(pool)->gone != 0;
}

/* Is there memory in a pool that was never cut into blocks?  There is in one
 * pool of a ring, as another is got only when the ring is empty; and in those that
 * came from a heap that ended.  Or are pages of it gone? */
static int
pool_is_uncut(const struct heap *heap, poolp pool, const struct size_class *class)
{
    return (size_t)pool->nextoffset * ALIGNMENT + class->blocksize
        <= class->pool_size
        || pool_has_gone_pages(heap, pool);
}

/* Cut the rest of the current CUT_SIZE into free blocks, lowest address first; of medium
 * blocks, each of which is many cache lines, one.  There is a block to cut, and no
 * free one.  Pages that are gone come first. */
static void
pool_cut_blocks(struct heap *heap, poolp pool, const struct size_class *class)
{
    if (pool_has_gone_pages(heap, pool)) {
        pool_take_page_back(pool, class);
        heap->nwith_gone -= pool_header_of(pool)->gone == 0;
        return;
    }
    size_t size = class->blocksize;
    size_t offset = (size_t)pool->nextoffset * ALIGNMENT;
    size_t end = (offset | class->cut_mask) + 1;
    block *bp = pool_address(pool) + offset;
    pool->freeblock = bp;
    for (offset += size;
         offset < end && offset + size <= class->pool_size;
         offset += size)
    {
        *block_link(bp) = bp + size;
        bp += size;
    }
    *block_link(bp) = NULL;
    pool->nextoffset = (uint16_t)(offset / ALIGNMENT);
}

static struct arena_set *
arenas_of(struct heap *heap, const struct pool *pool)
{
    return pool_is_medium(pool) ? &heap->medium_arenas : &heap->small_arenas;
}

static void
pool_became_full(struct heap *heap, poolp pool)
{
    struct arena_set *set = arenas_of(heap, pool);
    if (set->nopened > 0) {
        set->nopened--;
    }
    DEBUG_ASSERT(pool->inuse == size_classes[pool_class(pool)].nblocks);
    pool_unlink(pool);
    pool->next = NULL;
    pool->inuse = 1;
    DEBUG_ASSERT(pool_is_valid(pool));
}

static void
pool_became_used_again(struct heap *heap, poolp pool)
{
    unsigned szclass = pool_class(pool);
    pool->inuse = (uint16_t)(size_classes[szclass].nblocks - 1);
    struct arena_set *set = arenas_of(heap, pool);
    int is_told = set == &main_heap.small_arenas;
    pool_link_opened(&heap->usedpools[szclass], pool,
                     !is_told || at_hand_scatter == MOST_SCATTERED);
    DEBUG_ASSERT(pool_is_valid(pool));
    if (is_told) {
        at_hand_pool_opened();
    }
    if (++set->nopened % (set->is_medium ? 64 : 1024) == 0) {   /* 8 MiB, or 16 */
        arenas_pools_opened(set);
    }
}

/* Pools that are kept though they are empty. */

static void
pool_release(poolp pool)
{
    struct pool_header *header = pool_header_of(pool);
    struct arena_object *arena = header->arena;
    uintptr_t address = (uintptr_t)pool_address(pool);
    DEBUG_ASSERT(pool->inuse == 0 && pool_is_valid(pool));
    if (header->kept) {
        header->kept = 0;
        arena->nkeptpools--;
    }
    arena->set->heap->nwith_gone -= header->gone != 0;
    pool_unlink(pool);
    pool->blocksize = 0;
    arena_release_pool(arena, address);
}

/* Lookouts.  inuse counts the turns that are left; it is 0 in a ring's own entry, where
 * blocksize is 0, too. */

static int
is_lookout(const struct pool *pool)
{
    return pool->blocksize == 0 && pool->inuse > 0;
}

static void
lookout_post(struct heap *heap, unsigned szclass)
{
    poolp ring = &heap->usedpools[szclass], lookout = &heap->lookouts[szclass];
    lookout->prev = ring;
    lookout->next = ring->next;
    ring->next->prev = lookout;
    ring->next = lookout;
}

void
heap_post_lookouts(struct heap *heap)
{
    if (heap == &main_heap) {
        at_hand_close();
    }
    for (unsigned i = 0; i < NB_SMALL_SIZE_CLASSES; i++) {
        heap->lookouts[i].inuse = LOOKOUT_TURNS;
        if (heap->lookouts[i].next == NULL) {
            lookout_post(heap, i);
        }
    }
}

static void
lookout_leave(poolp lookout)
{
    pool_unlink(lookout);
    lookout->next = NULL;
}

/* A kept pool was alone in its ring when it became empty, and others are linked
 * in behind it. */
static void
release_kept_of_classes(struct heap *heap, unsigned first, unsigned end)
{
    for (unsigned i = first; i < end; i++) {
        poolp ring = &heap->usedpools[i], pool = ring->next;
        if (pool != ring && is_lookout(pool)) {
            pool = pool->next;
        }
        if (pool != ring && pool->inuse == 0) {
            pool_release(pool);
        }
    }
}

void
heap_release_kept(struct heap *heap)
{
    release_kept_of_classes(heap, 0, NB_SIZE_CLASSES);
}

void
heap_release_kept_medium(struct heap *heap)
{
    release_kept_of_classes(heap, NB_SMALL_SIZE_CLASSES, NB_SIZE_CLASSES);
}

/* Could all of an arena's pools be free, but for kept ones?  nkeptpools counts
 * pools that came into use again too, which malloc does not notice. */
static int
arena_may_be_empty(const struct arena_object *arena)
{
    return arena->nfreepools + arena->nkeptpools == arena->ntotalpools;
}

/* Find out: release the kept pools of an arena that are still empty. */
static COLD void
arena_release_kept(struct arena_object *arena)
{
    for (unsigned i = 0; i < arena->ntotalpools && arena->nkeptpools > 0; i++) {
        poolp pool = arena_pool(arena, i);
        if (pool->blocksize == 0 || !pool_header_of(pool)->kept) {
            continue;
        }
        if (pool->inuse == 0) {
            pool_release(pool);
        }
        else {
            pool_header_of(pool)->kept = 0;
            arena->nkeptpools--;
        }
    }
}

/* An arena has one pool in use less, or keeps one more; is_new: it was not kept before. */
static inline void
arena_look_at_kept(struct arena_object *arena, int is_new)
{
    if (arena->nkeptpools == 0 || !arena_may_be_empty(arena)) {
        return;
    }
    if (!arena_is_last_in_use(arena)) {
        arena_release_kept(arena);
    }
    else if (is_new) {
        arenas_became_empty(arena->set);
    }
}

static NOINLINE void
small_pool_goes(struct heap *heap, poolp pool, struct arena_object *arena)
{
    int is_new = !pool_header_of(pool)->kept;
    pool_release(pool);
    arena_look_at_kept(arena, is_new);
    if (heap == &main_heap) {
        at_hand_pool_went();
    }
}

/* A program that takes and frees one block again and again must not get and
 * release a pool each time, so the last pool of a class stays, unless an
 * arena could become empty by it. */
static void
small_pool_became_empty(struct heap *heap, poolp pool)
{
    struct pool_header *header = pool_header_of(pool);
    struct arena_object *arena = header->arena;
    if (!pool_is_last_of_class(heap, pool)) {
        small_pool_goes(heap, pool, arena);
        return;
    }
    int is_new = !header->kept;
    if (is_new) {
        header->kept = 1;
        arena->nkeptpools++;
    }
    arena_look_at_kept(arena, is_new);
}

/* An arena of medium pools has so few that it often could be empty but for a kept one:
 * there that stays until an arena would be bought, or a window of time ends. */
static inline void
medium_pool_became_empty(struct heap *heap, poolp pool)
{
    struct pool_header *header = medium_header_of(pool);
    if (!pool_is_last_of_class(heap, pool)) {
        pool_release(pool);
    }
    else if (!header->kept) {
        header->kept = 1;
        header->arena->nkeptpools++;
        arenas_pool_is_kept(header->arena->set);
    }
}

/* free() counted inuse down to 0. */
void
pool_reached_border(struct heap *heap, poolp pool)
{
    if (pool->next == NULL) {
        pool_became_used_again(heap, pool);
        return;
    }
    arenas_tick(heap);
    if (pool_is_medium(pool)) {
        medium_pool_became_empty(heap, pool);
    }
    else {
        small_pool_became_empty(heap, pool);
    }
}

void
medium_pool_reached_border(struct heap *heap, poolp pool)
{
    if (pool->next == NULL) {
        pool_became_used_again(heap, pool);
    }
    else {
        arenas_tick(heap);
        medium_pool_became_empty(heap, pool);
    }
    heap_leave(heap);
}

void
pool_change_owner(struct heap *heap, poolp pool)
{
    atomic_store(&pool->owner, heap->number);
    if (pool->next != NULL) {
        pool_unlink(pool);
        pool_link(&heap->usedpools[pool_class(pool)], pool);
    }
}

/* Fields are read once each: with those that are read twice a pool that goes would be
 * taken for one of another class. */
READS_WHILE_OTHERS_WRITE struct pool_view
pool_look(const struct pool *pool)
{
    const volatile struct pool *now = pool;
    struct pool copy = {.blocksize = now->blocksize};
    struct pool_view view = {NULL, NULL, 0, 0, 0};
    if (copy.blocksize == 0) {
        return view;
    }
    view.szclass = pool_class(&copy);
    view.class = &size_classes[view.szclass];
    view.freeblock = now->freeblock;
    unsigned end = now->nextoffset * ALIGNMENT;
    view.ncut = end < view.class->first ? 0
        : (end - view.class->first) / view.class->blocksize;
    unsigned nused = now->inuse;
    view.nused = now->next == NULL ? view.class->nblocks : nused;
    if (view.ncut > view.class->nblocks) {
        view.ncut = view.class->nblocks;
    }
    if (view.nused > view.ncut) {
        view.nused = view.ncut;
    }
    return view;
}

/* PYTHONMALLOCSTATS: show the state before each arena of small blocks that is
 * bought. */
static void
print_statistics_if_asked(void)
{
    static atomic_int asked = -1;
    if (asked < 0) {
        const char *value = Py_GETENV("PYTHONMALLOCSTATS");
        asked = value != NULL && *value != '\0';
    }
    if (asked) {
        _PyObject_DebugMallocStats(stderr);
    }
}

/* An arena is about to be bought: first all that waits for another use goes into it.  Where
 * there were never so many, others make way. */
static void
heap_make_room(struct heap *heap, struct arena_set *set)
{
    if (set->is_medium) {
        heap_release_kept_medium(heap);
    }
    else {
        if (heap == &main_heap) {
            at_hand_return();
        }
        release_kept_of_classes(heap, 0, NB_SMALL_SIZE_CLASSES);
    }
    if (arenas_have_free_pool(set)) {
        return;
    }
    if (!set->is_medium) {
        print_statistics_if_asked();
    }
    if (set->ncurrent == set->nhighwater) {
        heaps_make_way_for(set);
    }
}

/* Where the system has no more arenas each request would cost several calls that fail.
 * So it is asked again after many requests, which malloc serves. */
enum { REQUESTS_AFTER_REFUSAL = 256 };

static int
is_refused_still(struct arena_set *set)
{
    if (arenas_have_free_pool(set) || set->nrefused == 0
        || !arenas_are_the_systems(set))
    {
        return 0;
    }
    set->nrefused--;
    return 1;
}

atomic_int medium_pools_at_once;

/* A medium class has pools of its own once so many bytes of it were asked for.  Until then
 * malloc, whose blocks of all sizes lie side by side, needs less memory: where some thirty
 * classes have few blocks each, a fifteenth of all that a small program has. */
static int
is_asked_for_often(struct heap *heap, unsigned szclass)
{
    enum { OFTEN = 1 << 20 };
    uint32_t *asked = &heap->asked[szclass - NB_SMALL_SIZE_CLASSES];
    if (*asked < OFTEN) {
        *asked += size_classes[szclass].blocksize;
    }
    return *asked >= OFTEN || medium_pools_at_once;
}

/* Under Valgrind no pool is ever made, so that every block comes from malloc. */
static COLD poolp
pool_new(struct heap *heap, unsigned szclass)
{
    const struct size_class *class = &size_classes[szclass];
    int is_medium = szclass >= NB_SMALL_SIZE_CLASSES;
    struct arena_set *set = is_medium ? &heap->medium_arenas : &heap->small_arenas;
    if (set->arena_size == 0 || running_on_valgrind()) {
        return NULL;            /* heap_of_nobody's, or see above */
    }
    if (is_medium && !is_asked_for_often(heap, szclass)) {
        return NULL;
    }
    if (!arenas_have_free_pool(set)) {
        heap_make_room(heap, set);
    }
    if (is_refused_still(set)) {
        return NULL;
    }
    uintptr_t address;
    struct arena_object *arena = arenas_take_pool(set, &address);
    if (arena == NULL && heaps_give_back() > 0) {
        arena = arenas_take_pool(set, &address);
    }
    if (arena == NULL) {
        set->nrefused = REQUESTS_AFTER_REFUSAL;
        return NULL;
    }
    poolp pool = pool_record(address, is_medium);
    pool->freeblock = NULL;
    pool->inuse = 0;
    pool->blocksize = class->blocksize;
    pool->nextoffset = class->first / ALIGNMENT;
    atomic_store_explicit(&pool->owner, heap->number, memory_order_relaxed);
    struct pool_header *header = pool_header_of(pool);
    header->arena = arena;
    header->pool = pool;
    header->kept = 0;
    header->gone = 0;
    pool_link(&heap->usedpools[szclass], pool);
    if (set == &main_heap.small_arenas) {
        at_hand_count_pool();
    }
    return pool;
}

/* The next pool in a ring has a free block, or more is cut from one, or an arena gives
 * another: blocks that were freed come before memory that nobody used, as far as a look at
 * a few pools tells. */
static void *
take_block_from_ring(struct heap *heap, unsigned szclass)
{
    const struct size_class *class = &size_classes[szclass];
    poolp ring = &heap->usedpools[szclass];
    for (;;) {
        poolp pool = ring->next;
        if (UNLIKELY(is_lookout(pool))) {
            lookout_leave(pool);
            continue;
        }
        if (pool == ring) {
            if ((pool = ring_take_from_groups(heap, szclass)) == NULL
                && (pool = pool_new(heap, szclass)) == NULL)
            {
                return NULL;
            }
        }
        else if (pool->freeblock == NULL && !pool_is_uncut(heap, pool, class)) {
            pool_became_full(heap, pool);
            continue;
        }
        else if (!pool_is_half_full(pool, class)
                 && pool_waits_in_group(heap, szclass, pool))
        {
            continue;
        }
        if (pool->freeblock == NULL) {
            pool_cut_blocks(heap, pool, class);
        }
        block *bp = pool->freeblock;
        pool->freeblock = *block_link(bp);
        pool->inuse++;
        DEBUG_ASSERT(pool_is_valid(pool));
        return bp;
    }
}

/* The pool that malloc looked at has no free block.  What others freed comes first; NULL
 * when the arena allocator has no more. */
NOINLINE void *
heap_take_block_slowly(struct heap *heap, unsigned szclass)
{
    heap_tick(heap);
    poolp first = heap->usedpools[szclass].next;
    if (LIKELY(!is_lookout(first))) {
        void *bp = take_block_from_ring(heap, szclass);
        if (heap == &main_heap && szclass < NB_SMALL_SIZE_CLASSES) {
            at_hand_open(szclass);
        }
        return bp;
    }
    lookout_leave(first);
    void *bp = take_block_from_ring(heap, szclass);
    if (--first->inuse > 0 && first->next == NULL) {
        lookout_post(heap, szclass);
    }
    return bp;
}
