/* Python/tracer/tracemalloc.c, tracestacks.c, tracetables.c, tracedump.c: what others choose.
 *
 * Addresses and domains, names of files, the order in which hooks come and go. */

#include "support.h"
#include "pycore_pymem.h"
#include "pycore_traceblocks.h"
#include "pycore_tracetables.h"

#include <limits.h>
#include <time.h>
#include <unistd.h>

static void
start(void)
{
    ck_assert_int_eq(_PyTraceMalloc_Start(5), 0);
}

static void
stop(void)
{
    _PyTraceMalloc_Stop();
    ck_assert_uint_eq(tracer_own_memory(), 0);
}

static size_t
traced_now(void)
{
    size_t current, peak;
    _PyTraceMalloc_GetTracedMemory(&current, &peak);
    return current;
}

/* A program of one place. */

static const char one_place_only;

static unsigned
one_place(struct trace_place *places, unsigned max_places, unsigned *total,
          int has_gil)
{
    (void)max_places;
    (void)has_gil;
    places[0] = (struct trace_place){.instruction = &one_place_only};
    *total = 1;
    return 1;
}

static void
one_name(const struct trace_place *place, struct trace_name *file,
         unsigned *line)
{
    (void)place;
    *file = (struct trace_name){"file", 4, 1};
    *line = 12;
}

static const struct trace_source one_frame = {
    .capture = one_place, .describe = one_name
};

/* Others choose the address and the domain: none of them means "nothing". */
START_TEST(every_key_is_a_key)
{
    const uintptr_t addresses[] = {0, 1, UINTPTR_MAX, UINTPTR_MAX - 1,
                                   (uintptr_t)1 << (sizeof(uintptr_t) * 8 - 1)};
    const unsigned domains[] = {0, 1, UINT_MAX};
    enum { NADDRESSES = 5, NDOMAINS = 3 };
    struct trace trace, *traces;
    size_t ntraces;
    for (size_t sample_bytes = 0; sample_bytes < 2; sample_bytes++) {
        tracer_start(&one_frame, 1, sample_bytes, 1);
        for (size_t i = 0; i < NADDRESSES * NDOMAINS; i++) {
            ck_assert_int_eq(PyTraceMalloc_Track(domains[i % NDOMAINS],
                                                 addresses[i / NDOMAINS],
                                                 1000 + i), 0);
        }
        ck_assert_int_eq(tracer_snapshot(&traces, &ntraces), 0);
        ck_assert_uint_eq(ntraces, NADDRESSES * NDOMAINS);
        tracer_release(traces);
        for (size_t i = 0; i < NADDRESSES * NDOMAINS; i++) {
            unsigned domain = domains[i % NDOMAINS];
            ck_assert(tracer_find(domain, addresses[i / NDOMAINS], &trace));
            ck_assert_uint_eq(trace.size, 1000 + i);
            ck_assert_int_eq(PyTraceMalloc_Untrack(domain, addresses[i / NDOMAINS]), 0);
            ck_assert(!tracer_find(domain, addresses[i / NDOMAINS], &trace));
        }
        ck_assert_uint_eq(traced_now(), 0);
        stop();
    }
}
END_TEST

/* The table grows while the address 0 is in it. */
START_TEST(a_key_stays_when_the_table_grows)
{
    struct trace trace;
    tracer_start(&one_frame, 1, 0, 1);
    ck_assert_int_eq(PyTraceMalloc_Track(1, 0, 7), 0);
    for (uintptr_t i = 1; i < 5000; i++) {
        ck_assert_int_eq(PyTraceMalloc_Track(1, i, 1), 0);
        ck_assert(tracer_find(1, 0, &trace) && trace.size == 7);
    }
    ck_assert_int_eq(PyTraceMalloc_Untrack(1, 0), 0);
    ck_assert(!tracer_find(1, 0, &trace));
    ck_assert_uint_eq(traced_now(), 4999);
    stop();
}
END_TEST

