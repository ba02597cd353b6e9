/* Objects/heaps.c: heaps of interpreters and threads, blocks that are freed elsewhere, and
 * what becomes of a heap whose owner ends.  Here a thread stands for an interpreter with a
 * GIL of its own. */

#include "support.h"
#include "pymemheap.h"
#include "pycore_arenas.h"
#include "pycore_pools.h"
#include "pycore_pymalloc.h"
#include "pycore_pymem.h"

#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

/* The heap of the interpreter that this thread is in; heap_of_nobody: it is in none. */
static _Thread_local struct heap *current = &main_heap;

static struct heap *
current_heap(void)
{
    return current;
}

static void
use_pymalloc(void)
{
    ck_assert_int_eq(_PyMem_SetupAllocators(PYMEM_ALLOCATOR_PYMALLOC), 0);
}

static void
use_interpreters(void)
{
    use_pymalloc();
    _PyMem_AskForHeap(current_heap);
}

/* The number of the heap that a small block is in. */
static NOINLINE unsigned
owner_of(const void *ptr)
{
    poolp pool = pool_of(ptr);
    ck_assert_ptr_nonnull(pool);
    return pool_owner(pool);
}

static struct heap *
new_interpreter(void)
{
    struct heap *heap = heap_new(7);
    ck_assert_ptr_nonnull(heap);
    return heap;
}

static void *
in_thread(void *(*function)(void *), void *arg)
{
    pthread_t thread;
    void *result;
    ck_assert_int_eq(pthread_create(&thread, NULL, function, arg), 0);
    ck_assert_int_eq(pthread_join(thread, &result), 0);
    return result;
}

START_TEST(each_interpreter_has_its_pools)
{
    struct heap *other = new_interpreter();
    void *ours = PyObject_Malloc(100);
    current = other;
    void *theirs = PyObject_Malloc(100);
    ck_assert_ptr_ne(pool_of(ours), pool_of(theirs));
    ck_assert_uint_eq(owner_of(ours), 0);
    ck_assert_uint_eq(owner_of(theirs), other->number);
    ck_assert_int_eq(_PyMem_CountBlocksOfHeap(other), 1);
    ck_assert_int_eq(_PyMem_CountBlocksOfHeap(&main_heap), 1);
    ck_assert_int_eq(_Py_GetAllocatedBlocks(), 2);
    ck_assert_uint_eq(other->small_arenas.ncurrent, 1);
    PyObject_Free(theirs);
    current = &main_heap;
    PyObject_Free(ours);
    heap_end(other);
}
END_TEST

START_TEST(a_hook_is_called_in_each_interpreter)
{
    static struct recorder hook;
    struct heap *other = new_interpreter();
    void *from_before = PyObject_Malloc(100);
    recorder_install(&hook, PYMEM_DOMAIN_OBJ);
    current = other;
    void *ptr = PyObject_Malloc(100);
    ck_assert_uint_eq(hook.ncalls, 1);
    ck_assert_uint_eq(owner_of(ptr), other->number);
    PyMem_Free(PyMem_Malloc(100));
    ck_assert_uint_eq(hook.ncalls, 1);
    PyObject_Free(ptr);
    PyObject_Free(from_before);
    ck_assert_uint_eq(hook.ncalls, 3);
    recorder_remove(&hook);
    PyObject_Free(PyObject_Malloc(100));
    ck_assert_uint_eq(hook.ncalls, 3);
    current = &main_heap;
    ck_assert_int_eq(_Py_GetAllocatedBlocks(), 0);
}
END_TEST

/* From the main interpreter to the other (_i is 0), and the other way. */
START_TEST(a_block_freed_elsewhere_goes_back_to_its_pool)
{
    struct heap *other = new_interpreter();
    struct heap *owner = _i ? other : &main_heap;
    current = owner;
    void *first = PyObject_Malloc(48), *second = PyObject_Malloc(48);
    poolp pool = pool_of(first);
    current = _i ? &main_heap : other;
    PyObject_Free(first);
    ck_assert_ptr_eq((void *)owner->freed_by_others, first);
    ck_assert_uint_eq(pool->inuse, 2);
    ck_assert_int_eq(_Py_GetAllocatedBlocks(), 1);      /* it counts as free */
    ck_assert_int_eq(_PyMem_CountBlocksOfHeap(owner), 1);
    current = owner;
    PyObject_Malloc(200);           /* another class: its slow path takes it in */
    ck_assert_ptr_null((void *)owner->freed_by_others);
    ck_assert_uint_eq(owner->nfreed_by_others, 0);
    ck_assert_uint_eq(pool->inuse, 1);
    ck_assert_ptr_eq(PyObject_Malloc(48), first);
    PyObject_Free(second);
}
END_TEST

