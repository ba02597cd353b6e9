/* Objects/keeping.c: which empty arenas and free pools stay, and for how long; and what a
 * request that fails does with them. */

#include "support.h"
#include "pycore_arenas.h"
#include "pycore_keepsize.h"
#include "pycore_pymem.h"
#include "pycore_virtualmem.h"

#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define MIB ((size_t)1 << 20)
#define SMALL (&main_heap.small_arenas)

static void
use_pymalloc(void)
{
    ck_assert_int_eq(_PyMem_SetupAllocators(PYMEM_ALLOCATOR_PYMALLOC), 0);
}

static size_t
resident_bytes(void)
{
    return process_size().resident;
}

/* A list of blocks, through their first words, so that the test itself has none.  (An
 * assertion for each would wait for the process that counts them.) */
static void **
build(size_t nbytes, size_t size)
{
    void **last = NULL;
    for (size_t n = 0; n < nbytes; n += size) {
        void **p = PyObject_Malloc(size);
        if (p == NULL) {
            ck_abort_msg("no memory after %zu bytes", n);
        }
        memset(p, 'x', size);
        *p = last;
        last = p;
    }
    return last;
}

static void
drop(void **last)
{
    while (last != NULL) {
        void **p = last;
        last = *p;
        PyObject_Free(p);
    }
}

static void
peak(size_t nbytes)
{
    drop(build(nbytes, 512));
}

/* How many arenas a peak buys. */
static size_t
peak_buys(size_t nbytes)
{
    size_t bought = SMALL->ntimes_allocated;
    peak(nbytes);
    return SMALL->ntimes_allocated - bought;
}

/* Time that a busy machine gives to others does not count. */
static void
work_for(unsigned milliseconds)
{
    enum { MOST_AT_ONCE = 20 };
    uint64_t worked = 0, before = virtual_clock();
    while (worked < milliseconds) {
        PyObject_Free(PyObject_Malloc(16 + random_below(490)));
        uint64_t now = virtual_clock();
        worked += now - before < MOST_AT_ONCE ? now - before : MOST_AT_ONCE;
        before = now;
    }
}

static size_t
kept_bytes(void)
{
    return SMALL->ncurrent * SMALL->arena_size;
}

/* 2 GiB, or a quarter of the memory of a machine that has less than 8. */
static size_t
large_peak(void)
{
    size_t pages = (size_t)sysconf(_SC_PHYS_PAGES);
    size_t quarter = pages / 4 * (size_t)sysconf(_SC_PAGESIZE);
    return quarter < 2048 * MIB ? quarter : 2048 * MIB;
}

static const size_t sizes[] = {16, 48, 512, 600, 5000, 32768};

START_TEST(of_one_peak_little_stays_though_nothing_is_called_any_more)
{
    size_t before = resident_bytes();
    void **blocks = build(256 * MIB, sizes[_i]);
    ck_assert_uint_ge(resident_bytes() - before, 256 * MIB);
    drop(blocks);
    ck_assert_uint_le(resident_bytes(), before + 16 * MIB + 256 * MIB / 20);
}
END_TEST

START_TEST(of_a_peak_of_gibibytes_too)
{
    size_t before = resident_bytes();
    void **blocks = build(large_peak(), 512);
    ck_assert_uint_ge(resident_bytes() - before, large_peak());
    drop(blocks);
    ck_assert_uint_le(resident_bytes(), before + 16 * MIB + large_peak() / 20);
}
END_TEST

START_TEST(a_small_peak_that_comes_again_finds_its_arenas)
{
    peak(5 * MIB);
    ck_assert_uint_eq(peak_buys(5 * MIB), 0);
}
END_TEST

/* The second time its arenas are bought again, which earns them. */
START_TEST(a_large_one_finds_them_once_it_earned_them)
{
    for (int i = 0; i < 60; i++) {      /* on a busy machine it may have to wait */
        if (peak_buys(100 * MIB) == 0) {
            return;
        }
    }
    ck_abort_msg("each of 60 peaks bought arenas");
}
END_TEST

static void
earn(size_t nbytes)
{
    for (int i = 0; i < 20 && kept_bytes() < nbytes - nbytes / 10; i++) {
        peak(nbytes);
    }
    ck_assert_uint_ge(kept_bytes(), nbytes - nbytes / 10);
}

