/* The module _blake2, with the types blake2b and blake2s, over libb2.
 *
 *   parameters ---> parameter block ---> state of libb2 <--- data
 *                   64 or 32 bytes       in the object
 *
 * The block is what RFC 7693, section 2.8, and the paper of BLAKE2, section 2.10,
 * say: of 64 bytes for blake2b, of 32 for blake2s, the salt from the middle on and the
 * person after it.  The lock of an object is held while its state is read or changed.
 * Data of HASHES_GIL_MINSIZE bytes or more are hashed without the GIL.
 *
 * Owns nothing but the pointers into libb2.  Calls _hashes.c and libb2. */

#include "_hashes.h"

#include <stddef.h>

/* -- libb2 -------------------------------------------------------------------- */

/* The states are declared by hand, as libb2 0.98.1 documents them in blake2.h, so that
 * the header is not needed.  An older library has others: blake2_init() looks. */
struct blake2b_state {
    uint64_t h[8], t[2], f[2];
    uint8_t buf[2 * 128];
    uint32_t buflen;
    uint8_t outlen, last_node;
};

struct blake2s_state {
    uint32_t h[8], t[2], f[2];
    uint8_t buf[2 * 64];
    uint32_t buflen;
    uint8_t outlen, last_node;
};

static_assert(offsetof(struct blake2b_state, last_node) == 357,
              "libb2 packs its states: nothing may be between the fields");
static_assert(offsetof(struct blake2s_state, last_node) == 181,
              "libb2 packs its states: nothing may be between the fields");

union state {
    struct blake2b_state b;
    struct blake2s_state s;
};

enum { MAX_DIGEST_SIZE = 64, MAX_BLOCK_SIZE = 128 };    /* of both types */

/* One of the two functions.  The pointers are the same for both: a state is a void *,
 * and so is a parameter block. */
struct algorithm {
    const char *name;
    int max_digest_size;        /* bytes: also of a key and of the parameter block */
    int salt_size;              /* bytes: also of a person */
    int block_size;             /* bytes */
    int offset_size;            /* bytes of node_offset in the parameter block */
    size_t state_size;          /* bytes */
    size_t outlen_place, last_node_place;       /* in the state */
    int (*init_param)(void *state, const void *parameters);
    int (*update)(void *state, const uint8_t *data, size_t size);
    int (*final)(void *state, uint8_t *digest, size_t size);
};

static struct algorithm blake2b = {
    .name = "blake2b",
    .max_digest_size = 64,
    .salt_size = 16,
    .block_size = 128,
    .offset_size = 8,
    .state_size = sizeof(struct blake2b_state),
    .outlen_place = offsetof(struct blake2b_state, outlen),
    .last_node_place = offsetof(struct blake2b_state, last_node),
};

static struct algorithm blake2s = {
    .name = "blake2s",
    .max_digest_size = 32,
    .salt_size = 8,
    .block_size = 64,
    .offset_size = 6,
    .state_size = sizeof(struct blake2s_state),
    .outlen_place = offsetof(struct blake2s_state, outlen),
    .last_node_place = offsetof(struct blake2s_state, last_node),
};

static const struct hashes_function libb2_functions[] = {
    { "blake2b_init_param", &blake2b.init_param },
    { "blake2b_update", &blake2b.update },
    { "blake2b_final", &blake2b.final },
    { "blake2s_init_param", &blake2s.init_param },
    { "blake2s_update", &blake2s.update },
    { "blake2s_final", &blake2s.final },
    { NULL, NULL },
};

static struct hashes_library library = {
    .file = "libb2.so.1",
    .package = "libb2-1",
    .functions = libb2_functions,
};

/* -- objects ------------------------------------------------------------------ */

struct hash {
    PyObject_HEAD
    const struct algorithm *algorithm;
    PyMutex lock;               /* of state */
    union state state;          /* only its first state_size bytes are there */
};

static struct hash *
as_hash(PyObject *self)
{
    return (struct hash *)self;
}

