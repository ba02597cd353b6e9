/* CPython's module _tracemalloc, and what else its interpreter asks of the tracer.
 *
 * Compiled by Tools/relink with the headers of the CPython that it is linked into,
 * in place of that one's own _tracemalloc.o (and, from 3.12 on, tracemalloc.o).
 * Lib/tracemalloc.py sits on top unchanged.  Frames, and how the interpreter is told
 * that it is traced, are in Python/tracer/abi/.
 *
 *   from here                                 who takes it
 *   PyInit__tracemalloc                       the table of built-in modules
 *   _PyTraceMalloc_Init, _PyTraceMalloc_Fini  start and end of the interpreter
 *   _PyTraceMalloc_NewReference               object.o at each new reference
 *   _PyTraceMalloc_GetTraceback               warnings about resources
 *   _PyTraceMalloc_Start, and all the others  3.12+: start, and its own module
 *
 * The rest of its list (PyTraceMalloc_Track and Untrack, _PyMem_DumpTraceback) is
 * what the tracer has anyway.
 *
 * With TRACER_BESIDE it is an extension module for an interpreter that keeps its own:
 * _tracerbeside.h. */

#include "../Python/tracer/abi/abi.h"
#include "../Include/internal/pycore_keepsize.h"

#include <stdlib.h>

/* Headers before 3.12 do not have these. */
extern int _PyTraceMalloc_NewReference(PyObject *op);
extern PyObject *_PyTraceMalloc_GetTraceback(unsigned int domain,
                                             uintptr_t ptr);
extern int _PyTraceMalloc_IsTracing(void);
extern void _PyTraceMalloc_ClearTraces(void);
extern PyObject *_PyTraceMalloc_GetTraces(void);
extern PyObject *_PyTraceMalloc_GetObjectTraceback(PyObject *obj);
extern void _PyTraceMalloc_Stop(void);
extern void _PyTraceMalloc_Fini(void);
extern int _PyTraceMalloc_GetTracebackLimit(void);
extern size_t _PyTraceMalloc_GetMemory(void);
extern PyObject *_PyTraceMalloc_GetTracedMemory(void);
extern void _PyTraceMalloc_ResetPeak(void);

/* -- start and stop ----------------------------------------------------------- */

#ifdef TRACER_BESIDE
#  include "_tracerbeside.h"
#else
#  include "_tracerlinked.h"
#endif

/* The source of frames, and how many places it is asked for. */
static int
start_source(const struct trace_source *source, unsigned max_places, size_t sample_bytes,
             uint64_t seed)
{
    if (tracer_start(source, max_places, sample_bytes, seed) < 0) {
        PyErr_NoMemory();
        return -1;
    }
    if (tell_the_interpreter() < 0) {
        tracer_stop();
        tell_the_interpreter_no();
        return -1;
    }
    return 0;
}

static int
start(int nframe, size_t sample_bytes, uint64_t seed, int native)
{
    if (check_the_interpreter() < 0) {
        return -1;
    }
    if (nframe < 1 || nframe > MAX_TRACE_FRAMES - (native ? MAX_NATIVE_FRAMES : 0)) {
        PyErr_Format(PyExc_ValueError,
                     "the number of frames must be in range [1; %d]",
                     MAX_TRACE_FRAMES);
        return -1;
    }
    if (tracer_is_tracing()) {
        return 0;
    }
    if (!native) {
        return start_source(&python_frames, (unsigned)nframe, sample_bytes, seed);
    }
    if (python_find_unwinder() < 0) {
        PyErr_SetString(PyExc_RuntimeError, "C functions are found by libgcc_s.so.1, which "
                        "can't be loaded here");
        return -1;
    }
    return start_source(&python_frames_with_native, (unsigned)nframe + MAX_NATIVE_FRAMES,
                        sample_bytes, seed);
}

/* Where the interpreter says no, the exception is the caller's: as in CPython. */
void
_PyTraceMalloc_Stop(void)
{
    if (tracer_is_tracing()) {
        tracer_stop();
        (void)tell_the_interpreter();
    }
}

