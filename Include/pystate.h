/* The GIL of a program without an interpreter: one lock that a thread may
 * take again while it holds it.
 *
 * Until a program first calls PyGILState_Ensure() every thread counts as
 * holding it, so a single-threaded program need not know of it. */

#ifndef Py_PYSTATE_H
#define Py_PYSTATE_H

#include "pyport.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum { PyGILState_LOCKED, PyGILState_UNLOCKED } PyGILState_STATE;

/* Take the GIL; blocks while another thread holds it.  Returns whether this
 * thread held it already, for PyGILState_Release().
 *
 * In the child of a fork() nobody holds it but the thread that forked, if it did.
 * A thread that forks without the GIL may do so in the middle of a call of another
 * one: as in CPython, fork with it where the child is to allocate. */
PyAPI_FUNC(PyGILState_STATE) PyGILState_Ensure(void);

/* Undo one PyGILState_Ensure() of this thread. */
PyAPI_FUNC(void) PyGILState_Release(PyGILState_STATE state);

/* 1 if this thread holds the GIL, or nobody ever took it; else 0. */
PyAPI_FUNC(int) PyGILState_Check(void);

#ifdef __cplusplus
}
#endif

#endif /* !Py_PYSTATE_H */
