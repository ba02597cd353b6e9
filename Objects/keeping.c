/* Empty arenas: how many stay, and for how long.
 *
 * To give an arena back and to buy it again costs a page fault for each of its pages, a
 * hundred times more than all the bookkeeping of its blocks.  To keep it costs memory
 * that others could use.  And a program that waits does not call us, so that what is
 * kept then stays for as long as it waits.  Therefore:
 *
 *   kept        a few MiB stay as they are (PYMEM_KEEP; see may_rest())
 *   earned      more stay when arenas that were just given back had to be bought again
 *   lazily      what is earned beyond a bound is the system's to take when it needs it
 *   given back  all else, at once; of pools that are in use, pages without a block in use,
 *               some time after many blocks were freed (sparse.c)
 *
 *      empty        lazily empty      given back
 *   ( A, B, C )  <->  ( D, E )   -->  the system
 *     newest first
 *
 * A peak that comes once earns nothing.  A program that works without a pause, and
 * whose memory comes and goes, earns what it needs.  A server earns nothing: between two
 * requests it waits.
 *
 * Where one set of arenas becomes larger than it ever was, as much goes back of what rests in
 * another.  So what rests makes no peak of pools higher, and is bought again at most as often
 * as the heap grows.  Of what malloc serves nobody tells.
 *
 * What is not needed is lost again with time.  A window of time begins when arenas are
 * kept.  At its end those arenas go that were empty all the time, and as much of what was
 * earned.  Whatever takes or frees blocks off the fast path looks at the clock.
 *
 * Under a limit on address space or data nothing is earned: what others ask of the system,
 * an extension or a thread for its stack, must not fail for what we hold.
 *
 * An arena allocator that somebody installed sees CPython's rule.
 *
 * Works on the sets of arenas.c for it.  Calls arenas.c, virtualmem.c, and pools.c for
 * lookouts. */

#include "pycore_arenas.h"
#include "pycore_athand.h"
#include "pycore_host.h"
#include "pycore_keepsize.h"
#include "pycore_pools.h"
#include "pycore_virtualmem.h"

#include <stdlib.h>

#define WINDOW_MILLISECONDS 200
#define SWEEP_MILLISECONDS 2000

/* A heap that was never larger earns nothing: what it gives back is soon bought again, and
 * a server that has no time to wait between two requests would keep it when it has. */
#define EARNS_FROM ((size_t)64 << 20)

/* PYMEM_KEEP: bytes that may stay without being earned, of all heaps with the main one's
 * small blocks together about so many. */
#define KEEP_BY_DEFAULT ((size_t)12 << 20)

static atomic_size_t keep = SIZE_MAX;       /* SIZE_MAX: not known yet */

size_t
arenas_keep(void)
{
    size_t known = keep;
    if (LIKELY(known != SIZE_MAX)) {
        return known;
    }
    const char *value = getenv("PYMEM_KEEP");
    known = value == NULL || *value == '\0' ? KEEP_BY_DEFAULT : keepsize_parse(value);
    if (known == SIZE_MAX) {
        _Py_FatalErrorFormat(__func__, "PYMEM_KEEP is " KEEPSIZE_IS ", not \"%s\"",
                             value);
    }
    keep = known;
    return known;
}

/* CPython's rule: an empty arena goes back at once, unless it is the only one with a free
 * pool; free pools stay as they are. */
static int
has_cpythons_rule(const struct arena_set *set)
{
    return !arenas_are_the_systems(set) || arenas_keep() == 0;
}

static size_t
pools_in_arena(const struct arena_set *set)
{
    return set->arena_size / set->pool_size;
}

/* All that rests with memory behind it. */
static size_t
resting_pools(const struct arena_set *set)
{
    return set->nresting + set->nempty * pools_in_arena(set);
}

/* An interpreter may keep as much as the main one, as it may be as busy.  From the fifth on
 * each may keep less, and all together no more than four. */
static unsigned
kept_sixteenths(const struct arena_set *set)
{
    enum { LEAST = 2, MANY = 4 };
    if (set->is_medium || set->heap == &main_heap) {
        return set->kept_sixteenths;
    }
    unsigned n = atomic_load_explicit(&heaps_of_interpreters, memory_order_relaxed);
    unsigned share = n > MANY ? set->kept_sixteenths * MANY / n : set->kept_sixteenths;
    return share > LEAST ? share : LEAST;
}

