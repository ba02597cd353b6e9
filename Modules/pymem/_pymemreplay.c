/* A trace played on a model of pymalloc: how many pools and arenas it would have taken
 * with other sizes of them.
 *
 *   trace --> calls --> blocks of a slot --> pools of a class --> arenas
 *
 * Which memory a block has does not matter here, only in which pool it lies; so a pool
 * is a count.  The rules are CPython's: a block comes from the pool that got a free
 * block last; a new pool from the fullest arena that has a free one; an arena whose
 * pools are all free goes back, but for some that are kept. */

#include "_pymem.h"

#include <stdlib.h>
#include <string.h>

enum { MALLOC, FREE, REALLOC, CALLOC };
#define NONE UINT32_MAX
#define SLOTS_MAX ((uint64_t)1 << 28)

struct slot {                   /* a live block */
    uint32_t pool;              /* NONE: not small */
    uint32_t is_live;
    uint64_t size;
};

struct model_pool {
    uint32_t arena;
    uint32_t next, prev;        /* in the list of its class; next also of unused ones */
    uint32_t inuse, nblocks;
    uint32_t szidx;
};

struct model_arena {
    uint32_t nfree;             /* pools; npools_in_arena: empty; NONE: gone */
    uint32_t *free_pools;       /* numbers of those, a stack */
};

struct model {
    struct replay_geometry geometry;
    uint32_t npools_in_arena, nclasses;
    struct slot *slots;
    uint64_t nslots;
    uint32_t *used;             /* first pool of each class that has a free block */
    struct model_pool *pools;   /* arena i has those from i * npools_in_arena on */
    struct model_arena *arenas;
    uint32_t narenas, arenas_room, arenas_current, arenas_empty;
    struct replay_sample now;
};

static int
grow(void *array, uint64_t room, uint64_t new_room, size_t item_size)
{
    char *larger = realloc(*(void **)array, new_room * item_size);
    if (larger == NULL) {
        return -1;
    }
    memset(larger + room * item_size, 0, (new_room - room) * item_size);
    *(void **)array = larger;
    return 0;
}

/* Arenas. */

/* The fullest arena that has a free pool; NONE where none has. */
static uint32_t
arena_find(const struct model *model)
{
    uint32_t best = NONE;
    for (uint32_t i = 0; i < model->narenas; i++) {
        uint32_t nfree = model->arenas[i].nfree;
        if (nfree != NONE && nfree > 0
            && (best == NONE || nfree < model->arenas[best].nfree))
        {
            best = i;
        }
    }
    return best;
}

static uint32_t
arena_buy(struct model *model)
{
    uint32_t i = 0;
    while (i < model->narenas && model->arenas[i].nfree != NONE) {
        i++;
    }
    if (i == model->arenas_room) {
        uint32_t room = 2 * i + 16;
        uint64_t n = model->npools_in_arena;
        if (grow(&model->pools, i * n, room * n, sizeof(*model->pools)) < 0
            || grow(&model->arenas, i, room, sizeof(*model->arenas)) < 0)
        {
            return NONE;
        }
        model->arenas_room = room;
    }
    struct model_arena *arena = &model->arenas[i];
    uint32_t n = model->npools_in_arena;
    if (arena->free_pools == NULL
        && (arena->free_pools = malloc(n * sizeof(uint32_t))) == NULL)
    {
        return NONE;
    }
    for (uint32_t j = 0; j < n; j++) {
        arena->free_pools[j] = i * n + (n - 1 - j);
    }
    arena->nfree = n;
    if (i == model->narenas) {
        model->narenas++;
    }
    model->arenas_current++;
    model->arenas_empty++;
    model->now.bought++;
    return i;
}

/* Pools. */

static void
pool_link(struct model *model, uint32_t number)
{
    struct model_pool *pool = &model->pools[number];
    uint32_t *first = &model->used[pool->szidx];
    pool->prev = NONE;
    pool->next = *first;
    if (*first != NONE) {
        model->pools[*first].prev = number;
    }
    *first = number;
}

static void
pool_unlink(struct model *model, uint32_t number)
{
    struct model_pool *pool = &model->pools[number];
    if (pool->prev == NONE) {
        model->used[pool->szidx] = pool->next;
    }
    else {
        model->pools[pool->prev].next = pool->next;
    }
    if (pool->next != NONE) {
        model->pools[pool->next].prev = pool->prev;
    }
}

static uint32_t
pool_new(struct model *model, uint32_t szidx)
{
    uint32_t i = arena_find(model);
    if (i == NONE && (i = arena_buy(model)) == NONE) {
        return NONE;
    }
    struct model_arena *arena = &model->arenas[i];
    if (arena->nfree == model->npools_in_arena) {
        model->arenas_empty--;
    }
    uint32_t number = arena->free_pools[--arena->nfree];
    const struct replay_geometry *geometry = &model->geometry;
    uint32_t blocksize = (szidx + 1) * geometry->alignment;
    model->pools[number] = (struct model_pool){
        .arena = i, .szidx = szidx,
        .nblocks = ((1u << geometry->pool_bits) - geometry->overhead) / blocksize};
    pool_link(model, number);
    model->now.pools++;
    return number;
}

static void
pool_release(struct model *model, uint32_t number)
{
    struct model_arena *arena = &model->arenas[model->pools[number].arena];
    pool_unlink(model, number);
    arena->free_pools[arena->nfree++] = number;
    model->now.pools--;
    if (arena->nfree < model->npools_in_arena) {
        return;
    }
    if (model->arenas_empty < model->geometry.kept_arenas) {
        model->arenas_empty++;
    }
    else {
        arena->nfree = NONE;
        model->arenas_current--;
    }
}

