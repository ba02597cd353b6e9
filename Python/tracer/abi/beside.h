/* For a tracer that is an extension module beside the interpreter's tracer
 * (pymem._pymemtracer): it is told of new objects, and nothing else of the interpreter's is
 * replaced.
 *
 * Up to 3.12 an interpreter tells its own tracer only.  There an object that comes from a
 * free list has the traceback of its block's last allocation. */

#if PY_VERSION_HEX >= 0x030D0000
#  include "pycore_interp.h"

extern int _PyTraceMalloc_NewReference(PyObject *op);

static int
trace_reference(PyObject *op, PyRefTracerEvent event, void *data)
{
    (void)data;
    return event == PyRefTracer_CREATE ? _PyTraceMalloc_NewReference(op) : 0;
}

/* Whoever has set a reference tracer keeps it. */
int
python_trace_references(int on)
{
    void *data;
    PyRefTracer now = PyRefTracer_GetTracer(&data);
    if (on) {
        return now == NULL ? PyRefTracer_SetTracer(trace_reference, NULL) : 0;
    }
    return now == trace_reference ? PyRefTracer_SetTracer(NULL, NULL) : 0;
}

#else

int
python_trace_references(int on)
{
    (void)on;
    return 0;
}

#endif