static int
digest_size(struct hash *self)
{
    return *((uint8_t *)&self->state + self->algorithm->outlen_place);
}

static void
hash_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static int
hash_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    return 0;
}

static void
update_state(struct hash *self, const void *data, size_t size)
{
    PyMutex_Lock(&self->lock);
    (void)self->algorithm->update(&self->state, data, size);
    PyMutex_Unlock(&self->lock);
}

static PyObject *
hash_update(PyObject *self, PyObject *data)
{
    Py_buffer view;
    if (hashes_get_data(data, &view) < 0) {
        return NULL;
    }
    if (view.len < HASHES_GIL_MINSIZE) {
        update_state(as_hash(self), view.buf, (size_t)view.len);
    } else {
        Py_BEGIN_ALLOW_THREADS
        update_state(as_hash(self), view.buf, (size_t)view.len);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&view);
    Py_RETURN_NONE;
}

static void
copy_state(union state *copy, struct hash *self)
{
    PyMutex_Lock(&self->lock);
    memcpy(copy, &self->state, self->algorithm->state_size);
    PyMutex_Unlock(&self->lock);
}

static PyObject *
hash_copy(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    struct hash *copy = as_hash(Py_TYPE(self)->tp_alloc(Py_TYPE(self), 0));
    if (copy != NULL) {
        copy->algorithm = as_hash(self)->algorithm;
        copy_state(&copy->state, as_hash(self));
    }
    return (PyObject *)copy;
}

#if HASHES_SINCE_315
static PyObject *
hash_copy_of_class(PyObject *self, PyTypeObject *Py_UNUSED(defining_class),
                   PyObject *const *Py_UNUSED(args), Py_ssize_t nargs,
                   PyObject *kwnames)
{
    return hashes_check_no_arguments(nargs, kwnames) < 0 ? NULL : hash_copy(self, NULL);
}
#endif

/* Returns the size.  The object can be updated afterwards. */
static int
hash_finish(struct hash *self, uint8_t digest[static MAX_DIGEST_SIZE])
{
    union state state;
    copy_state(&state, self);
    int size = digest_size(self);
    (void)self->algorithm->final(&state, digest, (size_t)size);
    return size;
}

static PyObject *
hash_digest(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    uint8_t digest[MAX_DIGEST_SIZE];
    int size = hash_finish(as_hash(self), digest);
    return PyBytes_FromStringAndSize((char *)digest, size);
}

static PyObject *
hash_hexdigest(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    uint8_t digest[MAX_DIGEST_SIZE];
    int size = hash_finish(as_hash(self), digest);
    return hashes_hexadecimal(digest, size);
}

/* -- parameters --------------------------------------------------------------- */

/* In the order of the signature.  Buffers that are not given have the length 0. */
struct parameters {
    PyObject *data;             /* borrowed, or NULL */
    int digest_size;
    Py_buffer key, salt, person;
    int fanout, depth;
    unsigned long long leaf_size, node_offset;
    int node_depth, inner_size, last_node;
};

static void
parameters_release(struct parameters *parameters)
{
    PyBuffer_Release(&parameters->key);
    PyBuffer_Release(&parameters->salt);
    PyBuffer_Release(&parameters->person);
}

/* Each changes its variable only if there is an object. */

static int
convert_int(PyObject *object, int *value)
{
    if (object != NULL) {
        *value = PyLong_AsInt(object);
    }
    return object != NULL && *value == -1 && PyErr_Occurred() ? -1 : 0;
}

static int
convert_unsigned(PyObject *object, unsigned long long max, const char *c_type,
                 unsigned long long *value)
{
    return object == NULL ? 0 : hashes_as_unsigned(object, max, c_type, value);
}

static int
convert_buffer(PyObject *object, Py_buffer *view)
{
    return object == NULL ? 0 : PyObject_GetBuffer(object, view, PyBUF_SIMPLE);
}

