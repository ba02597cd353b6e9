/* pymalloc as an allocator: requests of any size, and where each goes.
 *
 *   PyObject_Malloc() --> small? ---> heap of the interpreter ---> pools.c
 *                           |
 *                           +-- medium? --> heap of the thread --> pools.c
 *                           |
 *                           +-- else ----> the raw domain
 *
 *   PyObject_Free() ----> small pool? --> its owner's? -- yes --> back into the pool
 *                           |                +---- no --> heap_free_from_outside()
 *                           +-- medium pool? --> the same
 *                           |
 *                           +-- else ----> the raw domain
 *
 * What is not small, and what no arena could be had for, is asked of the raw domain, so
 * that its hooks see it.  As long as there is no hook nobody can tell who serves it.
 *
 * Requests that are not small need no GIL, as in CPython, whose raw domain serves them
 * all.
 *
 * Calls pools.c, heaps.c, and the raw domain. */

#include "pycore_pymalloc.h"
#include "pycore_arenas.h"
#include "pycore_growing.h"
#include "pycore_host.h"
#include "pycore_pymem.h"
#include "cpython/pymem.h"
#include "cpython/objimpl.h"

#include <stdlib.h>
#include <string.h>

static int
is_small(size_t nbytes)
{
    return nbytes - 1 < SMALL_REQUEST_THRESHOLD;
}

static int
is_medium(size_t nbytes)
{
    return nbytes - (SMALL_REQUEST_THRESHOLD + 1) < medium_span;
}

/* Medium pools, or malloc?  Asked before there is any medium pool. */
int
pymalloc_choose_medium(void)
{
    static atomic_int known = -1;
    if (known < 0) {
        const char *value = getenv("PYMEM_MEDIUM");
        if (value == NULL || *value == '\0') {
            known = MEDIUM_POOLS_BY_DEFAULT;
        }
        else if (strcmp(value, "pools") != 0 && strcmp(value, "malloc") != 0) {
            _Py_FatalErrorFormat(__func__, "PYMEM_MEDIUM is \"pools\" or \"malloc\", "
                                 "not \"%s\"", value);
        }
        else {
            known = *value == 'p';
            medium_pools_at_once = known;
        }
    }
    return known;
}

/* Blocks over the threshold.  Those of medium pools are counted by their pools. */

static void *
counted(void *block_of_raw)
{
    if (LIKELY(block_of_raw != NULL)) {
        heap_count_raw(heap_of_thread, 1);
    }
    return block_of_raw;
}

/* The pool at hand has none, or this is the first medium request of the thread.  NULL:
 * there is none to be had. */
static NOINLINE void *
medium_malloc_slowly(size_t nbytes)
{
    if (heap_of_thread == &heap_of_nobody) {
        if (!pymalloc_choose_medium()) {
            medium_span = 0;
            return NULL;
        }
        heap_of_this_thread();
    }
    struct heap *heap = heap_of_thread;
    heap_enter_or_wait(heap);
    void *ptr = heap_take_block_slowly(heap, medium_class(nbytes));
    heap_leave(heap);
    return ptr;
}

static NOINLINE void *
raw_malloc(size_t nbytes)
{
    return counted(PyMem_RawMalloc(nbytes));
}

static NOINLINE void *
medium_or_raw_malloc(size_t nbytes)
{
    void *ptr = medium_malloc_slowly(nbytes);
    return ptr != NULL ? ptr : raw_malloc(nbytes);
}

/* From a pool of this thread; NULL: the one at hand has none, or another thread is in the
 * heap. */
static inline void *
medium_take_block(size_t nbytes)
{
    struct heap *heap = heap_of_thread;
    if (UNLIKELY(!heap_enter(heap))) {
        return NULL;
    }
    void *ptr = ring_take_block(&heap->usedpools[medium_class(nbytes)]);
    heap_leave(heap);
    return ptr;
}

static COLD void
medium_free_after_visit(poolp pool, void *ptr)
{
    struct heap *heap = heap_of_thread;
    heap_enter_or_wait(heap);
    pool_free_block(heap, pool, ptr);
    heap_leave(heap);
}

static NOINLINE void
raw_free(void *ptr)
{
    if (ptr != NULL) {
        heap_count_raw(heap_of_thread, -1);
        _PyMem_RawFreeOwn(ptr);
    }
}

/* A block that grows is counted as one of malloc, where it would be otherwise. */
static NOINLINE void
medium_free_of_others(poolp pool, void *ptr)
{
    if (!is_growing(pool)) {
        heap_free_from_outside(pool, ptr);
    }
    else if (growing_size(pool, ptr) == 0) {
        raw_free(ptr);
    }
    else {
        heap_count_raw(heap_of_thread, -1);
        growing_free(pool);
    }
}

static inline void
medium_free(poolp pool, void *ptr)
{
    struct heap *heap = heap_of_thread;
    if (UNLIKELY(pool_owner(pool) != heap->number)) {
        medium_free_of_others(pool, ptr);
    }
    else if (UNLIKELY(!heap_enter(heap))) {
        medium_free_after_visit(pool, ptr);
    }
    else if (UNLIKELY(pool_put_block(pool, ptr))) {
        medium_pool_reached_border(heap, pool);
    }
    else {
        heap_leave(heap);
    }
}

