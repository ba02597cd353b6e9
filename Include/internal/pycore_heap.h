/* A heap: all that belongs to one owner, who works on it without a lock.
 *
 *   struct heap   rings of used pools, one for each size class
 *                 arenas of small pools, arenas of medium pools
 *                 blocks that others freed, until the owner takes them in
 *                 counts
 *
 * Small requests are served by the heap of an interpreter.  Its owner is whoever
 * holds the interpreter's GIL.  Requests over 512 bytes are served by the heap of
 * the thread that asks: they need no GIL.
 *
 * With one interpreter all small requests go to main_heap, so each address in the
 * fast path is a constant.  One for the process are the pool map, the arena
 * allocator and the table of domains. */

#ifndef Py_INTERNAL_HEAP_H
#define Py_INTERNAL_HEAP_H

#include "pycore_poolmap.h"
#include "cpython/objimpl.h"

#include <pthread.h>

/* Arenas of one kind in one heap: of small pools, or of medium ones. */
struct arena_set {
    struct heap *heap;
    int is_medium;
    size_t arena_size;          /* in bytes, as pool_size */
    size_t pool_size;
    unsigned kept_sixteenths;   /* of what may be kept unearned: keeping.c */
    size_t earned_max;          /* in pools */
    size_t populated_from;      /* the set's size from which a new one is put
                                   into memory at once: it will be filled, too */
    PyObjectArenaAllocator *allocator;

    struct arena_object *usable[64 + 1];
    uint64_t usable_mask;       /* bit n-1: usable[n] is not empty */
    struct arena_object *empty;         /* newest first */
    struct arena_object *lazily_empty;  /* the system may have taken their memory */
    size_t nempty;              /* both together */
    size_t nlazy;
    size_t nresting;            /* pools: see struct arena_object, of usable arenas */

    /* Of keeping.c, in pools. */
    size_t earned;              /* may stay, besides what is kept unearned */
    size_t nreturned;           /* given back, and not needed again so far */
    uint64_t returned_at;       /* the last of them, by virtual_clock() */
    uint64_t nwaits;            /* virtual_count_waits() when that was last asked */

    unsigned nrefused;          /* requests that malloc is to serve, since the system
                                   had no arena */

    int is_watched;             /* a window of time goes on */
    uint64_t window_ends;       /* by virtual_clock() */
    size_t least_empty;         /* arenas, since the window began */
    size_t least_resting;       /* pools */
    unsigned nkept;             /* medium ones that are kept, or were: pools.c */

    size_t nopened;             /* full ones that came to have a free block, less those
                                   that became full, since the last sweep */
    size_t nopened_before;      /* the same, when the window began */
    uint64_t sweep_after;       /* the next one where nothing settles, by virtual_clock() */

    /* Of sparse.c. */
    size_t nswept;              /* arenas that the sweep has been through */
    size_t nopen_seen;          /* pools in these that are neither full nor sparse */
    size_t open_bytes_seen;     /* bytes in use in them */
    size_t open_bytes;          /* the same, in all arenas, at the last sweep; 0: none */
    uint64_t sweep_again;       /* not before, by virtual_clock() */

    size_t ntimes_allocated;    /* arenas bought so far */
    size_t ncurrent;            /* bought and not given back */
    size_t nhighwater;          /* the most there were at a time */
};

/* Whom a heap belongs to. */
enum heap_owner {
    HEAP_UNUSED,                /* nobody, and nothing is in it */
    HEAP_OF_INTERPRETER,
    HEAP_OF_THREAD,
    HEAP_LEFT,                  /* nobody; blocks may be in it: whoever holds the
                                   lock of all heaps works on it */
    HEAP_FROZEN,                /* a thread that a fork left behind, perhaps in the
                                   middle of a change: nobody works on it again */
};

