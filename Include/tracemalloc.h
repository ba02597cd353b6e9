/* Reporting memory of one's own to the allocation tracer (since 3.7). */

#ifndef Py_TRACEMALLOC_H
#define Py_TRACEMALLOC_H

#include "pyport.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Trace a block that was not allocated through this API: ptr of size bytes in
 * a domain of the caller's choice (0 is Python's own).  Every number is a domain,
 * and an address: 0 and the largest too.  A block that is traced already is
 * updated.  0; -1 no memory for the trace; -2 nothing is traced.
 * From any thread, with or without the GIL. */
PyAPI_FUNC(int) PyTraceMalloc_Track(unsigned int domain, uintptr_t ptr,
                                    size_t size);

/* Drop the trace of a block; an unknown block is no error.  0, or -2 when
 * nothing is traced.  From any thread, with or without the GIL. */
PyAPI_FUNC(int) PyTraceMalloc_Untrack(unsigned int domain, uintptr_t ptr);

#ifndef Py_LIMITED_API
/* Tracing in a program without an interpreter: stacks are of its own functions,
 * at most max_nframe of them, 1 to 65535.  0; -1 for another number.  A second
 * start does nothing.  As PYTHONTRACEMALLOC=max_nframe does before main().  The
 * names are those of CPython 3.12's private ones. */
PyAPI_FUNC(int) _PyTraceMalloc_Start(int max_nframe);
PyAPI_FUNC(void) _PyTraceMalloc_Stop(void);
PyAPI_FUNC(int) _PyTraceMalloc_IsTracing(void);

/* Bytes in traced blocks now, and the most since the start. */
PyAPI_FUNC(void) _PyTraceMalloc_GetTracedMemory(size_t *current, size_t *peak);
#endif

#ifdef __cplusplus
}
#endif

#endif /* !Py_TRACEMALLOC_H */
