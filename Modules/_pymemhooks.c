/* Hooks for a while: to count requests, and to keep the C stack of each block.
 *
 *   PyObject_Malloc() --> hook_malloc() --> the allocator that was there
 *                             |
 *                             v
 *                   the counts of the interpreter that the thread is in
 *
 * Each interpreter counts for itself.  They may run at once, so a lock is held while
 * counts and tables are looked at; never while a block is allocated or freed.
 *
 * Needs no header of CPython: what it uses is the same from 3.8 on. */

#define _GNU_SOURCE
#include "_pymem.h"
#include "Python.h"                     /* ours, for the names */
#include "pycore_tracetables.h"

#include <dlfcn.h>
#include <link.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unwind.h>

static PyMemAllocatorEx wrapped[PYMEM_DOMAIN_OBJ + 1];

/* What one interpreter counts. */
static struct counting {
    struct counting *next;
    const void *interpreter;
    int is_recording;
    struct hook_counts counted;
    struct pointer_map blocks;
    struct intern_table stacks;
} *countings;
static atomic_int ncountings, nrecordings;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

static void
lock(void)
{
    pthread_mutex_lock(&mutex);
}

static void
unlock(void)
{
    pthread_mutex_unlock(&mutex);
}

/* The interpreter of this thread.  Before 3.9 it can't be asked: there they share one
 * GIL, and count together. */
static const void *
current_interpreter(void)
{
    static struct {
        atomic_int are_known;
        void *(*thread_state)(void);
        void *(*interpreter_of)(void *);
    } functions;
    if (!functions.are_known) {
        void *state = dlsym(RTLD_DEFAULT, "PyThreadState_GetUnchecked");
        void *interpreter = dlsym(RTLD_DEFAULT, "PyThreadState_GetInterpreter");
        if (state == NULL) {
            state = dlsym(RTLD_DEFAULT, "_PyThreadState_UncheckedGet");
        }
        if (state == NULL || interpreter == NULL) {
            return NULL;
        }
        memcpy(&functions.thread_state, &state, sizeof(state));
        memcpy(&functions.interpreter_of, &interpreter, sizeof(interpreter));
        functions.are_known = 1;
    }
    void *state = functions.thread_state();
    return state != NULL ? functions.interpreter_of(state) : NULL;
}

/* What an interpreter counts, or NULL; lock held. */
static struct counting *
counting_of(const void *interpreter)
{
    struct counting *counting = countings;
    while (counting != NULL && counting->interpreter != interpreter) {
        counting = counting->next;
    }
    return counting;
}

/* What is kept of a block.  Whoever frees it, all forget it. */
static void
block_forget(const void *ptr)
{
    if (nrecordings == 0) {
        return;
    }
    lock();
    for (struct counting *counting = countings; counting != NULL;
         counting = counting->next)
    {
        struct map_entry *entry = map_find(&counting->blocks, (uintptr_t)ptr, 0);
        if (entry != NULL) {
            map_remove(&counting->blocks, entry);
        }
    }
    unlock();
}

/* A stack ends with the function that runs Python code: the ones further out are told
 * by the Python stack, and it takes a microsecond to find each. */

static uintptr_t evaluation, evaluation_end;

static void
find_evaluation(void)
{
    Dl_info info;
    const ElfW(Sym) *symbol;
    void *function = dlsym(RTLD_DEFAULT, "_PyEval_EvalFrameDefault");
    if (function != NULL
        && dladdr1(function, &info, (void **)&symbol, RTLD_DL_SYMENT) != 0
        && symbol != NULL)
    {
        evaluation = (uintptr_t)function;
        evaluation_end = evaluation + symbol->st_size;
    }
}

struct unwinding {
    uintptr_t *frames;
    int n;
};

static _Unwind_Reason_Code
add_frame(struct _Unwind_Context *context, void *arg)
{
    struct unwinding *unwinding = arg;
    uintptr_t address = _Unwind_GetIP(context);
    unwinding->frames[unwinding->n++] = address;
    return unwinding->n == NATIVE_FRAMES
        || (address > evaluation && address <= evaluation_end) ? _URC_END_OF_STACK
        : _URC_NO_REASON;
}

