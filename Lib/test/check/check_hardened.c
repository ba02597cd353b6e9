/* Objects/hardened.c, hardrings.c, hardslabs.c, hardlarge.c, hardoptions.c:
 * PYTHONMALLOC=hardened.  What misuse does Lib/test/misuse shows; here is what legal use must
 * see, and what nobody outside can: where blocks are, how long they wait, threads, forks,
 * options. */

#include "support.h"
#include "pycore_hardened.h"
#include "pycore_pymem.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static void
use_hardened(void)
{
    unsetenv("PYMEM_HARDENED");
    ck_assert_int_eq(_PyMem_SetupAllocators(PYMEM_ALLOCATOR_HARDENED), 0);
}

/* Requests around each border of a class, and large ones. */
static const size_t sizes[] = {
    0, 1, 15, 16, 17, 31, 32, 511, 512, 513, 527, 528, 529, 575, 576, 1023, 1024, 4095, 4096,
    32767, 32768, 32769, 36864, 65536, 100000, 1000000,
};
#define NSIZES ((int)(sizeof(sizes) / sizeof(sizes[0])))

START_TEST(blocks_of_any_size_keep_what_is_in_them)
{
    const struct family *family = &families[_i];
    unsigned char *blocks[NSIZES];
    for (int i = 0; i < NSIZES; i++) {
        blocks[i] = family->malloc(sizes[i]);
        ck_assert_ptr_nonnull(blocks[i]);
        ck_assert_uint_eq((uintptr_t)blocks[i] % 16, 0);
        fill_pattern(blocks[i], sizes[i], (unsigned)i);
    }
    for (int i = 0; i < NSIZES; i++) {
        ck_assert(has_pattern(blocks[i], sizes[i], (unsigned)i));
        family->free(blocks[i]);
    }
}
END_TEST

START_TEST(calloc_gives_zeros_after_what_was_freed)
{
    const struct family *family = &families[_i];
    for (int i = 0; i < NSIZES; i++) {
        for (int round = 0; round < 300; round++) {
            unsigned char *given = family->calloc(1, sizes[i]);
            ck_assert_ptr_nonnull(given);
            ck_assert(is_filled(given, sizes[i], 0));
            memset(given, 0x11, sizes[i]);
            family->free(given);
            round += sizes[i] > 4096 ? 50 : 0;
        }
    }
}
END_TEST

START_TEST(realloc_from_each_size_to_each)
{
    const struct family *family = &families[_i];
    for (int from = 0; from < NSIZES; from++) {
        for (int to = 0; to < NSIZES; to++) {
            size_t kept = sizes[from] < sizes[to] ? sizes[from] : sizes[to];
            unsigned char *given = family->malloc(sizes[from]);
            fill_pattern(given, sizes[from], 7);
            given = family->realloc(given, sizes[to]);
            ck_assert_ptr_nonnull(given);
            ck_assert(has_pattern(given, kept, 7));
            fill_pattern(given, sizes[to], 8);
            family->free(given);
        }
    }
}
END_TEST

START_TEST(what_is_freed_is_overwritten_and_waits)
{
    const struct family *family = &families[_i];
    for (int i = 1; i < NSIZES && sizes[i] <= HARD_MEDIUM_MAX; i++) {
        unsigned char *given = family->malloc(sizes[i]);
        memset(given, 0x11, sizes[i]);
        family->free(given);
        ck_assert(is_filled(given, sizes[i], DEADBYTE));
        unsigned char *next = family->malloc(sizes[i]);
        ck_assert_ptr_ne(next, given);
        family->free(next);
    }
}
END_TEST

/* So many blocks of 64 bytes wait, and each of them comes again some time later. */
START_TEST(quarantine_is_bounded_and_ends)
{
    const struct family *family = &families[PYMEM_DOMAIN_OBJ];
    unsigned char *first = family->malloc(64);
    family->free(first);
    int n = 0, came_again = 0;
    for (; n < 20000 && !came_again; n++) {
        unsigned char *given = family->malloc(64);
        came_again = given == first;
        family->free(given);
    }
    ck_assert_int_gt(n, 50);
    ck_assert(came_again);
}
END_TEST

