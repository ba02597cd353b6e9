/* Short ways: opened and closed by obmalloc.c, told by arenas.c where arenas are.
 *
 * Owns short_ways[], short_ways_are_by_hand and no_medium_below.  Calls nothing. */

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

#ifdef WITH_PYMALLOC
#  define HOME main_heap.home
#else
#  define HOME (struct pool_map_home)NO_HOME   /* no way is ever opened */
#endif

atomic_int short_ways_are_by_hand;

/* What a way says of where it leads.  A thread that has no GIL closes ways when it makes an
 * interpreter with one (CPython 3.13's does).  Meanwhile another may free a block, or the
 * owner of main_heap may be here.  So whoever closes a way writes that first, whoever opens
 * one looks for it last, and the pools stay with the leaf that they were read with. */
static void
way_lead(struct short_way *way)
{
    if (way->way == WAY_SHORT) {
        way->home = HOME;
        *(volatile size_t *)&way->span = SMALL_REQUEST_THRESHOLD;
        atomic_thread_fence(memory_order_seq_cst);
        if (way->way == WAY_SHORT) {
            return;
        }
    }
    *(volatile size_t *)&way->span = 0;
    atomic_thread_fence(memory_order_seq_cst);
    *(volatile size_t *)&way->home.leaf = SIZE_MAX;
}

void
short_way_set(int domain, size_t span)
{
    struct short_way *way = &short_ways[domain];
    if (domain == PYMEM_DOMAIN_RAW) {
        way->span = span;
        raw_way_set(span != 0);
        return;
    }
    way->way = span == 0 ? WAY_CLOSED : short_ways_are_by_hand ? WAY_BY_HAND : WAY_SHORT;
    way_lead(way);
}

void
short_ways_lead_by_hand(int is_by_hand)
{
    short_ways_are_by_hand = is_by_hand;
    for (int domain = PYMEM_DOMAIN_MEM; domain <= PYMEM_DOMAIN_OBJ; domain++) {
        struct short_way *way = &short_ways[domain];
        int from = is_by_hand ? WAY_SHORT : WAY_BY_HAND;
        if (atomic_compare_exchange_strong(&way->way, &from,
                                           is_by_hand ? WAY_BY_HAND : WAY_SHORT))
        {
            way_lead(way);
        }
    }
}

void
short_ways_follow_home(void)
{
    for (int domain = PYMEM_DOMAIN_MEM; domain <= PYMEM_DOMAIN_OBJ; domain++) {
        way_lead(&short_ways[domain]);
    }
}
