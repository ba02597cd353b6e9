/* Objects/virtualmem.c and virtualmove.c: pages, and the arena allocator as a value. */

#include "support.h"
#include "pycore_geometry.h"
#include "pycore_virtualmem.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

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
    ck_assert_ptr_null(virtual_alloc(SIZE_MAX & ~(size_t)0xffff, 4096));
    ck_assert_ptr_null(virtual_alloc(SIZE_MAX & ~(size_t)0xffff, ARENA_SIZE));
#if UINTPTR_MAX > 0xFFFFFFFFu       /* of 32 bits half may be free */
    ck_assert_ptr_null(virtual_alloc(SIZE_MAX / 2 & ~(size_t)4095, 4096));
    ck_assert_ptr_null(virtual_alloc(SIZE_MAX / 2 & ~(size_t)4095, ARENA_SIZE));
#endif
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

/* Each place has records for good, so places must not become more and more. */

enum { MOST_PLACES = 1000 };
static void *seen_places[MOST_PLACES];
static unsigned nplaces;

static void *
alloc_at_a_place(PyObjectArenaAllocator *alloc)
{
    errno = EDOM;
    void *arena = alloc->alloc(alloc->ctx, ARENA_SIZE);
    ck_assert_ptr_nonnull(arena);
    ck_assert_int_eq(errno, EDOM);          /* it is the program's */
    unsigned i = 0;
    while (i < nplaces && seen_places[i] != arena) {
        i++;
    }
    if (i == nplaces) {
        ck_assert_uint_lt(nplaces, MOST_PLACES);
        seen_places[nplaces++] = arena;
    }
    return arena;
}

START_TEST(arenas_of_a_next_peak_are_where_those_before_were)
{
    enum { ARENAS = 40 };
    PyObjectArenaAllocator alloc;
    PyObject_GetArenaAllocator(&alloc);
    void *arenas[ARENAS];
    for (unsigned peak = 0; peak < 100; peak++) {
        for (unsigned i = 0; i < ARENAS; i++) {
            arenas[i] = alloc_at_a_place(&alloc);
        }
        for (unsigned i = 0; i < ARENAS; i++) {
            unsigned k = (unsigned[]){i, ARENAS - 1 - i, i * 7 % ARENAS}[peak % 3];
            alloc.free(alloc.ctx, arenas[k], ARENA_SIZE);
        }
    }
    ck_assert_uint_le(nplaces, ARENAS + 10);
}
END_TEST

START_TEST(arenas_that_come_and_go_share_few_places)
{
    enum { ARENAS = 64 };
    PyObjectArenaAllocator alloc;
    PyObject_GetArenaAllocator(&alloc);
    void *arenas[ARENAS] = {NULL};
    for (unsigned step = 0; step < 20000; step++) {
        void **arena = &arenas[random_below(ARENAS)];
        if (*arena == NULL) {
            *arena = alloc_at_a_place(&alloc);
        }
        else {
            alloc.free(alloc.ctx, *arena, ARENA_SIZE);
            *arena = NULL;
        }
    }
    for (unsigned i = 0; i < ARENAS; i++) {
        if (arenas[i] != NULL) {
            alloc.free(alloc.ctx, arenas[i], ARENA_SIZE);
        }
    }
    ck_assert_uint_le(nplaces, ARENAS + 10);
}
END_TEST

static void
take_arenas_in_huge_pages(void *arg)
{
    if (arg != NULL) {
        setenv("PYTHON_PYMALLOC_HUGEPAGES", arg, 1);
    }
    PyObjectArenaAllocator alloc;
    PyObject_GetArenaAllocator(&alloc);
    enum { N = 20 };
    char *arenas[N];
    int aligned = 1;
    for (int i = 0; i < N; i++) {
        arenas[i] = alloc.alloc(alloc.ctx, ARENA_SIZE);
        aligned &= (uintptr_t)arenas[i] % ARENA_SIZE == 0;
        memset(arenas[i], i + 1, ARENA_SIZE);
    }
    size_t huge = bytes_in_huge_pages();
    for (int i = 0; i < N; i++) {
        aligned &= is_filled(arenas[i], ARENA_SIZE, (unsigned char)(i + 1));
        alloc.free(alloc.ctx, arenas[i], ARENA_SIZE);
    }
    fprintf(stderr, "aligned=%d huge=%d", aligned, huge >= 8 * ARENA_SIZE);
}

/* Does the system give huge pages to who asks for them? */
static int
system_has_huge_pages(void)
{
    char line[100] = "";
    FILE *file = fopen("/sys/kernel/mm/transparent_hugepage/enabled", "r");
    if (file != NULL) {
        if (fgets(line, sizeof(line), file) == NULL) {
            line[0] = '\0';
        }
        fclose(file);
    }
    return strstr(line, "[madvise]") != NULL;
}

