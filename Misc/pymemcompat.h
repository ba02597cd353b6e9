/* Today's names for memory on every CPython from 2.3 on, and old names on today's.
 *
 *     #include "Python.h"
 *     #include "pymemcompat.h"
 *
 * Copy it into a project that has to compile with many versions: it needs nothing else
 * of pymem, and whatever a version has already is left alone.  In pymem's own headers
 * it adds the old names.
 *
 *   new on         name
 *   2.5            Py_ssize_t, PY_SSIZE_T_MAX
 *   2.4, 2.6       Py_CLEAR; Py_TYPE, Py_REFCNT, Py_SIZE
 *   3.4            PyMem_RawMalloc, PyMem_RawRealloc, PyMem_RawFree
 *   3.5            PyMem_Calloc, PyMem_RawCalloc, PyObject_Calloc
 *   3.6            Py_SETREF, Py_XSETREF
 *   3.7            PyTraceMalloc_Track, PyTraceMalloc_Untrack: before 3.6 nothing is
 *                  traced, which -2 says
 *   3.9            Py_SET_REFCNT, Py_SET_TYPE, Py_SET_SIZE, Py_IS_TYPE
 *   3.10           Py_NewRef, Py_XNewRef, Py_Is
 *
 * Old names: PyMem_MALLOC, PyMem_REALLOC, PyMem_FREE, PyMem_NEW, PyMem_RESIZE,
 * PyMem_Del, PyMem_DEL, PyMem_XDEL; PyObject_MALLOC, PyObject_REALLOC, PyObject_FREE,
 * PyObject_Del, PyObject_DEL, PyObject_NEW, PyObject_NEW_VAR, PyObject_INIT,
 * PyObject_INIT_VAR.
 *
 * The rules are those of today: a request for 0 bytes gives a block, one of more than
 * PY_SSIZE_T_MAX bytes NULL. */

#ifndef PYMEMCOMPAT_H
#define PYMEMCOMPAT_H

#include <limits.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

/* Our own headers have today's names, whatever version they are asked for. */
#ifdef PY_VERSION_HEX
#  define PYMEMCOMPAT_BEFORE(version) (PY_VERSION_HEX < (version))
#else
#  define PYMEMCOMPAT_BEFORE(version) 0
#endif
#if defined(__GNUC__)
#  define PYMEMCOMPAT_INLINE static __inline__ __attribute__((unused))
#elif defined(_MSC_VER)
#  define PYMEMCOMPAT_INLINE static __inline
#else
#  define PYMEMCOMPAT_INLINE static
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* 2.5, 2.6 */

#if PYMEMCOMPAT_BEFORE(0x02050000)
typedef int Py_ssize_t;
#  define PY_SSIZE_T_MAX INT_MAX
#  define PY_SSIZE_T_MIN INT_MIN
#endif
#ifndef Py_REFCNT
#  if PYMEMCOMPAT_BEFORE(0x02060000)
#    define Py_REFCNT(op) (((PyObject *)(op))->ob_refcnt)
#    define Py_TYPE(op) (((PyObject *)(op))->ob_type)
#    define Py_SIZE(op) (((PyVarObject *)(op))->ob_size)
#  endif
#endif

/* 3.4: before it there was no domain like this one, and malloc() was used. */

#if PYMEMCOMPAT_BEFORE(0x03040000)
PYMEMCOMPAT_INLINE void *
PyMem_RawMalloc(size_t size)
{
    return size > (size_t)PY_SSIZE_T_MAX ? NULL : malloc(size != 0 ? size : 1);
}

PYMEMCOMPAT_INLINE void *
PyMem_RawRealloc(void *ptr, size_t size)
{
    return size > (size_t)PY_SSIZE_T_MAX ? NULL : realloc(ptr, size != 0 ? size : 1);
}

PYMEMCOMPAT_INLINE void
PyMem_RawFree(void *ptr)
{
    free(ptr);
}
#endif

/* 3.5 */

#if PYMEMCOMPAT_BEFORE(0x03050000)
#  define PYMEMCOMPAT_CALLOC(name, alloc)                                   \
    PYMEMCOMPAT_INLINE void *                                               \
    name(size_t nelem, size_t elsize)                                       \
    {                                                                       \
        void *ptr;                                                          \
        if (elsize != 0 && nelem > (size_t)PY_SSIZE_T_MAX / elsize) {       \
            return NULL;                                                    \
        }                                                                   \
        ptr = alloc(nelem * elsize);                                        \
        return ptr != NULL ? memset(ptr, 0, nelem * elsize) : NULL;         \
    }
PYMEMCOMPAT_CALLOC(PyMem_RawCalloc, PyMem_RawMalloc)
PYMEMCOMPAT_CALLOC(PyMem_Calloc, PyMem_Malloc)
PYMEMCOMPAT_CALLOC(PyObject_Calloc, PyObject_Malloc)
#endif

