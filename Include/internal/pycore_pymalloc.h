/* Blocks and pools: the structures, and the fast paths of malloc and free.
 *
 * What decides the speed of a small allocator is how many cache lines a call
 * touches.  The fields that malloc and free need are therefore not in the
 * pools, where each would be alone at the same offset of its 16 KiB and all
 * of them would compete for a few cache sets, but side by side in the pool
 * map: one record of 32 bytes for each 16 KiB frame of address space.
 *
 *   address of a block  [ leaf: 16 bits | frame: 18 bits | offset: 14 bits ]
 *                           |               |
 *   pool_map  [ . . . . ] <-+               |
 *                 |                         |
 *                 v                         |
 *     leaf  [ struct pool, struct pool, ... ] <-+   one for each frame in 4 GiB
 *
 * A leaf is 10 MiB of address space of which only the part is in memory that
 * describes pools in use; the last 2 are the records of medium blocks' pools.
 * The map also answers whether an address is a block
 * of ours, exactly and without reading anything that is not ours, for arenas
 * of any alignment: a frame that is no pool in use has a record of zeros. */

#ifndef Py_INTERNAL_PYMALLOC_H
#define Py_INTERNAL_PYMALLOC_H

#include "pycore_compiler.h"
#include "pycore_geometry.h"

typedef uint8_t block;

/* One pool.  It is in one of three states, CPython's:
 *
 *   used   in the list of its size class; some blocks may be free.
 *   full   no block is free; in no list: next is NULL, inuse stands at 1.
 *   empty  given back to its arena; blocksize is 0, as in a frame that never
 *          was a pool.
 *
 * An exhausted pool stays in its list until malloc finds it so; and the last
 * pool of a class stays in it when its blocks are all free (it counts as
 * unused in every statistic). */
typedef struct pool *poolp;
struct pool {
    block *freeblock;       /* head of the list of free blocks */
    poolp next;             /* both in the ring through usedpools[szidx] */
    poolp prev;
    uint16_t inuse;         /* blocks allocated; 1 in a full pool, so that one
                               test in free() notices both the last block of a
                               used pool and the first one of a full pool */
    uint16_t blocksize;     /* in bytes, a multiple of ALIGNMENT; 0: no pool */
    uint16_t nextoffset;    /* of the first byte never cut into blocks */
    uint16_t leaf;          /* where this record is: index into pool_map */
};

/* The front of a pool: fields that are read when a pool changes hands. */
struct pool_header {
    struct arena_object *arena;     /* where this pool goes when it is empty */
    poolp pool;                     /* its record; for debuggers and lessons */
    unsigned kept;                  /* empty, but still in its class's list */
};

/* usedpools[szidx].next is the pool that the next block of a size class comes
 * from.  The ring's own entry has no free block, so it needs no test apart. */
INTERNAL_DATA(struct pool) usedpools[NB_SMALL_SIZE_CLASSES];

#if UINTPTR_MAX > 0xFFFFFFFFu
#  define POOL_MAP_LEAVES (1u << 16)    /* user space ends below 2**48 */
#else
#  define POOL_MAP_LEAVES 1u
#endif
#define FRAMES_IN_LEAF ((size_t)1 << (32 - POOL_BITS))

INTERNAL_DATA(poolp) pool_map[POOL_MAP_LEAVES];

/* The leaf that covers an address; POOL_MAP_LEAVES or more where none does. */
static inline size_t
leaf_of(uintptr_t address)
{
    return (size_t)((uint64_t)address >> 32);
}

static inline size_t
frame_of(uintptr_t address)
{
    return (uint32_t)address >> POOL_BITS;
}

/* The leaf that the newest arena is in.  Nearly all others are in it, too, so
 * that free() finds a record without waiting for a load from pool_map. */
struct pool_map_home {
    size_t leaf;            /* SIZE_MAX before the first arena */
    poolp pools;            /* pool_map[leaf] */
};
INTERNAL_DATA(struct pool_map_home) pool_map_home;

/* pool_map[leaf], NULL also for an address that no leaf covers. */
static inline poolp
pool_map_leaf(size_t leaf)
{
    return leaf < POOL_MAP_LEAVES ? pool_map[leaf] : NULL;
}

/* The pool that a block lies in; NULL if it is none of pymalloc's.  CPython's
 * address_in_range().  The common case: two tests, and one load that depends on
 * the address, of a line that free() needs anyway. */
