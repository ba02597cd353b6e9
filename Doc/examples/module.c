/* The examples as an extension module: examples.growable() and so on return None, or
 * raise AssertionError; examples.free_wrongly(what) ends the program. */

#include "examples.h"

#define TEST(name)                                                          \
    static PyObject *                                                       \
    run_##name(PyObject *module, PyObject *unused)                          \
    {                                                                       \
        const char *fault = test_##name();                                  \
        (void)module;                                                       \
        (void)unused;                                                       \
        if (fault != NULL) {                                                \
            PyErr_Clear();                                                  \
            PyErr_SetString(PyExc_AssertionError, fault);                   \
            return NULL;                                                    \
        }                                                                   \
        Py_RETURN_NONE;                                                     \
    }

TEST(growable)
TEST(boxed)
TEST(parser)
TEST(queue)
TEST(buffers)

static PyObject *
run_free_wrongly(PyObject *module, PyObject *what)
{
    const char *text = PyUnicode_AsUTF8(what);
    (void)module;
    if (text == NULL) {
        return NULL;
    }
    free_wrongly(text);
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"growable", run_growable, METH_NOARGS, NULL},
    {"boxed", run_boxed, METH_NOARGS, NULL},
    {"parser", run_parser, METH_NOARGS, NULL},
    {"queue", run_queue, METH_NOARGS, NULL},
    {"buffers", run_buffers, METH_NOARGS, NULL},
    {"free_wrongly", run_free_wrongly, METH_O, NULL},
    {NULL, NULL, 0, NULL}
};

static struct PyModuleDef module_def = {
    PyModuleDef_HEAD_INIT, "examples", NULL, -1, methods, NULL, NULL, NULL, NULL
};

PyMODINIT_FUNC PyInit_examples(void);

PyMODINIT_FUNC
PyInit_examples(void)
{
    return PyModule_Create(&module_def);
}