/* A size that others report need not be near the block's own. */
START_TEST(any_size_of_a_small_block)
{
    struct trace trace;
    const size_t sizes[] = {512, 511, 386, 385, 384, 256, 129, 128, 127, 1, 0, 5000};
    start();
    char *p = PyObject_Malloc(512);
    for (int i = 0; i < 12; i++) {
        ck_assert_int_eq(PyTraceMalloc_Track(0, (uintptr_t)p, sizes[i]), 0);
        ck_assert_uint_eq(traced_now(), sizes[i]);
        ck_assert(tracer_find(0, (uintptr_t)p, &trace) && trace.size == sizes[i]);
    }
    PyObject_Free(p);
    ck_assert_uint_eq(traced_now(), 0);
    stop();
}
END_TEST

static void
dump_nothing(void *unused)
{
    (void)unused;
    start();
    PyMem_Free(PyMem_Malloc(100));
    _PyMem_DumpTraceback(STDERR_FILENO, NULL);
    PyMem_Free(PyMem_Realloc(PyMem_Malloc(100), 200));
    _PyMem_DumpTraceback(STDERR_FILENO, NULL);
}

START_TEST(the_address_null_has_no_traceback_of_another_block)
{
    struct child child = run_child(dump_nothing, NULL);
    ck_assert_str_eq(child.text, "");
}
END_TEST

/* Inside a block, in a pool's header, behind its last block. */
START_TEST(where_no_block_begins_there_is_no_trace)
{
    struct trace trace;
    const size_t sizes[] = {16, 48, 80, 112, 240, 496, 512, 2000};
    start();
    for (int i = 0; i < 8; i++) {
        char *made = PyObject_Malloc(sizes[i]);
        size_t now = traced_now();
        uintptr_t pool = (uintptr_t)made & ~(uintptr_t)0x3FFF;
        unsigned nfound = 0;
        for (uintptr_t p = pool; p < pool + 0x4000; p++) {
            nfound += (unsigned)tracer_find(0, p, &trace);
            if (p != (uintptr_t)made) {
                PyTraceMalloc_Untrack(0, p);
            }
        }
        ck_assert_uint_eq(nfound, 1);
        ck_assert_uint_eq(traced_now(), now);
        uintptr_t inside = (uintptr_t)made + 8, last = pool + 0x4000 - 1;
        ck_assert_int_eq(PyTraceMalloc_Track(0, inside, 5), 0);
        ck_assert_int_eq(PyTraceMalloc_Track(0, last, 3), 0);
        ck_assert_uint_eq(traced_now(), now + 8);
        ck_assert(tracer_find(0, (uintptr_t)made, &trace));
        ck_assert_uint_eq(trace.size, sizes[i]);
        ck_assert(tracer_find(0, inside, &trace) && trace.size == 5);
        ck_assert(tracer_find(0, last, &trace) && trace.size == 3);
        PyTraceMalloc_Untrack(0, inside);
        PyTraceMalloc_Untrack(0, last);
        PyObject_Free(made);
        ck_assert_uint_eq(traced_now(), 0);
    }
    stop();
}
END_TEST

/* Hooks of a profiler, each over what it found; and the block that they pass on. */
static struct { PyMemAllocatorEx found; unsigned ncalls; } profilers[2];

static void *
profiled_malloc(void *ctx, size_t size)
{
    PyMemAllocatorEx *found = &profilers[(uintptr_t)ctx].found;
    profilers[(uintptr_t)ctx].ncalls++;
    return found->malloc(found->ctx, size);
}

static PyMemAllocatorEx
profiler_start(uintptr_t number)
{
    PyMem_GetAllocator(PYMEM_DOMAIN_MEM, &profilers[number].found);
    PyMemAllocatorEx hook = profilers[number].found;
    hook.ctx = (void *)number;
    hook.malloc = profiled_malloc;
    hook.calloc = NULL;         /* not called here: it would need a context, too */
    hook.realloc = NULL;
    hook.free = NULL;
    PyMem_SetAllocator(PYMEM_DOMAIN_MEM, &hook);
    return hook;
}