static int
convert_truth(PyObject *object, int *value)
{
    if (object != NULL) {
        *value = PyObject_IsTrue(object);
    }
    return *value < 0 ? -1 : 0;
}

/* The caller releases the parameters also after a failure. */
static int
parameters_parse(const struct algorithm *algorithm, PyObject *args, PyObject *kwargs,
                 struct parameters *parameters)
{
    static const char *const formats[] = {
        "|O$OOOOOOOOOOOOO:blake2b", "|O$OOOOOOOOOOOOO:blake2s" };
    const struct hashes_signature signature = {
        formats[algorithm == &blake2s],
        { "data", "digest_size", "key", "salt", "person", "fanout", "depth",
          "leaf_size", "node_offset", "node_depth", "inner_size", "last_node",
          "usedforsecurity", "string", NULL } };
    PyObject *values[HASHES_MAX_ARGUMENTS];
    struct parameters *p = parameters;
    *p = (struct parameters){
        .digest_size = algorithm->max_digest_size, .fanout = 1, .depth = 1 };
    int usedforsecurity = 1;

    if (hashes_parse(&signature, args, kwargs, values) < 0
        || convert_int(values[1], &p->digest_size) < 0
        || convert_buffer(values[2], &p->key) < 0
        || convert_buffer(values[3], &p->salt) < 0
        || convert_buffer(values[4], &p->person) < 0
        || convert_int(values[5], &p->fanout) < 0
        || convert_int(values[6], &p->depth) < 0
        || convert_unsigned(values[7], ULONG_MAX, "unsigned long", &p->leaf_size) < 0
        || convert_unsigned(values[8], ULLONG_MAX, "unsigned long long",
                            &p->node_offset) < 0
        || convert_int(values[9], &p->node_depth) < 0
        || convert_int(values[10], &p->inner_size) < 0
        || convert_truth(values[11], &p->last_node) < 0
        || convert_truth(values[12], &usedforsecurity) < 0) {
        return -1;
    }
    return hashes_choose_data(values[0], values[13], &p->data);
}

/* -- checks of parameters ----------------------------------------------------- */

#if HASHES_SINCE_315
#define DIGEST_SIZE_MESSAGE \
    "digest_size for blake2%c must be between 1 and %d bytes, got %d"
#define LENGTH_MESSAGE "maximum %s length is %d bytes, got %zd"
#define RANGE_MESSAGE "'%s' must be between %d and %d"
#define INNER_SIZE_MESSAGE RANGE_MESSAGE
#define TOO_LARGE_MESSAGE "'%s' is too large"
#else
#define DIGEST_SIZE_MESSAGE \
    "digest_size for Blake2%c must be between 1 and %d bytes, here it is %d"
#define LENGTH_MESSAGE "maximum %s length is %d bytes"
#define RANGE_MESSAGE "%s must be between %d and %d"
#define INNER_SIZE_MESSAGE "%s must be between %d and is %d"
#define TOO_LARGE_MESSAGE "%s is too large"
#endif

static int
check_digest_size(const struct algorithm *algorithm, int size)
{
    if (size < 1 || size > algorithm->max_digest_size) {
        PyErr_Format(PyExc_ValueError, DIGEST_SIZE_MESSAGE,
                     algorithm->name[strlen("blake2")], algorithm->max_digest_size,
                     size);
        return -1;
    }
    return 0;
}

static int
check_length(const char *name, const Py_buffer *view, int max)
{
    if (view->len > max) {
        PyErr_Format(PyExc_ValueError, LENGTH_MESSAGE, name, max, view->len);
        return -1;
    }
    return 0;
}

static int
check_range(const char *message, const char *name, int value, int min, int max)
{
    if (value < min || value > max) {
        PyErr_Format(PyExc_ValueError, message, name, min, max);
        return -1;
    }
    return 0;
}

