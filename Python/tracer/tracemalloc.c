/* The allocation tracer: hooks on the three domains.
 *
 *   PyObject_Malloc --> traced_malloc --> the allocator that was there
 *                            |
 *                            +--> who asks? (tracestacks.c)
 *                            +--> the block's trace (traceblocks.c)
 *
 * Three rules keep it from harm:
 *   - The lock is held only while the tracer's own tables are used: never while
 *     a block is allocated or freed, nor while anything of the host's runs that
 *     could wait.  The GIL is never asked for.
 *   - A block's trace goes before the block does: another thread may get the
 *     address at once.
 *   - No memory for a trace: malloc fails as if there were none for the block,
 *     and realloc leaves the old block as it was.
 *
 * Owns the hooks and the sampling. */

#include "pycore_traceblocks.h"
#include "pycore_tracelock.h"
#include "pycore_tracetables.h"
#include "pycore_pymem.h"
#include "pycore_virtualmem.h"
#include "tracemalloc.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* The context of a hook: a domain, and the allocator that was there.  It stays
 * as it is for good: others may have saved the hook, and put it back at any time. */
struct traced_domain {
    PyMemAllocatorEx below;
    PyMemAllocatorDomain domain;
    struct traced_domain *next;
};

static struct {
    int is_tracing;
    unsigned max_frames;
    size_t sample_bytes;                /* between samples; 0: trace all */
    uint64_t seed;                      /* for the thread that starts; or 0 */
    const void *starting_thread;
    atomic_uint start;                  /* counts starts and stops, in steps of START */
    unsigned nholds;                    /* of stacks; at 0 they may go */
    int stacks_are_old;                 /* and are to go then */
    const struct trace_source *source;
    struct traced_domain *domains[NB_DOMAINS];  /* of this start */
    struct traced_domain *sampled[NB_DOMAINS];  /* the same, while it traces samples;
                                                   else no hook's */
    int hooks_stayed;                   /* below others', at a stop */
} tracer;

static struct traced_domain no_domain;

/* Blocks that a thread allocates are traced. With HIDDEN they are not shown. With PAUSED, when
 * the tracer or an allocator below it allocates, they are not traced. */
enum { HIDDEN = 1, PAUSED = 2, START = 4 };

/* The fields of a thread. */
static FAST_THREAD_LOCAL struct {
    unsigned state;                 /* the start that the sampling is of, + HIDDEN,
                                       + PAUSED: one comparison tells that nothing is
                                       in the way */
    uint64_t bytes_left;            /* to the next sample */
    uint64_t random;
    uintptr_t going;                /* the block that is being freed, */
    stack_id going_stack;           /* and the stack it had, or 0: should the
                                       allocator below find fault with it */
    const void *caller;             /* where the hook will return to: into the
                                       program, as the functions of the API end
                                       by jumping to a hook */
} mine;

static inline unsigned
tracer_pause(void)
{
    unsigned before = mine.state;
    mine.state |= PAUSED;
    return before;
}

static inline void
tracer_resume(unsigned before)
{
    mine.state = before;
}

static inline int
is_shown(void)
{
    return (mine.state & (HIDDEN | PAUSED)) == 0;
}

int
tracer_hide(void)
{
    unsigned before = mine.state;
    mine.state |= HIDDEN;
    return (int)before;
}

void
tracer_show(int before)
{
    mine.state = (unsigned)before;
}

/* Sampling: on average one sample in sample_bytes, at distances that nobody can
 * foresee (a Poisson process over the bytes that a thread asks for).  A block of
 * size s is hit with the probability p = 1 - exp(-s / sample_bytes), and stands
 * for s / p bytes, so that sums are right on average. */

static uint64_t
random_distance(void)
{
    double distance = 1 - log(1.0 - random_fraction(&mine.random))
        * (double)tracer.sample_bytes;
    return distance < 0x1p63 ? (uint64_t)distance : (uint64_t)1 << 63;
}

static inline unsigned
current_start(void)
{
    return atomic_load_explicit(&tracer.start, memory_order_relaxed);
}