enum heap_to_do {
    HEAP_KEEPS_ARENAS = 1,      /* look whether it is time to give some back */
    HEAP_HAS_FREED = 2,         /* take in what others freed */
    HEAP_INHERITS = 4,          /* main_heap: take over what interpreters left behind */
    HEAP_GIVES_BACK = 8,        /* somebody's request failed: keep nothing */
    HEAP_RELEASES_KEPT = 16,    /* empty pools have waited long enough in their rings */
    HEAP_SWEEPS = 32,           /* many pools may have become sparse */
    HEAP_KEEPS_SLOTS = 64,      /* main_heap: look whether slots were free for long */
    HEAP_MAKES_WAY = 128,       /* main_heap: others became larger than they ever were */
};

struct heap {
    /* usedpools[class].next is the pool that the next block of a size class comes
     * from.  The ring's own entry has no free block, so it needs no test apart. */
    struct pool usedpools[NB_SIZE_CLASSES];

    struct pool_groups *groups; /* used pools that wait for their turn; NULL before there
                                   is one: rings.c */

    /* While a window of time goes on in which nothing may happen off the fast path, a
     * lookout is first in each ring of small pools: see heap_post_lookouts(). */
    struct pool lookouts[NB_SMALL_SIZE_CLASSES];

    struct pool_map_home home;  /* NO_HOME before the first arena of small pools */

    struct arena_set small_arenas;
    struct arena_set medium_arenas;

    size_t nwith_gone;          /* pools with pages that are gone: sparse.c */

    /* Of main_heap: bytes that others bought more than ever, for which it makes way. */
    atomic_size_t wanted_by_others;

    /* Bytes that were asked for of each medium class before it had a pool. */
    uint32_t asked[NB_MEDIUM_SIZE_CLASSES];

    /* What the owner has to do where it leaves its fast path: one test for all. */
    atomic_uint to_do;          /* of enum heap_to_do */

    struct arena_chunk *first_chunk;        /* of arena objects; they stay */
    struct arena_chunk **last_chunk;
    struct arena_object *unused_objects;
    size_t nchunks;

    /* Blocks that were asked of pymalloc and are the raw domain's.  The owner adds and
     * subtracts what its own thread does; main_heap's is added to by those who
     * have no heap, with an atomic instruction. */
    _Atomic Py_ssize_t raw_blocks;

    /* Blocks of this heap that others freed: a list through their first words.
     * heap_free_from_outside() adds, heap_take_in() takes all. */
    _Atomic(block *) freed_by_others;
    atomic_size_t nfreed_by_others;

    /* Whoever looks at the heap from outside holds it meanwhile.  The owner holds it while
     * an arena comes or goes, and while the list above is taken in: a look can't bear
     * these. */
    pthread_mutex_t look_lock;

    /* Of a heap of a thread.  Another thread may visit it while the owner is not in it, to
     * do what the owner would do if it came by: see heap_enter(). */
    atomic_uchar owner_is_in;   /* the owner writes it */
    atomic_uchar is_visited;    /* the visitor writes it, who holds the lock of all heaps */

    uint16_t number;            /* heaps[number] is this one */
    _Atomic enum heap_owner owner;
    int64_t interpreter;        /* its ID, 0 for the main one; -1: none */
    uintptr_t thread;           /* the system's number of it; 0: none */
    struct heap *next;          /* in a list of heaps that nobody has */
};

INTERNAL_DATA(struct heap) main_heap;

/* All heaps by number; a heap stays where it is once it is there.  It is whole before it is
 * stored (release).  Whoever has a block of it looks it up (acquire). */
#define MAX_HEAPS (1u << 16)
INTERNAL_DATA(struct heap *_Atomic) heaps[MAX_HEAPS];

/* A heap that never has a block.  It serves threads without an interpreter while each
 * interpreter has a heap, and medium requests of a thread that has no heap yet. */
INTERNAL_DATA(struct heap) heap_of_nobody;
#define HEAP_OF_NOBODY (MAX_HEAPS - 1)  /* its number; not in heaps[] */

