/* Heaps: made, numbered, handed on.
 *
 *   interpreter or thread begins        another frees a block of the heap
 *          |                                    |
 *          v                                    v
 *      its heap  <--- heap_take_in() ---  list of freed blocks
 *          |
 *          | the owner ends
 *          v
 *   an interpreter's, blocks in it:  main_heap takes all over, pool by pool
 *   a thread's:                      the next thread that needs one gets it whole
 *   nothing in it:                   arenas go back, the next owner gets the heap
 *
 * A heap that is in heaps[] stays there, so its number leads to it at any time.
 *
 * Owns heaps[] and the lists of heaps that nobody has.  Calls pools.c, arenas.c and
 * virtualmem.c. */

#include "pycore_heap.h"
#include "pycore_arenas.h"
#include "pycore_athand.h"
#include "pycore_growing.h"
#include "pycore_host.h"
#include "pycore_pools.h"
#include "pycore_sparse.h"

/* Rings of one. */
#define RING(OF, i) [i] = {.next = &(OF).usedpools[i], .prev = &(OF).usedpools[i]}
#define EIGHT(OF, i) RING(OF, i), RING(OF, (i) + 1), RING(OF, (i) + 2), \
                     RING(OF, (i) + 3), RING(OF, (i) + 4), RING(OF, (i) + 5), \
                     RING(OF, (i) + 6), RING(OF, (i) + 7)
#define FORTY(OF, i) EIGHT(OF, i), EIGHT(OF, (i) + 8), EIGHT(OF, (i) + 16), \
                     EIGHT(OF, (i) + 24), EIGHT(OF, (i) + 32)
#if NB_SMALL_SIZE_CLASSES > 32
#  define RINGS(OF) {FORTY(OF, 0), FORTY(OF, 40), EIGHT(OF, 80), EIGHT(OF, 88), \
                     EIGHT(OF, 96), EIGHT(OF, 104), RING(OF, 112), RING(OF, 113)}
_Static_assert(NB_SIZE_CLASSES == 114, "as many rings");
#else
#  define RINGS(OF) {FORTY(OF, 0), FORTY(OF, 40), RING(OF, 80), RING(OF, 81)}
_Static_assert(NB_SIZE_CLASSES == 82, "as many rings");
#endif

struct heap main_heap = {
    .usedpools = RINGS(main_heap),
    .home = NO_HOME,
    .small_arenas = SMALL_ARENA_SET(&main_heap, 256),
    .medium_arenas = MEDIUM_ARENA_SET(&main_heap, 3, 64),
    .last_chunk = &main_heap.first_chunk,
    .look_lock = PTHREAD_MUTEX_INITIALIZER,
    .owner = HEAP_OF_INTERPRETER,
};

/* heaps[0] is written with main_heap's first arena, and before there is another heap: a
 * table that is all zeros takes no memory. */
struct heap *_Atomic heaps[MAX_HEAPS];
static unsigned nheaps = 1;

/* Without arenas: see pool_new(). */
struct heap heap_of_nobody = {
    .usedpools = RINGS(heap_of_nobody),
    .home = NO_HOME,
    .small_arenas = {.heap = &heap_of_nobody, .allocator = &medium_arena_allocator},
    .medium_arenas = {.heap = &heap_of_nobody, .allocator = &medium_arena_allocator},
    .last_chunk = &heap_of_nobody.first_chunk,
    .look_lock = PTHREAD_MUTEX_INITIALIZER,
    .number = HEAP_OF_NOBODY,
};

heap_function heap_of_interpreter;
FAST_THREAD_LOCAL struct heap *heap_of_thread = &heap_of_nobody;

/* Destructors of other keys may ask for memory after ours, each as often as it likes.  A
 * heap that the thread got then might never be handed on: malloc serves what is left. */
static FAST_THREAD_LOCAL int thread_is_ending;

/* The thread is in heaps_visit(): it has locks that others wait for, and so would it. */
static FAST_THREAD_LOCAL int is_looking;

/* For heaps[], for the lists, and for work on a heap in the second list. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct heap *unused_heaps;       /* HEAP_UNUSED */
static struct heap *left_heaps;         /* HEAP_LEFT, of threads */
static struct heap *heaps_left_behind;  /* the same, of interpreters */

