/* The Python side of the tests: what Lib/pymem/conformance/driver.h declares, as methods.
 *
 * Compiled once for each implementation under test, with the module's name as
 * TESTPYMEM_MODULE.  Addresses are ints; a NULL is None. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "driver.h"

#include <string.h>

static int
parse_domain(int domain)
{
    if (domain < 0 || domain > 2) {
        PyErr_SetString(PyExc_ValueError, "a domain is 0, 1 or 2");
        return -1;
    }
    return 0;
}

static PyObject *
address_or_none(const void *ptr)
{
    if (ptr == NULL) {
        Py_RETURN_NONE;
    }
    return PyLong_FromVoidPtr((void *)ptr);
}

/* NULL and an error if the function that was called lacks another; otherwise
 * the result. */
static PyObject *
provided(PyObject *result)
{
    const char *missing = testpymem_take_missing();
    if (missing != NULL) {
        Py_XDECREF(result);
        PyErr_Format(PyExc_NotImplementedError, "there is no %s", missing);
        return NULL;
    }
    return result;
}

static PyObject *
provided_none(void)
{
    Py_INCREF(Py_None);
    return provided(Py_None);
}

/* "n" takes a signed number; sizes over PY_SSIZE_T_MAX must be tried. */
static int
size_converter(PyObject *object, void *result)
{
    size_t value = PyLong_AsSize_t(object);
    if (value == (size_t)-1 && PyErr_Occurred()) {
        return 0;
    }
    *(size_t *)result = value;
    return 1;
}

static int
pointer_converter(PyObject *object, void *result)
{
    void *value = NULL;
    if (object != Py_None) {
        value = PyLong_AsVoidPtr(object);
        if (value == NULL && PyErr_Occurred()) {
            return 0;
        }
    }
    *(void **)result = value;
    return 1;
}

static PyObject *
test_malloc(PyObject *module, PyObject *args)
{
    int domain;
    size_t size;
    if (!PyArg_ParseTuple(args, "iO&:malloc", &domain, size_converter, &size)
        || parse_domain(domain) < 0) {
        return NULL;
    }
    return address_or_none(testpymem_malloc(domain, size));
}

static PyObject *
test_calloc(PyObject *module, PyObject *args)
{
    int domain;
    size_t nelem, elsize;
    if (!PyArg_ParseTuple(args, "iO&O&:calloc", &domain, size_converter, &nelem,
                          size_converter, &elsize)
        || parse_domain(domain) < 0) {
        return NULL;
    }
    return address_or_none(testpymem_calloc(domain, nelem, elsize));
}

static PyObject *
test_realloc(PyObject *module, PyObject *args)
{
    int domain;
    void *ptr;
    size_t size;
    if (!PyArg_ParseTuple(args, "iO&O&:realloc", &domain, pointer_converter,
                          &ptr, size_converter, &size)
        || parse_domain(domain) < 0) {
        return NULL;
    }
    return address_or_none(testpymem_realloc(domain, ptr, size));
}

static PyObject *
test_free(PyObject *module, PyObject *args)
{
    int domain;
    void *ptr;
    if (!PyArg_ParseTuple(args, "iO&:free", &domain, pointer_converter, &ptr)
        || parse_domain(domain) < 0) {
        return NULL;
    }
    testpymem_free(domain, ptr);
    Py_RETURN_NONE;
}

static PyObject *
test_read(PyObject *module, PyObject *args)
{
    void *ptr;
    Py_ssize_t size;
    if (!PyArg_ParseTuple(args, "O&n:read", pointer_converter, &ptr, &size)) {
        return NULL;
    }
    return PyBytes_FromStringAndSize(ptr, size);
}

static PyObject *
test_write(PyObject *module, PyObject *args)
{
    void *ptr;
    const char *bytes;
    Py_ssize_t size;
    if (!PyArg_ParseTuple(args, "O&y#:write", pointer_converter, &ptr, &bytes,
                          &size)) {
        return NULL;
    }
    memcpy(ptr, bytes, (size_t)size);
    Py_RETURN_NONE;
}

static PyObject *
test_hook(PyObject *module, PyObject *args)
{
    int domain, fail_on = 0;
    long fail_at = 0;
    if (!PyArg_ParseTuple(args, "i|lp:hook", &domain, &fail_at, &fail_on)
        || parse_domain(domain) < 0) {
        return NULL;
    }
    testpymem_hook(domain, fail_at, fail_on);
    return provided_none();
}

static PyObject *
test_unhook(PyObject *module, PyObject *args)
{
    int domain;
    if (!PyArg_ParseTuple(args, "i:unhook", &domain)
        || parse_domain(domain) < 0) {
        return NULL;
    }
    testpymem_unhook(domain);
    Py_RETURN_NONE;
}

/* [(domain, what, ptr, size, result), ...] */
static PyObject *
test_take_calls(PyObject *module, PyObject *unused)
{
    static struct testpymem_call calls[65536];
    size_t n = testpymem_take_calls(calls, sizeof(calls) / sizeof(calls[0]));
    PyObject *list = PyList_New(0);
    for (size_t i = 0; list != NULL && i < n; i++) {
        PyObject *item = Py_BuildValue(
            "(isNnN)", calls[i].domain,
            calls[i].what == 'm' ? "malloc" : calls[i].what == 'c' ? "calloc"
                : calls[i].what == 'r' ? "realloc" : "free",
            address_or_none((void *)calls[i].ptr), (Py_ssize_t)calls[i].size,
            address_or_none((void *)calls[i].result));
        if (item == NULL || PyList_Append(list, item) < 0) {
            Py_CLEAR(list);
        }
        Py_XDECREF(item);
    }
    return list;
}

