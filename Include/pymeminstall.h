/* pymem in a CPython that was not built with it.
 *
 *     cc embed.c $(python3-config --embed --cflags --ldflags) -lpymeminstall
 *
 * The library exports this and nothing else: the PyMem functions of the process
 * stay the interpreter's own, which call ours.  pymem-run does the same for a
 * python that is not yours. */

#ifndef PYMEMINSTALL_H
#define PYMEMINSTALL_H

#include <stddef.h>
#include <stdio.h>

#ifdef __cplusplus
extern "C" {
#endif

#define PYMEM_INSTALL_RAW 1u        /* the raw domain, too */
#define PYMEM_INSTALL_DEBUG 2u      /* the interpreter's debug hooks above it */
#define PYMEM_INSTALL_HARDENED 4u   /* all three domains, hardened (PYMEM_HARDENED) */

/* Serve the mem and object domains of the CPython in this process (3.8 to 3.15,
 * with the GIL) from pymem.
 *
 * To be called once, after Py_PreInitialize() and before Py_InitializeFromConfig():
 * PYTHONMALLOC and developer mode choose an allocator in the first, and blocks
 * exist after the second.
 *
 * 0; or -1 when it can't be, with the reason in error (if error_size is not 0),
 * and nothing changed. */
__attribute__((visibility("default")))
int pymem_install(unsigned flags, char *error, size_t error_size);

/* Write what _PyObject_DebugMallocStats() of pymem tells as one JSON object.
 * With the GIL held, or when nobody else allocates.  0, or -1 with errno set. */
__attribute__((visibility("default")))
int pymem_write_statistics(FILE *out);

#ifdef __cplusplus
}
#endif

#endif /* !PYMEMINSTALL_H */
