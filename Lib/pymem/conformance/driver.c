/* Drives the memory API: see driver.h. */

#include "driver.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* PyMemAllocatorEx and PyObjectArenaAllocator. */
struct allocator {
    void *ctx;
    void *(*malloc)(void *ctx, size_t size);
    void *(*calloc)(void *ctx, size_t nelem, size_t elsize);
    void *(*realloc)(void *ctx, void *ptr, size_t new_size);
    void (*free)(void *ctx, void *ptr);
};
struct arena_allocator {
    void *ctx;
    void *(*alloc)(void *ctx, size_t size);
    void (*free)(void *ctx, void *ptr, size_t size);
};

/* The functions under test; NULL: the implementation has none.  Enumerations are ints
 * here, as compilers make them. */
static struct {
    struct {
        void *(*malloc)(size_t size);
        void *(*calloc)(size_t nelem, size_t elsize);
        void *(*realloc)(void *ptr, size_t new_size);
        void (*free)(void *ptr);
    } families[3];
    void (*get_allocator)(int domain, struct allocator *);
    void (*set_allocator)(int domain, struct allocator *);
    void (*setup_debug_hooks)(void);
    void (*get_arena_allocator)(struct arena_allocator *);
    void (*set_arena_allocator)(struct arena_allocator *);
    int (*get_allocator_name)(const char *name, int *allocator);
    int (*setup_allocators)(int allocator);
    int (*debug_malloc_stats)(FILE *out);
    ptrdiff_t (*global_allocated_blocks)(void);     /* 3.12 */
    ptrdiff_t (*allocated_blocks)(void);            /* before */
    const char *(*current_allocator_name)(void);
    int (*track)(unsigned domain, uintptr_t ptr, size_t size);
    int (*untrack)(unsigned domain, uintptr_t ptr);
    int (*gil_ensure)(void);
    void (*gil_release)(int state);
} api;

#define FAMILY(prefix, domain) \
    {prefix "Malloc", &api.families[domain].malloc}, \
    {prefix "Calloc", &api.families[domain].calloc}, \
    {prefix "Realloc", &api.families[domain].realloc}, \
    {prefix "Free", &api.families[domain].free}

static const struct {
    const char *name;
    void *place;            /* of a pointer to a function */
} names[] = {
    FAMILY("PyMem_Raw", 0),
    FAMILY("PyMem_", 1),
    FAMILY("PyObject_", 2),
    {"PyMem_GetAllocator", &api.get_allocator},
    {"PyMem_SetAllocator", &api.set_allocator},
    {"PyMem_SetupDebugHooks", &api.setup_debug_hooks},
    {"PyObject_GetArenaAllocator", &api.get_arena_allocator},
    {"PyObject_SetArenaAllocator", &api.set_arena_allocator},
    {"_PyMem_GetAllocatorName", &api.get_allocator_name},
    {"_PyMem_SetupAllocators", &api.setup_allocators},
    {"_PyObject_DebugMallocStats", &api.debug_malloc_stats},
    {"_Py_GetGlobalAllocatedBlocks", &api.global_allocated_blocks},
    {"_Py_GetAllocatedBlocks", &api.allocated_blocks},
    {"_PyMem_GetCurrentAllocatorName", &api.current_allocator_name},
    {"PyTraceMalloc_Track", &api.track},
    {"PyTraceMalloc_Untrack", &api.untrack},
    {"PyGILState_Ensure", &api.gil_ensure},
    {"PyGILState_Release", &api.gil_release},
};

int
testpymem_provide(const char *name, void *address)
{
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (strcmp(names[i].name, name) == 0) {
            memcpy(names[i].place, &address, sizeof(address));
            return 0;
        }
    }
    return -1;
}

const char *testpymem_missing;

const char *
testpymem_take_missing(void)
{
    const char *missing = testpymem_missing;
    testpymem_missing = NULL;
    return missing;
}

/* Is there no such function?  Its name is told then. */
static int
lacks(const void *place)
{
    void *address;
    memcpy(&address, place, sizeof(address));
    for (size_t i = 0; address == NULL
         && i < sizeof(names) / sizeof(names[0]); i++) {
        if (names[i].place == place) {
            testpymem_missing = names[i].name;
        }
    }
    return address == NULL;
}
#define LACKS(member) lacks(&api.member)

/* Hooks record only inside a call of this driver. */
static _Thread_local int driving;

void *
testpymem_malloc(int domain, size_t size)
{
    driving = 1;
    void *result = api.families[domain].malloc(size);
    driving = 0;
    return result;
}

void *
testpymem_calloc(int domain, size_t nelem, size_t elsize)
{
    driving = 1;
    void *result = api.families[domain].calloc(nelem, elsize);
    driving = 0;
    return result;
}

void *
testpymem_realloc(int domain, void *ptr, size_t new_size)
{
    driving = 1;
    void *result = api.families[domain].realloc(ptr, new_size);
    driving = 0;
    return result;
}

void
testpymem_free(int domain, void *ptr)
{
    driving = 1;
    api.families[domain].free(ptr);
    driving = 0;
}

