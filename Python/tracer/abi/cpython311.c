/* CPython 3.11: what it takes beside the API, and its frames.
 *
 *   symbol                    who reads it
 *   that of before312.h       object.o
 *
 * The rest of its list (_Py_GetAllocatedBlocks, _PyObject_VirtualAlloc, ...) is
 * what the library has anyway. */

#include "abi.h"

#ifdef TRACER_BESIDE
#  include "beside.h"
#else
#  include "before312.h"
#endif

#define NEWEST_FRAME(tstate) (tstate)->cframe->current_frame
#define FRAME_CODE(frame) (frame)->f_code
#define FRAME_INSTRUCTION(frame) (frame)->prev_instr
#define RECURSION_LEFT(tstate) (tstate)->recursion_remaining
#define FRAME_IS_ENTRY(frame) (frame)->is_entry
#include "since311.h"
