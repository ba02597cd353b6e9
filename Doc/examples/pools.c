/* Visits the pools of its own heap. */

#include <Python.h>
#include "pymemheap.h"

static int
print_pool(void *arg, const PyMemHeapArena *arena, const PyMemHeapPool *pool)
{
    (void)arg;
    (void)arena;
    if (pool->blocksize != 0) {
        printf("%zu bytes: %u of %u blocks\n", pool->blocksize, pool->nused,
               pool->nblocks);
    }
    return 0;
}

int
main(void)
{
    PyObject_Malloc(37);
    PyObject_Malloc(40);
    PyObject_Malloc(512);
    return PyMemHeap_Visit(NULL, print_pool, NULL);
}
