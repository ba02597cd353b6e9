/* The hardened allocator: PYTHONMALLOC=hardened.  Declarations that its files share.
 *
 *   hardened.c      the three domains: what is handed out, what is taken back and checked
 *   hardrings.c     free blocks of up to 32 KiB: ready, in quarantine, in their slabs
 *   hardslabs.c     the memory of these blocks, and what is known of it, apart
 *   hardlarge.c     larger blocks, each in a separate mapping
 *   hardoptions.c   PYMEM_HARDENED, and the messages */

#ifndef Py_INTERNAL_HARDENED_H
#define Py_INTERNAL_HARDENED_H

#include "pycore_compiler.h"
#include "pycore_deadblocks.h"
#include "pycore_spinlock.h"
#include "cpython/pymem.h"

#include <stdatomic.h>
#include <string.h>

/* As an allocator of a domain.  ctx is the domain's letter. */
void *_PyMem_HardenedMalloc(void *ctx, size_t size);
void *_PyMem_HardenedCalloc(void *ctx, size_t nelem, size_t elsize);
void *_PyMem_HardenedRealloc(void *ctx, void *ptr, size_t size);
void _PyMem_HardenedFree(void *ctx, void *ptr);
void *_PyMem_HardenedRawMalloc(void *ctx, size_t size);
void _PyMem_HardenedRawFree(void *ctx, void *ptr);
extern const char _PyMem_HardenedDomains[3];
#define HARDENED_ALLOC(domain, malloc, free) \
    {(void *)&_PyMem_HardenedDomains[PYMEM_DOMAIN_##domain], malloc, \
     _PyMem_HardenedCalloc, _PyMem_HardenedRealloc, free}
#define HARDENED_ALLOC_RAW \
    HARDENED_ALLOC(RAW, _PyMem_HardenedRawMalloc, _PyMem_HardenedRawFree)
#define HARDENED_ALLOC_MEM HARDENED_ALLOC(MEM, _PyMem_HardenedMalloc, _PyMem_HardenedFree)
#define HARDENED_ALLOC_OBJ HARDENED_ALLOC(OBJ, _PyMem_HardenedMalloc, _PyMem_HardenedFree)
#define HARDENED_ALLOCS {HARDENED_ALLOC_RAW, HARDENED_ALLOC_MEM, HARDENED_ALLOC_OBJ}

/* Read the options, and make forks safe: while there is one thread. */
void _PyMem_BeginHardened(void);

/* From now on there is a GIL for each interpreter: see _PyMem_AskForHeap(). */
void _PyMem_ShareHardened(void);

/* Give back what nothing is in; the number of bytes. */
size_t _PyMem_TrimHardened(void);

/* Blocks in use. */
Py_ssize_t _PyMem_CountHardened(void);

/* Options (hardoptions.c). */

struct hard_options {
    size_t quarantine;          /* bytes of freed blocks that wait, of all classes */
    int canary;                 /* are the bytes behind a request's end checked? */
    int fill;                   /* is what is freed overwritten, and checked later? */
    int guard;                  /* do large blocks have guard pages? */
    int foreign;                /* does malloc get what is no block? */
};
INTERNAL_DATA(struct hard_options) hard_options;

/* Read PYMEM_HARDENED, once. */
void hard_options_read(void);

/* Random bytes for a choice among up to 256: those of the kernel, some at a time.  The
 * caller holds the lock of its owner. */
struct hard_random {
    unsigned char bytes[1024];
    unsigned used;              /* sizeof(bytes): all */
};
#define HARD_RANDOM {.used = sizeof(((struct hard_random *)0)->bytes)}
void hard_random_refill(struct hard_random *random);

static inline unsigned
hard_random_below(struct hard_random *random, unsigned n)
{
    if (UNLIKELY(random->used >= sizeof(random->bytes))) {
        hard_random_refill(random);
    }
    return random->bytes[random->used++] * n >> 8;
}

/* What is wrong with a block. */
enum hard_finding {
    FREED_TWICE, INSIDE_A_BLOCK, NOT_A_BLOCK, WRITTEN_BEHIND_ITS_END, WRITTEN_AFTER_FREE
};
struct hard_fault {
    enum hard_finding finding;
    const void *address;        /* that the caller gave, or of the block */
    const void *block;          /* that it is in; NULL: none */
    size_t size;                /* of the block */
    size_t requested;           /* SIZE_MAX: not known, as of one that is free */
    const unsigned char *wrong; /* the first byte that is not as it was; or NULL */
    unsigned char right;        /* what it was */
};

/* End the program.  No lock is held. */
COLD void _Py_NO_RETURN hard_fatal(char api_id, const struct hard_fault *fault);

/* Slabs: 64 KiB of blocks of one class (hardslabs.c).
 *
 *   reserved   ---- | records | ---- | states | ---- | arena | ---- | arena | ----
 *   at once      guard           guard          guard            guard
 *
 * A record and its states tell all that is known of a slab; no block has anything of it. */

#define HARD_SLAB_BITS 16
#define HARD_SLAB_SIZE ((size_t)1 << HARD_SLAB_BITS)
#define HARD_MEDIUM_MAX 32768u      /* the largest request that a slab serves */

/* Classes: multiples of 16 up to 528 bytes, then eight for each doubling. */
enum { NSMALL = 33, NCLASSES = NSMALL + 49 };

/* Of a block: how many bytes it has behind the request's end, 1 to MAX_SLACK, while it is
 * in use.  A free one in its slab leads to the next one; others wait to be handed out. */
enum {
    NEVER_USED = 0, MAX_SLACK = 0x1fff,
    FREE_LAST = 0x7fff, FREE_NEXT = 0x8000,     /* FREE_NEXT + number of the next */
    WAITS_FRESH = 0xfff0, WAITS_DEAD
};

struct hard_slab {
    uint16_t *states;           /* of each block and one more; NULL: nobody has this slab */
    uint32_t reciprocal;        /* 2**32 / blocksize, rounded up */
    uint32_t next, previous;    /* slabs of the class with free blocks; 0: none */
    uint16_t first;             /* where the first block is */
    uint16_t blocksize;
    uint16_t ncut;              /* so many of its blocks were in use at some time */
    uint16_t nfree;             /* in the list of the slab */
    uint16_t free;              /* the first one; a state */
    uint8_t class;
    uint8_t heap;
};

static inline unsigned
hard_slab_nblocks(const struct hard_slab *slab)
{
    return (unsigned)(HARD_SLAB_SIZE / slab->blocksize);
}

static inline int
hard_is_in_use(unsigned state)
{
    return state - 1 < MAX_SLACK;
}

/* Blocks of a slab: in use, and those that wait.  0 where nobody has it. */
struct hard_slab_counts {
    unsigned used, waiting;
};
struct hard_slab_counts hard_slab_count(const struct hard_slab *slab);

/* Call a function for each arena, with the number of its first slab; not 0 ends it. */
int hard_arenas_visit(int (*visit)(void *arg, uint32_t first, unsigned nslabs), void *arg);

/* Where slabs are: NULL until the first. */
INTERNAL_DATA(unsigned char *) hard_slabs_start;
INTERNAL_DATA(struct hard_slab *) hard_slab_records;
/* Bytes up to the end of the last arena: stored (release) when its records can be read, loaded
 * (acquire) before one is. */
INTERNAL_DATA(atomic_size_t) hard_slabs_size;

static inline unsigned char *
hard_slab_address(size_t number)
{
    return hard_slabs_start + (number << HARD_SLAB_BITS);
}

/* A slab for blocks of a class, with states of its own that are all NEVER_USED; 0: no
 * memory.  Its number is not 0. */
uint32_t hard_slab_new(unsigned class, unsigned blocksize, unsigned heap);

/* Nothing is in it any more. */
void hard_slab_free(uint32_t number);

/* Memory for records, for good, zeroed; NULL where there is no memory. */
void *hard_metadata(size_t size);

/* Give free slabs back to the system; the number of bytes. */
size_t hard_slabs_trim(void);

/* Large blocks (hardlarge.c). */

void *hard_large_malloc(size_t size);
/* -1: it is no large block.  Faults are found. */
int hard_large_free(char api_id, void *ptr);
/* The requested size; 0: it is no large block.  Faults are found. */
size_t hard_large_size(char api_id, const void *ptr);
/* Make it larger or smaller, once that was its size; NULL: no memory.  It remains one. */
void *hard_large_realloc(char api_id, void *ptr, size_t old_size, size_t size);
size_t hard_large_count(void);

/* The child's order is its own; the lock is held. */
void hard_large_begin_in_child(void);

/* The locks, at a fork. */
INTERNAL_DATA(spin_lock) hard_slabs_lock, hard_large_lock;

#endif /* !Py_INTERNAL_HARDENED_H */
