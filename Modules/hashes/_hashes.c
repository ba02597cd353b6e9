/* Arguments, data and libraries of the five modules of hash functions: see _hashes.h.
 *
 * Calls dlopen, and of CPython only the public API. */

#include "_hashes.h"

#include <dlfcn.h>

/* -- arguments ---------------------------------------------------------------- */

/* True if each keyword is in the signature, and nothing is given twice. */
static int
match_keywords(const struct hashes_signature *signature, PyObject *kwargs,
               PyObject **values)
{
    Py_ssize_t position = 0;
    PyObject *key, *value;
    while (PyDict_Next(kwargs, &position, &key, &value)) {
        if (!PyUnicode_CheckExact(key)) {
            return 0;
        }
        int i = 0;
        while (signature->names[i] != NULL
               && !PyUnicode_EqualToUTF8(key, signature->names[i])) {
            i++;
        }
        if (signature->names[i] == NULL || values[i] != NULL) {
            return 0;
        }
        values[i] = value;
    }
    return 1;
}

/* PyArg_ParseTupleAndKeywords makes a str of each name that it looks up: dear for the
 * last of 14.  So calls that are right are understood here, and it tells what is wrong
 * with the others. */
int
hashes_parse(const struct hashes_signature *signature, PyObject *args,
             PyObject *kwargs, PyObject **values)
{
    Py_ssize_t count = PyTuple_GET_SIZE(args);
    memset(values, 0, HASHES_MAX_ARGUMENTS * sizeof(*values));
    if (count <= 1) {
        values[0] = count == 1 ? PyTuple_GET_ITEM(args, 0) : NULL;
        int is_right = kwargs == NULL || match_keywords(signature, kwargs, values);
        int needs_first = signature->format[0] != '|';
        if (is_right && !(needs_first && values[0] == NULL)) {
            return 0;
        }
        memset(values, 0, HASHES_MAX_ARGUMENTS * sizeof(*values));
    }
    PyObject **v = values;
    return PyArg_ParseTupleAndKeywords(
        args, kwargs, signature->format, (char *const *)signature->names,
        &v[0], &v[1], &v[2], &v[3], &v[4], &v[5], &v[6], &v[7], &v[8], &v[9],
        &v[10], &v[11], &v[12], &v[13]) ? 0 : -1;
}

int
hashes_choose_data(PyObject *data, PyObject *string, PyObject **chosen)
{
    *chosen = data != NULL ? data : string;
    if (data != NULL && string != NULL) {
        PyErr_SetString(PyExc_TypeError,
                        "'data' and 'string' are mutually exclusive and support for "
                        "'string' keyword parameter is slated for removal in a "
                        "future version.");
        return -1;
    }
#if HASHES_SINCE_315
    if (string != NULL) {
        return PyErr_WarnEx(PyExc_DeprecationWarning,
                            "the 'string' keyword parameter is deprecated since "
                            "Python 3.15 and slated for removal in Python 3.19; use "
                            "the 'data' keyword parameter or pass the data to hash "
                            "as a positional argument instead", 1);
    }
#endif
    return 0;
}

int
hashes_parse_constructor(const struct hashes_signature *signature, PyObject *args,
                         PyObject *kwargs, PyObject **data)
{
    PyObject *values[HASHES_MAX_ARGUMENTS];
    if (hashes_parse(signature, args, kwargs, values) < 0) {
        return -1;
    }
    /* The value is without effect, but must have a truth. */
    if (values[1] != NULL && PyObject_IsTrue(values[1]) < 0) {
        return -1;
    }
    return hashes_choose_data(values[0], values[2], data);
}

int
hashes_as_unsigned(PyObject *object, unsigned long long max, const char *c_type,
                   unsigned long long *value)
{
    PyObject *index = PyNumber_Index(object);
    if (index == NULL) {
        return -1;
    }
    int overflow;
    long long number = PyLong_AsLongLongAndOverflow(index, &overflow);
    int is_negative = overflow < 0 || (overflow == 0 && number < 0);
    *value = is_negative ? 0 : PyLong_AsUnsignedLongLong(index);
    Py_DECREF(index);
    if (is_negative) {
        PyErr_SetString(PyExc_ValueError, "Cannot convert negative int");
        return -1;
    }
    if (PyErr_Occurred() || *value > max) {
        PyErr_Format(PyExc_OverflowError, "Python int too large for C %s", c_type);
        return -1;
    }
    return 0;
}

int
hashes_check_no_arguments(Py_ssize_t nargs, PyObject *kwnames)
{
    if (nargs > 0 || (kwnames != NULL && PyTuple_GET_SIZE(kwnames) > 0)) {
        PyErr_SetString(PyExc_TypeError, "copy() takes no arguments");
        return -1;
    }
    return 0;
}

/* -- data --------------------------------------------------------------------- */

int
hashes_get_data(PyObject *object, Py_buffer *view)
{
    if (PyUnicode_Check(object)) {
        PyErr_SetString(PyExc_TypeError, "Strings must be encoded before hashing");
        return -1;
    }
    if (!PyObject_CheckBuffer(object)) {
        PyErr_SetString(PyExc_TypeError, "object supporting the buffer API required");
        return -1;
    }
    if (PyObject_GetBuffer(object, view, PyBUF_SIMPLE) < 0) {
        return -1;
    }
    if (view->ndim > 1) {
        PyErr_SetString(PyExc_BufferError, "Buffer must be single dimension");
        PyBuffer_Release(view);
        return -1;
    }
    return 0;
}

PyObject *
hashes_hexadecimal(const unsigned char *digest, Py_ssize_t size)
{
    static const char digits[] = "0123456789abcdef";
    PyObject *text = PyUnicode_New(2 * size, 127);
    if (text == NULL) {
        return NULL;
    }
    Py_UCS1 *next = PyUnicode_1BYTE_DATA(text);
    for (Py_ssize_t i = 0; i < size; i++) {
        *next++ = (Py_UCS1)digits[digest[i] >> 4];
        *next++ = (Py_UCS1)digits[digest[i] & 15];
    }
    return text;
}

/* -- libraries ---------------------------------------------------------------- */

static int
load(struct hashes_library *library)
{
    /* Never closed: objects of any interpreter may need it, to the very end. */
    void *handle = dlopen(library->file, RTLD_NOW | RTLD_LOCAL);
    const struct hashes_function *function = library->functions;
    for (; handle != NULL && function->name != NULL; function++) {
        void *address = dlsym(handle, function->name);
        memcpy(function->pointer, &address, sizeof(address));
        if (address == NULL) {
            handle = NULL;
        }
    }
    if (handle == NULL) {
        const char *reason = dlerror();
        PyErr_Format(PyExc_ImportError,
                     "this hash function needs %s, which cannot be loaded (Debian: "
                     "apt-get install %s): %s", library->file, library->package,
                     reason != NULL ? reason : "unknown reason");
        return -1;
    }
    return 0;
}

int
hashes_load(struct hashes_library *library)
{
    if (__atomic_load_n(&library->loaded, __ATOMIC_ACQUIRE)) {
        return 0;
    }
    PyMutex_Lock(&library->lock);
    int result = library->loaded ? 0 : load(library);
    if (result == 0) {
        __atomic_store_n(&library->loaded, 1, __ATOMIC_RELEASE);
    }
    PyMutex_Unlock(&library->lock);
    return result;
}
