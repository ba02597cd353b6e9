/* An allocator that fails when it is told to, and knows what it gave out.
 *
 *   PyMem_Malloc() --> faulty_malloc() --> the allocator that was there
 *                            |
 *                            +--> is this one to fail?
 *                            +--> blocks: address and size
 *
 * In the standalone library, and compiled a second time for an extension module
 * (Modules/pymem/_pymemfaults.c): it needs the public API of Python.h only, and a table
 * (Python/tracer/tracetables.c).
 *
 * The lock is held for the table and the counts, never while a block is allocated or
 * freed. */

#define _GNU_SOURCE
#include "pymemfaults.h"
#include "pycore_domainnames.h"
#include "pycore_tracetables.h"

#include <pthread.h>
#include <stdint.h>

enum { NDOMAINS = PYMEM_DOMAIN_OBJ + 1 };

static const char *const domain_names[NDOMAINS] = DOMAIN_NAMES;

static struct faulty {
    int is_started;
    PyMemFaults faults;
    PyMemFaultsCounts counts;
    uint64_t random;
    size_t ncalls;              /* since the program began; with the lock */
    PyMemAllocatorEx wrapped;
    struct pointer_map blocks;
} domains[NDOMAINS];

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

/* Which requests fail; lock held. */

static int
is_chosen(struct faulty *domain)
{
    size_t number = domain->counts.requests;
    const PyMemFaults *faults = &domain->faults;
    if (faults->fail_from != 0 && number >= faults->fail_from
        && (faults->fail_count == 0
            || number - faults->fail_from < faults->fail_count))
    {
        return 1;
    }
    return faults->fail_share > 0
        && random_fraction(&domain->random) < faults->fail_share;
}

static int
is_over_quota(const struct faulty *domain, size_t size, size_t old_size)
{
    size_t quota = domain->faults.quota, others = domain->counts.bytes - old_size;
    return quota != 0 && (size > quota || others > quota - size);
}

/* The entry of a block; NULL where it was not allocated since the start. */
static struct map_entry *
find_block(struct faulty *domain, const void *ptr)
{
    return map_find(&domain->blocks, (uintptr_t)ptr, 0);
}

static void
add_block(struct faulty *domain, const void *ptr, size_t size)
{
    struct map_entry *entry = map_add(&domain->blocks, (uintptr_t)ptr, 0);
    PyMemFaultsCounts *counts = &domain->counts;
    entry->value = 1;
    entry->size = size;
    counts->blocks++;
    counts->bytes += size;
    if (counts->bytes > counts->peak_bytes) {
        counts->peak_bytes = counts->bytes;
    }
}

static void
remove_block(struct faulty *domain, struct map_entry *entry)
{
    domain->counts.blocks--;
    domain->counts.bytes -= entry->size;
    map_remove(&domain->blocks, entry);
}

/* A request for size bytes; of a realloc ptr is the block, which is taken out of the
 * table.  0 if it may go on: then a block has room in the table. */
struct request {
    size_t size;
    void *ptr;
    size_t old_size;
    int was_known;
};

static int
begin_request(struct faulty *domain, struct request *request)
{
    lock();
    domain->ncalls++;
    if (!domain->is_started) {
        unlock();               /* set back by one that had saved it */
        return 0;
    }
    domain->counts.requests++;
    int has_room = map_reserve(&domain->blocks) == 0;   /* before entries are found */
    struct map_entry *old =
        request->ptr != NULL ? find_block(domain, request->ptr) : NULL;
    request->was_known = old != NULL;
    request->old_size = old != NULL ? old->size : 0;
    int fails = is_chosen(domain) || !has_room
        || is_over_quota(domain, request->size, request->old_size);
    if (fails) {
        domain->counts.failed++;
    }
    else if (old != NULL) {
        remove_block(domain, old);
    }
    unlock();
    return fails ? -1 : 0;
}

