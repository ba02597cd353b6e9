/* Objects/obmalloc.c: what every domain promises. */

#include "support.h"
#include "pycore_geometry.h"

static const size_t sizes[] = {0, 1, 7, 8, 15, 16, 17, 31, 32, 100, 255, 256,
                               257, 511, 512, 513, 1024, 4096, 5000, 100000};
#define NSIZES (sizeof(sizes) / sizeof(sizes[0]))

START_TEST(malloc_returns_aligned_memory_that_can_be_written)
{
    const struct family *f = &families[_i];
    for (size_t i = 0; i < NSIZES; i++) {
        void *p = f->malloc(sizes[i]);
        ck_assert_ptr_nonnull(p);
        ck_assert_uint_eq((uintptr_t)p % ALIGNMENT, 0);
        memset(p, 0x5a, sizes[i]);
        f->free(p);
    }
}
END_TEST

START_TEST(zero_bytes_are_distinct_blocks)
{
    const struct family *f = &families[_i];
    void *p[3] = {f->malloc(0), f->malloc(0), f->calloc(0, 0)};
    for (int i = 0; i < 3; i++) {
        ck_assert_ptr_nonnull(p[i]);
        ck_assert_ptr_ne(p[i], p[(i + 1) % 3]);
    }
    for (int i = 0; i < 3; i++) {
        f->free(p[i]);
    }
}
END_TEST

START_TEST(calloc_zeroes_used_memory)
{
    const struct family *f = &families[_i];
    for (size_t i = 0; i < NSIZES; i++) {
        void *dirty = f->malloc(sizes[i]);
        memset(dirty, 0xff, sizes[i]);
        f->free(dirty);
        unsigned char *p = f->calloc(sizes[i], 1);
        ck_assert_ptr_nonnull(p);
        ck_assert(is_filled(p, sizes[i], 0));
        f->free(p);
    }
}
END_TEST

START_TEST(calloc_of_no_elements_is_a_block)
{
    const struct family *f = &families[_i];
    void *p = f->calloc(0, 8), *q = f->calloc(8, 0);
    ck_assert_ptr_nonnull(p);
    ck_assert_ptr_nonnull(q);
    f->free(p);
    f->free(q);
}
END_TEST

START_TEST(requests_over_the_limit_ask_no_allocator)
{
    static struct recorder recorder;
    const struct family *f = &families[_i];
    recorder_install(&recorder, (PyMemAllocatorDomain)_i);
    size_t over = (size_t)PY_SSIZE_T_MAX + 1;
    ck_assert_ptr_null(f->malloc(over));
    ck_assert_ptr_null(f->malloc(SIZE_MAX));
    ck_assert_ptr_null(f->calloc(over, 1));
    ck_assert_ptr_null(f->calloc(1, over));
    ck_assert_ptr_null(f->calloc(SIZE_MAX / 2, 16));
    ck_assert_ptr_null(f->calloc((size_t)PY_SSIZE_T_MAX / 8 + 1, 8));
    ck_assert_ptr_null(f->realloc(NULL, over));
    ck_assert_uint_eq(recorder.ncalls, 0);

    char *p = f->malloc(20);
    memcpy(p, "unchanged", 10);
    ck_assert_ptr_null(f->realloc(p, over));
    ck_assert_uint_eq(recorder.ncalls, 1);
    ck_assert_str_eq(p, "unchanged");
    f->free(p);
    recorder_remove(&recorder);
}
END_TEST

START_TEST(realloc_keeps_what_fits)
{
    const struct family *f = &families[_i];
    for (size_t i = 0; i < NSIZES; i++) {
        for (size_t k = 0; k < NSIZES; k++) {
            unsigned char *p = f->malloc(sizes[i]);
            fill_pattern(p, sizes[i], (unsigned)i);
            p = f->realloc(p, sizes[k]);
            ck_assert_ptr_nonnull(p);
            ck_assert_uint_eq((uintptr_t)p % ALIGNMENT, 0);
            size_t kept = sizes[i] < sizes[k] ? sizes[i] : sizes[k];
            ck_assert(has_pattern(p, kept, (unsigned)i));
            f->free(p);
        }
    }
}
END_TEST

