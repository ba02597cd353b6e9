/* Pages of used pools that no block in use needs: sparse.c. */

#ifndef Py_INTERNAL_SPARSE_H
#define Py_INTERNAL_SPARSE_H

#include "pycore_pools.h"

/* Give back the pages of a pool that no block in use has a part of; the number of bytes.
 * By the heap's owner. */
size_t pool_purge(poolp pool);

/* The same for pools of which most is free, some at a time.  By the heap's owner. */
void heap_sweep(struct heap *heap);

/* Does a block of a pool lie in a page that is gone?  Then it is free, and in no list. */
int block_is_gone(uint32_t gone, const struct size_class *class, unsigned number);

/* A pool without a free block that has pages that are gone takes one of them back, or as
 * many as a block needs. */
void pool_take_page_back(poolp pool, const struct size_class *class);

#endif /* !Py_INTERNAL_SPARSE_H */
