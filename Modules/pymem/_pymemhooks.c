/* Hooks for a while, to count requests.
 *
 *   PyObject_Malloc() --> hook_malloc() --> the allocator that was there
 *                             |
 *                             v
 *                   the counts of the interpreter that the thread is in
 *
 * Each interpreter counts for itself.  They may run at once, so a lock is held while
 * counts are looked at; never while a block is allocated or freed.
 *
 * Needs no header of CPython: what it uses is the same from 3.8 on. */

#define _GNU_SOURCE
#include "_pymem.h"
#include "Python.h"                     /* ours, for the names */

#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

static PyMemAllocatorEx wrapped[PYMEM_DOMAIN_OBJ + 1];

/* What one interpreter counts. */
static struct counting {
    struct counting *next;
    const void *interpreter;
    struct hook_counts counted;
} *countings;
static atomic_int ncountings;
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

static void *
counted_request(void *ptr, size_t size)
{
    if (ncountings == 0 || ptr == NULL) {
        return ptr;
    }
    const void *interpreter = current_interpreter();
    lock();
    struct counting *counting = counting_of(interpreter);
    if (counting != NULL) {
        counting->counted.requests++;
        counting->counted.bytes += size;
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
    return counted_request( \
        wrapped[DOMAIN].realloc(wrapped[DOMAIN].ctx, ptr, size), size); \
} \
static void \
NAME##_free(void *ctx, void *ptr) \
{ \
    (void)ctx; \
    counted_free(ptr); \
    wrapped[DOMAIN].free(wrapped[DOMAIN].ctx, ptr); \
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
hook_is_asked(PyMemAllocatorDomain domain, const struct counting *counting)
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
    for (PyMemAllocatorDomain domain = PYMEM_DOMAIN_MEM; domain <= PYMEM_DOMAIN_OBJ; domain++) {
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
            break;
        }
    }
    unlock();
    if (stopped != NULL) {
        *counts = stopped->counted;
        free(stopped);
    }
    for (PyMemAllocatorDomain domain = PYMEM_DOMAIN_MEM;
         domain <= PYMEM_DOMAIN_OBJ && ncountings == 0; domain++)
    {
        PyMemAllocatorEx current;
        PyMem_GetAllocator(domain, &current);
        if (current.malloc == hooks[domain].malloc) {
            PyMem_SetAllocator(domain, &wrapped[domain]);
        }
    }
}