START_TEST(realloc_of_a_block_from_elsewhere)
{
    struct heap *other = new_interpreter();
    char *p = PyObject_Malloc(100);
    fill_pattern(p, 100, 3);
    current = other;
    /* It fits: whoever asks. */
    ck_assert_ptr_eq(PyObject_Realloc(p, INDEX_TO_SIZE(SIZE_TO_INDEX(100)) - 1), p);
    char *moved = PyObject_Realloc(p, 300);
    ck_assert_ptr_ne(moved, p);
    ck_assert(has_pattern(moved, 100, 3));
    ck_assert_uint_eq(owner_of(moved), other->number);
    ck_assert_int_eq(_Py_GetAllocatedBlocks(), 1);
    char *larger = PyObject_Realloc(moved, 3000);
    ck_assert(has_pattern(larger, 100, 3));
    current = &main_heap;
    char *small = PyObject_Realloc(larger, 20);
    ck_assert(has_pattern(small, 20, 3));
    PyObject_Free(small);
    ck_assert_int_eq(_Py_GetAllocatedBlocks(), 0);
}
END_TEST

START_TEST(a_thread_without_an_interpreter_gets_by)
{
    void *ours = PyObject_Malloc(100);
    current = &heap_of_nobody;
    char *p = PyObject_Malloc(100), *q = PyMem_Calloc(5, 8);
    ck_assert_ptr_null(pool_of(p));
    ck_assert(is_filled(q, 40, 0));
    p = PyObject_Realloc(p, 400);
    PyObject_Free(p);
    PyMem_Free(q);
    PyObject_Free(ours);
    ck_assert_int_eq(_Py_GetAllocatedBlocks(), 0);
    PyMem_Trim();
}
END_TEST

/* The end of an interpreter. */

START_TEST(one_that_left_nothing_gives_its_arenas_back)
{
    struct heap *other = new_interpreter();
    static void *p[20000];
    current = other;
    for (int i = 0; i < 20000; i++) {
        p[i] = PyObject_Malloc(1 + random_below(512));
    }
    ck_assert_uint_ge(other->small_arenas.ncurrent, 4);
    current = &main_heap;           /* some are freed in the wrong one */
    for (int i = 0; i < 20000; i++) {
        current = i % 3 ? other : &main_heap;
        PyObject_Free(p[i]);
    }
    heap_end(other);
    ck_assert_uint_eq(other->small_arenas.ncurrent, 0);
    ck_assert_int_eq(other->owner, HEAP_UNUSED);
    ck_assert_ptr_eq(new_interpreter(), other);     /* and the next one gets it */
}
END_TEST

START_TEST(one_that_left_blocks_gives_them_to_the_main_one)
{
    enum { N = 30000 };
    static char *p[N];
    struct heap *other = new_interpreter();
    current = other;
    for (unsigned i = 0; i < N; i++) {
        size_t size = 1 + random_below(512);
        p[i] = PyObject_Malloc(512);
        memset(p[i], (int)i, size);
    }
    size_t narenas = other->small_arenas.ncurrent;
    for (unsigned i = 0; i < N; i += 2) {
        PyObject_Free(p[i]);
    }
    current = &main_heap;
    PyObject_Free(p[1]);            /* still in the list when it ends */
    heap_end(other);
    ck_assert_int_eq(_Py_GetAllocatedBlocks(), N / 2 - 1);
    void *q = PyObject_Malloc(512);     /* the slow path takes all over */
    ck_assert_int_eq(other->owner, HEAP_UNUSED);
    ck_assert_uint_eq(other->small_arenas.ncurrent, 0);
    ck_assert_uint_eq(main_heap.small_arenas.ncurrent, narenas);
    ck_assert_uint_eq(owner_of(p[3]), 0);
    ck_assert_ptr_ne(q, p[3]);
    ck_assert(pool_is_valid(pool_of(p[3])));
    for (unsigned i = 3; i < N; i += 2) {
        ck_assert_int_eq(p[i][0], (char)i);
        PyObject_Free(p[i]);
    }
    PyObject_Free(q);
    ck_assert_int_eq(_Py_GetAllocatedBlocks(), 0);
    PyMem_Trim();
    ck_assert_uint_eq(main_heap.small_arenas.ncurrent, 0);
}
END_TEST

