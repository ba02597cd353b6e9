/* One workload on one allocator, in a process of its own.
 *
 *   bench-worker LIBRARY PREFIX WORKLOAD N
 *   bench-worker LIBRARY PREFIX trace FILE [SAMPLES]
 *
 * The allocator is PREFIX followed by Malloc, Realloc and Free in LIBRARY
 * (PyObject_ in a libpython or libpymem), or malloc, realloc and free where
 * PREFIX is "-" (LIBRARY "-": of this process, whatever is preloaded).
 * Prints one line of JSON: nanoseconds an operation, operations, peak
 * and last resident set and page faults; before it a line for each sample of a trace:
 * how much memory the allocator has after so many calls.  Memory that was asked for is
 * written to. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>

static void *(*alloc)(size_t size);
static void *(*clear)(size_t nelem, size_t elsize);
static void *(*resize)(void *ptr, size_t size);
static void (*release)(void *ptr);

/* Sizes in the proportions in which Python programs ask for them: strings,
 * tuples, floats and ints, dicts and their keys, frames of generators. */
static const struct {
    uint16_t size, weight;
} python_sizes[] = {
    {24, 6}, {28, 10}, {32, 14}, {40, 6}, {48, 9}, {50, 5}, {53, 5}, {56, 12},
    {60, 4}, {64, 10}, {72, 6}, {80, 3}, {88, 2}, {104, 2}, {120, 1},
    {136, 1}, {184, 1}, {232, 1}, {352, 1}, {416, 1},
};
static uint16_t size_table[1024];

static uint64_t random_state = 88172645463325252u;

static inline uint32_t
random32(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)(random_state >> 16);
}

static inline uint32_t
random_below(uint32_t n)
{
    return (uint32_t)(((uint64_t)random32() * n) >> 32);
}

static void
make_size_table(void)
{
    unsigned total = 0, filled = 0;
    size_t nsizes = sizeof(python_sizes) / sizeof(python_sizes[0]);
    for (size_t i = 0; i < nsizes; i++) {
        total += python_sizes[i].weight;
    }
    for (size_t i = 0, sum = 0; i < nsizes; i++) {
        sum += python_sizes[i].weight;
        while (filled < 1024 * sum / total) {
            size_table[filled++] = python_sizes[i].size;
        }
    }
}

static inline size_t
python_size(void)
{
    return size_table[random32() & 1023];
}

static void
no_memory(void)
{
    fputs("bench-worker: no memory\n", stderr);
    exit(1);
}

static uint64_t
now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* A workload is a stream of calls, made or read some thousand at a time while
 * the clock stands, and then played.  So what is measured is the allocator, and
 * memory that is touched for the first time, and little else. */

enum { MALLOC, FREE, REALLOC, CALLOC };
struct call {
    uint32_t kind : 2, slot : 30;   /* which of the live blocks */
    uint32_t size;
};
enum { CALLS = 4096, CALLS_A_STEP = 3, SLOTS = 1 << 26, NBUFFERS = 100 };
static struct call calls[CALLS];
static size_t ncalls;
static uint64_t position;       /* of the stream, in steps of the workload */
static int touches_all;         /* memory; or the first and last byte of each */

static inline void
add(unsigned kind, size_t slot, size_t size)
{
    calls[ncalls].kind = kind & 3;
    calls[ncalls].slot = slot & (SLOTS - 1);
    calls[ncalls].size = (uint32_t)size;
    ncalls++;
}

/* Workloads: each adds the calls of one step, as many as position counts on, or
 * none at the end. */

/* One of n live blocks is replaced by another, of a size of its own.  Twice n
 * steps before: an old heap is no sorted one. */
static void
replace(size_t n)
{
    if (position < n) {
        add(MALLOC, position, python_size());
    }
    else if (position < 2 * n + (n < 1000000 ? 6000000 : 4000000)) {
        size_t k = random_below((uint32_t)n);
        add(FREE, k, 0);
        add(MALLOC, k, python_size());
    }
}

/* n blocks in, n blocks out, in the same order. */
static void
batch(size_t n)
{
    if (position < 8000000 / n * 2 * n) {
        size_t k = position % (2 * n);
        add(k < n ? MALLOC : FREE, k % n, python_size());
    }
}

