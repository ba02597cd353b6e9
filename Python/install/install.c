/* pymem under an interpreter that has its own memory subsystem.
 *
 *   the interpreter's PyObject_Malloc()
 *         |  its allocator of the domain, set by pymem_install()
 *         v
 *   _PyObject_Malloc()                       Objects/pymalloc.c
 *
 * The interpreter is found by the names that it exports.  It is also the host
 * that pycore_host.h speaks of.
 *
 * From 3.12 on a process may have interpreters with a GIL each, and each has a heap:
 * installheaps.c. */

#define _GNU_SOURCE
#include "pymeminstall.h"
#include "pycore_compiler.h"
#include "pycore_domainnames.h"
#include "pycore_hardened.h"
#include "pycore_host.h"
#include "pycore_install.h"
#include "pycore_pymem.h"

#include "cpython/objimpl.h"

#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct interpreter_functions interpreter;

#ifdef WITH_HARDENED
#  define HARDENED_BY_DEFAULT 1
#else
#  define HARDENED_BY_DEFAULT 0
#endif

enum { FIRST = 0, MAYBE = 99 };
enum { NEWEST = 15 };                   /* 3.N: what a later one asks for nobody tried */
#define FUNCTION(name, since) {#name, offsetof(struct interpreter_functions, name), since}
static const struct {
    const char *name;
    size_t offset;
    int since;                  /* 3.N; FIRST is any, and looked for before the version is
                                 * known; MAYBE may be missing */
} functions[] = {
    FUNCTION(Py_GetVersion, FIRST), FUNCTION(Py_IsInitialized, FIRST),
    FUNCTION(PyGILState_Check, FIRST), FUNCTION(PyMem_GetAllocator, FIRST),
    FUNCTION(PyMem_SetAllocator, FIRST), FUNCTION(PyMem_SetupDebugHooks, FIRST),
    FUNCTION(PyThreadState_GetUnchecked, 8), FUNCTION(PyGILState_GetThisThreadState, 8),
    FUNCTION(PyThreadState_GetInterpreter, 12),
    FUNCTION(PyInterpreterState_GetID, 12), FUNCTION(PyInterpreterState_Main, 12),
    FUNCTION(Py_FatalError, 8),
    FUNCTION(_PyInterpreterState_HasFeature, MAYBE), FUNCTION(_PyRuntime, MAYBE),
};

/* The host. */

int
PyGILState_Check(void)
{
    return interpreter.PyGILState_Check();
}

/* Up to 3.11 the current state is one for the process, from 3.12 on one for the thread,
 * and where there are interpreters with a GIL each no other is a thread's own. */
int
_PyMem_HoldsGIL(void)
{
    void *current = interpreter.PyThreadState_GetUnchecked();
    return current != NULL && (interpreter.PyThreadState_GetInterpreter != NULL
                               || current == interpreter.PyGILState_GetThisThreadState());
}

/* The interpreter's, which prints where Python is; but not before there is any. */
void
_Py_FatalErrorFormat(const char *func, const char *format, ...)
{
    char text[1000];
    int length = snprintf(text, sizeof(text), "%s: ", func);
    va_list args;
    va_start(args, format);
    vsnprintf(text + length, sizeof(text) - (size_t)length, format, args);
    va_end(args);
    if (interpreter.Py_FatalError != NULL && interpreter.Py_IsInitialized()) {
        interpreter.Py_FatalError(text);
    }
    fprintf(stderr, "pymem: fatal error: %s\n", text);
    abort();
}

void
_Py_FatalErrorFunc(const char *func, const char *message)
{
    _Py_FatalErrorFormat(func, "%s", message);
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

/* One function by name; what was private until it was public has that name too. */
static void *
find_function(const char *name)
{
    void *address = dlsym(RTLD_DEFAULT, name);
    return address == NULL && strcmp(name, "PyThreadState_GetUnchecked") == 0
        ? dlsym(RTLD_DEFAULT, "_PyThreadState_UncheckedGet") : address;
}

/* Those to begin with, minor 0; later the others that a version has. */
static int
find_functions(int minor, char *error, size_t size)
{
    for (size_t i = 0; i < sizeof(functions) / sizeof(functions[0]); i++) {
        int since = functions[i].since;
        int is_asked = minor == 0 ? since == FIRST
            : since != FIRST && (since <= minor || (since == MAYBE && minor >= 12));
        if (!is_asked) {
            continue;
        }
        void *address = find_function(functions[i].name);
        if (address == NULL && since != MAYBE) {
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
    static const char *const names[] = DOMAIN_NAMES;
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

static void
set_allocators(unsigned flags)
{
    PyMemAllocatorEx allocs[NB_DOMAINS] = {RAW_ALLOC, PYMALLOC_ALLOC, PYMALLOC_ALLOC};
    if (HARDENED_BY_DEFAULT || flags & PYMEM_INSTALL_HARDENED) {
        const PyMemAllocatorEx hardened[NB_DOMAINS] = HARDENED_ALLOCS;
        _PyMem_SetupAllocators(PYMEM_ALLOCATOR_HARDENED);   /* for the statistics */
        memcpy(allocs, hardened, sizeof(allocs));
    }
    else if (!(flags & PYMEM_INSTALL_RAW)) {
        interpreter.PyMem_GetAllocator(PYMEM_DOMAIN_RAW, &allocs[PYMEM_DOMAIN_RAW]);
    }
    allocs[PYMEM_DOMAIN_RAW] = install_raw_domain(&allocs[PYMEM_DOMAIN_RAW]);
    for (int domain = 0; domain < NB_DOMAINS; domain++) {
        interpreter.PyMem_SetAllocator(domain, &allocs[domain]);
    }
}

int
pymem_install(unsigned flags, char *error, size_t error_size)
{
    static int is_installed;
    if (is_installed) {
        return refuse(error, error_size, "pymem is installed already");
    }
    if (find_functions(0, error, error_size) < 0) {
        return -1;
    }
    const char *version = interpreter.Py_GetVersion();
    int number_size = (int)strcspn(version, " \n");   /* all of it is two lines */
    int major = 0, minor = 0;
    if (sscanf(version, "%d.%d", &major, &minor) != 2 || major != 3 || minor < 8) {
        return refuse(error, error_size, "CPython 3.8 or later is needed, and "
                      "this is %.*s", number_size, version);
    }
    if (minor > NEWEST) {
        return refuse(error, error_size, "this is CPython %.*s, which is not known "
                      "yet; supported: 3.8 to 3.%d", number_size, version, NEWEST);
    }
    if (strstr(version, "free-threading") != NULL) {
        return refuse(error, error_size, "this is a free-threaded CPython (%.*s); "
                      "one with the GIL is needed", number_size, version);
    }
    if (interpreter.Py_IsInitialized()) {
        return refuse(error, error_size, "the interpreter is initialized, and has "
                      "blocks of its own allocator");
    }
    if (check_allocators(error, error_size) < 0
        || find_functions(minor, error, error_size) < 0)
    {
        return -1;
    }
    set_allocators(flags);
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