/* A block is traced once, whatever was set back in which order. */
static void
one_block_is_traced(unsigned nprofilers)
{
    profilers[0].ncalls = profilers[1].ncalls = 0;
    void *p = PyMem_Malloc(100);
    ck_assert_ptr_nonnull(p);
    ck_assert_uint_eq(traced_now(), 100);
    ck_assert_uint_eq(profilers[0].ncalls + profilers[1].ncalls, nprofilers);
    PyTraceMalloc_Untrack(0, (uintptr_t)p);
}

START_TEST(the_tracer_never_wraps_itself)
{
    PyMemAllocatorEx born, traced;
    PyMem_GetAllocator(PYMEM_DOMAIN_MEM, &born);
    start();
    PyMem_GetAllocator(PYMEM_DOMAIN_MEM, &traced);
    PyMemAllocatorEx first = profiler_start(0);
    one_block_is_traced(1);
    stop();
    PyMem_SetAllocator(PYMEM_DOMAIN_MEM, &traced);      /* its own hook is back */
    start();
    one_block_is_traced(0);
    stop();
    PyMem_SetAllocator(PYMEM_DOMAIN_MEM, &first);       /* one that leads to it is */
    start();
    one_block_is_traced(1);
    PyMemAllocatorEx second = profiler_start(1);
    stop();
    PyMem_SetAllocator(PYMEM_DOMAIN_MEM, &second);
    for (int i = 0; i < 3; i++) {
        start();
        one_block_is_traced(2);
        stop();
    }
    PyMem_SetAllocator(PYMEM_DOMAIN_MEM, &born);
}
END_TEST

/* What is allocated while somebody looks at traces is not shown, until an object in
 * it is given out anew. */
START_TEST(a_hidden_block_is_shown_when_it_is_renewed)
{
    struct trace trace, *traces;
    size_t ntraces;
    const size_t sizes[] = {40, 3000, 100000};
    for (int i = 0; i < 3; i++) {
        start();
        int before = tracer_hide();
        void *hidden = PyObject_Malloc(sizes[i]);
        void *gone = PyObject_Malloc(sizes[i]);
        tracer_show(before);
        ck_assert_uint_eq(traced_now(), 0);
        ck_assert(!tracer_find(0, (uintptr_t)hidden, &trace));
        ck_assert_int_eq(tracer_snapshot(&traces, &ntraces), 0);
        ck_assert_uint_eq(ntraces, 0);
        tracer_release(traces);
        PyObject_Free(gone);
        tracer_renew((uintptr_t)hidden);
        ck_assert_uint_eq(traced_now(), sizes[i]);
        ck_assert(tracer_find(0, (uintptr_t)hidden, &trace));
        ck_assert_uint_eq(trace.size, sizes[i]);
        PyObject_Free(hidden);
        ck_assert_uint_eq(traced_now(), 0);
        stop();
    }
}
END_TEST

/* Names of files. */

static struct trace_name name_now;
static uintptr_t place_now;

static unsigned
place_by_number(struct trace_place *places, unsigned max_places, unsigned *total,
                int has_gil)
{
    (void)max_places;
    (void)has_gil;
    places[0] = (struct trace_place){.instruction = (void *)++place_now};
    *total = 1;
    return 1;
}

static void
name_by_number(const struct trace_place *place, struct trace_name *file,
               unsigned *line)
{
    (void)place;
    *file = name_now;
    *line = 1;
}

static struct trace_source named_frames = {
    .capture = place_by_number, .describe = name_by_number
};

static void
use_name(const char *text)
{
    name_now = (struct trace_name){text, strlen(text), 1};
}