static int
check_width(const char *name, unsigned long long value, int bytes)
{
    if (bytes < 8 && value >> (8 * bytes) != 0) {
        PyErr_Format(PyExc_OverflowError, TOO_LARGE_MESSAGE, name);
        return -1;
    }
    return 0;
}

static int
check_key(const struct algorithm *a, const struct parameters *p)
{
    return check_length("key", &p->key, a->max_digest_size);
}

static int
check_salt_and_tree(const struct algorithm *a, const struct parameters *p)
{
    return check_length("salt", &p->salt, a->salt_size) < 0
        || check_length("person", &p->person, a->salt_size) < 0
        || check_range(RANGE_MESSAGE, "fanout", p->fanout, 0, 255) < 0
        || check_range(RANGE_MESSAGE, "depth", p->depth, 1, 255) < 0 ? -1 : 0;
}

static int
check_widths(const struct algorithm *a, const struct parameters *p)
{
    return check_width("leaf_size", p->leaf_size, 4) < 0
        || check_width("node_offset", p->node_offset, a->offset_size) < 0 ? -1 : 0;
}

static int
check_node(const struct algorithm *a, const struct parameters *p)
{
    return check_range(RANGE_MESSAGE, "node_depth", p->node_depth, 0, 255) < 0
        || check_range(INNER_SIZE_MESSAGE, "inner_size", p->inner_size, 0,
                       a->max_digest_size) < 0 ? -1 : 0;
}

/* In the order of the version, which decides what is said of two faults. */
static int
parameters_check(const struct algorithm *a, const struct parameters *p)
{
    if (check_digest_size(a, p->digest_size) < 0) {
        return -1;
    }
#if HASHES_SINCE_315
    return check_key(a, p) < 0 || check_salt_and_tree(a, p) < 0
        || check_node(a, p) < 0 || check_widths(a, p) < 0 ? -1 : 0;
#else
    return check_salt_and_tree(a, p) < 0 || check_widths(a, p) < 0
        || check_node(a, p) < 0 || check_key(a, p) < 0 ? -1 : 0;
#endif
}

/* -- constructors ------------------------------------------------------------- */

static void
store_little_endian(uint8_t *bytes, int size, unsigned long long value)
{
    for (int i = 0; i < size; i++) {
        bytes[i] = (uint8_t)(value >> (8 * i));
    }
}

static void
copy_buffer(uint8_t *bytes, const Py_buffer *view)
{
    if (view->len > 0) {
        memcpy(bytes, view->buf, (size_t)view->len);
    }
}

static void
make_block(const struct algorithm *algorithm, const struct parameters *parameters,
           uint8_t block[static MAX_DIGEST_SIZE])
{
    memset(block, 0, MAX_DIGEST_SIZE);
    block[0] = (uint8_t)parameters->digest_size;
    block[1] = (uint8_t)parameters->key.len;
    block[2] = (uint8_t)parameters->fanout;
    block[3] = (uint8_t)parameters->depth;
    store_little_endian(block + 4, 4, parameters->leaf_size);
    store_little_endian(block + 8, algorithm->offset_size, parameters->node_offset);
    uint8_t *next = block + 8 + algorithm->offset_size;
    next[0] = (uint8_t)parameters->node_depth;
    next[1] = (uint8_t)parameters->inner_size;
    uint8_t *salt = block + algorithm->max_digest_size / 2;
    copy_buffer(salt, &parameters->salt);
    copy_buffer(salt + algorithm->salt_size, &parameters->person);
}

/* A key is hashed as the first block of data. */
static void
hash_key(struct hash *self, const Py_buffer *key)
{
    uint8_t block[MAX_BLOCK_SIZE] = { 0 };
    copy_buffer(block, key);
    update_state(self, block, (size_t)self->algorithm->block_size);
    explicit_bzero(block, sizeof(block));
}

