/* The three domains: raw, mem and object.
 *
 *   PyMem_RawMalloc()    PyMem_Malloc()    PyObject_Malloc()
 *          |                   |                  |
 *          v                   v                  v
 *   _PyMem_Allocators[ RAW,   MEM,               OBJ ]    PyMem_SetAllocator()
 *          |                   |                  |
 *          | malloc            +---- pymalloc ----+
 *          |                            |
 *          +-------- over 512 bytes ----+
 *       (while raw is malloc itself, pymalloc may serve them: see there)
 *
 * Each domain is an allocator, a value that can be replaced.  Nearly always
 * the mem and object domains are pymalloc itself.  Their functions look for
 * that first: then the common case is inline, without a call.
 *
 * Owns _PyMem_Allocators[].  Calls the allocators. */

#include "pycore_pymem.h"
#include "pycore_compiler.h"
#include "pycore_hardened.h"
#include "pycore_probes.h"
#ifdef WITH_PYMALLOC
#  include "pycore_pymalloc.h"
#endif
#include "cpython/objimpl.h"
#include "objimpl.h"
#include "pymem.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <wchar.h>

#if HAS_NOPLT
extern __attribute__((noplt)) void *malloc(size_t size);
extern __attribute__((noplt)) void free(void *ptr);
#endif

/* A host may have its own: see _PyMem_BeforeFirstUse(). */
WEAK PyMemAllocatorEx _PyMem_Allocators[NB_DOMAINS] = BORN_ALLOCS;

#define RAW (&_PyMem_Allocators[PYMEM_DOMAIN_RAW])

/* Statistics (--enable-pystats). */

#ifdef Py_STATS
static ObjectStats object_stats;

static void
count_allocation(size_t size)
{
    object_stats.allocations++;
    if (size < 512) {
        object_stats.allocations512++;
    }
    else if (size < 4094) {
        object_stats.allocations4k++;
    }
    else {
        object_stats.allocations_big++;
    }
}

static void
count_free(void)
{
    object_stats.frees++;
}

void
_PyMem_GetObjectStats(ObjectStats *stats)
{
    *stats = object_stats;
}

void
_PyMem_ClearObjectStats(void)
{
    memset(&object_stats, 0, sizeof(object_stats));
}

void
_PyMem_PrintObjectStats(FILE *out)
{
    fprintf(out, "Object allocations: %llu\n",
            (unsigned long long)object_stats.allocations);
    fprintf(out, "Object allocations to 512 bytes: %llu\n",
            (unsigned long long)object_stats.allocations512);
    fprintf(out, "Object allocations to 4 kbytes: %llu\n",
            (unsigned long long)object_stats.allocations4k);
    fprintf(out, "Object allocations over 4 kbytes: %llu\n",
            (unsigned long long)object_stats.allocations_big);
    fprintf(out, "Object frees: %llu\n",
            (unsigned long long)object_stats.frees);
}
#else
#  define count_allocation(size) ((void)0)
#  define count_free() ((void)0)
#endif

/* Requests, the same in each domain. */

static inline int
request_overflows(size_t nelem, size_t elsize)
{
    return elsize != 0 && nelem > (size_t)PY_SSIZE_T_MAX / elsize;
}

#ifdef WITH_PYMALLOC
#  ifdef Py_DEBUG
size_t medium_span;
#  else
size_t medium_span = MEDIUM_REQUEST_THRESHOLD - SMALL_REQUEST_THRESHOLD;
#  endif
/* Is a domain pymalloc itself, and main_heap the only heap? */
#  define WAY_OF(domain) \
    atomic_load_explicit(&short_ways[domain].way, memory_order_relaxed)
#  define IS_PYMALLOC(domain) LIKELY(WAY_OF(domain) != WAY_CLOSED)
/* The same, and each interpreter has a heap?  A thread that sees it (acquire) sees whom to
 * ask, which was written before (release, in _PyMem_ChooseShortWays()). */
static atomic_int has_heaps[NB_DOMAINS];
#  define IS_PYMALLOC_OF_HEAPS(domain) \
    LIKELY(atomic_load_explicit(&has_heaps[domain], memory_order_acquire))
#else
#  define WAY_OF(domain) WAY_CLOSED
#  define IS_PYMALLOC(domain) 0
#  define pymalloc_malloc_by_hand(size) NULL
#  define pymalloc_free_by_hand(ptr) ((void)0)
#  define IS_PYMALLOC_OF_HEAPS(domain) 0
#  define pymalloc_malloc_small(heap, size) NULL
#  define pymalloc_malloc_larger(size) NULL
#  define pymalloc_malloc_of_heaps(size) NULL
#  define pymalloc_realloc(heap, ptr, size) NULL
#  define pymalloc_free_far(ptr) ((void)0)
#  define pymalloc_free_of_heaps(ptr) ((void)0)
#  define pymalloc_free_near(home, ptr) 0
#endif