/* A structure of n blocks is built and dropped, a few times. */
static void
build(size_t n)
{
    if (position < (n < 1000000 ? 4000000 / n : 3) * 2 * n) {
        size_t k = position % (2 * n);
        add(k < n ? MALLOC : FREE, k < n ? k : 2 * n - 1 - k, python_size());
    }
}

/* Of n blocks all but one in a hundred are freed, at random: how much memory
 * stays?  Each step of the second part looks for a block that is still there. */
static void
sparse(size_t n)
{
    static uint32_t *left;
    static size_t nleft;
    if (left == NULL) {
        left = malloc(n * sizeof(*left));
    }
    if (position < n) {
        left[nleft++] = (uint32_t)position;
        add(MALLOC, position, python_size());
    }
    else if (nleft > n / 100) {
        size_t k = random_below((uint32_t)nleft);
        add(FREE, left[k], 0);
        left[k] = left[--nleft];
    }
}

/* A block is taken and freed at once, beside n live ones. */
static void
pairs(size_t n)
{
    if (position < n) {
        add(MALLOC, position, python_size());
    }
    else if (position < n + 10000000) {
        add(MALLOC, n, python_size());
        add(FREE, n, 0);
    }
}

/* Buffer k grows as a list does, by an eighth at a time, to limit bytes.  Then it is freed. */
static void
grow_buffer(size_t k, size_t limit)
{
    static size_t sizes[NBUFFERS];
    if (sizes[k] == 0) {
        sizes[k] = 56;
        add(MALLOC, k, sizes[k]);
    }
    else if (sizes[k] < limit) {
        sizes[k] += sizes[k] / 8 + 16;
        add(REALLOC, k, sizes[k]);
    }
    else {
        sizes[k] = 0;
        add(FREE, k, 0);
    }
}

/* One buffer grows to n bytes, and another. */
static void
grow(size_t n)
{
    if (position < 3000000) {
        grow_buffer(0, n);
    }
}

/* A hundred buffers grow at a time, any of them next. */
static void
grow_many(size_t n)
{
    if (position < (n < 1000000 ? 1000000 : 200000)) {
        grow_buffer(random_below(NBUFFERS), n);
    }
}

/* Lists are appended to, each to a length of its own up to n bytes, most of them short, and
 * an object is made for each.  */
static void
append(size_t n)
{
    enum { OBJECTS = 1000 };
    static size_t limits[NBUFFERS];
    if (position < OBJECTS) {
        add(MALLOC, NBUFFERS + position, python_size());
    }
    else if (position < OBJECTS + (n < 1000000 ? 2000000u : 400000u)) {
        size_t k = random_below(NBUFFERS), object = NBUFFERS + random_below(OBJECTS);
        if (limits[k] == 0) {
            limits[k] = n >> random_below(12);
        }
        grow_buffer(k, limits[k]);
        if (calls[ncalls - 1].kind == FREE) {
            limits[k] = 0;
        }
        add(FREE, object, 0);
        add(MALLOC, object, python_size());
    }
}

/* Sizes around and over the small ones: one of 2,000 live blocks of up to n
 * bytes is replaced. */
static void
large(size_t n)
{
    enum { LIVE = 2000 };
    size_t size = 400 + random_below((uint32_t)n - 400);
    if (position < LIVE) {
        add(MALLOC, position, size);
    }
    else if (position < LIVE + 2000000) {
        size_t k = random_below(LIVE);
        add(FREE, k, 0);
        add(MALLOC, k, size);
    }
}

/* A recorded program is played: record.c says how it was written down. */

static FILE *trace;

static void
trace_open(const char *path)
{
    char magic[8];
    trace = fopen(path, "rb");
    touches_all = 1;
    if (trace == NULL || fread(magic, 1, 8, trace) != 8
        || memcmp(magic, "pymemtr1", 8) != 0)
    {
        fprintf(stderr, "bench-worker: %s is no trace of record.so\n", path);
        exit(2);
    }
}

/* 0 at the end of the trace. */
static int
trace_number(uint64_t *number)
{
    int byte;
    *number = 0;
    for (int shift = 0; (byte = getc_unlocked(trace)) != EOF; shift += 7) {
        *number |= (uint64_t)(byte & 127) << shift;
        if (byte < 128) {
            return 1;
        }
    }
    return 0;
}