/* Heaps that nobody has; lock held. */
static void
heap_push(struct heap **list, struct heap *heap, enum heap_owner owner)
{
    atomic_store_explicit(&heap->owner, owner, memory_order_relaxed);
    heap->next = *list;
    *list = heap;
}

/* Heaps are made. */

/* What the first thread keeps for the next peak is what a process may keep.  Other threads
 * keep little, as nobody may come by for long to give it back.  Interpreters share what
 * they keep: kept_sixteenths(). */
static void
heap_init(struct heap *heap, unsigned number)
{
    for (unsigned i = 0; i < NB_SIZE_CLASSES; i++) {
        heap->usedpools[i].next = heap->usedpools[i].prev = &heap->usedpools[i];
    }
    heap->home = (struct pool_map_home)NO_HOME;
    heap->small_arenas = (struct arena_set)SMALL_ARENA_SET(heap, 64);
    heap->medium_arenas = number == 1
        ? (struct arena_set)MEDIUM_ARENA_SET(heap, 3, 64)
        : (struct arena_set)MEDIUM_ARENA_SET(heap, 2, 8);
    heap->last_chunk = &heap->first_chunk;
    pthread_mutex_init(&heap->look_lock, NULL);
    heap->number = (uint16_t)number;
}

/* One that nothing is in; lock held. */
static struct heap *
heap_unused(void)
{
    struct heap *heap = unused_heaps;
    if (heap != NULL) {
        unused_heaps = heap->next;
    }
    else if (nheaps < HEAP_OF_GROWING
             && (heap = virtual_alloc_for_good(sizeof(*heap))) != NULL)
    {
        heap_init(heap, nheaps);
        atomic_store_explicit(&heaps[nheaps++], heap, memory_order_release);
    }
    return heap;
}

static pthread_key_t thread_end;
static void prepare(void);

void
heaps_prepare(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, prepare);
}

atomic_uint heaps_of_interpreters;

struct heap *
heap_new(int64_t interpreter)
{
    heaps_prepare();
    pthread_mutex_lock(&lock);
    struct heap *heap = heap_unused();
    if (heap != NULL) {
        heap->owner = HEAP_OF_INTERPRETER;
        heap->interpreter = interpreter;
        heap->thread = 0;
        heaps_of_interpreters++;
    }
    pthread_mutex_unlock(&lock);
    return heap;
}

NOINLINE struct heap *
heap_of_this_thread(void)
{
    if (heap_of_thread != &heap_of_nobody || thread_is_ending) {
        return heap_of_thread;
    }
    heaps_prepare();
    pthread_mutex_lock(&lock);
    struct heap *heap = left_heaps;
    if (heap != NULL) {
        left_heaps = heap->next;
    }
    else {
        heap = heap_unused();
    }
    if (heap != NULL && pthread_setspecific(thread_end, heap) != 0) {
        heap_push(&left_heaps, heap, HEAP_LEFT);
        heap = NULL;
    }
    if (heap != NULL) {
        heap->owner = HEAP_OF_THREAD;
        heap->interpreter = -1;
        heap->thread = virtual_thread_number();
        heap_of_thread = heap;
    }
    pthread_mutex_unlock(&lock);
    return heap_of_thread;
}

void
heap_count_raw_of_nobody(Py_ssize_t n)
{
    atomic_fetch_add_explicit(&main_heap.raw_blocks, n, memory_order_relaxed);
}

static READS_WHILE_OTHERS_WRITE int
count_used(const struct arena_object *arena, void *sum)
{
    for (unsigned i = 0; i < arena->ntotalpools; i++) {
        *(Py_ssize_t *)sum += (Py_ssize_t)pool_look(arena_pool(arena, i)).nused;
    }
    return 0;
}

Py_ssize_t
heap_count_larger(struct heap *heap)
{
    Py_ssize_t n = heap->raw_blocks;
    arenas_visit(&heap->medium_arenas, count_used, &n);
    for (block *bp = heap->freed_by_others; bp != NULL; bp = *block_link(bp)) {
        n -= pool_of(bp) == NULL;
    }
    return n;
}