START_TEST(realloc_of_null_is_malloc)
{
    const struct family *f = &families[_i];
    void *p = f->realloc(NULL, 40);
    ck_assert_ptr_nonnull(p);
    memset(p, 1, 40);
    f->free(p);
    p = f->realloc(NULL, 0);
    ck_assert_ptr_nonnull(p);
    f->free(p);
}
END_TEST

START_TEST(realloc_to_zero_keeps_a_block)
{
    const struct family *f = &families[_i];
    for (size_t i = 0; i < NSIZES; i++) {
        void *p = f->realloc(f->malloc(sizes[i]), 0);
        ck_assert_ptr_nonnull(p);
        p = f->realloc(p, 100);
        ck_assert_ptr_nonnull(p);
        f->free(p);
    }
}
END_TEST

START_TEST(free_of_null_does_nothing)
{
    Py_ssize_t before = _Py_GetAllocatedBlocks();
    families[_i].free(NULL);
    ck_assert_int_eq(_Py_GetAllocatedBlocks(), before);
}
END_TEST

START_TEST(a_hook_sees_each_call_and_its_arguments)
{
    static struct recorder recorder;
    const struct family *f = &families[_i];
    recorder_install(&recorder, (PyMemAllocatorDomain)_i);
    void *p = f->malloc(42);
    void *q = f->calloc(3, 5);
    void *r = f->realloc(p, 43);
    f->free(r);
    f->free(q);
    recorder_remove(&recorder);
    f->free(f->malloc(1));
    const struct call expected[] = {
        {'m', NULL, 42, p}, {'c', NULL, 15, q}, {'r', p, 43, r},
        {'f', r, 0, NULL}, {'f', q, 0, NULL},
    };
    ck_assert_uint_eq(recorder.ncalls, 5);
    for (int i = 0; i < 5; i++) {
        ck_assert_int_eq(recorder.calls[i].what, expected[i].what);
        ck_assert_ptr_eq(recorder.calls[i].ptr, expected[i].ptr);
        ck_assert_uint_eq(recorder.calls[i].size, expected[i].size);
        ck_assert_ptr_eq(recorder.calls[i].result, expected[i].result);
    }
}
END_TEST

START_TEST(a_hook_that_fails_loses_nothing)
{
    static struct recorder recorder;
    const struct family *f = &families[_i];
    char *p = f->malloc(600);
    memcpy(p, "unchanged", 10);
    recorder.fail_at = 1;
    recorder.fail_on = 1;
    recorder_install(&recorder, (PyMemAllocatorDomain)_i);
    ck_assert_ptr_null(f->malloc(10));
    ck_assert_ptr_null(f->calloc(1, 10));
    ck_assert_ptr_null(f->realloc(p, 100000));
    ck_assert_str_eq(p, "unchanged");
    recorder_remove(&recorder);
    f->free(p);
}
END_TEST

static void
check_copies(char *copy, char *raw_copy)
{
    ck_assert_str_eq(copy, "word");
    ck_assert_str_eq(raw_copy, "word");
    PyMem_Free(copy);
    PyMem_RawFree(raw_copy);
}

START_TEST(strings_are_copied_in_their_domain)
{
    check_copies(_PyMem_Strdup("word"), _PyMem_RawStrdup("word"));
    wchar_t *wide = _PyMem_RawWcsdup(L"w\u00f6rd");
    ck_assert_int_eq(wcscmp(wide, L"w\u00f6rd"), 0);
    PyMem_RawFree(wide);

    static struct recorder raw, mem;
    raw.fail_at = mem.fail_at = 1;
    raw.fail_on = mem.fail_on = 1;
    recorder_install(&raw, PYMEM_DOMAIN_RAW);
    recorder_install(&mem, PYMEM_DOMAIN_MEM);
    ck_assert_ptr_null(_PyMem_Strdup("word"));
    ck_assert_ptr_null(_PyMem_RawStrdup("word"));
    ck_assert_ptr_null(_PyMem_RawWcsdup(L"word"));
    ck_assert_uint_eq(mem.ncalls, 1);
    ck_assert_uint_eq(raw.ncalls, 2);
    ck_assert_uint_eq(raw.calls[0].size, 5);
    ck_assert_uint_eq(raw.calls[1].size, 5 * sizeof(wchar_t));
    recorder_remove(&mem);
    recorder_remove(&raw);
}
END_TEST

