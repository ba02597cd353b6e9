/* Medium blocks: requests of 513 bytes to 32 KiB while nobody has hooked the
 * raw domain, to which they belong.
 *
 * A pool of them is 128 KiB, eight times the size of one of small blocks.  Its
 * record is in the same leaf of the pool map, behind the records of frames. */

#ifndef Py_INTERNAL_MEDIUMALLOC_H
#define Py_INTERNAL_MEDIUMALLOC_H

#include "pycore_pymalloc.h"

/* The same three states as a struct pool, told in the same way: used; full,
 * where next is NULL and inuse stands at 1; empty, where blocksize is 0. */
struct medium_pool {
    block *freeblock;
    struct medium_pool *next;
    struct medium_pool *prev;
    struct arena_object *arena;
    uint32_t blocksize;         /* in bytes */
    uint16_t inuse;             /* blocks allocated */
    uint16_t ncut;              /* blocks that were ever allocated */
    uint16_t nblocks;           /* blocks that it can hold */
    uint16_t szidx;
    uint16_t leaf;              /* where this record is: index into pool_map */
#if UINTPTR_MAX > 0xFFFFFFFFu
    char to_cache_line[14];
#endif
};

/* What a leaf of the pool map is: records of frames, records of these. */
#define MEDIUM_POOLS_IN_LEAF ((size_t)1 << (32 - MEDIUM_POOL_BITS))
#define LEAF_SIZE (FRAMES_IN_LEAF * sizeof(struct pool) \
                   + MEDIUM_POOLS_IN_LEAF * sizeof(struct medium_pool))

static inline struct medium_pool *
leaf_medium_pools(poolp pools)
{
    return (struct medium_pool *)(pools + FRAMES_IN_LEAF);
}

/* The record for an address that a leaf covers. */
static inline struct medium_pool *
medium_pool_at(uintptr_t address)
{
    return &leaf_medium_pools(pool_map[leaf_of(address)])
        [(uint32_t)address >> MEDIUM_POOL_BITS];
}

/* The pool that a block lies in; NULL if it is no medium block. */
static inline struct medium_pool *
medium_pool_of(const void *ptr)
{
    uintptr_t address = (uintptr_t)ptr;
    if (pool_map_leaf(leaf_of(address)) == NULL) {
        return NULL;
    }
    struct medium_pool *pool = medium_pool_at(address);
    return pool->blocksize != 0 ? pool : NULL;
}

/* A block of at least nbytes, more than SMALL_REQUEST_THRESHOLD and at most
 * MEDIUM_REQUEST_THRESHOLD of them; NULL when the system has no more. */
void *medium_malloc(size_t nbytes);

/* Take back a block of a pool. */
void medium_free(struct medium_pool *pool, void *ptr);

/* Give back all memory that no medium block is in; the number of bytes. */
size_t medium_trim(void);

#endif /* !Py_INTERNAL_MEDIUMALLOC_H */
