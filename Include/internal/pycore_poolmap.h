/* Pools, and the pool map: from the address of a block to the record of its pool.
 *
 * The number of cache lines that a call touches decides the speed of a small allocator.  The
 * fields that malloc and free need are therefore not in the pools, where each would be alone
 * at the same offset of its 16 KiB and all of them would compete for a few cache sets, but
 * side by side in the pool map: one record of 32 bytes for each 16 KiB frame of address
 * space.
 *
 *   address of a block  [ leaf: 16 bits | frame: 18 bits | offset: 14 bits ]
 *                           |               |
 *   pool_map  [ . . . . ] <-+               |
 *                 |                         |
 *                 v                         |
 *     leaf  [ struct pool, struct pool, ... ] <-+   one for each frame in 4 GiB
 *           [ struct medium_record, ... ]           one for each 128 KiB
 *
 * A leaf is a table of 10 MiB: a part of it that describes arenas is memory, all else
 * only reads as zeros (virtual_reserve()).  The map answers whether an address is a block
 * of ours, exactly and without reading anything that is not ours, for arenas of any
 * alignment: a frame that is no pool in use has a record of zeros.
 *
 * The map is one for the process.  Any thread may read it at any time: a leaf is
 * whole before its pointer is in the map, and stays. */

#ifndef Py_INTERNAL_POOLMAP_H
#define Py_INTERNAL_POOLMAP_H

#include "pycore_compiler.h"
#include "pycore_geometry.h"

#include <stdatomic.h>

typedef uint8_t block;

/* The first word of a free block has the address of the next one in its list.  A compiler
 * need not warn that the word is not aligned: every block is, to ALIGNMENT. */
static inline block **
block_link(void *bp)
{
    return bp;
}

/* One pool.  It is in one of three states, CPython's:
 *
 *   used   in the ring of its size class; some blocks may be free.
 *   full   no block is free; in no ring: next is NULL, inuse stands at 1.
 *   empty  given back to its arena; blocksize is 0, as in a frame that never
 *          was a pool.
 *
 * An exhausted pool stays in its ring until malloc finds it so; and the last
 * pool of a class stays in it when its blocks are all free (it counts as
 * unused in every statistic).
 *
 * Whoever has a block of the pool may read blocksize and owner.  All else is for
 * the owner only. */
typedef struct pool *poolp;
struct pool {
    block *freeblock;       /* head of the list of free blocks */
    poolp next;             /* both in the ring through the heap's usedpools[] */
    poolp prev;
    uint16_t inuse;         /* blocks allocated; 1 in a full pool, so that one
                               test in free() notices both the last block of a
                               used pool and the first one of a full pool */
    uint16_t blocksize;     /* in bytes, a multiple of ALIGNMENT; 0: no pool */
    uint16_t nextoffset;    /* of the first byte never cut into blocks, in units
                               of ALIGNMENT */
    _Atomic uint16_t owner; /* the number of its heap: heaps[] */
};

/* Fields that are read when a pool changes hands.  Of a small pool they are its
 * first bytes; of a medium one, which has none to spare, they follow its record. */
struct pool_header {
    struct arena_object *arena;     /* where this pool goes when it is empty */
    poolp pool;                     /* its record; for debuggers and lessons */
    uint32_t kept;                  /* empty, but still in its class's ring */
    uint32_t gone;                  /* bit i: page i went back to the system: sparse.c */
};

struct medium_record {
    struct pool pool;
    struct pool_header header;
#if UINTPTR_MAX > 0xFFFFFFFFu
    char to_cache_line[8];
#endif
};

#if UINTPTR_MAX > 0xFFFFFFFFu
#  define POOL_MAP_LEAVES (1u << 16)    /* user space ends below 2**48 */
#else
#  define POOL_MAP_LEAVES 1u
#endif
#define FRAMES_IN_LEAF ((size_t)1 << (32 - POOL_BITS))
#define MEDIUM_POOLS_IN_LEAF ((size_t)1 << (32 - MEDIUM_POOL_BITS))

struct pool_leaf {
    struct pool small[FRAMES_IN_LEAF];
    struct medium_record medium[MEDIUM_POOLS_IN_LEAF];
    size_t number;          /* which 4 GiB it describes: index into pool_map */
    void *traces;           /* traceblocks.c's table for the same 4 GiB, or NULL */
};

/* A power of two that a leaf fits in: so a record leads to its leaf. */
#define LEAF_ALIGNMENT ((size_t)1 << (38 - POOL_BITS))

/* Stored with memory_order_release by pool_map_cover(), loaded with acquire. */
INTERNAL_DATA(struct pool_leaf *_Atomic) pool_map[POOL_MAP_LEAVES];

