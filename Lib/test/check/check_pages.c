/* Kernels with pages of 16 and 64 KiB, pretended by pages.c: nothing takes a page for
 * smaller than it is.  Objects/virtualforgood.c: memory that stays. */

#include "support.h"
#include "pages.h"
#include "pycore_arenas.h"
#include "pycore_pymem.h"
#include "pycore_virtualmem.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

static const size_t page_sizes[] = {16384, 65536};
static size_t page;

/* Each test in its own process, before that asked for the size. */
static void
pretend(int i)
{
    page = page_sizes[i];
    pages_pretend(page);
    setenv("PYMEM_KEEP", "1G", 1);      /* nothing goes back but by PyMem_Trim() */
    ck_assert_int_eq(_PyMem_SetupAllocators(PYMEM_ALLOCATOR_PYMALLOC), 0);
}

static char *
map(size_t size)
{
    char *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ck_assert_ptr_ne(p, MAP_FAILED);
    return p;
}

#define assert_refused(call) \
    do { \
        errno = 0; \
        ck_assert_int_eq(call, -1); \
        ck_assert_int_eq(errno, EINVAL); \
    } while (0)

/* What is pretended: without this no other test shows anything. */
START_TEST(the_kernel_refuses_parts_of_pages_and_rounds_lengths_up)
{
    pretend(_i);
    unsigned char is_there;
    char *p = map(3 * page);
    ck_assert_uint_eq((uintptr_t)p % page, 0);
    assert_refused(madvise(p + 4096, page, MADV_DONTNEED));
    assert_refused(mincore(p + 4096, 1, &is_there));
    assert_refused(mprotect(p + 4096, page, PROT_READ));
    assert_refused(munmap(p + 4096, page));
    ck_assert_ptr_eq(mmap(p + 4096, page, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
                          -1, 0), MAP_FAILED);
    memset(p, 1, 3 * page);
    ck_assert_int_eq(madvise(p + page, 1, MADV_DONTNEED), 0);
    ck_assert(is_filled(p, page, 1));
    ck_assert(is_filled(p + page, page, 0));
    ck_assert(is_filled(p + 2 * page, page, 1));
    ck_assert_int_eq(munmap(p, 2 * page + 1), 0);
    ck_assert_int_eq(mincore(p + 2 * page, 1, &is_there), -1);
}
END_TEST

START_TEST(the_size_is_asked_once)
{
    pretend(_i);
    ck_assert_uint_eq(virtual_page_size(), page);
    pages_pretend(0);
    ck_assert_uint_eq(virtual_page_size(), page);
}
END_TEST

START_TEST(only_whole_pages_are_forgotten)
{
    pretend(_i);
    char *p = virtual_alloc(4 * page, 1);
    memset(p, 1, 4 * page);
    ck_assert_uint_eq(virtual_purge(p + 1, page), 0);
    ck_assert_uint_eq(virtual_purge(p + 1, 2 * page - 2), 0);
    ck_assert_uint_eq(virtual_purge(p + page, 4096), 0);
    ck_assert(is_filled(p, 4 * page, 1));
    ck_assert_uint_eq(virtual_purge(p + page - 1, page + 2), page);
    ck_assert(is_filled(p, page, 1) && is_filled(p + page, page, 0)
              && is_filled(p + 2 * page, 2 * page, 1));
    ck_assert_uint_eq(virtual_purge(p, 4 * page), 4 * page);
    ck_assert(is_filled(p, 4 * page, 0));
    ck_assert_int_eq(virtual_lend(p + 1, 2 * page - 2), -1);
}
END_TEST

/* The same where a sandbox leaves nothing but to map fresh pages over the old ones. */
START_TEST(only_whole_pages_are_mapped_over)
{
    pretend(_i);
    virtual_confine();
    char *p = virtual_alloc(4 * page, 1);
    memset(p, 1, 4 * page);
    ck_assert_uint_eq(virtual_purge(p + 1, 2 * page - 2), 0);
    ck_assert(is_filled(p, 4 * page, 1));
    ck_assert_uint_eq(virtual_purge(p + page - 1, page + 2), page);
    ck_assert(is_filled(p, page, 1) && is_filled(p + page, page, 0)
              && is_filled(p + 2 * page, 2 * page, 1));
}
END_TEST

