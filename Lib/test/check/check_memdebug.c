/* Objects/memdebug.c: marks, fills, checks, and what is said of a bad block. */

#include "support.h"
#include "pycore_pymem.h"

#define S sizeof(size_t)
#ifdef PYMEM_DEBUG_SERIALNO
#  define EXTRA (4 * S)
#else
#  define EXTRA (3 * S)
#endif

static void
use_debug_hooks(void)
{
    ck_assert_int_eq(_PyMem_SetupAllocators(PYMEM_ALLOCATOR_DEBUG), 0);
}

static void
assert_all(const unsigned char *p, size_t n, unsigned char value)
{
    if (!is_filled(p, n, value)) {
        ck_abort_msg("%zu bytes from %p are not all 0x%02x", n, (void *)p,
                     value);
    }
}

static size_t
big_endian(const unsigned char *p)
{
    size_t value = 0;
    for (size_t i = 0; i < S; i++) {
        value = value << 8 | p[i];
    }
    return value;
}

START_TEST(a_block_has_size_id_and_pads_around_it)
{
    const struct family *f = &families[_i];
    for (size_t n = 0; n < 700; n += 23) {
        unsigned char *p = f->malloc(n);
        ck_assert_uint_eq(big_endian(p - 2 * S), n);
        ck_assert_int_eq(p[-(ptrdiff_t)S], f->api_id);
        assert_all(p - (S - 1), S - 1, 0xfd);
        assert_all(p, n, 0xcd);
        assert_all(p + n, S, 0xfd);
        f->free(p);
    }
}
END_TEST

START_TEST(calloc_is_zeroed_between_the_pads)
{
    const struct family *f = &families[_i];
    unsigned char *p = f->calloc(7, 9);
    ck_assert_uint_eq(big_endian(p - 2 * S), 63);
    assert_all(p, 63, 0);
    assert_all(p + 63, S, 0xfd);
    f->free(p);
}
END_TEST

/* What the allocator below is handed: debug hooks over a recorder of malloc, in
 * which one function or none is replaced. */
static struct recorder below;

static void
use_hooks_over_recorder(int domain, void (*free_function)(void *, void *),
                        void *(*realloc_function)(void *, void *, size_t))
{
    PyMemAllocatorEx alloc;
    _PyMem_SetupAllocators(PYMEM_ALLOCATOR_MALLOC);
    recorder_install(&below, (PyMemAllocatorDomain)domain);
    PyMem_GetAllocator((PyMemAllocatorDomain)domain, &alloc);
    if (free_function != NULL) {
        alloc.free = free_function;
    }
    if (realloc_function != NULL) {
        alloc.realloc = realloc_function;
    }
    PyMem_SetAllocator((PyMemAllocatorDomain)domain, &alloc);
    PyMem_SetupDebugHooks();
}

static unsigned char freed[256];
static size_t freed_size;

static void
keep_and_free(void *ctx, void *ptr)
{
    memcpy(freed, ptr, freed_size);
    ((struct recorder *)ctx)->wrapped.free(((struct recorder *)ctx)->wrapped.ctx,
                                           ptr);
}

START_TEST(a_freed_block_is_dead_from_head_to_tail)
{
    const struct family *f = &families[_i];
    use_hooks_over_recorder(_i, keep_and_free, NULL);
    freed_size = 100 + EXTRA;
    f->free(f->malloc(100));
    assert_all(freed, freed_size, 0xdd);
}
END_TEST

START_TEST(the_allocator_below_is_asked_for_three_words_more)
{
    const struct family *f = &families[_i];
    use_hooks_over_recorder(_i, NULL, NULL);
    void *p = f->realloc(f->malloc(10), 20);
    void *q = f->calloc(2, 6);
    f->free(p);
    f->free(q);
    f->free(NULL);
    ck_assert_uint_eq(below.ncalls, 5);
    ck_assert_uint_eq(below.calls[0].size, 10 + EXTRA);
    ck_assert_uint_eq(below.calls[1].size, 20 + EXTRA);
    ck_assert_uint_eq(below.calls[2].size, 12 + EXTRA);
    ck_assert_int_eq(below.calls[3].what, 'f');
}
END_TEST

START_TEST(requests_too_large_for_the_extra_bytes_are_refused)
{
    const struct family *f = &families[_i];
    size_t most = (size_t)PY_SSIZE_T_MAX - EXTRA + 1;
    ck_assert_ptr_null(f->malloc(most));
    ck_assert_ptr_null(f->calloc(1, most));
    unsigned char *p = f->malloc(20);
    memset(p, 7, 20);
    ck_assert_ptr_null(f->realloc(p, most));
    assert_all(p, 20, 7);
    f->free(p);
}
END_TEST