/* Blocks that others free.
 *
 * A pool may change its owner between the look at its number and the push, so that the
 * block is in a list that nobody takes in any more.  heap_take_over() first writes all
 * numbers and then takes the list; a push is followed by a second look at the number.
 * Both are sequentially consistent, so one of the two sees the other. */

static block *
take_list(struct heap *heap)
{
    pthread_mutex_lock(&heap->look_lock);
    block *first = atomic_exchange(&heap->freed_by_others, NULL);
    pthread_mutex_unlock(&heap->look_lock);
    return first;
}

static void heaps_tend_left(void);
static void heap_tend(struct heap *heap);

/* The blocks of a list become free ones of the owner's pools, or go on to the heaps that
 * have their pools now. */
static void
heap_take_in_for(struct heap *heap, const struct heap *owner)
{
    size_t n = 0;
    for (block *bp = take_list(heap), *next; bp != NULL; bp = next, n++) {
        next = *block_link(bp);
        poolp pool = pool_of(bp);
        if (pool == NULL) {
            pool = medium_pool_of(bp);
        }
        if (owner != NULL && pool_owner(pool) == heap->number) {
            pool_free_block(heap, pool, bp);
        }
        else {
            heap_free_from_outside(pool, bp);
        }
    }
    atomic_fetch_sub_explicit(&heap->nfreed_by_others, n, memory_order_relaxed);
}

/* Do so many blocks wait, of about this size, that an owner who waits, too, would keep much
 * memory by it?  Not asked of small ones: an interpreter's heap has no visitors. */
static int
is_much(size_t nblocks, unsigned blocksize)
{
    enum { MOST = 128, BYTES = 256 * 1024 };
    size_t each = BYTES / blocksize < MOST ? BYTES / blocksize : MOST;
    return blocksize > SMALL_REQUEST_THRESHOLD && nblocks % each == 0;
}

void
heap_free_from_outside(poolp pool, void *ptr)
{
    struct heap *heap = heaps[atomic_load(&pool->owner)];
    unsigned blocksize = pool->blocksize;
    size_t n = atomic_fetch_add_explicit(&heap->nfreed_by_others, 1, memory_order_relaxed);
    block *head = atomic_load_explicit(&heap->freed_by_others, memory_order_relaxed);
    do {
        *block_link(ptr) = head;     /* seen by whoever takes the list: exchange */
    } while (!atomic_compare_exchange_weak(&heap->freed_by_others, &head, ptr));
    heap_tell(heap, HEAP_HAS_FREED);
    if (UNLIKELY(atomic_load(&pool->owner) != heap->number)) {
        heap_take_in_for(heap, NULL);
    }
    else if (UNLIKELY(atomic_load_explicit(&heap->owner, memory_order_relaxed)
                      == HEAP_LEFT))
    {
        heaps_tend_left();
    }
    else if (UNLIKELY(is_much(n + 1, blocksize))) {
        heap_tend(heap);
    }
}

void
heap_take_in(struct heap *heap)
{
    atomic_fetch_and(&heap->to_do, ~(unsigned)HEAP_HAS_FREED);
    heap_take_in_for(heap, heap);
    if (heap == &main_heap) {
        at_hand_return();
    }
}

void
heap_visit_freed(const struct heap *heap, block *first, void (*visit)(void *arg, block *bp),
                 void *arg)
{
    for (block *bp = first; bp != NULL; bp = *block_link(bp)) {
        visit(arg, bp);
    }
    if (heap == &main_heap) {
        at_hand_visit(visit, arg);
    }
}

void
heaps_take_in_own(void)
{
    if (heap_of_interpreter != NULL) {
        heap_take_in(heap_current());
    }
    heap_enter_or_wait(heap_of_thread);
    heap_take_in(heap_of_thread);
    heap_leave(heap_of_thread);
}

/* Arenas that are only kept: by the owner.  The number of bytes. */
static size_t
heap_give_back(struct heap *heap)
{
    heap_take_in(heap);
    heap_release_kept(heap);
    return arenas_return_empty(&heap->small_arenas, 0)
        + arenas_return_empty(&heap->medium_arenas, 0);
}

