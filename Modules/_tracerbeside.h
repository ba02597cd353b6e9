/* The tracer as an extension module, _pymemtracer, beside the interpreter's own: which
 * interpreters it takes, and how it ends with them.  Part of Modules/_tracemalloc.c.
 *
 * It knows frames as the headers tell that it was compiled with.  They are the same in
 * all final releases of a version 3.N. */

#ifdef Py_GIL_DISABLED
#  error "a free-threaded CPython: its tracer needs the GIL"
#endif

#include "_tracerlinks.h"

#define MODULE_NAME "_pymemtracer"

static int
tell_the_interpreter(void)
{
    tracer_link_others(tracer_is_tracing());
    /* Estimates are of blocks: an object of a free list has its block's traceback. */
    return python_trace_references(tracer_is_tracing() && tracer_sample_bytes() == 0);
}

static void
tell_the_interpreter_no(void)
{
    tracer_link_others(0);
    (void)python_trace_references(0);
}

/* After the last object, and before the interpreter's allocators are gone. */
static void
stop_at_end(void)
{
    tracer_stop();
}

static int
other_tracer_is_on(void)
{
    PyObject *module = PyImport_ImportModule("_tracemalloc");
    PyObject *answer = module != NULL
        ? PyObject_CallMethod(module, "is_tracing", NULL) : NULL;
    int is_on = answer != NULL ? PyObject_IsTrue(answer) : -1;
    Py_XDECREF(answer);
    Py_XDECREF(module);
    return is_on;
}

static int
check_the_interpreter(void)
{
    static int ends_with_the_interpreter;
    int is_on = other_tracer_is_on();
    if (is_on < 0) {
        return -1;
    }
    if (is_on) {
        PyErr_SetString(PyExc_RuntimeError, "the interpreter's own tracemalloc is tracing; "
                        "one of the two at a time: tracemalloc.stop() first");
        return -1;
    }
    if (!ends_with_the_interpreter && Py_AtExit(stop_at_end) < 0) {
        PyErr_SetString(PyExc_RuntimeError, "no function can be called any more at the "
                        "end of the interpreter (Py_AtExit), which tracing needs");
        return -1;
    }
    ends_with_the_interpreter = 1;
    return 0;
}

/* The interpreter must be one whose frames are known. */
static int
module_exec(PyObject *module)
{
    (void)module;
    PyObject *hexversion = PySys_GetObject("hexversion");
    unsigned long version = hexversion != NULL ? PyLong_AsUnsignedLong(hexversion) : 0;
    unsigned long level = version >> 4 & 0xF;
    int is_final = level == 0xF && (PY_VERSION_HEX >> 4 & 0xF) == 0xF;
    if (is_final ? version >> 16 == PY_VERSION_HEX >> 16 : version == PY_VERSION_HEX) {
        return 0;
    }
    PyErr_Format(PyExc_ImportError, "this tracer was built for CPython %s, and this is "
                 "%.20s: it does not know these frames; build pymem with this Python "
                 "(pip install)", PY_VERSION, Py_GetVersion());
    return -1;
}

/* An extension module was loaded, which may report its blocks. */
static PyObject *
tracemalloc_link_others(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    if (tracer_is_tracing()) {
        tracer_link_others(1);
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(link_others_doc, "_link_others($module, /)\n--\n\n"
"Let blocks that modules report, which were loaded since start(), be traced.");

#define MORE_METHODS \
    {"_link_others", tracemalloc_link_others, METH_NOARGS, link_others_doc},

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
#if PY_VERSION_HEX >= 0x030C0000
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
    {0, NULL}
};
#define MODULE_SLOTS module_slots

static struct PyModuleDef module_def;
PyMODINIT_FUNC
PyInit__pymemtracer(void)
{
    return PyModuleDef_Init(&module_def);
}