START_TEST(realloc_keeps_data_and_fills_the_rest)
{
    const struct family *f = &families[_i];
    const size_t sizes[] = {0, 1, 10, 63, 64, 65, 127, 128, 129, 200, 1000};
    for (int from = 0; from < 11; from++) {
        for (int to = 0; to < 11; to++) {
            size_t n = sizes[from], m = sizes[to];
            unsigned char *p = f->malloc(n);
            fill_pattern(p, n, 1);
            p = f->realloc(p, m);
            ck_assert(has_pattern(p, n < m ? n : m, 1));
            if (m > n) {
                assert_all(p + n, m - n, 0xcd);
            }
            assert_all(p + m, S, 0xfd);
            ck_assert_uint_eq(big_endian(p - 2 * S), m);
            f->free(p);
        }
    }
}
END_TEST

START_TEST(realloc_that_fails_puts_everything_back)
{
    const struct family *f = &families[_i];
    const size_t sizes[] = {0, 10, 64, 100, 128, 300};
    for (int k = 0; k < 6; k++) {
        size_t n = sizes[k];
        static struct recorder failing;
        _PyMem_SetupAllocators(PYMEM_ALLOCATOR_MALLOC);
        failing.fail_at = 2;
        recorder_install(&failing, (PyMemAllocatorDomain)_i);
        PyMem_SetupDebugHooks();
        unsigned char *p = f->malloc(n);
        unsigned char image[512];
        fill_pattern(p, n, 3);
        memcpy(image, p - 2 * S, n + EXTRA);
        ck_assert_ptr_null(f->realloc(p, 5000));
        ck_assert_mem_eq(image, p - 2 * S, n + EXTRA);
        f->free(p);
    }
}
END_TEST

/* realloc erases the ends of the old block before it can move. */
static unsigned char seen_by_realloc[512];

static void *
look_and_realloc(void *ctx, void *ptr, size_t size)
{
    memcpy(seen_by_realloc, ptr, 300 + EXTRA);
    return ((struct recorder *)ctx)->wrapped.realloc(NULL, ptr, size);
}

START_TEST(realloc_leaves_dead_ends_behind)
{
    const struct family *f = &families[_i];
    use_hooks_over_recorder(_i, NULL, look_and_realloc);
    unsigned char *p = f->malloc(300);
    memset(p, 'x', 300);
    p = f->realloc(p, 400);
    assert_all(seen_by_realloc, 2 * S + 64, 0xdd);
    assert_all(seen_by_realloc + 2 * S + 64, 300 - 128, 'x');
    assert_all(seen_by_realloc + 2 * S + 300 - 64, 64 + EXTRA - 2 * S, 0xdd);
    assert_all(p, 300, 'x');
}
END_TEST

START_TEST(hooks_are_installed_once)
{
    PyMemAllocatorEx before, after;
    for (int domain = 0; domain < 3; domain++) {
        PyMem_GetAllocator((PyMemAllocatorDomain)domain, &before);
        PyMem_SetupDebugHooks();
        PyMem_GetAllocator((PyMemAllocatorDomain)domain, &after);
        ck_assert(before.malloc == after.malloc && before.ctx == after.ctx);
        ck_assert(_PyMem_HasDebugHooks((PyMemAllocatorDomain)domain));
        ck_assert(!_PyMem_Debug[domain].alloc.malloc
                  || _PyMem_Debug[domain].alloc.malloc != after.malloc);
    }
}
END_TEST

START_TEST(hooks_wrap_a_fresh_allocator)
{
    recorder_install(&below, PYMEM_DOMAIN_MEM);
    ck_assert(!_PyMem_HasDebugHooks(PYMEM_DOMAIN_MEM));
    PyMem_SetupDebugHooks();
    ck_assert(_PyMem_HasDebugHooks(PYMEM_DOMAIN_MEM));
    ck_assert_ptr_eq(_PyMem_Debug[PYMEM_DOMAIN_MEM].alloc.ctx, &below);
}
END_TEST

/* Faults.  Each ends a child. */

static const struct family *victim;

static void
overflow_by_one(void *size)
{
    char *p = victim->malloc(*(size_t *)size);
    p[*(size_t *)size] = 'x';
    victim->free(p);
}

START_TEST(overflow_by_one_is_named_byte_by_byte)
{
    victim = &families[_i];
    size_t size = 16;
    struct child child = run_child(overflow_by_one, &size);
    char text[200];
    snprintf(text, sizeof(text), ": API '%c'\n    16 bytes originally requested\n"
             "    The %zu pad bytes at p-%zu are FORBIDDENBYTE, as expected.\n",
             victim->api_id, S - 1, S - 1);
    assert_fatal(child, "Debug memory block at address p=0x");
    assert_fatal(child, text);
    assert_fatal(child, "are not all FORBIDDENBYTE (0xfd):\n"
                        "        at tail+0: 0x78 *** OUCH\n"
                        "        at tail+1: 0xfd\n");
    assert_fatal(child, "    Data at p: cd cd cd cd cd cd cd cd cd cd cd cd "
                        "cd cd cd cd\n\n"
                        "Enable tracemalloc to get the memory block "
                        "allocation traceback\n\n"
                        "Fatal Python error: _PyMem_DebugRawFree: "
                        "bad trailing pad byte\n");
}
END_TEST

