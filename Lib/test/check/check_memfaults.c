/* Python/memfaults.c: requests that fail when they are told to. */

#include "support.h"
#include "pymemfaults.h"
#include "tracemalloc.h"

#include <pthread.h>

/* Debug hooks, in a --with-pydebug build, are below: sizes are the caller's. */

static PyMemFaultsCounts
counts_of(PyMemAllocatorDomain domain)
{
    PyMemFaultsCounts counts;
    ck_assert_int_eq(PyMemFaults_Count(domain, &counts), 0);
    return counts;
}

static void
start(PyMemAllocatorDomain domain, PyMemFaults faults)
{
    ck_assert_int_eq(PyMemFaults_Start(domain, &faults), 0);
}

START_TEST(requests_fail_by_number)
{
    const struct family *family = &families[_i];
    start(_i, (PyMemFaults){.fail_from = 3, .fail_count = 2});
    void *p[6];
    for (int i = 0; i < 6; i++) {
        p[i] = i % 2 ? family->malloc(10) : family->calloc(2, 5);
        ck_assert_int_eq(p[i] == NULL, i == 2 || i == 3);
    }
    PyMemFaultsCounts counts = counts_of(_i);
    ck_assert_uint_eq(counts.requests, 6);
    ck_assert_uint_eq(counts.failed, 2);
    ck_assert_uint_eq(counts.blocks, 4);
    ck_assert_uint_eq(counts.bytes, 40);
    for (int i = 0; i < 6; i++) {
        family->free(p[i]);
    }
    counts = counts_of(_i);
    ck_assert_uint_eq(counts.frees, 4);
    ck_assert_uint_eq(counts.blocks, 0);
    ck_assert_uint_eq(counts.bytes, 0);
    ck_assert_uint_eq(counts.peak_bytes, 40);
    ck_assert_int_eq(PyMemFaults_Stop(_i), 0);
    start(_i, (PyMemFaults){.fail_from = 2});
    p[0] = family->malloc(1);
    for (int i = 0; i < 10; i++) {
        ck_assert_ptr_null(family->malloc(1));
    }
    ck_assert_int_eq(PyMemFaults_Stop(_i), 0);
    family->free(p[0]);
}
END_TEST

START_TEST(a_realloc_that_fails_changes_nothing)
{
    const struct family *family = &families[_i];
    start(_i, (PyMemFaults){.fail_from = 2, .fail_count = 1});
    void *p = family->malloc(100);
    fill_pattern(p, 100, 5);
    ck_assert_ptr_null(family->realloc(p, 5000));
    ck_assert(has_pattern(p, 100, 5));
    ck_assert_uint_eq(counts_of(_i).bytes, 100);
    p = family->realloc(p, 5000);
    ck_assert(has_pattern(p, 100, 5));
    ck_assert_uint_eq(counts_of(_i).bytes, 5000);
    p = family->realloc(p, 7);
    PyMemFaultsCounts counts = counts_of(_i);
    ck_assert_uint_eq(counts.bytes, 7);
    ck_assert_uint_eq(counts.blocks, 1);
    ck_assert_uint_eq(counts.peak_bytes, 5000);
    ck_assert_uint_eq(counts.requests, 4);
    family->free(p);
    ck_assert_int_eq(PyMemFaults_Stop(_i), 0);
}
END_TEST

/* The allocator below has no memory: counted as well, and the block stays known. */
START_TEST(real_failures_count)
{
    static struct recorder recorder;
    recorder_install(&recorder, PYMEM_DOMAIN_MEM);
    start(PYMEM_DOMAIN_MEM, (PyMemFaults){0});
    void *p = PyMem_Malloc(50);
    recorder.fail_at = (long)recorder.ncalls + 1;
    recorder.fail_on = 1;
    ck_assert_ptr_null(PyMem_Malloc(50));
    ck_assert_ptr_null(PyMem_Realloc(p, 500));
    PyMemFaultsCounts counts = counts_of(PYMEM_DOMAIN_MEM);
    ck_assert_uint_eq(counts.failed, 2);
    ck_assert_uint_eq(counts.blocks, 1);
    ck_assert_uint_eq(counts.bytes, 50);
    PyMem_Free(p);
    ck_assert_uint_eq(counts_of(PYMEM_DOMAIN_MEM).blocks, 0);
    ck_assert_int_eq(PyMemFaults_Stop(PYMEM_DOMAIN_MEM), 0);
    recorder_remove(&recorder);
}
END_TEST