/* Requests that are not small, and where the common case of small ones ends. */

static inline void
free_in_leaf(struct pool_leaf *leaf, void *ptr)
{
    poolp pool = &medium_record_in(leaf, (uintptr_t)ptr)->pool;
    if (LIKELY(pool->blocksize != 0)) {
        medium_free(pool, ptr);
    }
    else {
        raw_free(ptr);
    }
}

static inline void
free_larger(struct pool_leaf *leaf, void *ptr)
{
    if (LIKELY(leaf != NULL)) {
        free_in_leaf(leaf, ptr);
    }
    else {
        raw_free(ptr);
    }
}

NOINLINE void
pymalloc_free_larger_near(const struct pool *record, void *ptr)
{
    free_in_leaf(pool_leaf_of(record), ptr);
}

NOINLINE void
pymalloc_free_elsewhere(void *ptr)
{
    free_larger(pool_map_leaf(leaf_of((uintptr_t)ptr)), ptr);
}

void
pymalloc_free_far(void *ptr)
{
    struct pool_leaf *leaf = pool_map_leaf(leaf_of((uintptr_t)ptr));
    poolp pool = small_pool_in(leaf, ptr);
    if (pool != NULL) {
        pool_free_block(&main_heap, pool, ptr);
    }
    else {
        free_larger(leaf, ptr);
    }
}

NOINLINE void *
pymalloc_malloc_larger(size_t nbytes)
{
    if (UNLIKELY(!is_medium(nbytes))) {
        return raw_malloc(nbytes);
    }
    void *ptr = medium_take_block(nbytes);
    return LIKELY(ptr != NULL) ? ptr : medium_or_raw_malloc(nbytes);
}

NOINLINE void *
pymalloc_malloc_slowly(size_t nbytes, struct heap *heap)
{
    void *ptr = heap_take_block_slowly(heap, SIZE_TO_INDEX(nbytes));
    return LIKELY(ptr != NULL) ? ptr : raw_malloc(nbytes);
}

void *
pymalloc_calloc(struct heap *heap, size_t nelem, size_t elsize)
{
    size_t nbytes = nelem * elsize;     /* no overflow: see PyObject_Calloc() */
    void *ptr = NULL;
    if (LIKELY(is_small(nbytes))) {
        ptr = ring_take_block(ring_of_small(heap, nbytes));
        if (UNLIKELY(ptr == NULL)) {
            ptr = heap_take_block_slowly(heap, SIZE_TO_INDEX(nbytes));
        }
    }
    else if (is_medium(nbytes)) {
        ptr = medium_take_block(nbytes);
        if (UNLIKELY(ptr == NULL)) {
            ptr = medium_malloc_slowly(nbytes);
        }
    }
    return ptr != NULL ? memset(ptr, 0, nbytes)
        : counted(PyMem_RawCalloc(nelem, elsize));
}

/* Resizing. */

/* What may be read of a block; 0: it is none. */
static size_t
size_in_pool(poolp pool, const void *ptr)
{
    return UNLIKELY(is_growing(pool)) ? growing_size(pool, ptr) : pool->blocksize;
}

/* A block may stay where it is when it is large enough and at least three quarters of it are
 * still used, or when it has a slot. */
static int
block_stays(poolp pool, size_t nbytes)
{
    if (UNLIKELY(is_growing(pool))) {
        return medium_span != 0 && growing_resize(pool, nbytes);
    }
    size_t blocksize = pool->blocksize;
    return nbytes <= blocksize && 4 * nbytes > 3 * blocksize;
}

/* A block that was made larger once is usually made larger again.  Where one grows at a
 * time, malloc makes it larger in place; where many do it copies them, again and again.  What
 * it did with the last ones tells, and now and then one more is tried. */

atomic_int malloc_in_place;

static void *
raw_realloc(void *ptr, size_t nbytes)
{
    enum { MOST = 8, MOVED = -1000 };
    void *resized = _PyMem_RawReallocOwn(ptr, nbytes);
    int score = atomic_load_explicit(&malloc_in_place, memory_order_relaxed);
    score = resized != ptr ? MOVED : score < MOST ? score + 1 : MOST;
    atomic_store_explicit(&malloc_in_place, score, memory_order_relaxed);
    return resized;
}

static int
malloc_copies(void)
{
    int score = atomic_load_explicit(&malloc_in_place, memory_order_relaxed);
    if (score < 0) {
        atomic_store_explicit(&malloc_in_place, score + 1, memory_order_relaxed);
    }
    return score < 0;
}

static void *
malloc_for_growth(size_t nbytes)
{
    if (medium_span == 0 || !malloc_copies() || !pymalloc_choose_medium()) {
        return raw_malloc(nbytes);
    }
    if (nbytes < GROWING_FROM) {
        return pymalloc_malloc_larger(nbytes);
    }
    void *ptr = counted(growing_malloc(nbytes));
    return ptr != NULL ? ptr : raw_malloc(nbytes);
}

