/* Python/tracer/tracemalloc.c, traceblocks.c, tracestacks.c, tracequery.c, tracelock.c,
 * tracememory.c, nativeframes.c: the tracer in a program without an interpreter. */

#include "support.h"
#include "pycore_host.h"
#include "pycore_pymem.h"
#include "pycore_traceblocks.h"

#include <fcntl.h>
#include <limits.h>
#include <math.h>
#include <pthread.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/wait.h>
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
    ck_assert_uint_ge(peak, current);
    return current;
}

/* A program of one place. */

static PyMemAllocatorEx below;

static unsigned
one_place(struct trace_place *places, unsigned max_places, unsigned *total,
          int has_gil)
{
    (void)max_places;
    (void)has_gil;
    places[0] = (struct trace_place){.instruction = &below};
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

/* Not tracing. */

START_TEST(track_and_untrack_say_that_nothing_is_traced)
{
    int here;
    ck_assert_int_eq(PyTraceMalloc_Track(0, (uintptr_t)&here, 4), -2);
    ck_assert_int_eq(PyTraceMalloc_Track(389047, 1, 0), -2);
    ck_assert_int_eq(PyTraceMalloc_Untrack(0, (uintptr_t)&here), -2);
    ck_assert_int_eq(_PyTraceMalloc_IsTracing(), 0);
    ck_assert_uint_eq(traced_now(), 0);
    _PyTraceMalloc_Stop();
}
END_TEST

static void
dump(void *unused)
{
    (void)unused;
    _PyMem_DumpTraceback(STDERR_FILENO, "block");
    _PyMem_DumpTraceback(-1, "block");
}

START_TEST(the_dump_says_how_to_know_more)
{
    struct child child = run_child(dump, NULL);
    ck_assert_int_eq(child.status, 0);
    ck_assert_str_eq(child.text, "Enable tracemalloc to get the memory block "
                                 "allocation traceback\n\n");
}
END_TEST

START_TEST(a_number_of_frames_that_is_none)
{
    ck_assert_int_eq(_PyTraceMalloc_Start(0), -1);
    ck_assert_int_eq(_PyTraceMalloc_Start(-1), -1);
    ck_assert_int_eq(_PyTraceMalloc_Start(65536), -1);
    ck_assert_int_eq(_PyTraceMalloc_IsTracing(), 0);
}
END_TEST

/* Blocks. */

/* One address is another block in each domain. */
START_TEST(domains_are_told_apart)
{
    enum { ADDRESSES = 3000, DOMAINS = 4 };
    ck_assert_int_eq(_PyTraceMalloc_Start(1), 0);
    size_t before, after, peak;
    _PyTraceMalloc_GetTracedMemory(&before, &peak);
    size_t sum = 0;
    for (uintptr_t i = 1; i <= ADDRESSES; i++) {
        for (unsigned domain = 1; domain <= DOMAINS; domain++) {
            ck_assert_int_eq(PyTraceMalloc_Track(domain, 8 * i, domain * i), 0);
            sum += domain * i;
        }
    }
    _PyTraceMalloc_GetTracedMemory(&after, &peak);
    ck_assert_uint_eq(after - before, sum);
    int nfound = 0;
    for (uintptr_t i = 1; i <= ADDRESSES; i++) {
        ck_assert_int_eq(PyTraceMalloc_Untrack(2, 8 * i), 0);
        for (unsigned domain = 1; domain <= DOMAINS; domain++) {
            struct trace trace;
            nfound += tracer_find(domain, 8 * i, &trace)
                && trace.size == domain * i;
        }
    }
    ck_assert_int_eq(nfound, ADDRESSES * (DOMAINS - 1));
    _PyTraceMalloc_Stop();
}
END_TEST

START_TEST(each_domain_counts_what_was_asked_for)
{
    const size_t sizes[] = {1, 7, 16, 100, 512, 513, 5000, 100000};
    start();
    for (int f = 0; f < 3; f++) {
        for (int i = 0; i < 8; i++) {
            size_t size = sizes[i];
            void *p = families[f].malloc(size);
            ck_assert_uint_eq(traced_now(), size);
            p = families[f].realloc(p, 2 * size);
            ck_assert_uint_eq(traced_now(), 2 * size);
            p = families[f].realloc(p, size);
            ck_assert_uint_eq(traced_now(), size);
            void *q = families[f].calloc(3, size);
            ck_assert_uint_eq(traced_now(), 4 * size);
            families[f].free(p);
            ck_assert_uint_eq(traced_now(), 3 * size);
            families[f].free(q);
            families[f].free(NULL);
            ck_assert_uint_eq(traced_now(), 0);
        }
    }
    stop();
}
END_TEST

START_TEST(a_block_from_before_has_no_trace)
{
    void *before = PyMem_Malloc(100);
    void *moved = PyMem_Malloc(100);
    start();
    PyMem_Free(before);
    ck_assert_uint_eq(traced_now(), 0);
    moved = PyMem_Realloc(moved, 200);
    ck_assert_uint_eq(traced_now(), 200);
    void *after = PyMem_Malloc(50);
    stop();
    PyMem_Free(after);
    PyMem_Free(moved);
}
END_TEST

START_TEST(the_peak_stays_until_it_is_reset)
{
    size_t current, peak;
    start();
    PyMem_Free(PyMem_Malloc(5000));
    tracer_memory(&current, &peak);
    ck_assert_uint_eq(current, 0);
    ck_assert_uint_eq(peak, 5000);
    tracer_reset_peak();
    tracer_memory(&current, &peak);
    ck_assert_uint_eq(peak, 0);
    stop();
}
END_TEST

static size_t
bytes_at_peak(size_t *nblocks)
{
    struct trace *traces;
    size_t sum = 0;
    ck_assert_int_eq(tracer_peak_snapshot(&traces, nblocks), 0);
    for (size_t i = 0; i < *nblocks; i++) {
        sum += traces[i].size;
    }
    tracer_release(traces);
    return sum;
}

/* Small blocks, and others, from a number of bytes on; what is over stays told. */
START_TEST(the_traces_of_the_peak_are_kept)
{
    enum { BLOCKS = 400, FROM = 100000 };
    void *blocks[BLOCKS];
    size_t current, peak, nblocks;
    start();
    for (int round = 0; round < 2; round++) {
        tracer_keep_peak(FROM);
        PyMem_Free(PyMem_Malloc(FROM - 1));
        ck_assert_uint_eq(bytes_at_peak(&nblocks), 0);
        ck_assert_uint_eq(nblocks, 0);
        for (size_t i = 0; i < BLOCKS; i++) {
            blocks[i] = PyMem_Malloc(i % 2 ? 100 : 2000);
        }
        for (size_t i = 0; i < BLOCKS; i++) {
            PyMem_Free(blocks[i]);
        }
        tracer_memory(&current, &peak);
        ck_assert_uint_eq(current, 0);
        ck_assert_uint_eq(peak, BLOCKS / 2 * (100 + 2000));
        size_t kept = bytes_at_peak(&nblocks);
        ck_assert_uint_le(kept, peak);
        ck_assert_uint_ge(kept, peak - peak / 16 - 1);
        ck_assert_uint_ge(nblocks, kept / 2100 * 2 - 1);
        tracer_reset_peak();
        ck_assert_uint_eq(bytes_at_peak(&nblocks), 0);
    }
    stop();
    start();
    PyMem_Free(PyMem_Malloc(2 * FROM));
    ck_assert_uint_eq(bytes_at_peak(&nblocks), 0);     /* it ended with the stop */
    stop();
}
END_TEST

/* A block of a domain of ours, and one that is Python's too. */
START_TEST(a_block_has_one_trace)
{
    struct trace trace;
    start();
    ck_assert_int_eq(PyTraceMalloc_Track(7, 4096, 10), 0);
    ck_assert_int_eq(PyTraceMalloc_Track(7, 4096, 30), 0);
    ck_assert_int_eq(PyTraceMalloc_Track(8, 4096, 5), 0);
    ck_assert_uint_eq(traced_now(), 35);
    ck_assert_int_eq(tracer_find(7, 4096, &trace), 1);
    ck_assert_uint_eq(trace.size, 30);
    ck_assert_int_eq(PyTraceMalloc_Untrack(7, 4096), 0);
    ck_assert_int_eq(PyTraceMalloc_Untrack(7, 4096), 0);
    ck_assert_int_eq(tracer_find(7, 4096, &trace), 0);
    ck_assert_int_eq(PyTraceMalloc_Untrack(8, 4096), 0);

    void *p = PyMem_Malloc(100);
    ck_assert_int_eq(PyTraceMalloc_Track(0, (uintptr_t)p, 3000), 0);
    ck_assert_uint_eq(traced_now(), 3000);      /* no size of a small block */
    ck_assert_int_eq(PyTraceMalloc_Track(0, (uintptr_t)p, 100), 0);
    ck_assert_uint_eq(traced_now(), 100);
    ck_assert_int_eq(PyTraceMalloc_Track(0, (uintptr_t)p, 9), 0);
    PyMem_Free(p);
    ck_assert_uint_eq(traced_now(), 0);
    stop();
}
END_TEST

/* A trace is found by the address that it was stored with, and by no other. */
START_TEST(an_address_beside_a_block_has_no_trace)
{
    struct trace trace;
#ifdef WITH_PYMALLOC
    _PyMem_SetupAllocators(PYMEM_ALLOCATOR_PYMALLOC);
#endif
    if (_i) {
        PyMem_SetupDebugHooks();        /* below the tracer, with words in front */
    }
    start();
    char *p = PyObject_Malloc(100), *q = PyObject_Malloc(100);
    ck_assert_int_eq(tracer_find(0, (uintptr_t)p, &trace), 1);
    ck_assert_uint_eq(trace.size, 100);
    for (int i = 1; i < 120; i++) {
        if (p + i != q) {
            ck_assert_int_eq(tracer_find(0, (uintptr_t)(p + i), &trace), 0);
        }
    }
    struct trace *traces;
    size_t ntraces;
    ck_assert_int_eq(tracer_snapshot(&traces, &ntraces), 0);
    ck_assert_uint_eq(ntraces, 2);
    ck_assert(traces[0].ptr == (uintptr_t)p || traces[1].ptr == (uintptr_t)p);
    tracer_release(traces);
    PyObject_Free(p);
    PyObject_Free(q);
    stop();
}
END_TEST

#ifdef WITH_PYMALLOC
/* What is left behind the last block of a pool has a place in no table. */
START_TEST(an_address_behind_the_last_block_of_a_pool)
{
    struct trace trace;
    _PyMem_SetupAllocators(PYMEM_ALLOCATOR_PYMALLOC);
    start();
    void *p[100];
    for (int i = 0; i < 100; i++) {
        p[i] = PyObject_Malloc(500);
    }
    uintptr_t pool = (uintptr_t)p[0] & ~(uintptr_t)POOL_SIZE_MASK;
    uintptr_t tail = pool + POOL_OVERHEAD + NUMBLOCKS(512) * 512;
    ck_assert_uint_lt(tail, pool + POOL_SIZE);
    ck_assert_int_eq(tracer_find(0, tail, &trace), 0);
    ck_assert_int_eq(PyTraceMalloc_Track(0, tail, 500), 0);
    ck_assert_uint_eq(traced_now(), 101 * 500);
    ck_assert_int_eq(tracer_find(0, tail, &trace), 1);
    struct trace *traces;
    size_t ntraces, ntail = 0;
    ck_assert_int_eq(tracer_snapshot(&traces, &ntraces), 0);
    for (size_t i = 0; i < ntraces; i++) {
        ntail += traces[i].ptr == tail;
    }
    ck_assert_uint_eq(ntail, 1);
    tracer_release(traces);
    ck_assert_int_eq(PyTraceMalloc_Untrack(0, tail), 0);
    ck_assert_int_eq(tracer_find(0, (uintptr_t)p[0], &trace), 1);
    for (int i = 0; i < 100; i++) {
        PyObject_Free(p[i]);
    }
    ck_assert_uint_eq(traced_now(), 0);
    stop();
}
END_TEST
#endif

/* The tables hold what a list beside them holds, over thousands of steps. */
START_TEST(traces_are_those_of_the_blocks_that_live)
{
    enum { N = 2000, STEPS = 40000 };
    static struct { void *ptr; size_t size; } live[N];
    unsigned nlive = 0;
    start();
    for (unsigned step = 0; step < STEPS; step++) {
        unsigned i = random_below(N);
        size_t size = random_below(10) ? 1 + random_below(600)
                                       : random_below(40000);
        const struct family *family = &families[i % 3];
        unsigned what = random_below(3);
        if (live[i].ptr == NULL) {
            live[i].ptr = family->malloc(size);
            nlive++;
        }
        else if (what == 0) {
            live[i].ptr = family->realloc(live[i].ptr, size);
        }
        else {
            family->free(live[i].ptr);
            live[i].ptr = NULL;
            nlive--;
        }
        live[i].size = size;
    }
    size_t sum = 0;
    int all_right = 1;
    for (unsigned i = 0; i < N; i++) {
        struct trace trace;
        if (live[i].ptr != NULL) {
            sum += live[i].size;
            all_right &= tracer_find(0, (uintptr_t)live[i].ptr, &trace)
                && trace.size == live[i].size;
        }
    }
    ck_assert(all_right);
    ck_assert_uint_eq(traced_now(), sum);
    struct trace *traces;
    size_t ntraces;
    ck_assert_int_eq(tracer_snapshot(&traces, &ntraces), 0);
    ck_assert_uint_eq(ntraces, nlive);
    for (size_t i = 0; i < ntraces; i++) {
        sum -= traces[i].size;
    }
    ck_assert_uint_eq(sum, 0);
    tracer_release(traces);
    for (unsigned i = 0; i < N; i++) {
        families[i % 3].free(live[i].ptr);
    }
    ck_assert_uint_eq(traced_now(), 0);
    stop();
}
END_TEST

/* Stacks. */

static NOINLINE void *
allocates_here(void)
{
    void *p = PyMem_Malloc(100);
    return p;
}

static void
dump_own_block(void *unused)
{
    (void)unused;
    _PyTraceMalloc_Start(5);
    void *p = allocates_here();
    _PyMem_DumpTraceback(STDERR_FILENO, p);
    PyMem_Free(p);
}

/* Functions of a static program have no names at run time: addresses, then. */
START_TEST(the_dump_shows_where_a_block_is_from)
{
    struct child child = run_child(dump_own_block, NULL);
    ck_assert_ptr_eq(strstr(child.text, "Memory block allocated at (most recent "
                                        "call first):\n  File \""), child.text);
    ck_assert_ptr_nonnull(strstr(child.text, "check_tracemalloc\", "));
}
END_TEST

/* A stack is as deep as this whatever the compiler makes of Check. */
static NOINLINE void *
allocates_deep_down(int depth)
{
    void *p = depth > 0 ? allocates_deep_down(depth - 1) : allocates_here();
    __asm__ volatile("");       /* nothing is left of a call that is the last thing done */
    return p;
}

START_TEST(equal_stacks_are_kept_once)
{
    struct trace a, b;
    start();
    void *p[100];
    for (int i = 0; i < 100; i++) {
        p[i] = allocates_deep_down(5);
    }
    void *elsewhere = PyMem_Malloc(100);
    ck_assert(tracer_find(0, (uintptr_t)p[0], &a));
    int equal = 1;
    for (int i = 1; i < 100; i++) {
        equal &= tracer_find(0, (uintptr_t)p[i], &b) && a.stack == b.stack;
    }
    ck_assert(equal);
    ck_assert(tracer_find(0, (uintptr_t)elsewhere, &b));
    ck_assert_uint_ne(a.stack, b.stack);
    unsigned total;
    ck_assert_uint_eq(tracer_stack_length(a.stack, &total), 5);
    ck_assert_uint_ge(total, 5);
    for (int i = 0; i < 100; i++) {
        PyMem_Free(p[i]);
    }
    PyMem_Free(elsewhere);
    stop();
}
END_TEST

/* Hooks that call back, and faults. */

static void *
tracking_malloc(void *ctx, size_t size)
{
    (void)ctx;
    void *p = below.malloc(below.ctx, size);
    PyTraceMalloc_Track(99, (uintptr_t)p, size);
    return p;
}

static void
tracking_free(void *ctx, void *ptr)
{
    (void)ctx;
    PyTraceMalloc_Untrack(99, (uintptr_t)ptr);
    below.free(below.ctx, ptr);
}

START_TEST(a_hook_below_may_track)
{
    PyMem_GetAllocator(PYMEM_DOMAIN_RAW, &below);
    PyMemAllocatorEx hook = below;
    hook.malloc = tracking_malloc;
    hook.free = tracking_free;
    PyMem_SetAllocator(PYMEM_DOMAIN_RAW, &hook);
    start();
    void *p = PyMem_RawMalloc(100);
    ck_assert_uint_eq(traced_now(), 2 * 100);
    PyMem_RawFree(p);
    ck_assert_uint_eq(traced_now(), 0);
    stop();
    PyMem_SetAllocator(PYMEM_DOMAIN_RAW, &below);
}
END_TEST

static struct recorder raw;

START_TEST(a_realloc_that_fails_keeps_the_block_and_its_trace)
{
    for (int f = 0; f < 3; f++) {
        recorder_install(&raw, (PyMemAllocatorDomain)f);
        start();
        char *p = families[f].malloc(1000);
        fill_pattern(p, 1000, 3);
        raw.fail_at = (long)raw.ncalls + 1;
        ck_assert_ptr_null(families[f].realloc(p, 50000));
        raw.fail_at = 0;
        ck_assert_uint_eq(traced_now(), 1000);
        ck_assert(has_pattern(p, 1000, 3));
        families[f].free(p);
        ck_assert_uint_eq(traced_now(), 0);
        stop();
        recorder_remove(&raw);
    }
}
END_TEST

/* Address space runs out: malloc says so before a block is without a trace. */
static void
run_out_of_memory(void *unused)
{
    (void)unused;
    enum { MANY = 2000000 };
    static void *p[MANY];
    _PyTraceMalloc_Start(3);
    struct rlimit limit = {0, 0};
    limit.rlim_cur = limit.rlim_max = process_size().total + (64u << 20);
    setrlimit(RLIMIT_AS, &limit);
    size_t n = 0;
    while (n < MANY && (p[n] = PyMem_RawMalloc(48)) != NULL) {
        memset(p[n], (int)n & 255, 48);
        n++;
    }
    size_t current, peak;
    _PyTraceMalloc_GetTracedMemory(&current, &peak);
    int right = n > 1000 && n < MANY && current == 48 * n;
    for (size_t i = 0; i < n; i++) {
        right &= is_filled(p[i], 48, (unsigned char)(i & 255));
        PyMem_RawFree(p[i]);
    }
    _PyTraceMalloc_GetTracedMemory(&current, &peak);
    void *again = PyMem_RawMalloc(48);
    right &= current == 0 && again != NULL;
    fprintf(stderr, "right=%d", right);
}

START_TEST(no_memory_for_a_trace_is_no_memory)
{
    struct child child = run_child(run_out_of_memory, NULL);
    ck_assert_str_eq(child.text, "right=1");
}
END_TEST

static void *
work(void *arg)
{
    for (int i = 0; i < 20000; i++) {
        void *p = PyMem_RawMalloc(100 + (size_t)i % 50);
        PyTraceMalloc_Track(5, (uintptr_t)arg + (uintptr_t)i, 1);
        p = PyMem_RawRealloc(p, 300);
        PyTraceMalloc_Untrack(5, (uintptr_t)arg + (uintptr_t)i);
        PyMem_RawFree(p);
    }
    return NULL;
}

START_TEST(eight_threads_and_a_fork)
{
    pthread_t threads[8];
    start();
    for (uintptr_t i = 0; i < 8; i++) {
        pthread_create(&threads[i], NULL, work, (void *)((i + 1) << 28));
    }
    for (int i = 0; i < 20; i++) {
        pid_t child = fork();
        if (child == 0) {
            void *p = PyMem_RawMalloc(10);
            PyMem_RawFree(p);
            _exit(0);
        }
        int status;
        ck_assert_int_eq(waitpid(child, &status, 0), child);
        ck_assert_int_eq(status, 0);
    }
    for (int i = 0; i < 8; i++) {
        pthread_join(threads[i], NULL);
    }
    ck_assert_uint_eq(traced_now(), 0);
    stop();
}
END_TEST

/* Samples. */

/* Code in a block: its first byte is the instruction, its line a number in it. */
static struct code { unsigned char instruction[8]; unsigned line; } *running;

static unsigned
place_in_code(struct trace_place *places, unsigned max_places, unsigned *total,
              int has_gil)
{
    (void)has_gil;
    *total = 2;
    for (unsigned i = 0; i < max_places && i < 2; i++) {
        places[i].instruction = running->instruction + i;
        places[i].code = running;
    }
    return max_places < 2 ? max_places : 2;
}

static void
name_in_code(const struct trace_place *place, struct trace_name *file,
             unsigned *line)
{
    *file = (struct trace_name){"code", 4, 1};
    *line = ((const struct code *)place->code)->line;
}

static const struct trace_source frames_in_blocks = {
    .capture = place_in_code, .describe = name_in_code
};

/* Do all frames of a block's stack say this line? */
static int
lines_are(const void *ptr, unsigned line)
{
    struct trace trace;
    struct trace_frame frames[2];
    if (!tracer_find(0, (uintptr_t)ptr, &trace)) {
        return 0;
    }
    unsigned total, length = tracer_stack_length(trace.stack, &total);
    tracer_stack_frames(trace.stack, frames, 2);
    return length >= 1 && frames[0].line == line
        && (length < 2 || frames[1].line == line);
}

/* Small, medium and raw blocks; code from before the start and after; all that
 * is traced, and samples of a byte.  With one frame and with more. */
START_TEST(code_at_an_address_of_old_code_has_its_own_lines)
{
    static struct code caller = {"", 1000};
    const size_t sizes[] = {100, 2000, 60000};
    for (int k = 0; k < 12; k++) {
        size_t code_size = sizes[k % 3];
        running = PyObject_Malloc(code_size);
        running->line = 1;
        tracer_start(&frames_in_blocks, 1 + (unsigned)k / 3 % 2,
                     k < 6 ? 0 : 1, 5);
        int right = 1;
        unsigned nsame = 0;
        for (unsigned line = 1; line < 300; line++) {
            running->line = line;
            void *made = PyMem_Malloc(64);
            void *other = PyMem_Malloc(64);
            right &= lines_are(made, line) && lines_are(other, line);
            PyMem_Free(made);
            PyMem_Free(other);
            struct code *old = running;
            running = &caller;
            PyObject_Free(old);
            running = PyObject_Malloc(code_size);
            nsame += running == old;
        }
        ck_assert_msg(right, "code of %zu bytes, round %d", code_size, k);
        stop();
        PyObject_Free(running);
#if defined(WITH_PYMALLOC) && !defined(Py_DEBUG)
        ck_assert_uint_eq(nsame, code_size == 100 ? 299 : nsame);
#endif
    }
}
END_TEST

START_TEST(pools_change_their_size_class)
{
    enum { N = 3000 };
    static void *p[N];
    start();
    for (size_t size = 16; size <= 512; size += 31) {
        for (int i = 0; i < N; i++) {
            p[i] = PyObject_Malloc(size);
        }
        ck_assert_uint_eq(traced_now(), N * size);
        for (int i = 0; i < N; i++) {
            PyObject_Free(p[i]);
        }
        ck_assert_uint_eq(traced_now(), 0);
    }
    stop();
}
END_TEST

/* A thread without the GIL has read the hook, or its context, before the other was set. */
START_TEST(a_hook_works_with_the_context_from_before_a_start)
{
    for (int domain = PYMEM_DOMAIN_RAW; domain <= PYMEM_DOMAIN_OBJ; domain++) {
        PyMemAllocatorEx before, hook;
        PyMem_GetAllocator((PyMemAllocatorDomain)domain, &before);
        tracer_start(&one_frame, 1, 0, 0);
        PyMem_GetAllocator((PyMemAllocatorDomain)domain, &hook);
        ck_assert_ptr_ne(hook.ctx, before.ctx);
        void *p = hook.malloc(before.ctx, 100);
        struct trace trace;
        ck_assert(tracer_find(0, (uintptr_t)p, &trace));
        p = hook.realloc(before.ctx, p, 3000);
        hook.free(before.ctx, p);
        hook.free(before.ctx, hook.calloc(before.ctx, 3, 50));
        ck_assert_uint_eq(traced_now(), 0);
        stop();
        hook.free(before.ctx, hook.malloc(before.ctx, 100));
    }
}
END_TEST

/* What nobody freed through the hooks is forgotten with its pool. */
START_TEST(a_trace_does_not_outlive_its_pool)
{
    enum { N = 3000 };
    static void *p[N];
    PyMemAllocatorEx unhooked;
    PyMem_GetAllocator(PYMEM_DOMAIN_OBJ, &unhooked);
    start();
    for (int i = 0; i < N; i++) {
        p[i] = PyObject_Malloc(32);
    }
    for (int i = 0; i < N; i++) {
        unhooked.free(unhooked.ctx, p[i]);
    }
    for (int i = 0; i < N; i++) {
        p[i] = PyObject_Malloc(64);
    }
    size_t now = traced_now();
    ck_assert_uint_ge(now, N * 64);
    ck_assert_uint_lt(now, N * 64 + N * 32);
    for (int i = 0; i < N; i++) {
        PyObject_Free(p[i]);
    }
    stop();
}
END_TEST

static void *dumped;
static int null;

static void
dump_at_once(int signal_number)
{
    (void)signal_number;
    _PyMem_DumpTraceback(null, dumped);
}

/* Wherever it comes: in the tracer's tables, in malloc. */
static void
be_interrupted(void *unused)
{
    (void)unused;
    null = open("/dev/null", O_WRONLY);
    start();
    dumped = PyMem_Malloc(100);
    signal(SIGALRM, dump_at_once);
    setitimer(ITIMER_REAL, &(struct itimerval){{0, 500}, {0, 500}}, NULL);
    for (int i = 0; i < 100000; i++) {
        void *p = PyObject_Malloc((size_t)i % 1000);
        PyObject_Free(PyObject_Realloc(p, (size_t)i % 700));
    }
    setitimer(ITIMER_REAL, &(struct itimerval){{0, 0}, {0, 0}}, NULL);
    _PyMem_DumpTraceback(STDERR_FILENO, dumped);
    PyMem_Free(dumped);
    _PyTraceMalloc_Stop();
}

START_TEST(a_signal_handler_may_dump_a_traceback)
{
    struct child child = run_child(be_interrupted, NULL);
    ck_assert_int_eq(child.signal, 0);
    ck_assert_int_eq(child.status, 0);
    ck_assert_ptr_nonnull(strstr(child.text, "Memory block allocated at"));
}
END_TEST

/* 1 GiB in blocks of a size, 512 KiB between samples: relative to the truth. */
static double
estimate(size_t size, uint64_t seed)
{
    const size_t truth = (size_t)1 << 30, sample = 512 * 1024;
    tracer_start(&one_frame, 1, sample, seed);
    for (size_t i = 0; i < truth / size; i++) {
        PyTraceMalloc_Track(3, 16 + 16 * i, size);
    }
    double ratio = (double)traced_now() / (double)(truth / size * size);
    tracer_stop();
    return ratio;
}

START_TEST(sampled_sizes_are_unbiased)
{
    const size_t sizes[] = {16384, 100000, 524288, 3000000};
    for (int k = 0; k < 4; k++) {
        double sum = 0, error = 3 * sqrt(524288.0 / (1 << 30));
        for (uint64_t seed = 1; seed <= 50; seed++) {
            double ratio = estimate(sizes[k], seed + 100 * (uint64_t)k);
            ck_assert_msg(fabs(ratio - 1) < error, "size %zu seed %d: %f",
                          sizes[k], (int)seed, ratio);
            sum += ratio;
        }
        ck_assert_msg(fabs(sum / 50 - 1) < 0.01, "size %zu: mean %f", sizes[k],
                      sum / 50);
    }
}
END_TEST

/* Whatever the sizes, a request costs a draw at the most. */
START_TEST(requests_and_distances_of_any_size)
{
    const size_t sizes[] = {0, 1, 1 << 30, SIZE_MAX / 4 + 1, (size_t)PY_SSIZE_T_MAX,
                            SIZE_MAX};
    const size_t means[] = {1, 512, 524288, SIZE_MAX / 4 + 1, (size_t)PY_SSIZE_T_MAX};
    clock_t begin = clock();
    for (int m = 0; m < 5; m++) {
        tracer_start(&one_frame, 1, means[m], 3);
        for (uintptr_t i = 0; i < 600; i++) {
            struct trace trace;
            size_t size = sizes[i % 6];
            ck_assert_int_eq(PyTraceMalloc_Track(3, 8 * i, size), 0);
            int found = tracer_find(3, 8 * i, &trace);
            ck_assert(!found || trace.size >= size || size > (size_t)PY_SSIZE_T_MAX);
            ck_assert(!found || trace.size <= (size_t)PY_SSIZE_T_MAX);
            ck_assert(found || size < means[m] * 40 || means[m] > SIZE_MAX / 40);
        }
        ck_assert(is_out_of_memory(&families[PYMEM_DOMAIN_MEM]));
        stop();
    }
    ck_assert_int_lt((int)((clock() - begin) / CLOCKS_PER_SEC), 2);
}
END_TEST

/* A thread that was there in the time of another start. */
static pthread_barrier_t barrier;

static void *
track_in_two_starts(void *unused)
{
    PyTraceMalloc_Track(3, 0, 1);
    pthread_barrier_wait(&barrier);
    pthread_barrier_wait(&barrier);
    for (uintptr_t i = 1; i <= 1000; i++) {
        PyTraceMalloc_Track(3, i, 20000);
    }
    return unused;
}

START_TEST(a_thread_samples_as_the_last_start_says)
{
    const size_t means[][2] = {{(size_t)1 << 30, 4096}, {4096, SIZE_MAX / 4 + 1}};
    for (int k = 0; k < 2; k++) {
        pthread_t thread;
        pthread_barrier_init(&barrier, NULL, 2);
        tracer_start(&one_frame, 1, means[k][0], 3);
        pthread_create(&thread, NULL, track_in_two_starts, NULL);
        pthread_barrier_wait(&barrier);
        stop();
        tracer_start(&one_frame, 1, means[k][1], 3);
        pthread_barrier_wait(&barrier);
        pthread_join(thread, NULL);
        size_t ntraces = blocks_count();
        ck_assert_msg(k == 0 ? ntraces > 950 : ntraces < 5, "%zu samples", ntraces);
        stop();
    }
}
END_TEST

START_TEST(samples_are_few_and_go_with_their_blocks)
{
    enum { N = 200000 };
    static void *p[N];
    tracer_start(&one_frame, 1, 100000, 7);
    for (int i = 0; i < N; i++) {
        p[i] = PyObject_Malloc(100);
    }
    struct trace *traces;
    size_t ntraces;
    tracer_snapshot(&traces, &ntraces);
    ck_assert_uint_gt(ntraces, 100);
    ck_assert_uint_lt(ntraces, 400);
    tracer_release(traces);
    for (int i = 0; i < N; i++) {
        PyObject_Free(p[i]);
    }
    ck_assert_uint_eq(traced_now(), 0);
    stop();
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("tracemalloc");
    TCase *tc = tcase_create("tracemalloc");
    tcase_set_timeout(tc, 120);
    suite_add_tcase(suite, tc);
    tcase_add_test(tc, track_and_untrack_say_that_nothing_is_traced);
    tcase_add_test(tc, the_dump_says_how_to_know_more);
    tcase_add_test(tc, a_number_of_frames_that_is_none);
    tcase_add_test(tc, domains_are_told_apart);
    tcase_add_test(tc, each_domain_counts_what_was_asked_for);
    tcase_add_test(tc, a_block_from_before_has_no_trace);
    tcase_add_test(tc, the_peak_stays_until_it_is_reset);
    tcase_add_test(tc, the_traces_of_the_peak_are_kept);
    tcase_add_test(tc, a_block_has_one_trace);
    tcase_add_loop_test(tc, an_address_beside_a_block_has_no_trace, 0, 2);
#ifdef WITH_PYMALLOC
    tcase_add_test(tc, an_address_behind_the_last_block_of_a_pool);
#endif
    tcase_add_test(tc, traces_are_those_of_the_blocks_that_live);
    tcase_add_test(tc, the_dump_shows_where_a_block_is_from);
    tcase_add_test(tc, equal_stacks_are_kept_once);
    tcase_add_test(tc, code_at_an_address_of_old_code_has_its_own_lines);
    tcase_add_test(tc, pools_change_their_size_class);
    tcase_add_test(tc, a_trace_does_not_outlive_its_pool);
    tcase_add_test(tc, a_hook_below_may_track);
    tcase_add_test(tc, a_hook_works_with_the_context_from_before_a_start);
    tcase_add_test(tc, a_realloc_that_fails_keeps_the_block_and_its_trace);
    tcase_add_native_test(tc, no_memory_for_a_trace_is_no_memory,
                          "the emulator sets no limit on the address space");
    tcase_add_native_test(tc, eight_threads_and_a_fork, FORKS_IN_THREADS);
    tcase_add_test(tc, a_signal_handler_may_dump_a_traceback);
    tcase_add_test(tc, sampled_sizes_are_unbiased);
    tcase_add_test(tc, samples_are_few_and_go_with_their_blocks);
    tcase_add_test(tc, requests_and_distances_of_any_size);
    tcase_add_test(tc, a_thread_samples_as_the_last_start_says);
    return run_suite(suite);
}
