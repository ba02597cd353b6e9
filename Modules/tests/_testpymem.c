/* Gives the driver (Lib/pymem/conformance/driver.c) the functions of the API that this
 * file is linked with: our own, or those of the CPython that loads the module.
 *
 * Compiled twice from the same source: against this project, with a private copy of its
 * library, and against the CPython that runs the tests.  The two see nothing of each
 * other.  Tools/check-oracle compiles it for other interpreters, and for any library
 * with the PyMem functions. */

#include "driver.h"

#include <Python.h>

#ifdef PYPY_VERSION
/* PyPy has the three families and the tracer's functions, and nothing else. */
PyAPI_FUNC(void) PyMem_GetAllocator(void);
PyAPI_FUNC(void) PyMem_SetAllocator(void);
PyAPI_FUNC(void) PyMem_SetupDebugHooks(void);
PyAPI_FUNC(void) PyObject_GetArenaAllocator(void);
PyAPI_FUNC(void) PyObject_SetArenaAllocator(void);
typedef int PyMemAllocatorName;
#endif

/* Private functions that CPython declares in internal headers. */
PyAPI_FUNC(int) _PyMem_GetAllocatorName(const char *name,
                                        PyMemAllocatorName *allocator);
PyAPI_FUNC(int) _PyMem_SetupAllocators(PyMemAllocatorName allocator);
PyAPI_FUNC(int) _PyObject_DebugMallocStats(FILE *out);
PyAPI_FUNC(Py_ssize_t) _Py_GetGlobalAllocatedBlocks(void);  /* 3.12 */
PyAPI_FUNC(Py_ssize_t) _Py_GetAllocatedBlocks(void);        /* before */
PyAPI_FUNC(const char *) _PyMem_GetCurrentAllocatorName(void);
PyAPI_FUNC(int) PyTraceMalloc_Track(unsigned int domain, uintptr_t ptr,
                                    size_t size);
PyAPI_FUNC(int) PyTraceMalloc_Untrack(unsigned int domain, uintptr_t ptr);

/* What an implementation may lack.  A test that asks for it hears its name. */
#define OPTIONAL(function) \
    extern __typeof__(function) function __attribute__((weak))
OPTIONAL(PyMem_GetAllocator);
OPTIONAL(PyMem_SetAllocator);
OPTIONAL(PyMem_SetupDebugHooks);
OPTIONAL(PyObject_GetArenaAllocator);
OPTIONAL(PyObject_SetArenaAllocator);
OPTIONAL(_PyMem_GetAllocatorName);
OPTIONAL(_PyMem_SetupAllocators);
OPTIONAL(_PyObject_DebugMallocStats);
OPTIONAL(_Py_GetGlobalAllocatedBlocks);
OPTIONAL(_Py_GetAllocatedBlocks);
OPTIONAL(_PyMem_GetCurrentAllocatorName);
OPTIONAL(PyTraceMalloc_Track);
OPTIONAL(PyTraceMalloc_Untrack);

/* The name is CPython's, also where PyPy's headers call the function another. */
#define PROVIDE(function) \
    testpymem_provide(#function, (void *)(uintptr_t)(function))

void
testpymem_provide_linked(void)
{
    PROVIDE(PyMem_RawMalloc);
    PROVIDE(PyMem_RawCalloc);
    PROVIDE(PyMem_RawRealloc);
    PROVIDE(PyMem_RawFree);
    PROVIDE(PyMem_Malloc);
    PROVIDE(PyMem_Calloc);
    PROVIDE(PyMem_Realloc);
    PROVIDE(PyMem_Free);
    PROVIDE(PyObject_Malloc);
    PROVIDE(PyObject_Calloc);
    PROVIDE(PyObject_Realloc);
    PROVIDE(PyObject_Free);
    PROVIDE(PyMem_GetAllocator);
    PROVIDE(PyMem_SetAllocator);
    PROVIDE(PyMem_SetupDebugHooks);
    PROVIDE(PyObject_GetArenaAllocator);
    PROVIDE(PyObject_SetArenaAllocator);
    PROVIDE(_PyMem_GetAllocatorName);
    PROVIDE(_PyMem_SetupAllocators);
    PROVIDE(_PyObject_DebugMallocStats);
    PROVIDE(_Py_GetGlobalAllocatedBlocks);
    PROVIDE(_Py_GetAllocatedBlocks);
    PROVIDE(_PyMem_GetCurrentAllocatorName);
    PROVIDE(PyTraceMalloc_Track);
    PROVIDE(PyTraceMalloc_Untrack);
    PROVIDE(PyGILState_Ensure);
    PROVIDE(PyGILState_Release);
}