COLD void
heap_do(struct heap *heap, unsigned to_do)
{
    if (to_do & HEAP_KEEPS_ARENAS) {
        arenas_windows_go_on(heap);
    }
    if (to_do & HEAP_RELEASES_KEPT) {
        atomic_fetch_and(&heap->to_do, ~(unsigned)HEAP_RELEASES_KEPT);
        heap_release_kept_medium(heap);
    }
    if ((to_do & HEAP_KEEPS_SLOTS) && !growing_tick()) {
        atomic_fetch_and(&heap->to_do, ~(unsigned)HEAP_KEEPS_SLOTS);
    }
    if (to_do & HEAP_SWEEPS) {
        atomic_fetch_and(&heap->to_do, ~(unsigned)HEAP_SWEEPS);
        heap_sweep(heap);
    }
    if (to_do & HEAP_MAKES_WAY) {
        atomic_fetch_and(&heap->to_do, ~(unsigned)HEAP_MAKES_WAY);
        arenas_make_way(&heap->small_arenas, atomic_exchange(&heap->wanted_by_others, 0));
    }
    if (to_do & HEAP_INHERITS) {
        heap_take_over();
    }
    if (to_do & HEAP_HAS_FREED) {
        heap_take_in(heap);
    }
    if (to_do & HEAP_GIVES_BACK) {
        atomic_fetch_and(&heap->to_do, ~(unsigned)HEAP_GIVES_BACK);
        heap_give_back(heap);
    }
}

void
heaps_make_way_for(const struct arena_set *set)
{
    if (set->is_medium) {
        atomic_fetch_add(&main_heap.wanted_by_others, set->arena_size);
        heap_tell(&main_heap, HEAP_MAKES_WAY);
    }
    else if (heap_of_thread != &heap_of_nobody) {
        heap_enter_or_wait(heap_of_thread);
        heap_release_kept_medium(heap_of_thread);
        arenas_make_way(&heap_of_thread->medium_arenas, set->arena_size);
        heap_leave(heap_of_thread);
    }
}

/* Whole heaps are handed on. */

static int
purge_used_pools(const struct arena_object *arena, void *nbytes)
{
    for (unsigned i = 0; arena->is_the_systems && i < arena->ntotalpools; i++) {
        poolp pool = arena_pool(arena, i);
        if (pool->blocksize != 0) {
            *(size_t *)nbytes += pool_purge(pool);
        }
    }
    return 0;
}

static size_t
set_trim(struct arena_set *set)
{
    size_t nbytes = arenas_trim(set);
    arenas_visit(set, purge_used_pools, &nbytes);
    return nbytes;
}

size_t
heap_trim(struct heap *heap)
{
    heap_take_in(heap);
    heap_release_kept(heap);
    return set_trim(&heap->small_arenas) + set_trim(&heap->medium_arenas);
}

size_t
heap_trim_of_thread(void)
{
    heap_enter_or_wait(heap_of_thread);
    size_t nbytes = heap_trim(heap_of_thread);
    heap_leave(heap_of_thread);
    return nbytes;
}

void
heap_end(struct heap *heap)
{
    if (heap == &main_heap || heap->owner == HEAP_FROZEN) {
        return;
    }
    heap_trim(heap);
    heaps_of_interpreters--;
    pthread_mutex_lock(&lock);
    if (heap->small_arenas.ncurrent == 0 && heap->medium_arenas.ncurrent == 0) {
        heap_push(&unused_heaps, heap, HEAP_UNUSED);
    }
    else {
        heap_push(&heaps_left_behind, heap, HEAP_LEFT);
        heap_tell(&main_heap, HEAP_INHERITS);
    }
    pthread_mutex_unlock(&lock);
}

static int
take_over_pools(const struct arena_object *arena, void *unused)
{
    (void)unused;
    for (unsigned i = 0; i < arena->ntotalpools; i++) {
        poolp pool = arena_pool(arena, i);
        if (pool->blocksize != 0) {
            pool_change_owner(&main_heap, pool);
        }
    }
    return 0;
}

static void
take_over(struct heap *heap)
{
    pthread_mutex_lock(&heap->look_lock);
    pthread_mutex_lock(&main_heap.look_lock);
    arenas_visit(&heap->small_arenas, take_over_pools, NULL);
    arenas_visit(&heap->medium_arenas, take_over_pools, NULL);
    arenas_change_owner(heap, &main_heap);
    main_heap.nwith_gone += heap->nwith_gone;
    heap->nwith_gone = 0;
    pthread_mutex_unlock(&main_heap.look_lock);
    pthread_mutex_unlock(&heap->look_lock);
    heap_take_in_for(heap, NULL);
}

