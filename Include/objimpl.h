/* The object domain: PyObject_Malloc and friends.
 *
 * The memory of objects.  Same rules as PyMem_* (see pymem.h); call with the
 * GIL held. */

#ifndef Py_OBJIMPL_H
#define Py_OBJIMPL_H

#include "pyport.h"

#ifdef __cplusplus
extern "C" {
#endif

PyAPI_FUNC(void *) PyObject_Malloc(size_t size);
PyAPI_FUNC(void *) PyObject_Calloc(size_t nelem, size_t elsize); /* since 3.5 */
PyAPI_FUNC(void *) PyObject_Realloc(void *ptr, size_t new_size);
PyAPI_FUNC(void) PyObject_Free(void *ptr);

/* Old names: aliases, deprecated in CPython and kept by it. */
#define PyObject_MALLOC  PyObject_Malloc
#define PyObject_REALLOC PyObject_Realloc
#define PyObject_FREE    PyObject_Free
#define PyObject_Del     PyObject_Free
#define PyObject_DEL     PyObject_Free

#ifdef __cplusplus
}
#endif

#include "cpython/objimpl.h"

#endif /* !Py_OBJIMPL_H */
