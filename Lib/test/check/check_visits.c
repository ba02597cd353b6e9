/* Objects/heaps.c: heaps of threads that wait, which others visit. */

#include "support.h"
#include "pycore_arenas.h"
#include "pycore_pymalloc.h"
#include "pycore_pools.h"
#include "pycore_virtualmem.h"
#include "pymemheap.h"

#include <pthread.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

/* Without the system's help nobody visits. */
static int can_visit;

static void
use_pymalloc(void)
{
    _PyMem_SetupAllocators(PYMEM_ALLOCATOR_PYMALLOC);
    can_visit = virtual_barrier() == 0 && pymalloc_choose_medium() && medium_span != 0;
}

static size_t
medium_arenas(void)
{
    PyMemHeapFigures figures;
    PyMemHeap_GetFigures(&figures);
    return figures.medium_arenas_current;
}

/* A thread that has blocks and then waits, until it is to look at what it kept. */

enum { BYTES = 64 << 20 };
static struct waiting {
    pthread_barrier_t has_blocks, may_go_on;
    size_t size, nblocks;
    void **blocks;
    void *kept;
    int frees_itself;
} waiting;

static void *
have_blocks_and_wait(void *unused)
{
    (void)unused;
    for (size_t i = 0; i < waiting.nblocks; i++) {
        waiting.blocks[i] = PyMem_Malloc(waiting.size);
        memset(waiting.blocks[i], 1, 64);
    }
    waiting.kept = PyMem_Malloc(waiting.size);
    fill_pattern(waiting.kept, waiting.size, 7);
    for (size_t i = 0; waiting.frees_itself && i < waiting.nblocks; i++) {
        PyMem_Free(waiting.blocks[i]);
    }
    pthread_barrier_wait(&waiting.has_blocks);
    pthread_barrier_wait(&waiting.may_go_on);
    void *more = PyMem_Malloc(waiting.size);
    memset(more, 1, waiting.size);
    ck_assert(has_pattern(waiting.kept, waiting.size, 7));
    PyMem_Free(more);
    PyMem_Free(waiting.kept);
    return NULL;
}

static pthread_t
waiting_begin(size_t size, int frees_itself)
{
    pthread_t thread;
    waiting.size = size;
    waiting.nblocks = BYTES / size;
    waiting.blocks = calloc(waiting.nblocks, sizeof(void *));
    waiting.frees_itself = frees_itself;
    pthread_barrier_init(&waiting.has_blocks, NULL, 2);
    pthread_barrier_init(&waiting.may_go_on, NULL, 2);
    ck_assert_int_eq(pthread_create(&thread, NULL, have_blocks_and_wait, NULL), 0);
    pthread_barrier_wait(&waiting.has_blocks);
    return thread;
}

static void
waiting_end(pthread_t thread)
{
    pthread_barrier_wait(&waiting.may_go_on);
    pthread_join(thread, NULL);
    free(waiting.blocks);
}

START_TEST(what_others_free_goes_back_while_the_owner_waits)
{
    const size_t sizes[] = {600, 3000, 9000, 32000};
    size_t before = medium_arenas();
    pthread_t thread = waiting_begin(sizes[_i], 0);
    size_t peak = medium_arenas();
    for (size_t i = 0; i < waiting.nblocks; i++) {
        PyMem_Free(waiting.blocks[i]);
    }
    if (can_visit) {
        ck_assert_uint_gt(peak, before + 50);
        ck_assert_uint_le(medium_arenas(), before + 6);
    }
    waiting_end(thread);
}
END_TEST

START_TEST(trim_reaches_the_heap_of_a_thread_that_waits)
{
    size_t before = medium_arenas();
    pthread_t thread = waiting_begin(3000, 1);
    ck_assert(!can_visit || PyMem_Trim() > 0);
    ck_assert(!can_visit || medium_arenas() <= before + 1);     /* that of the kept one */
    waiting_end(thread);
}
END_TEST