START_TEST(blocks_of_before_and_after)
{
    const struct family *family = &families[_i];
    void *old = family->malloc(30), *moved = family->malloc(30);
    start(_i, (PyMemFaults){0});
    void *made = family->malloc(40);
    family->free(old);
    moved = family->realloc(moved, 3000);
    PyMemFaultsCounts counts = counts_of(_i);
    ck_assert_uint_eq(counts.blocks, 2);        /* what realloc gave is a new one */
    ck_assert_uint_eq(counts.bytes, 3040);
    ck_assert_int_eq(PyMemFaults_Stop(_i), 0);
    family->free(made);
    family->free(moved);
}
END_TEST

START_TEST(a_quota_limits_what_is_in_use)
{
    start(PYMEM_DOMAIN_OBJ, (PyMemFaults){.quota = 1000});
    void *a = PyObject_Malloc(600);
    ck_assert_ptr_nonnull(a);
    ck_assert_ptr_null(PyObject_Malloc(401));
    void *b = PyObject_Malloc(400);
    ck_assert_ptr_nonnull(b);
    ck_assert_ptr_null(PyObject_Malloc(1));
    ck_assert_ptr_null(PyObject_Realloc(b, 401));
    a = PyObject_Realloc(a, 100);
    b = PyObject_Realloc(b, 900);
    ck_assert(a != NULL && b != NULL);
    ck_assert_ptr_null(PyObject_Calloc(1, 1));
    ck_assert_ptr_null(PyObject_Malloc((size_t)PY_SSIZE_T_MAX));
    PyObject_Free(b);
    b = PyObject_Malloc(900);
    ck_assert_ptr_nonnull(b);
    PyObject_Free(a);
    PyObject_Free(b);
    ck_assert_uint_eq(counts_of(PYMEM_DOMAIN_OBJ).peak_bytes, 1000);
    ck_assert_int_eq(PyMemFaults_Stop(PYMEM_DOMAIN_OBJ), 0);
}
END_TEST

/* Which of n requests fail, as a number for a seed. */
static size_t
failures(double share, unsigned long long seed, uint64_t *which)
{
    start(PYMEM_DOMAIN_RAW, (PyMemFaults){.fail_share = share, .seed = seed});
    for (int i = 0; i < 10000; i++) {
        void *p = PyMem_RawMalloc(8);
        *which = *which * 31 + (p == NULL);
        PyMem_RawFree(p);
    }
    size_t failed = counts_of(PYMEM_DOMAIN_RAW).failed;
    ck_assert_int_eq(PyMemFaults_Stop(PYMEM_DOMAIN_RAW), 0);
    return failed;
}

START_TEST(a_share_fails_at_random)
{
    uint64_t first = 0, again = 0, other = 0, none = 0;
    size_t n = failures(0.1, 42, &first);
    ck_assert_uint_gt(n, 900);
    ck_assert_uint_lt(n, 1100);
    ck_assert_uint_eq(failures(0.1, 42, &again), n);
    ck_assert(first == again);
    failures(0.1, 43, &other);
    ck_assert(first != other);
    ck_assert_uint_eq(failures(0, 1, &none), 0);
    ck_assert_uint_eq(failures(1, 1, &none), 10000);
}
END_TEST

static void
assert_error(int result, PyObject *type, const char *text)
{
    ck_assert_int_eq(result, -1);
    ck_assert_ptr_eq(PyErr_Occurred(), type);
    ck_assert_msg(strstr(_PyErr_Text(), text) != NULL, "%s", _PyErr_Text());
    PyErr_Clear();
}

