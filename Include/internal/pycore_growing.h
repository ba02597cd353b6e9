/* Blocks that grow: each has address space behind it, and stays where it is. */

#ifndef Py_INTERNAL_GROWING_H
#define Py_INTERNAL_GROWING_H

#include "pycore_heap.h"

/* The owner that the pool map names for them, in the place of a heap; not in heaps[]. */
#define HEAP_OF_GROWING (HEAP_OF_NOBODY - 1)

/* A block that grows to so many bytes and more has a slot.  Below it a copy is cheaper than
 * what the last page of a slot wastes. */
#define GROWING_FROM ((size_t)16 << 10)

static inline int
is_growing(const struct pool *slot)
{
    return pool_owner(slot) == HEAP_OF_GROWING;
}

/* All from any thread. */

/* A block of nbytes and room to become a quarter larger; NULL: there is none to be had. */
void *growing_malloc(size_t nbytes);

/* What may be read of a block; 0: there is none at the address. */
size_t growing_size(poolp slot, const void *ptr);

/* A block gets another size where it is; 0: nbytes are too many or too few for a slot. */
int growing_resize(poolp slot, size_t nbytes);

void growing_free(poolp slot);

/* Give back the memory of free slots; the number of bytes. */
size_t growing_trim(void);

/* The same where none was used for a while; 0: nothing is kept. */
int growing_tick(void);

/* Around a fork. */
void growing_lock(void);
void growing_unlock(void);

#endif /* !Py_INTERNAL_GROWING_H */
