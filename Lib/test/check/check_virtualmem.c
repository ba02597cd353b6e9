/* Objects/virtualmem.c: pages, and the arena allocator as a value. */

#include "support.h"
#include "pycore_geometry.h"
#include "pycore_virtualmem.h"

START_TEST(memory_is_zeroed_and_aligned)
{
    const size_t alignments[] = {4096, 65536, ARENA_SIZE, 4 * ARENA_SIZE};
    for (int i = 0; i < 4; i++) {
        for (int round = 0; round < 3; round++) {
            size_t size = ARENA_SIZE + (size_t)round * 4096;
            unsigned char *p = virtual_alloc(size, alignments[i]);
            ck_assert_ptr_nonnull(p);
            ck_assert_uint_eq((uintptr_t)p % alignments[i], 0);
            ck_assert_uint_eq(p[0], 0);
            ck_assert_uint_eq(p[size - 1], 0);
            memset(p, 1, size);
            virtual_free(p, size);
        }
    }
}
END_TEST

START_TEST(too_much_is_refused)
{
    ck_assert_ptr_null(virtual_alloc(SIZE_MAX / 2 & ~(size_t)4095, 4096));
    ck_assert_ptr_null(virtual_alloc(SIZE_MAX / 2 & ~(size_t)4095, ARENA_SIZE));
}
END_TEST

START_TEST(default_arenas_are_aligned_to_their_size)
{
    PyObjectArenaAllocator alloc;
    PyObject_GetArenaAllocator(&alloc);
    void *arenas[20];
    for (int i = 0; i < 20; i++) {
        arenas[i] = alloc.alloc(alloc.ctx, ARENA_SIZE);
        ck_assert_uint_eq((uintptr_t)arenas[i] % ARENA_SIZE, 0);
        ((char *)arenas[i])[ARENA_SIZE - 1] = 1;
    }
    for (int i = 0; i < 20; i++) {
        alloc.free(alloc.ctx, arenas[i], ARENA_SIZE);
    }
}
END_TEST

struct seen {
    size_t size;
    void *freed;
    size_t freed_size;
};

static char somewhere[1000];

static void *
seen_alloc(void *ctx, size_t size)
{
    ((struct seen *)ctx)->size = size;
    return size <= sizeof(somewhere) ? somewhere : NULL;
}

static void
seen_free(void *ctx, void *ptr, size_t size)
{
    struct seen *seen = ctx;
    seen->freed = ptr;
    seen->freed_size = size;
}

START_TEST(virtual_memory_goes_through_the_arena_allocator)
{
    void *p = _PyObject_VirtualAlloc(16384);
    ck_assert_ptr_nonnull(p);
    memset(p, 1, 16384);
    _PyObject_VirtualFree(p, 16384);

    struct seen seen = {0, NULL, 0};
    PyObjectArenaAllocator mine = {&seen, seen_alloc, seen_free}, got, old;
    PyObject_GetArenaAllocator(&old);
    PyObject_SetArenaAllocator(&mine);
    PyObject_GetArenaAllocator(&got);
    ck_assert_ptr_eq(got.ctx, &seen);
    ck_assert(got.alloc == seen_alloc && got.free == seen_free);
    ck_assert_ptr_eq(_PyObject_VirtualAlloc(500), somewhere);
    ck_assert_uint_eq(seen.size, 500);
    ck_assert_ptr_null(_PyObject_VirtualAlloc(5000));
    _PyObject_VirtualFree(somewhere, 500);
    ck_assert_ptr_eq(seen.freed, somewhere);
    ck_assert_uint_eq(seen.freed_size, 500);
    PyObject_SetArenaAllocator(&old);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("virtualmem");
    TCase *tc = tcase_create("virtualmem");
    suite_add_tcase(suite, tc);
    tcase_add_test(tc, memory_is_zeroed_and_aligned);
    tcase_add_test(tc, too_much_is_refused);
    tcase_add_test(tc, default_arenas_are_aligned_to_their_size);
    tcase_add_test(tc, virtual_memory_goes_through_the_arena_allocator);
    return run_suite(suite);
}