/* The next block is right beside the one before in one of eight cases, not more often: one of
 * two neighbours among those of a hand. */
START_TEST(nobody_foresees_the_next_block)
{
    const struct family *family = &families[PYMEM_DOMAIN_OBJ];
    enum { N = 4000 };
    static unsigned char *blocks[N];
    int in_a_row = 0;
    for (int i = 0; i < N; i++) {
        blocks[i] = family->malloc(80);
        in_a_row += i > 0 && (blocks[i] == blocks[i - 1] + 96
                              || blocks[i] == blocks[i - 1] - 96);
    }
    for (int i = 0; i < N; i++) {
        family->free(blocks[i]);
    }
    ck_assert_int_lt(in_a_row, N / 5);
}
END_TEST

/* A model beside it: random requests, each block with a pattern. */
START_TEST(random_requests)
{
    enum { NBLOCKS = 300, NSTEPS = 200000 };
    static struct { unsigned char *at; size_t size; int domain; } blocks[NBLOCKS];
    Py_ssize_t before = _PyMem_CountHardened();
    memset(blocks, 0, sizeof(blocks));
    for (int step = 0; step < NSTEPS; step++) {
        unsigned i = random_below(NBLOCKS);
        size_t size = random_below(random_below(8) ? 600 : random_below(16) ? 40000 : 200000);
        const struct family *family = &families[blocks[i].domain];
        if (blocks[i].at == NULL) {
            blocks[i].domain = (int)random_below(3);
            blocks[i].at = families[blocks[i].domain].malloc(size);
        }
        else {
            ck_assert(has_pattern(blocks[i].at, blocks[i].size, i));
            if (random_below(3) == 0) {
                size_t kept = size < blocks[i].size ? size : blocks[i].size;
                blocks[i].at = family->realloc(blocks[i].at, size);
                ck_assert(has_pattern(blocks[i].at, kept, i));
            }
            else {
                family->free(blocks[i].at);
                blocks[i].at = NULL;
                continue;
            }
        }
        blocks[i].size = size;
        fill_pattern(blocks[i].at, size, i);
        if (step % 50000 == 0) {
            PyMem_Trim();
        }
    }
    Py_ssize_t nlive = 0;
    for (int i = 0; i < NBLOCKS; i++) {
        nlive += blocks[i].at != NULL;
    }
    ck_assert_int_eq(_PyMem_CountHardened() - before, nlive);
    for (int i = 0; i < NBLOCKS; i++) {
        families[blocks[i].domain].free(blocks[i].at);
    }
    ck_assert_int_eq(_PyMem_CountHardened(), before);
}
END_TEST

/* Threads without the GIL, in the raw domain, and over 512 bytes in the mem domain: each
 * frees what another one asked for. */
enum { NTHREADS = 4, NEXCHANGED = 64 };
static unsigned char *_Atomic exchanged[NEXCHANGED];

static void *
exchange_blocks(void *number)
{
    unsigned n = (unsigned)(uintptr_t)number + 1;
    for (int i = 0; i < 40000; i++) {
        n = n * 1103515245u + 12345u;
        int is_raw = n >> 20 & 1;
        size_t size = is_raw ? n >> 16 & 1023 : 513 + (n >> 16 & 4095);
        unsigned char *given = is_raw ? PyMem_RawMalloc(size) : PyMem_Malloc(size);
        if (given == NULL) {
            abort();
        }
        memset(given, (int)(size & 0xff), size);
        given = atomic_exchange(&exchanged[n >> 8 & (NEXCHANGED - 1)], given);
        PyMem_RawFree(given);
    }
    return NULL;
}

