/* Objects/virtualmem.c where a process has no more mappings (vm.max_map_count): what
 * malloc still serves is served, and what can't be unmapped is neither lost nor kept. */

#include "support.h"
#include "pycore_geometry.h"
#include "pycore_virtualmem.h"
#ifdef WITH_PYMALLOC
#  include "pycore_arenas.h"
#endif

#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

static long
most_mappings(void)
{
    long most = -1;
    FILE *file = fopen("/proc/sys/vm/max_map_count", "r");
    if (file != NULL) {
        if (fscanf(file, "%ld", &most) != 1) {
            most = -1;
        }
        fclose(file);
    }
    return most;
}

static char *pages[1 << 21];
static size_t npages;

/* In a child of a fork malloc's heap grows by a mapping of its own at first, as that of
 * the parent is not added to. */
static void
let_malloc_begin(void)
{
    for (int i = 0; i < 20; i++) {
        static void *kept;
        ck_assert_ptr_nonnull(kept = malloc(100000));
        *(char *)kept = 1;
    }
}

/* A page that can't become one mapping with the one before it; 0: there can be no more. */
static int
use_one_mapping(void)
{
    int protection = npages % 2 == 0 ? PROT_NONE : PROT_READ;
    void *page = mmap(NULL, 4096, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED) {
        return 0;
    }
    pages[npages++] = page;
    return 1;
}

/* Until there can be so many more. */
static void
use_up_mappings(size_t left)
{
    let_malloc_begin();
    while (npages < sizeof(pages) / sizeof(*pages) && use_one_mapping()) {
    }
    ck_assert_int_eq(errno, ENOMEM);
    while (left-- > 0) {
        munmap(pages[--npages], 4096);
    }
}

static void
release_mappings(void)
{
    while (npages > 0) {
        munmap(pages[--npages], 4096);
    }
}

static int
can_be_used_up(void)
{
#ifndef __GLIBC__
    puts("left out: mappings: the malloc of musl has no heap that grows without a mapping");
    return 0;
#endif
    long most = most_mappings();
    return most > 0 && (size_t)most < sizeof(pages) / sizeof(*pages);
}

/* Blocks of every kind that the C library has from its heap, and not from the system. */

enum { N = 20000 };
static unsigned char *blocks[N];
static const size_t sizes[] = {1, 16, 100, 512, 24, 600, 48, 2000, 9000, 300, 32000, 77};

static size_t
size_of(size_t i)
{
    return i % 64 == 0 ? 50000 : sizes[i % 12];
}

static const struct family *
family_of(size_t i)
{
    return &families[i % 3];
}

static void
fill(void)
{
    for (size_t i = 0; i < N; i++) {
        blocks[i] = i % 5 == 0 ? family_of(i)->calloc(1, size_of(i))
            : family_of(i)->malloc(size_of(i));
        ck_assert_msg(blocks[i] != NULL, "block %zu", i);
        ck_assert(i % 5 != 0 || is_filled(blocks[i], size_of(i), 0));
        fill_pattern(blocks[i], size_of(i), (unsigned)i);
    }
}

static void
resize_and_free(void)
{
    for (size_t i = 0; i < N; i += 7) {
        size_t size = size_of(i) / 2 + 40;
        blocks[i] = family_of(i)->realloc(blocks[i], size);
        ck_assert_ptr_nonnull(blocks[i]);
        size_t same = size < size_of(i) ? size : size_of(i);
        ck_assert(has_pattern(blocks[i], same, (unsigned)i));
        fill_pattern(blocks[i], size_of(i) < size ? size_of(i) : size, (unsigned)i);
    }
    for (size_t i = 0; i < N; i++) {
        size_t size = i % 7 == 0 ? size_of(i) / 2 + 40 : size_of(i);
        size_t same = size < size_of(i) ? size : size_of(i);
        ck_assert(has_pattern(blocks[i], same, (unsigned)i));
        family_of(i)->free(blocks[i]);
    }
}

/* Its heap can grow as long as there is one. */
START_TEST(with_one_mapping_left_malloc_serves)
{
    if (!can_be_used_up()) {
        return;
    }
    fill();
    resize_and_free();
    Py_ssize_t before = _Py_GetAllocatedBlocks();   /* some that the debug hooks keep */
    PyMem_Trim();
    for (size_t left = 1; left <= 4; left *= 2) {
        use_up_mappings(left);
        fill();
        resize_and_free();
        ck_assert_int_eq(_Py_GetAllocatedBlocks(), before);
        release_mappings();
        fill();
        resize_and_free();
        ck_assert_int_eq(_Py_GetAllocatedBlocks(), before);
        PyMem_Trim();
    }
}
END_TEST

