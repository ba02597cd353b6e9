/* Many requests at once: threads, forks, no memory left, memory used again.  See
 * driver.h.  Calls the API by testpymem_malloc() and its like only, as driver.c does. */

#define _GNU_SOURCE

#include "driver.h"

#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

char testpymem_problem[256];

/* The first problem is told, of whichever thread. */
static int
problem(const char *format, ...)
{
    static int told;
    if (__atomic_exchange_n(&told, 1, __ATOMIC_RELAXED) == 0) {
        va_list args;
        va_start(args, format);
        vsnprintf(testpymem_problem, sizeof(testpymem_problem), format, args);
        va_end(args);
    }
    return 1;
}

/* A block knows its size, and what is in it: bytes that follow from its address. */
struct block {
    struct block *next;
    size_t size;
};

static unsigned char
mark_of(const struct block *block)
{
    return (unsigned char)(((uintptr_t)block >> 4) * 31 + block->size);
}

static void
block_fill(struct block *block, size_t size)
{
    block->next = NULL;
    block->size = size;
    memset(block + 1, mark_of(block), size - sizeof(*block));
}

static int
block_is_whole(const struct block *block, size_t size)
{
    const unsigned char *bytes = (const unsigned char *)(block + 1);
    size_t nbytes = size - sizeof(*block);
    return block->size == size
        && (nbytes == 0
            || (bytes[0] == mark_of(block)
                && memcmp(bytes, bytes + 1, nbytes - 1) == 0));
}

/* A block is checked by its own size: a wrong one is noticed before it is followed. */
static int
block_check(const struct block *block, const char *when)
{
    size_t size = block->size;
    if (size < sizeof(*block) || size > (1u << 20)
        || !block_is_whole(block, size)) {
        return problem("a block has other contents %s", when);
    }
    return 0;
}

static uint32_t
random_next(uint32_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 17;
    *state ^= *state << 5;
    return *state;
}

/* Half of them tiny, so that threads meet at one size; one of 64 is large. */
static size_t
random_size(uint32_t *state)
{
    uint32_t random = random_next(state);
    size_t most = random % 64 == 0 ? 200000 : random % 8 == 0 ? 4000
        : random % 2 == 0 ? 512 : 48;
    return sizeof(struct block) + (random >> 8) % most;
}

/* Threads. */

#define NSLOTS 512

struct crowd {
    int domain;
    int rounds;
    int forks;              /* threads run on until all forks are done */
    struct block *slots[NSLOTS];
};

struct member {
    struct crowd *crowd;
    uint32_t random;
    int result;
};

static struct block *
block_ask(int domain, size_t size)
{
    struct block *block = testpymem_malloc(domain, size);
    if (block == NULL) {
        problem("malloc(%zu) gave NULL", size);
        return NULL;
    }
    block_fill(block, size);
    return block;
}

/* Contents move with a block, but the mark is of its address. */
static struct block *
block_resize(int domain, struct block *block, size_t size)
{
    unsigned char mark = mark_of(block);
    size_t kept = (block->size < size ? block->size : size) - sizeof(*block);
    struct block *moved = testpymem_realloc(domain, block, size);
    if (moved == NULL) {
        problem("realloc to %zu bytes gave NULL", size);
        return NULL;
    }
    for (size_t i = 0; i < kept; i++) {
        if (((unsigned char *)(moved + 1))[i] != mark) {
            problem("realloc by a thread lost contents");
            return NULL;
        }
    }
    block_fill(moved, size);
    return moved;
}

/* A block that two threads were given is in two slots, and has the mark of one. */
static struct block *
slot_mark(uint32_t at)
{
    return (struct block *)(uintptr_t)(at + 1);
}

static int
block_leaves(struct block *block, uint32_t at)
{
    if (block->next != slot_mark(at)) {
        return problem("two threads were given one block");
    }
    block->next = NULL;
    return block_check(block, "in another thread");
}

static void *
crowd_run(void *arg)
{
    struct member *member = arg;
    struct crowd *crowd = member->crowd;
    for (int i = 0; member->result == 0
         && (i < crowd->rounds
             || __atomic_load_n(&crowd->forks, __ATOMIC_RELAXED)); i++) {
        struct block *block = block_ask(crowd->domain,
                                        random_size(&member->random));
        if (block != NULL && random_next(&member->random) % 4 == 0) {
            block = block_resize(crowd->domain, block,
                                 random_size(&member->random));
        }
        if (block == NULL) {
            member->result = 1;
            break;
        }
        uint32_t at = random_next(&member->random) % NSLOTS;
        block->next = slot_mark(at);
        block = __atomic_exchange_n(&crowd->slots[at], block, __ATOMIC_ACQ_REL);
        if (block != NULL) {
            member->result = block_leaves(block, at);
            testpymem_free(crowd->domain, block);
        }
    }
    return NULL;
}