START_TEST(threads_that_free_the_blocks_of_others)
{
    Py_ssize_t before = _PyMem_CountHardened();
    run_threads(NTHREADS, exchange_blocks);
    for (int i = 0; i < NEXCHANGED; i++) {
        PyMem_RawFree(exchanged[i]);
        exchanged[i] = NULL;
    }
    ck_assert_int_eq(_PyMem_CountHardened(), before);
}
END_TEST

/* The same blocks are free before and after, but parent and child take others. */
START_TEST(the_order_of_a_forked_child_is_its_own)
{
    enum { N = 200 };
    unsigned char *mine[N], *childs[N];
    int ends[2];
    PyObject_Free(PyObject_Malloc(200));
    ck_assert_int_eq(pipe(ends), 0);
    pid_t pid = fork();
    if (pid == 0) {
        for (int i = 0; i < N; i++) {
            childs[i] = PyObject_Malloc(200);
        }
        _exit(write(ends[1], childs, sizeof(childs)) != sizeof(childs));
    }
    for (int i = 0; i < N; i++) {
        mine[i] = PyObject_Malloc(200);
    }
    ck_assert_int_eq(read(ends[0], childs, sizeof(childs)), sizeof(childs));
    ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
    ck_assert(memcmp(mine, childs, sizeof(mine)) != 0);
}
END_TEST

static void *
raw_work(void *is_over)
{
    while (!atomic_load((atomic_int *)is_over)) {
        PyMem_RawFree(PyMem_RawMalloc(100));
        PyMem_RawFree(PyMem_RawMalloc(100000));
    }
    return NULL;
}

START_TEST(forks_while_other_threads_have_the_locks)
{
    static atomic_int is_over;
    pthread_t thread;
    pthread_create(&thread, NULL, raw_work, &is_over);
    for (int i = 0; i < 100; i++) {
        pid_t pid = fork();
        if (pid == 0) {
            alarm(20);
            PyMem_RawFree(PyMem_RawMalloc(100));
            PyMem_RawFree(PyMem_RawMalloc(100000));
            _exit(0);
        }
        int status;
        ck_assert_int_eq(waitpid(pid, &status, 0), pid);
        ck_assert_int_eq(status, 0);
    }
    is_over = 1;
    pthread_join(thread, NULL);
}
END_TEST

/* Memory. */

START_TEST(what_is_freed_goes_back)
{
    enum { N = 300000 };
    unsigned char **blocks = malloc(N * sizeof(*blocks));
    for (int i = 0; i < N; i++) {
        blocks[i] = PyObject_Malloc(200);
    }
    size_t full = process_size().resident;
    for (int i = 0; i < N; i++) {
        PyObject_Free(blocks[i]);
    }
    size_t freed = process_size().resident;
    PyMem_Trim();
    ck_assert_uint_lt(freed, full - (size_t)N * 150);
    ck_assert_uint_le(process_size().resident, freed);
    free(blocks);
}
END_TEST

START_TEST(large_blocks_go_back_at_once)
{
    enum { N = 50, SIZE = 1 << 20 };
    unsigned char *blocks[N];
    for (int i = 0; i < N; i++) {
        blocks[i] = memset(PyMem_RawMalloc(SIZE), 1, SIZE);
    }
    size_t full = process_size().resident;
    for (int i = 0; i < N; i++) {
        PyMem_RawFree(blocks[i]);
    }
    ck_assert_uint_lt(process_size().resident, full - (size_t)N * SIZE / 10 * 9);
}
END_TEST

/* By an eighth each time, as a list does. */
START_TEST(a_large_block_that_grows_seldom_moves)
{
    const struct family *family = &families[_i];
    size_t size = 40000;
    int nmoves = 0;
    unsigned char *given = family->malloc(size);
    fill_pattern(given, size, 5);
    while (size < 2000000) {
        size_t larger = size + size / 8;
        unsigned char *grown = family->realloc(given, larger);
        ck_assert_ptr_nonnull(grown);
        ck_assert(has_pattern(grown, size, 5));
        nmoves += grown != given;
        given = grown;
        size = larger;
        fill_pattern(given, size, 5);
    }
    ck_assert_int_le(nmoves, 8);
    family->free(given);
}
END_TEST

