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
#include "pycore_interp.h"
#include "pycore_runtime.h"

#define HEAP_OF(interp) (interp)->obmalloc
#include "since312.h"

extern int _PyMem_HasDebugHooks(PyMemAllocatorDomain domain);

int
_PyMem_DebugEnabled(void)
{
    return _PyMem_HasDebugHooks(PYMEM_DOMAIN_OBJ);
}

extern int _PyMem_init_obmalloc(PyInterpreterState *interp);
extern bool _PyMem_obmalloc_state_on_heap(PyInterpreterState *interp);

/* Each interpreter asks for its heap before it has a GIL. */
int
_PyMem_init_obmalloc(PyInterpreterState *interp)
{
    if (!uses_main_heap(interp)) {
        python_has_other_heaps();
    }
    return heap_begin(interp) != NULL ? 0 : -1;
}

bool
_PyMem_obmalloc_state_on_heap(PyInterpreterState *interp)
{
    (void)interp;
    return false;
}

/* Delayed frees: with the GIL nobody is waited for. */

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

void
_PyMem_ProcessDelayed(PyThreadState *tstate)
{
    (void)tstate;
}

void
_PyMem_AbandonDelayed(PyThreadState *tstate)
{
    (void)tstate;
}

void
_PyMem_FiniDelayed(PyInterpreterState *interp)
{
    (void)interp;
}

/* The tracer. */

struct _PyTraceMalloc_Config *
python_tracemalloc_config(void)
{
    return &_PyRuntime.tracemalloc.config;
}

extern int _PyTraceMalloc_NewReference(PyObject *op);
extern int _PyTraceMalloc_TraceRef(PyObject *op, PyRefTracerEvent event, void *data);

int
_PyTraceMalloc_TraceRef(PyObject *op, PyRefTracerEvent event, void *data)
{
    (void)data;
    return event == PyRefTracer_CREATE ? _PyTraceMalloc_NewReference(op) : 0;
}

void
python_trace_references(int on)
{
    PyRefTracer_SetTracer(on ? _PyTraceMalloc_TraceRef : NULL, NULL);
}

#define NEWEST_FRAME(tstate) (tstate)->current_frame
#define FRAME_CODE(frame) _PyFrame_GetCode(frame)
#define FRAME_INSTRUCTION(frame) (frame)->instr_ptr
#define RECURSION_LEFT(tstate) (tstate)->py_recursion_remaining
#include "since311.h"
