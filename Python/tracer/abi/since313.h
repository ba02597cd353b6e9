/* CPythons from 3.13 on have this in common: an interpreter asks for its heap when it
 * starts, the debug hooks are asked for, frees may be told to wait for other threads
 * (not with a GIL), and a reference tracer tells of new objects. */

#include "pycore_interp.h"
#include "pycore_runtime.h"

#ifdef TRACER_BESIDE
#  include "beside.h"
#else

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

/* Delayed frees: with the GIL no thread is waited for. */

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

int
python_trace_references(int on)
{
    return PyRefTracer_SetTracer(on ? _PyTraceMalloc_TraceRef : NULL, NULL);
}

#endif

#define NEWEST_FRAME(tstate) (tstate)->current_frame
#define FRAME_CODE(frame) _PyFrame_GetCode(frame)
#define FRAME_INSTRUCTION(frame) (frame)->instr_ptr
#define RECURSION_LEFT(tstate) (tstate)->py_recursion_remaining
#include "since311.h"