/* -- blocks ------------------------------------------------------------------- */

/* An object begins behind what the garbage collector and the type keep of it. */
static uintptr_t
block_of_object(PyObject *op)
{
    return (uintptr_t)op - python_header_size(Py_TYPE(op));
}

int
_PyTraceMalloc_NewReference(PyObject *op)
{
    tracer_renew(block_of_object(op));
    return 0;
}

/* -- stacks as Python objects -------------------------------------------------
 * Each name, frame and stack becomes one object in a list of traces. */

struct objects {
    PyObject **names;           /* by number - 1; NULL for a single stack */
    PyObject **stacks;          /* by id; likewise */
    uint32_t nstacks;
    size_t nnames;
    PyObject *shared;           /* dict: a frame is itself */
    int with_functions;         /* a frame is (file, line, function); else without it */
};

static PyObject *
new_name_object(uint32_t number)
{
    struct trace_name name = tracer_name(number);
    return PyUnicode_FromKindAndData((int)name.kind, name.characters,
                                     (Py_ssize_t)name.length);
}

/* Into an owned reference to an equal object: the first of these in a dict.
 * (PyDict_SetDefault() of 3.13.0 loses an object when there is no memory.) */
static PyObject *
make_shared(PyObject *dict, PyObject *object)
{
    PyObject *shared = object != NULL ? PyDict_GetItemWithError(dict, object) : NULL;
    if (shared != NULL) {
        Py_INCREF(shared);
    }
    else if (object != NULL && !PyErr_Occurred()
             && PyDict_SetItem(dict, object, object) == 0)
    {
        return object;
    }
    Py_XDECREF(object);
    return shared;
}

/* Of number 0: the empty one. */
static PyObject *
name_object(struct objects *objects, uint32_t number)
{
    if (number == 0) {
        return PyUnicode_FromStringAndSize(NULL, 0);
    }
    if (objects->names == NULL) {
        return make_shared(objects->shared, new_name_object(number));
    }
    PyObject **object = &objects->names[number - 1];
    if (*object == NULL) {
        *object = new_name_object(number);
    }
    Py_XINCREF(*object);
    return *object;
}

static PyObject *
frame_object(struct objects *objects, const struct trace_frame *frame)
{
    if (frame->file == 0) {
        return make_shared(objects->shared, Py_BuildValue(
            "(sKs)", "", (unsigned long long)(uintptr_t)tracer_address(frame->line), ""));
    }
    PyObject *file = name_object(objects, frame->file), *object = NULL;
    if (file == NULL) {
        return NULL;
    }
    if (!objects->with_functions) {
        object = Py_BuildValue("(OI)", file, frame->line);
    }
    else {
        PyObject *function = name_object(objects, frame->function);
        object = function == NULL ? NULL
            : Py_BuildValue("(OIN)", file, frame->line, function);
    }
    Py_DECREF(file);
    return make_shared(objects->shared, object);
}

/* Those of Python; how many are left. */
static unsigned
without_native(struct trace_frame *frames, unsigned length)
{
    unsigned n = 0;
    for (unsigned i = 0; i < length; i++) {
        if (frames[i].file != 0) {
            frames[n++] = frames[i];
        }
    }
    return n;
}

static PyObject *
make_stack_object(struct objects *objects, stack_id id)
{
    unsigned total;
    unsigned length = tracer_stack_length(id, &total);
    struct trace_frame *frames = PyMem_RawMalloc(length * sizeof(*frames));
    if (frames == NULL) {
        return PyErr_NoMemory();
    }
    tracer_stack_frames(id, frames, length);
    if (!objects->with_functions) {
        length = without_native(frames, length);
    }
    PyObject *stack = length > 0 ? PyTuple_New(length)
        : Py_BuildValue("((si))", "<unknown>", 0);
    if (stack != NULL) {
        for (unsigned i = 0; i < length; i++) {
            PyObject *frame = frame_object(objects, &frames[i]);
            if (frame == NULL) {
                Py_CLEAR(stack);
                break;
            }
            PyTuple_SET_ITEM(stack, i, frame);
        }
    }
    PyMem_RawFree(frames);
    return stack;
}