#if defined(WITH_PYMALLOC) && !defined(WITH_RAW_MIMALLOC)

static size_t
arenas_now(void)
{
    return main_heap.small_arenas.ncurrent;
}

/* The first requests that it refuses are not the last ones that it is asked for.  (Not
 * where mimalloc is to serve what no arena can be had for: its first block takes more than
 * one mapping.) */
START_TEST(arenas_come_again_when_there_are_mappings_again)
{
    static void *small[200000];
    enum { NSMALL = 200000, SIZE = 500 };
    if (!can_be_used_up() || main_heap.small_arenas.arena_size == 0) {
        return;
    }
    use_up_mappings(1);
    size_t before = arenas_now();
    for (int i = 0; i < NSMALL / 2; i++) {
        ck_assert_ptr_nonnull(small[i] = PyObject_Malloc(SIZE));
    }
    ck_assert_uint_eq(arenas_now(), before);
    release_mappings();
    for (int i = NSMALL / 2; i < NSMALL; i++) {
        ck_assert_ptr_nonnull(small[i] = PyObject_Malloc(SIZE));
    }
    if (strcmp(_PyMem_GetCurrentAllocatorName(), "pymalloc") == 0) {
        ck_assert_uint_gt(arenas_now(), NSMALL / 2 * SIZE / ARENA_SIZE - 2);
    }
    for (int i = 0; i < NSMALL; i++) {
        PyObject_Free(small[i]);
    }
}
END_TEST

#endif

/* Is a page in memory? */
static int
is_resident(char *page)
{
    unsigned char in_memory = 0;
    return mincore(page, 4096, (void *)&in_memory) == 0 && (in_memory & 1);
}

static int
is_mapped(char *page)
{
    unsigned char in_memory;
    return mincore(page, 4096, (void *)&in_memory) == 0;
}

/* Three next to each other are one mapping, and without the one in the middle two. */
static void
get_three(char *three[3])
{
    three[0] = three[1] = three[2] = NULL;
    do {
        char *one = virtual_alloc(ARENA_SIZE, ARENA_SIZE);
        three[0] = three[1];
        three[1] = three[2];
        three[2] = one;
    } while (three[0] != three[1] + ARENA_SIZE || three[1] != three[2] + ARENA_SIZE);
    for (int i = 0; i < 3; i++) {
        memset(three[i], i + 1, ARENA_SIZE);
    }
}

START_TEST(what_cant_be_unmapped_is_used_again)
{
    char *three[3];
    if (!can_be_used_up()) {
        return;
    }
    get_three(three);
    use_up_mappings(1);
    errno = 77;
    virtual_free(three[1], ARENA_SIZE);
    ck_assert_int_eq(errno, 77);
    ck_assert(is_mapped(three[1] + ARENA_SIZE / 2));
    ck_assert(virtual_is_confined() || !is_resident(three[1] + ARENA_SIZE / 2));
    ck_assert(virtual_is_confined()
              || !is_resident(three[1] + ARENA_SIZE - virtual_page_size()));
    ck_assert_ptr_eq(virtual_alloc(ARENA_SIZE, ARENA_SIZE), three[1]);
    ck_assert(is_filled(three[1], ARENA_SIZE, 0));
    ck_assert(is_filled(three[0], ARENA_SIZE, 1) && is_filled(three[2], ARENA_SIZE, 3));
    release_mappings();
}
END_TEST

START_TEST(what_cant_be_unmapped_is_unmapped_later)
{
    char *three[3];
    if (!can_be_used_up()) {
        return;
    }
    get_three(three);
    use_up_mappings(1);
    virtual_free(three[1], ARENA_SIZE);
    ck_assert_ptr_null(virtual_alloc(4096, 4096));
    ck_assert(is_mapped(three[1]));
    release_mappings();
    char *page = virtual_alloc(4096, 4096);
    ck_assert_ptr_nonnull(page);
    ck_assert(!is_mapped(three[1]) || page == three[1]);
    ck_assert(!is_mapped(three[1] + ARENA_SIZE / 2) || page == three[1] + ARENA_SIZE / 2);
    ck_assert(is_filled(three[0], ARENA_SIZE, 1) && is_filled(three[2], ARENA_SIZE, 3));
}
END_TEST