static void *
malloc_for_move(struct heap *heap, size_t size, size_t nbytes)
{
    return nbytes > size && !is_small(nbytes)
        ? malloc_for_growth(nbytes) : pymalloc_malloc(heap, nbytes);
}

static inline void
small_free(struct heap *heap, poolp pool, void *ptr)
{
    if (LIKELY(pool_owner(pool) == heap->number)) {
        pool_free_block(heap, pool, ptr);
    }
    else {
        heap_free_from_outside(pool, ptr);
    }
}

void *
pymalloc_realloc(struct heap *heap, void *ptr, size_t nbytes)
{
    if (nbytes > (size_t)PY_SSIZE_T_MAX) {
        return NULL;
    }
    if (ptr == NULL) {
        return pymalloc_malloc(heap, nbytes);
    }
    poolp small = heap_pool_of(heap, ptr);
    poolp pool = small != NULL ? small : medium_pool_of(ptr);
    size_t size = pool != NULL ? size_in_pool(pool, ptr) : 0;
    if (size == 0) {
        return raw_realloc(ptr, nbytes);
    }
    if (block_stays(pool, nbytes)) {
        return ptr;
    }
    void *moved = malloc_for_move(heap, size, nbytes);
    if (moved != NULL) {
        memcpy(moved, ptr, nbytes < size ? nbytes : size);
        if (small != NULL) {
            small_free(heap, small, ptr);
        }
        else {
            medium_free(pool, ptr);
        }
    }
    return moved;
}

/* Medium blocks in the hands of the raw domain.  An address that is no block's is
 * malloc's to complain about. */

size_t
pymalloc_medium_size(const void *ptr)
{
    poolp pool = medium_pool_of(ptr);
    if (pool != NULL && is_growing(pool)) {
        return growing_size(pool, ptr);
    }
    return pool != NULL
        && (size_t)((const block *)ptr - pool_address(pool)) % pool->blocksize == 0
        ? pool->blocksize : 0;
}

int
pymalloc_free_medium(void *ptr)
{
    if (pymalloc_medium_size(ptr) == 0) {
        return 0;
    }
    medium_free(medium_pool_of(ptr), ptr);
    return 1;
}

/* The allocator.  With several heaps of small blocks each call asks for the one of its
 * interpreter.  What asks is apart where most calls need not: they call nothing then. */

#if READS_THREAD_STATE
#  define ASKS NOINLINE
#else
#  define ASKS
#endif

static ASKS void *
malloc_asking(size_t nbytes)
{
    return pymalloc_malloc(heap_of_interpreter(), nbytes);
}

NOINLINE void *
pymalloc_malloc_of_heaps(size_t nbytes)
{
    struct heap *heap;
    return LIKELY(heap_is_known(&heap)) ? pymalloc_malloc(heap, nbytes) : malloc_asking(nbytes);
}

static inline void
free_of_heaps(struct heap *heap, void *ptr)
{
    poolp pool = heap_pool_of(heap, ptr);
    if (LIKELY(pool != NULL)) {
        small_free(heap, pool, ptr);
    }
    else {
        pymalloc_free_elsewhere(ptr);
    }
}

static ASKS void
free_asking(void *ptr)
{
    free_of_heaps(heap_of_interpreter(), ptr);
}

NOINLINE void
pymalloc_free_of_heaps(void *ptr)
{
    struct heap *heap;
    if (LIKELY(heap_is_known(&heap))) {
        free_of_heaps(heap, ptr);
    }
    else {
        free_asking(ptr);
    }
}

void *
_PyObject_Malloc(void *ctx, size_t nbytes)
{
    (void)ctx;
    return LIKELY(heap_of_interpreter == NULL) ? pymalloc_malloc(&main_heap, nbytes)
        : pymalloc_malloc_of_heaps(nbytes);
}

void *
_PyObject_Calloc(void *ctx, size_t nelem, size_t elsize)
{
    (void)ctx;
    return pymalloc_calloc(heap_current(), nelem, elsize);
}

void *
_PyObject_Realloc(void *ctx, void *ptr, size_t nbytes)
{
    (void)ctx;
    return pymalloc_realloc(heap_current(), ptr, nbytes);
}

void
_PyObject_Free(void *ctx, void *ptr)
{
    (void)ctx;
    if (UNLIKELY(heap_of_interpreter != NULL)) {
        pymalloc_free_of_heaps(ptr);
    }
    else if (UNLIKELY(!pymalloc_free_near(&main_heap.home, ptr))) {
        pymalloc_free_far(ptr);
    }
}

size_t
pymalloc_trim(void)
{
    struct heap *heap = heap_current();
    size_t nbytes = heaps_trim_idle();
    if (heap == &main_heap) {
        heap_take_over();
    }
    nbytes += heap_trim(heap);
    return nbytes + heap_trim_of_thread() + growing_trim();
}
