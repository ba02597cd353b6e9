/* What the C tests share: families by domain, allocators that record and
 * fail, children that are meant to die. */

#ifndef PYMEM_CHECK_SUPPORT_H
#define PYMEM_CHECK_SUPPORT_H

#include "Python.h"

#include <check.h>
#include <signal.h>

/* The three families as values, to run one test over all of them. */
struct family {
    const char *name;
    char api_id;
    void *(*malloc)(size_t size);
    void *(*calloc)(size_t nelem, size_t elsize);
    void *(*realloc)(void *ptr, size_t new_size);
    void (*free)(void *ptr);
};
extern const struct family families[3];     /* by PyMemAllocatorDomain */

/* An allocator that wraps the one of a domain and writes down each call. */
struct call {
    char what;          /* 'm', 'c', 'r', 'f' */
    void *ptr;          /* given to realloc and free */
    size_t size;        /* asked for; of calloc the product */
    void *result;
};
struct recorder {
    PyMemAllocatorDomain domain;
    PyMemAllocatorEx wrapped;
    size_t ncalls;
    struct call calls[4096];    /* the first ones */
    long fail_at;       /* this call returns NULL (from 1); 0: none */
    int fail_on;        /* and all after it */
};
void recorder_install(struct recorder *recorder, PyMemAllocatorDomain domain);
void recorder_remove(struct recorder *recorder);

/* An arena allocator that gives memory at an offset from alignment, counts,
 * and fails. */
struct arena_source {
    size_t offset;      /* of each arena from a multiple of ARENA_SIZE */
    long fail_at;       /* this call returns NULL (from 1); 0: none */
    int fail_on;        /* and all after it */
    size_t nalloc, nfree, nlive, bad_size;
    void *last;
    PyObjectArenaAllocator replaced;
};
void arena_source_install(struct arena_source *source);
void arena_source_remove(struct arena_source *source);

/* Run a function in a child and read what it writes to stderr. */
struct child {
    int signal;         /* that ended it, or 0 */
    int status;         /* its exit status otherwise */
    char text[16384];
};
struct child run_child(void (*function)(void *), void *arg);

/* Run a function in so many threads, each with its number from 0 on, until all have ended. */
void run_threads(size_t nthreads, void *(*function)(void *number));

/* The child must have been aborted with this text on stderr. */
#define assert_fatal(child, expected)                                       \
    do {                                                                    \
        ck_assert_int_eq((child).signal, SIGABRT);                          \
        ck_assert_msg(strstr((child).text, (expected)) != NULL,             \
                      "no \"%s\" in:\n%s", (expected), (child).text);       \
    } while (0)

/* What this process has, in bytes. */
struct process_size {
    size_t total;       /* of address space */
    size_t resident;
};
struct process_size process_size(void);
size_t bytes_in_huge_pages(void);

/* Are n bytes all of one value?  One assertion for all of them: each one that
 * Check makes costs a system call. */
int is_filled(const void *ptr, size_t n, unsigned char value);

/* A pattern that tells where a byte was, and whether n bytes still have it. */
void fill_pattern(void *ptr, size_t n, unsigned seed);
int has_pattern(const void *ptr, size_t n, unsigned seed);

/* Does a request of PY_SSIZE_T_MAX bytes fail?  32 bits may have room for one, but not for
 * two. */
int is_out_of_memory(const struct family *family);

/* A pseudo-random number below n, the same sequence each time. */
unsigned random_below(unsigned n);

/* A test of what an emulator of programs, as qemu-user, can't do.  Where CHECK_EMULATED
 * is set it is left out, and the reason printed. */
#define tcase_add_native_test(tc, test, reason) \
    tcase_add_native_loop_test(tc, test, 0, 1, reason)
#define tcase_add_native_loop_test(tc, test, start, end, reason)            \
    do {                                                                    \
        if (!is_left_out(#test, reason)) {                                  \
            tcase_add_loop_test(tc, test, start, end);                      \
        }                                                                   \
    } while (0)
#define MEASURES_MEMORY "the emulator's own memory would be measured"
#define FORKS_IN_THREADS "the emulator has no forks while other threads run"
#define STARTS_ITSELF "a foreign program can't start itself"
int is_emulated(void);
int is_left_out(const char *test, const char *reason);

/* One suite a file: runs it, returns main()'s status. */
int run_suite(Suite *suite);

#endif