/* In a child: the other threads are gone, whatever they held. */
static void
child_run(int domain)
{
    alarm(10);
    uint32_t random = 99;
    struct block *blocks[64] = {NULL};
    for (int i = 0; i < 20000; i++) {
        struct block **place = &blocks[random_next(&random) % 64];
        if (*place != NULL) {
            if (block_check(*place, "after a fork")) {
                _exit(1);
            }
            testpymem_free(domain, *place);
        }
        *place = block_ask(domain, random_size(&random));
        if (*place == NULL) {
            _exit(1);
        }
    }
    _exit(0);
}

static int
fork_meanwhile(int domain, int times)
{
    for (int i = 0; i < times; i++) {
        pid_t pid = fork();
        if (pid == 0) {
            child_run(domain);
        }
        int status = 0;
        if (pid < 0 || waitpid(pid, &status, 0) != pid) {
            return problem("fork failed");
        }
        if (WIFSIGNALED(status)) {
            return problem(WTERMSIG(status) == SIGALRM
                           ? "a child of fork() waits for ever"
                           : "a child of fork() crashed (signal %d)",
                           WTERMSIG(status));
        }
        if (status != 0) {
            return problem("a child of fork() found wrong contents, or NULL");
        }
    }
    return 0;
}

int
testpymem_threads(int domain, int nthreads, int rounds, int over_fork)
{
    static struct crowd crowd;
    struct member members[64];
    pthread_t threads[64];
    int started = 0, result = 0;
    crowd.domain = domain;
    crowd.rounds = rounds;
    crowd.forks = over_fork;
    for (; started < nthreads && started < 64; started++) {
        members[started] = (struct member){
            &crowd, 2463534242u + 7919u * (uint32_t)started, 0};
        if (pthread_create(&threads[started], NULL, crowd_run,
                           &members[started]) != 0) {
            result = problem("a thread can't be started");
            break;
        }
    }
    if (over_fork > 0 && result == 0) {
        result = fork_meanwhile(domain, over_fork);
    }
    __atomic_store_n(&crowd.forks, 0, __ATOMIC_RELAXED);
    for (int i = 0; i < started; i++) {
        pthread_join(threads[i], NULL);
        result |= members[i].result;
    }
    for (int i = 0; i < NSLOTS && result == 0; i++) {
        if (crowd.slots[i] != NULL) {
            result |= block_check(crowd.slots[i], "after all threads ended");
            testpymem_free(domain, crowd.slots[i]);
            crowd.slots[i] = NULL;
        }
    }
    return result;
}

#define NKEPT 2000

struct legacy {
    int domain;
    struct block *blocks[NKEPT];
};

static void *
legacy_make(void *arg)
{
    struct legacy *legacy = arg;
    uint32_t random = 12345;
    for (int i = 0; i < NKEPT; i++) {
        legacy->blocks[i] = block_ask(legacy->domain, random_size(&random));
    }
    return NULL;
}

static int
in_a_thread(void *(*function)(void *), void *arg)
{
    pthread_t thread;
    if (pthread_create(&thread, NULL, function, arg) != 0) {
        return problem("a thread can't be started");
    }
    pthread_join(thread, NULL);
    return 0;
}

int
testpymem_blocks_of_an_ended_thread(int domain)
{
    static struct legacy first, second;
    first.domain = second.domain = domain;
    if (in_a_thread(legacy_make, &first) || in_a_thread(legacy_make, &second)) {
        return 1;
    }
    for (int i = 0; i < NKEPT; i++) {
        if (first.blocks[i] == NULL || second.blocks[i] == NULL
            || block_check(first.blocks[i], "after its thread ended")) {
            return 1;
        }
        testpymem_free(domain, first.blocks[i]);
    }
    for (int i = 0; i < NKEPT; i++) {
        if (block_check(second.blocks[i], "after its thread ended")) {
            return 1;
        }
        testpymem_free(domain, second.blocks[i]);
    }
    return 0;
}

/* Memory that runs out. */

static struct rlimit limit_before;

