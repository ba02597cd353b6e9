/* Objects, as far as their memory goes: what an extension's core needs of
 * object.h to make, share and free them without an interpreter.
 *
 * Layout and rules are those of CPython 3.12 and later.  A CPython that pymem is
 * linked into has its own; this header and Python/host/object.c are not part of it. */

#ifndef Py_OBJECT_H
#define Py_OBJECT_H

#include "pyport.h"

#include <string.h>
#include "objimpl.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct _object PyObject;
typedef struct _typeobject PyTypeObject;

/* The first fields of every object. */
struct _object {
    Py_ssize_t ob_refcnt;
    PyTypeObject *ob_type;
};

/* An object that ends in a number of items. */
typedef struct {
    PyObject ob_base;
    Py_ssize_t ob_size;
} PyVarObject;

#define PyObject_HEAD PyObject ob_base;
#define PyObject_VAR_HEAD PyVarObject ob_base;
#define PyObject_HEAD_INIT(type) {_Py_IMMORTAL_REFCNT, (type)},
#define PyVarObject_HEAD_INIT(type, size) {PyObject_HEAD_INIT(type) (size)},

typedef void (*freefunc)(void *);
typedef void (*destructor)(PyObject *);
typedef int (*visitproc)(PyObject *, void *);
typedef int (*traverseproc)(PyObject *, visitproc, void *);
typedef int (*inquiry)(PyObject *);
typedef int (*initproc)(PyObject *, PyObject *, PyObject *);
typedef PyObject *(*newfunc)(PyTypeObject *, PyObject *, PyObject *);
typedef PyObject *(*allocfunc)(PyTypeObject *, Py_ssize_t);

/* A type.  The fields and their order are CPython's; what no allocation asks
 * for is a pointer to nothing that is known here. */
struct _typeobject {
    PyObject_VAR_HEAD
    const char *tp_name;
    Py_ssize_t tp_basicsize, tp_itemsize;   /* of an object, of an item */
    destructor tp_dealloc;                  /* called at the last Py_DECREF */
    Py_ssize_t tp_vectorcall_offset;
    void (*tp_getattr)(void), (*tp_setattr)(void);
    void *tp_as_async;
    void (*tp_repr)(void);
    void *tp_as_number, *tp_as_sequence, *tp_as_mapping;
    void (*tp_hash)(void), (*tp_call)(void), (*tp_str)(void);
    void (*tp_getattro)(void), (*tp_setattro)(void);
    void *tp_as_buffer;
    unsigned long tp_flags;
    const char *tp_doc;
    traverseproc tp_traverse;
    inquiry tp_clear;
    void (*tp_richcompare)(void);
    Py_ssize_t tp_weaklistoffset;
    void (*tp_iter)(void), (*tp_iternext)(void);
    void *tp_methods, *tp_members, *tp_getset;
    PyTypeObject *tp_base;
    PyObject *tp_dict;
    void (*tp_descr_get)(void), (*tp_descr_set)(void);
    Py_ssize_t tp_dictoffset;
    initproc tp_init;
    allocfunc tp_alloc;
    newfunc tp_new;
    freefunc tp_free;
    inquiry tp_is_gc;
    PyObject *tp_bases, *tp_mro, *tp_cache;
    void *tp_subclasses;
    PyObject *tp_weaklist;
    destructor tp_del;
    unsigned int tp_version_tag;
    destructor tp_finalize;
    void (*tp_vectorcall)(void);
    unsigned char tp_watched;
};

/* The type was made at run time: each object of it holds a reference to it. */
#define Py_TPFLAGS_HEAPTYPE (1UL << 9)
#define Py_TPFLAGS_BASETYPE (1UL << 10)
#define Py_TPFLAGS_READY (1UL << 12)            /* PyType_Ready() was called */
#define Py_TPFLAGS_DEFAULT 0UL

#define Py_TYPE(op) (((PyObject *)(op))->ob_type)
#define Py_REFCNT(op) (((PyObject *)(op))->ob_refcnt)
#define Py_SIZE(op) (((PyVarObject *)(op))->ob_size)
#define Py_IS_TYPE(op, type) (Py_TYPE(op) == (type))        /* since 3.9 */
#define Py_SET_TYPE(op, type) ((void)(Py_TYPE(op) = (type)))
#define Py_SET_SIZE(op, size) ((void)(Py_SIZE(op) = (size)))

/* References.  An immortal object's count stays (3.12): it is so high that its
 * lower half, read as a signed number, is negative. */
#if UINTPTR_MAX > 0xFFFFFFFFu
#  define _Py_IMMORTAL_REFCNT ((Py_ssize_t)UINT32_MAX)
#else
#  define _Py_IMMORTAL_REFCNT ((Py_ssize_t)(UINT32_MAX >> 2))
#endif

PyAPI_FUNC(void) _Py_Dealloc(PyObject *op);

static inline int
_Py_IsImmortal(PyObject *op)
{
#if UINTPTR_MAX > 0xFFFFFFFFu
    return (int32_t)op->ob_refcnt < 0;
#else
    return op->ob_refcnt >= _Py_IMMORTAL_REFCNT;
#endif
}