static void *
end_request(struct faulty *domain, const struct request *request, void *result)
{
    lock();
    /* Others may have filled the table up meanwhile, and stopped it. */
    int has_room = domain->is_started && map_reserve(&domain->blocks) == 0;
    if (result == NULL) {
        domain->counts.failed += (size_t)domain->is_started;
        if (request->was_known && has_room) {
            add_block(domain, request->ptr, request->old_size);
        }
    }
    else if (has_room) {
        add_block(domain, result, request->size);
    }
    unlock();
    return result;
}

/* The allocator. */

static void *
faulty_malloc(void *ctx, size_t size)
{
    struct faulty *domain = ctx;
    struct request request = {.size = size};
    return begin_request(domain, &request) < 0 ? NULL : end_request(
        domain, &request, domain->wrapped.malloc(domain->wrapped.ctx, size));
}

static void *
faulty_calloc(void *ctx, size_t nelem, size_t elsize)
{
    struct faulty *domain = ctx;
    struct request request = {.size = nelem * elsize};
    return begin_request(domain, &request) < 0 ? NULL : end_request(
        domain, &request,
        domain->wrapped.calloc(domain->wrapped.ctx, nelem, elsize));
}

static void *
faulty_realloc(void *ctx, void *ptr, size_t size)
{
    struct faulty *domain = ctx;
    struct request request = {.size = size, .ptr = ptr};
    return begin_request(domain, &request) < 0 ? NULL : end_request(
        domain, &request,
        domain->wrapped.realloc(domain->wrapped.ctx, ptr, size));
}

static void
faulty_free(void *ctx, void *ptr)
{
    struct faulty *domain = ctx;
    if (ptr != NULL) {
        lock();
        struct map_entry *entry = find_block(domain, ptr);
        if (entry != NULL) {
            remove_block(domain, entry);
        }
        domain->counts.frees++;
        unlock();
    }
    domain->wrapped.free(domain->wrapped.ctx, ptr);
}

/* Start, stop, look. */

static struct faulty *
check_domain(PyMemAllocatorDomain number)
{
    if ((unsigned)number >= NDOMAINS) {
        PyErr_Format(PyExc_ValueError, "there is no domain %d: PYMEM_DOMAIN_RAW is 0, "
                     "PYMEM_DOMAIN_MEM 1, PYMEM_DOMAIN_OBJ 2", (int)number);
        return NULL;
    }
    return &domains[number];
}

static struct faulty *
started_domain(PyMemAllocatorDomain number)
{
    struct faulty *domain = check_domain(number);
    if (domain != NULL && !domain->is_started) {
        PyErr_Format(PyExc_RuntimeError, "faults of the %s domain were not started",
                     domain_names[number]);
        return NULL;
    }
    return domain;
}

static int
is_ours(const PyMemAllocatorEx *alloc, const struct faulty *domain)
{
    return alloc->ctx == domain && alloc->malloc == faulty_malloc;
}

/* Would domain, if it wrapped this one, wrap itself? */
static int
leads_to(const PyMemAllocatorEx *alloc, struct faulty *domain)
{
    size_t before = domain->ncalls;
    void *ptr = alloc->malloc(alloc->ctx, 1);
    if (ptr != NULL) {
        alloc->free(alloc->ctx, ptr);
    }
    return domain->ncalls != before;
}

int
PyMemFaults_Start(PyMemAllocatorDomain number, const PyMemFaults *faults)
{
    struct faulty *domain = check_domain(number);
    if (domain == NULL) {
        return -1;
    }
    if (domain->is_started) {
        PyErr_Format(PyExc_RuntimeError, "faults of the %s domain are started already",
                     domain_names[number]);
        return -1;
    }
    if (!(faults->fail_share >= 0 && faults->fail_share <= 1)) {
        PyErr_SetString(PyExc_ValueError, "fail_share is a probability, from 0 to 1");
        return -1;
    }
    if (faults->fail_count != 0 && faults->fail_from == 0) {
        PyErr_SetString(PyExc_ValueError, "fail_count needs a fail_from: the number of "
                        "the first request that fails, from 1");
        return -1;
    }
    static int is_safe_at_fork;
    if (!is_safe_at_fork) {
        is_safe_at_fork = pthread_atfork(lock, unlock, unlock) == 0;
    }
    PyMemAllocatorEx found;
    PyMem_GetAllocator(number, &found);
    if (is_ours(&found, domain)) {      /* put back by one that had saved it */
        found = domain->wrapped;
    }
    else if (domain->wrapped.malloc != NULL && leads_to(&found, domain)) {
        PyErr_Format(PyExc_RuntimeError, "an allocator of the %s domain leads to the "
                     "faults of before: remove that first", domain_names[number]);
        return -1;
    }
    *domain = (struct faulty){.is_started = 1, .faults = *faults,
                              .random = faults->seed, .ncalls = domain->ncalls,
                              .wrapped = found};
    PyMemAllocatorEx alloc = {domain, faulty_malloc, faulty_calloc, faulty_realloc,
                              faulty_free};
    PyMem_SetAllocator(number, &alloc);
    return 0;
}

