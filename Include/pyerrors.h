/* Errors: the one that a thread has set, and the end of a program that can't go on.
 *
 * Without an interpreter an error is an exception type and a text, kept for each
 * thread.  A function that fails sets an error and returns NULL or -1.  Its caller looks
 * with PyErr_Occurred() and clears with PyErr_Clear().  Nothing here allocates, and
 * nothing needs the GIL.  The behaviour is that of all CPython 3 where it is not said
 * otherwise. */

#ifndef Py_PYERRORS_H
#define Py_PYERRORS_H

#include "pyport.h"
#include "object.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Write "Fatal Python error: <function>: <message>" to stderr and abort.  The
 * macro names the calling function, as CPython's does since 3.9. */
PyAPI_FUNC(void) _Py_NO_RETURN _Py_FatalErrorFunc(const char *func,
                                                  const char *message);
PyAPI_FUNC(void) _Py_NO_RETURN _Py_FatalErrorFormat(const char *func,
                                                    const char *format, ...);

#define Py_FatalError(message) _Py_FatalErrorFunc(__func__, (message))

/* Exception types.  Immortal; each has those above it as bases:
 *
 *   BaseException > Exception > MemoryError, TypeError, ValueError, SystemError,
 *                               RuntimeError, OSError, BufferError
 *                               LookupError > IndexError, KeyError
 *                               ArithmeticError > OverflowError */
PyAPI_DATA(PyObject *) PyExc_BaseException;
PyAPI_DATA(PyObject *) PyExc_Exception;
PyAPI_DATA(PyObject *) PyExc_ArithmeticError;
PyAPI_DATA(PyObject *) PyExc_LookupError;
PyAPI_DATA(PyObject *) PyExc_BufferError;
PyAPI_DATA(PyObject *) PyExc_IndexError;
PyAPI_DATA(PyObject *) PyExc_KeyError;
PyAPI_DATA(PyObject *) PyExc_MemoryError;
PyAPI_DATA(PyObject *) PyExc_OSError;
PyAPI_DATA(PyObject *) PyExc_OverflowError;
PyAPI_DATA(PyObject *) PyExc_RuntimeError;
PyAPI_DATA(PyObject *) PyExc_SystemError;
PyAPI_DATA(PyObject *) PyExc_TypeError;
PyAPI_DATA(PyObject *) PyExc_ValueError;

/* Set MemoryError, without a text.  Returns NULL. */
PyAPI_FUNC(PyObject *) PyErr_NoMemory(void);

/* Set an error with a text, or without one.  An older one is forgotten.  Texts of
 * more than 511 bytes are cut. */
PyAPI_FUNC(void) PyErr_SetString(PyObject *exception, const char *message);
PyAPI_FUNC(void) PyErr_SetNone(PyObject *exception);

/* The same with a format: printf's; CPython's %R, %S, %A, %U and %V, which need
 * objects, are not known.  Returns NULL. */
PyAPI_FUNC(PyObject *) PyErr_Format(PyObject *exception, const char *format, ...)
#if defined(__GNUC__)
    __attribute__((format(printf, 2, 3)))
#endif
    ;

/* TypeError "bad argument type for built-in operation"; 0. */
PyAPI_FUNC(int) PyErr_BadArgument(void);

/* SystemError that names the file and line of a call that should not be. */
PyAPI_FUNC(void) _PyErr_BadInternalCall(const char *file, int line);
#define PyErr_BadInternalCall() _PyErr_BadInternalCall(__FILE__, __LINE__)

/* The exception type that this thread has set, a borrowed reference; or NULL. */
PyAPI_FUNC(PyObject *) PyErr_Occurred(void);

/* Is that one, or the one given, of this type or of one below it? */
PyAPI_FUNC(int) PyErr_ExceptionMatches(PyObject *exception);
PyAPI_FUNC(int) PyErr_GivenExceptionMatches(PyObject *given, PyObject *exception);

PyAPI_FUNC(void) PyErr_Clear(void);

/* Write "Type: text" to stderr and clear it; nothing where there is none.  (CPython
 * ends with a fatal error then.) */
PyAPI_FUNC(void) PyErr_Print(void);

/* The text of the error that is set, "" without one; NULL where there is no error.
 * Good until the thread's next error.  pymem's own: in CPython it is an object's. */
PyAPI_FUNC(const char *) _PyErr_Text(void);

#ifdef __cplusplus
}
#endif

#endif /* !Py_PYERRORS_H */