/* Blocks. */

static int
is_small(const struct model *model, uint64_t size)
{
    return size > 0 && size <= model->geometry.threshold;
}

static int
block_give(struct model *model, struct slot *slot, uint64_t size)
{
    slot->pool = NONE;
    if (is_small(model, size)) {
        uint32_t szidx = (uint32_t)(size - 1) / model->geometry.alignment;
        uint32_t number = model->used[szidx];
        if (number == NONE && (number = pool_new(model, szidx)) == NONE) {
            return -1;
        }
        struct model_pool *pool = &model->pools[number];
        if (++pool->inuse == pool->nblocks) {
            pool_unlink(model, number);
        }
        slot->pool = number;
        model->now.small_live += size;
    }
    slot->size = size;
    slot->is_live = 1;
    model->now.live += size;
    return 0;
}

static void
block_take_back(struct model *model, struct slot *slot)
{
    model->now.live -= slot->size;
    slot->is_live = 0;
    if (slot->pool == NONE) {
        return;
    }
    model->now.small_live -= slot->size;
    struct model_pool *pool = &model->pools[slot->pool];
    if (pool->inuse-- == pool->nblocks) {
        pool_link(model, slot->pool);
    }
    if (pool->inuse == 0) {
        pool_release(model, slot->pool);
    }
}

/* A small block stays while it is large enough and more than three quarters of it are
 * used. */
static int
block_resize(struct model *model, struct slot *slot, uint64_t size)
{
    if (slot->pool != NONE) {
        uint64_t room = (model->pools[slot->pool].szidx + 1) * model->geometry.alignment;
        if (size <= room && 4 * size > 3 * room) {
            model->now.live += size - slot->size;
            model->now.small_live += size - slot->size;
            slot->size = size;
            return 0;
        }
    }
    struct slot old = *slot;
    if (block_give(model, slot, size) < 0) {
        return -1;
    }
    block_take_back(model, &old);
    return 0;
}

/* The trace: Tools/bench/record.c says how it is written. */

static int
read_number(const uint8_t **at, const uint8_t *end, uint64_t *number)
{
    *number = 0;
    for (int shift = 0; *at < end && shift < 64; shift += 7) {
        uint8_t byte = *(*at)++;
        *number |= (uint64_t)(byte & 127) << shift;
        if (byte < 128) {
            return 1;
        }
    }
    return 0;
}

static int
read_call(const uint8_t **at, const uint8_t *end, uint64_t *call, uint64_t *size)
{
    *size = 0;
    return read_number(at, end, call)
        && (*call % 4 == FREE || read_number(at, end, size));
}

static const char *
play_call(struct model *model, uint64_t call, uint64_t size)
{
    uint64_t i = call / 4;
    if (i >= SLOTS_MAX) {
        return "the trace has more live blocks than can be played";
    }
    if (i >= model->nslots) {
        uint64_t room = 2 * i + 1024;
        if (grow(&model->slots, model->nslots, room, sizeof(*model->slots)) < 0) {
            return "no memory for the replay";
        }
        model->nslots = room;
    }
    struct slot *slot = &model->slots[i];
    int what = (int)(call % 4);
    int status = 0;
    if ((what == FREE || what == REALLOC) && !slot->is_live) {
        return "the trace frees or resizes a block that is not there";
    }
    if (what != FREE && what != REALLOC && slot->is_live) {
        block_take_back(model, slot);       /* a free that the recorder did not see */
    }
    if (what == FREE) {
        block_take_back(model, slot);
    }
    else {
        status = what == REALLOC ? block_resize(model, slot, size)
            : block_give(model, slot, size);
    }
    model->now.call++;
    model->now.arenas = model->arenas_current;
    return status < 0 ? "no memory for the replay" : NULL;
}

static uint64_t
count_calls(const uint8_t *at, const uint8_t *end)
{
    uint64_t n = 0, call, size;
    while (read_call(&at, end, &call, &size)) {
        n++;
    }
    return n;
}

int
replay_simulate(const uint8_t *trace, size_t length,
                const struct replay_geometry *geometry, struct replay_sample *samples,
                unsigned nsamples, const char **fault)
{
    const uint8_t *at = trace + 8, *end = trace + length;
    if (length < 8 || memcmp(trace, "pymemtr1", 8) != 0) {
        *fault = "this is no trace of record.so";
        return 0;
    }
    struct model model = {
        .geometry = *geometry,
        .npools_in_arena = 1u << (geometry->arena_bits - geometry->pool_bits),
        .nclasses = geometry->threshold / geometry->alignment,
    };
    uint64_t ncalls = count_calls(at, end), call, size;
    unsigned n = 0;
    model.used = malloc((model.nclasses + 1) * sizeof(uint32_t));
    if (model.used == NULL) {
        *fault = "no memory for the replay";
    }
    else {
        memset(model.used, 0xff, (model.nclasses + 1) * sizeof(uint32_t));
    }
    while (*fault == NULL && read_call(&at, end, &call, &size)) {
        *fault = play_call(&model, call, size);
        if (model.now.call * nsamples >= (n + 1) * ncalls) {
            while (n + 1 < nsamples && model.now.call * nsamples >= (n + 2) * ncalls) {
                samples[n++] = model.now;
            }
            samples[n++] = model.now;
        }
    }
    for (uint32_t i = 0; i < model.narenas; i++) {
        free(model.arenas[i].free_pools);
    }
    free(model.slots);
    free(model.used);
    free(model.pools);
    free(model.arenas);
    return (int)n;
}
