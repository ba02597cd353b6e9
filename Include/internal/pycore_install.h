/* pymem under an interpreter that has its own memory subsystem: what is asked of
 * the interpreter (Python/install/install.c), which of its interpreters has which heap
 * (Python/install/installheaps.c), and where its functions read (Python/install/installplaces.c). */

#ifndef Py_INTERNAL_INSTALL_H
#define Py_INTERNAL_INSTALL_H

#include "cpython/pymem.h"

/* All public functions of CPython but the last two, which are asked where they are there:
 * up to 3.12, and from 3.13 on. */
struct interpreter_functions {
    const char *(*Py_GetVersion)(void);
    int (*Py_IsInitialized)(void);
    int (*PyGILState_Check)(void);
    void (*PyMem_GetAllocator)(int domain, PyMemAllocatorEx *allocator);
    void (*PyMem_SetAllocator)(int domain, PyMemAllocatorEx *allocator);
    void (*PyMem_SetupDebugHooks)(void);
    void *(*PyThreadState_GetUnchecked)(void);      /* of any version: install.c */
    void *(*PyGILState_GetThisThreadState)(void);
    void (*Py_FatalError)(const char *message);
    /* From 3.12 on; all or none. */
    void *(*PyThreadState_GetInterpreter)(void *tstate);
    int64_t (*PyInterpreterState_GetID)(void *interp);
    void *(*PyInterpreterState_Main)(void);
    int (*_PyInterpreterState_HasFeature)(void *interp, unsigned long feature);
    const uint64_t *_PyRuntime;     /* offsets in its structures, for debuggers */
};
extern __attribute__((visibility("hidden"))) struct interpreter_functions interpreter;

/* The interpreter's raw domain: what it was, with an eye on interpreters that begin and
 * end, and on medium blocks. */
PyMemAllocatorEx install_raw_domain(const PyMemAllocatorEx *raw);

/* Where a function reads the one word that it returns, and does nothing else: its place in
 * the structure that the argument leads to, which is never the first; or its address, where
 * it is a word of the calling thread.  0 and NULL: not known, or the function does more. */
size_t place_in_argument(const void *function);
const void *word_in_thread(const void *function);

#endif /* !Py_INTERNAL_INSTALL_H */
