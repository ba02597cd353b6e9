/* The modules _md5, _sha1, _sha2 and _sha3 over OpenSSL's libcrypto.
 *
 *   module   functions               types
 *   _md5     md5                     md5
 *   _sha1    sha1                    sha1
 *   _sha2    sha224 ... sha512       SHA224Type ... SHA512Type
 *   _sha3                            sha3_224 ... sha3_512, shake_128, shake_256
 *
 * Each object has a digest context of libcrypto; its lock is held while the context
 * is read or changed.  Data of HASHES_GIL_MINSIZE bytes or more are hashed without
 * the GIL.
 *
 * Owns the library context, in which no configuration of OpenSSL holds: these
 * functions are there whatever openssl.cnf forbids to others, as CPython's are.
 * Calls _hashes.c, and libcrypto through pointers that it sets. */

#include "_hashes.h"

/* -- libcrypto ---------------------------------------------------------------- */

/* Declared by hand, so that the headers of OpenSSL are not needed.  The names are the
 * public ones of version 3. */
typedef struct ossl_lib_ctx_st OSSL_LIB_CTX;
typedef struct ossl_param_st OSSL_PARAM;
typedef struct evp_md_st EVP_MD;
typedef struct evp_md_ctx_st EVP_MD_CTX;

static struct {
    OSSL_LIB_CTX *(*OSSL_LIB_CTX_new)(void);
    EVP_MD *(*EVP_MD_fetch)(OSSL_LIB_CTX *, const char *, const char *);
    EVP_MD_CTX *(*EVP_MD_CTX_new)(void);
    void (*EVP_MD_CTX_free)(EVP_MD_CTX *);
    int (*EVP_MD_CTX_copy_ex)(EVP_MD_CTX *, const EVP_MD_CTX *);
    int (*EVP_DigestInit_ex2)(EVP_MD_CTX *, const EVP_MD *, const OSSL_PARAM *);
    int (*EVP_DigestUpdate)(EVP_MD_CTX *, const void *, size_t);
    int (*EVP_DigestFinal_ex)(EVP_MD_CTX *, unsigned char *, unsigned int *);
    int (*EVP_DigestFinalXOF)(EVP_MD_CTX *, unsigned char *, size_t);
    void (*ERR_clear_error)(void);
} libcrypto;

#define FUNCTION(NAME) { #NAME, &libcrypto.NAME }
static const struct hashes_function libcrypto_functions[] = {
    FUNCTION(OSSL_LIB_CTX_new),
    FUNCTION(EVP_MD_fetch),
    FUNCTION(EVP_MD_CTX_new),
    FUNCTION(EVP_MD_CTX_free),
    FUNCTION(EVP_MD_CTX_copy_ex),
    FUNCTION(EVP_DigestInit_ex2),
    FUNCTION(EVP_DigestUpdate),
    FUNCTION(EVP_DigestFinal_ex),
    FUNCTION(EVP_DigestFinalXOF),
    FUNCTION(ERR_clear_error),
    { NULL, NULL },
};

static struct hashes_library library = {
    .file = "libcrypto.so.3",
    .package = "libssl3t64",
    .functions = libcrypto_functions,
};

/* -- algorithms --------------------------------------------------------------- */

enum { MAX_DIGEST_SIZE = 64 };          /* of those whose size is fixed */
enum { SHA3_STATE_BITS = 1600 };

struct algorithm {
    const char *name;
    const char *fetched_name;
    int digest_size;                    /* bytes; 0 for the digest of any length */
    int block_size;                     /* bytes */
    char suffix;                        /* of sha3: what follows the data */
    EVP_MD *md;                         /* NULL until it is first needed */
};

enum {
    MD5, SHA1, SHA224, SHA256, SHA384, SHA512,
    SHA3_224, SHA3_256, SHA3_384, SHA3_512, SHAKE_128, SHAKE_256
};

