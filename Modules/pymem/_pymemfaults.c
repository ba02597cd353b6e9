/* The module _pymemfaults: Python/memfaults.c for the CPython that imports it.
 * Lib/pymem/faults.py is what people use. */

#define PY_SSIZE_T_CLEAN
#include "pymemfaults.h"
#include "pycore_domainnames.h"

#include <stdlib.h>
#include <string.h>

/* Exported by CPython, declared in headers that differ by version. */
extern PyObject *_PyTraceMalloc_GetTraceback(unsigned int domain, uintptr_t ptr);

/* Arguments. */

static int
domain_of(PyObject *name, PyMemAllocatorDomain *domain)
{
    static const char *const names[] = DOMAIN_NAMES;
    const char *text = PyUnicode_Check(name) ? PyUnicode_AsUTF8(name) : NULL;
    for (int i = 0; text != NULL && i < 3; i++) {
        if (strcmp(text, names[i]) == 0) {
            *domain = (PyMemAllocatorDomain)i;
            return 0;
        }
    }
    if (!PyErr_Occurred()) {
        PyErr_Format(PyExc_ValueError,
                     "a domain is 'raw', 'mem' or 'object', not %R", name);
    }
    return -1;
}

/* A number of bytes or requests. */
static int
size_converter(PyObject *object, void *size)
{
    *(size_t *)size = PyLong_AsSize_t(object);
    return !PyErr_Occurred();
}

static char *names[] = {"domain", "fail_from", "fail_count", "fail_share", "seed",
                        "quota", NULL};

static int
parse(PyObject *args, PyObject *kwargs, PyMemAllocatorDomain *domain,
      PyMemFaults *faults)
{
    PyObject *name;
    memset(faults, 0, sizeof(*faults));
    return PyArg_ParseTupleAndKeywords(
               args, kwargs, "O|$O&O&dKO&", names, &name,
               size_converter, &faults->fail_from,
               size_converter, &faults->fail_count, &faults->fail_share,
               &faults->seed, size_converter, &faults->quota)
        ? domain_of(name, domain) : -1;
}

/* Results. */

static PyObject *
counts_object(const PyMemFaultsCounts *counts)
{
    return Py_BuildValue("{sn sn sn sn sn sn}",
                         "requests", (Py_ssize_t)counts->requests,
                         "failed", (Py_ssize_t)counts->failed,
                         "frees", (Py_ssize_t)counts->frees,
                         "blocks", (Py_ssize_t)counts->blocks,
                         "bytes", (Py_ssize_t)counts->bytes,
                         "peak_bytes", (Py_ssize_t)counts->peak_bytes);
}

struct list {
    size_t length, capacity;
    struct { void *ptr; size_t size; } *blocks;
};

static int
add_to_list(void *arg, void *ptr, size_t size)
{
    struct list *list = arg;
    if (list->length == list->capacity) {
        list->capacity = 2 * list->capacity + 64;
        void *larger = realloc(list->blocks, list->capacity * sizeof(*list->blocks));
        if (larger == NULL) {
            return 1;
        }
        list->blocks = larger;
    }
    list->blocks[list->length].ptr = ptr;
    list->blocks[list->length++].size = size;
    return 0;
}

/* [(address, size, traceback or None), ...] */
static PyObject *
blocks_object(const struct list *list)
{
    PyObject *result = PyList_New(0);
    for (size_t i = 0; result != NULL && i < list->length; i++) {
        void *ptr = list->blocks[i].ptr;
        PyObject *traceback = _PyTraceMalloc_GetTraceback(0, (uintptr_t)ptr);
        PyObject *block = traceback == NULL ? NULL : Py_BuildValue(
            "(NnN)", PyLong_FromVoidPtr(ptr), (Py_ssize_t)list->blocks[i].size,
            traceback);
        if (block == NULL || PyList_Append(result, block) < 0) {
            Py_CLEAR(result);
        }
        Py_XDECREF(block);
    }
    return result;
}

/* The functions. */