/* Each thread goes its own way; with a seed the first one's is the same again. */
static void
sampler_begin(void)
{
    static atomic_uint_least64_t nthreads;
    uint64_t n = atomic_fetch_add(&nthreads, 1);
    uint64_t seed = tracer.seed != 0 && tracer.starting_thread == &mine
        ? tracer.seed : n + (uintptr_t)&mine + virtual_clock();
    mine.random = seed * 0xD1342543DE82EF95u;
    mine.state = current_start();
    mine.bytes_left = random_distance();
}

/* The bytes of one request end the distance, however many they are: such a process
 * has no memory of its past, so one fresh distance begins behind them. */
static NOINLINE int
sample_is_due(size_t size)
{
    if (mine.state != current_start()) {
        sampler_begin();
        if (size < mine.bytes_left) {
            mine.bytes_left -= size;
            return 0;
        }
    }
    mine.bytes_left = random_distance();
    return 1;
}

#define SMALL_ENOUGH 512u               /* bytes: pymalloc's in all versions */

/* How a request is traced; 0: not at all. */
enum tracing { NOT_TRACED, TRACED, TRACED_HIDDEN };

static inline enum tracing
is_to_be_traced(size_t size)
{
    if (UNLIKELY(!is_shown())) {
        return (mine.state & PAUSED) == 0 && tracer.is_tracing && tracer.sample_bytes == 0
            ? TRACED_HIDDEN : NOT_TRACED;
    }
    if (UNLIKELY(!tracer.is_tracing)) {
        return NOT_TRACED;      /* a hook that stayed below another one */
    }
    if (tracer.sample_bytes == 0) {
        return TRACED;
    }
    if (LIKELY(size < mine.bytes_left && mine.state == current_start())) {
        mine.bytes_left -= size;
        return NOT_TRACED;
    }
    return sample_is_due(size) ? TRACED : NOT_TRACED;
}

/* Most requests while samples are traced: small ones, which no allocator below passes on
 * to the raw domain, before the next sample.  In a thread whose start this is samples are
 * traced, and nothing is hidden. */
static inline int
passes_untraced(size_t size)
{
    if (LIKELY(size < mine.bytes_left && size <= SMALL_ENOUGH
               && mine.state == current_start()))
    {
        mine.bytes_left -= size;
        return 1;
    }
    return 0;
}

/* May a block have a trace? */
static inline int
may_be_sampled(const void *ptr)
{
    return *trace_filter_count((uintptr_t)ptr) != 0;
}

static inline int
may_be_traced(const void *ptr)
{
    return tracer.sample_bytes == 0 || may_be_sampled(ptr);
}

static size_t
size_to_report(size_t size)
{
    if (tracer.sample_bytes == 0 || size == 0) {
        return size;
    }
    double mean = (double)tracer.sample_bytes;
    double estimate = (double)size / -expm1(-(double)size / mean) + 0.5;
    return estimate < (double)PY_SSIZE_T_MAX ? (size_t)estimate : (size_t)PY_SSIZE_T_MAX;
}

/* Traces; lock held. */

/* Room for a trace and the stack that goes into it; 0: no memory. */
static stack_id
prepare_trace(enum tracing how, int has_gil)
{
    if (blocks_reserve() < 0) {
        return 0;
    }
    return how == TRACED_HIDDEN ? HIDDEN_STACK
        : stack_capture(tracer.source, tracer.max_frames, has_gil);
}

static void
store_trace(unsigned domain, uintptr_t ptr, size_t size, stack_id stack)
{
    struct trace trace = {ptr, size_to_report(size), domain, stack};
    block_store(&trace, tracer.sample_bytes != 0);
}

static int
add_trace(unsigned domain, uintptr_t ptr, size_t size, enum tracing how, int has_gil)
{
    stack_id stack = prepare_trace(how, has_gil);
    if (stack != 0) {
        store_trace(domain, ptr, size, stack);
    }
    return stack != 0 ? 0 : -1;
}

/* The object's block that this thread traced last, and where: CPython tells of each new
 * object right after its block was allocated, in the same thread. */
static FAST_THREAD_LOCAL struct {
    uintptr_t ptr;
    struct trace_position where;
} newest;