static int
blake2_init(struct hash *self, const struct parameters *parameters)
{
    const struct algorithm *algorithm = self->algorithm;
    uint8_t block[MAX_DIGEST_SIZE];
    make_block(algorithm, parameters, block);
    uint8_t *bytes = (uint8_t *)&self->state;
    if (algorithm->init_param(&self->state, block) < 0
        || bytes[algorithm->outlen_place] != parameters->digest_size) {
        PyErr_Format(PyExc_ImportError, "%s is older than version 0.98.1, and cannot "
                     "be used", library.file);
        return -1;
    }
    bytes[algorithm->last_node_place] = (uint8_t)parameters->last_node;
    if (parameters->key.len > 0) {
        hash_key(self, &parameters->key);
    }
    return 0;
}

static PyObject *
make_hash(PyTypeObject *type, const struct algorithm *algorithm,
          const struct parameters *parameters)
{
    if (hashes_load(&library) < 0) {
        return NULL;
    }
    struct hash *self = as_hash(type->tp_alloc(type, 0));
    if (self == NULL) {
        return NULL;
    }
    self->algorithm = algorithm;
    PyObject *updated = Py_None;
    if (blake2_init(self, parameters) < 0) {
        updated = NULL;
    } else if (parameters->data != NULL) {
        updated = hash_update((PyObject *)self, parameters->data);
    }
    if (updated == NULL) {
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static PyObject *
hash_new(PyTypeObject *type, const struct algorithm *algorithm, PyObject *args,
         PyObject *kwargs)
{
    struct parameters parameters;
    PyObject *self = NULL;
    if (parameters_parse(algorithm, args, kwargs, &parameters) == 0
        && parameters_check(algorithm, &parameters) == 0) {
        self = make_hash(type, algorithm, &parameters);
    }
    parameters_release(&parameters);
    return self;
}

static PyObject *
blake2b_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    return hash_new(type, &blake2b, args, kwargs);
}

static PyObject *
blake2s_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    return hash_new(type, &blake2s, args, kwargs);
}

/* -- types -------------------------------------------------------------------- */

static PyObject *
get_name(PyObject *self, void *Py_UNUSED(closure))
{
    return PyUnicode_FromString(as_hash(self)->algorithm->name);
}

static PyObject *
get_block_size(PyObject *self, void *Py_UNUSED(closure))
{
    return PyLong_FromLong(as_hash(self)->algorithm->block_size);
}

static PyObject *
get_digest_size(PyObject *self, void *Py_UNUSED(closure))
{
    return PyLong_FromLong(digest_size(as_hash(self)));
}

static PyGetSetDef hash_getters[] = {
    { "name", get_name, NULL, NULL, NULL },
    { "block_size", get_block_size, NULL, NULL, NULL },
    { "digest_size", get_digest_size, NULL, NULL, NULL },
    { NULL, NULL, NULL, NULL, NULL },
};

PyDoc_STRVAR(copy_doc, "copy($self, /)\n--\n\n"
             "Give another object that goes on from what is hashed so far.");
PyDoc_STRVAR(digest_doc, "digest($self, /)\n--\n\n"
             "Give the digest of all data so far, as bytes.");
PyDoc_STRVAR(hexdigest_doc, "hexdigest($self, /)\n--\n\n"
             "Give the digest of all data so far, in hexadecimal digits.");
PyDoc_STRVAR(update_doc, "update($self, data, /)\n--\n\n"
             "Hash the bytes of data after all data so far.");

static PyMethodDef hash_methods[] = {
#if HASHES_SINCE_315
    { "copy", (PyCFunction)(void (*)(void))hash_copy_of_class,
      METH_METHOD | METH_FASTCALL | METH_KEYWORDS, copy_doc },
#else
    { "copy", hash_copy, METH_NOARGS, copy_doc },
#endif
    { "digest", hash_digest, METH_NOARGS, digest_doc },
    { "hexdigest", hash_hexdigest, METH_NOARGS, hexdigest_doc },
    { "update", hash_update, METH_O, update_doc },
    { NULL, NULL, 0, NULL },
};