/* The count of an immortal object stays here, too (3.12). */
static inline void
Py_SET_REFCNT(PyObject *op, Py_ssize_t refcnt)
{
    if (!_Py_IsImmortal(op)) {
        op->ob_refcnt = refcnt;
    }
}

/* From now on the object stays (3.12; public from 3.15 on). */
static inline void
_Py_SetImmortal(PyObject *op)
{
    op->ob_refcnt = _Py_IMMORTAL_REFCNT;
}

static inline void
Py_INCREF(PyObject *op)
{
    if (!_Py_IsImmortal(op)) {
        op->ob_refcnt++;
    }
}

static inline void
Py_DECREF(PyObject *op)
{
    if (!_Py_IsImmortal(op) && --op->ob_refcnt == 0) {
        _Py_Dealloc(op);
    }
}

static inline void
Py_XINCREF(PyObject *op)
{
    if (op != NULL) {
        Py_INCREF(op);
    }
}

static inline void
Py_XDECREF(PyObject *op)
{
    if (op != NULL) {
        Py_DECREF(op);
    }
}

static inline PyObject *
Py_NewRef(PyObject *op)
{
    Py_INCREF(op);
    return op;
}

static inline PyObject *
Py_XNewRef(PyObject *op)
{
    Py_XINCREF(op);
    return op;
}

#define Py_SET_REFCNT(op, n) Py_SET_REFCNT((PyObject *)(op), (n))
#define Py_INCREF(op) Py_INCREF((PyObject *)(op))
#define Py_DECREF(op) Py_DECREF((PyObject *)(op))
#define Py_XINCREF(op) Py_XINCREF((PyObject *)(op))
#define Py_XDECREF(op) Py_XDECREF((PyObject *)(op))
#define Py_NewRef(op) Py_NewRef((PyObject *)(op))
#define Py_XNewRef(op) Py_XNewRef((PyObject *)(op))

/* Give a variable, whatever type it points to, another value; the old one. */
static inline PyObject *
_Py_Exchange(void *variable, const void *value)
{
    PyObject *old;
    memcpy(&old, variable, sizeof(old));
    memcpy(variable, &value, sizeof(value));
    return old;
}

/* The variable is changed before the old reference is dropped: what that calls
 * must not find it. */
#define Py_SETREF(dst, src) Py_DECREF(_Py_Exchange(&(dst), (src)))
#define Py_XSETREF(dst, src) Py_XDECREF(_Py_Exchange(&(dst), (src)))
#define Py_CLEAR(op) Py_XSETREF((op), NULL)

/* Objects in the object domain: with the GIL held.  NULL and MemoryError when there
 * is no memory or the size passes PY_SSIZE_T_MAX. */

/* Make memory an object of a type, with one reference.  Returns op. */
PyAPI_FUNC(PyObject *) PyObject_Init(PyObject *op, PyTypeObject *type);
PyAPI_FUNC(PyVarObject *) PyObject_InitVar(PyVarObject *op, PyTypeObject *type,
                                           Py_ssize_t size);

/* Memory of tp_basicsize bytes (and n items of tp_itemsize), uninitialised but
 * for the head. */
PyAPI_FUNC(PyObject *) _PyObject_New(PyTypeObject *type);
PyAPI_FUNC(PyVarObject *) _PyObject_NewVar(PyTypeObject *type, Py_ssize_t n);
#define PyObject_New(T, type) ((T *)_PyObject_New(type))
#define PyObject_NewVar(T, type, n) ((T *)_PyObject_NewVar((type), (n)))

/* Zeroed memory for an object with n items and one more, the usual tp_alloc. */
PyAPI_FUNC(PyObject *) PyType_GenericAlloc(PyTypeObject *type, Py_ssize_t n);

/* The usual tp_new: an object without items from the type's tp_alloc. */
PyAPI_FUNC(PyObject *) PyType_GenericNew(PyTypeObject *type, PyObject *args,
                                         PyObject *kwargs);

/* Make a type complete before its first object.  Fields that are not filled in come
 * from tp_base (object, if there is none): tp_basicsize, tp_itemsize, tp_dealloc,
 * tp_alloc, tp_new, tp_init, tp_free.  Without any tp_dealloc an object is given to
 * tp_free.  0; -1 with an error set for a type without a name, or smaller than its
 * base. */
PyAPI_FUNC(int) PyType_Ready(PyTypeObject *type);
PyAPI_FUNC(int) PyType_IsSubtype(PyTypeObject *type, PyTypeObject *base);

/* The type of types, and the base of all of them. */
PyAPI_DATA(PyTypeObject) PyType_Type;
PyAPI_DATA(PyTypeObject) PyBaseObject_Type;

#define PyObject_TypeCheck(op, type) PyType_IsSubtype(Py_TYPE(op), (type))

/* Bytes of an object with n items, rounded up to the size of a pointer. */
#define _PyObject_SIZE(type) ((size_t)(type)->tp_basicsize)
#define _PyObject_VAR_SIZE(type, n)                                         \
    (((size_t)(type)->tp_basicsize                                          \
      + (size_t)(n) * (size_t)(type)->tp_itemsize + sizeof(void *) - 1)     \
     & ~(size_t)(sizeof(void *) - 1))

#ifdef __cplusplus
}
#endif

#endif /* !Py_OBJECT_H */