/* From here on only so many bytes more can be mapped.  No block can be as large as all
 * that may be mapped then; a smaller one may, as a library keeps memory for later. */
static int
limit_set(size_t extra, size_t *too_much)
{
    unsigned long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (file == NULL || fscanf(file, "%lu", &pages) != 1) {
        pages = 0;
    }
    if (file != NULL) {
        fclose(file);
    }
    struct rlimit limit;
    if (pages == 0 || getrlimit(RLIMIT_AS, &limit_before) != 0) {
        return problem("no limit on memory can be set here");
    }
    limit = limit_before;
    limit.rlim_cur = pages * (size_t)sysconf(_SC_PAGESIZE) + extra;
    *too_much = limit.rlim_cur;
    return setrlimit(RLIMIT_AS, &limit) == 0
        ? 0 : problem("no limit on memory can be set here");
}

static void
limit_clear(void)
{
    setrlimit(RLIMIT_AS, &limit_before);
}

/* A list of blocks, until there is no memory; how many. */
static size_t
list_grow(int domain, size_t size, struct block **list, size_t most)
{
    size_t n = 0;
    for (; n < most; n++) {
        struct block *block = testpymem_malloc(domain, size);
        if (block == NULL) {
            break;
        }
        block_fill(block, size);
        block->next = *list;
        *list = block;
    }
    return n;
}

static int
list_check(const struct block *list, size_t size, const char *when)
{
    for (; list != NULL; list = list->next) {
        if (!block_is_whole(list, size)) {
            return problem("a block of %zu bytes has other contents %s", size,
                           when);
        }
    }
    return 0;
}

/* Every second one, or all; how many. */
static size_t
list_free(int domain, struct block **list, int second)
{
    size_t n = 0;
    struct block *rest = NULL;
    while (*list != NULL) {
        struct block *block = *list;
        *list = block->next;
        if (second && n++ % 2 == 0) {
            block->next = rest;
            rest = block;
        } else {
            testpymem_free(domain, block);
        }
    }
    *list = rest;
    return n / 2;
}

/* While there is no memory. */
static int
requests_fail(int domain, struct block *block, size_t size, size_t too_much)
{
    unsigned char *zeroes = testpymem_calloc(domain, 1, size);
    for (size_t i = 0; zeroes != NULL && i < size; i++) {
        if (zeroes[i] != 0) {
            return problem("calloc without memory gave what is not zero");
        }
    }
    testpymem_free(domain, zeroes);
    if (testpymem_calloc(domain, 1, too_much) != NULL) {
        return problem("calloc gave more than there is");
    }
    if (block != NULL && testpymem_realloc(domain, block, too_much) != NULL) {
        return problem("realloc gave more than there is");
    }
    return 0;
}

int
testpymem_exhaust(int domain, size_t size, size_t extra)
{
    struct block *list = NULL;
    size_t too_much;
    int result = limit_set(extra, &too_much);
    if (result != 0) {
        return result;
    }
    size_t first = list_grow(domain, size, &list, 4 * extra / size);
    result = requests_fail(domain, list, size, too_much)
        || list_check(list, size, "where memory ran out");
    size_t freed = result ? 0 : list_free(domain, &list, 1);
    if (!result && list_grow(domain, size, &list, freed / 2) < freed / 2) {
        result = problem("of %zu blocks of %zu bytes half were freed, but not "
                         "half of these can be had again", first, size);
    }
    result = result || list_check(list, size, "after memory came back");
    if (!result) {
        list_free(domain, &list, 0);
        if (list_grow(domain, size, &list, first / 2) < first / 2) {
            result = problem("%zu blocks of %zu bytes were freed, but not half "
                             "of them can be had again", first, size);
        }
        list_free(domain, &list, 0);
    }
    limit_clear();
    return result;
}

int
testpymem_churn(int domain, size_t size, size_t grown, size_t rounds,
                size_t extra)
{
    size_t too_much;
    int result = limit_set(extra, &too_much);
    for (size_t i = 0; result == 0 && i < rounds; i++) {
        volatile char *p = testpymem_malloc(domain, size);
        if (p != NULL && grown != 0) {
            p[0] = 1;
            p = testpymem_realloc(domain, (void *)p, grown);
        }
        if (p == NULL) {
            result = problem("no memory after %zu blocks of %zu bytes, each "
                             "freed at once", i, grown ? grown : size);
            break;
        }
        p[0] = 1;
        testpymem_free(domain, (void *)p);
    }
    limit_clear();
    return result;
}
