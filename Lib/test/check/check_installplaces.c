/* Python/installplaces.c: what machine code of a function tells, and that nothing else does. */

#include "support.h"
#include "pycore_install.h"

#include <string.h>

/* What is behind a piece of code is not its end. */
#define CODE(NAME, BYTES) static const char NAME[] = BYTES "\xcc\xcc\xcc\xcc\xcc\xcc\xcc\xcc"

#define ENDBR64 "\xf3\x0f\x1e\xfa"

#if defined(__x86_64__) && defined(__LP64__)
#  define KNOWN(PLACE) (PLACE)
#else
#  define KNOWN(PLACE) 0
#endif

START_TEST(a_word_of_the_argument)
{
    CODE(plain, "\x48\x8b\x47\x10\xc3");
    CODE(marked, ENDBR64 "\x48\x8b\x47\x10\xc3");
    CODE(far_away, "\x48\x8b\x87\x34\x12\x00\x00\xc3");
    ck_assert_uint_eq(place_in_argument(plain), KNOWN(16));
    ck_assert_uint_eq(place_in_argument(marked), KNOWN(16));
    ck_assert_uint_eq(place_in_argument(far_away), KNOWN(0x1234));
}
END_TEST

START_TEST(a_word_of_the_thread)
{
    CODE(plain, "\x64\x48\x8b\x04\x25\xe8\xff\xff\xff\xc3");
    CODE(marked, ENDBR64 "\x64\x48\x8b\x04\x25\xe0\xff\xff\xff\xc3");
    ck_assert_int_eq(place_in_thread(plain), KNOWN(-24));
    ck_assert_int_eq(place_in_thread(marked), KNOWN(-32));
}
END_TEST

/* The address of the place is so many bytes behind the instruction, or before it. */
START_TEST(a_word_of_the_thread_by_a_table)
{
    CODE(code, ENDBR64 "\x48\x8b\x05\x00\x00\x00\x00\x64\x48\x8b\x00\xc3");
    enum { BEGIN = 32, END_OF_FIRST = BEGIN + 11, DISTANCE = BEGIN + 7 };
    for (int before = 0; before < 2; before++) {
        unsigned char memory[96] = {0};
        size_t table = before ? 8 : 80;
        int32_t distance = (int32_t)table - END_OF_FIRST;
        intptr_t place = -72;
        memcpy(memory + BEGIN, code, sizeof(code));
        memcpy(memory + DISTANCE, &distance, sizeof(distance));
        memcpy(memory + table, &place, sizeof(place));
        ck_assert_int_eq(place_in_thread(memory + BEGIN), KNOWN(-72));
    }
}
END_TEST

/* As without optimisation, in a shared library, with a check, or for the other question. */
START_TEST(a_function_that_does_more_is_not_known)
{
    CODE(with_a_frame, "\x55\x48\x89\xe5\x48\x89\x7d\xf8\x48\x8b\x45\xf8\x48\x8b\x40\x10\x5d\xc3");
    CODE(with_a_call, "\x48\x83\xec\x08\x48\x8d\x3d\x81\x0e\x44\x00\xe8\xfc\x45\xd4\xff");
    CODE(goes_on, "\x48\x8b\x47\x10\x48\x8b\x00\xc3");
    CODE(far_away_goes_on, "\x48\x8b\x87\x34\x12\x00\x00\x90\xc3");
    CODE(first_word, "\x48\x8b\x47\x00\xc3");
    CODE(before_it, "\x48\x8b\x47\xf0\xc3");
    CODE(of_another_register, "\x48\x8b\x46\x10\xc3");
    CODE(thread_goes_on, "\x64\x48\x8b\x04\x25\xe8\xff\xff\xff\x48\x8b\x00\xc3");
    CODE(table_goes_on, "\x48\x8b\x05\x00\x00\x00\x00\x64\x48\x8b\x00\x48\xc3");
    CODE(a_global, "\x48\x8b\x05\x00\x00\x00\x00\xc3");
    CODE(marked_twice, ENDBR64 ENDBR64 "\x48\x8b\x47\x10\xc3");
    const char *all[] = {with_a_frame, with_a_call, goes_on, far_away_goes_on, first_word,
                         before_it, of_another_register, thread_goes_on, table_goes_on,
                         a_global, marked_twice};
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        ck_assert_msg(place_in_argument(all[i]) == 0, "%zu", i);
        ck_assert_msg(place_in_thread(all[i]) == 0, "%zu", i);
    }
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("installplaces");
    TCase *tc = tcase_create("installplaces");
    suite_add_tcase(suite, tc);
    tcase_add_test(tc, a_word_of_the_argument);
    tcase_add_test(tc, a_word_of_the_thread);
    tcase_add_test(tc, a_word_of_the_thread_by_a_table);
    tcase_add_test(tc, a_function_that_does_more_is_not_known);
    return run_suite(suite);
}