static inline void
remember_newest(uintptr_t ptr, enum tracing how)
{
    newest.ptr = 0;
    if (how == TRACED && tracer.max_frames == 1 && tracer.source->position != NULL) {
        newest.ptr = ptr;
        tracer.source->position(&newest.where);
    }
}

static inline int
is_newest(uintptr_t ptr)
{
    struct trace_position where;
    if (newest.ptr != ptr || tracer.max_frames != 1) {
        return 0;
    }
    tracer.source->position(&where);
    return where.frame == newest.where.frame
        && where.instruction == newest.where.instruction;
}

#if defined(__GNUC__)
#  define REMEMBER_CALLER() (mine.caller = __builtin_return_address(0))
#else
#  define REMEMBER_CALLER() ((void)0)
#endif

const void *
tracer_caller(void)
{
    return mine.caller;
}

/* The hooks. */

/* Those of each domain, which say its number to the functions below. */
static const PyMemAllocatorEx hooks[NB_DOMAINS];

static inline int
is_hook(const PyMemAllocatorEx *allocator, PyMemAllocatorDomain number)
{
    return allocator->malloc == hooks[number].malloc;
}

/* All contexts that there have been. */
static _Atomic(struct traced_domain *) all_domains;

static COLD const struct traced_domain *
context_known_as(const void *ctx, PyMemAllocatorDomain number)
{
    const struct traced_domain *domain = atomic_load(&all_domains);
    while (domain != NULL && domain != ctx) {
        domain = domain->next;
    }
    return domain != NULL ? domain : tracer.domains[number];
}

/* A thread without the GIL, or of an interpreter with another one, reads a hook and its
 * context one after the other.  Where tracing starts or stops in between, what it has is
 * the context of the allocator that was there before. */
static inline const struct traced_domain *
context_of(const void *ctx, PyMemAllocatorDomain number)
{
    return LIKELY(ctx == tracer.domains[number]) ? ctx : context_known_as(ctx, number);
}

static inline int
has_gil(const struct traced_domain *domain)
{
    return domain->domain != PYMEM_DOMAIN_RAW;
}

static void *
trace_new_block(const struct traced_domain *domain, void *ptr, size_t size,
                enum tracing how)
{
    if (ptr != NULL) {
        tracer_lock();
        int result = tracer.is_tracing
            ? add_trace(0, (uintptr_t)ptr, size, how, has_gil(domain)) : 0;
        tracer_unlock();
        if (domain->domain == PYMEM_DOMAIN_OBJ) {
            remember_newest((uintptr_t)ptr, how);
        }
        if (UNLIKELY(result < 0)) {
            domain->below.free(domain->below.ctx, ptr);
            ptr = NULL;
        }
    }
    return ptr;
}

/* While the allocator below works nothing is traced: it may ask the raw domain. */

/* Hooks that stayed at a stop, and have nobody's over them any more, go.  With the GIL. */
static COLD void
take_late_hooks_off(void)
{
    for (int i = 0; i < NB_DOMAINS; i++) {
        PyMemAllocatorDomain domain = (PyMemAllocatorDomain)i;
        PyMemAllocatorEx found;
        PyMem_GetAllocator(domain, &found);
        while (is_hook(&found, domain)) {
            found = ((const struct traced_domain *)found.ctx)->below;
            PyMem_SetAllocator(domain, &found);
        }
    }
}

static NOINLINE void *
malloc_that_may_be_traced(const void *ctx, PyMemAllocatorDomain number, size_t size)
{
    const struct traced_domain *domain = context_of(ctx, number);
    if (UNLIKELY(tracer.hooks_stayed) && !tracer.is_tracing && has_gil(domain)) {
        take_late_hooks_off();
    }
    enum tracing how = is_to_be_traced(size);
    unsigned before = tracer_pause();
    void *ptr = domain->below.malloc(domain->below.ctx, size);
    if (how != NOT_TRACED) {
        ptr = trace_new_block(domain, ptr, size, how);
    }
    tracer_resume(before);
    return ptr;
}

/* The common case of this and of free while samples are traced calls nothing but the
 * allocator below, and that as its last act: no register is saved. */