static size_t
may_rest(const struct arena_set *set)
{
    return kept_sixteenths(set) * (arenas_keep() / 16) / set->pool_size + set->earned;
}

/* So many stay however long they are not needed. */
static size_t
stay_for_good(const struct arena_set *set)
{
    return set->is_medium ? 1 : pools_in_arena(set);
}

/* An arena that may stay though it is empty. */
static int
one_more_may_stay(const struct arena_set *set)
{
    return has_cpythons_rule(set) ? set->nempty == 1 && set->usable_mask == 0
        : resting_pools(set) <= may_rest(set);
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
    set->least_resting = set->nresting;
    set->nopened_before = set->nopened;
    if (!set->is_medium) {
        heap_post_lookouts(set->heap);
    }
}

static void
watch(struct arena_set *set)
{
    if (!set->is_watched && !has_cpythons_rule(set)) {
        window_begin(set);
    }
}

/* Has the program waited since this was asked last?  A program that waits may wait for long
 * the next time, and has earned nothing. */
static int
has_waited(struct arena_set *set)
{
    uint64_t nwaits = virtual_count_waits();
    if (nwaits == set->nwaits) {
        return 0;
    }
    set->nwaits = nwaits;
    set->earned = set->nreturned = 0;
    return 1;
}

/* What went back may turn out to have been needed. */
static void
count_returned(struct arena_set *set, size_t npools)
{
    has_waited(set);
    set->nreturned += npools;
    set->returned_at = virtual_clock();
}

static void
return_too_many(struct arena_set *set)
{
    size_t before = set->ncurrent;
    while (set->nempty > 0 && !one_more_may_stay(set)) {
        arena_return(arenas_oldest_empty(set));
    }
    if (set->ncurrent < before) {
        count_returned(set, (before - set->ncurrent) * pools_in_arena(set));
    }
}

void
arenas_became_empty(struct arena_set *set)
{
    if (set->earned > 0 && !has_waited(set) && virtual_is_limited()) {
        set->earned = 0;
    }
    return_too_many(set);
    lend_oldest(set);
    if (resting_pools(set) > stay_for_good(set)) {
        watch(set);
    }
}

/* As may_rest(), of free pools in arenas that are in use: to give them back costs a call
 * for each few of them.  CPython keeps them all. */
static size_t
may_rest_in_use(const struct arena_set *set)
{
    size_t most = may_rest(set) * 4 / 3;
    size_t quarter = set->ncurrent * pools_in_arena(set) / 4;
    return most > quarter ? most : quarter;
}

void
arenas_pool_rests(struct arena_set *set)
{
    if (LIKELY(set->nresting <= stay_for_good(set))) {
        return;
    }
    watch(set);
    return_too_many(set);
    size_t most = may_rest_in_use(set);
    if (set->nresting > most && !has_cpythons_rule(set)) {
        count_returned(set, arenas_purge_resting(set, set->nresting - most / 4 * 3)
                            / set->pool_size);
    }
}

void
arenas_make_way(struct arena_set *set, size_t nbytes)
{
    size_t resting = resting_pools(set), stay = stay_for_good(set);
    if (resting <= stay || has_cpythons_rule(set)) {
        return;
    }
    size_t wanted = (nbytes + set->pool_size - 1) / set->pool_size;
    size_t until = resting > stay + wanted ? resting - wanted : stay;
    while (set->nempty > 0 && resting_pools(set) > until) {
        arena_return(arenas_oldest_empty(set));
    }
    if (resting_pools(set) > until) {
        arenas_purge_resting(set, resting_pools(set) - until);
    }
    count_returned(set, resting - resting_pools(set));
}

/* A small heap is not worth a sweep.  Medium blocks are about as large as a page, and so
 * more of their pages are free. */
static int
is_worth_a_sweep(const struct arena_set *set)
{
    size_t fewest_arenas = set->is_medium ? 4 : 16;
    return set->ncurrent >= fewest_arenas && !has_cpythons_rule(set);
}