/* Hooks. */

struct countdown {
    long ncalls;
    long fail_at;
    int fail_on;
};

static int
countdown_fails(struct countdown *countdown)
{
    long n = ++countdown->ncalls;
    return countdown->fail_at > 0
        && (n == countdown->fail_at
            || (countdown->fail_on && n > countdown->fail_at));
}

/* Three, and three more that are put around them: a domain and 3. */
static struct hook {
    int domain;
    int installed;
    struct allocator wrapped;
    struct countdown countdown;
} hooks[6];

static struct testpymem_call calls[65536];
static size_t ncalls;

/* Write a call down; its place for the result, or NULL if it is to fail. */
static struct testpymem_call *
hook_record(struct hook *hook, char what, void *ptr, size_t size)
{
    static struct testpymem_call dropped;
    size_t room = sizeof(calls) / sizeof(calls[0]);
    struct testpymem_call *call = ncalls < room ? &calls[ncalls++] : &dropped;
    *call = (struct testpymem_call){hook->domain, what, (uintptr_t)ptr, size, 0};
    return countdown_fails(&hook->countdown) && what != 'f' ? NULL : call;
}

static void *
hook_malloc(void *ctx, size_t size)
{
    struct hook *hook = ctx;
    struct testpymem_call *call = NULL;
    if (driving && (call = hook_record(hook, 'm', NULL, size)) == NULL) {
        return NULL;
    }
    void *result = hook->wrapped.malloc(hook->wrapped.ctx, size);
    if (call != NULL) {
        call->result = (uintptr_t)result;
    }
    return result;
}

static void *
hook_calloc(void *ctx, size_t nelem, size_t elsize)
{
    struct hook *hook = ctx;
    struct testpymem_call *call = NULL;
    if (driving
        && (call = hook_record(hook, 'c', NULL, nelem * elsize)) == NULL) {
        return NULL;
    }
    void *result = hook->wrapped.calloc(hook->wrapped.ctx, nelem, elsize);
    if (call != NULL) {
        call->result = (uintptr_t)result;
    }
    return result;
}

static void *
hook_realloc(void *ctx, void *ptr, size_t new_size)
{
    struct hook *hook = ctx;
    struct testpymem_call *call = NULL;
    if (driving && (call = hook_record(hook, 'r', ptr, new_size)) == NULL) {
        return NULL;
    }
    void *result = hook->wrapped.realloc(hook->wrapped.ctx, ptr, new_size);
    if (call != NULL) {
        call->result = (uintptr_t)result;
    }
    return result;
}

static void
hook_free(void *ctx, void *ptr)
{
    struct hook *hook = ctx;
    if (driving) {
        hook_record(hook, 'f', ptr, 0);
    }
    hook->wrapped.free(hook->wrapped.ctx, ptr);
}

void
testpymem_hook(int domain, long fail_at, int fail_on)
{
    if (LACKS(get_allocator) || LACKS(set_allocator)) {
        return;
    }
    struct hook *hook = &hooks[domain];
    hook->domain = domain;
    hook->countdown = (struct countdown){0, fail_at, fail_on};
    if (!hook->installed) {
        api.get_allocator(domain % 3, &hook->wrapped);
        struct allocator alloc = {hook, hook_malloc, hook_calloc, hook_realloc,
                                  hook_free};
        api.set_allocator(domain % 3, &alloc);
        hook->installed = 1;
    }
}

void
testpymem_unhook(int domain)
{
    if (hooks[domain].installed) {
        api.set_allocator(domain % 3, &hooks[domain].wrapped);
        hooks[domain].installed = 0;
    }
}

int
testpymem_hook_is_set(int domain)
{
    if (LACKS(get_allocator)) {
        return -1;
    }
    struct allocator got = {0};
    api.get_allocator(domain % 3, &got);
    return got.ctx == &hooks[domain] && got.malloc == hook_malloc
        && got.calloc == hook_calloc && got.realloc == hook_realloc
        && got.free == hook_free;
}

size_t
testpymem_take_calls(struct testpymem_call *taken, size_t room)
{
    size_t n = ncalls < room ? ncalls : room;
    memcpy(taken, calls, n * sizeof(calls[0]));
    ncalls = 0;
    return n;
}

/* Arenas. */

#define MIB ((size_t)1 << 20)

static struct arena_hook {
    size_t offset;
    struct countdown countdown;
    struct testpymem_arenas counts;
    char *given[1024];      /* base of each arena that is out; NULL: none */
} arena_hook;

static void *
arena_hook_alloc(void *ctx, size_t size)
{
    struct arena_hook *hook = ctx;
    hook->counts.nalloc++;
    hook->counts.wrong_size += size != MIB;
    if (countdown_fails(&hook->countdown)) {
        return NULL;
    }
    for (size_t i = 0; i < sizeof(hook->given) / sizeof(hook->given[0]); i++) {
        if (hook->given[i] == NULL) {
            hook->given[i] = aligned_alloc(MIB, size + MIB);
            return hook->given[i] != NULL ? hook->given[i] + hook->offset : NULL;
        }
    }
    return NULL;
}

