/* What threads may do: the raw domain from all of them at once, blocks that one
 * allocates and another frees, statistics meanwhile, forks in the middle, and
 * hooks that come and go while the others are idle.  The mem and object domains
 * are for whoever holds the GIL of an interpreter; here each thread stands for one. */

#include "support.h"
#include "pycore_pymem.h"
#ifdef WITH_PYMALLOC
#  include "pycore_heap.h"
#endif

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { THREADS = 8, ROUNDS = 8000, SLOTS = 256 };

static void *_Atomic slots[SLOTS];
static atomic_int faults, stop;

/* Each thread is an interpreter with a GIL of its own, so it has a heap of its own. */
#ifdef WITH_PYMALLOC
static pthread_t main_thread;
static _Thread_local struct heap *own_heap;

static struct heap *
own_heap_of_thread(void)
{
    if (own_heap == NULL) {
        own_heap = pthread_equal(pthread_self(), main_thread) ? &main_heap
            : heap_new((int64_t)pthread_self());
    }
    return own_heap;
}

static void
one_heap_a_thread(void)
{
    main_thread = pthread_self();
    _PyMem_AskForHeap(own_heap_of_thread);
}

static void
end_own_heap(void)
{
    if (own_heap != NULL) {
        heap_end(own_heap);
        own_heap = NULL;
    }
}
#else
static void one_heap_a_thread(void) {}
static void end_own_heap(void) {}
#endif

/* A block says how long it is, so that whoever takes it can look at it all. */
struct message {
    size_t size;
    unsigned seed;
    unsigned char text[];
};

static struct message *
new_message(const struct family *family, unsigned random)
{
    size_t size = random % 8 == 0 ? random % 20000 : random % 600;
    struct message *message = family->malloc(sizeof(*message) + size);
    message->size = size;
    message->seed = random;
    fill_pattern(message->text, size, random);
    return message;
}

static void
open_message(const struct family *family, struct message *message)
{
    if (message != NULL) {
        if (!has_pattern(message->text, message->size, message->seed)) {
            faults++;
        }
        family->free(message);
    }
}

static unsigned
next_random(unsigned *state)
{
    *state = *state * 1103515245u + 12345u;
    return *state >> 8;
}

/* Each thread puts its blocks where any other takes them. */
static void
pass_messages(const struct family *family, unsigned *state)
{
    unsigned random = next_random(state);
    struct message *message = new_message(family, random);
    if (random % 5 == 0) {
        size_t size = message->size / 2;
        message = family->realloc(message, sizeof(*message) + size);
        message->size = size;
    }
    open_message(family, atomic_exchange(&slots[random % SLOTS], message));
}

/* What all threads use at once. */
static const struct family *used = &families[PYMEM_DOMAIN_RAW];

static void *
worker(void *arg)
{
    unsigned state = (unsigned)(uintptr_t)arg;
    for (int i = 0; i < ROUNDS; i++) {
        pass_messages(used, &state);
    }
    end_own_heap();
    return NULL;
}

static void
empty_slots(const struct family *family)
{
    for (int i = 0; i < SLOTS; i++) {
        open_message(family, atomic_exchange(&slots[i], NULL));
    }
}

static void
start_threads(pthread_t *threads, void *(*function)(void *))
{
    for (uintptr_t i = 0; i < THREADS; i++) {
        ck_assert_int_eq(pthread_create(&threads[i], NULL, function,
                                        (void *)(i + 1)), 0);
    }
}

static void
join_threads(pthread_t *threads)
{
    for (int i = 0; i < THREADS; i++) {
        ck_assert_int_eq(pthread_join(threads[i], NULL), 0);
    }
}

/* As it is, with debug hooks, and traced; and the same again with object blocks in
 * place of raw ones, in heaps of the threads.  (Without pymalloc all of it is malloc's.) */
enum { PLAIN, DEBUG, TRACED, NWAYS, NSHARED = 2 * NWAYS };

static void
prepare(int way)
{
    if (way >= NWAYS) {
        one_heap_a_thread();
        used = &families[PYMEM_DOMAIN_OBJ];
    }
    if (way % NWAYS == DEBUG) {
        PyMem_SetupDebugHooks();
    }
    else if (way % NWAYS == TRACED) {
        ck_assert_int_eq(_PyTraceMalloc_Start(4), 0);
    }
}