static int
trace_call(uint64_t *call, uint64_t *size)
{
    return trace_number(call) && (*call % 4 == FREE || trace_number(size));
}

static void
recorded(size_t n)
{
    (void)n;
    uint64_t call, size = 0;
    if (trace_call(&call, &size)) {
        if (call / 4 >= SLOTS || size > UINT32_MAX) {
            fputs("bench-worker: more live blocks than 67,108,864, or one of "
                  "4 GiB: too much to play\n", stderr);
            exit(2);
        }
        add(call % 4, call / 4, size);
    }
}

/* Of a trace, each line of a block is written to, as the program did.  Without a
 * branch for small ones: one that is predicted wrongly takes longer than
 * malloc. */
static inline char *
touched(char *p, size_t size)
{
    if (p == NULL) {
        no_memory();
    }
    *(volatile char *)p = 1;
    for (size_t i = 128; touches_all && i < size; i += 64) {
        *(volatile char *)(p + i - 64) = 1;
    }
    *(volatile char *)(p + size - 1) = 1;
    return p;
}

static void
play(char **live)
{
    for (const struct call *c = calls; c < calls + ncalls; c++) {
        char **slot = &live[c->slot];
        size_t size = c->size + (c->size == 0);   /* malloc(0) may be NULL */
        switch (c->kind) {
        case MALLOC:
            *slot = touched(alloc(size), size);
            break;
        case FREE:
            release(*slot);
            *slot = NULL;
            break;
        case REALLOC:
            *slot = resize(*slot, size);
            for (size_t i = size - size / 8; i < size; i += 64) {     /* what is new of it */
                *(volatile char *)(*slot + i) = 1;
            }
            *(volatile char *)(*slot + size - 1) = 1;
            break;
        case CALLOC:
            *slot = touched(clear(1, size), size);
            break;
        }
    }
}

/* A line of /proc/self/status: "VmHWM:" is the peak resident set in KiB, "VmRSS:"
 * the present one.  Not getrusage()'s: that remembers the size of the program
 * that started this one. */
static long
status_kib(const char *label)
{
    long kib = 0;
    char line[256];
    FILE *status = fopen("/proc/self/status", "r");
    while (status != NULL && fgets(line, sizeof(line), status) != NULL) {
        if (strncmp(line, label, strlen(label)) == 0) {
            kib = strtol(line + strlen(label), NULL, 10);
            break;
        }
    }
    if (status != NULL) {
        fclose(status);
    }
    return kib;
}

/* Samples of a trace: evenly over its calls. */

static struct {
    uint64_t every, next;       /* calls; 0: none are taken */
    long kib_before;            /* of the process, without the allocator's */
    size_t slots_used;
} sampling;

static void
sampling_start(uint64_t nsamples)
{
    uint64_t total = 0, call, size;
    long start = ftell(trace);
    while (trace_call(&call, &size)) {
        total++;
    }
    fseek(trace, start, SEEK_SET);
    sampling.every = total / nsamples + 1;
    sampling.next = sampling.every;
    sampling.kib_before = status_kib("RssAnon:");
}

/* The pages of the table of live blocks are not the allocator's. */
static void
sampling_goes_on(uint64_t ncalls_played, int is_over)
{
    if (sampling.every == 0) {
        return;
    }
    for (const struct call *c = calls; c < calls + ncalls; c++) {
        if (c->slot >= sampling.slots_used) {
            sampling.slots_used = c->slot + 1u;
        }
    }
    if (ncalls_played >= sampling.next || is_over) {
        long table = (long)((sampling.slots_used * sizeof(char *) + 4095) / 4096 * 4);
        printf("{\"call\": %llu, \"kib\": %ld}\n", (unsigned long long)ncalls_played,
               status_kib("RssAnon:") - sampling.kib_before - table);
        sampling.next += sampling.every;
    }
}

/* Play a workload to its end, with the clock on from a position: the calls that
 * were timed, and how long. */