static void
arena_hook_free(void *ctx, void *ptr, size_t size)
{
    struct arena_hook *hook = ctx;
    hook->counts.nfree++;
    hook->counts.wrong_size += size != MIB;
    /* Arenas from before the hook are not from aligned_alloc(): they stay.  The offset
     * may be another than when this one was given. */
    for (size_t i = 0; i < sizeof(hook->given) / sizeof(hook->given[0]); i++) {
        char *base = hook->given[i];
        if (base != NULL && (uintptr_t)ptr - (uintptr_t)base < MIB) {
            hook->given[i] = NULL;
            free(base);
            return;
        }
    }
}

void
testpymem_arena_hook(size_t offset, long fail_at, int fail_on)
{
    if (LACKS(set_arena_allocator)) {
        return;
    }
    arena_hook.offset = offset;
    arena_hook.countdown = (struct countdown){0, fail_at, fail_on};
    struct arena_allocator alloc = {&arena_hook, arena_hook_alloc,
                                    arena_hook_free};
    api.set_arena_allocator(&alloc);
}

int
testpymem_arena_hook_is_set(void)
{
    if (LACKS(get_arena_allocator)) {
        return -1;
    }
    struct arena_allocator got = {0};
    api.get_arena_allocator(&got);
    return got.ctx == &arena_hook && got.alloc == arena_hook_alloc
        && got.free == arena_hook_free;
}

struct testpymem_arenas
testpymem_arenas(void)
{
    return arena_hook.counts;
}

/* The rest. */

void
testpymem_get_allocator(int domain, uintptr_t fields[5])
{
    if (LACKS(get_allocator)) {
        return;
    }
    struct allocator alloc;
    api.get_allocator(domain, &alloc);
    fields[0] = (uintptr_t)alloc.ctx;
    fields[1] = (uintptr_t)alloc.malloc;
    fields[2] = (uintptr_t)alloc.calloc;
    fields[3] = (uintptr_t)alloc.realloc;
    fields[4] = (uintptr_t)alloc.free;
}

void
testpymem_setup_debug_hooks(void)
{
    if (LACKS(setup_debug_hooks)) {
        return;
    }
    api.setup_debug_hooks();
}

void
testpymem_debug_hooks_around_hook(int domain)
{
    if (LACKS(setup_debug_hooks) || LACKS(get_allocator) || LACKS(set_allocator)) {
        return;
    }
    struct allocator before[3];
    for (int i = 0; i < 3; i++) {
        api.get_allocator(i, &before[i]);
    }
    testpymem_hook(domain, 0, 0);
    api.setup_debug_hooks();
    api.setup_debug_hooks();
    ncalls = 0;
    void *block = testpymem_malloc(domain, 1000);
    testpymem_free(domain, testpymem_realloc(domain, block, 2000));
    for (int i = 0; i < 3; i++) {
        api.set_allocator(i, &before[i]);
    }
    hooks[domain].installed = 0;
}

int
testpymem_setup_allocators(const char *name)
{
    if (LACKS(get_allocator_name) || LACKS(setup_allocators)) {
        return -1;
    }
    int value;
    if (api.get_allocator_name(name, &value) < 0) {
        return -1;
    }
    return api.setup_allocators(value);
}

const char *
testpymem_current_name(void)
{
    if (LACKS(current_allocator_name)) {
        return NULL;
    }
    return api.current_allocator_name();
}

ptrdiff_t
testpymem_allocated_blocks(void)
{
    if (api.allocated_blocks != NULL) {
        return api.allocated_blocks();
    }
    return LACKS(global_allocated_blocks) ? -1
        : api.global_allocated_blocks();
}

int
testpymem_malloc_stats(const char *path)
{
    if (LACKS(debug_malloc_stats)) {
        return -1;
    }
    FILE *out = fopen(path, "a");
    if (out == NULL) {
        return -1;
    }
    int result = api.debug_malloc_stats(out);
    fclose(out);
    return result;
}

int
testpymem_track(unsigned domain, uintptr_t ptr, size_t size)
{
    if (LACKS(track)) {
        return -1;
    }
    return api.track(domain, ptr, size);
}

int
testpymem_untrack(unsigned domain, uintptr_t ptr)
{
    if (LACKS(untrack)) {
        return -1;
    }
    return api.untrack(domain, ptr);
}

static void *
call_in_thread(void *domain)
{
    api.families[*(int *)domain].malloc(1);
    return NULL;
}

void
testpymem_malloc_without_gil(int domain)
{
    if (LACKS(gil_ensure) || LACKS(gil_release)) {
        return;
    }
    /* The lock counts as taken from here on in a host without interpreter. */
    int state = api.gil_ensure();
    pthread_t thread;
    if (pthread_create(&thread, NULL, call_in_thread, &domain) == 0) {
        pthread_join(thread, NULL);
    }
    api.gil_release(state);
}