/* Whose heap serves a small request?  NULL: main_heap serves all.  Else it tells the
 * heap of the thread's interpreter, or heap_of_nobody where the thread has none. */
typedef struct heap *(*heap_function)(void);
INTERNAL_DATA(heap_function) heap_of_interpreter;

/* Beside an interpreter each question costs calls of its functions.  The last answer in a
 * thread holds while the thread's interpreter is the same and none may have begun.  Where
 * these functions only read a word each, that is seen without a call: Python/install/installheaps.c
 * has all of this. */
struct known_heap {
    const void *interp;
    unsigned long nchanges;
    struct heap *heap;
    const char *const *tstate;  /* where the interpreter has the thread's state; NULL: not
                                   known */
};
extern __attribute__((visibility("hidden"))) FAST_THREAD_LOCAL
    struct known_heap known_heap;
INTERNAL_DATA(atomic_ulong) interpreter_changes;
INTERNAL_DATA(atomic_size_t) place_of_interp;       /* in a thread's state; 0: not known */

/* What an interpreter's or a thread's state points to from that offset, which is aligned. */
static inline const void *
pointer_at(const char *state, size_t offset)
{
    return *(const void *const *)(const void *)(state + offset);
}

static inline int
known_heap_is_of(const void *interp)
{
    return LIKELY(interp == known_heap.interp
                  && atomic_load_explicit(&interpreter_changes, memory_order_acquire)
                     == known_heap.nchanges);
}

/* The answer, where each interpreter has a heap and the answer is known without a call; 0:
 * ask for it. */
#if defined(BESIDE_INTERPRETER) && defined(__x86_64__) && defined(__LP64__)
#  define READS_THREAD_STATE 1
static inline int
heap_is_known(struct heap **heap)
{
    const char *tstate;
    if (LIKELY(known_heap.tstate != NULL && (tstate = *known_heap.tstate) != NULL)) {
        *heap = known_heap.heap;
        return known_heap_is_of(pointer_at(tstate, atomic_load_explicit(
            &place_of_interp, memory_order_relaxed)));
    }
    return 0;
}
#else
#  define READS_THREAD_STATE 0
static inline int
heap_is_known(struct heap **heap)
{
    (void)heap;
    return 0;
}
#endif

static inline struct heap *
heap_current(void)
{
    struct heap *heap;
    return LIKELY(heap_of_interpreter == NULL) ? &main_heap
        : LIKELY(heap_is_known(&heap)) ? heap : heap_of_interpreter();
}

/* The heap of this thread for medium blocks; heap_of_nobody before it needed one. */
extern __attribute__((visibility("hidden"))) FAST_THREAD_LOCAL
    struct heap *heap_of_thread;

/* The same, which makes one; heap_of_nobody: no memory. */
struct heap *heap_of_this_thread(void);

/* The owner of a heap of a thread goes in and out, and so often that it may cost next to
 * nothing: it writes that it is in, and looks for a visitor.  No barrier orders the two.
 * The visitor writes that it comes, has the system put a barrier into each thread, and
 * then looks whether the owner is in.  What one of them did in the heap is seen by the next:
 * each stores with release that it leaves, which the other loads with acquire.
 * 0: there is a visitor; to be waited for. */
static inline int
heap_enter(struct heap *of_thread)
{
    atomic_store_explicit(&of_thread->owner_is_in, 1, memory_order_relaxed);
    atomic_signal_fence(memory_order_seq_cst);
    return atomic_load_explicit(&of_thread->is_visited, memory_order_acquire) == 0;
}

static inline void
heap_leave(struct heap *of_thread)
{
    atomic_store_explicit(&of_thread->owner_is_in, 0, memory_order_release);
}

void heap_enter_or_wait(struct heap *of_thread);

/* Add to the count of blocks that the raw domain serves: 1 or -1.  No atomic instruction
 * for the thread whose count it is. */
