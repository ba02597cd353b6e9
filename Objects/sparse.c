/* Pools with few blocks left: the pages between them go back to the system.
 *
 *   pool   | header 1 2 | 3 4 5 6 | 7 8 9 10 | 11 12 13 |     pages of the system
 *   used     x      1                           11
 *   goes                  ^^^^^^^   ^^^^^^^^
 *
 * The blocks that such a page has a part of are all free.  They leave the pool's list, as
 * the list leads through their first words, and the page is marked in the pool's header.
 * When the pool has no other free block it takes one of those pages back and cuts its
 * blocks anew: a page fault for a page of blocks.
 *
 * So a block that was cut is in use, or in the list, or in a page that is gone.  The page
 * with the header of a small pool stays.
 *
 * Works on used pools for their owner, and counts those with such pages in its heap.
 * Calls virtualmem.c. */

#include "pycore_sparse.h"
#include "pycore_arenas.h"
#include "pycore_virtualmem.h"

#include <string.h>

typedef uint64_t page_set;      /* bit i: page i of the pool */

/* The pages from offset up to end. */
static page_set
pages_between(size_t offset, size_t end)
{
    size_t size = virtual_page_size();
    unsigned first = (unsigned)(offset / size), last = (unsigned)((end - 1) / size);
    return (((page_set)2 << (last - first)) - 1) << first;
}

static page_set
pages_of_block(const struct size_class *class, unsigned number)
{
    size_t offset = class->first + (size_t)number * class->blocksize;
    return pages_between(offset, offset + class->blocksize);
}

int
block_is_gone(uint32_t gone, const struct size_class *class, unsigned number)
{
    return gone != 0 && (gone & pages_of_block(class, number)) != 0;
}

/* The blocks of a page that need no other page that is gone. */
static void
cut_page(poolp pool, const struct size_class *class, unsigned page)
{
    const struct pool_header *header = pool_header_of(pool);
    size_t start = page * virtual_page_size(), end = start + virtual_page_size();
    unsigned number = start > class->first
        ? (unsigned)(start - class->first) / class->blocksize : 0;
    unsigned ncut = pool_count_cut(pool, class);
    block **last = &pool->freeblock;
    for (; number < ncut; number++) {
        size_t offset = class->first + (size_t)number * class->blocksize;
        if (offset >= end) {
            break;
        }
        if (!block_is_gone(header->gone, class, number)) {
            *last = pool_address(pool) + offset;
            last = block_link(*last);
        }
    }
    *last = NULL;
}

void
pool_take_page_back(poolp pool, const struct size_class *class)
{
    struct pool_header *header = pool_header_of(pool);
    DEBUG_ASSERT(pool->freeblock == NULL && header->gone != 0);
    while (pool->freeblock == NULL && header->gone != 0) {
        unsigned page = lowest_bit(header->gone);
        header->gone &= header->gone - 1;
        cut_page(pool, class, page);
    }
}

/* One bit for each block. */
struct block_set { uint64_t words[POOL_SIZE / ALIGNMENT / 64]; };
_Static_assert(MEDIUM_POOL_SIZE / SMALL_REQUEST_THRESHOLD <= POOL_SIZE / ALIGNMENT,
               "medium pools have fewer blocks than small ones");

/* The list leads all over the pool, and each step would wait for memory; one behind the
 * other all lines of the pool come sooner.  To look at a page that is gone would be a page
 * fault. */
static READS_WHILE_OTHERS_WRITE void
load_cut_part(const struct pool *pool, uint32_t gone)
{
    const volatile block *start = pool_address(pool);
    size_t end = (size_t)pool->nextoffset * ALIGNMENT, page = virtual_page_size();
    for (size_t offset = 0; offset < end; offset += 64) {
        if ((gone >> offset / page & 1) != 0) {
            offset += page - 64;
            continue;
        }
        (void)start[offset];
    }
}

static void
mark_free_blocks(const struct pool *pool, const struct size_class *class,
                 struct block_set *free_blocks)
{
    const block *first = pool_address(pool) + class->first;
    for (block *bp = pool->freeblock; bp != NULL; bp = *block_link(bp)) {
        unsigned number = (unsigned)(bp - first) / class->blocksize;
        free_blocks->words[number / 64] |= (uint64_t)1 << number % 64;
    }
}

/* The pages that blocks in use need. */
static page_set
needed_pages(poolp pool, const struct size_class *class)
{
    const struct pool_header *header = pool_header_of(pool);
    unsigned ncut = pool_count_cut(pool, class);
    struct block_set free_blocks;
    memset(&free_blocks, 0, sizeof(free_blocks));
    load_cut_part(pool, header->gone);
    mark_free_blocks(pool, class, &free_blocks);
    page_set needed = class->first > 0 ? 1 : 0;
    for (unsigned i = 0; i * 64 < ncut; i++) {
        unsigned here = ncut - i * 64;
        uint64_t used = ~free_blocks.words[i];
        used &= here < 64 ? ((uint64_t)1 << here) - 1 : ~(uint64_t)0;
        for (; used != 0; used &= used - 1) {
            unsigned number = i * 64 + lowest_bit(used);
            if (!block_is_gone(header->gone, class, number)) {
                needed |= pages_of_block(class, number);
            }
        }
    }
    return needed;
}

