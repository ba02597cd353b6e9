/* Reporting memory of one's own to the allocation tracer (since 3.7). */

#ifndef Py_TRACEMALLOC_H
#define Py_TRACEMALLOC_H

#include "pyport.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Trace a block that was not allocated through this API: ptr of size bytes in
 * a domain of the caller's choice (0 is Python's own).  A block that is traced
 * already is updated.  0; -1 no memory for the trace; -2 nothing is traced.
 * From any thread, with or without the GIL. */
PyAPI_FUNC(int) PyTraceMalloc_Track(unsigned int domain, uintptr_t ptr,
                                    size_t size);

/* Drop the trace of a block; an unknown block is no error.  0, or -2 when
 * nothing is traced.  From any thread, with or without the GIL. */
PyAPI_FUNC(int) PyTraceMalloc_Untrack(unsigned int domain, uintptr_t ptr);

#ifdef __cplusplus
}
#endif

#endif /* !Py_TRACEMALLOC_H */
