/* Objects/growing.c: a block that grows stays where it is, while many grow. */

#define _GNU_SOURCE
#include "support.h"
#include "pycore_arenas.h"
#include "pycore_growing.h"
#include "pycore_poolmap.h"
#include "pycore_pymem.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#define KIB ((size_t)1 << 10)
#define MANY 200

static int
grows_here(const void *ptr)
{
    poolp slot = medium_pool_of(ptr);
    return slot != NULL && is_growing(slot);
}

/* Blocks of malloc grow in turns, so malloc copies them: it is not tried again for long. */
static void
have_malloc_copy(void)
{
    ck_assert_int_eq(_PyMem_SetupAllocators(PYMEM_ALLOCATOR_PYMALLOC), 0);
    char *a = PyMem_RawMalloc(40000), *b = PyMem_RawMalloc(40000), *moved = a;
    for (size_t size = 50000; moved == a; size += 10000) {
        ck_assert_uint_lt(size, 10000000);
        b = PyMem_RawRealloc(b, size);
        moved = PyMem_Realloc(a, size);
    }
    PyMem_RawFree(moved);
    PyMem_RawFree(b);
}

/* A small block that became so large. */
static unsigned char *
grown_to(size_t nbytes)
{
    unsigned char *p = PyMem_Malloc(100);
    fill_pattern(p, 100, 1);
    for (size_t size = 100; size < nbytes; ) {
        size_t larger = size + size / 8 + 16 < nbytes ? size + size / 8 + 16 : nbytes;
        p = PyMem_Realloc(p, larger);
        ck_assert_ptr_nonnull(p);
        ck_assert(has_pattern(p, size, 1));
        fill_pattern(p, larger, 1);
        size = larger;
    }
    return p;
}

/* How much of a slot has not gone back to the system, which gives zeros instead.  Each 4 KiB
 * of the pattern begin with 1. */
static size_t
bytes_left(const unsigned char *p)
{
    size_t n = 0;
    for (size_t i = 0; i < MEDIUM_POOL_SIZE; i += 4 * KIB) {
        n += p[i] != 0;
    }
    return n * 4 * KIB;
}

START_TEST(a_block_stays_while_it_grows)
{
    have_malloc_copy();
    unsigned char *p = grown_to(20 * KIB), *before = p;
    ck_assert(grows_here(p));
    for (size_t size = 20 * KIB; size <= MEDIUM_POOL_SIZE; size += 4 * KIB) {
        p = PyMem_Realloc(p, size);
        ck_assert_ptr_eq(p, before);
    }
    ck_assert(has_pattern(p, 20 * KIB, 1));
    fill_pattern(p, MEDIUM_POOL_SIZE, 1);
    p = PyMem_Realloc(p, MEDIUM_POOL_SIZE + 1);
    ck_assert(!grows_here(p) && !grows_here(before));
    ck_assert(has_pattern(p, MEDIUM_POOL_SIZE, 1));
    PyMem_Free(p);
}
END_TEST

START_TEST(only_what_it_reaches_takes_memory)
{
    static unsigned char *blocks[MANY];
    size_t before = process_size().resident;
    for (size_t i = 0; i < MANY; i++) {
        have_malloc_copy();
        blocks[i] = grown_to(20 * KIB);
        ck_assert(grows_here(blocks[i]));
    }
    size_t taken = process_size().resident - before;
    ck_assert_uint_le(taken, MANY * virtual_whole_pages(20 * KIB) + 4096 * KIB);
    for (size_t i = 0; i < MANY; i++) {
        PyMem_Free(blocks[i]);
    }
}
END_TEST

START_TEST(what_does_not_grow_is_mallocs)
{
    have_malloc_copy();
    void *p = PyMem_Malloc(50 * KIB);
    ck_assert(!grows_here(p));
    PyMem_Free(p);
    ck_assert_ptr_null(growing_malloc(MEDIUM_POOL_SIZE));
}
END_TEST

START_TEST(malloc_keeps_what_it_grows_in_place)
{
    ck_assert_int_eq(_PyMem_SetupAllocators(PYMEM_ALLOCATOR_PYMALLOC), 0);
    unsigned char *p = grown_to(100 * KIB);
    ck_assert(!grows_here(p) && has_pattern(p, 100 * KIB, 1));
    PyMem_Free(p);
}
END_TEST

START_TEST(a_block_that_shrinks_gives_its_pages_back)
{
    have_malloc_copy();
    unsigned char *p = grown_to(100 * KIB);
    ck_assert_ptr_eq(PyMem_Realloc(p, 60 * KIB), p);
    ck_assert_ptr_eq(PyMem_Realloc(p, 20 * KIB), p);
    ck_assert_uint_eq(bytes_left(p), virtual_whole_pages(20 * KIB) < 100 * KIB
                      ? virtual_whole_pages(20 * KIB) : 100 * KIB);
    unsigned char *small = PyMem_Realloc(p, 1000);
    ck_assert(!grows_here(small) && !grows_here(p) && has_pattern(small, 1000, 1));
    PyMem_Free(small);
}
END_TEST