/* A request that is not small, blocks at hand, or a domain that is not pymalloc.  Out of line,
 * for each domain, so that its places in the tables are known. */
static ALWAYS_INLINE void *
domain_malloc_otherwise(PyMemAllocatorDomain domain, size_t size)
{
    int way = WAY_OF(domain);
    if (LIKELY(way == WAY_BY_HAND) && size - 1 < SMALL_REQUEST_THRESHOLD) {
        return pymalloc_malloc_by_hand(size);
    }
    if (LIKELY(way != WAY_CLOSED)) {
        return pymalloc_malloc_larger(size);
    }
    if (IS_PYMALLOC_OF_HEAPS(domain)) {
        return pymalloc_malloc_of_heaps(size);
    }
    const PyMemAllocatorEx *alloc = &_PyMem_Allocators[domain];
    return size > (size_t)PY_SSIZE_T_MAX ? NULL : alloc->malloc(alloc->ctx, size);
}

static NOINLINE void *
mem_malloc_otherwise(size_t size)
{
    return domain_malloc_otherwise(PYMEM_DOMAIN_MEM, size);
}

static NOINLINE void *
object_malloc_otherwise(size_t size)
{
    return domain_malloc_otherwise(PYMEM_DOMAIN_OBJ, size);
}

static inline void *
domain_malloc(PyMemAllocatorDomain domain, size_t size)
{
    if (LIKELY(size - 1 < short_ways[domain].span)) {
        return pymalloc_malloc_small(&main_heap, size);
    }
    return domain == PYMEM_DOMAIN_MEM ? mem_malloc_otherwise(size)
        : object_malloc_otherwise(size);
}

static inline void *
domain_calloc(PyMemAllocatorDomain domain, size_t nelem, size_t elsize)
{
    const PyMemAllocatorEx *alloc = &_PyMem_Allocators[domain];
    return request_overflows(nelem, elsize) ? NULL
        : alloc->calloc(alloc->ctx, nelem, elsize);
}

static inline void *
domain_realloc(PyMemAllocatorDomain domain, void *ptr, size_t new_size)
{
    if (IS_PYMALLOC(domain)) {
        return pymalloc_realloc(&main_heap, ptr, new_size);
    }
    const PyMemAllocatorEx *alloc = &_PyMem_Allocators[domain];
    return new_size > (size_t)PY_SSIZE_T_MAX ? NULL
        : alloc->realloc(alloc->ctx, ptr, new_size);
}

/* A block that is in another leaf than the newest arena, or in none; blocks at hand, or a
 * domain that is not pymalloc. */
static ALWAYS_INLINE void
domain_free_far(PyMemAllocatorDomain domain, void *ptr)
{
    int way = WAY_OF(domain);
    if (LIKELY(way == WAY_BY_HAND)) {
        pymalloc_free_by_hand(ptr);
        return;
    }
    if (LIKELY(way != WAY_CLOSED)) {
        pymalloc_free_far(ptr);
        return;
    }
    if (IS_PYMALLOC_OF_HEAPS(domain)) {
        pymalloc_free_of_heaps(ptr);
        return;
    }
    const PyMemAllocatorEx *alloc = &_PyMem_Allocators[domain];
    alloc->free(alloc->ctx, ptr);
}

static NOINLINE void
mem_free_far(void *ptr)
{
    domain_free_far(PYMEM_DOMAIN_MEM, ptr);
}

static NOINLINE void
object_free_far(void *ptr)
{
    domain_free_far(PYMEM_DOMAIN_OBJ, ptr);
}

static inline void
domain_free(PyMemAllocatorDomain domain, void *ptr)
{
    if (LIKELY(pymalloc_free_near(&short_ways[domain].home, ptr))) {
        return;
    }
    if (domain == PYMEM_DOMAIN_MEM) {
        mem_free_far(ptr);
    }
    else {
        object_free_far(ptr);
    }
}

/* The raw domain.  Where nobody hooked it there is nothing between a request
 * and the C library, but for the look whether a block is the mem domain's: requests
 * over 512 bytes are malloc's in CPython, so programs free them here too.  What the C
 * library can't serve is asked of the allocator, which has something to give back. */

#ifndef WITH_PYMALLOC
#  define pymalloc_has_medium(ptr) 0
#endif

static inline int
is_below_medium(const void *ptr)
{
    return (uintptr_t)ptr < atomic_load_explicit(&no_medium_below, memory_order_relaxed);
}

static inline int
is_no_medium(const void *ptr)
{
    return is_below_medium(ptr) || !pymalloc_has_medium(ptr);
}

