/* pymalloc: which heap serves a request, and what is not small.
 *
 *   small, up to 512 bytes      the heap of the interpreter (with one: main_heap)
 *   medium, up to 32 KiB        the heap of the thread
 *   others                      the raw domain
 *
 * While nobody hooked the mem and object domains they call what is here inline. */

#ifndef Py_INTERNAL_PYMALLOC_H
#define Py_INTERNAL_PYMALLOC_H

#include "pycore_athand.h"
#include "pycore_pools.h"

/* Requests over the threshold that pools serve: so many bytes more than it. 0 while the
 * raw domain is hooked, or was told to have them all: PYMEM_MEDIUM, see
 * pymalloc_choose_medium(). */
INTERNAL_DATA(size_t) medium_span;

/* At least 0: malloc grew the last blocks where they are.  From -1000 on it is counted up. */
INTERNAL_DATA(atomic_int) malloc_in_place;

/* Out of line, where the common case ends: pymalloc.c. */
void *pymalloc_malloc_slowly(size_t nbytes, struct heap *heap);     /* a small block */
void *pymalloc_malloc_larger(size_t nbytes);                /* 0, or not small */
void pymalloc_free_elsewhere(void *ptr);
/* The same, where a record of the block's leaf is known. */
void pymalloc_free_larger_near(const struct pool *record, void *ptr);

/* A small request, served by a heap, whose owner asks. */
static inline void *
pymalloc_malloc_small(struct heap *heap, size_t nbytes)
{
    void *ptr = ring_take_block(ring_of_small(heap, nbytes));
    return LIKELY(ptr != NULL) ? ptr : pymalloc_malloc_slowly(nbytes, heap);
}

/* The same of any size. */
static inline void *
pymalloc_malloc(struct heap *heap, size_t nbytes)
{
    return LIKELY(nbytes - 1 < SMALL_REQUEST_THRESHOLD)
        ? pymalloc_malloc_small(heap, nbytes) : pymalloc_malloc_larger(nbytes);
}

/* The end of a block in the leaf at hand, while main_heap is the only heap of small blocks.
 * 0: the block is in another leaf, or in none. */
static inline int
pymalloc_free_near(const struct pool_map_home *home, void *ptr)
{
    uintptr_t address = (uintptr_t)ptr;
    if (UNLIKELY(leaf_of(address) != home->leaf)) {
        return 0;
    }
    poolp pool = &home->pools[frame_of(address)];
    if (LIKELY(pool->blocksize != 0)) {
        pool_free_block(&main_heap, pool, ptr);
    }
    else {
        pymalloc_free_larger_near(pool, ptr);
    }
    return 1;
}

/* The same where that is not known. */
void pymalloc_free_far(void *ptr);

/* A small request and the end of any block, while main_heap is the only heap of small
 * blocks and large. */
static inline void *
pymalloc_malloc_by_hand(size_t nbytes)
{
    void *ptr = at_hand_take(at_hand_for(nbytes));
    return LIKELY(ptr != NULL) ? ptr : pymalloc_malloc_small(&main_heap, nbytes);
}

static inline void
pymalloc_free_by_hand(void *ptr)
{
    poolp pool = heap_pool_of(&main_heap, ptr);
    if (UNLIKELY(pool == NULL)) {
        pymalloc_free_elsewhere(ptr);
    }
    else if (UNLIKELY(!at_hand_put(at_hand_for(pool->blocksize), ptr))) {
        pool_free_block(&main_heap, pool, ptr);
    }
}

/* From the heap of the thread's interpreter, where each has one (heap_of_interpreter). */
void *pymalloc_malloc_of_heaps(size_t nbytes);
void pymalloc_free_of_heaps(void *ptr);

void *pymalloc_calloc(struct heap *heap, size_t nelem, size_t elsize);
void *pymalloc_realloc(struct heap *heap, void *ptr, size_t nbytes);

/* pymalloc as an allocator: what a domain's allocator points to. */
void *_PyObject_Malloc(void *ctx, size_t nbytes);
void *_PyObject_Calloc(void *ctx, size_t nelem, size_t elsize);
void *_PyObject_Realloc(void *ctx, void *ptr, size_t nbytes);
void _PyObject_Free(void *ctx, void *ptr);

/* For the raw domain: a block that the mem domain gave, of a medium pool?  It may be
 * freed and resized as a raw one, as in CPython, where malloc gave it.  From any
 * thread. */
static inline int
pymalloc_has_medium(const void *ptr)
{
    return medium_pool_of(ptr) != NULL;
}
size_t pymalloc_medium_size(const void *ptr);   /* 0: it is no block of a medium pool */
int pymalloc_free_medium(void *ptr);            /* the same */

/* Are medium pools wanted?  0: no, as PYMEM_MEDIUM says, or configure. */
int pymalloc_choose_medium(void);

/* Give back all memory that no block is in; the number of bytes. */
size_t pymalloc_trim(void);

#endif /* !Py_INTERNAL_PYMALLOC_H */