/* In CPython all of these are malloc's. */
START_TEST(the_raw_domain_takes_them)
{
    have_malloc_copy();
    unsigned char *p = grown_to(50 * KIB), *freed = grown_to(50 * KIB);
    unsigned char *moved = PyMem_RawRealloc(p, 90 * KIB);
    ck_assert(!grows_here(moved) && has_pattern(moved, 50 * KIB, 1));
    PyMem_RawFree(moved);
    PyMem_RawFree(freed);
    ck_assert(!grows_here(p) && !grows_here(freed));
}
END_TEST

START_TEST(a_hook_of_the_raw_domain_sees_what_grows)
{
    have_malloc_copy();
    unsigned char *p = grown_to(20 * KIB), *other = grown_to(20 * KIB);
    struct recorder recorder = {.ncalls = 0};
    recorder_install(&recorder, PYMEM_DOMAIN_RAW);
    p = PyMem_Realloc(p, 30 * KIB);
    ck_assert_uint_eq(recorder.ncalls, 1);
    ck_assert(recorder.calls[0].what == 'm' && recorder.calls[0].result == p);
    ck_assert(!grows_here(p) && has_pattern(p, 20 * KIB, 1));
    PyMem_Free(p);
    PyMem_Free(other);
    ck_assert(recorder.calls[1].what == 'f' && recorder.calls[1].ptr == p);
    recorder_remove(&recorder);
    ck_assert(!grows_here(other));
}
END_TEST

START_TEST(each_is_counted_once)
{
    have_malloc_copy();
    Py_ssize_t before = _Py_GetAllocatedBlocks();
    unsigned char *p = grown_to(20 * KIB);
    ck_assert_int_eq(_Py_GetAllocatedBlocks() - before, 1);
    p = PyMem_Realloc(p, 100 * KIB);
    ck_assert_int_eq(_Py_GetAllocatedBlocks() - before, 1);
    p = PyMem_Realloc(p, 300 * KIB);
    ck_assert_int_eq(_Py_GetAllocatedBlocks() - before, 1);
    PyMem_Free(p);
    ck_assert_int_eq(_Py_GetAllocatedBlocks(), before);
}
END_TEST

static size_t
kept_of(unsigned char *const *blocks)
{
    size_t n = 0;
    for (size_t i = 0; i < MANY; i++) {
        n += bytes_left(blocks[i]);
    }
    return n;
}

START_TEST(free_slots_keep_little_and_not_for_long)
{
    have_malloc_copy();
    static unsigned char *blocks[MANY];
    for (size_t i = 0; i < MANY; i++) {
        have_malloc_copy();
        blocks[i] = grown_to(100 * KIB);
        ck_assert(grows_here(blocks[i]));
    }
    ck_assert_uint_ge(kept_of(blocks), MANY * 100 * KIB);
    for (size_t i = 0; i < MANY; i++) {
        PyMem_Free(blocks[i]);
    }
    size_t kept = kept_of(blocks);
    ck_assert(kept > 0 && kept <= arenas_keep() / 4);
    unsigned char *next = grown_to(20 * KIB);
    ck_assert_ptr_eq(next, blocks[MANY - 1]);       /* the one that is in the cache */
    PyMem_Free(next);
    ck_assert_int_ne(growing_tick(), 0);
    usleep(300000);
    heap_tick(&main_heap);
    ck_assert_uint_eq(kept_of(blocks), 0);
    ck_assert_int_eq(growing_tick(), 0);
    next = grown_to(20 * KIB);
    PyMem_Free(next);
    ck_assert_uint_ge(growing_trim(), 20 * KIB);
    ck_assert_uint_eq(kept_of(blocks), 0);
}
END_TEST

static void
free_inside(void *arg)
{
    (void)arg;
    have_malloc_copy();
    unsigned char *p = grown_to(20 * KIB);
    PyMem_Free(p + 64);
}

static void
free_twice(void *arg)
{
    (void)arg;
    have_malloc_copy();
    unsigned char *p = grown_to(20 * KIB);
    PyMem_Free(p);
    PyMem_Free(p);
}

/* Which ends the program, as for a block of malloc. */
START_TEST(what_is_no_block_is_mallocs_to_complain_about)
{
    ck_assert_int_ne(run_child(free_inside, NULL).signal, 0);
    ck_assert_int_ne(run_child(free_twice, NULL).signal, 0);
}
END_TEST

static void
grow_in_child(void *arg)
{
    alarm(60);                  /* a lock that nobody releases */
    unsigned char *p = arg, *more;
    ck_assert(grows_here(p) && has_pattern(p, 20 * KIB, 1));
    ck_assert_ptr_eq(PyMem_Realloc(p, 60 * KIB), p);
    more = grown_to(60 * KIB);
    ck_assert(grows_here(more) && more != p);
    PyMem_Free(p);
    PyMem_Free(more);
}