/* Its pools that were not cut to their ends come beside others that were not: malloc goes
 * on from one to the next, and comes to an end. */
START_TEST(pools_that_are_taken_over_are_used_to_their_ends)
{
    struct heap *other = new_interpreter();
    void *ours = PyObject_Malloc(512);
    current = other;
    void *theirs = PyObject_Malloc(512);
    heap_end(other);
    current = &main_heap;
    PyMem_Trim();
    ck_assert_uint_eq(owner_of(theirs), 0);
    poolp first = pool_of(ours), second = pool_of(theirs);
    for (unsigned i = 2; i < 2 * NUMBLOCKS(512); i++) {
        poolp pool = pool_of(PyObject_Malloc(512));
        ck_assert(pool == first || pool == second);
    }
    ck_assert_uint_eq(pool_count_blocks(first), NUMBLOCKS(512));
    ck_assert_uint_eq(pool_count_blocks(second), NUMBLOCKS(512));
}
END_TEST

/* Blocks of a heap whose number was looked up just before it was taken over: a push to
 * it is passed on. */
START_TEST(a_late_free_is_passed_on)
{
    struct heap *other = new_interpreter();
    current = other;
    void *p = PyObject_Malloc(64), *q = PyObject_Malloc(64);
    heap_end(other);
    current = &main_heap;
    PyMem_Trim();
    ck_assert_uint_eq(owner_of(p), 0);
    *block_link(p) = NULL;                  /* as if it had been pushed before */
    other->freed_by_others = p;
    other->nfreed_by_others = 1;
    other->to_do |= HEAP_HAS_FREED;
    struct heap *again = new_interpreter();
    ck_assert_ptr_eq(again, other);
    current = again;
    PyObject_Malloc(64);                    /* the next owner finds it */
    ck_assert_ptr_eq((void *)main_heap.freed_by_others, p);
    current = &main_heap;
    ck_assert_int_eq(_PyMem_CountBlocksOfHeap(&main_heap), 1);
    PyObject_Free(q);
    ck_assert_int_eq(_PyMem_CountBlocksOfHeap(&main_heap), 0);
}
END_TEST

START_TEST(a_thousand_interpreters_leave_nothing)
{
    size_t numbers = 0;
    for (int i = 0; i < 1000; i++) {
        struct heap *heap = new_interpreter();
        numbers = heap->number > numbers ? heap->number : numbers;
        current = heap;
        void *p[300];
        for (unsigned k = 0; k < 300; k++) {
            p[k] = PyObject_Malloc(1 + k % 512);
        }
        for (unsigned k = 0; k < 300; k++) {
            PyObject_Free(p[k]);
        }
        current = &main_heap;
        heap_end(heap);
    }
    ck_assert_uint_le(numbers, 2);
    PyMemHeapFigures figures;
    PyMemHeap_GetFigures(&figures);
    ck_assert_uint_eq(figures.arenas_current, 0);
    ck_assert_uint_le(figures.arena_objects, 3 * 4096);
}
END_TEST

/* Bytes of empty arenas of interpreters that had a peak each.  What is kept is soon lost
 * where an emulator frees blocks so slowly that the clock decides: *is_slow. */
static size_t
kept_after_peaks_of(unsigned ninterpreters, int *is_slow)
{
    enum { N = 250000, SLOW_MILLISECONDS = 100 };
    static void *p[N];
    static struct heap *interpreters[8];
    for (unsigned i = 0; i < ninterpreters; i++) {
        interpreters[i] = new_interpreter();
    }
    PyMemHeapFigures before, after;
    PyMemHeap_GetFigures(&before);
    for (unsigned i = 0; i < ninterpreters; i++) {
        current = interpreters[i];
        for (unsigned k = 0; k < N; k++) {
            p[k] = PyObject_Malloc(64);
        }
        uint64_t begun = virtual_clock();
        for (unsigned k = 0; k < N; k++) {
            PyObject_Free(p[k]);
        }
        *is_slow |= is_emulated() && virtual_clock() - begun > SLOW_MILLISECONDS;
    }
    PyMemHeap_GetFigures(&after);
    current = &main_heap;
    return (after.arenas_current - before.arenas_current) * ARENA_SIZE;
}