/* After 13 pages and 27, of which the last one has room for 54. */
static void
write_behind_what_grew(void *npages)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), size = *(size_t *)npages * page;
    char *volatile grown = PyObject_Realloc(PyObject_Malloc(13 * page), 27 * page);
    grown = PyObject_Realloc(grown, size);
    grown[size] = 1;
}

START_TEST(behind_a_block_that_grew_is_a_guard)
{
    for (size_t npages = 27; npages <= 56; npages++) {
        struct child child = run_child(write_behind_what_grew, &npages);
        ck_assert_int_eq(child.signal, SIGSEGV);
    }
}
END_TEST

START_TEST(requests_that_no_memory_can_serve)
{
    const struct family *family = &families[_i];
    ck_assert(is_out_of_memory(family));
    unsigned char *given = family->malloc(100);
    fill_pattern(given, 100, 3);
    ck_assert_ptr_null(family->realloc(given, (size_t)PY_SSIZE_T_MAX - 10));
    ck_assert(has_pattern(given, 100, 3));
    family->free(given);
}
END_TEST

/* Options are read once, and --with-hardened before main(): start this program anew. */

static const char *program, *options;

static void
with_options(void *act)
{
    setenv("PYMEM_HARDENED", options, 1);
    execl(program, program, act, NULL);
    _exit(99);
}

static char act_free[] = "free", act_write[] = "write behind", act_twice[] = "free twice";

static int
act(const char *what)
{
    _PyMem_SetupAllocators(PYMEM_ALLOCATOR_HARDENED);
    for (int i = 0; i < 10000; i++) {
        PyObject_Free(PyObject_Malloc((size_t)i % 600));
    }
    char *volatile given = PyObject_Malloc(24);
    given[24] ^= strcmp(what, act_write) == 0;
    PyObject_Free(given);
    if (strcmp(what, act_twice) == 0) {
        PyObject_Free(given);
    }
    return 0;
}

START_TEST(options_switch_parts_off)
{
    options = "canary=0";
    struct child child = run_child(with_options, act_write);
    ck_assert_int_eq(child.signal, 0);
    ck_assert_int_eq(child.status, 0);
    options = "quarantine=64K,fill=0,guard=0,foreign=1";
    child = run_child(with_options, act_write);
    assert_fatal(child, "Fatal Python error: _PyMem_Hardened: written behind its end");
    options = "";
    child = run_child(with_options, act_write);
    assert_fatal(child, "    The byte at p+24 is 0x");
}
END_TEST

START_TEST(wrong_options_are_refused)
{
    const char *wrong[] = {"canary", "canary=2", "canary=", "quarantine=much", "colour=1",
                           "fill=01", "guard=1,,fill=1"};
    options = wrong[_i];
    struct child child = run_child(with_options, act_free);
    char text[200];
    snprintf(text, sizeof(text), "Fatal Python error: _PyMem_Hardened: PYMEM_HARDENED is a list "
             "like \"quarantine=1M,canary=0,fill=0,guard=0,foreign=1\", not \"%s\"", options);
    assert_fatal(child, text);
}
END_TEST

START_TEST(without_quarantine_a_second_free_is_found)
{
    options = "quarantine=0";
    struct child child = run_child(with_options, act_twice);
    assert_fatal(child, "Fatal Python error: _PyMem_Hardened: freed twice");
}
END_TEST

/* The raw domain has no GIL, and gives back what the GIL guards all the same.  A slab that
 * nothing is in is cut anew, from another place on. */
enum { NGIVEN = 1000 };
static unsigned char *given_to_thread[NGIVEN];

static void *
free_without_gil(void *unused)
{
    for (int i = 0; i < NGIVEN; i++) {
        PyMem_RawFree(PyMem_RawRealloc(given_to_thread[i], 300));
    }
    return unused;
}

static atomic_int objects_end;

