/* The walk over the frames of the calling thread, the same for all CPythons, so
 * that nobody changes them meanwhile, with the GIL or without.
 *
 * The file that includes this says before what a frame is:
 *
 *   frame_type                     the type
 *   newest_frame(tstate)           the frame that runs, or NULL
 *   caller_of(frame)               the next one, or NULL
 *   frame_has_begun(frame)         does it have a line?
 *   frame_is_entry(frame)          did a call of the interpreter's loop begin with it?
 *   frame_code(frame)              its PyCodeObject
 *   frame_instruction(frame)       what no other instruction of any code has
 *   instruction_offset(place)      the bytes before it in its code
 *   function_name(code)            a str
 *   recursion_left(tstate)         a number that tells the depths of calls apart
 *   NAMES_ARE_UTF8                 see abi.h */

#include <pthread.h>

#ifndef NAMES_ARE_UTF8
#  define NAMES_ARE_UTF8 0
#endif

static frame_type *
first_frame_that_has_begun(frame_type *frame)
{
    while (frame != NULL && !frame_has_begun(frame)) {
        frame = caller_of(frame);
    }
    return frame;
}

static frame_type *
current_frame(PyThreadState *tstate)
{
    return tstate != NULL ? first_frame_that_has_begun(newest_frame(tstate)) : NULL;
}

/* The state of the calling thread.  The one that holds the GIL is at hand; but
 * an extension may break the rule that it should be this one's. */
static PyThreadState *
thread_state(int has_gil)
{
    PyThreadState *tstate = has_gil ? _PyThreadState_GET() : NULL;
    if (tstate == NULL
        || tstate->thread_id != (unsigned long)pthread_self())
    {
        tstate = PyGILState_GetThisThreadState();
    }
    return tstate;
}

static void
position(struct trace_position *where)
{
    frame_type *frame = current_frame(thread_state(1));
    where->frame = frame;
    where->instruction = frame != NULL ? frame_instruction(frame) : NULL;
}

/* How many frames there are from one on.  Counting follows a chain of pointers;
 * but the same frame above the same one at the same depth of calls has as many
 * below it as the last time. */
static unsigned
count_frames(PyThreadState *tstate, frame_type *frame)
{
    static struct known_depth {
        PyThreadState *tstate;
        frame_type *frame, *caller;
        int recursion_left;
        unsigned count;
    } known_depths[64];
    struct known_depth *known = &known_depths[((uintptr_t)frame >> 4) % 64];
    if (known->frame == frame && known->caller == caller_of(frame)
        && known->tstate == tstate
        && known->recursion_left == recursion_left(tstate))
    {
        return known->count;
    }
    unsigned count = 0;
    for (frame_type *f = frame; f != NULL;
         f = first_frame_that_has_begun(caller_of(f)))
    {
        count++;
    }
    *known = (struct known_depth){tstate, frame, caller_of(frame),
                                  recursion_left(tstate), count};
    return count;
}

static unsigned
capture(struct trace_place *places, unsigned max_places, unsigned *total,
        int has_gil)
{
    PyThreadState *tstate = thread_state(has_gil);
    frame_type *frame = current_frame(tstate);
    unsigned n = 0;
    while (frame != NULL && n < max_places) {
        places[n].instruction = frame_instruction(frame);
        places[n].code = frame_code(frame);
        n++;
        if (n < max_places) {
            frame = first_frame_that_has_begun(caller_of(frame));
        }
    }
    *total = frame != NULL ? n - 1 + count_frames(tstate, frame) : n;
    return n;
}

/* How many characters of a str are before its first NUL. */
static size_t
length_before_nul(PyObject *name)
{
    size_t length = (size_t)PyUnicode_GET_LENGTH(name), i = 0;
    while (i < length && PyUnicode_READ_CHAR(name, (Py_ssize_t)i) != 0) {
        i++;
    }
    return i;
}

static struct trace_name
name_of(PyObject *text)
{
    if (text == NULL || !PyUnicode_Check(text) || !PyUnicode_IS_READY(text)) {
        return (struct trace_name){"<unknown>", 9, 1};
    }
    size_t length = NAMES_ARE_UTF8 ? length_before_nul(text)
        : (size_t)PyUnicode_GET_LENGTH(text);
    return (struct trace_name){PyUnicode_DATA(text), length, PyUnicode_KIND(text)};
}

static void
describe(const struct trace_place *place, struct trace_name *file,
         unsigned *line)
{
    PyCodeObject *code = (PyCodeObject *)place->code;
    int number = PyCode_Addr2Line(code, instruction_offset(place));
    *line = number > 0 ? (unsigned)number : 0;
    *file = name_of(code->co_filename);
}

static void
name_function(const struct trace_place *place, struct trace_name *name)
{
    *name = name_of(function_name((PyCodeObject *)place->code));
}

const struct trace_source python_frames = {
    .position = position,
    .capture = capture,
    .describe = describe,
    .name_function = name_function,
    .names_are_utf8 = NAMES_ARE_UTF8,
};

#include "nativestack.h"
