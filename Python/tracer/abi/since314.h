/* CPythons from 3.14 on have this in common: a delayed free is told the size of its block, and
 * frames are in a separate header. */

#include "abi.h"

#ifndef TRACER_BESIDE

/* Delayed frees: with the GIL no thread is waited for. */

void
_PyMem_FreeDelayed(void *ptr, size_t size)
{
    (void)size;
    PyMem_Free(ptr);
}

void
_PyMem_ProcessDelayedNoDealloc(PyThreadState *tstate, delayed_dealloc_cb dealloc,
                               void *state)
{
    (void)tstate;
    (void)dealloc;
    (void)state;
}

#endif

#include "pycore_interpframe.h"
#include "since313.h"