COLD void
heap_take_over(void)
{
    atomic_fetch_and(&main_heap.to_do, ~(unsigned)HEAP_INHERITS);
    pthread_mutex_lock(&lock);
    while (heaps_left_behind != NULL) {
        struct heap *heap = heaps_left_behind;
        heaps_left_behind = heap->next;
        take_over(heap);
        heap_push(&unused_heaps, heap, HEAP_UNUSED);
    }
    pthread_mutex_unlock(&lock);
}

/* A few heaps wait for the next threads as they are; of more only what is in use
 * stays. */
static void
thread_ended(void *heap_of_it)
{
    enum { NREADY = 8 };
    struct heap *heap = heap_of_it;
    thread_is_ending = 1;
    heap_of_thread = &heap_of_nobody;
    heap_enter_or_wait(heap);
    heap_take_in(heap);
    heap_leave(heap);
    pthread_mutex_lock(&lock);
    unsigned nleft = 0;
    for (struct heap *other = left_heaps; other != NULL; other = other->next) {
        nleft++;
    }
    if (nleft >= NREADY) {
        heap_release_kept(heap);
    }
    arenas_return_empty(&heap->medium_arenas, nleft < NREADY ? 1 : 0);
    heap_push(&left_heaps, heap, HEAP_LEFT);
    pthread_mutex_unlock(&lock);
}

/* Blocks of a heap that no thread has are freed.  Nobody comes by to take them in, so
 * whoever freed the last few dozen does. */
static COLD void
heaps_tend_left(void)
{
    enum { AT_A_TIME = 64 };
    static atomic_uint nfreed;
    if (atomic_fetch_add(&nfreed, 1) % AT_A_TIME != 0
        || pthread_mutex_trylock(&lock) != 0)
    {
        return;
    }
    for (struct heap *heap = left_heaps; heap != NULL; heap = heap->next) {
        if (heap->freed_by_others != NULL) {
            heap_take_in(heap);
            heap_release_kept(heap);
            arenas_return_empty(&heap->medium_arenas, 0);
        }
    }
    pthread_mutex_unlock(&lock);
}

/* Visits: to threads that wait somewhere, and do not come by to take in what others freed
 * of their heaps. */

/* May the caller, who holds the lock, work on the heap of another thread?  Then it is to end
 * the visit. */
static int
visit_begin(struct heap *heap)
{
    if (atomic_load(&heap->owner) != HEAP_OF_THREAD || heap == heap_of_thread
        || atomic_load(&heap->owner_is_in))
    {
        return 0;
    }
    atomic_store(&heap->is_visited, 1);
    if (virtual_barrier() == 0
        && !atomic_load_explicit(&heap->owner_is_in, memory_order_acquire))
    {
        return 1;
    }
    atomic_store_explicit(&heap->is_visited, 0, memory_order_release);
    return 0;
}

static void
visit_end(struct heap *heap)
{
    atomic_store_explicit(&heap->is_visited, 0, memory_order_release);
}

COLD void
heap_enter_or_wait(struct heap *of_thread)
{
    while (!heap_enter(of_thread)) {
        heap_leave(of_thread);
        pthread_mutex_lock(&lock);
        pthread_mutex_unlock(&lock);
    }
}

static COLD void
heap_tend(struct heap *heap)
{
    if (pthread_mutex_trylock(&lock) != 0) {
        return;
    }
    if (visit_begin(heap)) {
        heap_take_in(heap);
        visit_end(heap);
    }
    pthread_mutex_unlock(&lock);
}

size_t
heaps_trim_idle(void)
{
    size_t nbytes = 0;
    pthread_mutex_lock(&lock);
    for (struct heap *heap = left_heaps; heap != NULL; heap = heap->next) {
        nbytes += heap_trim(heap);
    }
    for (unsigned i = 1; i < nheaps; i++) {
        if (visit_begin(heaps[i])) {
            nbytes += heap_trim(heaps[i]);
            visit_end(heaps[i]);
        }
    }
    pthread_mutex_unlock(&lock);
    return nbytes;
}