/* Of PYMEM_KEEP the small blocks of one heap may keep 13 sixteenths, and with eight each
 * may keep 6. */
#define KEEP(SIXTEENTHS) (((size_t)12 << 20) / 16 * (SIXTEENTHS))

START_TEST(an_interpreter_keeps_as_much_as_the_main_one_may)
{
    enum { N = 4 };
    int is_slow = 0;
    size_t kept = kept_after_peaks_of(N, &is_slow);
    ck_assert(is_slow || kept > N * (KEEP(13) - ARENA_SIZE));
    ck_assert_uint_le(kept, N * KEEP(13));
}
END_TEST

START_TEST(many_interpreters_keep_no_more_than_four)
{
    enum { N = 8 };
    int is_slow = 0;
    size_t kept = kept_after_peaks_of(N, &is_slow);
    ck_assert(is_slow || kept > N * (KEEP(6) - ARENA_SIZE));
    ck_assert_uint_le(kept, 4 * KEEP(13));
}
END_TEST

/* Threads: medium blocks. */

static void *
medium_block(void *size)
{
    return PyMem_Malloc((size_t)(uintptr_t)size);
}

START_TEST(medium_blocks_come_from_the_heap_of_the_thread)
{
    void *ours = PyMem_Malloc(2000);
    void *theirs = in_thread(medium_block, (void *)2000);
    poolp pool = medium_pool_of(theirs);
    ck_assert_ptr_nonnull(pool);
    ck_assert_ptr_ne(pool, medium_pool_of(ours));
    ck_assert_uint_eq(pool_owner(medium_pool_of(ours)), heap_of_this_thread()->number);
    ck_assert_uint_ne(pool_owner(pool), heap_of_this_thread()->number);
    ck_assert_int_eq(_Py_GetAllocatedBlocks(), 2);
    PyMem_Free(theirs);                     /* its thread has ended */
    ck_assert_int_eq(_Py_GetAllocatedBlocks(), 1);
    PyMem_Free(ours);
    ck_assert_int_eq(_Py_GetAllocatedBlocks(), 0);
}
END_TEST

START_TEST(the_next_thread_gets_the_heap_of_one_that_ended)
{
    void *first = in_thread(medium_block, (void *)2000);
    void *second = in_thread(medium_block, (void *)2000);
    ck_assert_ptr_eq(medium_pool_of(first), medium_pool_of(second));
    PyMem_Free(first);
    PyMem_Free(second);
}
END_TEST

static void *
free_block(void *ptr)
{
    PyMem_Free(ptr);
    return NULL;
}

START_TEST(medium_blocks_are_freed_by_any_thread)
{
    void *p = PyMem_Malloc(1000), *q = PyMem_Malloc(1000);
    in_thread(free_block, p);
    ck_assert_int_eq(_Py_GetAllocatedBlocks(), 1);
    PyMem_Malloc(5000);                     /* the slow path takes it in */
    ck_assert_ptr_eq(PyMem_Malloc(1000), p);
    PyMem_Free(q);
}
END_TEST

/* Memory that a thread left behind goes back while others free its blocks. */
static void *
many_medium_blocks(void *blocks)
{
    for (int i = 0; i < 4000; i++) {
        ((void **)blocks)[i] = PyMem_Malloc(8000);
    }
    return heap_of_this_thread();
}

START_TEST(what_a_thread_left_goes_back_when_it_is_freed)
{
    static void *p[4000];
    struct heap *left = in_thread(many_medium_blocks, p);
    ck_assert_int_eq(left->owner, HEAP_LEFT);
    ck_assert_uint_ge(left->medium_arenas.ncurrent, 30);
    for (int i = 0; i < 4000; i++) {
        PyMem_Free(p[i]);
    }
    ck_assert_uint_le(left->medium_arenas.ncurrent, 2);
    PyMem_Trim();
    ck_assert_uint_eq(left->medium_arenas.ncurrent, 0);
    ck_assert_int_eq(_Py_GetAllocatedBlocks(), 0);
}
END_TEST