/* Of any size and alignment, and nothing of it stays. */
START_TEST(memory_comes_and_goes_whole)
{
    pretend(_i);
    static const size_t sizes[] = {1, 4096, 20000, 65536, 100000, (size_t)5 << 20};
    size_t before = process_size().total;
    for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
        for (size_t alignment = 1; alignment <= (size_t)8 << 20; alignment *= 8) {
            char *p = virtual_alloc(sizes[i], alignment);
            ck_assert_ptr_nonnull(p);
            ck_assert_uint_eq((uintptr_t)p % alignment, 0);
            ck_assert_uint_eq((uintptr_t)p % page, 0);
            ck_assert(is_filled(p, sizes[i], 0));
            memset(p, 1, sizes[i]);
            virtual_free(p, sizes[i]);
        }
    }
    ck_assert_uint_eq(process_size().total, before);
}
END_TEST

/* Blocks of a heap in order of their addresses, so that whole pools become free. */

enum { N = 40000 };
static struct block { unsigned char *ptr; unsigned size; } blocks[N];

static int
by_address(const void *a, const void *b)
{
    uintptr_t x = (uintptr_t)((const struct block *)a)->ptr;
    uintptr_t y = (uintptr_t)((const struct block *)b)->ptr;
    return x < y ? -1 : x > y;
}

static void
take_blocks(unsigned size)
{
    for (unsigned i = 0; i < N; i++) {
        blocks[i] = (struct block){PyObject_Malloc(size), size};
        if (blocks[i].ptr == NULL) {
            ck_abort_msg("no memory");
        }
    }
    qsort(blocks, N, sizeof(*blocks), by_address);
    for (unsigned i = 0; i < N; i++) {
        fill_pattern(blocks[i].ptr, size, i);
    }
}

static void
free_block(unsigned i)
{
    if (blocks[i].ptr != NULL && !has_pattern(blocks[i].ptr, blocks[i].size, i)) {
        ck_abort_msg("block %u was changed", i);
    }
    PyObject_Free(blocks[i].ptr);
    blocks[i].ptr = NULL;
}

static void
all_live_blocks_are_whole(void)
{
    for (unsigned i = 0; i < N; i++) {
        if (blocks[i].ptr != NULL && !has_pattern(blocks[i].ptr, blocks[i].size, i)) {
            ck_abort_msg("block %u was changed", i);
        }
    }
}

/* Free the blocks of every other run of a number of pools. */
static void
free_runs(unsigned npools, size_t pool_size)
{
    for (unsigned i = 0; i < N; i++) {
        if ((uintptr_t)blocks[i].ptr / (npools * pool_size) % 2 != 0) {
            free_block(i);
        }
    }
}

static void
expect_trim(unsigned size, size_t pool_size, size_t arena_size)
{
    for (unsigned npools = 1; npools <= 16; npools *= 2) {
        take_blocks(size);
        free_runs(npools, pool_size);
        size_t nbytes = PyMem_Trim();
        ck_assert_uint_eq(nbytes % page, 0);
        /* Each run has a whole page.  A run of a whole arena went back before. */
        if (npools * pool_size >= 2 * page && npools * pool_size < arena_size) {
            ck_assert_uint_gt(nbytes, N / 4 * size / 2);
        }
        all_live_blocks_are_whole();
        for (unsigned i = 0; i < N; i++) {
            if (blocks[i].ptr == NULL) {            /* what went is usable again */
                blocks[i].ptr = PyObject_Malloc(size);
                fill_pattern(blocks[i].ptr, size, i);
            }
        }
        all_live_blocks_are_whole();
        for (unsigned i = 0; i < N; i++) {
            free_block(i);
        }
    }
}

START_TEST(trim_takes_no_live_block)
{
    pretend(_i);
    expect_trim(512, POOL_SIZE, ARENA_SIZE);
    expect_trim(48, POOL_SIZE, ARENA_SIZE);
    expect_trim(4000, MEDIUM_POOL_SIZE, MEDIUM_ARENA_SIZE);
}
END_TEST

START_TEST(trim_takes_no_live_block_of_a_random_heap)
{
    pretend(_i);
    for (unsigned of_100 = 90; of_100 <= 99; of_100 += 3) {
        take_blocks(300);
        for (unsigned i = 0; i < N; i++) {
            if (random_below(100) < of_100) {
                free_block(i);
            }
        }
        PyMem_Trim();
        for (unsigned i = 0; i < N; i++) {
            free_block(i);
        }
    }
}
END_TEST

/* Blocks of 64 KiB and more, of which the hooks ask whether their end is mapped. */
START_TEST(debug_hooks_take_every_size_for_possible)
{
    pretend(_i);
    static const PyMemAllocatorName names[] = {
        PYMEM_ALLOCATOR_PYMALLOC_DEBUG, PYMEM_ALLOCATOR_MALLOC_DEBUG};
    for (size_t n = 0; n < 2; n++) {
        ck_assert_int_eq(_PyMem_SetupAllocators(names[n]), 0);
        for (int f = 0; f < 3; f++) {
            const struct family *family = &families[f];
            for (size_t size = 65000; size < (size_t)40 << 20; size += size / 3) {
                char *p = family->malloc(size);
                p[size - 1] = 1;
                p = family->realloc(p, size + size / 2);
                p = family->realloc(p, size + 1);
                ck_assert_int_eq(p[size - 1], 1);
                family->free(p);
            }
        }
    }
}
END_TEST