static NOINLINE void *
raw_malloc_by_table(size_t size)
{
    return size > (size_t)PY_SSIZE_T_MAX ? NULL : RAW->malloc(RAW->ctx, size);
}

void *
PyMem_RawMalloc(size_t size)
{
    void *ptr = LIKELY(size - 1 < short_ways[PYMEM_DOMAIN_RAW].span) ? malloc(size) : NULL;
    if (UNLIKELY(ptr == NULL)) {
        ptr = raw_malloc_by_table(size);
    }
    PROBE3(alloc, PYMEM_DOMAIN_RAW, size, ptr);
    return ptr;
}

void *
PyMem_RawCalloc(size_t nelem, size_t elsize)
{
    void *ptr = domain_calloc(PYMEM_DOMAIN_RAW, nelem, elsize);
    PROBE3(alloc, PYMEM_DOMAIN_RAW, nelem * elsize, ptr);
    return ptr;
}

void *
_PyMem_RawReallocOwn(void *ptr, size_t new_size)
{
    void *moved = LIKELY(new_size - 1 < short_ways[PYMEM_DOMAIN_RAW].span)
        ? realloc(ptr, new_size) : NULL;
    if (UNLIKELY(moved == NULL)) {
        moved = RAW->realloc(RAW->ctx, ptr, new_size);
    }
    PROBE4(realloc, PYMEM_DOMAIN_RAW, ptr, new_size, moved);
    return moved;
}

void *
PyMem_RawRealloc(void *ptr, size_t new_size)
{
    if (new_size > (size_t)PY_SSIZE_T_MAX) {
        return NULL;
    }
    if (LIKELY(is_no_medium(ptr))) {
        return _PyMem_RawReallocOwn(ptr, new_size);
    }
    void *moved = RAW->realloc(RAW->ctx, ptr, new_size);
    PROBE4(realloc, PYMEM_DOMAIN_RAW, ptr, new_size, moved);
    return moved;
}

void
_PyMem_RawFreeOwn(void *ptr)
{
    PROBE2(free, PYMEM_DOMAIN_RAW, ptr);
    if (LIKELY(short_ways[PYMEM_DOMAIN_RAW].span != 0)) {
        free(ptr);
    }
    else {
        RAW->free(RAW->ctx, ptr);
    }
}

static NOINLINE void
raw_free_far(void *ptr)
{
    if (LIKELY(!pymalloc_has_medium(ptr))) {
        _PyMem_RawFreeOwn(ptr);
    }
    else {
        PROBE2(free, PYMEM_DOMAIN_RAW, ptr);
        RAW->free(RAW->ctx, ptr);
    }
}

void
PyMem_RawFree(void *ptr)
{
    if (LIKELY(is_below_medium(ptr))) {
        PROBE2(free, PYMEM_DOMAIN_RAW, ptr);
        free(ptr);
    }
    else {
        raw_free_far(ptr);
    }
}

/* The mem domain. */

void *
PyMem_Malloc(size_t size)
{
    count_allocation(size);
    void *ptr = domain_malloc(PYMEM_DOMAIN_MEM, size);
    PROBE3(alloc, PYMEM_DOMAIN_MEM, size, ptr);
    return ptr;
}

void *
PyMem_Calloc(size_t nelem, size_t elsize)
{
    count_allocation(elsize);
    void *ptr = domain_calloc(PYMEM_DOMAIN_MEM, nelem, elsize);
    PROBE3(alloc, PYMEM_DOMAIN_MEM, nelem * elsize, ptr);
    return ptr;
}

void *
PyMem_Realloc(void *ptr, size_t new_size)
{
    void *moved = domain_realloc(PYMEM_DOMAIN_MEM, ptr, new_size);
    PROBE4(realloc, PYMEM_DOMAIN_MEM, ptr, new_size, moved);
    return moved;
}

void
PyMem_Free(void *ptr)
{
    count_free();
    PROBE2(free, PYMEM_DOMAIN_MEM, ptr);
    domain_free(PYMEM_DOMAIN_MEM, ptr);
}

/* The object domain. */

void *
PyObject_Malloc(size_t size)
{
    count_allocation(size);
    void *ptr = domain_malloc(PYMEM_DOMAIN_OBJ, size);
    PROBE3(alloc, PYMEM_DOMAIN_OBJ, size, ptr);
    return ptr;
}

void *
PyObject_Calloc(size_t nelem, size_t elsize)
{
    count_allocation(elsize);
    void *ptr = domain_calloc(PYMEM_DOMAIN_OBJ, nelem, elsize);
    PROBE3(alloc, PYMEM_DOMAIN_OBJ, nelem * elsize, ptr);
    return ptr;
}

void *
PyObject_Realloc(void *ptr, size_t new_size)
{
    void *moved = domain_realloc(PYMEM_DOMAIN_OBJ, ptr, new_size);
    PROBE4(realloc, PYMEM_DOMAIN_OBJ, ptr, new_size, moved);
    return moved;
}