static ALWAYS_INLINE void *
traced_malloc(const void *ctx, PyMemAllocatorDomain number, size_t size)
{
    const struct traced_domain *domain = tracer.domains[number];
    if (LIKELY(ctx == domain) && passes_untraced(size)) {
        return domain->below.malloc(domain->below.ctx, size);
    }
    if (is_shown()) {
        REMEMBER_CALLER();
    }
    return malloc_that_may_be_traced(ctx, number, size);
}

static ALWAYS_INLINE void *
traced_calloc(const struct traced_domain *domain, size_t nelem, size_t elsize)
{
    enum tracing how = is_to_be_traced(nelem * elsize);
    if (how == TRACED) {
        REMEMBER_CALLER();
    }
    unsigned before = tracer_pause();
    void *ptr = domain->below.calloc(domain->below.ctx, nelem, elsize);
    if (how != NOT_TRACED) {
        ptr = trace_new_block(domain, ptr, nelem * elsize, how);
    }
    tracer_resume(before);
    return ptr;
}

static NOINLINE void
free_that_may_be_traced(const void *ctx, PyMemAllocatorDomain number, void *ptr)
{
    const PyMemAllocatorEx *below = &context_of(ctx, number)->below;
    if (ptr == NULL) {
        below->free(below->ctx, NULL);
        return;
    }
    tracer_lock();
    mine.going_stack = block_freed((uintptr_t)ptr);
    tracer_unlock();
    mine.going = (uintptr_t)ptr;
    below->free(below->ctx, ptr);
    mine.going_stack = 0;
}

static ALWAYS_INLINE void
traced_free(const void *ctx, PyMemAllocatorDomain number, void *ptr)
{
    const struct traced_domain *domain = tracer.sampled[number];
    if (LIKELY(ctx == domain) && !may_be_sampled(ptr)) {
        domain->below.free(domain->below.ctx, ptr);
    }
    else {
        free_that_may_be_traced(ctx, number, ptr);
    }
}

/* The old trace is out of the table while realloc runs, and comes back when it
 * fails; the new stack is found before, so that nothing can fail after. */
static void *
traced_resize(const struct traced_domain *domain, void *ptr, size_t size,
              enum tracing how)
{
    struct trace old = {.ptr = (uintptr_t)ptr};
    stack_id stack = 0;
    int had_trace = 0;
    if (how != NOT_TRACED || may_be_traced(ptr)) {
        tracer_lock();
        int is_traced = how != NOT_TRACED && tracer.is_tracing;
        stack = is_traced ? prepare_trace(how, has_gil(domain)) : 0;
        int has_room = !is_traced || stack != 0;
        had_trace = has_room && block_drop(&old);
        tracer_unlock();
        if (!has_room) {
            return NULL;
        }
    }
    if (had_trace) {
        mine.going = old.ptr;
        mine.going_stack = old.stack;
    }
    void *resized = domain->below.realloc(domain->below.ctx, ptr, size);
    mine.going_stack = 0;
    if (how == NOT_TRACED && !had_trace) {
        return resized;
    }
    tracer_lock();
    if (!tracer.is_tracing || blocks_reserve() < 0) {
        /* stopped meanwhile, or filled up: the block matters, not its trace */
    }
    else if (resized == NULL && had_trace) {
        block_store(&old, tracer.sample_bytes != 0);
    }
    else if (resized != NULL && stack != 0) {
        store_trace(0, (uintptr_t)resized, size, stack);
    }
    tracer_unlock();
    return resized;
}

static ALWAYS_INLINE void *
traced_realloc(const void *ctx, PyMemAllocatorDomain number, void *ptr, size_t size)
{
    if (ptr == NULL) {
        return traced_malloc(ctx, number, size);
    }
    const struct traced_domain *domain = context_of(ctx, number);
    enum tracing how = is_to_be_traced(size);
    if (how == TRACED) {
        REMEMBER_CALLER();
    }
    unsigned before = tracer_pause();
    void *resized = traced_resize(domain, ptr, size, how);
    tracer_resume(before);
    return resized;
}