static struct algorithm algorithms[] = {
    [MD5] = { "md5", "MD5", 16, 64, 0, NULL },
    [SHA1] = { "sha1", "SHA1", 20, 64, 0, NULL },
    [SHA224] = { "sha224", "SHA2-224", 28, 64, 0, NULL },
    [SHA256] = { "sha256", "SHA2-256", 32, 64, 0, NULL },
    [SHA384] = { "sha384", "SHA2-384", 48, 128, 0, NULL },
    [SHA512] = { "sha512", "SHA2-512", 64, 128, 0, NULL },
    [SHA3_224] = { "sha3_224", "SHA3-224", 28, 144, 6, NULL },
    [SHA3_256] = { "sha3_256", "SHA3-256", 32, 136, 6, NULL },
    [SHA3_384] = { "sha3_384", "SHA3-384", 48, 104, 6, NULL },
    [SHA3_512] = { "sha3_512", "SHA3-512", 64, 72, 6, NULL },
    [SHAKE_128] = { "shake_128", "SHAKE-128", 0, 168, 0x1f, NULL },
    [SHAKE_256] = { "shake_256", "SHAKE-256", 0, 136, 0x1f, NULL },
};

static EVP_MD *
fetch(struct algorithm *algorithm)
{
    static OSSL_LIB_CTX *context;
    if (context == NULL) {
        context = libcrypto.OSSL_LIB_CTX_new();
    }
    if (context == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    EVP_MD *md = libcrypto.EVP_MD_fetch(context, algorithm->fetched_name, NULL);
    if (md == NULL) {
        libcrypto.ERR_clear_error();
        PyErr_Format(PyExc_ValueError, "%s does not provide %s", library.file,
                     algorithm->fetched_name);
    }
    return md;
}

/* The implementation, fetched once in a process. */
static EVP_MD *
algorithm_md(struct algorithm *algorithm)
{
    static PyMutex fetching;
    EVP_MD *md = __atomic_load_n(&algorithm->md, __ATOMIC_ACQUIRE);
    if (md != NULL) {
        return md;
    }
    if (hashes_load(&library) < 0) {
        return NULL;
    }
    PyMutex_Lock(&fetching);
    md = algorithm->md != NULL ? algorithm->md : fetch(algorithm);
    __atomic_store_n(&algorithm->md, md, __ATOMIC_RELEASE);
    PyMutex_Unlock(&fetching);
    return md;
}

/* -- objects ------------------------------------------------------------------ */

struct hash {
    PyObject_HEAD
    struct algorithm *algorithm;
    EVP_MD_CTX *context;
    PyMutex lock;                       /* of context */
};

static struct hash *
as_hash(PyObject *self)
{
    return (struct hash *)self;
}

static PyObject *
libcrypto_failed(void)
{
    libcrypto.ERR_clear_error();
    return PyErr_Format(PyExc_RuntimeError, "%s failed", library.file);
}

/* An object whose context is new and not yet of any algorithm. */
static struct hash *
hash_alloc(PyTypeObject *type, struct algorithm *algorithm)
{
    struct hash *self = as_hash(type->tp_alloc(type, 0));
    if (self != NULL) {
        self->algorithm = algorithm;
        self->context = libcrypto.EVP_MD_CTX_new();
        if (self->context == NULL) {
            Py_DECREF(self);
            PyErr_NoMemory();
            return NULL;
        }
    }
    return self;
}

static void
hash_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    if (as_hash(self)->context != NULL) {
        libcrypto.EVP_MD_CTX_free(as_hash(self)->context);
    }
    type->tp_free(self);
    Py_DECREF(type);
}

static int
hash_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    return 0;
}

static int
update_context(struct hash *self, const Py_buffer *view)
{
    PyMutex_Lock(&self->lock);
    int done = libcrypto.EVP_DigestUpdate(self->context, view->buf, (size_t)view->len);
    PyMutex_Unlock(&self->lock);
    return done;
}

