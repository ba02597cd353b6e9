/* CPython 3.10: what it takes beside the API, and its frames.
 *
 *   symbol                    who reads it
 *   that of before312.h       object.o
 *
 * What our library asks of its host is there but for Py_GETENV(), which is a macro
 * in 3.10. */

#include "abi.h"
#include "frameobject.h"
#include "pycore_gc.h"

#include <stdlib.h>

#undef Py_GETENV
extern char *Py_GETENV(const char *name);

char *
Py_GETENV(const char *name)
{
    return Py_IgnoreEnvironmentFlag ? NULL : getenv(name);
}

#include "before312.h"

size_t
python_header_size(PyTypeObject *type)
{
    return PyType_IS_GC(type) ? sizeof(PyGC_Head) : 0;
}

typedef PyFrameObject frame_type;

static frame_type *
newest_frame(PyThreadState *tstate)
{
    return tstate->frame;
}

static frame_type *
caller_of(frame_type *frame)
{
    return frame->f_back;
}

static int
frame_has_begun(frame_type *frame)
{
    (void)frame;
    return 1;
}

static PyCodeObject *
frame_code(frame_type *frame)
{
    return frame->f_code;
}

/* Codes may share the bytes that their instructions lie in, so the address of an
 * instruction does not tell where it is.  Instead: the address of the code, which
 * ends with four bits of 0, followed by the number of the instruction in 20 bits.
 * What is behind the millionth counts as one. */
#define NUMBER_BITS 20
#define NUMBER_MASK (((uintptr_t)1 << NUMBER_BITS) - 1)

static const void *
frame_instruction(frame_type *frame)
{
    uintptr_t number = (uintptr_t)(frame->f_lasti + 1);     /* -1: none yet */
    return (void *)(((uintptr_t)frame->f_code << (NUMBER_BITS - 4))
                    | (number < NUMBER_MASK ? number : NUMBER_MASK));
}

static int
instruction_offset(const struct trace_place *place)
{
    return ((int)((uintptr_t)place->instruction & NUMBER_MASK) - 1)
        * (int)sizeof(_Py_CODEUNIT);
}

static int
recursion_left(PyThreadState *tstate)
{
    return -tstate->recursion_depth;
}

#include "frames.h"