START_TEST(blocks_cross_threads)
{
    prepare(_i);
    pthread_t threads[THREADS];
    start_threads(threads, worker);
    join_threads(threads);
    empty_slots(used);
    ck_assert_int_eq(faults, 0);
    if (_i % NWAYS == TRACED) {
        size_t current, peak;
        _PyTraceMalloc_GetTracedMemory(&current, &peak);
        ck_assert_uint_eq(current, 0);
        ck_assert_uint_gt(peak, 0);
    }
}
END_TEST

/* The other domains, each call with the GIL. */

static void *
locked_worker(void *arg)
{
    unsigned state = (unsigned)(uintptr_t)arg;
    for (int i = 0; i < ROUNDS; i++) {
        PyGILState_STATE before = PyGILState_Ensure();
        pass_messages(&families[PYMEM_DOMAIN_OBJ], &state);
        PyGILState_Release(before);
    }
    return NULL;
}

START_TEST(locked_blocks_cross_threads)
{
    int holds_back = _i == DEBUG || _PyMem_HasDebugHooks(PYMEM_DOMAIN_OBJ);
    prepare(_i);
    Py_ssize_t before = _Py_GetAllocatedBlocks();
    pthread_t threads[THREADS];
    start_threads(threads, locked_worker);
    join_threads(threads);
    PyGILState_STATE state = PyGILState_Ensure();
    empty_slots(&families[PYMEM_DOMAIN_OBJ]);
    PyGILState_Release(state);
    ck_assert_int_eq(faults, 0);
    Py_ssize_t left = _Py_GetAllocatedBlocks() - before;
    ck_assert_int_le(left, holds_back ? 128 : 0);   /* by debug hooks */
    ck_assert_int_ge(left, 0);
}
END_TEST

/* Statistics, from a thread that does not hold the lock: text and figures may
 * be of different moments, but everything stays whole. */

static void *
reader(void *arg)
{
    FILE *out = arg;
    while (!stop) {
        rewind(out);
        _PyObject_DebugMallocStats(out);
        size_t current, peak;
        _PyTraceMalloc_GetTracedMemory(&current, &peak);
        if (_Py_GetAllocatedBlocks() < 0 || current > peak) {
            faults++;
        }
    }
    return NULL;
}

START_TEST(statistics_while_allocating)
{
    FILE *out = tmpfile();
    ck_assert_ptr_nonnull(out);
    prepare(_i);
    pthread_t threads[THREADS], other;
    ck_assert_int_eq(pthread_create(&other, NULL, reader, out), 0);
    start_threads(threads, worker);
    join_threads(threads);
    stop = 1;
    pthread_join(other, NULL);
    empty_slots(used);
    ck_assert_int_eq(faults, 0);
    fclose(out);
}
END_TEST

/* The child of a fork has one thread and memory that others were changing. */

static void *
endless_worker(void *arg)
{
    unsigned state = (unsigned)(uintptr_t)arg;
    while (!stop) {
        pass_messages(used, &state);
    }
    end_own_heap();
    return NULL;
}

static void
work_in_child(void *unused)
{
    (void)unused;
    alarm(20);                  /* a lock that stays taken ends here */
    unsigned state = 99;
    for (int i = 0; i < 3000; i++) {
        unsigned random = next_random(&state);
        for (int domain = 0; domain < 3; domain++) {
            const struct family *family = &families[domain];
            open_message(family, new_message(family, random));
        }
    }
    _exit(faults != 0);
}

START_TEST(fork_while_others_allocate)
{
    prepare(_i);
    pthread_t threads[THREADS];
    start_threads(threads, endless_worker);
    for (int i = 0; i < 10; i++) {
        struct child child = run_child(work_in_child, NULL);
        ck_assert_int_eq(child.signal, 0);
        ck_assert_int_eq(child.status, 0);
    }
    stop = 1;
    join_threads(threads);
    empty_slots(used);
    ck_assert_int_eq(faults, 0);
}
END_TEST

/* Hooks come and go while nobody is inside. */

static pthread_barrier_t barrier;

