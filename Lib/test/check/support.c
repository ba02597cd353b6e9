/* See support.h. */

#include "support.h"
#include "pycore_geometry.h"

#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

const struct family families[3] = {
    {"raw", 'r', PyMem_RawMalloc, PyMem_RawCalloc, PyMem_RawRealloc,
     PyMem_RawFree},
    {"mem", 'm', PyMem_Malloc, PyMem_Calloc, PyMem_Realloc, PyMem_Free},
    {"object", 'o', PyObject_Malloc, PyObject_Calloc, PyObject_Realloc,
     PyObject_Free},
};

/* Recorder. */

static int
fails(size_t ncalls, long fail_at, int fail_on)
{
    long n = (long)ncalls;
    return fail_at > 0 && (n == fail_at || (fail_on && n > fail_at));
}

static struct call *
recorder_add(struct recorder *recorder, char what, void *ptr, size_t size)
{
    static struct call dropped;
    size_t i = recorder->ncalls++;
    size_t room = sizeof(recorder->calls) / sizeof(recorder->calls[0]);
    struct call *call = i < room ? &recorder->calls[i] : &dropped;
    *call = (struct call){what, ptr, size, NULL};
    return call;
}

static int
recorder_fails(const struct recorder *recorder)
{
    return fails(recorder->ncalls, recorder->fail_at, recorder->fail_on);
}

static void *
recorder_malloc(void *ctx, size_t size)
{
    struct recorder *recorder = ctx;
    struct call *call = recorder_add(recorder, 'm', NULL, size);
    if (!recorder_fails(recorder)) {
        call->result = recorder->wrapped.malloc(recorder->wrapped.ctx, size);
    }
    return call->result;
}

static void *
recorder_calloc(void *ctx, size_t nelem, size_t elsize)
{
    struct recorder *recorder = ctx;
    struct call *call = recorder_add(recorder, 'c', NULL, nelem * elsize);
    if (!recorder_fails(recorder)) {
        call->result = recorder->wrapped.calloc(recorder->wrapped.ctx, nelem,
                                                elsize);
    }
    return call->result;
}

static void *
recorder_realloc(void *ctx, void *ptr, size_t size)
{
    struct recorder *recorder = ctx;
    struct call *call = recorder_add(recorder, 'r', ptr, size);
    if (!recorder_fails(recorder)) {
        call->result = recorder->wrapped.realloc(recorder->wrapped.ctx, ptr,
                                                 size);
    }
    return call->result;
}

static void
recorder_free(void *ctx, void *ptr)
{
    struct recorder *recorder = ctx;
    recorder_add(recorder, 'f', ptr, 0);
    recorder->wrapped.free(recorder->wrapped.ctx, ptr);
}

void
recorder_install(struct recorder *recorder, PyMemAllocatorDomain domain)
{
    recorder->domain = domain;
    recorder->ncalls = 0;
    PyMem_GetAllocator(domain, &recorder->wrapped);
    PyMemAllocatorEx alloc = {recorder, recorder_malloc, recorder_calloc,
                              recorder_realloc, recorder_free};
    PyMem_SetAllocator(domain, &alloc);
}

void
recorder_remove(struct recorder *recorder)
{
    PyMem_SetAllocator(recorder->domain, &recorder->wrapped);
}

/* Arena source: twice the memory, so that any offset fits. */

static void *
arena_source_alloc(void *ctx, size_t size)
{
    struct arena_source *source = ctx;
    source->nalloc++;
    if (size != ARENA_SIZE) {
        source->bad_size++;
    }
    if (fails(source->nalloc, source->fail_at, source->fail_on)) {
        return NULL;
    }
    char *memory = aligned_alloc(ARENA_SIZE, 2 * ARENA_SIZE);
    ck_assert_ptr_nonnull(memory);
    memset(memory, 0xff, 2 * ARENA_SIZE);       /* nobody promised zeros */
    source->nlive++;
    source->last = memory + source->offset;
    return source->last;
}

static void
arena_source_free(void *ctx, void *ptr, size_t size)
{
    struct arena_source *source = ctx;
    if (size != ARENA_SIZE) {
        source->bad_size++;
    }
    source->nfree++;
    source->nlive--;
    free((char *)ptr - source->offset);
}

void
arena_source_install(struct arena_source *source)
{
    PyObject_GetArenaAllocator(&source->replaced);
    PyObjectArenaAllocator alloc = {source, arena_source_alloc,
                                    arena_source_free};
    PyObject_SetArenaAllocator(&alloc);
}

