/* What the five modules of hash functions have in common: arguments, data, and
 * libraries that are loaded when they are needed.
 *
 *   _opensslhashes.c          _blake2.c
 *   _md5 _sha1 _sha2 _sha3    _blake2
 *           |                    |
 *           v   this header      v
 *             _hashes.c   arguments, data, dlopen
 *
 * Debian's static archives of CPython refer to hash functions that no package
 * contains.  These modules take the place of the five built-in modules that do.
 * They hash nothing themselves: libcrypto and libb2 do. */

#ifndef PYMEM_HASHES_H
#define PYMEM_HASHES_H

#include <Python.h>

/* Bytes from which on data are hashed without the GIL.  CPython's modules have this
 * number under the name _GIL_MINSIZE, and its tests read it there. */
#define HASHES_GIL_MINSIZE 2048

/* Version 3.15 deprecated the keyword `string`, and improved messages. */
#define HASHES_SINCE_315 (PY_VERSION_HEX >= 0x030F0000)

/* -- arguments ---------------------------------------------------------------- */

#define HASHES_MAX_ARGUMENTS 14

/* names[0] may also be given by position, the others may not.  The format is one for
 * PyArg_ParseTupleAndKeywords with an O for each name. */
struct hashes_signature {
    const char *format;
    const char *names[HASHES_MAX_ARGUMENTS + 1];
};

/* values: one for each name, borrowed from args and kwargs, NULL where none is given.
 * Returns 0, or -1 with the exception that CPython's own functions raise. */
int hashes_parse(const struct hashes_signature *signature, PyObject *args,
                 PyObject *kwargs, PyObject **values);

/* The arguments of all but blake2: data, usedforsecurity, string.  Sets *data to what
 * has to be hashed, borrowed, or to NULL for nothing. */
int hashes_parse_constructor(const struct hashes_signature *signature,
                             PyObject *args, PyObject *kwargs, PyObject **data);

/* Data may also be given as `string`, but not twice. */
int hashes_choose_data(PyObject *data, PyObject *string, PyObject **chosen);

/* An index from 0 to max.  c_type names the type in the message. */
int hashes_as_unsigned(PyObject *object, unsigned long long max,
                       const char *c_type, unsigned long long *value);

/* -- data --------------------------------------------------------------------- */

/* A view of the bytes to hash: of any bytes-like object, but not of str. */
int hashes_get_data(PyObject *object, Py_buffer *view);

/* A digest as str of hexadecimal digits. */
PyObject *hashes_hexadecimal(const unsigned char *digest, Py_ssize_t size);

/* copy() takes no arguments; says so as CPython's methods do that know their class. */
int hashes_check_no_arguments(Py_ssize_t nargs, PyObject *kwnames);

/* -- libraries ---------------------------------------------------------------- */

struct hashes_function {
    const char *name;
    void *pointer;              /* where the pointer to this function is */
};

struct hashes_library {
    const char *file;           /* as the dynamic linker knows it */
    const char *package;        /* Debian's name */
    const struct hashes_function *functions;    /* up to one without a name */
    int loaded;                 /* then each pointer is set for good */
    PyMutex lock;               /* of loading */
};

/* Load the library unless that was done.  Returns 0, or -1 with an ImportError that
 * names the package.  Tries again the next time. */
int hashes_load(struct hashes_library *library);

#endif