static void
find_stack(uintptr_t frames[NATIVE_FRAMES])
{
    struct unwinding unwinding = {frames, 0};
    memset(frames, 0, NATIVE_FRAMES * sizeof(frames[0]));
    _Unwind_Backtrace(add_frame, &unwinding);
}

/* A block whose stack there is no memory for is left out; lock held. */
static void
block_keep(struct counting *counting, const void *ptr, size_t size,
           const uintptr_t *frames)
{
    uint32_t stack = intern(&counting->stacks, frames);
    if (stack != 0 && map_reserve(&counting->blocks) == 0) {
        struct map_entry *entry = map_add(&counting->blocks, (uintptr_t)ptr, 0);
        entry->value = stack;
        entry->size = size;
    }
}

static void *
counted_request(void *ptr, size_t size)
{
    if (ncountings == 0 || ptr == NULL) {
        return ptr;
    }
    const void *interpreter = current_interpreter();
    uintptr_t frames[NATIVE_FRAMES];
    int has_stack = nrecordings != 0;
    if (has_stack) {
        find_stack(frames);
    }
    lock();
    struct counting *counting = counting_of(interpreter);
    if (counting != NULL) {
        counting->counted.requests++;
        counting->counted.bytes += size;
        if (counting->is_recording && has_stack) {
            block_keep(counting, ptr, size, frames);
        }
    }
    unlock();
    return ptr;
}

static void
counted_free(const void *ptr)
{
    if (ncountings == 0 || ptr == NULL) {
        return;
    }
    block_forget(ptr);
    const void *interpreter = current_interpreter();
    lock();
    struct counting *counting = counting_of(interpreter);
    if (counting != NULL) {
        counting->counted.frees++;
    }
    unlock();
}

/* The allocators.  Other interpreters may ask while they are set, which is not done at
 * once: so none needs the context beside it. */

#define HOOK(NAME, DOMAIN) \
static void * \
NAME##_malloc(void *ctx, size_t size) \
{ \
    (void)ctx; \
    return counted_request(wrapped[DOMAIN].malloc(wrapped[DOMAIN].ctx, size), size); \
} \
static void * \
NAME##_calloc(void *ctx, size_t nelem, size_t elsize) \
{ \
    (void)ctx; \
    return counted_request( \
        wrapped[DOMAIN].calloc(wrapped[DOMAIN].ctx, nelem, elsize), nelem * elsize); \
} \
static void * \
NAME##_realloc(void *ctx, void *ptr, size_t size) \
{ \
    (void)ctx; \
    return hook_realloc(&wrapped[DOMAIN], ptr, size); \
} \
static void \
NAME##_free(void *ctx, void *ptr) \
{ \
    (void)ctx; \
    counted_free(ptr); \
    wrapped[DOMAIN].free(wrapped[DOMAIN].ctx, ptr); \
}

/* Once the old block is freed its address may be another interpreter's: it is forgotten
 * before, and again known where there is no new one. */
static void *
hook_realloc(const PyMemAllocatorEx *alloc, void *ptr, size_t size)
{
    struct map_entry old = {0};
    const void *interpreter = NULL;
    if (nrecordings != 0 && ptr != NULL) {
        interpreter = current_interpreter();
        lock();
        struct counting *counting = counting_of(interpreter);
        struct map_entry *entry = counting == NULL ? NULL
            : map_find(&counting->blocks, (uintptr_t)ptr, 0);
        if (entry != NULL) {
            old = *entry;
        }
        unlock();
        block_forget(ptr);
    }
    void *result = alloc->realloc(alloc->ctx, ptr, size);
    if (result == NULL && old.value != 0) {
        lock();
        struct counting *counting = counting_of(interpreter);
        if (counting != NULL && map_reserve(&counting->blocks) == 0) {
            struct map_entry *entry =
                map_add(&counting->blocks, (uintptr_t)ptr, 0);
            entry->value = old.value;
            entry->size = old.size;
        }
        unlock();
    }
    return counted_request(result, size);
}

HOOK(hook_mem, PYMEM_DOMAIN_MEM)
HOOK(hook_object, PYMEM_DOMAIN_OBJ)