START_TEST(long_data_is_shown_at_both_ends)
{
    victim = &families[_i];
    size_t size = 17;
    struct child child = run_child(overflow_by_one, &size);
    assert_fatal(child, "Data at p: cd cd cd cd cd cd cd cd ... "
                        "cd cd cd cd cd cd cd cd\n\n");
    size = 0;
    child = run_child(overflow_by_one, &size);
    assert_fatal(child, "    0 bytes originally requested\n");
    ck_assert_ptr_null(strstr(child.text, "Data at p"));
}
END_TEST

static void
underflow(void *distance)
{
    char *p = victim->malloc(20);
    p[-*(int *)distance] = 'A';
    victim->free(p);
}

START_TEST(underflow_is_named)
{
    victim = &families[_i];
    int distance = 2;
    struct child child = run_child(underflow, &distance);
    assert_fatal(child, "        at p-2: 0x41 *** OUCH\n        at p-1: 0xfd\n"
                        "    Because memory is corrupted at the start, "
                        "the count of bytes requested\n"
                        "       may be bogus, and checking the trailing pad "
                        "bytes may segfault.\n");
    assert_fatal(child, "pad bytes at tail=0x");
    assert_fatal(child, "_PyMem_DebugRawFree: bad leading pad byte\n");
}
END_TEST

START_TEST(underflow_into_the_size_does_not_follow_it)
{
    victim = &families[_i];
    int distance = (int)(2 * S);
    struct child child = run_child(underflow, &distance);
    assert_fatal(child, "No block is that large: the tail and the data "
                        "are not read.\n");
    assert_fatal(child, "_PyMem_DebugRawFree: bad size: no block is that large");
}
END_TEST

/* One bit of one byte of the pads, counted from the data; and what notices it. */
struct damage {
    int offset;
    int bit;
    int by_realloc;
};

static void
damage_one_bit(void *arg)
{
    const struct damage *damage = arg;
    char *p = victim->malloc(20);
    p[damage->offset] = (char)(p[damage->offset] ^ 1 << damage->bit);
    if (damage->by_realloc) {
        victim->realloc(p, 40);
    }
    else {
        victim->free(p);
    }
}

START_TEST(each_byte_of_the_pads_is_looked_at)
{
    victim = &families[_i];
    for (int n = 0; n < (int)(2 * S - 1); n++) {
        int is_head = n < (int)S - 1;
        struct damage damage = {is_head ? -1 - n : 20 + n - (int)(S - 1), n % 8, n % 2};
        struct child child = run_child(damage_one_bit, &damage);
        char ouch[100];
        snprintf(ouch, sizeof(ouch), "        at %s%+d: 0x%02x *** OUCH\n",
                 is_head ? "p" : "tail", is_head ? damage.offset : damage.offset - 20,
                 0xfd ^ 1 << damage.bit);
        assert_fatal(child, ouch);
        char fatal[100];
        snprintf(fatal, sizeof(fatal), "_PyMem_DebugRaw%s: bad %s pad byte\n",
                 damage.by_realloc ? "Realloc" : "Free",
                 is_head ? "leading" : "trailing");
        assert_fatal(child, fatal);
        damage.by_realloc = !damage.by_realloc;
        child = run_child(damage_one_bit, &damage);
        assert_fatal(child, ouch);
    }
}
END_TEST

static void
free_in_domain(void *domain)
{
    families[*(int *)domain].free(victim->malloc(16));
}

static void
realloc_in_domain(void *domain)
{
    families[*(int *)domain].realloc(victim->malloc(16), 20);
}

START_TEST(each_domain_refuses_blocks_of_the_others)
{
    int domain = _i % 3;
    victim = &families[_i / 3];
    struct child child = run_child(free_in_domain, &domain);
    struct child child2 = run_child(realloc_in_domain, &domain);
    if (domain == _i / 3) {
        ck_assert_int_eq(child.signal, 0);
        ck_assert_int_eq(child2.signal, 0);
        return;
    }
    char text[200];
    snprintf(text, sizeof(text), "Fatal Python error: _PyMem_DebugRawFree: "
             "bad ID: Allocated using API '%c', verified using API '%c'\n",
             victim->api_id, families[domain].api_id);
    assert_fatal(child, text);
    snprintf(text, sizeof(text), "Fatal Python error: _PyMem_DebugRawRealloc: "
             "bad ID: Allocated using API '%c', verified using API '%c'\n",
             victim->api_id, families[domain].api_id);
    assert_fatal(child2, text);
}
END_TEST

