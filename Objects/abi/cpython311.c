/* What CPython 3.11 takes from obmalloc.o beside the API.
 *
 *   symbol                    who reads it
 *   _Py_tracemalloc_config    object.o at each new reference; _tracemalloc.o
 *                             sets it
 *
 * The rest of its list (_Py_GetAllocatedBlocks, _PyObject_VirtualAlloc, ...)
 * is what the library has anyway.  CPython 3.10 takes the same. */

#include "pyport.h"

struct _PyTraceMalloc_Config {
    int initialized;    /* 0 not yet, 1 yes, 2 finalized */
    int tracing;
    int max_nframe;     /* 1 unless the tracer is told otherwise */
};

PyAPI_DATA(struct _PyTraceMalloc_Config) _Py_tracemalloc_config;
struct _PyTraceMalloc_Config _Py_tracemalloc_config = {0, 0, 1};