#ifdef PYMALLOC_USE_HUGEPAGES
static const int environment_is_heeded = 1;
#else
static const int environment_is_heeded = 0;
#endif

static void
expect_huge_pages(char *value, int expected)
{
    struct child child = run_child(take_arenas_in_huge_pages, value);
    const char *text = expected ? "aligned=1 huge=1" : "aligned=1 huge=0";
    if (!system_has_huge_pages()) {
        text = "aligned=1 huge=";       /* whatever it says next */
    }
    ck_assert_msg(strstr(child.text, text) == child.text, "%s: %s",
                  value != NULL ? value : "as it is", child.text);
}

/* The list is what CPython 3.15 makes of these values. */
START_TEST(huge_pages_are_used_when_they_are_asked_for)
{
    static char *on[] = {"1", "2", "-1", " 1", "1 ", "+1", "01", "0x1", "0 ", "yes",
                         "1.5", "99999999999999999999"};
    static char *off[] = {"", "0", "00", "-0", " 0"};
    for (size_t i = 0; i < sizeof(on) / sizeof(*on); i++) {
        expect_huge_pages(on[i], environment_is_heeded);
    }
    for (size_t i = 0; i < sizeof(off) / sizeof(*off); i++) {
        expect_huge_pages(off[i], 0);
    }
}
END_TEST

/* In the classic geometry small and medium arenas have not the same size. */
static void
take_arenas_of_two_sizes(void *unused)
{
    (void)unused;
    setenv("PYTHON_PYMALLOC_HUGEPAGES", "1", 1);
    PyObjectArenaAllocator alloc;
    PyObject_GetArenaAllocator(&alloc);
    enum { N = 60 };
    char *arenas[N], *end = NULL;
    size_t sizes[N], before = process_size().total;
    int aligned = 1, neighbours = 0;
    for (int i = 0; i < N; i++) {
        sizes[i] = i % 3 == 1 ? MEDIUM_ARENA_SIZE : ARENA_SIZE;
        arenas[i] = alloc.alloc(alloc.ctx, sizes[i]);
        aligned &= (uintptr_t)arenas[i] % sizes[i] == 0;
        neighbours += arenas[i] == end;
        end = arenas[i] + sizes[i];
    }
    for (int i = 0; i < N; i++) {
        alloc.free(alloc.ctx, arenas[i], sizes[i]);
    }
    fprintf(stderr, "aligned=%d shared=%d left=%d", aligned, neighbours >= N / 4,
            process_size().total > before + ((size_t)4 << 20));
}

START_TEST(arenas_of_any_size_share_a_huge_page)
{
    struct child child = run_child(take_arenas_of_two_sizes, NULL);
    ck_assert_str_eq(child.text, environment_is_heeded
                     ? "aligned=1 shared=1 left=0" : "aligned=1 shared=0 left=0");
}
END_TEST

/* So that tests in an environment that asks for huge pages do run in them. */
START_TEST(an_environment_of_tests_that_asks_for_huge_pages)
{
    const char *value = getenv("PYTHON_PYMALLOC_HUGEPAGES");
    expect_huge_pages(NULL, environment_is_heeded && value != NULL
                      && strcmp(value, "1") == 0);
}
END_TEST

/* A sandbox that does this at all that we call but mmap and munmap; 0 where the system has
 * none. */
static int
enter_sandbox(uint32_t action)
{
#define NO(call) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_##call, 0, 1), \
                 BPF_STMT(BPF_RET | BPF_K, action)
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        NO(madvise), NO(mincore), NO(sched_yield), NO(prctl), NO(mprotect),
        NO(gettid), NO(getrusage), NO(prlimit64),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)
    };
    struct sock_fprog program = {sizeof(code) / sizeof(*code), code};
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
        && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

/* Tables. */

enum { TABLE = 5 * 65536 + 1000 };

/* What is written to stays when other parts become writable, and when the same does. */
static int
table_is_usable(void)
{
    static const size_t places[] = {70000, 0, 65536, TABLE - 1, 200000, 70001, 131071};
    enum { N = sizeof(places) / sizeof(*places) };
    unsigned char *table = virtual_reserve(TABLE, (size_t)1 << 20);
    int is_right = table != NULL && (uintptr_t)table % ((size_t)1 << 20) == 0
        && is_filled(table, TABLE, 0);
    for (size_t i = 0; is_right && i < N; i++) {
        is_right = virtual_commit(table, TABLE, places[i]) == 0;
        table[places[i]] = (unsigned char)(i + 1);
        for (size_t k = 0; k <= i; k++) {
            is_right &= table[places[k]] == k + 1;
        }
    }
    virtual_free_table(table, TABLE);
    return is_right;
}

