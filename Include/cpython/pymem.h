/* The raw domain, allocators as values, and the names of PYTHONMALLOC: what
 * CPython keeps outside its limited API. */

#ifndef Py_CPYTHON_PYMEM_H
#define Py_CPYTHON_PYMEM_H

#include "pyport.h"

#include <stdio.h>
#include <wchar.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The raw domain.  From any thread, with or without the GIL (since 3.4). */
PyAPI_FUNC(void *) PyMem_RawMalloc(size_t size);
PyAPI_FUNC(void *) PyMem_RawCalloc(size_t nelem, size_t elsize); /* since 3.5 */
PyAPI_FUNC(void *) PyMem_RawRealloc(void *ptr, size_t new_size);
PyAPI_FUNC(void) PyMem_RawFree(void *ptr);

/* Copies of a string in raw, raw and mem memory.  NULL when there is no
 * memory or the size overflows.  The caller frees with the same domain. */
PyAPI_FUNC(wchar_t *) _PyMem_RawWcsdup(const wchar_t *str);
PyAPI_FUNC(char *) _PyMem_RawStrdup(const char *str);
PyAPI_FUNC(char *) _PyMem_Strdup(const char *str);

typedef enum {
    PYMEM_DOMAIN_RAW,   /* PyMem_RawMalloc(), ...  */
    PYMEM_DOMAIN_MEM,   /* PyMem_Malloc(), ...     */
    PYMEM_DOMAIN_OBJ    /* PyObject_Malloc(), ...  */
} PyMemAllocatorDomain;

/* The values of PYTHONMALLOC.  MIMALLOC and MIMALLOC_DEBUG are CPython 3.13's;
 * they can be chosen where configure was given --with-mimalloc. */
typedef enum {
    PYMEM_ALLOCATOR_NOT_SET = 0,
    PYMEM_ALLOCATOR_DEFAULT = 1,
    PYMEM_ALLOCATOR_DEBUG = 2,
    PYMEM_ALLOCATOR_MALLOC = 3,
    PYMEM_ALLOCATOR_MALLOC_DEBUG = 4,
#ifdef WITH_PYMALLOC
    PYMEM_ALLOCATOR_PYMALLOC = 5,
    PYMEM_ALLOCATOR_PYMALLOC_DEBUG = 6,
#endif
#ifdef WITH_MIMALLOC
    PYMEM_ALLOCATOR_MIMALLOC = 7,
    PYMEM_ALLOCATOR_MIMALLOC_DEBUG = 8,
#endif
    PYMEM_ALLOCATOR_HARDENED = 64,          /* ours, no CPython's */
    PYMEM_ALLOCATOR_HARDENED_DEBUG = 65,
} PyMemAllocatorName;

/* An allocator: four functions and what they are called with.  The functions
 * keep the rules at the top of pymem.h. */
typedef struct {
    void *ctx;
    void *(*malloc)(void *ctx, size_t size);
    void *(*calloc)(void *ctx, size_t nelem, size_t elsize);
    void *(*realloc)(void *ctx, void *ptr, size_t new_size);
    void (*free)(void *ctx, void *ptr);
} PyMemAllocatorEx;

/* Copy the allocator of a domain; a struct of NULLs for an unknown domain.
 * Since 3.4. */
PyAPI_FUNC(void) PyMem_GetAllocator(PyMemAllocatorDomain domain,
                                    PyMemAllocatorEx *allocator);

/* Set the allocator of a domain (the struct is copied); an unknown domain is
 * ignored.  Blocks that are alive stay with whoever gave them, so a new
 * allocator either wraps the one it found or comes before the first request.
 * An allocator for the raw domain must be thread-safe.  Call it with the GIL
 * held or before any other thread exists.  Since 3.4. */
PyAPI_FUNC(void) PyMem_SetAllocator(PyMemAllocatorDomain domain,
                                    PyMemAllocatorEx *allocator);

/* Wrap each domain's allocator with the debug hooks (once: a domain that has
 * them stays as it is).  Call it before the first request, or again after
 * PyMem_SetAllocator().  Since 3.4. */
PyAPI_FUNC(void) PyMem_SetupDebugHooks(void);

/* Give back to the system, now, all memory that no block is in: empty arenas, the
 * pages of free pools, and what malloc holds.  Returns the number of bytes that
 * pymalloc gave back: of the calling interpreter, of the calling thread, and of
 * threads that have ended.  Ours: CPython has no such function.  With the GIL held. */
PyAPI_FUNC(size_t) PyMem_Trim(void);

/* Parse a value of PYTHONMALLOC.  NULL, "" and "default" are DEFAULT.
 * 0, or -1 for an unknown name (*allocator is untouched then). */
PyAPI_FUNC(int) _PyMem_GetAllocatorName(const char *name,
                                        PyMemAllocatorName *allocator);

/* The name for the three domains as they stand: "malloc", "malloc_debug",
 * "pymalloc", "pymalloc_debug", "mimalloc", "mimalloc_debug", "hardened",
 * "hardened_debug", or NULL when they match none of them exactly. */
PyAPI_FUNC(const char *) _PyMem_GetCurrentAllocatorName(void);

/* Set all three domains to what a name stands for; NOT_SET does nothing.
 * 0, or -1 for a name that is unknown or can't be had on this machine. */
PyAPI_FUNC(int) _PyMem_SetupAllocators(PyMemAllocatorName allocator);

/* Set one domain to its default and copy what it was to *old_alloc, where
 * that is not NULL.  0, or -1 for an unknown domain. */
PyAPI_FUNC(int) _PyMem_SetDefaultAllocator(PyMemAllocatorDomain domain,
                                           PyMemAllocatorEx *old_alloc);

#ifdef Py_STATS
/* Requests of a program to the mem and object domains (--enable-pystats).  The
 * classes are CPython's: below 512 bytes, below 4094, and the rest; a calloc
 * counts by its element size. */
typedef struct {
    uint64_t allocations;
    uint64_t allocations512;
    uint64_t allocations4k;
    uint64_t allocations_big;
    uint64_t frees;
} ObjectStats;

PyAPI_FUNC(void) _PyMem_GetObjectStats(ObjectStats *stats);
PyAPI_FUNC(void) _PyMem_ClearObjectStats(void);
PyAPI_FUNC(void) _PyMem_PrintObjectStats(FILE *out);
#endif

#ifdef __cplusplus
}
#endif

#endif /* !Py_CPYTHON_PYMEM_H */