static inline poolp
pool_of(const void *ptr)
{
    uintptr_t address = (uintptr_t)ptr;
    size_t leaf = leaf_of(address);
    poolp pools = pool_map_home.pools;
    if (UNLIKELY(leaf != pool_map_home.leaf)
        && (pools = pool_map_leaf(leaf)) == NULL)
    {
        return NULL;
    }
    poolp pool = &pools[frame_of(address)];
    return LIKELY(pool->blocksize != 0) ? pool : NULL;
}

/* Where the memory of a pool is. */
static inline block *
pool_address(poolp pool)
{
    uintptr_t frame = (uintptr_t)(pool - pool_map[pool->leaf]);
    return (block *)(uintptr_t)(((uint64_t)pool->leaf << 32)
                                | (frame << POOL_BITS));
}

static inline struct pool_header *
pool_header_of(poolp pool)
{
    return (struct pool_header *)pool_address(pool);
}

/* Blocks allocated, whichever state the pool is in. */
static inline unsigned
pool_count_blocks(const struct pool *pool)
{
    return pool->next == NULL ? NUMBLOCKS(pool->blocksize) : pool->inuse;
}

/* Out of line, where the common case ends: pymalloc.c. */
void *pymalloc_malloc_slowly(size_t nbytes);
void pymalloc_free_elsewhere(void *ptr);
void pool_reached_border(poolp pool);

/* A block of at least nbytes, 1 to SMALL_REQUEST_THRESHOLD of them; NULL when
 * the pool at hand has none, for pymalloc_malloc_slowly() to go on.  Five
 * loads and stores and one test. */
static inline void *
pymalloc_take_block(size_t nbytes)
{
    DEBUG_ASSERT(nbytes - 1 < SMALL_REQUEST_THRESHOLD);
    poolp pool = usedpools[SIZE_TO_INDEX(nbytes)].next;
    block *bp = pool->freeblock;
    if (LIKELY(bp != NULL)) {
        pool->freeblock = *(block **)bp;
        pool->inuse++;
    }
    return bp;
}

/* Take back a block; 0 if it is not pymalloc's.  The common case: pool_of(),
 * four loads and stores, one test. */
static inline int
pymalloc_free(void *ptr)
{
    poolp pool = pool_of(ptr);
    if (UNLIKELY(pool == NULL)) {
        return 0;
    }
    *(block **)ptr = pool->freeblock;
    pool->freeblock = ptr;
    if (UNLIKELY(--pool->inuse == 0)) {
        pool_reached_border(pool);
    }
    return 1;
}

/* A request of any size, and the end of a block wherever it came from: what the
 * mem and object domains do while nobody hooked them. */
static inline void *
pymalloc_malloc(size_t nbytes)
{
    if (LIKELY(nbytes - 1 < SMALL_REQUEST_THRESHOLD)) {
        void *ptr = pymalloc_take_block(nbytes);
        if (LIKELY(ptr != NULL)) {
            return ptr;
        }
    }
    return pymalloc_malloc_slowly(nbytes);
}

static inline void
pymalloc_free_anywhere(void *ptr)
{
    if (UNLIKELY(!pymalloc_free(ptr))) {
        pymalloc_free_elsewhere(ptr);
    }
}

/* pymalloc as an allocator: what a domain's allocator points to. */
void *_PyObject_Malloc(void *ctx, size_t nbytes);
void *_PyObject_Calloc(void *ctx, size_t nelem, size_t elsize);
void *_PyObject_Realloc(void *ctx, void *ptr, size_t nbytes);
void _PyObject_Free(void *ctx, void *ptr);

/* The same, for who looks whether a domain is pymalloc's to use it without a call:
 * NULLs when a lock is needed (Objects/sharedheap.c). */
struct unshared_pymalloc {
    void *(*malloc)(void *ctx, size_t nbytes);
    void *(*realloc)(void *ctx, void *ptr, size_t nbytes);
    void (*free)(void *ctx, void *ptr);
};
INTERNAL_DATA(struct unshared_pymalloc) unshared_pymalloc;

/* Give back all memory that no block is in; the number of bytes. */
size_t pymalloc_trim(void);

/* Blocks that were asked of pymalloc and are not small. */
INTERNAL_DATA(Py_ssize_t) raw_allocated_blocks;

#endif /* !Py_INTERNAL_PYMALLOC_H */