START_TEST(bad_arguments_are_named)
{
    PyMemFaults none = {0}, share = {.fail_share = 1.01}, count = {.fail_count = 1};
    PyMemFaults negative = {.fail_share = -0.5};
    PyMemFaultsCounts counts;
    assert_error(PyMemFaults_Start(7, &none), PyExc_ValueError, "there is no domain 7");
    assert_error(PyMemFaults_Stop(-1), PyExc_ValueError, "there is no domain -1");
    assert_error(PyMemFaults_Start(0, &share), PyExc_ValueError, "from 0 to 1");
    assert_error(PyMemFaults_Start(0, &negative), PyExc_ValueError, "from 0 to 1");
    assert_error(PyMemFaults_Start(1, &count), PyExc_ValueError, "needs a fail_from");
    assert_error(PyMemFaults_Stop(1), PyExc_RuntimeError,
                 "faults of the mem domain were not started");
    assert_error(PyMemFaults_Count(2, &counts), PyExc_RuntimeError, "object domain");
    assert_error((int)PyMemFaults_Report(0, stderr), PyExc_RuntimeError, "raw domain");
    start(PYMEM_DOMAIN_MEM, none);
    assert_error(PyMemFaults_Start(PYMEM_DOMAIN_MEM, &none), PyExc_RuntimeError,
                 "started already");
    static struct recorder recorder;
    recorder_install(&recorder, PYMEM_DOMAIN_MEM);
    assert_error(PyMemFaults_Stop(PYMEM_DOMAIN_MEM), PyExc_RuntimeError,
                 "another allocator was set over the faults of the mem domain");
    recorder_remove(&recorder);
    ck_assert_int_eq(PyMemFaults_Stop(PYMEM_DOMAIN_MEM), 0);
}
END_TEST

static void *leak;

static void
leak_a_block(void)
{
    leak = PyMem_Malloc(1234);
}

START_TEST(a_report_says_what_is_left_and_from_where)
{
    FILE *out = tmpfile();
    ck_assert_int_eq(_PyTraceMalloc_Start(8), 0);
    start(PYMEM_DOMAIN_MEM, (PyMemFaults){0});
    leak_a_block();
    void *other = PyMem_Malloc(10);
    PyMem_Free(other);
    ck_assert_int_eq(PyMemFaults_Report(PYMEM_DOMAIN_MEM, out), 1);
    rewind(out);
    char text[4096] = "";
    ck_assert_uint_gt(fread(text, 1, sizeof(text) - 1, out), 0);
    char expected[100];
    snprintf(expected, sizeof(expected), "mem domain: 1 blocks of 1234 bytes are not "
             "freed\n%p: 1234 bytes\n", leak);
    ck_assert_msg(strncmp(text, expected, strlen(expected)) == 0, "%s", text);
    ck_assert_ptr_nonnull(strstr(text, "Memory block allocated at"));
    PyMem_Free(leak);
    ck_assert_int_eq(PyMemFaults_Report(PYMEM_DOMAIN_MEM, out), 0);
    ck_assert_int_eq(PyMemFaults_Stop(PYMEM_DOMAIN_MEM), 0);
    fclose(out);
}
END_TEST

static int
visit_two(void *arg, void *ptr, size_t size)
{
    (void)ptr;
    size_t *sum = arg;
    *sum += size;
    return *sum >= 20 ? 7 : 0;
}

START_TEST(a_visit_ends_when_it_is_told_to)
{
    start(PYMEM_DOMAIN_OBJ, (PyMemFaults){0});
    void *p[5];
    for (int i = 0; i < 5; i++) {
        p[i] = PyObject_Malloc(10);
    }
    size_t sum = 0;
    ck_assert_int_eq(PyMemFaults_Visit(PYMEM_DOMAIN_OBJ, visit_two, &sum), 7);
    ck_assert_uint_eq(sum, 20);
    for (int i = 0; i < 5; i++) {
        PyObject_Free(p[i]);
    }
    ck_assert_int_eq(PyMemFaults_Visit(PYMEM_DOMAIN_OBJ, visit_two, &sum), 0);
    ck_assert_int_eq(PyMemFaults_Stop(PYMEM_DOMAIN_OBJ), 0);
}
END_TEST