START_TEST(what_cant_be_unmapped_is_used_again_where_it_is_aligned)
{
    char *three[3];
    if (!can_be_used_up()) {
        return;
    }
    get_three(three);
    use_up_mappings(1);
    virtual_free(three[1] + virtual_page_size(), ARENA_SIZE / 2);
    char *half = virtual_alloc(ARENA_SIZE / 2, ARENA_SIZE / 2);
    ck_assert_uint_eq((uintptr_t)half % (ARENA_SIZE / 2), 0);
    ck_assert(is_filled(three[1] + ARENA_SIZE / 2 + virtual_page_size(),
                        ARENA_SIZE / 2 - virtual_page_size(), 2));
    release_mappings();
}
END_TEST

/* The hole makes two mappings of one. */
START_TEST(a_hole_takes_none_of_the_last_mappings)
{
    char *three[3];
    if (!can_be_used_up() || virtual_is_confined()) {
        return;
    }
    for (size_t left = 3; left <= 5; left++) {
        get_three(three);
        use_up_mappings(left);
        errno = 77;
        virtual_free(three[1], ARENA_SIZE);
        ck_assert_int_eq(errno, 77);
        ck_assert_int_eq(is_mapped(three[1]), left == 3);
        ck_assert(left != 3 || !is_resident(three[1] + ARENA_SIZE / 2));
        ck_assert(is_filled(three[0], ARENA_SIZE, 1) && is_filled(three[2], ARENA_SIZE, 3));
        for (int i = 0; i < 3; i++) {
            ck_assert_msg(use_one_mapping(), "%d of %zu", i, left);
        }
        if (left == 3) {
            ck_assert_ptr_eq(virtual_alloc(ARENA_SIZE, ARENA_SIZE), three[1]);
            ck_assert(is_filled(three[1], ARENA_SIZE, 0));
        }
        release_mappings();
    }
}
END_TEST

/* And is no fault of the program, whose errno it leaves. */
START_TEST(the_last_mapping_is_refused)
{
    if (!can_be_used_up()) {
        return;
    }
    errno = 77;
    char *ptr = virtual_alloc(ARENA_SIZE, ARENA_SIZE);
    ck_assert_ptr_nonnull(ptr);
    ck_assert_int_eq(errno, 77);
    use_up_mappings(1);
    void *page = virtual_alloc(4096, 4096);
    ck_assert_ptr_null(page);
    void *last = mmap(NULL, 4096, PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ck_assert(last != MAP_FAILED);
    release_mappings();
}
END_TEST

/* A part of it that may be written to is a mapping among others, so a larger part is. */
START_TEST(a_table_takes_no_last_mapping)
{
    enum { SIZE = 1 << 24, STEP = 1 << 18 };
    if (!can_be_used_up() || virtual_is_confined()) {
        return;
    }
    char *table = virtual_reserve(SIZE, 1);
    ck_assert_ptr_nonnull(table);
    for (size_t left = 1; left <= 5; left++) {
        char *other = virtual_reserve(SIZE, 1);
        ck_assert_ptr_nonnull(other);
        use_up_mappings(left);
        ck_assert(left > 3 || virtual_reserve(SIZE, 1) == NULL);
        for (size_t offset = 0; offset < SIZE; offset += STEP) {
            ck_assert_int_eq(virtual_commit(other, SIZE, offset), 0);
            other[offset] = 1;
        }
        /* Of two, to ask how many there are can take one. */
        for (size_t i = left < 3 ? 1 : 3; i > 0; i--) {
            ck_assert_msg(use_one_mapping(), "%zu of %zu", i, left);
        }
        for (size_t offset = 0; offset < SIZE; offset += 4096) {
            ck_assert_int_eq(other[offset], offset % STEP == 0);
        }
        virtual_free_table(other, SIZE);
        release_mappings();
    }
    ck_assert(is_filled(table, SIZE, 0));
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("mappings");
    TCase *tc = tcase_create("mappings");
    suite_add_tcase(suite, tc);
    tcase_set_timeout(tc, 60);
    tcase_set_tags(tc, "system");
    tcase_add_test(tc, with_one_mapping_left_malloc_serves);
#if defined(WITH_PYMALLOC) && !defined(WITH_RAW_MIMALLOC)
    tcase_add_test(tc, arenas_come_again_when_there_are_mappings_again);
#endif
    tcase_add_test(tc, what_cant_be_unmapped_is_used_again);
    tcase_add_test(tc, what_cant_be_unmapped_is_used_again_where_it_is_aligned);
    tcase_add_test(tc, what_cant_be_unmapped_is_unmapped_later);
    tcase_add_test(tc, a_hole_takes_none_of_the_last_mappings);
    tcase_add_test(tc, the_last_mapping_is_refused);
    tcase_add_test(tc, a_table_takes_no_last_mapping);
    return run_suite(suite);
}
