/* The end of a program that can't go on. */

#ifndef Py_PYERRORS_H
#define Py_PYERRORS_H

#include "pyport.h"

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

#ifdef __cplusplus
}
#endif

#endif /* !Py_PYERRORS_H */
