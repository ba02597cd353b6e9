/* Objects/rawalloc.c: malloc and mimalloc as allocators, from many threads. */

#define _GNU_SOURCE     /* dl_iterate_phdr() */

#include "support.h"
#include "pycore_pymem.h"

#include <pthread.h>
#include <stdatomic.h>
#ifdef WITH_RAW_MIMALLOC
#  include <link.h>
#  include <string.h>
#endif

static const PyMemAllocatorEx allocators[] = {
    MALLOC_ALLOC,
#ifdef WITH_MIMALLOC
    MIMALLOC_ALLOC,
#endif
};
#define NALLOCATORS ((int)(sizeof(allocators) / sizeof(allocators[0])))

static void
load(void)
{
#ifdef WITH_MIMALLOC
    ck_assert_int_eq(_PyMem_LoadMimalloc(), 0);
    ck_assert_int_eq(_PyMem_LoadMimalloc(), 0);
#endif
}

START_TEST(zero_bytes_are_one)
{
    const PyMemAllocatorEx *a = &allocators[_i];
    void *p = a->malloc(NULL, 0), *q = a->calloc(NULL, 0, 5);
    void *r = a->calloc(NULL, 5, 0), *s = a->realloc(NULL, NULL, 0);
    ck_assert(p != NULL && q != NULL && r != NULL && s != NULL);
    ck_assert(p != q && q != r && r != s && p != s);
    p = a->realloc(NULL, p, 0);
    ck_assert_ptr_nonnull(p);
    a->free(NULL, p);
    a->free(NULL, q);
    a->free(NULL, r);
    a->free(NULL, s);
    a->free(NULL, NULL);
}
END_TEST

START_TEST(calloc_is_zeroed_and_realloc_keeps)
{
    const PyMemAllocatorEx *a = &allocators[_i];
    unsigned char *p = a->calloc(NULL, 100, 11);
    ck_assert(is_filled(p, 1100, 0));
    fill_pattern(p, 1100, 5);
    p = a->realloc(NULL, p, 200000);
    ck_assert(has_pattern(p, 1100, 5));
    a->free(NULL, p);
}
END_TEST

#ifdef WITH_RAW_MIMALLOC
/* A fork while a thread loads it would give the child half of it. */
static int is_loaded_before_main;

static int
is_mimalloc(struct dl_phdr_info *library, size_t size, void *unused)
{
    (void)size, (void)unused;
    return strstr(library->dlpi_name, "libmimalloc") != NULL;
}

START_TEST(mimalloc_is_there_before_any_thread)
{
    ck_assert(is_loaded_before_main);
}
END_TEST
#endif

/* The raw domain needs no GIL: blocks cross threads. */

enum { THREADS = 8, ROUNDS = 4000, EXCHANGE = 64 };
static void *_Atomic exchange[EXCHANGE];
static const char *fault;

static void *
trade(void *arg)
{
    unsigned state = (unsigned)(uintptr_t)arg * 2654435761u + 1;
    for (int i = 0; i < ROUNDS; i++) {
        state = state * 1664525u + 1013904223u;
        size_t size = sizeof(size_t) + (state >> 16) % 2000;
        size_t *p = PyMem_RawMalloc(size);
        if (p == NULL) {
            fault = "no memory";
            break;
        }
        memset(p, (int)(size & 0xff), size);
        *p = size;
        size_t *q = atomic_exchange(&exchange[(state >> 8) % EXCHANGE], p);
        if (q != NULL) {
            size_t n = *q;
            if (n > sizeof(size_t)
                && ((unsigned char *)q)[n - 1] != (unsigned char)(n & 0xff)) {
                fault = "another thread's block has changed";
            }
            PyMem_RawFree(q);
        }
    }
    return NULL;
}

START_TEST(the_raw_domain_serves_threads_without_the_gil)
{
    const PyMemAllocatorName names[] = {
        PYMEM_ALLOCATOR_MALLOC, PYMEM_ALLOCATOR_MALLOC_DEBUG,
#ifdef WITH_MIMALLOC
        PYMEM_ALLOCATOR_MIMALLOC, PYMEM_ALLOCATOR_MIMALLOC_DEBUG,
#endif
    };
    ck_assert_int_eq(_PyMem_SetupAllocators(names[_i]), 0);
    PyGILState_Release(PyGILState_Ensure());
    run_threads(THREADS, trade);
    ck_assert_msg(fault == NULL, "%s", fault);
    for (int i = 0; i < EXCHANGE; i++) {
        PyMem_RawFree(exchange[i]);
    }
}
END_TEST

int
main(void)
{
#ifdef WITH_RAW_MIMALLOC
    is_loaded_before_main = dl_iterate_phdr(is_mimalloc, NULL);
#endif
    Suite *suite = suite_create("rawalloc");
    TCase *tc = tcase_create("rawalloc");
    tcase_set_timeout(tc, 120);
    tcase_add_checked_fixture(tc, load, NULL);
    suite_add_tcase(suite, tc);
#ifdef WITH_RAW_MIMALLOC
    tcase_add_test(tc, mimalloc_is_there_before_any_thread);
#endif
    tcase_add_loop_test(tc, zero_bytes_are_one, 0, NALLOCATORS);
    tcase_add_loop_test(tc, calloc_is_zeroed_and_realloc_keeps, 0, NALLOCATORS);
    tcase_add_loop_test(tc, the_raw_domain_serves_threads_without_the_gil, 0,
                        2 * NALLOCATORS);
    return run_suite(suite);
}
