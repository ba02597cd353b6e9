/* The raw and the mem domain: PyMem_Raw* and PyMem_*.
 *
 * Rules that hold for all three families (PyObject_* is in objimpl.h).
 * Sizes are in bytes.  The behaviour is that of CPython 3.6 to 3.14 unless a
 * function says otherwise.
 *
 * alignment  16 bytes on 64-bit platforms (8 before CPython 3.7), 8 on 32-bit.
 * zero       0 bytes are asked for as 1: the result is a block like others, has an
 *            address that no other block has, and must be freed.
 * contents   malloc leaves the memory uninitialised, calloc zeroes it.
 *            realloc keeps the first min(old, new) bytes.
 * errors     NULL when there is no memory, or when the request passes
 *            PY_SSIZE_T_MAX (no allocator is asked then).  No exception is
 *            set.  A failed realloc leaves the block valid and unchanged.
 * NULL       realloc(NULL, n) is malloc(n); free(NULL) does nothing;
 *            realloc(p, 0) resizes the block, it never frees it.
 * families   a block goes back through the family it came from.  The debug
 *            hooks end the program when one does not. */

#ifndef Py_PYMEM_H
#define Py_PYMEM_H

#include "pyport.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The mem domain.  Buffers that belong to objects: call with the GIL held.
 * Small requests are served by pymalloc (since CPython 3.6), others by the
 * raw domain.  Those work without the GIL, too, as they do in CPython, while
 * the domain is not hooked. */
PyAPI_FUNC(void *) PyMem_Malloc(size_t size);
PyAPI_FUNC(void *) PyMem_Calloc(size_t nelem, size_t elsize); /* since 3.5 */
PyAPI_FUNC(void *) PyMem_Realloc(void *ptr, size_t new_size);
PyAPI_FUNC(void) PyMem_Free(void *ptr);

/* The bytes of n objects; more than any request may have (and gets) where the
 * product passes PY_SSIZE_T_MAX. */
static inline size_t
_PyMem_BytesOf(size_t n, size_t size)
{
    return n <= (size_t)PY_SSIZE_T_MAX / size ? n * size : ~(size_t)0;
}

/* Memory for n objects of a type; NULL when n * sizeof(type) passes
 * PY_SSIZE_T_MAX. */
#define PyMem_New(type, n) \
    ((type *)PyMem_Malloc(_PyMem_BytesOf((size_t)(n), sizeof(type))))

/* Resize p to n objects of a type and assign it.  On failure p becomes NULL:
 * keep a copy to free the old block. */
#define PyMem_Resize(p, type, n) \
    ((p) = (type *)PyMem_Realloc((p), _PyMem_BytesOf((size_t)(n), sizeof(type))))

/* Old names: aliases, deprecated in CPython and kept by it. */
#define PyMem_MALLOC(n)          PyMem_Malloc(n)
#define PyMem_NEW(type, n)       PyMem_New(type, n)
#define PyMem_REALLOC(p, n)      PyMem_Realloc((p), (n))
#define PyMem_RESIZE(p, type, n) PyMem_Resize((p), type, (n))
#define PyMem_FREE(p)            PyMem_Free(p)
#define PyMem_Del                PyMem_Free
#define PyMem_DEL                PyMem_Free

#ifdef __cplusplus
}
#endif

#include "cpython/pymem.h"

#endif /* !Py_PYMEM_H */
