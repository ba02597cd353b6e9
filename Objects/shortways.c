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

void
short_way_set(int domain, size_t span)
{
    struct short_way *way = &short_ways[domain];
    way->span = span;
    if (domain == PYMEM_DOMAIN_RAW) {
        raw_way_set(span != 0);
        return;
    }
    way->home = (struct pool_map_home)NO_HOME;
#ifdef WITH_PYMALLOC
    if (span != 0) {
        way->home = main_heap.home;
    }
#endif
}

void
short_ways_follow_home(const struct pool_map_home *home)
{
    for (int domain = PYMEM_DOMAIN_MEM; domain <= PYMEM_DOMAIN_OBJ; domain++) {
        if (short_ways[domain].span != 0) {
            short_ways[domain].home = *home;
        }
    }
}