/* Threads that hand their blocks to each other and never wait for long. */

enum { THREADS = 6, SLOTS = 512, TURNS = 20000 };
static struct { _Atomic(unsigned char *) block; } slots[SLOTS];

static unsigned
next_random(unsigned *state)
{
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

static void *
hand_blocks_on(void *number)
{
    unsigned state = (unsigned)(uintptr_t)number;
    for (int turn = 0; turn < TURNS; turn++) {
        size_t size = 600 + next_random(&state) % 20000;
        unsigned char *mine = PyMem_Malloc(size);
        mine[0] = mine[size - 1] = (unsigned char)size;
        memcpy(mine + 8, &size, sizeof(size));
        unsigned slot = next_random(&state) % SLOTS;
        unsigned char *other = atomic_exchange(&slots[slot].block, mine);
        if (other != NULL) {
            memcpy(&size, other + 8, sizeof(size));
            ck_assert_int_eq(other[0], (unsigned char)size);
            ck_assert_int_eq(other[size - 1], (unsigned char)size);
            PyMem_Free(other);
        }
    }
    return NULL;
}

static atomic_int is_over;

/* With pauses, in which the owners come to work: a mutex is not fair. */
static void *
trim_now_and_then(void *unused)
{
    (void)unused;
    while (!is_over) {
        heaps_trim_idle();
        usleep(100);
    }
    return NULL;
}

START_TEST(owners_and_visitors_do_not_meet)
{
    pthread_t threads[THREADS], trimmer;
    is_over = 0;
    pthread_create(&trimmer, NULL, trim_now_and_then, NULL);
    for (uintptr_t i = 0; i < THREADS; i++) {
        pthread_create(&threads[i], NULL, hand_blocks_on, (void *)(i + 1));
    }
    for (size_t i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
    is_over = 1;
    pthread_join(trimmer, NULL);
    Py_ssize_t before = _Py_GetAllocatedBlocks();
    Py_ssize_t nblocks = 0;
    for (size_t i = 0; i < SLOTS; i++) {
        nblocks += slots[i].block != NULL;
        PyMem_Free(slots[i].block);
    }
    ck_assert_int_eq(before - _Py_GetAllocatedBlocks(), nblocks);
}
END_TEST

/* A fork waits until a visit is over, so that the child's own heap is whole. */
START_TEST(a_child_has_no_visitor)
{
    pthread_t trimmer;
    is_over = 0;
    pthread_create(&trimmer, NULL, trim_now_and_then, NULL);
    for (int turn = 0; turn < 50; turn++) {
        void *mine = PyMem_Malloc(3000 + (size_t)turn);
        pid_t pid = fork();
        if (pid == 0) {
            for (size_t i = 0; i < 100; i++) {
                PyMem_Free(PyMem_Malloc(600 + 100 * i));
            }
            PyMem_Free(mine);
            _exit(heap_of_thread->is_visited || heap_of_thread->owner_is_in);
        }
        int status;
        ck_assert_int_eq(waitpid(pid, &status, 0), pid);
        ck_assert_int_eq(status, 0);
        PyMem_Free(mine);
    }
    is_over = 1;
    pthread_join(trimmer, NULL);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("visits");
    TCase *tc = tcase_create("all");
    tcase_add_checked_fixture(tc, use_pymalloc, NULL);
    tcase_set_timeout(tc, 120);
    tcase_add_loop_test(tc, what_others_free_goes_back_while_the_owner_waits, 0, 4);
    tcase_add_test(tc, trim_reaches_the_heap_of_a_thread_that_waits);
    tcase_add_test(tc, owners_and_visitors_do_not_meet);
#ifndef __SANITIZE_THREAD__
    tcase_add_native_test(tc, a_child_has_no_visitor, FORKS_IN_THREADS);
#else
    (void)a_child_has_no_visitor;
#endif
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