static uint32_t
file_of_new_block(uintptr_t address)
{
    struct trace trace;
    struct trace_frame frame = {0};
    ck_assert_int_eq(PyTraceMalloc_Track(9, address, 1), 0);
    ck_assert(tracer_find(9, address, &trace));
    tracer_stack_frames(trace.stack, &frame, 1);
    return frame.file;
}

struct hashed { uint32_t hash; unsigned number; };

static int
compare_hashes(const void *a, const void *b)
{
    uint32_t x = ((const struct hashed *)a)->hash, y = ((const struct hashed *)b)->hash;
    return x < y ? -1 : x > y;
}

static void
make_name(char name[20], unsigned number)
{
    snprintf(name, 20, "dir/file%08u.py", number);
}

/* Two names of one length and hash, and one name of several kinds of characters. */
START_TEST(names_that_differ_are_different_files)
{
    enum { N = 500000 };
    static struct hashed hashed[N];
    char name[20];
    for (unsigned i = 0; i < N; i++) {
        make_name(name, i);
        hashed[i] = (struct hashed){hash_bytes(name, strlen(name)), i};
    }
    qsort(hashed, N, sizeof(*hashed), compare_hashes);
    unsigned npairs = 0;
    tracer_start(&named_frames, 1, 0, 0);
    for (unsigned i = 1; i < N; i++) {
        if (hashed[i].hash == hashed[i - 1].hash) {
            uint32_t numbers[2];
            for (unsigned k = 0; k < 2; k++) {
                make_name(name, hashed[i - k].number);
                use_name(name);
                numbers[k] = file_of_new_block(i);
                struct trace_name kept = tracer_name(numbers[k]);
                ck_assert_uint_eq(kept.length, strlen(name));
                ck_assert_mem_eq(kept.characters, name, strlen(name));
            }
            ck_assert_uint_ne(numbers[0], numbers[1]);
            npairs++;
        }
    }
    ck_assert_uint_gt(npairs, 5);
    uint32_t kinds[3];
    for (unsigned kind = 1; kind <= 4; kind *= 2) {
        name_now = (struct trace_name){"abcdabcdabcd", 12 / kind, kind};
        kinds[kind / 2] = file_of_new_block(1);
    }
    ck_assert(kinds[0] != kinds[1] && kinds[1] != kinds[2] && kinds[0] != kinds[2]);
    stop();
}
END_TEST

static void
name_this_function(const struct trace_place *place, struct trace_name *name)
{
    (void)place;
    *name = name_now;
}

/* Of one file and line, as a lambda and what calls it may be. */
START_TEST(frames_of_one_line_differ_by_their_function)
{
    static struct trace_source source = {
        .capture = place_by_number, .describe = one_name,
        .name_function = name_this_function
    };
    struct trace trace;
    struct trace_frame frames[3];
    static const char *const functions[3] = {"<module>", "<lambda>", "<module>"};
    tracer_start(&source, 1, 0, 0);
    for (unsigned i = 0; i < 3; i++) {
        use_name(functions[i]);
        ck_assert_int_eq(PyTraceMalloc_Track(9, i, 1), 0);
        ck_assert(tracer_find(9, i, &trace));
        tracer_stack_frames(trace.stack, &frames[i], 1);
        struct trace_name name = tracer_name(frames[i].function);
        ck_assert_mem_eq(name.characters, functions[i], strlen(functions[i]));
    }
    ck_assert(frames[0].file == frames[1].file && frames[0].line == frames[1].line);
    ck_assert_uint_ne(frames[0].function, frames[1].function);
    ck_assert_mem_eq(&frames[0], &frames[2], sizeof(frames[0]));
    stop();
}
END_TEST

/* Time for places in the last of so many files, in all else the same. */
static double
seconds_for_places(unsigned nfiles)
{
    char name[20];
    tracer_start(&named_frames, 1, 0, 0);
    for (unsigned i = 0; i < nfiles; i++) {
        make_name(name, i);
        use_name(name);
        file_of_new_block(i);
    }
    clock_t begin = clock();
    for (unsigned i = 0; i < 20000; i++) {
        file_of_new_block(i);
    }
    double seconds = (double)(clock() - begin) / CLOCKS_PER_SEC;
    stop();
    return seconds;
}