void heap_count_raw_of_nobody(Py_ssize_t n);
static inline void
heap_count_raw(struct heap *of_thread, Py_ssize_t n)
{
    if (UNLIKELY(of_thread == &heap_of_nobody)) {
        heap_count_raw_of_nobody(n);
        return;
    }
    Py_ssize_t count =
        atomic_load_explicit(&of_thread->raw_blocks, memory_order_relaxed);
    atomic_store_explicit(&of_thread->raw_blocks, count + n, memory_order_relaxed);
}

/* Blocks in use that are not small: those that its raw_blocks tells, which may be less
 * than none, and those in its pools.  While look_lock is held. */
Py_ssize_t heap_count_larger(struct heap *heap);

/* What has to be there before another heap than main_heap: so that a fork and the end of a
 * thread find all heaps whole.  Without it the first of them calls it.  From any thread. */
void heaps_prepare(void);

/* A heap for an interpreter; NULL: no memory.  From any thread. */
struct heap *heap_new(int64_t interpreter);

/* Those of heap_new() whose interpreters live. */
INTERNAL_DATA(atomic_uint) heaps_of_interpreters;

/* Its interpreter ends, and no thread is in it any more.  Without blocks its arenas go
 * back; with some it goes to the main interpreter.  From any thread. */
void heap_end(struct heap *heap);

/* Take over what interpreters left behind: by main_heap's owner. */
void heap_take_over(void);

/* Free a block of a pool whose owner is another: from any thread. */
void heap_free_from_outside(poolp pool, void *ptr);

/* What others freed becomes free blocks of the pools: by the owner. */
void heap_take_in(struct heap *heap);

/* The same for the heaps of the calling thread. */
void heaps_take_in_own(void);

/* Visit the blocks that are free and in no pool's list: those that others freed, from one of
 * their list on, and those at hand.  While look_lock is held: the list only gets longer, at its
 * front. */
void heap_visit_freed(const struct heap *heap, block *first,
                      void (*visit)(void *arg, block *bp), void *arg);

/* Something is to do for the owner: from any thread.  The bit is set after what it tells of
 * and cleared before that is looked for, so it is never clear for long while there is
 * some. */
static inline void
heap_tell(struct heap *heap, unsigned to_do)
{
    if ((atomic_load(&heap->to_do) & to_do) == 0) {
        atomic_fetch_or(&heap->to_do, to_do);
    }
}

/* Do what is to do: by the owner, where it takes blocks and not where it frees. */
void heap_do(struct heap *heap, unsigned to_do);
static inline void
heap_tick(struct heap *heap)
{
    unsigned to_do = atomic_load_explicit(&heap->to_do, memory_order_relaxed);
    if (UNLIKELY(to_do != 0)) {
        heap_do(heap, to_do);
    }
}

/* Give back all memory that no block is in: of a heap, by its owner; of the calling
 * thread's; of heaps that threads left, and of threads that are elsewhere, by anybody.  The
 * number of bytes. */
size_t heap_trim(struct heap *heap);
size_t heap_trim_of_thread(void);
size_t heaps_trim_idle(void);

/* A request failed: give back all arenas that are only kept, of the heaps that the calling
 * thread may work on, and tell the others' owners.  The number of bytes.  From any
 * thread. */
size_t heaps_give_back(void);

/* A set is about to be larger than it ever was: of what the others only keep, as far as this
 * thread may work on them, as much goes back.  So what is kept makes no peak of pools higher. */
void heaps_make_way_for(const struct arena_set *set);

/* Visit every heap that is used, by number, until visit() returns something else than
 * 0; returns that, or 0.  From any thread: one that does not own a heap sees what
 * look_lock keeps whole. */
int heaps_visit(int (*visit)(struct heap *heap, void *arg), void *arg);

#endif /* !Py_INTERNAL_HEAP_H */
