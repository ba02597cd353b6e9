/* Python/install/installplaces.c: what machine code of a function tells, and that nothing else does. */

#include "support.h"
#include "pycore_install.h"

#include <pthread.h>
#include <string.h>

/* What is behind a piece of code is not its end. */
#define CODE(NAME, BYTES) static const char NAME[] = BYTES "\xcc\xcc\xcc\xcc\xcc\xcc\xcc\xcc"

#define ENDBR64 "\xf3\x0f\x1e\xfa"

#if defined(__x86_64__) && defined(__LP64__)
#  define IS_KNOWN 1
#else
#  define IS_KNOWN 0
#endif
#define KNOWN(PLACE) (IS_KNOWN ? (PLACE) : 0)

/* So far from the thread's own address, which is its first word. */
static const void *
in_thread(intptr_t place)
{
#if IS_KNOWN
    const char *address;
    __asm__("movq %%fs:0, %0" : "=r"(address));
    return address + place;
#else
    (void)place;
    return NULL;
#endif
}

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
    ck_assert_ptr_eq(word_in_thread(plain), in_thread(-24));
    ck_assert_ptr_eq(word_in_thread(marked), in_thread(-32));
}
END_TEST

/* Code that has the distance of a table, from the end of the number that tells it. */
struct code_and_table {
    char memory[96];
    char *code, *table;
};

static struct code_and_table *
code_with_table(const char *code, size_t size, size_t distance_at, int is_before)
{
    static struct code_and_table it;
    it.code = it.memory + 32;
    it.table = it.memory + (is_before ? 8 : 80);
    int32_t distance = (int32_t)(it.table - (it.code + distance_at + sizeof(distance)));
    memcpy(it.code, code, size);
    memcpy(it.code + distance_at, &distance, sizeof(distance));
    return &it;
}

/* _i is 1: the table is before the code. */
START_TEST(a_word_of_the_thread_by_a_table)
{
    CODE(code, ENDBR64 "\x48\x8b\x05\x00\x00\x00\x00\x64\x48\x8b\x00\xc3");
    struct code_and_table *it = code_with_table(code, sizeof(code), 7, _i);
    intptr_t place = -72;
    memcpy(it->table, &place, sizeof(place));
    ck_assert_ptr_eq(word_in_thread(it->code), in_thread(-72));
}
END_TEST

#if IS_KNOWN
/* Libraries: number 1 is the program. */
static _Thread_local const char *a_word = "of this thread";
extern void *__tls_get_addr(const void *index);

static void *
another_thread(void *code)
{
    ck_assert_ptr_eq(word_in_thread(code), &a_word);
    return NULL;
}

START_TEST(a_word_of_the_thread_in_a_library)
{
    CODE(code, "\x48\x83\xec\x08\x66\x48\x8d\x3d\x00\x00\x00\x00\x66\x66\x48\xe8\x00\x00\x00\x00"
               "\x48\x8b\x00\x48\x83\xc4\x08\xc3");
    CODE(without_plt, ENDBR64 "\x48\x83\xec\x08\x66\x48\x8d\x3d\x00\x00\x00\x00\x66\x48\xff\x15"
                      "\x00\x00\x00\x00\x48\x8b\x00\x48\x83\xc4\x08\xc3");
    struct code_and_table *it = _i == 0 ? code_with_table(code, sizeof(code), 8, 0)
        : code_with_table(without_plt, sizeof(without_plt), 12, 0);
    struct { size_t library, place; } index = {1, 0};
    index.place = (size_t)((const char *)&a_word - (const char *)__tls_get_addr(&index));
    memcpy(it->table, &index, sizeof(index));
    ck_assert_ptr_eq(word_in_thread(it->code), &a_word);
    pthread_t thread;
    ck_assert_int_eq(pthread_create(&thread, NULL, another_thread, it->code), 0);
    ck_assert_int_eq(pthread_join(thread, NULL), 0);
}
END_TEST
#endif

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
    CODE(library_goes_on, "\x48\x83\xec\x08\x66\x48\x8d\x3d\x00\x00\x00\x00\x66\x66\x48\xe8"
                          "\x00\x00\x00\x00\x48\x8b\x40\x08\x48\x83\xc4\x08\xc3");
    CODE(calls_another, "\x48\x83\xec\x08\x66\x48\x8d\x3d\x00\x00\x00\x00\xe8"
                        "\x00\x00\x00\x00\x48\x8b\x00\x48\x83\xc4\x08\xc3");
    CODE(a_global, "\x48\x8b\x05\x00\x00\x00\x00\xc3");
    CODE(marked_twice, ENDBR64 ENDBR64 "\x48\x8b\x47\x10\xc3");
    const char *all[] = {with_a_frame, with_a_call, goes_on, far_away_goes_on, first_word,
                         before_it, of_another_register, thread_goes_on, table_goes_on,
                         library_goes_on, calls_another, a_global, marked_twice};
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        ck_assert_msg(place_in_argument(all[i]) == 0, "%zu", i);
        ck_assert_msg(word_in_thread(all[i]) == NULL, "%zu", i);
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
    tcase_add_loop_test(tc, a_word_of_the_thread_by_a_table, 0, 2);
#if IS_KNOWN
    tcase_add_loop_test(tc, a_word_of_the_thread_in_a_library, 0, 2);
#endif
    tcase_add_test(tc, a_function_that_does_more_is_not_known);
    return run_suite(suite);
}