static void
free_with_wrong_size(void *unused)
{
    (void)unused;
    PyMem_SetupDebugHooks();
    unsigned char *p = PyMem_RawMalloc(100);
    p[-16 + 2] = 0x7f;          /* of the eight bytes of its size */
    PyMem_RawFree(p);
}

START_TEST(a_size_that_is_impossible_is_still_found)
{
    pretend(_i);
    struct child child = run_child(free_with_wrong_size, NULL);
    ck_assert_int_eq(child.signal, SIGABRT);
}
END_TEST

enum { NTHREADS = 8, EACH = 300 };
struct piece { unsigned char *ptr; size_t size; };
static struct piece pieces[NTHREADS * EACH];

static void *
take_pieces(void *first)
{
    struct piece *piece = first;
    for (unsigned i = 0; i < EACH; i++) {
        size_t size = i % 7 == 0 ? 16384 : 1 + i * 13 % 5000;
        unsigned char *p = virtual_alloc_for_good(size);
        if (p == NULL || (uintptr_t)p % 128 != 0 || !is_filled(p, size, 0)) {
            return first;
        }
        memset(p, (int)(1 + (size_t)(piece + i - pieces) % 255), size);
        piece[i] = (struct piece){p, size};
    }
    return NULL;
}

START_TEST(what_stays_for_ever_shares_pages_and_no_byte)
{
    pretend(_i);
    pthread_t threads[NTHREADS];
    size_t sum = 0, before = process_size().total;
    for (size_t i = 0; i < NTHREADS; i++) {
        pthread_create(&threads[i], NULL, take_pieces, pieces + i * EACH);
    }
    for (size_t i = 0; i < NTHREADS; i++) {
        void *failed;
        pthread_join(threads[i], &failed);
        ck_assert_ptr_null(failed);
    }
    for (size_t i = 0; i < NTHREADS * EACH; i++) {
        sum += pieces[i].size;
        if (!is_filled(pieces[i].ptr, pieces[i].size, (unsigned char)(1 + i % 255))) {
            ck_abort_msg("piece %zu was changed", i);
        }
    }
    /* With the stacks of the threads, which the C library keeps. */
    ck_assert_uint_le(process_size().total - before, 2 * sum + (200u << 20));
}
END_TEST

static void *
live_in_thread(void *unused)
{
    for (int i = 0; i < 1000; i++) {
        char *p = PyMem_Malloc(600 + random_below(20000));
        memset(p, 1, 600);
        PyMem_Free(p);
    }
    return unused;
}

static unsigned
count_mappings(void)
{
    unsigned n = 0;
    FILE *file = fopen("/proc/self/maps", "r");
    for (int c; (c = getc(file)) != EOF; n += c == '\n') {
    }
    fclose(file);
    return n;
}

/* The heap of a thread, and its objects for arenas, have no mappings of their own. */
START_TEST(a_heap_takes_no_page_for_itself)
{
    pretend(_i);
    unsigned before = count_mappings();
    for (int i = 0; i < 50; i++) {
        pthread_t thread;
        pthread_create(&thread, NULL, live_in_thread, NULL);
        pthread_join(thread, NULL);
        heap_new(i);            /* which an interpreter would have */
    }
    ck_assert_uint_le(count_mappings(), before + 20);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("pages");
    TCase *tc = tcase_create("pages");
    tcase_set_timeout(tc, 120);
    tcase_set_tags(tc, "system");
    suite_add_tcase(suite, tc);
#define ADD(test) tcase_add_loop_test(tc, test, 0, 2)
    ADD(the_kernel_refuses_parts_of_pages_and_rounds_lengths_up);
    ADD(the_size_is_asked_once);
    ADD(only_whole_pages_are_forgotten);
    ADD(only_whole_pages_are_mapped_over);
    ADD(memory_comes_and_goes_whole);
    ADD(trim_takes_no_live_block);
    ADD(trim_takes_no_live_block_of_a_random_heap);
    ADD(debug_hooks_take_every_size_for_possible);
    ADD(a_size_that_is_impossible_is_still_found);
    ADD(what_stays_for_ever_shares_pages_and_no_byte);
    ADD(a_heap_takes_no_page_for_itself);
    return run_suite(suite);
}