/* Whoever holds the lock may be the caller, or in need of memory: then it is left out. */
static size_t
heaps_give_back_of_others(const struct heap *own, const struct heap *of_thread)
{
    size_t nbytes = 0;
    if (pthread_mutex_trylock(&lock) != 0) {
        return 0;
    }
    for (struct heap *heap = left_heaps; heap != NULL; heap = heap->next) {
        nbytes += heap_give_back(heap);
    }
    for (unsigned i = 0; i < nheaps; i++) {
        struct heap *heap = i == 0 ? &main_heap : heaps[i];
        if (heap == own || heap == of_thread) {
            continue;
        }
        if (visit_begin(heap)) {
            nbytes += heap_give_back(heap);
            visit_end(heap);
        }
        else if (heap->owner == HEAP_OF_INTERPRETER || heap->owner == HEAP_OF_THREAD) {
            heap_tell(heap, HEAP_GIVES_BACK);
        }
    }
    pthread_mutex_unlock(&lock);
    return nbytes;
}

COLD size_t
heaps_give_back(void)
{
    if (is_looking) {
        return 0;
    }
    struct heap *own = _PyMem_HoldsGIL() ? heap_current() : &heap_of_nobody;
    struct heap *of_thread = heap_of_thread;
    size_t nbytes = heap_give_back(own);
    if (atomic_load_explicit(&of_thread->owner_is_in, memory_order_relaxed)) {
        nbytes += heap_give_back(of_thread);
    }
    else if (of_thread != own) {
        heap_enter_or_wait(of_thread);
        nbytes += heap_give_back(of_thread);
        heap_leave(of_thread);
    }
    return nbytes + heaps_give_back_of_others(own, of_thread);
}

int
heaps_visit(int (*visit)(struct heap *heap, void *arg), void *arg)
{
    int result = 0;
    pthread_mutex_lock(&lock);
    is_looking = 1;
    for (unsigned i = 0; result == 0 && i < nheaps; i++) {
        struct heap *heap = i == 0 ? &main_heap : heaps[i];
        if (heap->owner != HEAP_UNUSED) {
            pthread_mutex_lock(&heap->look_lock);
            result = visit(heap, arg);
            pthread_mutex_unlock(&heap->look_lock);
        }
    }
    is_looking = 0;
    pthread_mutex_unlock(&lock);
    return result;
}

/* Forks.  Of other threads only the heaps are in the child, perhaps in the middle of a
 * change: they are frozen, and their blocks live on.  What nobody had is whole. */

static struct heap *current_at_fork;    /* of the thread that forks: asked for before, as
                                           the answer may need a lock */

static void
lock_before_fork(void)
{
    struct heap *current = heap_current();
    pthread_mutex_lock(&lock);
    growing_lock();
    pool_map_lock();
    current_at_fork = current;
}

static void
unlock_after_fork(void)
{
    pool_map_unlock();
    growing_unlock();
    pthread_mutex_unlock(&lock);
}

static void
freeze_others_in_child(void)
{
    pthread_mutex_init(&heap_of_nobody.look_lock, NULL);
    for (unsigned i = 0; i < nheaps; i++) {
        struct heap *heap = i == 0 ? &main_heap : heaps[i];
        pthread_mutex_init(&heap->look_lock, NULL);
        if (heap != &main_heap && heap != current_at_fork && heap != heap_of_thread
            && (heap->owner == HEAP_OF_INTERPRETER || heap->owner == HEAP_OF_THREAD))
        {
            heap->owner = HEAP_FROZEN;
        }
    }
    heaps_of_interpreters = current_at_fork != &main_heap && current_at_fork != &heap_of_nobody;
    if (heap_of_thread != &heap_of_nobody) {
        heap_of_thread->thread = virtual_thread_number();
    }
    unlock_after_fork();
}

static void
prepare(void)
{
    atomic_store_explicit(&heaps[0], &main_heap, memory_order_release);
    pthread_key_create(&thread_end, thread_ended);
    pthread_atfork(lock_before_fork, unlock_after_fork, freeze_others_in_child);
}
