/* Objects/deadblocks.c: writing into a block after it was freed. */

#include "support.h"
#include "pycore_deadblocks.h"
#include "pycore_pymem.h"

#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

static void
use_debug_hooks(void)
{
    ck_assert_int_eq(_PyMem_SetupAllocators(PYMEM_ALLOCATOR_DEBUG), 0);
}

static const struct family *victim = &families[1];

static void
work(int n)
{
    for (int i = 0; i < n; i++) {
        victim->free(victim->malloc(24));
    }
}

static void
write_after_free(void *offset)
{
    char *p = victim->malloc(40);
    victim->free(p);
    p[*(int *)offset] = 'x';
    work(200);
}

START_TEST(a_write_after_free_is_found_within_some_calls)
{
    victim = &families[_i];
    const int offsets[] = {-16, -1, 0, 7, 39, 47};
    for (int i = 0; i < 6; i++) {
        int offset = offsets[i];
        if (offset < -(int)(2 * sizeof(size_t))
            || offset >= 40 + (int)sizeof(size_t)) {
            continue;
        }
        struct child child = run_child(write_after_free, &offset);
        char text[300];
        snprintf(text, sizeof(text), ": API '%c'\n"
                 "    40 bytes originally requested\n"
                 "    The block was freed, and then written to. Not all of it "
                 "is DEADBYTE (0xdd):\n"
                 "        at p%+d: 0x78 *** OUCH\n\n"
                 "Fatal Python error: _PyMem_DebugRawFree: "
                 "block was written to after free\n", victim->api_id, offset);
        assert_fatal(child, text);
    }
}
END_TEST

static void
write_and_check_all(void *unused)
{
    (void)unused;
    char *p = victim->malloc(40);
    victim->free(p);
    p[3] = 'x';
    dead_blocks_check_all();
}

START_TEST(the_check_of_all_finds_it_at_once)
{
    victim = &families[_i];
    struct child child = run_child(write_and_check_all, NULL);
    assert_fatal(child, "block was written to after free");
}
END_TEST

/* Only malloc looks at a block in turn; free looks at the one that goes. */
static void
write_and_free_others(void *unused)
{
    (void)unused;
    enum { OTHERS = 64 };
    char *p = victim->malloc(40);
    void *others[OTHERS];
    for (int i = 0; i < OTHERS; i++) {
        others[i] = victim->malloc(40);
    }
    victim->free(p);
    p[3] = 'x';
    for (int i = 0; i < OTHERS; i++) {
        victim->free(others[i]);
    }
}

START_TEST(a_block_is_looked_at_when_it_goes)
{
    victim = &families[_i];
    struct child child = run_child(write_and_free_others, NULL);
    assert_fatal(child, "block was written to after free");
}
END_TEST

START_TEST(dead_blocks_come_back_to_their_allocator)
{
    work(100);
    Py_ssize_t before = _Py_GetAllocatedBlocks();
    for (int i = 0; i < 10000; i++) {
        victim = &families[i % 3];
        victim->free(victim->malloc((size_t)i % 3000));
    }
    dead_blocks_check_all();
    Py_ssize_t grown = _Py_GetAllocatedBlocks() - before;
    ck_assert_int_le(grown < 0 ? -grown : grown, 128);
}
END_TEST

/* A tracer frees raw memory of its own while it holds a lock that the raw
 * domain's hooks take: no block of another domain may be freed then. */
START_TEST(a_free_gives_back_blocks_of_its_own_domain_only)
{
    static struct recorder raw;
    for (int i = 0; i < 100; i++) {
        PyMem_Free(PyMem_Malloc(700));      /* held blocks of the raw domain's */
        PyObject_Free(PyObject_Malloc(100));
    }
    recorder_install(&raw, PYMEM_DOMAIN_RAW);
    for (int i = 0; i < 200; i++) {
        PyMem_RawFree(PyMem_RawMalloc(10));
    }
    ck_assert_uint_eq(raw.ncalls, 400);
    recorder_remove(&raw);
}
END_TEST

START_TEST(an_installed_allocator_sees_each_free_at_once)
{
    static struct recorder below;
    const struct family *f = &families[_i];
    _PyMem_SetupAllocators(PYMEM_ALLOCATOR_MALLOC);
    recorder_install(&below, (PyMemAllocatorDomain)_i);
    PyMem_SetupDebugHooks();
    void *p = f->malloc(20);
    ck_assert_uint_eq(below.ncalls, 1);
    f->free(p);
    ck_assert_uint_eq(below.ncalls, 2);
    ck_assert_int_eq(below.calls[1].what, 'f');
}
END_TEST

/* A fork while another thread is in the ring of raw blocks: it is in the parent only. */

static atomic_int stop;

static void *
free_raw_blocks(void *unused)
{
    while (!stop) {
        PyMem_RawFree(PyMem_RawMalloc(900));
    }
    return unused;
}

static void
write_after_free_at_the_end(void *unused)
{
    (void)unused;
    alarm(20);
    char *p = PyMem_RawMalloc(40);
    PyMem_RawFree(p);
    p[7] = 'x';
    dead_blocks_check_all();
}

START_TEST(a_fork_leaves_no_ring_busy)
{
    pthread_t threads[2];
    for (int i = 0; i < 2; i++) {
        ck_assert_int_eq(pthread_create(&threads[i], NULL, free_raw_blocks, NULL), 0);
    }
    for (int i = 0; i < 50; i++) {
        struct child child = run_child(write_after_free_at_the_end, NULL);
        assert_fatal(child, "block was written to after free");
    }
    stop = 1;
    for (int i = 0; i < 2; i++) {
        pthread_join(threads[i], NULL);
    }
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("deadblocks");
    TCase *tc = tcase_create("deadblocks");
    tcase_set_timeout(tc, 60);
    tcase_add_checked_fixture(tc, use_debug_hooks, NULL);
    suite_add_tcase(suite, tc);
    tcase_add_loop_test(tc, a_write_after_free_is_found_within_some_calls, 0, 3);
    tcase_add_loop_test(tc, the_check_of_all_finds_it_at_once, 0, 3);
    tcase_add_loop_test(tc, a_block_is_looked_at_when_it_goes, 0, 3);
    tcase_add_test(tc, dead_blocks_come_back_to_their_allocator);
    tcase_add_test(tc, a_free_gives_back_blocks_of_its_own_domain_only);
    tcase_add_loop_test(tc, an_installed_allocator_sees_each_free_at_once, 0, 3);
    /* The sanitizers' own malloc is not fit for a child of several threads. */
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    tcase_add_test(tc, a_fork_leaves_no_ring_busy);
#else
    (void)a_fork_leaves_no_ring_busy;
#endif
    return run_suite(suite);
}