/* Those that were bought beyond earn nothing. */
START_TEST(an_arena_that_was_given_back_earns_for_one)
{
    peak(20 * MIB);
    size_t nreturned = SMALL->nreturned;
    ck_assert_uint_gt(nreturned, 5);
    void **blocks = build(100 * MIB, 512);
    ck_assert_uint_le(SMALL->earned, nreturned);
    drop(blocks);
}
END_TEST

START_TEST(a_program_that_waits_between_its_peaks_earns_nothing)
{
    for (int i = 0; i < 20; i++) {
        peak(50 * MIB);
        nanosleep(&(struct timespec){0, 1000000}, NULL);
        ck_assert_uint_le(kept_bytes(), 10 * MIB);
    }
    ck_assert_uint_eq(SMALL->earned, 0);
}
END_TEST

START_TEST(what_was_earned_is_lost_with_time)
{
    earn(100 * MIB);
    work_for(900);
    ck_assert_uint_le(kept_bytes(), 2 * MIB);
    ck_assert_uint_eq(SMALL->earned, 0);
    ck_assert_uint_eq(main_heap.to_do & HEAP_KEEPS_ARENAS, 0);
}
END_TEST

START_TEST(what_is_needed_now_and_then_stays)
{
    earn(100 * MIB);
    for (int i = 0; i < 60; i++) {      /* on a busy machine a window may be over */
        work_for(30);
        if (peak_buys(80 * MIB) == 0) {
            return;
        }
    }
    ck_abort_msg("each of 60 peaks bought arenas");
}
END_TEST

START_TEST(no_more_than_256_mib_can_be_earned)
{
    for (int i = 0; i < 6; i++) {
        peak(400 * MIB);
        ck_assert_uint_le(kept_bytes(), (256 + 10) * MIB);
    }
}
END_TEST

/* Beyond 16 MiB the system may take what is kept; whoever takes such an arena again
 * writes to it first. */
START_TEST(what_is_much_is_lent_and_good_again)
{
    earn(100 * MIB);
    if (virtual_is_confined() || SMALL->nlazy == 0) {
        ck_assert_uint_le(SMALL->nempty * ARENA_SIZE, 16 * MIB);
        return;
    }
    ck_assert_uint_lt((SMALL->nempty - SMALL->nlazy) * ARENA_SIZE, 16 * MIB);
    enum { N = 100000 };
    static unsigned char *p[N];
    for (unsigned i = 0; i < N; i++) {
        p[i] = PyObject_Malloc(16 + i % 497);
        fill_pattern(p[i], 16 + i % 497, i);
    }
    for (unsigned i = 0; i < N; i++) {
        ck_assert(has_pattern(p[i], 16 + i % 497, i));
        PyObject_Free(p[i]);
    }
    ck_assert_uint_eq(PyMem_Trim() % ARENA_SIZE, 0);
    ck_assert_uint_eq(SMALL->nlazy, 0);
    ck_assert_uint_eq(SMALL->ncurrent, 0);
}
END_TEST

/* Free pools of arenas that are in use. */

/* One block of each arena stays; the list of them. */
static void **
pin_each_arena(size_t nbytes)
{
    void **last = build(nbytes, 512), **pinned = NULL;
    uintptr_t arena = 0;
    while (last != NULL) {
        void **p = last;
        last = *p;
        if ((uintptr_t)p / ARENA_SIZE != arena) {
            arena = (uintptr_t)p / ARENA_SIZE;
            *p = pinned;
            pinned = p;
        }
        else {
            PyObject_Free(p);
        }
    }
    return pinned;
}

START_TEST(of_arenas_that_cant_go_back_a_part_does)
{
    size_t before = resident_bytes();
    void **pinned = pin_each_arena(64 * MIB);
    size_t rests = resident_bytes() - before;
    ck_assert_uint_ge(SMALL->ncurrent, 63);
    int is_whole_pages = virtual_page_size() <= POOL_SIZE;
    if (is_whole_pages) {                               /* a quarter, and what pins */
        ck_assert_uint_le(rests, 16 * MIB + 4 * MIB);
    }
    work_for(500);
    /* Where huge pages are asked for, the system makes some of what is left, now and then. */
    if (is_whole_pages) {
        ck_assert_uint_le(resident_bytes() - before, 4 * MIB + bytes_in_huge_pages());
    }
    ck_assert_uint_le(SMALL->nresting * POOL_SIZE, MIB);
    drop(pinned);
}
END_TEST