static PyObject *
test_arena_hook(PyObject *module, PyObject *args)
{
    Py_ssize_t offset = 0;
    long fail_at = 0;
    int fail_on = 0;
    if (!PyArg_ParseTuple(args, "|nlp:arena_hook", &offset, &fail_at,
                          &fail_on)) {
        return NULL;
    }
    testpymem_arena_hook((size_t)offset, fail_at, fail_on);
    return provided_none();
}

/* (asked for, given back, of a wrong size) */
static PyObject *
test_arenas(PyObject *module, PyObject *unused)
{
    struct testpymem_arenas counts = testpymem_arenas();
    return Py_BuildValue("(nnn)", (Py_ssize_t)counts.nalloc,
                         (Py_ssize_t)counts.nfree,
                         (Py_ssize_t)counts.wrong_size);
}

static PyObject *
test_get_allocator(PyObject *module, PyObject *args)
{
    int domain;     /* any: an unknown one has an answer, too */
    if (!PyArg_ParseTuple(args, "i:get_allocator", &domain)) {
        return NULL;
    }
    uintptr_t f[5];
    testpymem_get_allocator(domain, f);
    return provided(Py_BuildValue("(KKKKK)", (unsigned long long)f[0],
                         (unsigned long long)f[1], (unsigned long long)f[2],
                         (unsigned long long)f[3], (unsigned long long)f[4]));
}

static PyObject *
test_setup_debug_hooks(PyObject *module, PyObject *unused)
{
    testpymem_setup_debug_hooks();
    return provided_none();
}

static PyObject *
test_setup_allocators(PyObject *module, PyObject *args)
{
    const char *name;
    if (!PyArg_ParseTuple(args, "s:setup_allocators", &name)) {
        return NULL;
    }
    return provided(PyLong_FromLong(testpymem_setup_allocators(name)));
}

static PyObject *
test_current_name(PyObject *module, PyObject *unused)
{
    return provided(Py_BuildValue("z", testpymem_current_name()));
}

static PyObject *
test_allocated_blocks(PyObject *module, PyObject *unused)
{
    return provided(PyLong_FromSsize_t(testpymem_allocated_blocks()));
}

static PyObject *
test_malloc_stats(PyObject *module, PyObject *args)
{
    const char *path;
    if (!PyArg_ParseTuple(args, "s:malloc_stats", &path)) {
        return NULL;
    }
    return provided(PyLong_FromLong(testpymem_malloc_stats(path)));
}

static PyObject *
test_track(PyObject *module, PyObject *args)
{
    unsigned domain;
    unsigned long long ptr;
    Py_ssize_t size;
    if (!PyArg_ParseTuple(args, "IKn:track", &domain, &ptr, &size)) {
        return NULL;
    }
    return provided(PyLong_FromLong(
        testpymem_track(domain, (uintptr_t)ptr, (size_t)size)));
}

static PyObject *
test_untrack(PyObject *module, PyObject *args)
{
    unsigned domain;
    unsigned long long ptr;
    if (!PyArg_ParseTuple(args, "IK:untrack", &domain, &ptr)) {
        return NULL;
    }
    return provided(PyLong_FromLong(testpymem_untrack(domain, (uintptr_t)ptr)));
}

static PyObject *
test_malloc_without_gil(PyObject *module, PyObject *args)
{
    int domain;
    if (!PyArg_ParseTuple(args, "i:malloc_without_gil", &domain)
        || parse_domain(domain) < 0) {
        return NULL;
    }
    testpymem_malloc_without_gil(domain);
    return provided_none();
}

static PyMethodDef methods[] = {
    {"malloc", test_malloc, METH_VARARGS, NULL},
    {"calloc", test_calloc, METH_VARARGS, NULL},
    {"realloc", test_realloc, METH_VARARGS, NULL},
    {"free", test_free, METH_VARARGS, NULL},
    {"read", test_read, METH_VARARGS, NULL},
    {"write", test_write, METH_VARARGS, NULL},
    {"hook", test_hook, METH_VARARGS, NULL},
    {"unhook", test_unhook, METH_VARARGS, NULL},
    {"take_calls", test_take_calls, METH_NOARGS, NULL},
    {"arena_hook", test_arena_hook, METH_VARARGS, NULL},
    {"arenas", test_arenas, METH_NOARGS, NULL},
    {"get_allocator", test_get_allocator, METH_VARARGS, NULL},
    {"setup_debug_hooks", test_setup_debug_hooks, METH_NOARGS, NULL},
    {"setup_allocators", test_setup_allocators, METH_VARARGS, NULL},
    {"current_name", test_current_name, METH_NOARGS, NULL},
    {"allocated_blocks", test_allocated_blocks, METH_NOARGS, NULL},
    {"malloc_stats", test_malloc_stats, METH_VARARGS, NULL},
    {"track", test_track, METH_VARARGS, NULL},
    {"untrack", test_untrack, METH_VARARGS, NULL},
    {"malloc_without_gil", test_malloc_without_gil, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

#define QUOTE(name) #name
#define QUOTED(name) QUOTE(name)
#define JOIN(a, b) a##b
#define INIT_OF(name) JOIN(PyInit_, name)

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, QUOTED(TESTPYMEM_MODULE), NULL, -1, methods,
    NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC INIT_OF(TESTPYMEM_MODULE)(void);

PyMODINIT_FUNC
INIT_OF(TESTPYMEM_MODULE)(void)
{
    testpymem_provide_linked();
    return PyModule_Create(&definition);
}
