/* Objects/memstats.c: the numbers agree with what was asked for, and with
 * each other. */

#include "support.h"
#include "pycore_geometry.h"
#include "pycore_pymem.h"

static char *text;
static size_t text_size;

static const char *
report(int *result)
{
    FILE *out = open_memstream(&text, &text_size);
    *result = _PyObject_DebugMallocStats(out);
    fclose(out);
    return text;
}

START_TEST(one_line_for_a_free_list)
{
    FILE *out = open_memstream(&text, &text_size);
    _PyDebugAllocatorStats(out, "free PyDictObject", 80, 48);
    fclose(out);
    ck_assert_str_eq(text, "           80 free PyDictObjects * 48 bytes each ="
                           "                3,840\n");
}
END_TEST

START_TEST(nothing_is_said_of_another_allocator)
{
    int result;
    _PyMem_SetupAllocators(PYMEM_ALLOCATOR_MALLOC);
    ck_assert_str_eq(report(&result), "");
    ck_assert_int_eq(result, 0);
    _PyMem_SetupAllocators(PYMEM_ALLOCATOR_MALLOC_DEBUG);
    ck_assert_str_eq(report(&result), "");
    ck_assert_int_eq(result, 0);
}
END_TEST

#ifdef WITH_PYMALLOC

static void
assert_has(const char *line)
{
    ck_assert_msg(strstr(text, line) != NULL, "no line\n%s\nin\n%s", line, text);
}

/* The number at the end of the line that starts with label. */
static size_t
number_of(const char *label)
{
    const char *line = strstr(text, label);
    ck_assert_msg(line != NULL, "no %s in\n%s", label, text);
    size_t value = 0;
    for (const char *p = strchr(line, '=') + 1; *p != '\n'; p++) {
        if (*p >= '0' && *p <= '9') {
            value = value * 10 + (size_t)(*p - '0');
        }
    }
    return value;
}

START_TEST(a_fresh_process_has_nothing)
{
    int result;
    _PyMem_SetupAllocators(PYMEM_ALLOCATOR_PYMALLOC);
    report(&result);
    ck_assert_int_eq(result, 1);
    char first[300];
    snprintf(first, sizeof(first),
             "Small block threshold = 512, in %u size classes.\n\n"
             "class   size   num pools   blocks in use  avail blocks\n"
             "-----   ----   ---------   -------------  ------------\n\n",
             NB_SMALL_SIZE_CLASSES);
    ck_assert_msg(strncmp(text, first, strlen(first)) == 0, "%s", text);
    assert_has("# arenas allocated total           =                    0\n");
    ck_assert_uint_eq(number_of("# arenas allocated current"), 0);
    ck_assert_uint_eq(number_of("Total"), 0);
}
END_TEST

START_TEST(rows_count_pools_and_blocks)
{
    int result;
    _PyMem_SetupAllocators(PYMEM_ALLOCATOR_PYMALLOC);
    unsigned in_pool = NUMBLOCKS(64);
    for (unsigned i = 0; i < in_pool + 3; i++) {
        PyObject_Malloc(64);
    }
    PyObject_Free(PyObject_Malloc(200));    /* its pool is empty: no row */
    report(&result);
    char row[100];
    snprintf(row, sizeof(row), "%5u %6u %11u %15u %13u\n\n",
             SIZE_TO_INDEX(64), 64, 2, in_pool + 3, in_pool - 3);
    assert_has(row);
    assert_has("------------\n    ");
    ck_assert_ptr_null(strstr(text, "    208 "));
    ck_assert_uint_eq(number_of("# bytes in allocated blocks"),
                      (in_pool + 3) * 64);
    ck_assert_uint_eq(number_of("# bytes lost to pool headers"),
                      2 * POOL_OVERHEAD);
    ck_assert_uint_eq(number_of(" unused pools * "),
                      (MAX_POOLS_IN_ARENA - 2) * POOL_SIZE);
}
END_TEST

START_TEST(the_lines_add_up)
{
    int result;
    static struct arena_source source;
    _PyMem_SetupAllocators(PYMEM_ALLOCATOR_PYMALLOC);
    source.offset = _i ? 5000 : 0;
    arena_source_install(&source);
    for (int i = 0; i < 30000; i++) {
        void *p = PyObject_Malloc(1 + random_below(512));
        if (random_below(3) == 0) {
            PyObject_Free(p);
        }
    }
    report(&result);
    size_t sum = number_of("# bytes in allocated blocks")
        + number_of("# bytes in available blocks")
        + number_of(" unused pools * ")
        + number_of("# bytes lost to pool headers")
        + number_of("# bytes lost to quantization")
        + number_of("# bytes lost to arena alignment");
    ck_assert_uint_eq(sum, number_of("\nTotal"));
    ck_assert_uint_eq(sum, source.nlive * ARENA_SIZE);
    ck_assert_uint_eq(number_of("# bytes lost to arena alignment"),
                      _i ? source.nlive * POOL_SIZE : 0);
    ck_assert_uint_eq(number_of("# arenas allocated total"), source.nalloc);
    ck_assert_uint_eq(number_of("# arenas reclaimed"), source.nfree);
    ck_assert_uint_eq(number_of("# arenas allocated current"), source.nlive);
}
END_TEST

START_TEST(debug_hooks_over_pymalloc_are_looked_through)
{
    int result;
    _PyMem_SetupAllocators(PYMEM_ALLOCATOR_PYMALLOC_DEBUG);
    PyObject_Malloc(100);
    report(&result);
    ck_assert_int_eq(result, 1);
    assert_has("Small block threshold = 512");
}
END_TEST

static void
buy_two_arenas(void *unused)
{
    (void)unused;
    setenv("PYTHONMALLOCSTATS", "1", 1);
    for (size_t n = 0; n < ARENA_SIZE + 1000; n += 512) {
        PyObject_Malloc(512);
    }
}

START_TEST(pythonmallocstats_prints_before_each_arena)
{
    _PyMem_SetupAllocators(PYMEM_ALLOCATOR_PYMALLOC);
    struct child child = run_child(buy_two_arenas, NULL);
    ck_assert_int_eq(child.status, 0);
    int times = 0;
    for (char *p = child.text; (p = strstr(p, "Small block threshold")); p++) {
        times++;
    }
    ck_assert_int_eq(times, 2);
}
END_TEST

#endif

int
main(void)
{
    Suite *suite = suite_create("memstats");
    TCase *tc = tcase_create("memstats");
    suite_add_tcase(suite, tc);
    tcase_add_test(tc, one_line_for_a_free_list);
    tcase_add_test(tc, nothing_is_said_of_another_allocator);
#ifdef WITH_PYMALLOC
    tcase_add_test(tc, a_fresh_process_has_nothing);
    tcase_add_test(tc, rows_count_pools_and_blocks);
    tcase_add_loop_test(tc, the_lines_add_up, 0, 2);
    tcase_add_test(tc, debug_hooks_over_pymalloc_are_looked_through);
    tcase_add_test(tc, pythonmallocstats_prints_before_each_arena);
#endif
    return run_suite(suite);
}