START_TEST(pools_without_memory_are_good_again)
{
    void **pinned = pin_each_arena(32 * MIB);
    ck_assert_uint_gt(PyMem_Trim(), 6 * MIB);
    ck_assert_uint_eq(SMALL->nresting, 0);
    ck_assert_uint_eq(PyMem_Trim(), 0);
    size_t bought = SMALL->ntimes_allocated;
    void **blocks = build(24 * MIB, 512);
    ck_assert_uint_eq(SMALL->ntimes_allocated, bought);
    drop(blocks);
    ck_assert_uint_gt(SMALL->nresting, 0);
    drop(pinned);
}
END_TEST

START_TEST(with_0_free_pools_stay_as_they_are)
{
    setenv("PYMEM_KEEP", "0", 1);
    drop(pin_each_arena(64 * MIB));
    void **pinned = pin_each_arena(64 * MIB);
    work_for(300);
    ck_assert_uint_ge(SMALL->nresting * POOL_SIZE, 60 * MIB);
    drop(pinned);
}
END_TEST

START_TEST(a_heap_that_never_was_large_earns_nothing)
{
    for (int i = 0; i < 20; i++) {
        peak(50 * MIB);
        ck_assert_uint_le(kept_bytes(), 10 * MIB);
    }
}
END_TEST

/* Fewer blocks than a pool has, so that malloc never leaves its fast path by itself. */
START_TEST(whoever_takes_a_block_now_and_then_gives_back_what_is_kept)
{
    peak(32 * MIB);
    ck_assert_uint_ge(kept_bytes(), 6 * MIB);
    for (int i = 0; i < 40; i++) {
        void *p = PyObject_Malloc(100), *q = PyObject_Malloc(100);
        nanosleep(&(struct timespec){0, 20000000}, NULL);
        PyObject_Free(q);
        PyObject_Free(p);
    }
    ck_assert_uint_le(kept_bytes(), 2 * MIB);
}
END_TEST

START_TEST(medium_pools_are_not_kept_for_long)
{
    void **last = NULL;
    for (size_t size = 513; size <= 32768; size += size / 8) {
        void **p = PyMem_Malloc(size);
        *p = last;
        last = p;
    }
    drop(last);
    const struct arena_set *medium = &heap_of_thread->medium_arenas;
    ck_assert_uint_ge(medium->ncurrent, 4);
    for (int i = 0; i < 40; i++) {
        drop(build(256 << 10, 600));
        nanosleep(&(struct timespec){0, 20000000}, NULL);
    }
    ck_assert_uint_le(medium->ncurrent, 1);
}
END_TEST

/* What a set may keep makes no peak higher: it goes where another becomes larger than ever. */

static size_t
resting_bytes(const struct arena_set *set)
{
    return set->nresting * set->pool_size + set->nempty * set->arena_size;
}

START_TEST(what_medium_blocks_left_goes_where_small_ones_need_more_than_ever)
{
    drop(build(4 * MIB, 5000));
    const struct arena_set *medium = &heap_of_thread->medium_arenas;
    ck_assert_uint_ge(resting_bytes(medium), 2 * MIB);
    drop(build(8 * MIB, 512));
    ck_assert_uint_le(resting_bytes(medium), medium->pool_size);
}
END_TEST

START_TEST(what_small_blocks_left_goes_where_medium_ones_need_more_than_ever)
{
    drop(build(8 * MIB, 512));
    ck_assert_uint_ge(resting_bytes(SMALL), 6 * MIB);
    for (size_t nbytes = MIB; nbytes <= 8 * MIB; nbytes += MIB) {
        drop(build(nbytes, 5000));
        drop(build(64 << 10, 512));
    }
    ck_assert_uint_le(resting_bytes(SMALL), 2 * MIB);
    drop(build(4 * MIB, 512));
    for (int i = 0; i < 3; i++) {       /* they made way, and that is over */
        drop(build(64 << 10, 512));
    }
    ck_assert_uint_ge(resting_bytes(SMALL), 3 * MIB);
}
END_TEST