START_TEST(many_threads_keep_little)
{
    enum { N = 40 };
    pthread_t threads[N];
    static void *p[N][4000];
    for (int i = 0; i < N; i++) {
        ck_assert_int_eq(pthread_create(&threads[i], NULL, many_medium_blocks, p[i]), 0);
    }
    for (int i = 0; i < N; i++) {
        pthread_join(threads[i], NULL);
    }
    for (int i = 0; i < N; i++) {
        for (int k = 0; k < 4000; k++) {
            PyMem_Free(p[i][k]);
        }
    }
    PyMemHeapFigures figures;
    PyMemHeap_GetFigures(&figures);
    ck_assert_uint_le(figures.medium_arenas_current, 2 * N);
    PyMem_Trim();
    PyMemHeap_GetFigures(&figures);
    ck_assert_uint_eq(figures.medium_arenas_current, 0);
}
END_TEST

/* The raw domain frees and grows what PyMem_Malloc() gave over 512 bytes, as malloc
 * does in CPython. */
START_TEST(the_raw_domain_takes_medium_blocks)
{
    static const size_t sizes[] = {513, 600, 1000, 4096, 32832, 100000};
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        char *p = PyMem_Malloc(sizes[i]), *q = PyMem_Calloc(1, sizes[i]);
        fill_pattern(p, sizes[i], 5);
        p = PyMem_RawRealloc(p, sizes[i] * 2);
        ck_assert(has_pattern(p, sizes[i], 5));
        ck_assert_ptr_null(medium_pool_of(p));
        p = PyMem_RawRealloc(p, 10);
        ck_assert(has_pattern(p, 10, 5));
        PyMem_RawFree(p);
        PyMem_RawFree(q);
    }
    char *p = PyMem_Malloc(2000);
    in_thread((void *(*)(void *))(void (*)(void))PyMem_RawFree, p);
    ck_assert_int_eq(_PyMem_CountBlocksOfHeap(&main_heap), 2);  /* as in CPython: the
                                            two of 100000 were malloc's, and counted */
}
END_TEST

/* It goes to the C library, which ends the program; mimalloc looks at no address. */
#ifndef WITH_RAW_MIMALLOC
#ifdef __GLIBC__
#  define FREE_ENDS_WITH SIGABRT
#else
#  define FREE_ENDS_WITH SIGSEGV        /* musl */
#endif
static void
free_inside_a_block(void *unused)
{
    (void)unused;
    PyMem_RawFree((char *)PyMem_Malloc(2000) + 16);
}

START_TEST(an_address_inside_a_medium_block_is_not_one)
{
    struct child child = run_child(free_inside_a_block, NULL);
    ck_assert_int_eq(child.signal, FREE_ENDS_WITH);
}
END_TEST
#endif

/* A walk from another thread. */

struct seen {
    size_t nused, nfree;
    int64_t interpreter;
    int is_broken;
};

static int
see_pool(void *into, const PyMemHeapArena *arena, const PyMemHeapPool *pool)
{
    struct seen *seen = into;
    static uint16_t numbers[65536 / 8];
    if (pool->blocksize != 0 && arena->heap != 0) {
        int nfree = PyMemHeap_FreeBlocks(pool, numbers);
        seen->is_broken |= nfree < 0;
        seen->nfree += (size_t)nfree;
        seen->nused += pool->nused;
        seen->interpreter = arena->interpreter;
    }
    return 0;
}

START_TEST(a_walk_shows_what_others_freed_as_free)
{
    struct heap *other = new_interpreter();
    void *p[100];
    current = other;
    for (int i = 0; i < 100; i++) {
        p[i] = PyObject_Malloc(64);
    }
    current = &main_heap;
    for (int i = 0; i < 100; i += 4) {
        PyObject_Free(p[i]);
    }
    struct seen seen = {0, 0, 0, 0};
    PyMemHeap_Visit(NULL, see_pool, &seen);
    ck_assert_uint_eq(seen.nused, 75);
    ck_assert_uint_ge(seen.nfree, 25);
    ck_assert_int_eq(seen.is_broken, 0);
    ck_assert_int_eq(seen.interpreter, 7);
    ck_assert_uint_eq(other->nfreed_by_others, 25);     /* the walk left them there */
}
END_TEST

/* Forks. */