/* Has so much become free since the last one? */
static int
many_opened(const struct arena_set *set)
{
    return is_worth_a_sweep(set)
        && set->nopened >= set->ncurrent * pools_in_arena(set) / 4;
}

/* Where blocks come and go all the time, and slowly become fewer, there is no such moment:
 * there a sweep comes now and then. */
void
arenas_pools_opened(struct arena_set *set)
{
    if (many_opened(set)) {
        watch(set);
    }
    if (is_worth_a_sweep(set) && virtual_clock() > set->sweep_after) {
        set->sweep_after = virtual_clock() + SWEEP_MILLISECONDS;
        atomic_fetch_or(&set->heap->to_do, HEAP_SWEEPS);
        watch(set);
    }
}

/* And is that over?  A pool that loses its blocks may soon have none. */
static int
has_settled(const struct arena_set *set)
{
    return set->nopened <= set->nopened_before + set->ncurrent * pools_in_arena(set) / 16;
}

void
arenas_are_now(struct arena_set *set)
{
    if (set == &main_heap.small_arenas) {
        at_hand_follow_size(has_cpythons_rule(set) ? 0 : set->ncurrent);
    }
}

void
arenas_pool_is_kept(struct arena_set *set)
{
    if (++set->nkept > pools_in_arena(set)) {
        watch(set);
    }
}

/* Would memory that was given back have served?  Only if the program worked all the time
 * since.  That is asked once for each arena. */
static int
would_have_served(struct arena_set *set, size_t npools)
{
    if (set->nreturned % pools_in_arena(set) >= npools) {
        return 1;
    }
    return !has_waited(set) && virtual_clock() - set->returned_at <= WINDOW_MILLISECONDS;
}

void
arenas_lacked(struct arena_set *set, size_t npools)
{
    arenas_keep();            /* a value that is wrong is refused now */
    if (set->nreturned == 0) {
        return;
    }
    if (!would_have_served(set, npools)) {
        set->nreturned = 0;
        return;
    }
    size_t n = npools < set->nreturned ? npools : set->nreturned;
    set->nreturned -= n;
    if (set->nhighwater * set->arena_size > EARNS_FROM && !has_cpythons_rule(set)
        && set->earned + n <= set->earned_max && !virtual_is_limited())
    {
        set->earned += n;
    }
}

/* Not needed all the time of the window: it goes, but for what stays for good. */
static void
return_unused(struct arena_set *set)
{
    size_t in_arena = pools_in_arena(set), stay = stay_for_good(set);
    size_t resting = set->least_resting, arenas = set->least_empty;
    while (arenas > 0 && set->nempty > 0
           && resting_pools(set) >= stay + in_arena)
    {
        arena_return(arenas_oldest_empty(set));
        arenas--;
    }
    if (resting > 0 && resting_pools(set) > stay) {
        size_t surplus = resting_pools(set) - stay;
        arenas_purge_resting(set, resting < surplus ? resting : surplus);
    }
}

static void
window_goes_on(struct arena_set *set)
{
    if (!set->is_watched || virtual_clock() < set->window_ends) {
        return;
    }
    if (has_cpythons_rule(set)) {
        set->is_watched = 0;
        return;
    }
    if (set == &main_heap.small_arenas) {
        heap_tell(&main_heap, HEAP_HAS_FREED);  /* what is at hand goes back */
    }
    size_t unused = set->least_empty * pools_in_arena(set) + set->least_resting;
    set->earned -= unused < set->earned ? unused : set->earned;
    size_t held = resting_pools(set);
    return_unused(set);
    int has_returned = resting_pools(set) < held;
    if (set->is_medium) {
        set->nkept = 0;
        atomic_fetch_or(&set->heap->to_do, HEAP_RELEASES_KEPT);
    }
    int is_sparse = many_opened(set) || has_returned || set->nswept > 0;
    int is_time = set->nswept > 0 || has_returned || virtual_clock() >= set->sweep_again;
    if (is_sparse && is_time && has_settled(set)) {
        atomic_fetch_or(&set->heap->to_do, HEAP_SWEEPS);
    }
    if (resting_pools(set) > stay_for_good(set) || set->earned > 0 || is_sparse) {
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
