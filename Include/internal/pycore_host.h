/* The host: what the memory subsystem asks of the program around it.
 *
 * Five functions, by the names CPython gives them.  Linked into a CPython they
 * are CPython's own; in the standalone library they are in Python/host/host.c.  And one
 * that no CPython has: Python/tracer/abi/ has it for those, Python/install/install.c for pymem-run.
 * Nothing else is called upward. */

#ifndef Py_INTERNAL_HOST_H
#define Py_INTERNAL_HOST_H

#include "pyport.h"

/* 1 if the calling thread may use the mem and object domains. */
PyAPI_FUNC(int) PyGILState_Check(void);

/* 1 if the calling thread holds the GIL of its interpreter, so that it owns a heap of
 * small blocks.  PyGILState_Check() says 1 to all where an interpreter other than the
 * main one was made; this says 0 where it can't know. */
int _PyMem_HoldsGIL(void);

/* An environment variable; NULL where it is not set or the environment is ignored (python
 * -E). */
PyAPI_FUNC(char *) Py_GETENV(const char *name);

/* snprintf that always ends the string. */
PyAPI_FUNC(int) PyOS_snprintf(char *str, size_t size, const char *format, ...);

/* Say what went wrong, in which function, and end the program. */
PyAPI_FUNC(void) _Py_NO_RETURN _Py_FatalErrorFunc(const char *func,
                                                  const char *message);
PyAPI_FUNC(void) _Py_NO_RETURN _Py_FatalErrorFormat(const char *func,
                                                    const char *format, ...);

#endif /* !Py_INTERNAL_HOST_H */
