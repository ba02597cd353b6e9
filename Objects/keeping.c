/* Empty arenas: how many stay, and for how long.
 *
 * To give an arena back and to buy it again costs a page fault for each of its pages, a
 * hundred times more than all the bookkeeping of its blocks.  To keep it costs memory
 * that others could use.  And a program that waits does not call us, so that what is
 * kept then stays for as long as it waits.  Therefore:
 *
 *   kept        a few MiB stay as they are (PYMEM_KEEP; see keeping_most())
 *   earned      more stay when arenas that were just given back had to be bought again
 *   lazily      what is earned beyond a bound is the system's to take when it needs it
 *   given back  all else, at once
 *
 *      empty        lazily empty      given back
 *   ( A, B, C )  <->  ( D, E )   -->  the system
 *     newest first
 *
 * A peak that comes once earns nothing.  A program that works without a pause, and
 * whose memory comes and goes, earns what it needs.  A server earns nothing: between two
 * requests it waits.
 *
 * What is not needed is lost again with time.  A window of time begins when arenas are
 * kept.  At its end those arenas go that were empty all the time, and as much of what was
 * earned.  Whatever takes or frees blocks off the fast path looks at the clock.
 *
 * An arena allocator that somebody installed sees CPython's rule.
 *
 * Works on the sets of arenas.c for it.  Calls arenas.c and virtualmem.c. */

#include "pycore_arenas.h"
#include "pycore_host.h"
#include "pycore_virtualmem.h"

#include <stdlib.h>

#define WINDOW_MILLISECONDS 200

/* PYMEM_KEEP: bytes that may stay without being earned, of all heaps with the main one's
 * small blocks together about so many. */
#define KEEP_BY_DEFAULT ((size_t)8 << 20)

static atomic_size_t keep = SIZE_MAX;       /* SIZE_MAX: not known yet */

size_t
keeping_parse(const char *text)
{
    char *end;
    unsigned long long number = strtoull(text, &end, 10);
    int shift = 0;
    switch (*end) {
    case 'K': case 'k': shift = 10; break;
    case 'M': case 'm': shift = 20; break;
    case 'G': case 'g': shift = 30; break;
    }
    end += shift != 0;
    int is_number = *text >= '0' && *text <= '9' && *end == '\0';
    return is_number && number <= (SIZE_MAX >> 1) >> shift ? (size_t)number << shift
        : SIZE_MAX;
}

static size_t
keeping_bytes(void)
{
    size_t known = keep;
    if (LIKELY(known != SIZE_MAX)) {
        return known;
    }
    const char *value = getenv("PYMEM_KEEP");
    known = value == NULL || *value == '\0' ? KEEP_BY_DEFAULT : keeping_parse(value);
    if (known == SIZE_MAX) {
        _Py_FatalErrorFormat(__func__, "PYMEM_KEEP is a number of bytes, perhaps with K, "
                             "M or G behind it, not \"%s\"", value);
    }
    keep = known;
    return known;
}

/* CPython's rule: an empty arena goes back at once, unless it is the only one with a free
 * pool. */
static int
has_cpythons_rule(const struct arena_set *set)
{
    return !arenas_are_the_systems(set) || keeping_bytes() == 0;
}

/* In arenas. */
static size_t
keeping_most(const struct arena_set *set)
{
    return set->kept_sixteenths * (keeping_bytes() / 16) / set->arena_size;
}

static size_t
earned_most(const struct arena_set *set)
{
    return has_cpythons_rule(set) ? 0 : set->earned_max;
}

static size_t
may_stay(const struct arena_set *set)
{
    if (has_cpythons_rule(set)) {
        return set->usable_mask == 0 ? 1 : 0;
    }
    return keeping_most(set) + set->earned;
}

/* What has earned to stay and is much is lent to the system, the arenas that were empty
 * for longest first; where it takes none, it gets them. */
static void
lend_oldest(struct arena_set *set)
{
    enum { AS_THEY_ARE = 8 };
    if (set->nempty - set->nlazy < 2 * AS_THEY_ARE) {
        return;
    }
    struct arena_object *newer = set->empty;
    for (int i = 1; i < AS_THEY_ARE; i++) {
        newer = newer->nextarena;
    }
    while (newer->nextarena != NULL) {
        if (!arena_lend(newer->nextarena)) {
            arena_return(newer->nextarena);
        }
    }
}

static void
window_begin(struct arena_set *set)
{
    set->is_watched = 1;
    atomic_fetch_or(&set->heap->to_do, HEAP_KEEPS_ARENAS);
    set->window_ends = virtual_clock() + WINDOW_MILLISECONDS;
    set->least_empty = set->nempty;
}

/* So many stay however long they are not needed. */
static size_t
stay_for_good(const struct arena_set *set)
{
    return has_cpythons_rule(set) ? may_stay(set) : set->is_medium ? 0 : 1;
}

void
arenas_became_empty(struct arena_set *set)
{
    size_t most = may_stay(set);
    if (set->nempty > most) {
        set->nwaits = virtual_count_waits();
        set->returned_at = virtual_clock();
        do {
            arena_return(arenas_oldest_empty(set));
            set->nreturned++;
        } while (set->nempty > most);
    }
    lend_oldest(set);
    if (!set->is_watched && set->nempty > stay_for_good(set)) {
        window_begin(set);
    }
}

/* Would an arena that was given back have served?  Only if the program worked all the
 * time since. */
void
arenas_bought_one(struct arena_set *set)
{
    keeping_bytes();            /* a value that is wrong is refused now */
    if (set->nreturned == 0) {
        return;
    }
    set->nreturned--;
    if (virtual_clock() - set->returned_at > WINDOW_MILLISECONDS
        || virtual_count_waits() != set->nwaits)
    {
        set->nreturned = 0;
    }
    else if (set->earned < earned_most(set)) {
        set->earned++;
    }
}

static void
window_goes_on(struct arena_set *set)
{
    if (!set->is_watched || virtual_clock() < set->window_ends) {
        return;
    }
    size_t unused = set->least_empty;
    set->earned -= unused < set->earned ? unused : set->earned;
    for (size_t stay = stay_for_good(set); unused > stay && set->nempty > stay; unused--) {
        arena_return(arenas_oldest_empty(set));
    }
    if (set->nempty > stay_for_good(set) || set->earned > 0) {
        window_begin(set);
    }
    else {
        set->is_watched = 0;
    }
}

void
arenas_windows_go_on(struct heap *heap)
{
    window_goes_on(&heap->small_arenas);
    window_goes_on(&heap->medium_arenas);
    if (!heap->small_arenas.is_watched && !heap->medium_arenas.is_watched) {
        atomic_fetch_and(&heap->to_do, ~(unsigned)HEAP_KEEPS_ARENAS);
    }
}