static void *
object_work(void *of_size)
{
    while (!objects_end) {
        void *p = PyObject_Malloc((size_t)of_size);
        memset(p, 1, (size_t)of_size);
        PyObject_Free(p);
    }
    return NULL;
}

/* A thread without the GIL makes an interpreter with one, while the thread that has the GIL
 * goes on. */
START_TEST(a_heap_that_is_shared_while_a_thread_is_in_it)
{
    pthread_t thread;
    Py_ssize_t before = _PyMem_CountHardened();
    pthread_create(&thread, NULL, object_work, (void *)(uintptr_t)40);
    usleep(1000);
    _PyMem_ShareHardened();
    for (int i = 0; i < 200000; i++) {
        void *p = PyObject_Malloc(40);
        memset(p, 2, 40);
        PyObject_Free(p);
    }
    objects_end = 1;
    pthread_join(thread, NULL);
    ck_assert_int_eq(_PyMem_CountHardened(), before);
}
END_TEST

START_TEST(small_blocks_freed_without_the_gil_come_again)
{
    pthread_t thread;
    PyGILState_STATE state = PyGILState_Ensure();
    Py_ssize_t before = _PyMem_CountHardened();
    for (int i = 0; i < NGIVEN; i++) {
        given_to_thread[i] = PyObject_Malloc(290);
    }
    pthread_create(&thread, NULL, free_without_gil, NULL);
    for (int i = 0; i < 100000; i++) {
        PyObject_Free(PyObject_Malloc(290));
    }
    pthread_join(thread, NULL);
    ck_assert_int_eq(_PyMem_CountHardened(), before);
    int ncame_again = 0;
    for (int i = 0; i < 8 * NGIVEN; i++) {
        unsigned char *given = PyObject_Malloc(290);
        for (int j = 0; j < NGIVEN; j++) {
            ncame_again += given <= given_to_thread[j] && given_to_thread[j] < given + 304;
        }
    }
    ck_assert_int_gt(ncame_again, NGIVEN / 2);
    PyGILState_Release(state);
}
END_TEST

/* One byte behind an end is enough, wherever in its block the end is. */
static void
write_behind(void *size)
{
    unsigned char *volatile given = PyObject_Malloc(*(size_t *)size);
    given[*(size_t *)size] ^= 0x40;
    PyObject_Free(given);
}

START_TEST(one_byte_behind_an_end_is_found)
{
    for (size_t size = _i; size <= (size_t)_i + 16; size++) {
        struct child child = run_child(write_behind, &size);
        assert_fatal(child, "Fatal Python error: _PyMem_Hardened: written behind its end");
    }
}
END_TEST

static size_t offset_of_write;

static void
write_after_free(void *size)
{
    unsigned char *volatile given = PyObject_Malloc(*(size_t *)size);
    PyObject_Free(given);
    given[offset_of_write] ^= 0x40;
    for (int i = 0; i < 2000; i++) {
        PyObject_Free(PyObject_Malloc(*(size_t *)size));
    }
    for (int i = 0; i < 2000; i++) {
        PyObject_Malloc(*(size_t *)size);
    }
}

START_TEST(one_byte_of_a_free_block_is_found)
{
    const size_t blocks[] = {15, 100, 500, 4000, 32000};
    for (int i = 0; i < 5; i++) {
        size_t size = blocks[i];
        const size_t offsets[] = {0, size / 2, size};
        for (int j = 0; j < 3; j++) {
            offset_of_write = offsets[j];
            struct child child = run_child(write_after_free, &size);
            assert_fatal(child, "Fatal Python error: _PyMem_Hardened: written after free");
        }
    }
}
END_TEST

static void
free_inside(void *offset)
{
    char *volatile given = PyObject_Malloc(100);
    PyObject_Free(given + *(size_t *)offset);
}

static void
resize_inside(void *offset)
{
    char *volatile given = PyObject_Malloc(100);
    PyObject_Realloc(given + *(size_t *)offset, 110);
}

