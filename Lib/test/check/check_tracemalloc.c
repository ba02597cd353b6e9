/* Python/tracemalloc.c: what is answered while nothing is traced. */

#include "support.h"
#include "pycore_host.h"

#include <unistd.h>

START_TEST(track_and_untrack_say_that_nothing_is_traced)
{
    int block;
    ck_assert_int_eq(PyTraceMalloc_Track(0, (uintptr_t)&block, 4), -2);
    ck_assert_int_eq(PyTraceMalloc_Track(389047, 1, 0), -2);
    ck_assert_int_eq(PyTraceMalloc_Untrack(0, (uintptr_t)&block), -2);
}
END_TEST

static void
dump(void *unused)
{
    (void)unused;
    _PyMem_DumpTraceback(STDERR_FILENO, "block");
    _PyMem_DumpTraceback(-1, "block");
}

START_TEST(the_dump_says_how_to_know_more)
{
    struct child child = run_child(dump, NULL);
    ck_assert_int_eq(child.status, 0);
    ck_assert_str_eq(child.text, "Enable tracemalloc to get the memory block "
                                 "allocation traceback\n\n");
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("tracemalloc");
    TCase *tc = tcase_create("tracemalloc");
    suite_add_tcase(suite, tc);
    tcase_add_test(tc, track_and_untrack_say_that_nothing_is_traced);
    tcase_add_test(tc, the_dump_says_how_to_know_more);
    return run_suite(suite);
}