void
PyObject_Free(void *ptr)
{
    count_free();
    PROBE2(free, PYMEM_DOMAIN_OBJ, ptr);
    domain_free(PYMEM_DOMAIN_OBJ, ptr);
}

/* Memory that no block is in. */

size_t
PyMem_Trim(void)
{
    size_t nbytes = 0;
#ifdef WITH_PYMALLOC
    nbytes = pymalloc_trim();
#endif
    return nbytes + _PyMem_TrimHardened() + _PyMem_RawTrim();
}

/* Strings. */

/* A copy of length characters of width bytes, and of the one that ends them. */
static void *
copy_string(void *(*allocate)(size_t size), const void *str, size_t length, size_t width)
{
    size_t most = (size_t)PY_SSIZE_T_MAX / width;
    void *copy = length < most ? allocate(++length * width) : NULL;
    return copy == NULL ? NULL : memcpy(copy, str, length * width);
}

wchar_t *
_PyMem_RawWcsdup(const wchar_t *str)
{
    return copy_string(PyMem_RawMalloc, str, wcslen(str), sizeof(*str));
}

char *
_PyMem_RawStrdup(const char *str)
{
    return copy_string(PyMem_RawMalloc, str, strlen(str), 1);
}

char *
_PyMem_Strdup(const char *str)
{
    return copy_string(PyMem_Malloc, str, strlen(str), 1);
}

/* Allocators as values. */

static int
is_domain(PyMemAllocatorDomain domain)
{
    return (unsigned)domain < NB_DOMAINS;
}

static inline void
before_first_use(void)
{
    if (_PyMem_BeforeFirstUse != NULL) {
        _PyMem_BeforeFirstUse();
    }
}

void
PyMem_GetAllocator(PyMemAllocatorDomain domain, PyMemAllocatorEx *allocator)
{
    before_first_use();
    if (is_domain(domain)) {
        *allocator = _PyMem_Allocators[domain];
    }
    else {
        memset(allocator, 0, sizeof(*allocator));
    }
}

static int
domain_is(int domain, const PyMemAllocatorEx *other)
{
    const PyMemAllocatorEx *alloc = &_PyMem_Allocators[domain];
    return alloc->malloc == other->malloc && alloc->calloc == other->calloc
        && alloc->realloc == other->realloc && alloc->free == other->free;
}

static void
choose_raw_way(void)
{
    static const PyMemAllocatorEx of_c = MALLOC_ALLOC;
    short_way_set(PYMEM_DOMAIN_RAW, domain_is(PYMEM_DOMAIN_RAW, &of_c) ? PY_SSIZE_T_MAX : 0);
}

#ifdef WITH_PYMALLOC

void
_PyMem_ChooseShortWays(void)
{
    static const PyMemAllocatorEx pymalloc = PYMALLOC_ALLOC;
    choose_raw_way();
    for (int domain = PYMEM_DOMAIN_MEM; domain <= PYMEM_DOMAIN_OBJ; domain++) {
        int is_pymalloc = domain_is(domain, &pymalloc);
        atomic_store_explicit(&has_heaps[domain], is_pymalloc && heap_of_interpreter != NULL,
                              memory_order_release);
        short_way_set(domain, is_pymalloc && heap_of_interpreter == NULL
                      ? SMALL_REQUEST_THRESHOLD : 0);
    }
    heap_tell(&main_heap, HEAP_HAS_FREED);      /* its owner takes in what is at hand */
}

static void
choose_ways(void)
{
    _PyMem_ChooseShortWays();
    medium_span = _PyMem_RawIsUntouched() && pymalloc_choose_medium()
        ? MEDIUM_REQUEST_THRESHOLD - SMALL_REQUEST_THRESHOLD : 0;
}

void
_PyMem_AskForHeap(struct heap *(*of_interpreter)(void))
{
    heap_of_interpreter = of_interpreter;
    _PyMem_ShareHardened();
    choose_ways();
}

#else

void
_PyMem_ChooseShortWays(void)
{
    choose_raw_way();
}

#define choose_ways _PyMem_ChooseShortWays

void
_PyMem_AskForHeap(struct heap *(*of_interpreter)(void))
{
    (void)of_interpreter;
    _PyMem_ShareHardened();
}

#endif

void
PyMem_SetAllocator(PyMemAllocatorDomain domain, PyMemAllocatorEx *allocator)
{
    before_first_use();
    if (is_domain(domain)) {
        /* A thread without the GIL may come to the new context at once: through its address,
         * so that it sees what was written there before this. */
        atomic_thread_fence(memory_order_release);
        _PyMem_Allocators[domain] = *allocator;
        choose_ways();
    }
}