static PyObject *
stack_object(struct objects *objects, stack_id id)
{
    if (objects->stacks[id] == NULL) {
        objects->stacks[id] = make_stack_object(objects, id);
    }
    return objects->stacks[id];
}

static int
objects_init(struct objects *objects)
{
    tracer_stack_counts(&objects->nstacks, &objects->nnames);
    objects->stacks = PyMem_RawCalloc(objects->nstacks, sizeof(PyObject *));
    objects->names = PyMem_RawCalloc(objects->nnames + 1, sizeof(PyObject *));
    objects->shared = PyDict_New();
    if (objects->stacks == NULL || objects->names == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    return objects->shared != NULL ? 0 : -1;
}

static void
objects_free(struct objects *objects)
{
    for (uint32_t i = 0; objects->stacks != NULL && i < objects->nstacks; i++) {
        Py_XDECREF(objects->stacks[i]);
    }
    for (size_t i = 0; objects->names != NULL && i < objects->nnames; i++) {
        Py_XDECREF(objects->names[i]);
    }
    PyMem_RawFree(objects->stacks);
    PyMem_RawFree(objects->names);
    Py_XDECREF(objects->shared);
}

/* What is allocated here is the caller's, and traced. */
PyObject *
_PyTraceMalloc_GetTraceback(unsigned int domain, uintptr_t ptr)
{
    struct trace trace;
    PyObject *stack = NULL;
    tracer_hold_stacks();
    if (!tracer_find(domain, ptr, &trace)) {
        Py_INCREF(Py_None);
        stack = Py_None;
    }
    else {
        struct objects objects = {.shared = PyDict_New()};
        if (objects.shared != NULL) {
            stack = make_stack_object(&objects, trace.stack);
        }
        objects_free(&objects);
    }
    tracer_let_stacks_go();
    return stack;
}

/* A trace as (domain, size, traceback, total_nframe).  Blocks of one size that
 * came to be by the same calls have equal ones: the last such object of a stack
 * is given again. */
static PyObject *
trace_object(struct objects *objects, const struct trace *trace)
{
    unsigned total;
    tracer_stack_length(trace->stack, &total);
    PyObject *stack = stack_object(objects, trace->stack);
    if (stack == NULL) {
        return NULL;
    }
#if PY_VERSION_HEX >= 0x03090000
    return Py_BuildValue("(InOI)", trace->domain, (Py_ssize_t)trace->size, stack, total);
#else
    return Py_BuildValue("(InO)", trace->domain, (Py_ssize_t)trace->size, stack);
#endif
}

struct known_trace {
    stack_id stack;
    unsigned domain;
    size_t size;
    PyObject *object;           /* borrowed from the list */
};
#define KNOWN_TRACES 4096u

static PyObject *
list_of_traces(const struct trace *traces, size_t ntraces, int with_functions)
{
    struct objects objects = {.with_functions = with_functions};
    struct known_trace *known =
        PyMem_RawCalloc(KNOWN_TRACES, sizeof(struct known_trace));
    PyObject *list = NULL;
    if (objects_init(&objects) == 0) {
        list = known != NULL ? PyList_New((Py_ssize_t)ntraces) : PyErr_NoMemory();
    }
    for (size_t i = 0; list != NULL && i < ntraces; i++) {
        const struct trace *trace = &traces[i];
        struct known_trace *same =
            &known[(trace->stack * 31u + (uint32_t)trace->size)
                   % KNOWN_TRACES];
        if (same->object != NULL && same->stack == trace->stack
            && same->size == trace->size && same->domain == trace->domain)
        {
            Py_INCREF(same->object);
        }
        else {
            PyObject *object = trace_object(&objects, trace);
            if (object == NULL) {
                Py_CLEAR(list);
                break;
            }
            *same = (struct known_trace){trace->stack, trace->domain,
                                         trace->size, object};
        }
        PyList_SET_ITEM(list, (Py_ssize_t)i, same->object);
    }
    PyMem_RawFree(known);
    objects_free(&objects);
    return list;
}

/* -- the module --------------------------------------------------------------- */

int
_PyTraceMalloc_IsTracing(void)
{
    return tracer_is_tracing();
}

static PyObject *
tracemalloc_is_tracing(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(_PyTraceMalloc_IsTracing());
}

void
_PyTraceMalloc_ClearTraces(void)
{
    tracer_clear();
}

static PyObject *
tracemalloc_clear_traces(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    _PyTraceMalloc_ClearTraces();
    Py_RETURN_NONE;
}

static PyObject *
traces_of(int (*take)(struct trace **traces, size_t *ntraces), int with_functions)
{
    if (!tracer_is_tracing()) {
        return PyList_New(0);
    }
    int before = tracer_hide();
    tracer_hold_stacks();
    struct trace *traces;
    size_t ntraces;
    PyObject *list = NULL;
    if (take(&traces, &ntraces) < 0) {
        PyErr_NoMemory();
    }
    else {
        list = list_of_traces(traces, ntraces, with_functions);
        tracer_release(traces);
    }
    tracer_let_stacks_go();
    tracer_show(before);
    return list;
}

PyObject *
_PyTraceMalloc_GetTraces(void)
{
    return traces_of(tracer_snapshot, 0);
}

static PyObject *
tracemalloc_get_traces(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    return _PyTraceMalloc_GetTraces();
}

static PyObject *
tracemalloc_get_peak_traces(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    return traces_of(tracer_peak_snapshot, 0);
}

static PyObject *
tracemalloc_get_named_peak_traces(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    return traces_of(tracer_peak_snapshot, 1);
}

static PyObject *
tracemalloc_get_named_traces(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    return traces_of(tracer_snapshot, 1);
}

PyObject *
_PyTraceMalloc_GetObjectTraceback(PyObject *obj)
{
    return _PyTraceMalloc_GetTraceback(0, block_of_object(obj));
}

static PyObject *
tracemalloc_get_object_traceback(PyObject *module, PyObject *obj)
{
    return _PyTraceMalloc_GetObjectTraceback(obj);
}

static PyObject *
tracemalloc_get_block_size(PyObject *module, PyObject *address)
{
    struct trace trace;
    uintptr_t ptr = (uintptr_t)PyLong_AsVoidPtr(address);
    if (PyErr_Occurred()) {
        return NULL;
    }
    if (!tracer_find(0, ptr, &trace)) {
        Py_RETURN_NONE;
    }
    return PyLong_FromSize_t(trace.size);
}

static PyObject *
tracemalloc_start(PyObject *module, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"", "sample_bytes", "seed", "native", "cold", "cold_end", NULL};
    int nframe = 1, native = 0;
    Py_ssize_t sample_bytes = 0;
    unsigned long long seed = 0, cold = 0, cold_end = 0;
    /* Positional as in CPython; those of ours by name, too. */
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|inKpKK:start", names, &nframe,
                                     &sample_bytes, &seed, &native, &cold, &cold_end))
    {
        return NULL;
    }
    if (sample_bytes < 0) {
        PyErr_Format(PyExc_ValueError, "sample_bytes is a number of bytes "
                     "between samples, 0 to trace all; not %zd", sample_bytes);
        return NULL;
    }
    python_cold_loop = (struct code_range){(uintptr_t)cold, (uintptr_t)cold_end};
    if (start(nframe, (size_t)sample_bytes, seed, native) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
tracemalloc_stop(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    _PyTraceMalloc_Stop();
    Py_RETURN_NONE;
}

int
_PyTraceMalloc_GetTracebackLimit(void)
{
    return tracer_is_tracing() ? (int)tracer_max_frames() : 1;
}

static PyObject *
tracemalloc_get_traceback_limit(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    return PyLong_FromLong(_PyTraceMalloc_GetTracebackLimit());
}

static PyObject *
tracemalloc_get_sample_bytes(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    return PyLong_FromSize_t(tracer_is_tracing() ? tracer_sample_bytes() : 0);
}

size_t
_PyTraceMalloc_GetMemory(void)
{
    return tracer_own_memory();
}

static PyObject *
tracemalloc_get_tracemalloc_memory(PyObject *module,
                                   PyObject *Py_UNUSED(ignored))
{
    return PyLong_FromSize_t(_PyTraceMalloc_GetMemory());
}

PyObject *
_PyTraceMalloc_GetTracedMemory(void)
{
    size_t current = 0, peak = 0;
    if (tracer_is_tracing()) {
        tracer_memory(&current, &peak);
    }
    return Py_BuildValue("nn", (Py_ssize_t)current, (Py_ssize_t)peak);
}

static PyObject *
tracemalloc_get_traced_memory(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    return _PyTraceMalloc_GetTracedMemory();
}

void
_PyTraceMalloc_ResetPeak(void)
{
    if (tracer_is_tracing()) {
        tracer_reset_peak();
    }
}

static PyObject *
tracemalloc_reset_peak(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    _PyTraceMalloc_ResetPeak();
    Py_RETURN_NONE;
}

static PyObject *
tracemalloc_keep_peak(PyObject *module, PyObject *from)
{
    size_t nbytes = PyLong_AsSize_t(from);
    if (nbytes == (size_t)-1 && PyErr_Occurred()) {
        return NULL;
    }
    if (tracer_is_tracing()) {
        tracer_keep_peak(nbytes);
    }
    Py_RETURN_NONE;
}

/* Signatures are CPython's: two arguments of start() more than they tell. */

PyDoc_STRVAR(is_tracing_doc, "is_tracing($module, /)\n--\n\n"
"True while allocations of Python's memory are traced, else False.");

PyDoc_STRVAR(clear_traces_doc, "clear_traces($module, /)\n--\n\n"
"Forget every trace; tracing goes on.");

PyDoc_STRVAR(get_traces_doc, "_get_traces($module, /)\n--\n\n"
"A list of all traces, empty while nothing is traced.\n"
"\n"
"Each is a tuple (domain: int, size: int, traceback, total_nframe: int); a\n"
"traceback is a tuple of (filename: str, lineno: int), the most recent first.");

PyDoc_STRVAR(get_named_peak_traces_doc, "_get_named_peak_traces($module, /)\n--\n\n"
"The same as _get_peak_traces(), with tracebacks as _get_named_traces() has them.");

PyDoc_STRVAR(get_named_traces_doc, "_get_named_traces($module, /)\n--\n\n"
"The same as _get_traces(), with tracebacks of (filename, lineno, name of the function).\n"
"\n"
"A C function is (\"\", address, \"\"): one of the instructions that call the next one.");

PyDoc_STRVAR(get_object_traceback_doc,
"_get_object_traceback($module, obj, /)\n--\n\n"
"The traceback of the allocation of obj: a tuple of (filename: str, lineno: int).\n"
"\n"
"None where nothing is traced, or that allocation was not.");

PyDoc_STRVAR(get_block_size_doc, "_get_block_size($module, address, /)\n--\n\n"
"How many bytes were asked for the block at an address; None if it has no trace.");

PyDoc_STRVAR(start_doc, "start($module, nframe=1, /)\n--\n\n"
"Trace what Python allocates from now on.\n"
"\n"
"A traceback has nframe frames at most.  Further arguments are pymem's own.\n"
"sample_bytes: trace a sample for each so many bytes on average, and give estimates\n"
"for sizes; 0 traces all.  seed: a number that makes these samples the same again.\n"
"native: also the C functions that were called, which _get_named_traces() gives.\n"
"cold, cold_end: the addresses of what the compiler has split off from\n"
"_PyEval_EvalFrameDefault().");

PyDoc_STRVAR(stop_doc, "stop($module, /)\n--\n\n"
"Trace no more, and forget every trace.");

PyDoc_STRVAR(get_traceback_limit_doc, "get_traceback_limit($module, /)\n--\n\n"
"How many frames a traceback has at most: the argument of start().\n"
"\n"
"It is 1, the most recent frame, if that had none.");

PyDoc_STRVAR(get_sample_bytes_doc, "get_sample_bytes($module, /)\n--\n\n"
"The mean number of bytes between samples; 0 while all is traced, or nothing.");

PyDoc_STRVAR(get_tracemalloc_memory_doc,
"get_tracemalloc_memory($module, /)\n--\n\n"
"How many bytes the tracer itself uses for traces.");

PyDoc_STRVAR(get_traced_memory_doc, "get_traced_memory($module, /)\n--\n\n"
"The bytes in traced blocks, now and at the peak: (current: int, peak: int).\n"
"\n"
"Both are estimates while samples are traced.");

PyDoc_STRVAR(reset_peak_doc, "reset_peak($module, /)\n--\n\n"
"Let the peak begin anew, at what is traced now; nothing happens while\n"
"nothing is traced.");

PyDoc_STRVAR(get_peak_traces_doc, "_get_peak_traces($module, /)\n--\n\n"
"The list of all traces near the peak, as far as _keep_peak() has them kept.");

PyDoc_STRVAR(keep_peak_doc, "_keep_peak($module, from_bytes, /)\n--\n\n"
"Let the peak begin anew, and keep all traces of a moment at which at most a\n"
"sixteenth is missing to it, once it is that many bytes.");

static PyMethodDef module_methods[] = {
    {"is_tracing", tracemalloc_is_tracing, METH_NOARGS, is_tracing_doc},
    {"clear_traces", tracemalloc_clear_traces, METH_NOARGS, clear_traces_doc},
    {"_get_traces", tracemalloc_get_traces, METH_NOARGS, get_traces_doc},
    {"_get_named_traces", tracemalloc_get_named_traces, METH_NOARGS, get_named_traces_doc},
    {"_get_named_peak_traces", tracemalloc_get_named_peak_traces, METH_NOARGS,
     get_named_peak_traces_doc},
    {"_get_object_traceback", tracemalloc_get_object_traceback, METH_O,
     get_object_traceback_doc},
    {"_get_block_size", tracemalloc_get_block_size, METH_O, get_block_size_doc},
    {"start", (PyCFunction)(void (*)(void))tracemalloc_start,
     METH_VARARGS | METH_KEYWORDS, start_doc},
    {"stop", tracemalloc_stop, METH_NOARGS, stop_doc},
    {"get_traceback_limit", tracemalloc_get_traceback_limit, METH_NOARGS,
     get_traceback_limit_doc},
    {"get_sample_bytes", tracemalloc_get_sample_bytes, METH_NOARGS,
     get_sample_bytes_doc},
    {"get_tracemalloc_memory", tracemalloc_get_tracemalloc_memory, METH_NOARGS,
     get_tracemalloc_memory_doc},
    {"get_traced_memory", tracemalloc_get_traced_memory, METH_NOARGS,
     get_traced_memory_doc},
    {"reset_peak", tracemalloc_reset_peak, METH_NOARGS, reset_peak_doc},
    {"_keep_peak", tracemalloc_keep_peak, METH_O, keep_peak_doc},
    {"_get_peak_traces", tracemalloc_get_peak_traces, METH_NOARGS, get_peak_traces_doc},
    MORE_METHODS
    {NULL, NULL, 0, NULL}
};

PyDoc_STRVAR(module_doc, "Which blocks of Python's memory are alive, and where they "
             "come from: what the module tracemalloc is made of.");

static struct PyModuleDef module_def = {
    PyModuleDef_HEAD_INIT,
    .m_name = MODULE_NAME,
    .m_doc = module_doc,
    .m_methods = module_methods,
    .m_slots = MODULE_SLOTS,
};
