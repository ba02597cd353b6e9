/* The error of a thread without an interpreter: an exception type and a text.
 *
 * Only in the standalone library: a CPython has its own.  Calls nothing below. */

#include "pyerrors.h"

#include <stdarg.h>
#include <stdio.h>

static _Thread_local struct {
    PyObject *type;         /* NULL: no error is set */
    char text[512];
} error;

/* Exception types.  Nobody makes objects of them, so they are only names with a
 * base. */
#define EXCEPTION(name, base)                                               \
    static PyTypeObject name##_type = {                                     \
        PyVarObject_HEAD_INIT(&PyType_Type, 0)                              \
        .tp_name = #name, .tp_basicsize = sizeof(PyObject),                 \
        .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,               \
        .tp_base = (base),                                                  \
    };                                                                      \
    PyObject *PyExc_##name = (PyObject *)&name##_type;

EXCEPTION(BaseException, &PyBaseObject_Type)
EXCEPTION(Exception, &BaseException_type)
EXCEPTION(ArithmeticError, &Exception_type)
EXCEPTION(LookupError, &Exception_type)
EXCEPTION(BufferError, &Exception_type)
EXCEPTION(IndexError, &LookupError_type)
EXCEPTION(KeyError, &LookupError_type)
EXCEPTION(MemoryError, &Exception_type)
EXCEPTION(OSError, &Exception_type)
EXCEPTION(OverflowError, &ArithmeticError_type)
EXCEPTION(RuntimeError, &Exception_type)
EXCEPTION(SystemError, &Exception_type)
EXCEPTION(TypeError, &Exception_type)
EXCEPTION(ValueError, &Exception_type)

void
PyErr_SetNone(PyObject *exception)
{
    error.type = exception;
    error.text[0] = '\0';
}

void
PyErr_SetString(PyObject *exception, const char *message)
{
    PyErr_Format(exception, "%s", message);
}

PyObject *
PyErr_Format(PyObject *exception, const char *format, ...)
{
    /* The text may be an argument: _PyErr_Text() of the error before. */
    char text[sizeof(error.text)];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    error.type = exception;
    snprintf(error.text, sizeof(error.text), "%s", text);
    return NULL;
}

PyObject *
PyErr_NoMemory(void)
{
    PyErr_SetNone(PyExc_MemoryError);
    return NULL;
}

int
PyErr_BadArgument(void)
{
    PyErr_SetString(PyExc_TypeError, "bad argument type for built-in operation");
    return 0;
}

void
_PyErr_BadInternalCall(const char *file, int line)
{
    PyErr_Format(PyExc_SystemError, "%s:%d: bad argument to internal function",
                 file, line);
}

PyObject *
PyErr_Occurred(void)
{
    return error.type;
}

int
PyErr_GivenExceptionMatches(PyObject *given, PyObject *exception)
{
    return given != NULL && exception != NULL
        && PyType_IsSubtype((PyTypeObject *)given, (PyTypeObject *)exception);
}

int
PyErr_ExceptionMatches(PyObject *exception)
{
    return PyErr_GivenExceptionMatches(error.type, exception);
}

void
PyErr_Clear(void)
{
    error.type = NULL;
}

const char *
_PyErr_Text(void)
{
    return error.type != NULL ? error.text : NULL;
}

void
PyErr_Print(void)
{
    if (error.type != NULL) {
        fprintf(stderr, "%s%s%s\n", ((PyTypeObject *)error.type)->tp_name,
                error.text[0] != '\0' ? ": " : "", error.text);
        PyErr_Clear();
    }
}