void
arena_source_remove(struct arena_source *source)
{
    PyObject_SetArenaAllocator(&source->replaced);
}

/* Children. */

struct child
run_child(void (*function)(void *), void *arg)
{
    struct child child = {0, 0, ""};
    int fds[2];
    ck_assert_int_eq(pipe(fds), 0);
    fflush(NULL);
    pid_t pid = fork();
    ck_assert_int_ge(pid, 0);
    if (pid == 0) {
        dup2(fds[1], STDERR_FILENO);
        close(fds[0]);
        function(arg);
        fflush(NULL);
        _exit(0);
    }
    close(fds[1]);
    FILE *said = fdopen(fds[0], "r");
    size_t length = fread(child.text, 1, sizeof(child.text) - 1, said);
    child.text[length] = '\0';
    fclose(said);
    int status;
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    if (WIFSIGNALED(status)) {
        child.signal = WTERMSIG(status);
    }
    else {
        child.status = WEXITSTATUS(status);
    }
    return child;
}

void
run_threads(size_t nthreads, void *(*function)(void *number))
{
    pthread_t threads[16];
    ck_assert_uint_le(nthreads, sizeof(threads) / sizeof(threads[0]));
    for (size_t i = 0; i < nthreads; i++) {
        ck_assert_int_eq(pthread_create(&threads[i], NULL, function,
                                        (void *)(uintptr_t)i), 0);
    }
    for (size_t i = 0; i < nthreads; i++) {
        ck_assert_int_eq(pthread_join(threads[i], NULL), 0);
    }
}

/* In KiB there, where statm counts in pages, the kernel's and not those of pages.c. */
struct process_size
process_size(void)
{
    struct process_size kib = {0, 0};
    char line[300];
    FILE *file = fopen("/proc/self/status", "r");
    ck_assert_ptr_nonnull(file);
    while (fgets(line, sizeof(line), file) != NULL) {
        if (sscanf(line, "VmSize: %zu", &kib.total) != 1) {
            sscanf(line, "VmRSS: %zu", &kib.resident);
        }
    }
    fclose(file);
    ck_assert_uint_ne(kib.total, 0);
    return (struct process_size){kib.total * 1024, kib.resident * 1024};
}

int
is_filled(const void *ptr, size_t n, unsigned char value)
{
    const unsigned char *p = ptr;
    for (size_t i = 0; i < n; i++) {
        if (p[i] != value) {
            return 0;
        }
    }
    return 1;
}

void
fill_pattern(void *ptr, size_t n, unsigned seed)
{
    for (size_t i = 0; i < n; i++) {
        ((unsigned char *)ptr)[i] = (unsigned char)(i * 7 + seed);
    }
}

int
has_pattern(const void *ptr, size_t n, unsigned seed)
{
    for (size_t i = 0; i < n; i++) {
        if (((const unsigned char *)ptr)[i] != (unsigned char)(i * 7 + seed)) {
            return 0;
        }
    }
    return 1;
}

size_t
bytes_in_huge_pages(void)
{
    char line[300];
    size_t huge = 0;
    unsigned long kib;
    FILE *smaps = fopen("/proc/self/smaps", "r");
    while (fgets(line, sizeof(line), smaps) != NULL) {
        if (sscanf(line, "AnonHugePages: %lu kB", &kib) == 1) {
            huge += kib * 1024;
        }
    }
    fclose(smaps);
    return huge;
}

unsigned
random_below(unsigned n)
{
    static uint64_t state = 88172645463325252u;
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (unsigned)(state >> 32) % n;
}

int
is_out_of_memory(const struct family *family)
{
    void *p = family->malloc((size_t)PY_SSIZE_T_MAX);
    void *q = sizeof(void *) == 4 && p != NULL ? family->malloc((size_t)PY_SSIZE_T_MAX) : p;
    int is_out = q == NULL;
    if (q != p) {
        family->free(q);
    }
    family->free(p);
    return is_out;
}

int
is_emulated(void)
{
    return getenv("CHECK_EMULATED") != NULL;
}

int
is_left_out(const char *test, const char *reason)
{
    if (is_emulated()) {
        printf("left out: %s: %s\n", test, reason);
    }
    return is_emulated();
}

int
run_suite(Suite *suite)
{
    setenv("PYMEM_MEDIUM", "pools", 0);     /* also where configure chose malloc */
    printf("pages of %ld bytes\n", sysconf(_SC_PAGESIZE));     /* pages.c's answer */
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