START_TEST(free_pools_in_arenas_that_are_used_make_way_too)
{
    enum { SIZE = 5000, N = 800, APART = 200 };
    void *blocks[N];
    for (int i = 0; i < N; i++) {
        blocks[i] = PyObject_Malloc(SIZE);
    }
    for (int i = 0; i < N; i++) {
        if (i % APART != 0) {
            PyObject_Free(blocks[i]);
        }
    }
    const struct arena_set *medium = &heap_of_thread->medium_arenas;
    ck_assert_uint_ge(medium->nresting * medium->pool_size, 2 * MIB);
    drop(build(8 * MIB, 512));
    ck_assert_uint_le(medium->nresting, 2);
    for (int i = 0; i < N; i += APART) {
        PyObject_Free(blocks[i]);
    }
}
END_TEST

START_TEST(where_a_size_comes_again_nothing_makes_way)
{
    drop(build(8 * MIB, 512));
    drop(build(4 * MIB, 5000));
    const struct arena_set *medium = &heap_of_thread->medium_arenas;
    size_t resting = resting_bytes(medium);
    ck_assert_uint_ge(resting, 2 * MIB);
    arenas_trim(SMALL);
    drop(build(6 * MIB, 512));
    ck_assert_uint_eq(resting_bytes(medium), resting);
}
END_TEST

/* A limit on the address space, so low that only what is kept can serve. */

static void
limit_address_space(size_t bytes_more)
{
    rlim_t limit = (rlim_t)(process_size().total + bytes_more);
    ck_assert_int_eq(setrlimit(RLIMIT_AS, &(struct rlimit){limit, RLIM_INFINITY}), 0);
}

static void *
raw_malloc(size_t size)
{
    return PyMem_RawMalloc(size);
}

static void *
raw_calloc(size_t size)
{
    return PyMem_RawCalloc(1, size);
}

static void *
raw_realloc(size_t size)
{
    return PyMem_RawRealloc(NULL, size);
}

static void *
object_realloc(size_t size)
{
    return PyObject_Realloc(PyObject_Malloc(100), size);
}

static void *(*const requests[])(size_t size) = {
    raw_malloc, raw_calloc, raw_realloc, PyMem_Malloc, PyObject_Malloc, object_realloc,
};

START_TEST(a_request_that_fails_gives_back_what_is_kept)
{
    earn(100 * MIB);
    limit_address_space(2 * MIB);
    char *p = requests[_i](80 * MIB);
    ck_assert_ptr_nonnull(p);
    memset(p, 'x', 80 * MIB);
    ck_assert_uint_le(kept_bytes(), 2 * MIB);
}
END_TEST

START_TEST(medium_blocks_find_what_small_ones_keep)
{
    earn(100 * MIB);
    limit_address_space(2 * MIB);
    drop(build(80 * MIB, 5000));
}
END_TEST

static const int limits[] = {RLIMIT_AS, RLIMIT_DATA};

/* A mapping of an extension could fail for it. */
START_TEST(under_a_limit_nothing_is_earned)
{
    struct rlimit limit = {(rlim_t)(process_size().total + 2048 * MIB), RLIM_INFINITY};
    earn(100 * MIB);
    ck_assert_int_eq(setrlimit(limits[_i], &limit), 0);
    for (int i = 0; i < 10; i++) {
        peak(120 * MIB);
        ck_assert_uint_le(kept_bytes(), 10 * MIB);
        ck_assert_uint_eq(SMALL->earned, 0);
    }
}
END_TEST

START_TEST(a_request_that_nothing_can_serve_still_fails)
{
    earn(100 * MIB);
    ck_assert_ptr_null(PyMem_Malloc(PY_SSIZE_T_MAX));
    ck_assert_ptr_null(PyMem_RawMalloc(PY_SSIZE_T_MAX));
    void *p = PyObject_Malloc(100);
    ck_assert_ptr_nonnull(p);
    PyObject_Free(p);
}
END_TEST

/* PYMEM_KEEP. */

START_TEST(sizes_have_units)
{
    ck_assert_uint_eq(keepsize_parse("0"), 0);
    ck_assert_uint_eq(keepsize_parse("4096"), 4096);
    ck_assert_uint_eq(keepsize_parse("12K"), 12 << 10);
    ck_assert_uint_eq(keepsize_parse("16M"), 16 * MIB);
    ck_assert_uint_eq(keepsize_parse("16m"), 16 * MIB);
    ck_assert_uint_eq(keepsize_parse("1G"), 1024 * MIB);
    const char *const wrong[] = {"", "M", "-1", " 1", "1 M", "16MB", "1.5M", "x",
                                 "99999999999999999999", "99999999999G"};
    for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++) {
        ck_assert_uint_eq(keepsize_parse(wrong[i]), SIZE_MAX);
    }
}
END_TEST

