/* pymem under an interpreter that has a memory subsystem of its own.
 *
 *   the interpreter's PyObject_Malloc()
 *         |  its allocator of the domain, set by pymem_install()
 *         v
 *   _PyObject_Malloc()                       Objects/pymalloc.c
 *
 * The interpreter is found by the names that it exports.  It is also the host
 * that pycore_host.h speaks of.
 *
 * From 3.12 on a process may have interpreters with a GIL each.  A new one is
 * noticed by the one large block that its state is. */

#define _GNU_SOURCE
#include "pymeminstall.h"
#include "pycore_compiler.h"
#include "pycore_host.h"
#include "pycore_pymem.h"

#include "cpython/objimpl.h"

#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What is asked of the interpreter. */
static struct {
    const char *(*Py_GetVersion)(void);
    int (*Py_IsInitialized)(void);
    int (*PyGILState_Check)(void);
    void (*PyMem_GetAllocator)(int domain, PyMemAllocatorEx *allocator);
    void (*PyMem_SetAllocator)(int domain, PyMemAllocatorEx *allocator);
    void (*PyMem_SetupDebugHooks)(void);
} interpreter;

static const struct {
    const char *name;
    size_t offset;
} functions[] = {
#define FUNCTION(name) {#name, offsetof(__typeof__(interpreter), name)}
    FUNCTION(Py_GetVersion), FUNCTION(Py_IsInitialized),
    FUNCTION(PyGILState_Check), FUNCTION(PyMem_GetAllocator),
    FUNCTION(PyMem_SetAllocator), FUNCTION(PyMem_SetupDebugHooks),
};

/* The host. */

int
PyGILState_Check(void)
{
    return interpreter.PyGILState_Check();
}

void
_Py_FatalErrorFormat(const char *func, const char *format, ...)
{
    fprintf(stderr, "pymem: fatal error: %s: ", func);
    va_list args;
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    abort();
}

void
_Py_FatalErrorFunc(const char *func, const char *message)
{
    _Py_FatalErrorFormat(func, "%s", message);
}

/* The raw domain of an interpreter that may have others beside it.  The state of
 * one is by far larger than all else that it asks calloc() for; a block that only
 * looks like one costs the lock from then on, and nothing else. */
#define INTERPRETER_STATE_MIN ((size_t)64 * 1024)

static PyMemAllocatorEx raw_below;

static void *
watching_calloc(void *ctx, size_t nelem, size_t elsize)
{
    (void)ctx;
    if (nelem * elsize >= INTERPRETER_STATE_MIN && interpreter.Py_IsInitialized()) {
        ;
    }
    return raw_below.calloc(raw_below.ctx, nelem, elsize);
}

/* Installing it. */

static int
refuse(char *error, size_t size, const char *format, ...)
{
    if (size > 0) {
        va_list args;
        va_start(args, format);
        vsnprintf(error, size, format, args);
        va_end(args);
    }
    return -1;
}

static int
find_interpreter(char *error, size_t size)
{
    for (size_t i = 0; i < sizeof(functions) / sizeof(functions[0]); i++) {
        void *address = dlsym(RTLD_DEFAULT, functions[i].name);
        if (address == NULL) {
            return refuse(error, size, "there is no CPython in this program: it "
                          "exports no %s", functions[i].name);
        }
        memcpy((char *)&interpreter + functions[i].offset, &address,
               sizeof(address));
    }
    return 0;
}

static int
same_object(const void *a, const void *b)
{
    Dl_info of_a, of_b;
    return dladdr(a, &of_a) != 0 && dladdr(b, &of_b) != 0
        && of_a.dli_fbase == of_b.dli_fbase;
}

/* Is each domain served by the interpreter itself? */
static int
check_allocators(char *error, size_t size)
{
    static const char *const names[] = {"raw", "mem", "object"};
    for (int domain = 0; domain < NB_DOMAINS; domain++) {
        PyMemAllocatorEx alloc;
        interpreter.PyMem_GetAllocator(domain, &alloc);
        void *theirs, *setter;
        memcpy(&theirs, &alloc.malloc, sizeof(theirs));
        memcpy(&setter, &interpreter.PyMem_SetAllocator, sizeof(setter));
        if (!same_object(theirs, setter)) {
            return refuse(error, size, "the allocator of the %s domain was "
                          "replaced already", names[domain]);
        }
    }
    return 0;
}

int
pymem_install(unsigned flags, char *error, size_t error_size)
{
    static int is_installed;
    if (is_installed) {
        return refuse(error, error_size, "pymem is installed already");
    }
    if (find_interpreter(error, error_size) < 0) {
        return -1;
    }
    const char *version = interpreter.Py_GetVersion();
    int major = 0, minor = 0;
    if (sscanf(version, "%d.%d", &major, &minor) != 2 || major != 3 || minor < 8) {
        return refuse(error, error_size, "CPython 3.8 or later is needed, and "
                      "this is %s", version);
    }
    if (strstr(version, "free-threading") != NULL) {
        return refuse(error, error_size, "this is a free-threaded CPython (%s); "
                      "one with the GIL is needed", version);
    }
    if (interpreter.Py_IsInitialized()) {
        return refuse(error, error_size, "the interpreter is initialized, and has "
                      "blocks of its own allocator");
    }
    if (check_allocators(error, error_size) < 0) {
        return -1;
    }
    PyMemAllocatorEx alloc = PYMALLOC_ALLOC;
    interpreter.PyMem_SetAllocator(PYMEM_DOMAIN_MEM, &alloc);
    interpreter.PyMem_SetAllocator(PYMEM_DOMAIN_OBJ, &alloc);
    interpreter.PyMem_GetAllocator(PYMEM_DOMAIN_RAW, &raw_below);
    if (flags & PYMEM_INSTALL_RAW) {
        raw_below = (PyMemAllocatorEx)RAW_ALLOC;
    }
    PyMemAllocatorEx raw = raw_below;
    if (minor >= 12) {
        /* Its other functions are used as they are. */
        raw.calloc = watching_calloc;
    }
    interpreter.PyMem_SetAllocator(PYMEM_DOMAIN_RAW, &raw);
    if (flags & PYMEM_INSTALL_DEBUG) {
        interpreter.PyMem_SetupDebugHooks();
    }
    is_installed = 1;
    return 0;
}

int
pymem_write_statistics(FILE *out)
{
    _PyObject_WriteMallocStats(out);
    return fflush(out) == 0 && !ferror(out) ? 0 : -1;
}
