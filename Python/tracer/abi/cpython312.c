/* CPython 3.12: what it takes beside the API, and its frames.
 *
 *   symbol                                   who takes it
 *   _PyMem_RawMalloc, _PyObject_Malloc,      _PyRuntime, whose table of allocators
 *   _PyMem_DebugMalloc, _PyMem_ArenaAlloc,   is filled with them; the library has
 *   ... by these names                       them, and nobody reads the table
 *   those of since312.h                      sys, the end of interpreters
 *   __wrap__PyEval_InitGIL                   pylifecycle.o, through the linker's --wrap */

#include "abi.h"
#include "pycore_interp.h"
#include "pycore_runtime.h"

#ifdef TRACER_BESIDE
#  include "beside.h"
#else

/* Of its own allocator's state nothing is used: a pointer in it leads to the heap. */
#define HEAP_OF(interp) (interp)->obmalloc.mgmt.arenas
#include "since312.h"

/* Each interpreter gets its GIL, or the main one's, before it runs and after it was told
 * whether it has a heap. */
extern PyStatus __wrap__PyEval_InitGIL(PyThreadState *tstate, int own_gil);
extern PyStatus __real__PyEval_InitGIL(PyThreadState *tstate, int own_gil);

PyStatus
__wrap__PyEval_InitGIL(PyThreadState *tstate, int own_gil)
{
    if (!uses_main_heap(tstate->interp)) {
        python_has_other_heaps();
    }
    return __real__PyEval_InitGIL(tstate, own_gil);
}

struct _PyTraceMalloc_Config *
python_tracemalloc_config(void)
{
    return &_PyRuntime.tracemalloc.config;
}

int
python_trace_references(int on)
{
    (void)on;       /* the interpreter looks at the configuration itself */
    return 0;
}

#endif

#define NEWEST_FRAME(tstate) (tstate)->cframe->current_frame
#define FRAME_CODE(frame) (frame)->f_code
#define FRAME_INSTRUCTION(frame) (frame)->prev_instr
#define RECURSION_LEFT(tstate) (tstate)->py_recursion_remaining
#include "since311.h"
