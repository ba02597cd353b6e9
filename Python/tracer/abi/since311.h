/* CPythons from 3.11 on have this in common: frames are structures on a separate stack, with
 * the instructions inside the code object.  The file that includes this says where its version
 * keeps things:
 *
 *   NEWEST_FRAME(tstate)    FRAME_CODE(frame)
 *   RECURSION_LEFT(tstate)  FRAME_INSTRUCTION(frame)
 *
 * and 3.11 also FRAME_IS_ENTRY(frame).  Later, what is below such a frame is one of C. */

#include "pycore_frame.h"

size_t
python_header_size(PyTypeObject *type)
{
    return _PyType_PreHeaderSize(type);
}

#ifndef FRAME_IS_ENTRY
#  define FRAME_IS_ENTRY(frame) \
    ((frame)->previous != NULL && (frame)->previous->owner > FRAME_OWNED_BY_FRAME_OBJECT)
#endif

typedef _PyInterpreterFrame frame_type;

static frame_type *
newest_frame(PyThreadState *tstate)
{
    return NEWEST_FRAME(tstate);
}

static frame_type *
caller_of(frame_type *frame)
{
    return frame->previous;
}

static int
frame_has_begun(frame_type *frame)
{
    return !_PyFrame_IsIncomplete(frame);
}

static int
frame_is_entry(frame_type *frame)
{
    return FRAME_IS_ENTRY(frame);
}

static PyCodeObject *
frame_code(frame_type *frame)
{
    return FRAME_CODE(frame);
}

static const void *
frame_instruction(frame_type *frame)
{
    return FRAME_INSTRUCTION(frame);
}

static int
instruction_offset(const struct trace_place *place)
{
    PyCodeObject *code = (PyCodeObject *)place->code;
    return (int)((const char *)place->instruction - code->co_code_adaptive);
}

static int
recursion_left(PyThreadState *tstate)
{
    return RECURSION_LEFT(tstate);
}

static PyObject *
function_name(PyCodeObject *code)
{
    return code->co_qualname;
}

#include "frames.h"
