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
        return PyErr_NoMemory();
    }
    op->ob_type = type;
    op->ob_refcnt = 1;
    type_hold(type);
    return op;
}

PyVarObject *
PyObject_InitVar(PyVarObject *op, PyTypeObject *type, Py_ssize_t size)
{
    if (op != NULL) {
        op->ob_size = size;
    }
    return (PyVarObject *)PyObject_Init((PyObject *)op, type);
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
    return PyObject_InitVar(size != 0 ? PyObject_Malloc(size) : NULL, type, n);
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

PyObject *
PyType_GenericNew(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    (void)args;
    (void)kwargs;
    return type->tp_alloc(type, 0);
}

/* Types. */

PyTypeObject PyType_Type = {
    PyVarObject_HEAD_INIT(&PyType_Type, 0)
    .tp_name = "type",
    .tp_basicsize = sizeof(PyTypeObject),
    .tp_flags = Py_TPFLAGS_BASETYPE | Py_TPFLAGS_READY,
    .tp_base = &PyBaseObject_Type,
};

static void
object_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    type->tp_free(op);
    if (type->tp_flags & Py_TPFLAGS_HEAPTYPE) {
        Py_DECREF(type);
    }
}

PyTypeObject PyBaseObject_Type = {
    PyVarObject_HEAD_INIT(&PyType_Type, 0)
    .tp_name = "object",
    .tp_basicsize = sizeof(PyObject),
    .tp_dealloc = object_dealloc,
    .tp_flags = Py_TPFLAGS_BASETYPE | Py_TPFLAGS_READY,
    .tp_alloc = PyType_GenericAlloc,
    .tp_new = PyType_GenericNew,
    .tp_free = PyObject_Free,
};

int
PyType_IsSubtype(PyTypeObject *type, PyTypeObject *base)
{
    while (type != base && type != NULL) {
        type = type->tp_base;
    }
    return type != NULL || base == &PyBaseObject_Type;
}

#define INHERIT(field)                                                      \
    do {                                                                    \
        if (type->field == 0) {                                             \
            type->field = base->field;                                      \
        }                                                                   \
    } while (0)

int
PyType_Ready(PyTypeObject *type)
{
    if (type->tp_flags & Py_TPFLAGS_READY) {
        return 0;
    }
    if (type->tp_name == NULL) {
        PyErr_SetString(PyExc_SystemError, "Type does not define the tp_name field.");
        return -1;
    }
    if (type->tp_base == NULL) {
        type->tp_base = &PyBaseObject_Type;
    }
    PyTypeObject *base = type->tp_base;
    if (PyType_Ready(base) < 0) {
        return -1;
    }
    if (Py_TYPE(type) == NULL) {
        Py_SET_TYPE(type, Py_TYPE(base));
    }
    INHERIT(tp_basicsize);
    INHERIT(tp_itemsize);
    INHERIT(tp_dealloc);
    INHERIT(tp_alloc);
    INHERIT(tp_new);
    INHERIT(tp_init);
    INHERIT(tp_free);
    if (type->tp_basicsize < base->tp_basicsize) {
        PyErr_Format(PyExc_SystemError, "type %s has a tp_basicsize of %zd; its base "
                     "%s has %zd", type->tp_name, type->tp_basicsize, base->tp_name,
                     base->tp_basicsize);
        return -1;
    }
    type->tp_flags |= Py_TPFLAGS_READY;
    return 0;
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