#define HOOKS_OF(name, number) \
    static void *name##_malloc(void *ctx, size_t size) \
    { \
        return traced_malloc(ctx, number, size); \
    } \
    static void *name##_calloc(void *ctx, size_t nelem, size_t elsize) \
    { \
        return traced_calloc(context_of(ctx, number), nelem, elsize); \
    } \
    static void *name##_realloc(void *ctx, void *ptr, size_t size) \
    { \
        return traced_realloc(ctx, number, ptr, size); \
    } \
    static void name##_free(void *ctx, void *ptr) \
    { \
        traced_free(ctx, number, ptr); \
    }
HOOKS_OF(raw, PYMEM_DOMAIN_RAW)
HOOKS_OF(mem, PYMEM_DOMAIN_MEM)
HOOKS_OF(object, PYMEM_DOMAIN_OBJ)

static const PyMemAllocatorEx hooks[NB_DOMAINS] = {
    [PYMEM_DOMAIN_RAW] = {NULL, raw_malloc, raw_calloc, raw_realloc, raw_free},
    [PYMEM_DOMAIN_MEM] = {NULL, mem_malloc, mem_calloc, mem_realloc, mem_free},
    [PYMEM_DOMAIN_OBJ] = {NULL, object_malloc, object_calloc, object_realloc, object_free},
};

/* Stacks go when nobody looks at them; places in code at once, as it is no longer
 * noticed when the code is freed. */
static void
clear_stacks(void)
{
    tracer.stacks_are_old = tracer.nholds > 0;
    if (tracer.stacks_are_old) {
        stacks_forget_places();
    }
    else {
        stacks_clear();
    }
}

void
tracer_hold_stacks(void)
{
    tracer_lock();
    tracer.nholds++;
    tracer_unlock();
}

void
tracer_let_stacks_go(void)
{
    tracer_lock();
    tracer.nholds--;
    if (tracer.stacks_are_old && blocks_count() == 0) {
        clear_stacks();
    }
    tracer_unlock();
}

/* Start and stop. */

/* The context of a hook over what is there; NULL: no memory.  A hook of ours that
 * is there has one.  Another start over the same allocator has the same context;
 * and over one that was set since, which may lead back into an older hook, another:
 * a hook never leads to itself. */
static struct traced_domain *
domain_to_trace(PyMemAllocatorDomain number)
{
    static struct traced_domain first[NB_DOMAINS];
    PyMemAllocatorEx found;
    PyMem_GetAllocator(number, &found);
    if (is_hook(&found, number)) {
        return found.ctx;
    }
    struct traced_domain *all = atomic_load(&all_domains);
    for (struct traced_domain *domain = all; domain != NULL; domain = domain->next) {
        const PyMemAllocatorEx *below = &domain->below;
        if (domain->domain == number && below->ctx == found.ctx
            && below->malloc == found.malloc && below->calloc == found.calloc
            && below->realloc == found.realloc && below->free == found.free)
        {
            return domain;
        }
    }
    struct traced_domain *domain = first[number].below.malloc == NULL
        ? &first[number] : malloc(sizeof(*domain));
    if (domain != NULL) {
        *domain = (struct traced_domain){found, number, all};
        atomic_store(&all_domains, domain);
    }
    return domain;
}

int
tracer_start(const struct trace_source *source, unsigned max_frames,
             size_t sample_bytes, uint64_t seed)
{
    if (tracer.is_tracing) {
        return 0;
    }
    for (int domain = 0; domain < NB_DOMAINS; domain++) {
        tracer.domains[domain] = domain_to_trace((PyMemAllocatorDomain)domain);
        if (tracer.domains[domain] == NULL) {
            return -1;
        }
        tracer.sampled[domain] = sample_bytes != 0 ? tracer.domains[domain] : &no_domain;
    }
    tracelock_be_safe_at_fork();
    tracer.source = source;
    tracer.max_frames = max_frames;
    tracer.sample_bytes = sample_bytes;
    tracer.seed = seed;
    tracer.starting_thread = &mine;
    tracer.start += START;
    blocks_use_filter(sample_bytes != 0);
    tracer.is_tracing = 1;
    for (int domain = 0; domain < NB_DOMAINS; domain++) {
        PyMemAllocatorEx hook = hooks[domain];
        hook.ctx = tracer.domains[domain];
        PyMem_SetAllocator((PyMemAllocatorDomain)domain, &hook);
    }
    return 0;
}

