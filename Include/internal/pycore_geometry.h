/* Geometry: every number that decides where a block lies, once, with its
 * reason.  All else derives from these. */

#ifndef Py_INTERNAL_GEOMETRY_H
#define Py_INTERNAL_GEOMETRY_H

#include "pyport.h"

/* The alignment of a block.  16 on 64-bit platforms, because a long double
 * and SSE values need it; 8 on 32-bit ones, where small blocks would waste
 * more than they are worth.  The playground of the documentation has pointers of 32 bits
 * and the geometry that its readers have (GEOMETRY_OF_64_BIT). */
#if UINTPTR_MAX > 0xFFFFFFFFu || defined(GEOMETRY_OF_64_BIT)
#  define ALIGNMENT_SHIFT 4
#  define WORD_SIZE ((size_t)8)
#else
#  define ALIGNMENT_SHIFT 3
#  define WORD_SIZE sizeof(size_t)
#endif
#define ALIGNMENT (1u << ALIGNMENT_SHIFT)

/* The largest request that pymalloc serves.  Nine in ten requests of Python
 * programs are smaller. */
#define SMALL_REQUEST_THRESHOLD 512u

/* One size class for each multiple of ALIGNMENT up to the threshold: 32 or 64
 * of them.  A request wastes less than ALIGNMENT bytes by it. */
#define NB_SMALL_SIZE_CLASSES (SMALL_REQUEST_THRESHOLD >> ALIGNMENT_SHIFT)
#define INDEX_TO_SIZE(szidx) (((unsigned)(szidx) + 1u) << ALIGNMENT_SHIFT)
#define SIZE_TO_INDEX(size) (((unsigned)(size) - 1u) >> ALIGNMENT_SHIFT)

/* An arena is what is bought from the arena allocator at a time: 2**20 bytes,
 * so that the system is asked rarely, and not so much that one block that stays
 * holds on to a lot.  CPython's number since 3.10; 2**18 before, and still on
 * 32-bit.  ARENA_BITS is configure's. */
#define ARENA_SIZE ((size_t)1 << ARENA_BITS)

/* A pool holds blocks of one size class: 2**14 bytes, 31 blocks of the largest
 * class.  CPython's number since 3.10; 2**12 before, and still on 32-bit.
 * POOL_BITS is configure's. */
#define POOL_SIZE ((size_t)1 << POOL_BITS)
#define POOL_SIZE_MASK (POOL_SIZE - 1)

/* 64 in both geometries: the free pools of an arena fit one 64-bit mask. */
#define MAX_POOLS_IN_ARENA (ARENA_SIZE / POOL_SIZE)

/* The first bytes of a pool are no block: four pointers and four counts, what
 * CPython's pool header takes (48 bytes on 64-bit), so that blocks have the
 * addresses and pools the number of blocks that they have there.  pycore_pymalloc.h says what
 * is kept in them. */
#define POOL_OVERHEAD ((4 * WORD_SIZE + 4 * sizeof(unsigned)                \
                        + ALIGNMENT - 1) & ~(size_t)(ALIGNMENT - 1))
#define NUMBLOCKS(blocksize) ((unsigned)((POOL_SIZE - POOL_OVERHEAD) / (blocksize)))

/* Requests over the small ones are the raw domain's.  While that is malloc and
 * nobody has hooked it, those of up to 2**15 bytes and a header are served by
 * ourselves: there are few larger ones, and malloc gives those pages of their
 * own soon.  Eight size classes for each doubling: a request wastes less than an
 * eighth by it, and half of that on average. */
#define MEDIUM_HEADER 64u
#define MEDIUM_REQUEST_THRESHOLD (32768u + MEDIUM_HEADER)
#define NB_MEDIUM_SIZE_CLASSES 50u
#define MEDIUM_FIRST_EIGHTH 6u      /* eighths of 256 to 512 below the first one */

/* They may be left to malloc: by PYMEM_MEDIUM, or for good by configure
 * (--without-medium-pools). */
#ifdef WITH_MEDIUM_POOLS
#  define MEDIUM_POOLS_BY_DEFAULT 1
#else
#  define MEDIUM_POOLS_BY_DEFAULT 0
#endif

/* Small classes come first, medium ones follow. */
#define NB_SIZE_CLASSES (NB_SMALL_SIZE_CLASSES + NB_MEDIUM_SIZE_CLASSES)

/* Their pools hold three blocks of the largest class, and are an eighth of their
 * arenas.  The same in every geometry. */
#define MEDIUM_POOL_BITS 17
#define MEDIUM_POOL_SIZE ((size_t)1 << MEDIUM_POOL_BITS)
#define MEDIUM_ARENA_SIZE ((size_t)1 << 20)

/* A fresh pool is cut into blocks so much at a time, so that memory nobody asked for
 * is not touched.  The pages of most systems are as large; virtual_page_size() says
 * what this one's are. */
#define CUT_SIZE 4096u

#if ARENA_BITS < POOL_BITS || ARENA_BITS - POOL_BITS > 6
#  error "an arena holds 1 to 64 pools: POOL_BITS <= ARENA_BITS <= POOL_BITS + 6"
#endif
#if POOL_BITS < 12 || POOL_BITS > 15
#  error "a pool is 4 to 32 KiB: POOL_BITS is 12 to 15"
#endif

#endif /* !Py_INTERNAL_GEOMETRY_H */