START_TEST(a_table_is_written_to_part_by_part)
{
    size_t before = process_size().total;
    ck_assert(table_is_usable());
    ck_assert_uint_eq(process_size().total, before);
}
END_TEST

static void
write_beside_what_is_committed(void *unused)
{
    (void)unused;
    char *table = virtual_reserve(TABLE, 1);
    virtual_commit(table, TABLE, 100);
    table[65535] = 1;
    fputs("here", stderr);
    table[65536] = 1;
}

START_TEST(what_is_not_committed_is_not_written_to)
{
    struct child child = run_child(write_beside_what_is_committed, NULL);
    ck_assert_str_eq(child.text, "here");
    ck_assert_int_eq(child.signal, SIGSEGV);
}
END_TEST

START_TEST(a_table_takes_no_memory_where_all_is_locked)
{
    enum { LARGE = 64 << 20 };
    if (mlockall(MCL_CURRENT | MCL_FUTURE) < 0) {
        ck_assert(errno == EPERM || errno == ENOMEM || errno == ENOSYS);
        return;         /* it takes a right, or a limit that allows it */
    }
    size_t before = process_size().resident;
    char *table = virtual_reserve(LARGE, 1);
    ck_assert_ptr_nonnull(table);
    ck_assert_uint_le(process_size().resident, before + (1 << 20));
    ck_assert_int_eq(virtual_commit(table, LARGE, LARGE / 2), 0);
    table[LARGE / 2] = 1;
    ck_assert_int_eq(mlockall(MCL_CURRENT | MCL_FUTURE), 0);
    ck_assert_uint_le(process_size().resident, before + (1 << 20));
    ck_assert_uint_eq((size_t)table[LARGE / 2 + 1], 0);
    size_t purged = virtual_purge(virtual_alloc(1 << 20, 1), 1 << 20);
    ck_assert_uint_eq(purged, 0);       /* nothing went */
    munlockall();
}
END_TEST

static void
enter_and_leave(void *unused)
{
    (void)unused;
    fprintf(stderr, "%d", enter_sandbox(SECCOMP_RET_ALLOW));
}

/* What a heap of 60 MiB does in its life, and what asks the system more. */
static void
live_in_sandbox(void *arg)
{
    enum { N = 200000 };
    static char *p[N];
    PyMem_RawFree(PyMem_RawMalloc(1));      /* the linker may have a library to load */
    if (!enter_sandbox(*(uint32_t *)arg)) {
        _exit(99);
    }
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < N; i++) {
            p[i] = PyObject_Malloc(300);
            memset(p[i], i & 255, 300);
        }
        for (int i = 0; i < N; i++) {
            if (i % 64 != 0) {
                PyObject_Free(p[i]);
            }
        }
        PyMem_Trim();
        for (int i = 0; i < N; i += 64) {
            if (!is_filled(p[i], 300, (unsigned char)(i & 255))) {
                _exit(98);
            }
            PyObject_Free(p[i]);
        }
    }
    char *page = virtual_alloc(ARENA_SIZE, ARENA_SIZE);
    memset(page, 1, ARENA_SIZE);
    size_t size = virtual_page_size();
    int is_right = virtual_purge(page + size, 2 * size) == 2 * size
        && is_filled(page, size, 1) && is_filled(page + size, 2 * size, 0)
        && is_filled(page + 3 * size, ARENA_SIZE - 3 * size, 1);
    is_right &= table_is_usable();
    virtual_populate(page, ARENA_SIZE);
    is_right &= virtual_alloc_named(ARENA_SIZE, ARENA_SIZE) != NULL;
    virtual_use_huge_pages(page, ARENA_SIZE);
    virtual_yield();
    virtual_count_waits();
    virtual_is_limited();
    is_right &= virtual_is_mapped(page) && virtual_thread_number() != 0;
    PyMem_SetupDebugHooks();
    PyMem_Free(PyMem_Malloc(1 << 20));      /* is its end mapped? */
    fprintf(stderr, "right=%d", is_right);
}

START_TEST(a_sandbox_that_refuses_calls)
{
    struct child child = run_child(enter_and_leave, NULL);
    if (strcmp(child.text, "1") != 0) {
        return;         /* no seccomp in this kernel */
    }
    for (int i = 0; i < 3; i++) {
        static const int errors[] = {EPERM, ENOSYS, EACCES};
        uint32_t action = SECCOMP_RET_ERRNO | (uint32_t)errors[i];
        child = run_child(live_in_sandbox, &action);
        ck_assert_int_eq(child.signal, 0);
        ck_assert_int_eq(child.status, 0);
        ck_assert_str_eq(child.text, "right=1");
    }
}
END_TEST