/* A hook over which somebody has set another one stays, and only passes on, until a
 * request finds that the other is gone. */
static void
take_hook_off(PyMemAllocatorDomain number)
{
    PyMemAllocatorEx found;
    PyMem_GetAllocator(number, &found);
    if (is_hook(&found, number) && found.ctx == tracer.domains[number]) {
        PyMem_SetAllocator(number, &tracer.domains[number]->below);
    }
    else {
        tracer.hooks_stayed = 1;
    }
}

void
tracer_stop(void)
{
    if (!tracer.is_tracing) {
        return;
    }
    for (int domain = 0; domain < NB_DOMAINS; domain++) {
        take_hook_off((PyMemAllocatorDomain)domain);
    }
    tracer_lock();
    tracer.is_tracing = 0;
    tracer.start += START;      /* no thread passes anything untraced any more */
    blocks_keep_peak(SIZE_MAX);
    blocks_clear();
    clear_stacks();
    tracer_unlock();
}

int
tracer_is_tracing(void)
{
    return tracer.is_tracing;
}

unsigned
tracer_max_frames(void)
{
    return tracer.max_frames;
}

size_t
tracer_sample_bytes(void)
{
    return tracer.sample_bytes;
}

void
tracer_clear(void)
{
    tracer_lock();
    if (tracer.is_tracing) {
        blocks_clear();
        clear_stacks();
    }
    tracer_unlock();
}

size_t
tracer_own_memory(void)
{
    return tracer_bytes;
}

/* Blocks that others report. */

int
PyTraceMalloc_Track(unsigned int domain, uintptr_t ptr, size_t size)
{
    int result = -2;
    if (tracer.sample_bytes != 0 && !is_to_be_traced(size)) {
        return PyTraceMalloc_Untrack(domain, ptr);     /* no sample; nor an older one */
    }
    REMEMBER_CALLER();
    unsigned before = tracer_pause();
    tracer_lock();
    if (tracer.is_tracing) {
        result = add_trace(domain, ptr, size, TRACED, 0);
    }
    tracer_unlock();
    tracer_resume(before);
    return result;
}

int
PyTraceMalloc_Untrack(unsigned int domain, uintptr_t ptr)
{
    int result = -2;
    struct trace trace = {.ptr = ptr, .domain = domain};
    tracer_lock();
    if (tracer.is_tracing) {
        block_drop(&trace);
        result = 0;
    }
    tracer_unlock();
    return result;
}

void
tracer_renew(uintptr_t ptr)
{
    struct trace trace = {.ptr = ptr};
    if (!is_shown() || is_newest(ptr) || !may_be_traced((void *)ptr)) {
        return;
    }
    REMEMBER_CALLER();
    unsigned before = tracer_pause();
    tracer_lock();
    if (tracer.is_tracing && block_find(&trace)) {
        stack_id stack = prepare_trace(TRACED, 1);
        if (stack != 0 && stack != trace.stack) {
            trace.stack = stack;
            block_store(&trace, tracer.sample_bytes != 0);
        }
    }
    tracer_unlock();
    tracer_resume(before);
}

/* The known traces. */

int
tracer_find(unsigned domain, uintptr_t ptr, struct trace *trace)
{
    *trace = (struct trace){.ptr = ptr, .domain = domain};
    tracer_lock();
    int found = tracer.is_tracing && block_find(trace)
        && trace->stack != HIDDEN_STACK;
    tracer_unlock();
    return found;
}

void
_PyMem_DumpTraceback(int fd, const void *ptr)
{
    if (!tracer.is_tracing) {
        stack_dump(fd, NULL, 0);
        return;
    }
    struct trace trace = {.ptr = (uintptr_t)ptr};
    if (tracer_try_lock()) {
        if (mine.going_stack != 0 && mine.going == trace.ptr) {
            trace.stack = mine.going_stack;
        }
        else {
            block_find(&trace);
        }
        if (trace.stack != 0 && trace.stack != HIDDEN_STACK) {
            stack_dump(fd, tracer.source, trace.stack);
        }
        tracer_unlock();
    }
}