/* References: 2.4, 3.6, 3.9, 3.10. */

/* The variable, whatever type it points to, has its new value when the old reference
 * is dropped. */
PYMEMCOMPAT_INLINE void
pymemcompat_replace(void *variable, const void *value)
{
    PyObject *old;
    memcpy(&old, variable, sizeof(old));
    memcpy(variable, &value, sizeof(value));
    Py_XDECREF(old);
}

#ifndef Py_SETREF
#  define Py_SETREF(dst, src) pymemcompat_replace(&(dst), (src))
#endif
#ifndef Py_XSETREF
#  define Py_XSETREF(dst, src) pymemcompat_replace(&(dst), (src))
#endif
#ifndef Py_CLEAR
#  define Py_CLEAR(op) Py_XSETREF((op), NULL)
#endif

#if PYMEMCOMPAT_BEFORE(0x030900A4)
#  ifndef Py_SET_REFCNT
#    define Py_SET_REFCNT(op, n) ((void)(Py_REFCNT(op) = (n)))
#  endif
#  ifndef Py_SET_TYPE
#    define Py_SET_TYPE(op, type) ((void)(Py_TYPE(op) = (type)))
#  endif
#  ifndef Py_SET_SIZE
#    define Py_SET_SIZE(op, size) ((void)(Py_SIZE(op) = (size)))
#  endif
#  ifndef Py_IS_TYPE
#    define Py_IS_TYPE(op, type) (Py_TYPE(op) == (type))
#  endif
#endif

#if PYMEMCOMPAT_BEFORE(0x030A00A3)
PYMEMCOMPAT_INLINE PyObject *
pymemcompat_XNewRef(PyObject *op)
{
    Py_XINCREF(op);
    return op;
}
#  ifndef Py_NewRef
#    define Py_NewRef(op) pymemcompat_XNewRef((PyObject *)(op))
#  endif
#  ifndef Py_XNewRef
#    define Py_XNewRef(op) pymemcompat_XNewRef((PyObject *)(op))
#  endif
#endif
#ifndef Py_Is
#  define Py_Is(x, y) ((PyObject *)(x) == (PyObject *)(y))
#endif

/* 3.7; the same with a private name in 3.6. */

#if PYMEMCOMPAT_BEFORE(0x03060000)
#  define PyTraceMalloc_Track(domain, ptr, size) (-2)
#  define PyTraceMalloc_Untrack(domain, ptr) (-2)
#elif PYMEMCOMPAT_BEFORE(0x030700A4)
#  define PyTraceMalloc_Track _PyTraceMalloc_Track
#  define PyTraceMalloc_Untrack _PyTraceMalloc_Untrack
#endif

/* Old names. */

#ifndef PyMem_MALLOC
#  define PyMem_MALLOC(n) PyMem_Malloc(n)
#endif
#ifndef PyMem_REALLOC
#  define PyMem_REALLOC(p, n) PyMem_Realloc((p), (n))
#endif
#ifndef PyMem_FREE
#  define PyMem_FREE(p) PyMem_Free(p)
#endif
#ifndef PyMem_NEW
#  define PyMem_NEW(type, n) PyMem_New(type, n)
#endif
#ifndef PyMem_RESIZE
#  define PyMem_RESIZE(p, type, n) PyMem_Resize(p, type, n)
#endif
#ifndef PyMem_Del
#  define PyMem_Del PyMem_Free
#endif
#ifndef PyMem_DEL
#  define PyMem_DEL PyMem_Free
#endif
#ifndef PyMem_XDEL
#  define PyMem_XDEL PyMem_Free
#endif
#ifndef PyObject_MALLOC
#  define PyObject_MALLOC PyObject_Malloc
#endif
#ifndef PyObject_REALLOC
#  define PyObject_REALLOC PyObject_Realloc
#endif
#ifndef PyObject_FREE
#  define PyObject_FREE PyObject_Free
#endif
#ifndef PyObject_Del
#  define PyObject_Del PyObject_Free
#endif
#ifndef PyObject_DEL
#  define PyObject_DEL PyObject_Free
#endif
#ifndef PyObject_NEW
#  define PyObject_NEW(type, typeobj) PyObject_New(type, typeobj)
#endif
#ifndef PyObject_NEW_VAR
#  define PyObject_NEW_VAR(type, typeobj, n) PyObject_NewVar(type, typeobj, n)
#endif
#ifndef PyObject_INIT
#  define PyObject_INIT(op, typeobj) PyObject_Init((PyObject *)(op), (typeobj))
#endif
#ifndef PyObject_INIT_VAR
#  define PyObject_INIT_VAR(op, typeobj, size)                              \
    PyObject_InitVar((PyVarObject *)(op), (typeobj), (size))
#endif

#ifdef __cplusplus
}
#endif

#endif /* !PYMEMCOMPAT_H */