static void *
wait_with_heap(void *result)
{
    void *p = PyMem_Malloc(3000);
    *(void *_Atomic *)result = p;
    pause();
    return NULL;
}

static void *shared_block;

static void
free_in_child(void *unused)
{
    (void)unused;
    alarm(20);
    PyMem_Free(shared_block);       /* of a thread that is not in the child */
    for (int i = 0; i < 2000; i++) {
        PyMem_Free(PyMem_Malloc(600 + (size_t)i));
    }
    pthread_t thread;
    void *p;
    pthread_create(&thread, NULL, medium_block, (void *)3000);
    pthread_join(thread, &p);
    if (p == shared_block || medium_pool_of(p) == medium_pool_of(shared_block)) {
        abort();                    /* a heap that may be half changed is not used */
    }
}

static void *
wait_with_look_lock(void *is_held)
{
    pthread_mutex_lock(&heap_of_nobody.look_lock);
    *(void *_Atomic *)is_held = is_held;
    pause();
    return NULL;
}

static void
count_in_child(void *unused)
{
    (void)unused;
    alarm(20);
    heap_of_thread = &heap_of_nobody;
    _Py_GetAllocatedBlocks();
}

START_TEST(the_child_waits_for_no_thread_that_looks)
{
    static void *_Atomic is_held;
    pthread_t thread;
    PyMem_Free(PyMem_Malloc(3000));
    pthread_create(&thread, NULL, wait_with_look_lock, (void *)&is_held);
    while (is_held == NULL) {
        usleep(1000);
    }
    struct child child = run_child(count_in_child, NULL);
    ck_assert_int_eq(child.signal, 0);
}
END_TEST

START_TEST(the_child_leaves_heaps_of_other_threads_alone)
{
    pthread_t thread;
    void *_Atomic block_of_thread = NULL;
    pthread_create(&thread, NULL, wait_with_heap, (void *)&block_of_thread);
    while (block_of_thread == NULL) {
        usleep(1000);
    }
    shared_block = block_of_thread;
    struct child child = run_child(free_in_child, NULL);
    ck_assert_msg(child.signal == 0 && child.status == 0, "%s", child.text);
}
END_TEST

/* PYMEM_MEDIUM */

static void
leave_to_malloc(void *value)
{
    setenv("PYMEM_MEDIUM", value, 1);
    use_pymalloc();
    void *p = PyMem_Malloc(2000), *small = PyMem_Malloc(200);
    if (medium_pool_of(p) != NULL || pool_of(small) == NULL
        || _Py_GetAllocatedBlocks() != 2)
    {
        _exit(3);
    }
    PyMem_Free(p);
    _exit(_Py_GetAllocatedBlocks() != 1);
}

/* A destructor that asks for memory in each round there is, after ours. */
static pthread_key_t late;

static void
ask_again(void *key)
{
    char *p = PyMem_Malloc(3000);
    fill_pattern(p, 3000, 5);
    p = PyMem_Realloc(p, 30000);
    ck_assert(has_pattern(p, 3000, 5));
    PyMem_Free(p);
    ck_assert_int_eq(pthread_setspecific(late, key), 0);
}

static void *
end_late(void *unused)
{
    PyMem_Free(PyMem_Malloc(3000));
    ck_assert_int_eq(pthread_setspecific(late, &late), 0);
    return unused;
}

START_TEST(what_a_thread_asks_for_in_its_end_costs_no_heap)
{
    PyMem_Free(PyMem_Malloc(3000));
    ck_assert_int_eq(pthread_key_create(&late, ask_again), 0);
    PyMemHeapFigures before, after;
    in_thread(end_late, NULL);
    PyMemHeap_GetFigures(&before);
    for (int i = 0; i < 20; i++) {
        in_thread(end_late, NULL);
    }
    PyMemHeap_GetFigures(&after);
    ck_assert_uint_eq(after.heaps, before.heaps);
}
END_TEST

/* The child ends the other interpreter, whose thread may have been in the middle of a
 * change: nothing of its heap is given back or handed on. */
static void
end_in_child(void *other)
{
    struct heap *heap = other;
    size_t narenas = heap->small_arenas.ncurrent;
    heap_end(heap);
    heap_take_over();
    fprintf(stderr, "%d %d", heap->owner == HEAP_FROZEN,
            heap->small_arenas.ncurrent == narenas);
}

