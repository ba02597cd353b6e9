/* Heaps under pymem-run and pymem_install(): one for each interpreter.
 *
 *   PyObject_Malloc() in a thread
 *         |  its interpreter, as the interpreter's own functions tell
 *         v
 *   the answer of the last call in this thread, if it still holds, else a look
 *         v
 *   main_heap, or the heap that has the interpreter's ID
 *
 * From 3.12 on a process may have interpreters with a GIL each.  The state of a new one
 * is by far the largest block that the interpreter asks calloc() of the raw domain for,
 * so it is seen there; and its end where that block is freed.  A block that only looks
 * like one does no harm.
 *
 * Owns the table of interpreters.  Calls heaps.c, and pymalloc.c for medium blocks. */

#define _GNU_SOURCE
#include "pycore_install.h"
#include "pycore_pymalloc.h"
#include "pycore_pymem.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define INTERPRETER_STATE_MIN ((size_t)64 * 1024)

/* Py_RTFLAGS_USE_MAIN_OBMALLOC, of those CPythons that export HasFeature. */
#define USE_MAIN_OBMALLOC (1ul << 5)

static PyMemAllocatorEx raw_below;

/* Interpreters with a separate heap. */
static struct state {
    struct state *next;
    const char *block;          /* the interpreter's state */
    struct heap *heap;
} *states;

/* A bit for each page of 64 that a state begins in: nearly every block that is freed
 * begins in none of them. */
static _Atomic uint64_t state_pages;

static uint64_t
page_bit(const void *ptr)
{
    return (uint64_t)1 << ((uintptr_t)ptr >> 12 & 63);
}

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* How many interpreters may have begun: an answer of before may be wrong. */
atomic_ulong interpreter_changes;

FAST_THREAD_LOCAL struct known_heap known_heap;
atomic_size_t place_of_interp;

/* Of this thread: the last blocks that may be an interpreter's state, as 3.14 asks for
 * another large one after it. */
enum { NLARGE = 4 };
static _Thread_local struct { const char *start; size_t size; } large[NLARGE];
static _Thread_local unsigned nlarge;

/* From 3.13 on _PyRuntime begins with a table of offsets: a cookie, then 64-bit numbers.
 * Two of them, side by side, tell where an interpreter's state has the address of its GIL,
 * and where it has that GIL if the GIL is its own, as the main interpreter's is.  That
 * they do is made sure of. */
static int
shares_main_gil(const char *interp)
{
    enum { SIZE_OF_STATE = 6, FIRST_PLACE = 14, LAST_PLACE = 16 };
    const uint64_t *table = interpreter._PyRuntime;
    if (table == NULL || memcmp(table, "xdebugpy", 8) != 0) {
        return 0;
    }
    const char *main_one = interpreter.PyInterpreterState_Main();
    uint64_t size = table[SIZE_OF_STATE];
    for (int place = FIRST_PLACE; place <= LAST_PLACE; place++) {
        uint64_t gil = table[place], own = table[place + 1];
        if (gil >= size || own >= size || gil % sizeof(void *) != 0) {
            continue;
        }
        const char *main_gil = pointer_at(main_one, (size_t)gil);
        if (main_gil == main_one + own) {
            return pointer_at(interp, (size_t)gil) == main_gil;
        }
    }
    return 0;
}

static int
uses_main_heap(void *interp)
{
    return interp == interpreter.PyInterpreterState_Main()
        || (interpreter._PyInterpreterState_HasFeature != NULL
            && interpreter._PyInterpreterState_HasFeature(interp, USE_MAIN_OBMALLOC))
        || shares_main_gil(interp);
}

static struct heap *
heap_with_id(int64_t id)
{
    for (struct state *state = states; state != NULL; state = state->next) {
        if (state->heap->interpreter == id) {
            return state->heap;
        }
    }
    return NULL;
}

/* The block that has an interpreter's state, which begins where the block does or a little
 * later.  The newest such block: older ones may have been freed. */
static const char *
block_of(const char *interp)
{
    for (unsigned i = 1; i <= NLARGE; i++) {
        unsigned place = (nlarge - i) % NLARGE;
        if (interp >= large[place].start && interp < large[place].start + large[place].size) {
            return large[place].start;
        }
    }
    return interp;
}

/* The interpreter's first request comes from the thread that made it, which has its GIL:
 * nobody else looks for this heap.  It is made without the lock, as a fork takes the lock
 * of all heaps before this one.  NULL: no memory. */
static struct heap *
heap_begin(const char *interp, int64_t id)
{
    struct state *state = malloc(sizeof(*state));
    struct heap *heap = state != NULL ? heap_new(id) : NULL;
    if (heap == NULL) {
        free(state);
        return NULL;
    }
    pthread_mutex_lock(&lock);
    *state = (struct state){states, block_of(interp), heap};
    states = state;
    state_pages |= page_bit(state->block);
    pthread_mutex_unlock(&lock);
    return heap;
}

/* Where this thread has its state, once it was not known.  The values read must be those that
 * the functions tell, or nothing is read any more. */