static PyObject *
faults_start(PyObject *module, PyObject *args, PyObject *kwargs)
{
    PyMemAllocatorDomain domain;
    PyMemFaults faults;
    if (parse(args, kwargs, &domain, &faults) < 0
        || PyMemFaults_Start(domain, &faults) < 0)
    {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
faults_stop(PyObject *module, PyObject *name)
{
    PyMemAllocatorDomain domain;
    PyMemFaultsCounts counts;
    if (domain_of(name, &domain) < 0 || PyMemFaults_Count(domain, &counts) < 0
        || PyMemFaults_Stop(domain) < 0)
    {
        return NULL;
    }
    return counts_object(&counts);
}

static PyObject *
faults_count(PyObject *module, PyObject *name)
{
    PyMemAllocatorDomain domain;
    PyMemFaultsCounts counts;
    if (domain_of(name, &domain) < 0 || PyMemFaults_Count(domain, &counts) < 0) {
        return NULL;
    }
    return counts_object(&counts);
}

static PyObject *
faults_blocks(PyObject *module, PyObject *name)
{
    PyMemAllocatorDomain domain;
    struct list list = {0, 0, NULL};
    if (domain_of(name, &domain) < 0) {
        return NULL;
    }
    int result = PyMemFaults_Visit(domain, add_to_list, &list);
    PyObject *blocks = result == 0 ? blocks_object(&list)
        : result > 0 ? PyErr_NoMemory() : NULL;
    free(list.blocks);
    return blocks;
}

/* Faults are on while the function runs, and for nothing of Python's around it. */
static PyObject *
faults_call(PyObject *module, PyObject *args, PyObject *kwargs)
{
    if (PyTuple_GET_SIZE(args) < 1 || !PyCallable_Check(PyTuple_GET_ITEM(args, 0))) {
        PyErr_SetString(PyExc_TypeError, "the first argument is what to call");
        return NULL;
    }
    PyObject *function = PyTuple_GET_ITEM(args, 0);
    PyObject *rest = PyTuple_GetSlice(args, 1, PyTuple_GET_SIZE(args));
    if (rest == NULL) {
        return NULL;
    }
    PyMemAllocatorDomain domain;
    PyMemFaults faults;
    int parsed = parse(rest, kwargs, &domain, &faults);
    Py_DECREF(rest);
    if (parsed < 0 || PyMemFaults_Start(domain, &faults) < 0) {
        return NULL;
    }
    PyObject *type = NULL, *value = NULL, *traceback = NULL;
    PyObject *result = PyObject_CallObject(function, NULL);
    PyErr_Fetch(&type, &value, &traceback);
    PyMemFaultsCounts counts;
    struct list list = {0, 0, NULL};
    int listed = PyMemFaults_Count(domain, &counts) < 0 ? -1
        : PyMemFaults_Visit(domain, add_to_list, &list);
    if (PyMemFaults_Stop(domain) < 0 || listed != 0) {
        Py_CLEAR(result);
        Py_XDECREF(type);
        Py_XDECREF(value);
        Py_XDECREF(traceback);
        free(list.blocks);
        return listed > 0 ? PyErr_NoMemory() : NULL;
    }
    PyErr_NormalizeException(&type, &value, &traceback);
    if (value != NULL && traceback != NULL) {
        PyException_SetTraceback(value, traceback);
    }
    Py_XDECREF(type);
    Py_XDECREF(traceback);
    PyObject *blocks = blocks_object(&list);
    free(list.blocks);
    if (result == NULL) {
        result = Py_None;
        Py_INCREF(result);
    }
    if (value == NULL) {
        value = Py_None;
        Py_INCREF(value);
    }
    if (blocks == NULL) {
        Py_DECREF(result);
        Py_DECREF(value);
        return NULL;
    }
    return Py_BuildValue("(NNNN)", result, value, counts_object(&counts), blocks);
}

/* A with block.  The interpreter calls leave() itself, with values that it has: no request
 * of Python's is made between the block and the stop, which could be one that fails. */

static struct {
    PyObject *owner;            /* NULL: there is no block */
    PyMemAllocatorDomain domain;
} block;

static PyObject *
faults_enter(PyObject *module, PyObject *args, PyObject *kwargs)
{
    PyMemAllocatorDomain domain;
    PyMemFaults faults;
    if (PyTuple_GET_SIZE(args) != 2) {
        PyErr_SetString(PyExc_TypeError, "_enter() takes the owner and a domain");
        return NULL;
    }
    if (block.owner != NULL) {
        PyErr_SetString(PyExc_RuntimeError, "there is a block already whose requests fail; "
                        "one at a time");
        return NULL;
    }
    PyObject *rest = PyTuple_GetSlice(args, 1, 2);
    if (rest == NULL) {
        return NULL;
    }
    int parsed = parse(rest, kwargs, &domain, &faults);
    Py_DECREF(rest);
    if (parsed < 0 || PyMemFaults_Start(domain, &faults) < 0) {
        return NULL;
    }
    block.owner = PyTuple_GET_ITEM(args, 0);
    Py_INCREF(block.owner);
    block.domain = domain;
    Py_RETURN_NONE;
}

/* The owner's counts and exception; 0, or -1 with an error set. */
static int
tell_owner(PyObject *owner, const PyMemFaultsCounts *counts, PyObject *exception)
{
    PyObject *object = counts_object(counts);
    int result = object == NULL || PyObject_SetAttrString(owner, "counts", object) < 0
        || PyObject_SetAttrString(owner, "exception", exception) < 0 ? -1 : 0;
    Py_XDECREF(object);
    return result;
}

/* True, which is that the exception goes no further, for a MemoryError of a failed request. */
static PyObject *
faults_leave(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    PyMemFaultsCounts counts;
    if (block.owner == NULL || nargs != 3) {
        PyErr_SetString(PyExc_RuntimeError, "there is no block whose requests fail");
        return NULL;
    }
    PyObject *owner = block.owner;
    block.owner = NULL;
    if (PyMemFaults_Count(block.domain, &counts) < 0 || PyMemFaults_Stop(block.domain) < 0
        || tell_owner(owner, &counts, args[1]) < 0)
    {
        Py_DECREF(owner);
        return NULL;
    }
    Py_DECREF(owner);
    return PyBool_FromLong(counts.failed > 0 && args[0] != Py_None
                           && PyErr_GivenExceptionMatches(args[0], PyExc_MemoryError));
}

#define WITH_KEYWORDS(function) (PyCFunction)(void (*)(void))function
static PyMethodDef methods[] = {
    {"start", WITH_KEYWORDS(faults_start), METH_VARARGS | METH_KEYWORDS, NULL},
    {"call", WITH_KEYWORDS(faults_call), METH_VARARGS | METH_KEYWORDS, NULL},
    {"stop", faults_stop, METH_O, NULL},
    {"count", faults_count, METH_O, NULL},
    {"blocks", faults_blocks, METH_O, NULL},
    {"_enter", WITH_KEYWORDS(faults_enter), METH_VARARGS | METH_KEYWORDS, NULL},
    {"_leave", WITH_KEYWORDS(faults_leave), METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL}
};

static struct PyModuleDef module_def = {
    PyModuleDef_HEAD_INIT, "_pymemfaults", NULL, -1, methods, NULL, NULL, NULL, NULL
};

PyMODINIT_FUNC PyInit__pymemfaults(void);

PyMODINIT_FUNC
PyInit__pymemfaults(void)
{
    return PyModule_Create(&module_def);
}