START_TEST(the_child_leaves_heaps_of_other_interpreters_alone)
{
    struct heap *other = new_interpreter();
    current = other;
    void *ptr = PyObject_Malloc(100);
    ck_assert_ptr_nonnull(ptr);
    PyObject_Free(ptr);
    current = &main_heap;
    struct child child = run_child(end_in_child, other);
    ck_assert_str_eq(child.text, "1 1");
    ck_assert_int_eq(other->owner, HEAP_OF_INTERPRETER);
    heap_end(other);
}
END_TEST

START_TEST(medium_requests_can_be_left_to_malloc)
{
    struct child child = run_child(leave_to_malloc, "malloc");
    ck_assert_int_eq(child.status, 0);
    child = run_child(leave_to_malloc, "pools");
    ck_assert_int_eq(child.status, 3);
    child = run_child(leave_to_malloc, "mmap");
    ck_assert_int_eq(child.signal, SIGABRT);
    ck_assert_msg(strstr(child.text, "PYMEM_MEDIUM is \"pools\" or \"malloc\", "
                         "not \"mmap\"") != NULL, "%s", child.text);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("heaps");
    TCase *tc = tcase_create("interpreters");
    tcase_add_checked_fixture(tc, use_interpreters, NULL);
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, each_interpreter_has_its_pools);
    tcase_add_test(tc, a_hook_is_called_in_each_interpreter);
    tcase_add_loop_test(tc, a_block_freed_elsewhere_goes_back_to_its_pool, 0, 2);
    tcase_add_test(tc, realloc_of_a_block_from_elsewhere);
    tcase_add_test(tc, a_thread_without_an_interpreter_gets_by);
    tcase_add_test(tc, one_that_left_nothing_gives_its_arenas_back);
    tcase_add_test(tc, one_that_left_blocks_gives_them_to_the_main_one);
    tcase_add_test(tc, pools_that_are_taken_over_are_used_to_their_ends);
    tcase_add_test(tc, a_late_free_is_passed_on);
    tcase_add_test(tc, a_thousand_interpreters_leave_nothing);
#if ARENA_BITS <= 20
    tcase_add_test(tc, an_interpreter_keeps_as_much_as_the_main_one_may);
    tcase_add_test(tc, many_interpreters_keep_no_more_than_four);
#endif
    tcase_add_test(tc, a_walk_shows_what_others_freed_as_free);
    tcase_add_test(tc, the_child_leaves_heaps_of_other_interpreters_alone);
    suite_add_tcase(suite, tc);
    tc = tcase_create("threads");
    tcase_add_checked_fixture(tc, use_pymalloc, NULL);
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, medium_blocks_come_from_the_heap_of_the_thread);
    tcase_add_test(tc, the_next_thread_gets_the_heap_of_one_that_ended);
    tcase_add_test(tc, medium_blocks_are_freed_by_any_thread);
    tcase_add_test(tc, what_a_thread_left_goes_back_when_it_is_freed);
    tcase_add_test(tc, many_threads_keep_little);
#ifndef __SANITIZE_THREAD__     /* whose own part of a thread ends before */
    tcase_add_test(tc, what_a_thread_asks_for_in_its_end_costs_no_heap);
#else
    (void)what_a_thread_asks_for_in_its_end_costs_no_heap;
#endif
    tcase_add_test(tc, the_raw_domain_takes_medium_blocks);
    /* The sanitizers' own malloc says other things, and is not fit for a child of
     * several threads. */
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#  ifndef WITH_RAW_MIMALLOC
    tcase_add_test(tc, an_address_inside_a_medium_block_is_not_one);
#  endif
    tcase_add_native_test(tc, the_child_waits_for_no_thread_that_looks, FORKS_IN_THREADS);
    tcase_add_native_test(tc, the_child_leaves_heaps_of_other_threads_alone,
                          FORKS_IN_THREADS);
#else
#  ifndef WITH_RAW_MIMALLOC
    (void)an_address_inside_a_medium_block_is_not_one;
#  endif
    (void)the_child_waits_for_no_thread_that_looks;
    (void)the_child_leaves_heaps_of_other_threads_alone;
#endif
    suite_add_tcase(suite, tc);
    tc = tcase_create("a variable");        /* read at the first request: no fixture */
    tcase_add_test(tc, medium_requests_can_be_left_to_malloc);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