START_TEST(a_place_costs_the_same_among_many_files)
{
    double few = seconds_for_places(10), many = seconds_for_places(20000);
    ck_assert_msg(many < 10 * few + 0.01, "%f s among few, %f s among many", few, many);
}
END_TEST

/* How a dump writes a name: of this file's characters, or of their bytes. */
struct written_name {
    struct trace_name name;
    int is_utf8;
};

static void
dump_name(void *arg)
{
    const struct written_name *written = arg;
    name_now = written->name;
    named_frames.names_are_utf8 = written->is_utf8;
    tracer_start(&named_frames, 1, 0, 0);
    PyTraceMalloc_Track(0, 16, 1);
    _PyMem_DumpTraceback(STDERR_FILENO, (void *)16);
}

static void
assert_written(struct trace_name name, int is_utf8, const char *expected)
{
    char text[8192];
    struct written_name written = {name, is_utf8};
    struct child child = run_child(dump_name, &written);
    snprintf(text, sizeof(text), "Memory block allocated at (most recent call first):\n"
             "  File \"%s\", line 1\n\n", expected);
    ck_assert_str_eq(child.text, text);
}

START_TEST(a_dump_writes_names_as_the_version_does)
{
    static const uint32_t characters[] = {'a', 0x7F, 0xE9, 0x20AC, 0xDC80, 0x1F600};
    assert_written((struct trace_name){characters, 6, 4}, 0,
                   "a\\x7f\\xe9\\u20ac\\udc80\\U0001f600");
    assert_written((struct trace_name){characters, 6, 4}, 1,
                   "a\\x7f\\xc3\\xa9\\xe2\\x82\\xac\\xed\\xb2\\x80"
                   "\\xf0\\x9f\\x98\\x80");
    static const uint16_t two_bytes[] = {0xE9, 0, 'b'};
    assert_written((struct trace_name){two_bytes, 3, 2}, 0, "\\xe9\\x00b");
    static uint8_t name[600];
    char expected[5000];
    for (size_t length = 499; length <= 501; length++) {
        memset(name, 'x', sizeof(name));
        memset(expected, 'x', 500);
        strcpy(expected + (length < 500 ? length : 500), length > 500 ? "..." : "");
        assert_written((struct trace_name){name, length, 1}, 0, expected);
        assert_written((struct trace_name){name, length, 1}, 1, expected);
    }
    name[499] = 0xE9;                       /* its second byte is the 501st */
    memset(expected, 'x', 499);
    strcpy(expected + 499, "\\xc3...");
    assert_written((struct trace_name){name, 500, 1}, 1, expected);
    strcpy(expected + 499, "\\xe9");
    assert_written((struct trace_name){name, 500, 1}, 0, expected);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("tracekeys");
    TCase *tc = tcase_create("tracekeys");
    tcase_set_timeout(tc, 120);
    suite_add_tcase(suite, tc);
    tcase_add_test(tc, every_key_is_a_key);
    tcase_add_test(tc, a_key_stays_when_the_table_grows);
    tcase_add_test(tc, any_size_of_a_small_block);
    tcase_add_test(tc, the_address_null_has_no_traceback_of_another_block);
    tcase_add_test(tc, where_no_block_begins_there_is_no_trace);
    tcase_add_test(tc, the_tracer_never_wraps_itself);
    tcase_add_test(tc, a_hidden_block_is_shown_when_it_is_renewed);
    tcase_add_test(tc, names_that_differ_are_different_files);
    tcase_add_test(tc, frames_of_one_line_differ_by_their_function);
    tcase_add_test(tc, a_place_costs_the_same_among_many_files);
    tcase_add_test(tc, a_dump_writes_names_as_the_version_does);
    return run_suite(suite);
}