static void
check_words(char *tstate, const void *interp)
{
    if (place_of_interp != 0 && pointer_at(tstate, place_of_interp) != interp) {
        place_of_interp = 0;
    }
    if (known_heap.tstate == NULL) {
        known_heap.tstate =
            word_in_thread((const void *)interpreter.PyThreadState_GetUnchecked);
    }
    if (known_heap.tstate != NULL && (place_of_interp == 0 || *known_heap.tstate != tstate)) {
        known_heap.tstate = NULL;
    }
}

static COLD struct heap *
heap_look_up(char *tstate)
{
    unsigned long changes = interpreter_changes;
    void *interp = interpreter.PyThreadState_GetInterpreter(tstate);
    int64_t id = interpreter.PyInterpreterState_GetID(interp);
    check_words(tstate, interp);
    pthread_mutex_lock(&lock);
    struct heap *heap = uses_main_heap(interp) ? &main_heap : heap_with_id(id);
    pthread_mutex_unlock(&lock);
    if (heap == NULL) {
        heap = heap_begin(interp, id);
    }
    known_heap.interp = interp;
    known_heap.nchanges = changes;
    known_heap.heap = heap != NULL ? heap : &heap_of_nobody;
    return known_heap.heap;
}

/* An address is an interpreter's again only after another block was got for it, which is a
 * change. */
static struct heap *
heap_of_their_interpreter(void)
{
    char *tstate = interpreter.PyThreadState_GetUnchecked();
    if (tstate == NULL) {
        return &heap_of_nobody;
    }
    size_t place = atomic_load_explicit(&place_of_interp, memory_order_relaxed);
    const void *interp = place != 0 ? pointer_at(tstate, place)
        : interpreter.PyThreadState_GetInterpreter(tstate);
    return known_heap_is_of(interp) ? known_heap.heap : heap_look_up(tstate);
}

/* The raw domain. */

static void *
watching_malloc(void *ctx, size_t size)
{
    (void)ctx;
    void *ptr = raw_below.malloc(raw_below.ctx, size);
    return TWICE(ptr, raw_below.malloc(raw_below.ctx, size));
}

static void *
watching_calloc(void *ctx, size_t nelem, size_t elsize)
{
    (void)ctx;
    void *ptr = raw_below.calloc(raw_below.ctx, nelem, elsize);
    ptr = TWICE(ptr, raw_below.calloc(raw_below.ctx, nelem, elsize));
    if (ptr != NULL && nelem * elsize >= INTERPRETER_STATE_MIN
        && interpreter.PyThreadState_GetInterpreter != NULL
        && interpreter.Py_IsInitialized())
    {
        large[nlarge % NLARGE].start = ptr;
        large[nlarge % NLARGE].size = nelem * elsize;
        nlarge++;
        interpreter_changes++;
        if (heap_of_interpreter == NULL) {
            place_of_interp =
                place_in_argument((const void *)interpreter.PyThreadState_GetInterpreter);
            _PyMem_AskForHeap(heap_of_their_interpreter);
        }
    }
    return ptr;
}

/* Perhaps the state of an interpreter is freed: then it has ended. */
static COLD void
look_for_end(const void *ptr)
{
    struct heap *heap = NULL;
    uint64_t pages = 0;
    pthread_mutex_lock(&lock);
    for (struct state **link = &states; *link != NULL;) {
        struct state *state = *link;
        if (state->block == ptr) {
            heap = state->heap;
            *link = state->next;
            free(state);
            continue;
        }
        pages |= page_bit(state->block);
        link = &state->next;
    }
    state_pages = pages;
    pthread_mutex_unlock(&lock);
    if (heap != NULL) {
        heap_end(heap);
    }
}

static void
watching_free(void *ctx, void *ptr)
{
    (void)ctx;
    if (UNLIKELY((atomic_load_explicit(&state_pages, memory_order_relaxed)
                  & page_bit(ptr)) != 0))
    {
        look_for_end(ptr);
    }
    if (UNLIKELY(pymalloc_has_medium(ptr)) && pymalloc_free_medium(ptr)) {
        return;
    }
    raw_below.free(raw_below.ctx, ptr);
}

static void *
watching_realloc(void *ctx, void *ptr, size_t size)
{
    (void)ctx;
    size_t old_size = pymalloc_has_medium(ptr) ? pymalloc_medium_size(ptr) : 0;
    if (LIKELY(old_size == 0)) {
        void *resized = raw_below.realloc(raw_below.ctx, ptr, size);
        return TWICE(resized, raw_below.realloc(raw_below.ctx, ptr, size));
    }
    void *moved = watching_malloc(NULL, size);
    if (moved != NULL) {
        memcpy(moved, ptr, size < old_size ? size : old_size);
        pymalloc_free_medium(ptr);
    }
    return moved;
}

static void
lock_before_fork(void)
{
    pthread_mutex_lock(&lock);
}

static void
unlock_after_fork(void)
{
    pthread_mutex_unlock(&lock);
}

PyMemAllocatorEx
install_raw_domain(const PyMemAllocatorEx *raw)
{
    raw_below = *raw;
    pthread_atfork(lock_before_fork, unlock_after_fork, unlock_after_fork);
    return (PyMemAllocatorEx){NULL, watching_malloc, watching_calloc, watching_realloc,
                              watching_free};
}