static void *
worker_with_pauses(void *arg)
{
    unsigned state = (unsigned)(uintptr_t)arg;
    for (int pause = 0; pause < 40; pause++) {
        for (int i = 0; i < ROUNDS / 40; i++) {
            pass_messages(used, &state);
        }
        pthread_barrier_wait(&barrier);     /* all are idle ... */
        pthread_barrier_wait(&barrier);     /* ... and go on */
    }
    return NULL;
}

static atomic_long nhooked;
static PyMemAllocatorEx below;

static void *
counting_malloc(void *ctx, size_t size)
{
    nhooked++;
    return below.malloc(ctx, size);
}

/* A request that is not small goes on to the raw domain, and a hook there may come
 * back. */
static void *
malloc_that_comes_back(void *ctx, size_t size)
{
    PyMem_Free(PyMem_Malloc(size % 500 + 1));
    return below.malloc(ctx, size);
}

START_TEST(raw_hooks_may_use_the_heap)
{
    prepare(NWAYS + PLAIN);
    PyMem_GetAllocator(PYMEM_DOMAIN_RAW, &below);
    PyMemAllocatorEx hook = below;
    hook.malloc = malloc_that_comes_back;
    PyMem_SetAllocator(PYMEM_DOMAIN_RAW, &hook);
    pthread_t threads[THREADS];
    start_threads(threads, worker);
    join_threads(threads);
    empty_slots(used);
    PyMem_SetAllocator(PYMEM_DOMAIN_RAW, &below);
    ck_assert_int_eq(faults, 0);
}
END_TEST

START_TEST(several_heaps_are_the_same_allocator)
{
    Py_ssize_t before = _Py_GetAllocatedBlocks();
    const char *name = _PyMem_GetCurrentAllocatorName();
    void *p = PyObject_Malloc(40);
    one_heap_a_thread();
    one_heap_a_thread();
    ck_assert_str_eq(_PyMem_GetCurrentAllocatorName(), name);
    void *q = PyMem_Calloc(10, 40);
    ck_assert(is_filled(q, 400, 0));
    p = PyObject_Realloc(p, 4000);
    q = PyMem_Realloc(q, 20);
    ck_assert_ptr_null(PyMem_Malloc((size_t)PY_SSIZE_T_MAX + 1));
    PyMem_Free(NULL);
    PyObject_Free(p);
    PyMem_Free(q);
    ck_assert_int_ge(_Py_GetAllocatedBlocks(), before);
    PyMem_Trim();
}
END_TEST

START_TEST(hooks_swapped_while_idle)
{
    PyMem_GetAllocator(PYMEM_DOMAIN_RAW, &below);
    PyMemAllocatorEx hook = below;
    hook.malloc = counting_malloc;
    pthread_barrier_init(&barrier, NULL, THREADS + 1);
    pthread_t threads[THREADS];
    start_threads(threads, worker_with_pauses);
    long nexpected = 0;
    for (int pause = 0; pause < 40; pause++) {
        pthread_barrier_wait(&barrier);
        ck_assert_int_eq(nhooked, nexpected);
        PyMem_SetAllocator(PYMEM_DOMAIN_RAW, pause % 2 ? &below : &hook);
        nexpected += pause % 2 || pause == 39 ? 0 : THREADS * (ROUNDS / 40);
        pthread_barrier_wait(&barrier);
    }
    join_threads(threads);
    PyMem_SetAllocator(PYMEM_DOMAIN_RAW, &below);
    empty_slots(used);
    ck_assert_int_eq(faults, 0);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("threads");
    TCase *tcase = tcase_create("threads");
    tcase_set_timeout(tcase, 120);
    tcase_add_loop_test(tcase, blocks_cross_threads, 0, NSHARED);
    tcase_add_loop_test(tcase, locked_blocks_cross_threads, 0, NWAYS);
    tcase_add_loop_test(tcase, statistics_while_allocating, 0, NSHARED);
    /* The sanitizers' own malloc is not fit for a child of several threads. */
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    tcase_add_native_loop_test(tcase, fork_while_others_allocate, 0, NSHARED,
                               FORKS_IN_THREADS);
#else
    (void)fork_while_others_allocate;
#endif
    tcase_add_test(tcase, hooks_swapped_while_idle);
    tcase_add_test(tcase, raw_hooks_may_use_the_heap);
    tcase_add_test(tcase, several_heaps_are_the_same_allocator);
    suite_add_tcase(suite, tcase);
    return run_suite(suite);
}