/* Blocks in pages that are gone leave the list; the others keep their order. */
static void
shorten_list(poolp pool, const struct size_class *class)
{
    const struct pool_header *header = pool_header_of(pool);
    const block *first = pool_address(pool) + class->first;
    block **last = &pool->freeblock;
    for (block *bp = pool->freeblock; bp != NULL; bp = *block_link(bp)) {
        unsigned number = (unsigned)(bp - first) / class->blocksize;
        if (!block_is_gone(header->gone, class, number)) {
            *last = bp;
            last = block_link(bp);
        }
    }
    *last = NULL;
}

static size_t
purge_pages(const struct pool *pool, page_set pages)
{
    size_t nbytes = 0, size = virtual_page_size();
    while (pages != 0) {
        unsigned first = lowest_bit(pages), end = first;
        while ((pages >> end & 1) != 0) {
            pages &= ~((page_set)1 << end++);
        }
        nbytes += virtual_purge(pool_address(pool) + first * size, (end - first) * size);
    }
    return nbytes;
}

size_t
pool_purge(poolp pool)
{
    const struct size_class *class = &size_classes[pool_class(pool)];
    struct pool_header *header = pool_header_of(pool);
    size_t free_bytes = (size_t)(pool_count_cut(pool, class) - pool->inuse) * class->blocksize;
    size_t end = (size_t)pool->nextoffset * ALIGNMENT;
    if (pool->next == NULL || free_bytes < virtual_page_size() || end <= class->first) {
        return 0;
    }
    page_set pages = pages_between(class->first, end) & ~needed_pages(pool, class);
    pages &= ~(page_set)header->gone;
    if (pages == 0) {
        return 0;
    }
    header->arena->set->heap->nwith_gone += header->gone == 0;
    header->gone |= (uint32_t)pages;
    shorten_list(pool, class);
    size_t nbytes = purge_pages(pool, pages);
    DEBUG_ASSERT(pool_is_valid(pool));
    return nbytes;
}

/* A sweep takes a few milliseconds in each window of time, and goes on in the next one.
 * Only pools of which three quarters are free: others may soon be full again, or sparse.
 * So as long as those others lose blocks the sweep comes again. */

#define SWEEP_AGAIN_MILLISECONDS 2000

struct sweep {
    size_t nseen;               /* arenas, of which the first nswept are skipped */
    size_t nswept;
    unsigned nleft;             /* pools that may still be purged now */
};

/* Pools that have free blocks and are not sparse. */
static void
count_open(struct arena_set *set, const struct pool *pool)
{
    if (pool->next != NULL) {
        set->nopen_seen++;
        set->open_bytes_seen += (size_t)pool->inuse * pool->blocksize;
    }
}

static int
is_sparse(const struct pool *pool)
{
    const struct size_class *class = &size_classes[pool_class(pool)];
    return pool->next != NULL && pool->inuse <= pool_count_cut(pool, class) / 4;
}

static int
sweep_arena(const struct arena_object *arena, void *state)
{
    struct sweep *sweep = state;
    if (sweep->nseen++ < sweep->nswept || !arena->is_the_systems) {
        return 0;
    }
    for (unsigned i = 0; i < arena->ntotalpools; i++) {
        poolp pool = arena_pool(arena, i);
        if (pool->blocksize == 0) {
            continue;
        }
        if (!is_sparse(pool)) {
            count_open(arena->set, pool);
        }
        else if (pool_purge(pool) > 0 && sweep->nleft > 0) {
            sweep->nleft--;
        }
    }
    sweep->nswept = sweep->nseen;
    return sweep->nleft == 0;
}

/* All were seen.  The first time nobody knows whether others lose blocks. */
static void
sweep_ends(struct arena_set *set)
{
    int is_falling = set->open_bytes == 0
        || set->open_bytes_seen < set->open_bytes - set->open_bytes / 8;
    set->nopened = is_falling ? set->nopen_seen : 0;
    set->open_bytes = is_falling ? set->open_bytes_seen : 0;
    set->sweep_again = virtual_clock() + SWEEP_AGAIN_MILLISECONDS;
    set->nswept = set->nopen_seen = set->open_bytes_seen = 0;
}

static void
sweep_set(struct arena_set *set)
{
    enum { AT_A_TIME = 256 };
    struct sweep sweep = {0, set->nswept, AT_A_TIME};
    if (arenas_visit(set, sweep_arena, &sweep) != 0) {
        set->nswept = sweep.nswept;
    }
    else {
        sweep_ends(set);
    }
}

void
heap_sweep(struct heap *heap)
{
    sweep_set(&heap->small_arenas);
    sweep_set(&heap->medium_arenas);
}