START_TEST(an_unknown_domain_has_no_allocator)
{
    PyMemAllocatorDomain unknown = (PyMemAllocatorDomain)7;
    PyMemAllocatorEx alloc;
    memset(&alloc, 0xff, sizeof(alloc));
    PyMem_GetAllocator(unknown, &alloc);
    ck_assert_ptr_null(alloc.ctx);
    ck_assert(alloc.malloc == NULL && alloc.calloc == NULL
              && alloc.realloc == NULL && alloc.free == NULL);
    PyMem_SetAllocator(unknown, &alloc);
    void *p = PyMem_Malloc(1);
    ck_assert_ptr_nonnull(p);
    PyMem_Free(p);
}
END_TEST

START_TEST(macros_guard_against_overflow)
{
    int *p = PyMem_New(int, 4);
    ck_assert_ptr_nonnull(p);
    int *kept = p;
    PyMem_Resize(p, int, 1000);
    ck_assert_ptr_nonnull(p);
    kept = p;
    PyMem_Resize(p, int, (size_t)PY_SSIZE_T_MAX / sizeof(int) + 1);
    ck_assert_ptr_null(p);
    ck_assert_ptr_null(PyMem_New(int, (size_t)PY_SSIZE_T_MAX / 4 + 1));
    void (*release)(void *) = PyMem_Del;
    release(kept);
    char *old = PyMem_NEW(char, 10);
    PyMem_RESIZE(old, char, 20);
    PyMem_DEL(old);
    PyMem_FREE(PyMem_REALLOC(PyMem_MALLOC(3), 4));
    PyObject_FREE(PyObject_REALLOC(PyObject_MALLOC(3), 4));
    PyObject_Del(PyObject_Malloc(3));
    PyObject_DEL(PyObject_Malloc(3));
}
END_TEST

#ifdef Py_STATS
START_TEST(requests_are_counted_by_size)
{
    _PyMem_ClearObjectStats();
    const size_t asked[] = {1, 511, 512, 4093, 4094, 100000};
    for (int i = 0; i < 6; i++) {
        PyMem_Free(PyMem_Malloc(asked[i]));
        PyObject_Free(PyObject_Calloc(1, asked[i]));
    }
    PyMem_RawFree(PyMem_RawMalloc(5));
    ObjectStats stats;
    _PyMem_GetObjectStats(&stats);
    ck_assert_uint_eq(stats.allocations, 12);
    ck_assert_uint_eq(stats.allocations512, 4);
    ck_assert_uint_eq(stats.allocations4k, 4);
    ck_assert_uint_eq(stats.allocations_big, 4);
    ck_assert_uint_eq(stats.frees, 12);
}
END_TEST
#endif

int
main(void)
{
    Suite *suite = suite_create("obmalloc");
    TCase *each = tcase_create("each domain");
    tcase_set_timeout(each, 60);
    suite_add_tcase(suite, each);
#define EACH(test) tcase_add_loop_test(each, test, 0, 3)
    EACH(malloc_returns_aligned_memory_that_can_be_written);
    EACH(zero_bytes_are_distinct_blocks);
    EACH(calloc_zeroes_used_memory);
    EACH(calloc_of_no_elements_is_a_block);
    EACH(requests_over_the_limit_ask_no_allocator);
    EACH(realloc_keeps_what_fits);
    EACH(realloc_of_null_is_malloc);
    EACH(realloc_to_zero_keeps_a_block);
    EACH(free_of_null_does_nothing);
    EACH(a_hook_sees_each_call_and_its_arguments);
    EACH(a_hook_that_fails_loses_nothing);
    TCase *once = tcase_create("once");
    suite_add_tcase(suite, once);
    tcase_add_test(once, strings_are_copied_in_their_domain);
    tcase_add_test(once, an_unknown_domain_has_no_allocator);
    tcase_add_test(once, macros_guard_against_overflow);
#ifdef Py_STATS
    tcase_add_test(once, requests_are_counted_by_size);
#endif
    return run_suite(suite);
}
