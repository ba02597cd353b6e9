/* Objects without an interpreter: memory with a head, and its end.
 *
 *   PyObject_New() ---> PyObject_Malloc() ---> PyObject_Init()
 *   last Py_DECREF() ---> tp_dealloc() ---> PyObject_Free()
 *
 * Only in the standalone library: a CPython has its own.  Calls the object
 * domain. */

#include "object.h"

#include "pyerrors.h"

#include <stdint.h>

/* A reference to the type is held by each object of a type made at run time. */
static void
type_hold(PyTypeObject *type)
{
    if (type->tp_flags & Py_TPFLAGS_HEAPTYPE) {
        Py_INCREF(type);
    }
}

PyObject *
PyObject_Init(PyObject *op, PyTypeObject *type)
{
    if (op == NULL) {
        return NULL;
    }
    op->ob_type = type;
    op->ob_refcnt = 1;
    type_hold(type);
    return op;
}

PyVarObject *
PyObject_InitVar(PyVarObject *op, PyTypeObject *type, Py_ssize_t size)
{
    if (op == NULL) {
        return NULL;
    }
    op->ob_size = size;
    PyObject_Init(&op->ob_base, type);
    return op;
}

/* The size of an object with n items; 0 if there can be none. */
static size_t
object_size(const PyTypeObject *type, Py_ssize_t n)
{
    size_t most = (size_t)PY_SSIZE_T_MAX - sizeof(void *)
        - (size_t)type->tp_basicsize;
    if (n < 0
        || (type->tp_itemsize > 0
            && (size_t)n > most / (size_t)type->tp_itemsize))
    {
        return 0;
    }
    return _PyObject_VAR_SIZE(type, n);
}

PyObject *
_PyObject_New(PyTypeObject *type)
{
    return PyObject_Init(PyObject_Malloc(_PyObject_SIZE(type)), type);
}

PyVarObject *
_PyObject_NewVar(PyTypeObject *type, Py_ssize_t n)
{
    size_t size = object_size(type, n);
    return size != 0 ? PyObject_InitVar(PyObject_Malloc(size), type, n) : NULL;
}

PyObject *
PyType_GenericAlloc(PyTypeObject *type, Py_ssize_t n)
{
    size_t size = n < PY_SSIZE_T_MAX ? object_size(type, n + 1) : 0;
    PyObject *op = size != 0 ? PyObject_Calloc(1, size) : NULL;
    if (type->tp_itemsize == 0) {
        return PyObject_Init(op, type);
    }
    return (PyObject *)PyObject_InitVar((PyVarObject *)op, type, n);
}

/* The last reference is gone. */
void
_Py_Dealloc(PyObject *op)
{
    destructor dealloc = Py_TYPE(op)->tp_dealloc;
    if (dealloc == NULL) {
        _Py_FatalErrorFormat(__func__, "type %s has no tp_dealloc",
                             Py_TYPE(op)->tp_name);
    }
    dealloc(op);
}