static const PyMemAllocatorEx hooks[] = {
    [PYMEM_DOMAIN_MEM] = {NULL, hook_mem_malloc, hook_mem_calloc, hook_mem_realloc,
                          hook_mem_free},
    [PYMEM_DOMAIN_OBJ] = {NULL, hook_object_malloc, hook_object_calloc,
                          hook_object_realloc, hook_object_free},
};

/* On and off. */

/* Is the hook of a domain asked?  Somebody may have set an allocator around it, or
 * have taken it off together with one below. */
static int
hook_is_asked(int domain, const struct counting *counting)
{
    uint64_t before = counting->counted.requests;
    if (domain == PYMEM_DOMAIN_MEM) {
        PyMem_Free(PyMem_Malloc(1));
    }
    else {
        PyObject_Free(PyObject_Malloc(1));
    }
    return counting->counted.requests != before;
}

static struct counting *
counting_begin(void)
{
    static int is_safe_at_fork;
    const void *interpreter = current_interpreter();
    struct counting *counting = calloc(1, sizeof(*counting));
    if (counting == NULL) {
        return NULL;
    }
    counting->interpreter = interpreter;
    counting->stacks.item_size = NATIVE_FRAMES * sizeof(uintptr_t);
    lock();
    if (!is_safe_at_fork) {
        is_safe_at_fork = pthread_atfork(lock, unlock, unlock) == 0;
    }
    int is_on = counting_of(interpreter) != NULL;
    if (!is_on) {
        counting->next = countings;
        countings = counting;
        ncountings++;
    }
    unlock();
    if (is_on) {
        free(counting);
    }
    return is_on ? NULL : counting;
}

int
hooks_count(void)
{
    struct counting *counting = counting_begin();
    if (counting == NULL) {
        return -1;
    }
    for (int domain = PYMEM_DOMAIN_MEM; domain <= PYMEM_DOMAIN_OBJ; domain++) {
        if (!hook_is_asked(domain, counting)) {
            PyMemAllocatorEx hook = hooks[domain];
            PyMem_GetAllocator(domain, &wrapped[domain]);
            PyMem_SetAllocator(domain, &hook);
        }
    }
    lock();
    counting->counted = (struct hook_counts){0, 0, 0};
    unlock();
    return 0;
}

int
hooks_record(void)
{
    if (hooks_count() < 0) {
        return -1;
    }
    find_evaluation();
    lock();
    counting_of(current_interpreter())->is_recording = 1;
    nrecordings++;
    unlock();
    return 0;
}

void
hooks_stop(struct hook_counts *counts)
{
    const void *interpreter = current_interpreter();
    struct counting *stopped = NULL;
    *counts = (struct hook_counts){0, 0, 0};
    lock();
    for (struct counting **link = &countings; *link != NULL; link = &(*link)->next) {
        if ((*link)->interpreter == interpreter) {
            stopped = *link;
            *link = stopped->next;
            ncountings--;
            nrecordings -= stopped->is_recording;
            break;
        }
    }
    unlock();
    if (stopped != NULL) {
        *counts = stopped->counted;
        map_clear(&stopped->blocks);
        intern_clear(&stopped->stacks);
        free(stopped);
    }
    for (int domain = PYMEM_DOMAIN_MEM; domain <= PYMEM_DOMAIN_OBJ && ncountings == 0;
         domain++)
    {
        PyMemAllocatorEx current;
        PyMem_GetAllocator(domain, &current);
        if (current.malloc == hooks[domain].malloc) {
            PyMem_SetAllocator(domain, &wrapped[domain]);
        }
    }
}

int
hooks_visit(int (*visit)(void *arg, uintptr_t address, size_t size,
                         const uintptr_t *frames), void *arg)
{
    int result = 0;
    lock();
    struct counting *counting = counting_of(current_interpreter());
    const struct pointer_map *blocks = counting != NULL ? &counting->blocks : NULL;
    for (size_t i = 0; result == 0 && blocks != NULL && blocks->entries != NULL
         && i <= blocks->mask; i++)
    {
        const struct map_entry *entry = &blocks->entries[i];
        if (entry->key != 0) {
            result = visit(arg, entry->key, entry->size,
                           interned(&counting->stacks, entry->value));
        }
    }
    unlock();
    return result;
}