static void *
raw_worker(void *unused)
{
    void *kept[64] = {NULL};
    for (int i = 0; i < 20000; i++) {
        void **slot = &kept[i % 64];
        void *moved = PyMem_RawRealloc(*slot, (size_t)(i % 900));
        *slot = moved != NULL ? moved : *slot;
        if (i % 3 == 0) {
            PyMem_RawFree(*slot);
            *slot = NULL;
        }
    }
    for (int i = 0; i < 64; i++) {
        PyMem_RawFree(kept[i]);
    }
    return unused;
}

START_TEST(the_raw_domain_from_threads)
{
    start(PYMEM_DOMAIN_RAW, (PyMemFaults){.fail_share = 0.05});
    PyMemFaultsCounts before = counts_of(PYMEM_DOMAIN_RAW);
    run_threads(4, raw_worker);
    PyMemFaultsCounts counts = counts_of(PYMEM_DOMAIN_RAW);
    ck_assert_uint_eq(counts.requests - before.requests, 80000);
    ck_assert_uint_eq(counts.blocks, before.blocks);
    ck_assert_uint_eq(counts.bytes, before.bytes);
    ck_assert_uint_gt(counts.failed, 3000);
    ck_assert_int_eq(PyMemFaults_Stop(PYMEM_DOMAIN_RAW), 0);
}
END_TEST

static PyMemAllocatorEx under_hook;

static void *
hook_malloc(void *ctx, size_t size)
{
    return under_hook.malloc(ctx, size);
}

/* One that had saved an allocator sets it back when nobody expects it. */
START_TEST(an_allocator_that_is_set_back_out_of_order)
{
    const struct family *family = &families[_i];
    PyMemAllocatorEx born, faulty;
    PyMem_GetAllocator(_i, &born);
    start(_i, (PyMemFaults){.fail_from = 1});
    PyMem_GetAllocator(_i, &faulty);
    ck_assert_int_eq(PyMemFaults_Stop(_i), 0);
    PyMem_SetAllocator(_i, &faulty);
    void *p = family->malloc(10);           /* stopped: it fails nothing */
    ck_assert_ptr_nonnull(p);
    start(_i, (PyMemFaults){.fail_from = 2});
    p = family->realloc(p, 2000);
    ck_assert_ptr_nonnull(p);
    ck_assert_ptr_null(family->malloc(10));
    ck_assert_int_eq(PyMemFaults_Stop(_i), 0);
    family->free(p);

    under_hook = faulty;
    PyMemAllocatorEx hook = faulty;
    hook.malloc = hook_malloc;
    PyMem_SetAllocator(_i, &hook);
    PyMemFaults faults = {.fail_from = 1};
    ck_assert_int_eq(PyMemFaults_Start(_i, &faults), -1);
    ck_assert_ptr_nonnull(PyErr_Occurred());
    PyErr_Clear();
    PyMem_SetAllocator(_i, &born);
    start(_i, (PyMemFaults){.fail_from = 1});
    ck_assert_ptr_null(family->malloc(10));
    ck_assert_int_eq(PyMemFaults_Stop(_i), 0);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("memfaults");
    TCase *tcase = tcase_create("memfaults");
    tcase_set_timeout(tcase, 60);
    tcase_add_loop_test(tcase, requests_fail_by_number, 0, 3);
    tcase_add_loop_test(tcase, a_realloc_that_fails_changes_nothing, 0, 3);
    tcase_add_test(tcase, real_failures_count);
    tcase_add_loop_test(tcase, blocks_of_before_and_after, 0, 3);
    tcase_add_test(tcase, a_quota_limits_what_is_in_use);
    tcase_add_test(tcase, a_share_fails_at_random);
    tcase_add_test(tcase, bad_arguments_are_named);
    tcase_add_test(tcase, a_report_says_what_is_left_and_from_where);
    tcase_add_test(tcase, a_visit_ends_when_it_is_told_to);
    tcase_add_test(tcase, the_raw_domain_from_threads);
    tcase_add_loop_test(tcase, an_allocator_that_is_set_back_out_of_order, 0, 3);
    suite_add_tcase(suite, tcase);
    return run_suite(suite);
}