START_TEST(a_forked_child_goes_on)
{
    have_malloc_copy();
    unsigned char *p = grown_to(20 * KIB);
    struct child child = run_child(grow_in_child, p);
    ck_assert_msg(child.signal == 0 && child.status == 0, "%s", child.text);
    ck_assert(grows_here(p) && has_pattern(p, 20 * KIB, 1));
    PyMem_Free(p);
}
END_TEST

static void
grow_under_a_limit(void *arg)
{
    struct rlimit limit = {RLIM_INFINITY / 2, RLIM_INFINITY / 2};
    (void)arg;
    ck_assert_int_eq(setrlimit(RLIMIT_AS, &limit), 0);
    have_malloc_copy();
    unsigned char *p = grown_to(50 * KIB);
    ck_assert(!grows_here(p) && has_pattern(p, 50 * KIB, 1));
    PyMem_Free(p);
}

static void
grow_in_locked_memory(void *arg)
{
    (void)arg;
    if (mlockall(MCL_CURRENT | MCL_FUTURE) != 0) {
        return;                 /* not for everybody */
    }
    have_malloc_copy();
    unsigned char *p = grown_to(50 * KIB);
    ck_assert(!grows_here(p) && has_pattern(p, 50 * KIB, 1));
    PyMem_Free(p);
}

START_TEST(there_are_none_where_address_space_is_dear)
{
    struct child child = run_child(grow_under_a_limit, NULL);
    ck_assert_msg(child.signal == 0 && child.status == 0, "%s", child.text);
}
END_TEST

START_TEST(there_are_none_in_locked_memory)
{
    struct child child = run_child(grow_in_locked_memory, NULL);
    ck_assert_msg(child.signal == 0 && child.status == 0, "%s", child.text);
}
END_TEST

/* Each thread frees what the one before it grew. */

enum { THREADS = 4, TURNS = 2000 };
static unsigned char *_Atomic handed_on[THREADS];

static void *
grow_and_hand_on(void *number)
{
    size_t me = (size_t)(uintptr_t)number;
    for (size_t i = 0; i < TURNS; i++) {
        size_t nbytes = GROWING_FROM + i * 37 % (80 * KIB);
        unsigned char *p = growing_malloc(nbytes);
        ck_assert_ptr_nonnull(p);
        p[0] = p[nbytes - 1] = (unsigned char)me;
        ck_assert_int_eq(growing_resize(medium_pool_of(p), nbytes + KIB), 1);
        ck_assert(p[0] == (unsigned char)me && p[nbytes - 1] == (unsigned char)me);
        unsigned char *other = atomic_exchange(&handed_on[(me + i) % THREADS], p);
        if (other != NULL) {
            growing_free(medium_pool_of(other));
        }
        if (i % 64 == 0) {
            growing_trim();
        }
    }
    return NULL;
}

START_TEST(threads_share_them)
{
    run_threads(THREADS, grow_and_hand_on);
    for (size_t i = 0; i < THREADS; i++) {
        growing_free(medium_pool_of(handed_on[i]));
    }
    growing_trim();
    ck_assert_int_eq(growing_tick(), 0);
}
END_TEST

/* On 32 bits there are no slots: address space is dear everywhere. */
#define HAS_SLOTS (UINTPTR_MAX > 0xFFFFFFFFu)

static void
add_tests_of_slots(TCase *all)
{
    tcase_add_test(all, a_block_stays_while_it_grows);
    tcase_add_test(all, only_what_it_reaches_takes_memory);
    tcase_add_test(all, a_block_that_shrinks_gives_its_pages_back);
    tcase_add_test(all, the_raw_domain_takes_them);
    tcase_add_test(all, a_hook_of_the_raw_domain_sees_what_grows);
    tcase_add_test(all, free_slots_keep_little_and_not_for_long);
    tcase_add_test(all, what_is_no_block_is_mallocs_to_complain_about);
    tcase_add_test(all, a_forked_child_goes_on);
    tcase_add_native_test(all, there_are_none_where_address_space_is_dear,
                          "the emulator has no limit of address space");
    tcase_add_test(all, there_are_none_in_locked_memory);
    tcase_add_test(all, threads_share_them);
}

int
main(void)
{
    Suite *suite = suite_create("growing");
    TCase *all = tcase_create("all");
    tcase_set_timeout(all, 120);
    suite_add_tcase(suite, all);
    if (HAS_SLOTS) {
        add_tests_of_slots(all);
    }
    tcase_add_test(all, what_does_not_grow_is_mallocs);
    tcase_add_test(all, malloc_keeps_what_it_grows_in_place);
    tcase_add_test(all, each_is_counted_once);
    return run_suite(suite);
}