static uint64_t
run(void (*workload)(size_t n), size_t n, uint64_t first_timed, uint64_t *spent)
{
    char **live = mmap(NULL, SLOTS * sizeof(*live), PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (live == MAP_FAILED) {
        no_memory();
    }
    uint64_t timed = 0;
    size_t before;
    do {
        int warming_up = position < first_timed;
        ncalls = 0;
        do {
            before = ncalls;
            workload(n);
            position++;
            if (warming_up && position >= first_timed) {
                break;
            }
        } while (ncalls > before && ncalls <= CALLS - CALLS_A_STEP);
        uint64_t start = now();
        play(live);
        if (!warming_up) {
            *spent += now() - start;
            timed += ncalls;
        }
        sampling_goes_on(timed, ncalls == before);
    } while (ncalls > before);
    return timed;
}

static const struct {
    const char *name;
    void (*calls)(size_t n);
    size_t untimed;     /* steps at the start, times n, that build up a heap */
} workloads[] = {
    {"replace", replace, 2}, {"batch", batch, 0}, {"build", build, 0},
    {"pairs", pairs, 1}, {"grow", grow, 0}, {"grow_many", grow_many, 0},
    {"append", append, 0}, {"large", large, 1},
    {"sparse", sparse, 0},
    {"trace", recorded, 0},
};

static void *
symbol(void *library, const char *prefix, const char *python_name,
       const char *c_name)
{
    char name[100];
    snprintf(name, sizeof(name), "%s%s", strcmp(prefix, "-") ? prefix : "",
             strcmp(prefix, "-") ? python_name : c_name);
    void *address = dlsym(library, name);
    if (address == NULL) {
        fprintf(stderr, "bench-worker: %s\n", dlerror());
        exit(2);
    }
    return address;
}

/* From CPython 3.12 on pymalloc's state is the interpreter's, which must be there
 * first; its memory in KiB is not the allocator's. */
static long
start_interpreter(void *library)
{
    const char *(*version)(void);
    void (*initialize)(int initsigs);
    *(void **)&version = dlsym(library, "Py_GetVersion");
    *(void **)&initialize = dlsym(library, "Py_InitializeEx");
    if (version == NULL || initialize == NULL
        || (strncmp(version(), "3.", 2) == 0 && atoi(version() + 2) < 12))
    {
        return 0;
    }
    long before = status_kib("VmRSS:");
    initialize(0);
    return status_kib("VmRSS:") - before;
}

int
main(int argc, char **argv)
{
    if (argc != 5 && (argc != 6 || strcmp(argv[3], "trace") != 0)) {
        fputs("usage: bench-worker LIBRARY PREFIX WORKLOAD N\n"
              "       bench-worker LIBRARY PREFIX trace FILE [SAMPLES]\n", stderr);
        return 2;
    }
    void *library = RTLD_DEFAULT;
    if (strcmp(argv[1], "-") != 0
        && (library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL)) == NULL)
    {
        fprintf(stderr, "bench-worker: %s\n", dlerror());
        return 2;
    }
    *(void **)&alloc = symbol(library, argv[2], "Malloc", "malloc");
    *(void **)&clear = symbol(library, argv[2], "Calloc", "calloc");
    *(void **)&resize = symbol(library, argv[2], "Realloc", "realloc");
    *(void **)&release = symbol(library, argv[2], "Free", "free");
    long interpreter_kib = library != RTLD_DEFAULT ? start_interpreter(library) : 0;
    make_size_table();
    size_t n = strtoul(argv[4], NULL, 10);
    if (strcmp(argv[3], "trace") == 0) {
        trace_open(argv[4]);
        n = SIZE_MAX;
        if (argc == 6 && strtoul(argv[5], NULL, 10) > 0) {
            sampling_start(strtoul(argv[5], NULL, 10));
        }
    }
    uint64_t steps = 0, spent = 0;
    for (size_t i = 0; i < sizeof(workloads) / sizeof(workloads[0]); i++) {
        if (strcmp(argv[3], workloads[i].name) == 0 && n > 400) {
            steps = run(workloads[i].calls, n, workloads[i].untimed * n,
                        &spent);
        }
    }
    if (steps == 0) {
        fprintf(stderr, "bench-worker: no workload %s of %s (over 400)\n",
                argv[3], argv[4]);
        return 2;
    }
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    printf("{\"ns\": %.4f, \"operations\": %llu, \"rss_kib\": %ld, "
           "\"end_rss_kib\": %ld, \"faults\": %ld}\n", (double)spent / (double)steps,
           (unsigned long long)steps, status_kib("VmHWM:") - interpreter_kib,
           status_kib("VmRSS:") - interpreter_kib, usage.ru_minflt);
    return 0;
}
