/* Where arenas come from, and what there is to read about them: what CPython
 * keeps outside its limited API. */

#ifndef Py_CPYTHON_OBJIMPL_H
#define Py_CPYTHON_OBJIMPL_H

#include "pyport.h"

#include <stdio.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Where pymalloc buys its arenas.  alloc is asked for ARENA_SIZE bytes (1 MiB;
 * 256 KiB in the classic geometry) and returns NULL when it has none; free
 * gets back what alloc gave, with the same size.  The memory need not be
 * aligned.  Interpreters with a GIL each call both from several threads at
 * once. */
typedef struct {
    void *ctx;
    void *(*alloc)(void *ctx, size_t size);
    void (*free)(void *ctx, void *ptr, size_t size);
} PyObjectArenaAllocator;

/* Copy the arena allocator out, or in.  Arenas that are alive are given back
 * to the allocator in force when they become empty.  Since 3.4; with the GIL
 * held. */
PyAPI_FUNC(void) PyObject_GetArenaAllocator(PyObjectArenaAllocator *allocator);
PyAPI_FUNC(void) PyObject_SetArenaAllocator(PyObjectArenaAllocator *allocator);

/* Memory straight from the arena allocator, of any size (3.11: CPython's
 * frame stacks). */
PyAPI_FUNC(void *) _PyObject_VirtualAlloc(size_t size);
PyAPI_FUNC(void) _PyObject_VirtualFree(void *ptr, size_t size);

/* Blocks in use that were asked of pymalloc: sys.getallocatedblocks().  Those
 * that were too large for it and went on to the raw domain count too. */
PyAPI_FUNC(Py_ssize_t) _Py_GetAllocatedBlocks(void);

/* Write the state of pymalloc to out: sys._debugmallocstats().  1, or 0 with
 * nothing written when the object domain is not served by pymalloc. */
PyAPI_FUNC(int) _PyObject_DebugMallocStats(FILE *out);

/* Write one line about num_blocks blocks of sizeof_block bytes, in the form
 * CPython uses for its free lists. */
PyAPI_FUNC(void) _PyDebugAllocatorStats(FILE *out, const char *block_name,
                                        int num_blocks, size_t sizeof_block);

#ifdef __cplusplus
}
#endif

#endif /* !Py_CPYTHON_OBJIMPL_H */
