/* One workload on one allocator, in a process of its own.
 *
 *   bench-worker LIBRARY PREFIX WORKLOAD N
 *   bench-worker LIBRARY PREFIX trace FILE
 *
 * The allocator is PREFIX followed by Malloc, Realloc and Free in LIBRARY
 * (PyObject_ in a libpython or libpymem), or malloc, realloc and free where
 * PREFIX is "-" (LIBRARY "-": of this process, whatever is preloaded).
 * Prints one line of JSON: nanoseconds an operation, operations, peak
 * resident set and page faults.  Memory that was asked for is written to, as
 * a program would. */

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

/* An allocated block with its first and last word written. */
static inline void *
take(size_t size)
{
    char *p = alloc(size);
    if (p == NULL) {
        fputs("bench-worker: no memory\n", stderr);
        exit(1);
    }
    *(volatile size_t *)p = size;
    *(volatile char *)(p + size - 1) = 1;
    return p;
}

static uint64_t
now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* The bookkeeping of a workload is not the allocator's memory. */
static void *
table_of(size_t n, size_t size)
{
    void *table = mmap(NULL, n * size, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (table == MAP_FAILED) {
        fputs("bench-worker: no memory\n", stderr);
        exit(1);
    }
    memset(table, 0, n * size);
    return table;
}

/* Workloads: each returns the operations done between *start and its end. */

/* One of n live blocks is replaced by another, of a size of its own. */
static uint64_t
replace(size_t n, uint64_t *start)
{
    void **live = table_of(n, sizeof(void *));
    for (size_t i = 0; i < n; i++) {
        live[i] = take(python_size());
    }
    for (size_t i = 0; i < n; i++) {    /* an old heap is no sorted one */
        size_t k = random_below((uint32_t)n);
        release(live[k]);
        live[k] = take(python_size());
    }
    uint64_t steps = n < 1000000 ? 6000000 : 4000000;
    *start = now();
    for (uint64_t i = 0; i < steps; i++) {
        size_t k = random_below((uint32_t)n);
        release(live[k]);
        live[k] = take(python_size());
    }
    return 2 * steps;
}

/* n blocks in, n blocks out, in the same order. */
static uint64_t
batch(size_t n, uint64_t *start)
{
    void **live = table_of(n, sizeof(void *));
    uint64_t rounds = 8000000 / n;
    *start = now();
    for (uint64_t round = 0; round < rounds; round++) {
        for (size_t i = 0; i < n; i++) {
            live[i] = take(python_size());
        }
        for (size_t i = 0; i < n; i++) {
            release(live[i]);
        }
    }
    return 2 * rounds * n;
}

/* A structure of n blocks is built and dropped, a few times. */
static uint64_t
build(size_t n, uint64_t *start)
{
    void **live = table_of(n, sizeof(void *));
    uint64_t rounds = n < 1000000 ? 4000000 / n : 3;
    *start = now();
    for (uint64_t round = 0; round < rounds; round++) {
        for (size_t i = 0; i < n; i++) {
            live[i] = take(python_size());
        }
        for (size_t i = n; i > 0; i--) {
            release(live[i - 1]);
        }
    }
    return 2 * rounds * n;
}

/* A block is taken and freed at once, beside n live ones. */
static uint64_t
pairs(size_t n, uint64_t *start)
{
    for (size_t i = 0; i < n; i++) {
        take(python_size());
    }
    uint64_t steps = 20000000;
    *start = now();
    for (uint64_t i = 0; i < steps; i++) {
        release(take(size_table[i & 1023]));
    }
    return 2 * steps;
}

/* A buffer grows to n bytes by an eighth at a time, as a list does. */
static uint64_t
grow(size_t n, uint64_t *start)
{
    uint64_t steps = 0;
    *start = now();
    while (steps < 3000000) {
        size_t size = 16;
        char *p = take(size);
        while (size < n) {
            size += size / 8 + 16;
            p = resize(p, size);
            p[size - 1] = 1;
            steps++;
        }
        release(p);
    }
    return steps;
}

/* Sizes around and over the small ones: one of 2,000 live blocks of up to n
 * bytes is replaced. */
static uint64_t
large(size_t n, uint64_t *start)
{
    enum { LIVE = 2000 };
    void **live = table_of(LIVE, sizeof(void *));
    for (size_t i = 0; i < LIVE; i++) {
        live[i] = take(400 + random_below((uint32_t)n - 400));
    }
    uint64_t steps = 2000000;
    *start = now();
    for (uint64_t i = 0; i < steps; i++) {
        size_t k = random_below(LIVE);
        release(live[k]);
        live[k] = take(400 + random_below((uint32_t)n - 400));
    }
    return 2 * steps;
}

/* A recorded program is played: record.c says how it was written down. */

static struct {
    FILE *file;
    uint8_t bytes[65536];
    size_t position, length;
} trace;

static inline int
trace_byte(void)
{
    if (trace.position == trace.length) {
        trace.length = fread(trace.bytes, 1, sizeof(trace.bytes), trace.file);
        trace.position = 0;
        if (trace.length == 0) {
            return -1;
        }
    }
    return trace.bytes[trace.position++];
}

/* 0 at the end of the trace. */
static inline int
trace_number(uint64_t *number)
{
    int shift = 0;
    int byte;
    *number = 0;
    do {
        if ((byte = trace_byte()) < 0) {
            return 0;
        }
        *number |= (uint64_t)(byte & 127) << shift;
        shift += 7;
    } while (byte & 128);
    return 1;
}

/* Each line of a block is written to, as a program would, sooner or later. */
static inline void
touch(char *p, size_t size)
{
    for (size_t i = 0; i < size; i += 64) {
        *(volatile char *)(p + i) = 1;
    }
}

static uint64_t
play(const char *path, uint64_t *start)
{
    enum { MALLOC, FREE, REALLOC, CALLOC, SLOTS = 1 << 26 };
    char magic[8];
    trace.file = fopen(path, "rb");
    if (trace.file == NULL || fread(magic, 1, 8, trace.file) != 8
        || memcmp(magic, "pymemtr1", 8) != 0)
    {
        fprintf(stderr, "bench-worker: %s is no trace of record.so\n", path);
        exit(2);
    }
    char **live = mmap(NULL, SLOTS * sizeof(*live), PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    uint64_t steps = 0, call, size;
    *start = now();
    while (trace_number(&call) && call / 4 < SLOTS) {
        char **slot = &live[call / 4];
        if (call % 4 == FREE) {
            release(*slot);
            *slot = NULL;
        }
        else if (trace_number(&size)) {
            size += size == 0;      /* malloc may return NULL for 0 */
            *slot = call % 4 == REALLOC ? resize(*slot, size)
                : call % 4 == CALLOC ? clear(1, size) : alloc(size);
            if (*slot == NULL) {
                fputs("bench-worker: no memory\n", stderr);
                exit(1);
            }
            touch(*slot, size);
        }
        steps++;
    }
    return steps;
}

/* Peak resident set in KiB.  Not getrusage()'s: that remembers the size of the
 * program that started this one. */
static long
peak_rss(void)
{
    long peak = 0;
    char line[256];
    FILE *status = fopen("/proc/self/status", "r");
    while (status != NULL && fgets(line, sizeof(line), status) != NULL) {
        if (sscanf(line, "VmHWM: %ld", &peak) == 1) {
            break;
        }
    }
    if (status != NULL) {
        fclose(status);
    }
    return peak;
}

static const struct {
    const char *name;
    uint64_t (*run)(size_t n, uint64_t *start);
} workloads[] = {
    {"replace", replace}, {"batch", batch}, {"build", build},
    {"pairs", pairs}, {"grow", grow}, {"large", large},
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

int
main(int argc, char **argv)
{
    if (argc != 5) {
        fputs("usage: bench-worker LIBRARY PREFIX WORKLOAD N\n"
              "       bench-worker LIBRARY PREFIX trace FILE\n", stderr);
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
    make_size_table();
    uint64_t start = 0, steps = 0;
    size_t n = strtoul(argv[4], NULL, 10);
    if (strcmp(argv[3], "trace") == 0) {
        steps = play(argv[4], &start);
    }
    for (size_t i = 0; i < sizeof(workloads) / sizeof(workloads[0]); i++) {
        if (strcmp(argv[3], workloads[i].name) == 0 && n > 400) {
            steps = workloads[i].run(n, &start);
        }
    }
    uint64_t spent = now() - start;
    if (steps == 0) {
        fprintf(stderr, "bench-worker: no workload %s of %s (over 400)\n",
                argv[3], argv[4]);
        return 2;
    }
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    printf("{\"ns\": %.4f, \"operations\": %llu, \"rss_kib\": %ld, "
           "\"faults\": %ld}\n", (double)spent / (double)steps,
           (unsigned long long)steps, peak_rss(), usage.ru_minflt);
    return 0;
}