START_TEST(an_address_inside_a_block_is_no_block)
{
    const size_t offsets[] = {1, 16, 100, 111};
    for (int i = 0; i < 4; i++) {
        size_t offset = offsets[i];
        struct child child = run_child(free_inside, &offset);
        assert_fatal(child, "Fatal Python error: _PyMem_Hardened: inside a block");
        child = run_child(resize_inside, &offset);
        assert_fatal(child, "Fatal Python error: _PyMem_Hardened: inside a block");
    }
}
END_TEST

static void
free_in_both_domains(void *unused)
{
    (void)unused;
    void *volatile given = PyObject_Malloc(24);
    PyMem_RawFree(given);
    PyObject_Free(given);
}

START_TEST(a_second_free_in_another_domain_is_found)
{
    struct child child = run_child(free_in_both_domains, NULL);
    assert_fatal(child, "Fatal Python error: _PyMem_Hardened: freed twice");
}
END_TEST

static Suite *
hardened_suite(void)
{
    Suite *s = suite_create("hardened");
    TCase *tc = tcase_create("hardened");
    tcase_set_timeout(tc, 120);
    tcase_add_checked_fixture(tc, use_hardened, NULL);
    tcase_add_loop_test(tc, blocks_of_any_size_keep_what_is_in_them, 0, 3);
    tcase_add_loop_test(tc, calloc_gives_zeros_after_what_was_freed, 0, 3);
    tcase_add_loop_test(tc, realloc_from_each_size_to_each, 0, 3);
    tcase_add_loop_test(tc, what_is_freed_is_overwritten_and_waits, 0, 3);
    tcase_add_loop_test(tc, requests_that_no_memory_can_serve, 0, 3);
    tcase_add_loop_test(tc, a_large_block_that_grows_seldom_moves, 0, 3);
    tcase_add_test(tc, behind_a_block_that_grew_is_a_guard);
    tcase_add_test(tc, quarantine_is_bounded_and_ends);
    tcase_add_test(tc, nobody_foresees_the_next_block);
    tcase_add_test(tc, random_requests);
    tcase_add_test(tc, threads_that_free_the_blocks_of_others);
    tcase_add_native_test(tc, what_is_freed_goes_back, MEASURES_MEMORY);
    tcase_add_native_test(tc, large_blocks_go_back_at_once, MEASURES_MEMORY);
    tcase_add_test(tc, small_blocks_freed_without_the_gil_come_again);
    tcase_add_test(tc, a_heap_that_is_shared_while_a_thread_is_in_it);
    tcase_add_loop_test(tc, one_byte_behind_an_end_is_found, 0, 1);
    tcase_add_loop_test(tc, one_byte_behind_an_end_is_found, 512, 513);
    tcase_add_test(tc, one_byte_of_a_free_block_is_found);
    tcase_add_test(tc, an_address_inside_a_block_is_no_block);
    tcase_add_test(tc, a_second_free_in_another_domain_is_found);
    suite_add_tcase(s, tc);
    tc = tcase_create("forks");
    tcase_set_timeout(tc, 120);
    tcase_add_checked_fixture(tc, use_hardened, NULL);
    tcase_add_test(tc, the_order_of_a_forked_child_is_its_own);
    tcase_add_native_test(tc, forks_while_other_threads_have_the_locks, FORKS_IN_THREADS);
    suite_add_tcase(s, tc);
    tc = tcase_create("options");
    tcase_add_native_test(tc, options_switch_parts_off, STARTS_ITSELF);
    tcase_add_native_loop_test(tc, wrong_options_are_refused, 0, 7, STARTS_ITSELF);
    tcase_add_native_test(tc, without_quarantine_a_second_free_is_found, STARTS_ITSELF);
    suite_add_tcase(s, tc);
    return s;
}

int
main(int argc, char **argv)
{
    program = argv[0];
    if (argc > 1) {
        return act(argv[1]);
    }
    return run_suite(hardened_suite());
}