static PyObject *
hash_update(PyObject *self, PyObject *data)
{
    Py_buffer view;
    int done;
    if (hashes_get_data(data, &view) < 0) {
        return NULL;
    }
    if (view.len < HASHES_GIL_MINSIZE) {
        done = update_context(as_hash(self), &view);
    } else {
        Py_BEGIN_ALLOW_THREADS
        done = update_context(as_hash(self), &view);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&view);
    if (!done) {
        return libcrypto_failed();
    }
    Py_RETURN_NONE;
}

static PyObject *
hash_new(PyTypeObject *type, struct algorithm *algorithm, PyObject *data)
{
    EVP_MD *md = algorithm_md(algorithm);
    struct hash *self = md != NULL ? hash_alloc(type, algorithm) : NULL;
    if (self == NULL) {
        return NULL;
    }
    PyObject *updated = Py_None;
    if (!libcrypto.EVP_DigestInit_ex2(self->context, md, NULL)) {
        updated = libcrypto_failed();
    } else if (data != NULL) {
        updated = hash_update((PyObject *)self, data);
    }
    if (updated == NULL) {
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static int
copy_context(EVP_MD_CTX *copy, struct hash *self)
{
    PyMutex_Lock(&self->lock);
    int done = libcrypto.EVP_MD_CTX_copy_ex(copy, self->context);
    PyMutex_Unlock(&self->lock);
    return done;
}

static PyObject *
hash_copy(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    struct hash *copy = hash_alloc(Py_TYPE(self), as_hash(self)->algorithm);
    if (copy != NULL && !copy_context(copy->context, as_hash(self))) {
        Py_DECREF(copy);
        return libcrypto_failed();
    }
    return (PyObject *)copy;
}

static PyObject *
hash_copy_of_class(PyObject *self, PyTypeObject *Py_UNUSED(defining_class),
                   PyObject *const *Py_UNUSED(args), Py_ssize_t nargs,
                   PyObject *kwnames)
{
    return hashes_check_no_arguments(nargs, kwnames) < 0 ? NULL : hash_copy(self, NULL);
}

/* -- digests ------------------------------------------------------------------ */

/* The first size bytes of the digest; the object can be updated afterwards. */
static int
hash_finish(struct hash *self, unsigned char *digest, Py_ssize_t size)
{
    EVP_MD_CTX *copy = libcrypto.EVP_MD_CTX_new();
    if (copy == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    int done = copy_context(copy, self);
    if (done && self->algorithm->digest_size > 0) {
        done = libcrypto.EVP_DigestFinal_ex(copy, digest, NULL);
    } else if (done && size > 0) {
        done = libcrypto.EVP_DigestFinalXOF(copy, digest, (size_t)size);
    }
    libcrypto.EVP_MD_CTX_free(copy);
    if (!done) {
        libcrypto_failed();
        return -1;
    }
    return 0;
}

static PyObject *
hash_digest(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    unsigned char digest[MAX_DIGEST_SIZE];
    int size = as_hash(self)->algorithm->digest_size;
    if (hash_finish(as_hash(self), digest, size) < 0) {
        return NULL;
    }
    return PyBytes_FromStringAndSize((char *)digest, size);
}

static PyObject *
hash_hexdigest(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    unsigned char digest[MAX_DIGEST_SIZE];
    int size = as_hash(self)->algorithm->digest_size;
    if (hash_finish(as_hash(self), digest, size) < 0) {
        return NULL;
    }
    return hashes_hexadecimal(digest, size);
}

/* CPython's limit for the digests of shake_128 and shake_256. */
enum { SHAKE_LENGTH_LIMIT = 1 << 29 };

#if HASHES_SINCE_315
static Py_ssize_t
as_length(PyObject *object)
{
    PyObject *index = PyNumber_Index(object);
    Py_ssize_t length = index != NULL ? PyLong_AsSsize_t(index) : -1;
    Py_XDECREF(index);
    if (PyErr_Occurred()) {
        return -1;
    }
    if (length < 0) {
        PyErr_SetString(PyExc_ValueError, "length cannot be negative");
        return -1;
    }
    if (length >= SHAKE_LENGTH_LIMIT) {
        PyErr_SetString(PyExc_OverflowError, "digest length is too large");
        return -1;
    }
    return length;
}
#else
static Py_ssize_t
as_length(PyObject *object)
{
    unsigned long long length;
    if (hashes_as_unsigned(object, ULONG_MAX, "unsigned long", &length) < 0) {
        return -1;
    }
    if (length >= SHAKE_LENGTH_LIMIT) {
        PyErr_SetString(PyExc_ValueError, "length is too large");
        return -1;
    }
    return (Py_ssize_t)length;
}
#endif

/* The digest as bytes, of the length that the arguments say. */
static PyObject *
shake_finish(PyObject *self, const struct hashes_signature *signature,
             PyObject *args, PyObject *kwargs)
{
    PyObject *values[HASHES_MAX_ARGUMENTS];
    if (hashes_parse(signature, args, kwargs, values) < 0) {
        return NULL;
    }
    Py_ssize_t length = as_length(values[0]);
    if (length < 0) {
        return NULL;
    }
    PyObject *digest = PyBytes_FromStringAndSize(NULL, length);
    if (digest != NULL && hash_finish(as_hash(self),
                                      (unsigned char *)PyBytes_AS_STRING(digest),
                                      length) < 0) {
        Py_CLEAR(digest);
    }
    return digest;
}

static PyObject *
shake_digest(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static const struct hashes_signature signature = { "O:digest", { "length", NULL } };
    return shake_finish(self, &signature, args, kwargs);
}

static PyObject *
shake_hexdigest(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static const struct hashes_signature signature = {
        "O:hexdigest", { "length", NULL } };
    PyObject *digest = shake_finish(self, &signature, args, kwargs);
    if (digest == NULL) {
        return NULL;
    }
    PyObject *text = hashes_hexadecimal((unsigned char *)PyBytes_AS_STRING(digest),
                                        PyBytes_GET_SIZE(digest));
    Py_DECREF(digest);
    return text;
}

/* -- attributes --------------------------------------------------------------- */

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
    return PyLong_FromLong(as_hash(self)->algorithm->digest_size);
}

static PyObject *
get_capacity_bits(PyObject *self, void *Py_UNUSED(closure))
{
    return PyLong_FromLong(SHA3_STATE_BITS - 8 * as_hash(self)->algorithm->block_size);
}

static PyObject *
get_rate_bits(PyObject *self, void *Py_UNUSED(closure))
{
    return PyLong_FromLong(8 * as_hash(self)->algorithm->block_size);
}

static PyObject *
get_suffix(PyObject *self, void *Py_UNUSED(closure))
{
    return PyBytes_FromStringAndSize(&as_hash(self)->algorithm->suffix, 1);
}

#define COMMON_GETTERS \
    { "block_size", get_block_size, NULL, NULL, NULL }, \
    { "name", get_name, NULL, NULL, NULL }, \
    { "digest_size", get_digest_size, NULL, NULL, NULL }

static PyGetSetDef hash_getters[] = {
    COMMON_GETTERS,
    { NULL, NULL, NULL, NULL, NULL },
};

static PyGetSetDef sha3_getters[] = {
    COMMON_GETTERS,
    { "_capacity_bits", get_capacity_bits, NULL, NULL, NULL },
    { "_rate_bits", get_rate_bits, NULL, NULL, NULL },
    { "_suffix", get_suffix, NULL, NULL, NULL },
    { NULL, NULL, NULL, NULL, NULL },
};

/* -- methods ------------------------------------------------------------------ */

PyDoc_STRVAR(copy_doc, "copy($self, /)\n--\n\n"
             "Give another object that goes on from what is hashed so far.");
PyDoc_STRVAR(digest_doc, "digest($self, /)\n--\n\n"
             "Give the digest of all data so far, as bytes.");
PyDoc_STRVAR(hexdigest_doc, "hexdigest($self, /)\n--\n\n"
             "Give the digest of all data so far, in hexadecimal digits.");
PyDoc_STRVAR(shake_digest_doc, "digest($self, /, length)\n--\n\n"
             "Give length bytes of the digest of all data so far.");
PyDoc_STRVAR(shake_hexdigest_doc, "hexdigest($self, /, length)\n--\n\n"
             "Give length bytes of the digest of all data so far, "
             "in hexadecimal digits.");
PyDoc_STRVAR(update_doc, "update($self, obj, /)\n--\n\n"
             "Hash the bytes of obj after all data so far.");
PyDoc_STRVAR(sha3_update_doc, "update($self, data, /)\n--\n\n"
             "Hash the bytes of data after all data so far.");

#define AS_METHOD(FUNCTION) ((PyCFunction)(void (*)(void))(FUNCTION))
#define COPY_OF_CLASS \
    { "copy", AS_METHOD(hash_copy_of_class), \
      METH_METHOD | METH_FASTCALL | METH_KEYWORDS, copy_doc }
#if HASHES_SINCE_315
#define SHA3_COPY COPY_OF_CLASS
#else
#define SHA3_COPY { "copy", hash_copy, METH_NOARGS, copy_doc }
#endif

static PyMethodDef hash_methods[] = {
    COPY_OF_CLASS,
    { "digest", hash_digest, METH_NOARGS, digest_doc },
    { "hexdigest", hash_hexdigest, METH_NOARGS, hexdigest_doc },
    { "update", hash_update, METH_O, update_doc },
    { NULL, NULL, 0, NULL },
};

static PyMethodDef sha3_methods[] = {
    SHA3_COPY,
    { "digest", hash_digest, METH_NOARGS, digest_doc },
    { "hexdigest", hash_hexdigest, METH_NOARGS, hexdigest_doc },
    { "update", hash_update, METH_O, sha3_update_doc },
    { NULL, NULL, 0, NULL },
};

static PyMethodDef shake_methods[] = {
    SHA3_COPY,
    { "digest", AS_METHOD(shake_digest), METH_VARARGS | METH_KEYWORDS,
      shake_digest_doc },
    { "hexdigest", AS_METHOD(shake_hexdigest), METH_VARARGS | METH_KEYWORDS,
      shake_hexdigest_doc },
    { "update", hash_update, METH_O, sha3_update_doc },
    { NULL, NULL, 0, NULL },
};

/* -- types and functions ------------------------------------------------------ */

#define TYPE_FLAGS (Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_HAVE_GC)
#define CONSTRUCTOR_NAMES { "data", "usedforsecurity", "string", NULL }
#define MAX_FUNCTIONS 4         /* of a module */

/* The types that the functions of a module make objects of. */
struct module_state {
    PyTypeObject *types[MAX_FUNCTIONS];
};

static PyType_Slot hash_slots[] = {
    { Py_tp_dealloc, hash_dealloc },
    { Py_tp_traverse, hash_traverse },
    { Py_tp_methods, hash_methods },
    { Py_tp_getset, hash_getters },
    { 0, NULL },
};

/* A type without a constructor, and the function that makes its objects: FUNCTION is
 * the i-th of its module. */
#define HASH_FUNCTION(FUNCTION, ALGORITHM, I, TYPE_NAME, TITLE) \
    static PyType_Spec FUNCTION##_spec = { \
        .name = TYPE_NAME, \
        .basicsize = sizeof(struct hash), \
        .flags = TYPE_FLAGS | Py_TPFLAGS_DISALLOW_INSTANTIATION, \
        .slots = hash_slots, \
    }; \
    static PyObject * \
    FUNCTION##_function(PyObject *module, PyObject *args, PyObject *kwargs) \
    { \
        static const struct hashes_signature signature = { \
            "|O$OO:" #FUNCTION, CONSTRUCTOR_NAMES }; \
        struct module_state *state = PyModule_GetState(module); \
        PyObject *data; \
        if (hashes_parse_constructor(&signature, args, kwargs, &data) < 0) { \
            return NULL; \
        } \
        return hash_new(state->types[I], &algorithms[ALGORITHM], data); \
    } \
    PyDoc_STRVAR(FUNCTION##_doc, #FUNCTION "($module, /, data=b'', *, " \
                 "usedforsecurity=True, string=None)\n--\n\n" \
                 "Make an object that hashes with " TITLE ", data first.");

HASH_FUNCTION(md5, MD5, 0, "_md5.md5", "MD5")
HASH_FUNCTION(sha1, SHA1, 0, "_sha1.sha1", "SHA-1")
HASH_FUNCTION(sha224, SHA224, 0, "_sha2.SHA224Type", "SHA-224")
HASH_FUNCTION(sha256, SHA256, 1, "_sha2.SHA256Type", "SHA-256")
HASH_FUNCTION(sha384, SHA384, 2, "_sha2.SHA384Type", "SHA-384")
HASH_FUNCTION(sha512, SHA512, 3, "_sha2.SHA512Type", "SHA-512")

/* A type with a constructor. CPython's messages say sha3_224() for all six. */
#define SHA3_TYPE(NAME, ALGORITHM, METHODS, DOC) \
    static PyObject * \
    NAME##_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) \
    { \
        static const struct hashes_signature signature = { \
            "|O$OO:sha3_224", CONSTRUCTOR_NAMES }; \
        PyObject *data; \
        if (hashes_parse_constructor(&signature, args, kwargs, &data) < 0) { \
            return NULL; \
        } \
        return hash_new(type, &algorithms[ALGORITHM], data); \
    } \
    static PyType_Slot NAME##_slots[] = { \
        { Py_tp_new, NAME##_new }, \
        { Py_tp_dealloc, hash_dealloc }, \
        { Py_tp_traverse, hash_traverse }, \
        { Py_tp_methods, METHODS }, \
        { Py_tp_getset, sha3_getters }, \
        { Py_tp_doc, #NAME "([data], *, usedforsecurity=True)\n\n" DOC }, \
        { 0, NULL }, \
    }; \
    static PyType_Spec NAME##_spec = { \
        .name = "_sha3." #NAME, \
        .basicsize = sizeof(struct hash), \
        .flags = TYPE_FLAGS, \
        .slots = NAME##_slots, \
    };

SHA3_TYPE(sha3_224, SHA3_224, sha3_methods, "SHA-3 with a digest of 28 bytes.")
SHA3_TYPE(sha3_256, SHA3_256, sha3_methods, "SHA-3 with a digest of 32 bytes.")
SHA3_TYPE(sha3_384, SHA3_384, sha3_methods, "SHA-3 with a digest of 48 bytes.")
SHA3_TYPE(sha3_512, SHA3_512, sha3_methods, "SHA-3 with a digest of 64 bytes.")
SHA3_TYPE(shake_128, SHAKE_128, shake_methods, "SHAKE with a digest of any length.")
SHA3_TYPE(shake_256, SHAKE_256, shake_methods, "SHAKE with a digest of any length.")

/* -- modules ------------------------------------------------------------------ */

static int
add_type(PyObject *module, PyType_Spec *spec, const char *attribute,
         PyTypeObject **type)
{
    PyObject *made = PyType_FromModuleAndSpec(module, spec, NULL);
    if (made == NULL) {
        return -1;
    }
    int result = PyModule_AddObjectRef(module, attribute, made);
    *type = (PyTypeObject *)made;
    return result;
}

static int
add_minsize(PyObject *module)
{
    return PyModule_AddIntConstant(module, "_GIL_MINSIZE", HASHES_GIL_MINSIZE);
}

static int
md5_exec(PyObject *module)
{
    struct module_state *state = PyModule_GetState(module);
    return add_type(module, &md5_spec, "MD5Type", &state->types[0]) < 0
        ? -1 : add_minsize(module);
}

static int
sha1_exec(PyObject *module)
{
    struct module_state *state = PyModule_GetState(module);
    return add_type(module, &sha1_spec, "SHA1Type", &state->types[0]) < 0
        ? -1 : add_minsize(module);
}

static int
sha2_exec(PyObject *module)
{
    struct module_state *state = PyModule_GetState(module);
    if (add_type(module, &sha224_spec, "SHA224Type", &state->types[0]) < 0
        || add_type(module, &sha256_spec, "SHA256Type", &state->types[1]) < 0
        || add_type(module, &sha384_spec, "SHA384Type", &state->types[2]) < 0
        || add_type(module, &sha512_spec, "SHA512Type", &state->types[3]) < 0) {
        return -1;
    }
    return add_minsize(module);
}

static int
sha3_exec(PyObject *module)
{
    static PyType_Spec *const specs[] = { &sha3_224_spec, &sha3_256_spec,
        &sha3_384_spec, &sha3_512_spec, &shake_128_spec, &shake_256_spec };
    for (size_t i = 0; i < Py_ARRAY_LENGTH(specs); i++) {
        PyTypeObject *type = NULL;
        const char *attribute = specs[i]->name + strlen("_sha3.");
        int added = add_type(module, specs[i], attribute, &type);
        Py_XDECREF(type);
        if (added < 0) {
            return -1;
        }
    }
    if (PyModule_AddStringConstant(module, "implementation", "OpenSSL") < 0) {
        return -1;
    }
    return add_minsize(module);
}

static int
module_traverse(PyObject *module, visitproc visit, void *arg)
{
    struct module_state *state = PyModule_GetState(module);
    for (int i = 0; i < MAX_FUNCTIONS; i++) {
        Py_VISIT(state->types[i]);
    }
    return 0;
}

static int
module_clear(PyObject *module)
{
    struct module_state *state = PyModule_GetState(module);
    for (int i = 0; i < MAX_FUNCTIONS; i++) {
        Py_CLEAR(state->types[i]);
    }
    return 0;
}

static void
module_free(void *module)
{
    (void)module_clear(module);
}

#define ENTRY(FUNCTION) \
    { #FUNCTION, AS_METHOD(FUNCTION##_function), METH_VARARGS | METH_KEYWORDS, \
      FUNCTION##_doc }

static PyMethodDef md5_functions[] = { ENTRY(md5), { NULL, NULL, 0, NULL } };
static PyMethodDef sha1_functions[] = { ENTRY(sha1), { NULL, NULL, 0, NULL } };
static PyMethodDef sha2_functions[] = {
    ENTRY(sha224), ENTRY(sha256), ENTRY(sha384), ENTRY(sha512), { NULL, NULL, 0, NULL }
};
static PyMethodDef sha3_functions[] = { { NULL, NULL, 0, NULL } };

#define HASH_MODULE(NAME) \
    static PyModuleDef_Slot NAME##_module_slots[] = { \
        { Py_mod_exec, NAME##_exec }, \
        { Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED }, \
        { Py_mod_gil, Py_MOD_GIL_NOT_USED }, \
        { 0, NULL }, \
    }; \
    static struct PyModuleDef NAME##_module = { \
        .m_base = PyModuleDef_HEAD_INIT, \
        .m_name = "_" #NAME, \
        .m_size = sizeof(struct module_state), \
        .m_methods = NAME##_functions, \
        .m_slots = NAME##_module_slots, \
        .m_traverse = module_traverse, \
        .m_clear = module_clear, \
        .m_free = module_free, \
    }; \
    PyMODINIT_FUNC \
    PyInit__##NAME(void) \
    { \
        return PyModuleDef_Init(&NAME##_module); \
    }

/* Those that an archive has are left to it. */
#ifndef HASHES_WITHOUT_md5
HASH_MODULE(md5)
#endif
#ifndef HASHES_WITHOUT_sha1
HASH_MODULE(sha1)
#endif
#ifndef HASHES_WITHOUT_sha2
HASH_MODULE(sha2)
#endif
#ifndef HASHES_WITHOUT_sha3
HASH_MODULE(sha3)
#endif
