/* CPython 3.11: what it takes beside the API, and its frames.
 *
 *   symbol                    who reads it
 *   _Py_tracemalloc_config    object.o at each new reference
 *
 * The rest of its list (_Py_GetAllocatedBlocks, _PyObject_VirtualAlloc, ...) is
 * what the library has anyway. */

#include "abi.h"

struct _PyTraceMalloc_Config _Py_tracemalloc_config = {.max_nframe = 1};

struct _PyTraceMalloc_Config *
python_tracemalloc_config(void)
{
    return &_Py_tracemalloc_config;
}

void
python_trace_references(int on)
{
    (void)on;       /* the interpreter looks at the configuration itself */
}

#define NEWEST_FRAME(tstate) (tstate)->cframe->current_frame
#define FRAME_CODE(frame) (frame)->f_code
#define FRAME_INSTRUCTION(frame) (frame)->prev_instr
#define RECURSION_LEFT(tstate) (tstate)->recursion_remaining
#include "since311.h"
