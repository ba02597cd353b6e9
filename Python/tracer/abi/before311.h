/* CPythons before 3.11 have this in common: frames are objects.  The file that includes
 * this says
 *
 *   BYTES_OF_LASTI    how many bytes of instructions one step of f_lasti is */

#include "frameobject.h"

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

static int
frame_is_entry(frame_type *frame)
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
 * All frames behind the millionth count as one. */
#define NUMBER_BITS 20
#define NUMBER_MASK (((uintptr_t)1 << NUMBER_BITS) - 1)
#define STEPS_OF_INSTRUCTION ((int)sizeof(_Py_CODEUNIT) / BYTES_OF_LASTI)

static const void *
frame_instruction(frame_type *frame)
{
    /* f_lasti is -1 before the first */
    uintptr_t number = (uintptr_t)((frame->f_lasti + STEPS_OF_INSTRUCTION)
                                   / STEPS_OF_INSTRUCTION);
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

static PyObject *
function_name(PyCodeObject *code)
{
    return code->co_name;
}

#include "frames.h"
