/* Objects/memnames.c: the names of PYTHONMALLOC. */

#include "support.h"
#include "pycore_pymem.h"

static const struct {
    const char *name;
    int value;
} names[] = {
    {"default", 1}, {"debug", 2}, {"malloc", 3}, {"malloc_debug", 4},
#ifdef WITH_PYMALLOC
    {"pymalloc", 5}, {"pymalloc_debug", 6},
#endif
#ifdef WITH_MIMALLOC
    {"mimalloc", 7}, {"mimalloc_debug", 8},
#endif
    {"hardened", 64}, {"hardened_debug", 65},
};
#define NNAMES ((int)(sizeof(names) / sizeof(names[0])))

START_TEST(each_name_has_cpythons_value)
{
    PyMemAllocatorName value = PYMEM_ALLOCATOR_NOT_SET;
    ck_assert_int_eq(_PyMem_GetAllocatorName(names[_i].name, &value), 0);
    ck_assert_int_eq((int)value, names[_i].value);
    ck_assert_ptr_nonnull(strstr(_PyMem_AllocatorNames, names[_i].name));
}
END_TEST

START_TEST(no_name_is_the_default)
{
    PyMemAllocatorName value = PYMEM_ALLOCATOR_NOT_SET;
    ck_assert_int_eq(_PyMem_GetAllocatorName(NULL, &value), 0);
    ck_assert_int_eq((int)value, 1);
    value = PYMEM_ALLOCATOR_NOT_SET;
    ck_assert_int_eq(_PyMem_GetAllocatorName("", &value), 0);
    ck_assert_int_eq((int)value, 1);
}
END_TEST

START_TEST(unknown_names_are_refused)
{
    PyMemAllocatorName value = PYMEM_ALLOCATOR_MALLOC;
    const char *unknown[] = {"Malloc", "malloc ", "debug_malloc", "jemalloc",
#ifndef WITH_PYMALLOC
                             "pymalloc", "pymalloc_debug",
#endif
                             "x"};
    for (size_t i = 0; i < sizeof(unknown) / sizeof(unknown[0]); i++) {
        ck_assert_int_eq(_PyMem_GetAllocatorName(unknown[i], &value), -1);
        ck_assert_int_eq(value, PYMEM_ALLOCATOR_MALLOC);
    }
    ck_assert_int_eq(_PyMem_SetupAllocators((PyMemAllocatorName)99), -1);
}
END_TEST

/* What a name sets is what the current name says; and memory can be had. */
START_TEST(a_name_that_is_set_is_the_current_one)
{
    PyMemAllocatorName value = (PyMemAllocatorName)names[_i].value;
    ck_assert_int_eq(_PyMem_SetupAllocators(value), 0);
    const char *current = _PyMem_GetCurrentAllocatorName();
    ck_assert_ptr_nonnull(current);
    if (names[_i].value > 2) {
        ck_assert_str_eq(current, names[_i].name);
    }
    for (int d = 0; d < 3; d++) {
        void *p = families[d].realloc(families[d].calloc(2, 300), 2000);
        ck_assert_ptr_nonnull(p);
        families[d].free(p);
        void *zero = families[d].malloc(0);
        ck_assert_ptr_nonnull(zero);
        zero = families[d].realloc(zero, 0);
        ck_assert_ptr_nonnull(zero);
        families[d].free(zero);
        families[d].free(families[d].calloc(0, 3));
        ck_assert_int_eq(_PyMem_HasDebugHooks((PyMemAllocatorDomain)d),
                         strstr(current, "_debug") != NULL);
    }
}
END_TEST

START_TEST(default_and_debug_follow_the_build)
{
#ifdef WITH_PYMALLOC
    const char *plain = "pymalloc", *debug = "pymalloc_debug";
#else
    const char *plain = "malloc", *debug = "malloc_debug";
#endif
#ifdef WITH_HARDENED
    plain = "hardened", debug = "hardened_debug";
#endif
#ifdef Py_DEBUG
    plain = debug;
#endif
    ck_assert_str_eq(_PyMem_GetCurrentAllocatorName(), plain);
    _PyMem_SetupAllocators(PYMEM_ALLOCATOR_DEBUG);
    ck_assert_str_eq(_PyMem_GetCurrentAllocatorName(), debug);
    ck_assert_int_eq(_PyMem_SetupAllocators(PYMEM_ALLOCATOR_NOT_SET), 0);
    ck_assert_str_eq(_PyMem_GetCurrentAllocatorName(), debug);
    _PyMem_SetupAllocators(PYMEM_ALLOCATOR_DEFAULT);
    ck_assert_str_eq(_PyMem_GetCurrentAllocatorName(), plain);
}
END_TEST

START_TEST(domains_that_do_not_fit_have_no_name)
{
    static struct recorder recorder;
    _PyMem_SetupAllocators(PYMEM_ALLOCATOR_MALLOC);
    recorder_install(&recorder, PYMEM_DOMAIN_OBJ);
    ck_assert_ptr_null(_PyMem_GetCurrentAllocatorName());
    recorder_remove(&recorder);
    ck_assert_str_eq(_PyMem_GetCurrentAllocatorName(), "malloc");
    PyMemAllocatorEx raw;
    PyMem_SetupDebugHooks();
    PyMem_GetAllocator(PYMEM_DOMAIN_RAW, &raw);
    PyMem_SetAllocator(PYMEM_DOMAIN_RAW, &_PyMem_Debug[PYMEM_DOMAIN_RAW].alloc);
    ck_assert_ptr_null(_PyMem_GetCurrentAllocatorName());
    PyMem_SetAllocator(PYMEM_DOMAIN_RAW, &raw);
    ck_assert_str_eq(_PyMem_GetCurrentAllocatorName(), "malloc_debug");
}
END_TEST

START_TEST(one_domain_can_be_set_to_its_default)
{
    static struct recorder recorder;
    PyMemAllocatorEx first, old, now;
    PyMemAllocatorDomain domain = (PyMemAllocatorDomain)_i;
    PyMem_GetAllocator(domain, &first);
    recorder_install(&recorder, domain);
    ck_assert_int_eq(_PyMem_SetDefaultAllocator(domain, &old), 0);
    ck_assert_ptr_eq(old.ctx, &recorder);
    PyMem_GetAllocator(domain, &now);
    ck_assert(now.malloc == first.malloc && now.ctx == first.ctx);
    ck_assert_int_eq(_PyMem_SetDefaultAllocator(domain, NULL), 0);
    ck_assert_int_eq(_PyMem_SetDefaultAllocator((PyMemAllocatorDomain)3, NULL),
                     -1);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("memnames");
    TCase *tc = tcase_create("memnames");
    suite_add_tcase(suite, tc);
    tcase_add_loop_test(tc, each_name_has_cpythons_value, 0, NNAMES);
    tcase_add_test(tc, no_name_is_the_default);
    tcase_add_test(tc, unknown_names_are_refused);
    tcase_add_loop_test(tc, a_name_that_is_set_is_the_current_one, 0, NNAMES);
    tcase_add_test(tc, default_and_debug_follow_the_build);
    tcase_add_test(tc, domains_that_do_not_fit_have_no_name);
    tcase_add_loop_test(tc, one_domain_can_be_set_to_its_default, 0, 3);
    return run_suite(suite);
}