static void
free_twice(void *size)
{
    void *p = victim->malloc(*(size_t *)size);
    victim->free(p);
    victim->free(p);
}

static void
realloc_freed(void *size)
{
    void *p = victim->malloc(*(size_t *)size);
    victim->free(p);
    victim->realloc(p, 100);
}

START_TEST(a_block_freed_twice_is_told_and_not_followed)
{
    const size_t sizes[] = {0, 1, 16, 17, 500};
    victim = &families[_i % 3];
    size_t size = sizes[_i / 3];
    struct child child = run_child(free_twice, &size);
    assert_fatal(child, "The block looks freed already: its head is DEADBYTE "
                        "(0xdd).\n");
    assert_fatal(child, "_PyMem_DebugRawFree: bad ID: Allocated using API "
                        "'\xdd', verified using API '");
    child = run_child(realloc_freed, &size);
    assert_fatal(child, "_PyMem_DebugRawRealloc: bad ID: Allocated using API ");
}
END_TEST

static void
without_gil(void *call)
{
    PyGILState_Release(PyGILState_Ensure());
    switch (*(int *)call) {
    case 0: victim->malloc(1); break;
    case 1: victim->calloc(1, 1); break;
    case 2: victim->realloc(NULL, 1); break;
    default: victim->free(NULL); break;
    }
}

START_TEST(mem_and_object_want_the_gil)
{
    const char *functions[] = {"Malloc", "Calloc", "Realloc", "Free"};
    for (int call = 0; call < 4; call++) {
        victim = &families[_i];
        struct child child = run_child(without_gil, &call);
        if (_i == PYMEM_DOMAIN_RAW) {
            ck_assert_int_eq(child.signal, 0);
            continue;
        }
        char text[200];
        snprintf(text, sizeof(text), "Fatal Python error: _PyMem_Debug%s: "
                 "Python memory allocator called without holding the GIL\n",
                 functions[call]);
        assert_fatal(child, text);
    }
}
END_TEST

#ifdef PYMEM_DEBUG_SERIALNO
START_TEST(blocks_are_numbered)
{
    unsigned char *p = PyMem_Malloc(10);
    size_t number = big_endian(p + 10 + S);
    unsigned char *q = PyMem_RawCalloc(1, 10);
    ck_assert_uint_eq(big_endian(q + 10 + S), number + 1);
    p = PyMem_Realloc(p, 30);
    ck_assert_uint_eq(big_endian(p + 30 + S), number + 2);
    victim = &families[1];
    size_t size = 5;
    struct child child = run_child(overflow_by_one, &size);
    char text[100];
    snprintf(text, sizeof(text), "    The block was made by call #%zu to debug "
             "malloc/realloc.\n", number + 3);
    assert_fatal(child, text);
}
END_TEST
#endif

int
main(void)
{
    Suite *suite = suite_create("memdebug");
    TCase *tc = tcase_create("memdebug");
    tcase_set_timeout(tc, 120);
    tcase_add_checked_fixture(tc, use_debug_hooks, NULL);
    suite_add_tcase(suite, tc);
#define EACH(test) tcase_add_loop_test(tc, test, 0, 3)
    EACH(a_block_has_size_id_and_pads_around_it);
    EACH(calloc_is_zeroed_between_the_pads);
    EACH(each_byte_of_the_pads_is_looked_at);
    EACH(a_freed_block_is_dead_from_head_to_tail);
    EACH(the_allocator_below_is_asked_for_three_words_more);
    EACH(requests_too_large_for_the_extra_bytes_are_refused);
    EACH(realloc_keeps_data_and_fills_the_rest);
    EACH(realloc_that_fails_puts_everything_back);
    EACH(realloc_leaves_dead_ends_behind);
    tcase_add_test(tc, hooks_are_installed_once);
    tcase_add_test(tc, hooks_wrap_a_fresh_allocator);
    EACH(overflow_by_one_is_named_byte_by_byte);
    EACH(long_data_is_shown_at_both_ends);
    EACH(underflow_is_named);
    EACH(underflow_into_the_size_does_not_follow_it);
    tcase_add_loop_test(tc, each_domain_refuses_blocks_of_the_others, 0, 9);
    tcase_add_loop_test(tc, a_block_freed_twice_is_told_and_not_followed, 0, 15);
    EACH(mem_and_object_want_the_gil);
#ifdef PYMEM_DEBUG_SERIALNO
    tcase_add_test(tc, blocks_are_numbered);
#endif
    return run_suite(suite);
}