#define BLAKE2_TYPE(NAME, TITLE) \
    PyDoc_STRVAR(NAME##_doc, #NAME "(data=b'', *, " \
                 "digest_size=_blake2." #NAME ".MAX_DIGEST_SIZE,\n" \
                 "        key=b'', salt=b'', person=b'', fanout=1, depth=1, " \
                 "leaf_size=0,\n" \
                 "        node_offset=0, node_depth=0, inner_size=0, " \
                 "last_node=False,\n" \
                 "        usedforsecurity=True, string=None)\n--\n\n" \
                 "An object that hashes with " TITLE ", data first."); \
    static PyType_Slot NAME##_slots[] = { \
        { Py_tp_new, NAME##_new }, \
        { Py_tp_dealloc, hash_dealloc }, \
        { Py_tp_traverse, hash_traverse }, \
        { Py_tp_methods, hash_methods }, \
        { Py_tp_getset, hash_getters }, \
        { Py_tp_doc, (void *)NAME##_doc }, \
        { 0, NULL }, \
    }; \
    static PyType_Spec NAME##_spec = { \
        .name = "_blake2." #NAME, \
        .basicsize = offsetof(struct hash, state) + sizeof(struct NAME##_state), \
        .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, \
        .slots = NAME##_slots, \
    };

BLAKE2_TYPE(blake2b, "BLAKE2b")
BLAKE2_TYPE(blake2s, "BLAKE2s")

/* -- module ------------------------------------------------------------------- */

/* A number, of the type and under a longer name of the module. */
static int
add_constant(PyObject *module, PyObject *type, const char *prefix, const char *name,
             int value)
{
    PyObject *number = PyLong_FromLong(value);
    PyObject *long_name = PyUnicode_FromFormat("%s_%s", prefix, name);
    int result = -1;
    if (number != NULL && long_name != NULL) {
        result = PyObject_SetAttrString(type, name, number) < 0
            || PyObject_SetAttr(module, long_name, number) < 0 ? -1 : 0;
    }
    Py_XDECREF(number);
    Py_XDECREF(long_name);
    return result;
}

static int
add_type(PyObject *module, PyType_Spec *spec, const struct algorithm *algorithm,
         const char *prefix)
{
    PyObject *type = PyType_FromModuleAndSpec(module, spec, NULL);
    if (type == NULL) {
        return -1;
    }
    int salt_size = algorithm->salt_size, max_size = algorithm->max_digest_size;
    int failed = add_constant(module, type, prefix, "SALT_SIZE", salt_size) < 0
        || add_constant(module, type, prefix, "PERSON_SIZE", salt_size) < 0
        || add_constant(module, type, prefix, "MAX_KEY_SIZE", max_size) < 0
        || add_constant(module, type, prefix, "MAX_DIGEST_SIZE", max_size) < 0
        || PyType_Freeze((PyTypeObject *)type) < 0
        || PyModule_AddObjectRef(module, algorithm->name, type) < 0;
    Py_DECREF(type);
    return failed ? -1 : 0;
}

static int
blake2_exec(PyObject *module)
{
    if (add_type(module, &blake2b_spec, &blake2b, "BLAKE2B") < 0
        || add_type(module, &blake2s_spec, &blake2s, "BLAKE2S") < 0) {
        return -1;
    }
    return PyModule_AddIntConstant(module, "_GIL_MINSIZE", HASHES_GIL_MINSIZE);
}

static PyModuleDef_Slot blake2_module_slots[] = {
    { Py_mod_exec, blake2_exec },
    { Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED },
    { Py_mod_gil, Py_MOD_GIL_NOT_USED },
    { 0, NULL },
};

static struct PyModuleDef blake2_module = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "_blake2",
    .m_doc = "BLAKE2b and BLAKE2s with all their parameters, from libb2.",
    .m_slots = blake2_module_slots,
};

PyMODINIT_FUNC
PyInit__blake2(void)
{
    return PyModuleDef_Init(&blake2_module);
}