INTERNAL_DATA(atomic_size_t) pool_map_nleaves;

/* A leaf at hand.  The leaf that the newest arena of small pools of a heap is in has nearly
 * all others, too, so that free() finds a record without waiting for a load from pool_map.
 * For the heap's owner alone: it is written in two stores. */
struct pool_map_home {
    size_t leaf;            /* SIZE_MAX: none */
    poolp pools;            /* pool_map[leaf]->small */
};
#define NO_HOME {SIZE_MAX, NULL}

/* Make sure that the frame at an address has records that can be written; -1: no memory,
 * or no leaf covers the address.  From any thread. */
int pool_map_cover(uintptr_t address);

/* The memory of an arena is about to go: its records are as if it had never been.  Another
 * thread that gets the same address from the system sees them so. */
void pool_map_uncover(void);

/* Around a fork, so that the map is whole in the child. */
void pool_map_lock(void);
void pool_map_unlock(void);

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

/* pool_map[leaf], NULL also for an address that no leaf covers. */
static inline struct pool_leaf *
pool_map_leaf(size_t leaf)
{
    return leaf < POOL_MAP_LEAVES
        ? atomic_load_explicit(&pool_map[leaf], memory_order_acquire) : NULL;
}

/* Of the pools that would lie at an address. */
static inline poolp
small_record_in(struct pool_leaf *leaf, uintptr_t address)
{
    return &leaf->small[frame_of(address)];
}

static inline struct medium_record *
medium_record_in(struct pool_leaf *leaf, uintptr_t address)
{
    return &leaf->medium[(uint32_t)address >> MEDIUM_POOL_BITS];
}

/* The pool that a block lies in, small or medium, if its leaf is known; NULL where that is
 * NULL, or where there is no such pool. */
static inline poolp
small_pool_in(struct pool_leaf *leaf, const void *ptr)
{
    poolp pool = leaf != NULL ? small_record_in(leaf, (uintptr_t)ptr) : NULL;
    return pool != NULL && pool->blocksize != 0 ? pool : NULL;
}

static inline poolp
medium_pool_in(struct pool_leaf *leaf, const void *ptr)
{
    poolp pool = leaf != NULL ? &medium_record_in(leaf, (uintptr_t)ptr)->pool : NULL;
    return pool != NULL && pool->blocksize != 0 ? pool : NULL;
}

/* The small pool that a block lies in; NULL if it is none.  CPython's
 * address_in_range().  From any thread. */
static inline poolp
pool_of(const void *ptr)
{
    return small_pool_in(pool_map_leaf(leaf_of((uintptr_t)ptr)), ptr);
}

/* The same for a medium pool. */
static inline poolp
medium_pool_of(const void *ptr)
{
    return medium_pool_in(pool_map_leaf(leaf_of((uintptr_t)ptr)), ptr);
}

/* The record of the pool at an address that the map covers. */
static inline poolp
pool_record(uintptr_t address, int is_medium)
{
    struct pool_leaf *leaf = pool_map_leaf(leaf_of(address));
    return is_medium ? &medium_record_in(leaf, address)->pool : small_record_in(leaf, address);
}

static inline int
pool_is_medium(const struct pool *pool)
{
    return pool->blocksize > SMALL_REQUEST_THRESHOLD;
}

/* The leaf that a record is in. */
static inline struct pool_leaf *
pool_leaf_of(const struct pool *pool)
{
#if UINTPTR_MAX > 0xFFFFFFFFu
    return (struct pool_leaf *)((uintptr_t)pool & ~(uintptr_t)(LEAF_ALIGNMENT - 1));
#else
    (void)pool;
    return pool_map_leaf(0);
#endif
}

/* Where the memory of a pool is, which is not an empty one. */
static inline block *
pool_address(const struct pool *pool)
{
    const struct pool_leaf *leaf = pool_leaf_of(pool);
    uint64_t start = (uint64_t)leaf->number << 32;
    uint64_t offset = pool_is_medium(pool)
        ? (uint64_t)((const struct medium_record *)pool - leaf->medium)
            << MEDIUM_POOL_BITS
        : (uint64_t)(pool - leaf->small) << POOL_BITS;
    return (block *)(uintptr_t)(start | offset);
}

/* Of a medium pool, or of any. */
static inline struct pool_header *
medium_header_of(poolp pool)
{
    return (struct pool_header *)(pool + 1);
}

static inline struct pool_header *
pool_header_of(poolp pool)
{
    return pool_is_medium(pool) ? medium_header_of(pool)
        : (void *)pool_address(pool);
}

static inline uint16_t
pool_owner(const struct pool *pool)
{
    return atomic_load_explicit(&pool->owner, memory_order_relaxed);
}

#endif /* !Py_INTERNAL_POOLMAP_H */