START_TEST(with_0_the_rule_is_cpythons)
{
    setenv("PYMEM_KEEP", "0", 1);
    for (int i = 0; i < 5; i++) {
        peak(50 * MIB);
        ck_assert_uint_le(SMALL->nempty, 1);
    }
}
END_TEST

START_TEST(with_more_more_stays)
{
    setenv("PYMEM_KEEP", "64M", 1);
    peak(100 * MIB);
    ck_assert_uint_ge(kept_bytes(), 50 * MIB);
    ck_assert_uint_le(kept_bytes(), 53 * MIB);
}
END_TEST

static void
take_a_block(void *unused)
{
    (void)unused;
    setenv("PYMEM_KEEP", "much", 1);
    PyObject_Malloc(100);
}

START_TEST(what_is_no_number_is_refused_at_the_first_block)
{
    struct child child = run_child(take_a_block, NULL);
    assert_fatal(child, "PYMEM_KEEP is a number of bytes, perhaps with K, M or G behind it, "
                 "not \"much\"");
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("keeping");
    TCase *tc = tcase_create("keeping");
    tcase_set_timeout(tc, 120);
    tcase_set_tags(tc, "system");
    tcase_add_checked_fixture(tc, use_pymalloc, NULL);
    suite_add_tcase(suite, tc);
    tcase_add_loop_test(tc, of_one_peak_little_stays_though_nothing_is_called_any_more,
                        0, sizeof(sizes) / sizeof(*sizes));
    tcase_add_test(tc, of_a_peak_of_gibibytes_too);
    tcase_add_test(tc, a_small_peak_that_comes_again_finds_its_arenas);
    tcase_add_test(tc, a_large_one_finds_them_once_it_earned_them);
    tcase_add_test(tc, an_arena_that_was_given_back_earns_for_one);
    tcase_add_test(tc, a_program_that_waits_between_its_peaks_earns_nothing);
    tcase_add_test(tc, what_was_earned_is_lost_with_time);
    tcase_add_test(tc, what_is_needed_now_and_then_stays);
    tcase_add_test(tc, no_more_than_256_mib_can_be_earned);
    tcase_add_test(tc, what_is_much_is_lent_and_good_again);
    tcase_add_test(tc, of_arenas_that_cant_go_back_a_part_does);
    tcase_add_test(tc, pools_without_memory_are_good_again);
    tcase_add_test(tc, with_0_free_pools_stay_as_they_are);
    tcase_add_test(tc, a_heap_that_never_was_large_earns_nothing);
    tcase_add_test(tc, whoever_takes_a_block_now_and_then_gives_back_what_is_kept);
    tcase_add_test(tc, medium_pools_are_not_kept_for_long);
    tcase_add_test(tc, what_medium_blocks_left_goes_where_small_ones_need_more_than_ever);
    tcase_add_test(tc, what_small_blocks_left_goes_where_medium_ones_need_more_than_ever);
    tcase_add_test(tc, free_pools_in_arenas_that_are_used_make_way_too);
    tcase_add_test(tc, where_a_size_comes_again_nothing_makes_way);
    /* The sanitizers reserve terabytes, and a limit would be theirs first. */
#if !defined(__SANITIZE_THREAD__) && !defined(__SANITIZE_ADDRESS__)
    tcase_add_loop_test(tc, a_request_that_fails_gives_back_what_is_kept, 0,
                        sizeof(requests) / sizeof(*requests));
    tcase_add_test(tc, medium_blocks_find_what_small_ones_keep);
    tcase_add_loop_test(tc, under_a_limit_nothing_is_earned, 0, 2);
#endif
    tcase_add_test(tc, a_request_that_nothing_can_serve_still_fails);
    tcase_add_test(tc, sizes_have_units);
    tcase_add_test(tc, with_0_the_rule_is_cpythons);
    tcase_add_test(tc, with_more_more_stays);
    tcase_add_test(tc, what_is_no_number_is_refused_at_the_first_block);
    return run_suite(suite);
}
