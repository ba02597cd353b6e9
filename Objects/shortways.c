/* Short ways: opened and closed by obmalloc.c, told by arenas.c where arenas are.
 *
 * Owns short_ways[] and no_medium_below.  Calls nothing. */

#include "pycore_shortways.h"
#include "pycore_pymem.h"

/* A host may have its own, as of _PyMem_Allocators[]. */
WEAK struct short_way short_ways[NB_DOMAINS] = BORN_SHORT_WAYS;
WEAK atomic_uintptr_t no_medium_below = BORN_NO_MEDIUM_BELOW;

/* Of all arenas there ever were. */
static atomic_uintptr_t lowest_medium = UINTPTR_MAX;

/* Another thread may buy an arena meanwhile.  It writes lowest_medium first, so that one
 * of the two sees the other. */
static void
raw_way_set(int is_open)
{
    uintptr_t lowest;
    do {
        lowest = lowest_medium;
        no_medium_below = is_open ? lowest : 0;
    } while (lowest_medium != lowest);
}

static void
lower(atomic_uintptr_t *bound, uintptr_t address)
{
    uintptr_t now = *bound;
    while (address < now && !atomic_compare_exchange_weak(bound, &now, address)) {
    }
}

void
short_ways_pass_by(uintptr_t address)
{
    lower(&lowest_medium, address);
    lower(&no_medium_below, address);
}

/* A thread that has no GIL closes ways when it makes an interpreter with one (CPython
 * 3.13's does).  Meanwhile another may free a block, or follow main_heap home.  So the
 * pools stay with the leaf that they were read with, and whoever follows home looks once
 * more whether the way is open. */
static void
way_close(struct short_way *way)
{
    *(volatile size_t *)&way->span = 0;
    atomic_thread_fence(memory_order_seq_cst);
    *(volatile size_t *)&way->home.leaf = SIZE_MAX;
}

static void
way_lead(struct short_way *way, const struct pool_map_home *home)
{
    way->home = *home;
    atomic_thread_fence(memory_order_seq_cst);
    if (*(volatile size_t *)&way->span == 0) {
        way->home.leaf = SIZE_MAX;
    }
}

void
short_way_set(int domain, size_t span)
{
    struct short_way *way = &short_ways[domain];
    if (domain == PYMEM_DOMAIN_RAW) {
        way->span = span;
        raw_way_set(span != 0);
    }
    else if (span == 0) {
        way_close(way);
    }
    else {
        way->span = span;
#ifdef WITH_PYMALLOC
        way_lead(way, &main_heap.home);
#endif
    }
}

void
short_ways_follow_home(const struct pool_map_home *home)
{
    for (int domain = PYMEM_DOMAIN_MEM; domain <= PYMEM_DOMAIN_OBJ; domain++) {
        if (short_ways[domain].span != 0) {
            way_lead(&short_ways[domain], home);
        }
    }
}