START_TEST(a_sandbox_that_kills_for_calls)
{
    struct child child = run_child(enter_and_leave, NULL);
    if (strcmp(child.text, "1") != 0) {
        return;
    }
    uint32_t action = SECCOMP_RET_KILL_PROCESS;
    setenv("PYTHON_PYMALLOC_MMAP_ONLY", "1", 1);
    child = run_child(live_in_sandbox, &action);
    ck_assert_int_eq(child.signal, 0);
    ck_assert_str_eq(child.text, "right=1");
}
END_TEST

static int
system_names_memory(void)
{
    int can = 0;
#ifdef PR_SET_VMA_ANON_NAME     /* musl 1.2.3 does not know it */
    char *p = virtual_alloc(4096, 4096);
    can = prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, (unsigned long)p, 4096UL, "x") == 0;
    virtual_free(p, 4096);
#endif
    return can;
}

/* Where the kernel or the C library has no names arenas do without. */
START_TEST(arenas_have_a_name)
{
    char text[65536];
    void *p = PyObject_Malloc(100);
    FILE *maps = fopen("/proc/self/maps", "r");
    text[fread(text, 1, sizeof(text) - 1, maps)] = '\0';
    fclose(maps);
    int has_arenas = strcmp(_PyMem_GetCurrentAllocatorName(), "malloc") != 0;
    ck_assert_int_eq(strstr(text, "[anon:pymalloc]") != NULL,
                     has_arenas && system_names_memory());
    PyObject_Free(p);
}
END_TEST

/* The first time the system says no, as it does not know yet that it will be asked. */
START_TEST(a_barrier_leaves_the_programs_errno)
{
    errno = 77;
    int first = virtual_barrier();
    ck_assert_int_eq(errno, 77);
    ck_assert_int_eq(virtual_barrier(), first);
    ck_assert_int_eq(errno, 77);
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

/* Two mappings, as one of them moved from elsewhere; where a system, or its emulator, can. */
START_TEST(what_has_several_mappings_moves)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), size = 13 * page;
    unsigned char *old = virtual_claim(3 * size), *place = virtual_claim(size);
    ck_assert_int_eq(virtual_open(old, 3 * size), 0);
    ck_assert_int_eq(virtual_open(place, size), 0);
    fill_pattern(old + 2 * size, size, 1);
    if (virtual_move(old + 2 * size, old, 5 * page) == 0) {
        fill_pattern(old, size, 2);
        ck_assert_int_eq(virtual_move(old, place, size), 0);
        ck_assert(has_pattern(place, size, 2));
        for (size_t i = 0; i < size; i++) {
            ck_assert_int_eq(old[i], 0);
        }
    }
    virtual_close(old, 3 * size);
    virtual_close(place, size);
}
END_TEST

#define CHOOSES_ADDRESSES "the emulator chooses addresses in its own way"

int
main(void)
{
    Suite *suite = suite_create("virtualmem");
    TCase *tc = tcase_create("virtualmem");
    suite_add_tcase(suite, tc);
    tcase_add_test(tc, memory_is_zeroed_and_aligned);
    tcase_add_test(tc, too_much_is_refused);
    tcase_add_test(tc, default_arenas_are_aligned_to_their_size);
    tcase_add_native_test(tc, arenas_of_a_next_peak_are_where_those_before_were,
                          CHOOSES_ADDRESSES);
    tcase_add_native_test(tc, arenas_that_come_and_go_share_few_places, CHOOSES_ADDRESSES);
    tcase_add_native_test(tc, huge_pages_are_used_when_they_are_asked_for,
                          MEASURES_MEMORY);
    tcase_add_test(tc, arenas_of_any_size_share_a_huge_page);
    tcase_add_test(tc, an_environment_of_tests_that_asks_for_huge_pages);
    tcase_add_native_test(tc, a_table_is_written_to_part_by_part, MEASURES_MEMORY);
    tcase_add_native_test(tc, what_is_not_committed_is_not_written_to, MEASURES_MEMORY);
    tcase_add_native_test(tc, a_table_takes_no_memory_where_all_is_locked,
                          MEASURES_MEMORY);
    tcase_add_test(tc, a_sandbox_that_refuses_calls);
    tcase_add_test(tc, a_sandbox_that_kills_for_calls);
    tcase_add_test(tc, arenas_have_a_name);
    tcase_add_test(tc, a_barrier_leaves_the_programs_errno);
    tcase_add_test(tc, what_has_several_mappings_moves);
    tcase_add_test(tc, virtual_memory_goes_through_the_arena_allocator);
    return run_suite(suite);
}
