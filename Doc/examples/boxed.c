/* A box that owns a reference to what is in it. */

#include "examples.h"

typedef struct {
    PyObject_HEAD
    PyObject *content;          /* owned; NULL: empty */
} Box;

static int nboxes;

static void
box_dealloc(PyObject *op)
{
    Py_CLEAR(((Box *)op)->content);
    nboxes--;
    Py_TYPE(op)->tp_free(op);
}

static PyTypeObject BoxType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "examples.Box",
    .tp_basicsize = sizeof(Box),
    .tp_dealloc = box_dealloc,
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = PyType_GenericNew,
};

static PyObject *
box_new(PyObject *content)
{
    Box *box = (Box *)PyType_GenericNew(&BoxType, NULL, NULL);
    if (box == NULL) {
        return NULL;
    }
    Py_XINCREF(content);
    box->content = content;
    nboxes++;
    return (PyObject *)box;
}

/* Steals nothing: the caller's reference stays the caller's. */
static int
box_put(PyObject *op, PyObject *content)
{
    if (Py_TYPE(op) != &BoxType) {
        PyErr_Format(PyExc_TypeError, "a Box is needed, not a %s",
                     Py_TYPE(op)->tp_name);
        return -1;
    }
    PyObject *old = ((Box *)op)->content;
    Py_XINCREF(content);
    ((Box *)op)->content = content;
    Py_XDECREF(old);            /* last: it may run any code */
    return 0;
}

const char *
test_boxed(void)
{
    CHECK(PyType_Ready(&BoxType) == 0);
    PyObject *inner = box_new(NULL), *outer = box_new(inner);
    CHECK(inner != NULL && outer != NULL);
    CHECK(Py_REFCNT(inner) == 2 && Py_REFCNT(outer) == 1);
    CHECK(box_put(outer, inner) == 0 && Py_REFCNT(inner) == 2);
    Py_DECREF(inner);
    CHECK(nboxes == 2);
    CHECK(box_put(outer, NULL) == 0);
    CHECK(nboxes == 1);
    CHECK(box_put((PyObject *)&BoxType, outer) == -1);
    CHECK(PyErr_ExceptionMatches(PyExc_TypeError) && Py_REFCNT(outer) == 1);
    PyErr_Clear();

    /* A thousand in one another end with the outermost. */
    PyObject *box = NULL;
    for (int i = 0; i < 1000; i++) {
        PyObject *around = box_new(box);
        CHECK(around != NULL);
        Py_XDECREF(box);
        box = around;
    }
    CHECK(nboxes == 1001);
    Py_DECREF(box);
    Py_DECREF(outer);
    CHECK(nboxes == 0);
    return NULL;
}
