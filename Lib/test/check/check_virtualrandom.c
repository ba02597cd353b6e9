/* Objects/virtualrandom.c: bytes that nobody can foresee. */

#include "support.h"
#include "pycore_virtualmem.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SIZE = 512 };

START_TEST(as_many_bytes_as_were_asked_for)
{
    for (size_t size = 0; size <= 64; size++) {
        unsigned char bytes[66] = {0};
        bytes[0] = bytes[size + 1] = 0x5A;
        errno = EDOM;
        virtual_random(bytes + 1, size);
        ck_assert_int_eq(errno, EDOM);
        ck_assert_uint_eq(bytes[0], 0x5A);
        ck_assert_uint_eq(bytes[size + 1], 0x5A);
    }
}
END_TEST

/* Of 512 random bytes about 221 values are there; fewer than 180 or more than 256 never. */
static int
count_values(const unsigned char *bytes)
{
    int n = 0;
    char seen[256] = {0};
    for (size_t i = 0; i < SIZE; i++) {
        n += !seen[bytes[i]]++;
    }
    return n;
}

START_TEST(no_two_draws_are_equal)
{
    unsigned char bytes[2][SIZE] = {{0}};
    for (int i = 0; i < 2; i++) {
        virtual_random(bytes[i], SIZE);
        ck_assert_int_ge(count_values(bytes[i]), 180);
    }
    int nequal = 0;
    for (size_t i = 0; i < SIZE; i++) {
        nequal += bytes[0][i] == bytes[1][i];
    }
    ck_assert_int_le(nequal, 40);       /* two are to be expected */
}
END_TEST

START_TEST(a_child_has_others_than_its_parent)
{
    unsigned char *bytes = mmap(NULL, 2 * SIZE, PROT_READ | PROT_WRITE,
                                MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    ck_assert_ptr_ne(bytes, MAP_FAILED);
    virtual_random(bytes, 8);
    pid_t pid = fork();
    virtual_random(bytes + (pid == 0 ? 0 : SIZE), SIZE);
    if (pid == 0) {
        _exit(0);
    }
    ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
    ck_assert_mem_ne(bytes, bytes + SIZE, SIZE);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("virtualrandom");
    TCase *all = tcase_create("all");
    suite_add_tcase(suite, all);
    tcase_add_test(all, as_many_bytes_as_were_asked_for);
    tcase_add_test(all, no_two_draws_are_equal);
    tcase_add_test(all, a_child_has_others_than_its_parent);
    return run_suite(suite);
}