int
PyMemFaults_Stop(PyMemAllocatorDomain number)
{
    struct faulty *domain = started_domain(number);
    if (domain == NULL) {
        return -1;
    }
    PyMemAllocatorEx now;
    PyMem_GetAllocator(number, &now);
    if (!is_ours(&now, domain)) {
        PyErr_Format(PyExc_RuntimeError, "another allocator was set over the faults of "
                     "the %s domain: remove that first", domain_names[number]);
        return -1;
    }
    PyMem_SetAllocator(number, &domain->wrapped);
    lock();
    domain->is_started = 0;
    map_clear(&domain->blocks);
    unlock();
    return 0;
}

int
PyMemFaults_Count(PyMemAllocatorDomain number, PyMemFaultsCounts *counts)
{
    struct faulty *domain = started_domain(number);
    if (domain == NULL) {
        return -1;
    }
    lock();
    *counts = domain->counts;
    unlock();
    return 0;
}

struct listed_block {
    void *ptr;
    size_t size;
};

/* A copy of the table, for free(); NULL: no memory. */
static struct listed_block *
list_blocks(struct faulty *domain, size_t *nblocks)
{
    lock();
    struct listed_block *list = malloc((domain->counts.blocks + 1) * sizeof(*list));
    size_t n = 0;
    for (size_t i = 0; list != NULL && domain->blocks.count != 0
         && i <= domain->blocks.mask; i++)
    {
        const struct map_entry *entry = &domain->blocks.entries[i];
        if (entry->value != 0) {
            list[n++] = (struct listed_block){(void *)entry->key, entry->size};
        }
    }
    unlock();
    *nblocks = n;
    return list;
}

int
PyMemFaults_Visit(PyMemAllocatorDomain number,
                  int (*visit)(void *arg, void *ptr, size_t size), void *arg)
{
    struct faulty *domain = started_domain(number);
    if (domain == NULL) {
        return -1;
    }
    size_t nblocks;
    struct listed_block *list = list_blocks(domain, &nblocks);
    if (list == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    int result = 0;
    for (size_t i = 0; i < nblocks && result == 0; i++) {
        result = visit(arg, list[i].ptr, list[i].size);
    }
    free(list);
    return result;
}

#ifndef PYMEMFAULTS_IN_CPYTHON

#include "pycore_pymem.h"
#include "tracemalloc.h"

static int
report_block(void *arg, void *ptr, size_t size)
{
    FILE *out = arg;
    fprintf(out, "%p: %zu bytes\n", ptr, size);
    if (_PyTraceMalloc_IsTracing()) {
        fflush(out);
        _PyMem_DumpTraceback(fileno(out), ptr);
    }
    return 0;
}

Py_ssize_t
PyMemFaults_Report(PyMemAllocatorDomain number, FILE *out)
{
    PyMemFaultsCounts counts;
    if (PyMemFaults_Count(number, &counts) < 0) {
        return -1;
    }
    fprintf(out, "%s domain: %zu blocks of %zu bytes are not freed\n",
            domain_names[number], counts.blocks, counts.bytes);
    return PyMemFaults_Visit(number, report_block, out) < 0 ? -1
        : (Py_ssize_t)counts.blocks;
}

#endif
