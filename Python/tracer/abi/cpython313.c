/* CPython 3.13: what it takes beside the API, and its frames.
 *
 *   symbol                                   who takes it
 *   _PyMem_RawMalloc, _PyObject_Malloc,      _PyRuntime, whose table of allocators
 *   _PyMem_DebugMalloc, _PyMem_ArenaAlloc,   is filled with them; the library has
 *   ... by these names                       them, and nobody reads the table
 *   those of since312.h                      sys, the end of interpreters
 *   _PyMem_init_obmalloc,                    start and end of each interpreter
 *   _PyMem_obmalloc_state_on_heap
 *   _PyMem_FreeDelayed, ...                  where a free must wait for other
 *                                            threads in a build without the GIL
 *   _PyMem_DebugEnabled                      nobody in a release build
 *
 * It defines mimalloc's functions (mi_malloc, _PyMem_MiMalloc, ...) as well.  Only a
 * build without the GIL refers to them. */

#include "abi.h"

#ifndef TRACER_BESIDE

/* Delayed frees: with the GIL no thread is waited for. */

void
_PyMem_FreeDelayed(void *ptr)
{
    PyMem_Free(ptr);
}

void
_PyObject_FreeDelayed(void *ptr)
{
    PyObject_Free(ptr);
}

#endif

#include "since313.h"
