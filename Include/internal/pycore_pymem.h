/* The three domains: what obmalloc.c owns and its neighbours look at. */

#ifndef Py_INTERNAL_PYMEM_H
#define Py_INTERNAL_PYMEM_H

#include "pycore_compiler.h"
#include "pycore_shortways.h"
#include "cpython/pymem.h"

#include <stdio.h>
#include <wchar.h>

/* The allocator of each domain, by PyMemAllocatorDomain. */
INTERNAL_DATA(PyMemAllocatorEx) _PyMem_Allocators[NB_DOMAINS];

/* malloc as an allocator (Objects/rawalloc.c).  A request for 0 bytes becomes
 * one for 1. */
void *_PyMem_RawMalloc(void *ctx, size_t size);
void *_PyMem_RawCalloc(void *ctx, size_t nelem, size_t elsize);
void *_PyMem_RawRealloc(void *ctx, void *ptr, size_t size);
void _PyMem_RawFree(void *ctx, void *ptr);
size_t _PyMem_RawTrim(void);     /* malloc_trim(), where there is one */
#define MALLOC_ALLOC \
    {NULL, _PyMem_RawMalloc, _PyMem_RawCalloc, _PyMem_RawRealloc, _PyMem_RawFree}

/* A block of the raw domain, or if that is NULL the one of a second request, after arenas
 * that were only kept went back.  The first is a variable, the second a call. */
#ifdef WITH_PYMALLOC
#  define TWICE(block, again) \
    (LIKELY((block) != NULL) || heaps_give_back() == 0 ? (block) : (again))
#else
#  define TWICE(block, again) (block)
#endif

/* pymalloc as one, and what the mem and object domains start with. */
#ifdef WITH_PYMALLOC
#  include "pycore_pymalloc.h"
#  define PYMALLOC_ALLOC \
    {NULL, _PyObject_Malloc, _PyObject_Calloc, _PyObject_Realloc, _PyObject_Free}
#  define SMALL_ALLOC PYMALLOC_ALLOC
#else
#  define SMALL_ALLOC RAW_ALLOC
#endif

#ifdef WITH_MIMALLOC
/* mimalloc as one.  Its library is loaded by the first request, or before: 0, or
 * -1 when it can't be, after a line on stderr that says why. */
int _PyMem_LoadMimalloc(void);
void *_PyMem_MiMalloc(void *ctx, size_t size);
void *_PyMem_MiCalloc(void *ctx, size_t nelem, size_t elsize);
void *_PyMem_MiRealloc(void *ctx, void *ptr, size_t size);
void _PyMem_MiFree(void *ctx, void *ptr);
#  define MIMALLOC_ALLOC \
    {NULL, _PyMem_MiMalloc, _PyMem_MiCalloc, _PyMem_MiRealloc, _PyMem_MiFree}
#endif

/* The allocator that the raw domain starts with. */
#ifdef WITH_RAW_MIMALLOC
#  define RAW_ALLOC MIMALLOC_ALLOC
#  define RAW_ALLOC_MALLOC _PyMem_MiMalloc
#else
#  define RAW_ALLOC MALLOC_ALLOC
#  define RAW_ALLOC_MALLOC _PyMem_RawMalloc
#endif

/* The raw domain's first allocator, whatever PyMem_SetAllocator() or PYTHONMALLOC say:
 * no hook sees these requests.  CPython 3.14 and later take them by these names.
 * A block of theirs goes back by _PyMem_DefaultRawFree() only. */
void *_PyMem_DefaultRawMalloc(size_t size);
void *_PyMem_DefaultRawCalloc(size_t nelem, size_t elsize);
void *_PyMem_DefaultRawRealloc(void *ptr, size_t size);
void _PyMem_DefaultRawFree(void *ptr);
wchar_t *_PyMem_DefaultRawWcsdup(const wchar_t *text);

/* Has nobody hooked or replaced the raw domain? */
static inline int
_PyMem_RawIsUntouched(void)
{
    return _PyMem_Allocators[PYMEM_DOMAIN_RAW].malloc == RAW_ALLOC_MALLOC;
}

/* PyMem_RawFree() and PyMem_RawRealloc() of a block that is known to be the raw domain's
 * own. */
void _PyMem_RawFreeOwn(void *ptr);
void *_PyMem_RawReallocOwn(void *ptr, size_t new_size);

/* From now on small requests are served by the heap that a function tells, which is
 * called for each: see heap_of_interpreter in pycore_heap.h.  While no other thread can
 * be in pymalloc: with the only GIL that there is, before there is a second one. */
struct heap;
void _PyMem_AskForHeap(struct heap *(*of_interpreter)(void));

/* The debug hooks of a domain (Objects/memdebug.c): the allocator that they
 * wrap, and the letter that marks its blocks. */
struct debug_hooks {
    char api_id;
    PyMemAllocatorEx alloc;
};
INTERNAL_DATA(struct debug_hooks) _PyMem_Debug[NB_DOMAINS];

/* PyMem_SetupDebugHooks() for one domain, and whether that was done. */
void _PyMem_SetupDebugHooksInDomain(PyMemAllocatorDomain domain);
int _PyMem_HasDebugHooks(PyMemAllocatorDomain domain);

void *_PyMem_DebugRawMalloc(void *ctx, size_t nbytes);
void *_PyMem_DebugRawCalloc(void *ctx, size_t nelem, size_t elsize);
void *_PyMem_DebugRawRealloc(void *ctx, void *ptr, size_t nbytes);
void _PyMem_DebugRawFree(void *ctx, void *ptr);
void *_PyMem_DebugMalloc(void *ctx, size_t nbytes);
void *_PyMem_DebugCalloc(void *ctx, size_t nelem, size_t elsize);
void *_PyMem_DebugRealloc(void *ctx, void *ptr, size_t nbytes);
void _PyMem_DebugFree(void *ctx, void *ptr);
#define DEBUG_RAW_ALLOC \
    {&_PyMem_Debug[PYMEM_DOMAIN_RAW], _PyMem_DebugRawMalloc, \
     _PyMem_DebugRawCalloc, _PyMem_DebugRawRealloc, _PyMem_DebugRawFree}
#define DEBUG_ALLOC(domain) \
    {&_PyMem_Debug[domain], _PyMem_DebugMalloc, \
     _PyMem_DebugCalloc, _PyMem_DebugRealloc, _PyMem_DebugFree}

/* A domain's default allocator, without debug hooks. */
#ifdef WITH_HARDENED
#  include "pycore_hardened.h"
#  define DEFAULT_ALLOC(domain) HARDENED_ALLOC_##domain
#else
#  define DEFAULT_ALLOC_RAW RAW_ALLOC
#  define DEFAULT_ALLOC_MEM SMALL_ALLOC
#  define DEFAULT_ALLOC_OBJ SMALL_ALLOC
#  define DEFAULT_ALLOC(domain) DEFAULT_ALLOC_##domain
#endif

/* The allocators of the domains before a program asks for others. */
#ifdef Py_DEBUG
#  define BORN_ALLOCS {DEBUG_RAW_ALLOC, DEBUG_ALLOC(PYMEM_DOMAIN_MEM), \
                       DEBUG_ALLOC(PYMEM_DOMAIN_OBJ)}
#else
#  define BORN_ALLOCS {DEFAULT_ALLOC(RAW), DEFAULT_ALLOC(MEM), DEFAULT_ALLOC(OBJ)}
#endif

/* Short ways are open to what has an allocator of ours. */
#ifdef WITH_PYMALLOC
#  define SMALL_WAY {SMALL_REQUEST_THRESHOLD, NO_HOME, WAY_SHORT}
#else
#  define SMALL_WAY NO_SHORT_WAY
#endif
#ifdef WITH_RAW_MIMALLOC
#  define RAW_SPAN 0
#else
#  define RAW_SPAN PY_SSIZE_T_MAX
#endif
#define RAW_WAY {RAW_SPAN, NO_HOME, WAY_CLOSED}
#if defined(Py_DEBUG) || defined(WITH_HARDENED)
#  define BORN_SHORT_WAYS NO_SHORT_WAYS
#  define BORN_NO_MEDIUM_BELOW 0
#else
#  define BORN_SHORT_WAYS {RAW_WAY, SMALL_WAY, SMALL_WAY}
#  define BORN_NO_MEDIUM_BELOW (RAW_SPAN != 0 ? UINTPTR_MAX : 0)
#endif

/* The domains' allocators were set otherwise than by PyMem_SetAllocator(). */
void _PyMem_ChooseShortWays(void);

/* Where the host decides about the allocators (Python/host/host.c): to be called before
 * one of them is looked at.  Its own table, in which they wait for the first block,
 * takes the place of the one of obmalloc.c.  A CPython has no such function. */
WEAK void _PyMem_BeforeFirstUse(void);

/* Write where a block was allocated to a file descriptor, or how to find out
 * (Python/tracer/tracemalloc.c).  Allocates nothing, takes no lock that it could wait
 * for. */
PyAPI_FUNC(void) _PyMem_DumpTraceback(int fd, const void *ptr);

/* Blocks in use of one interpreter's heap (Objects/memstats.c). */
Py_ssize_t _PyMem_CountBlocksOfHeap(struct heap *heap);

/* The figures of _PyObject_DebugMallocStats(), as JSON (Objects/memstats.c). */
void _PyObject_WriteMallocStats(FILE *out);

/* The values of PYTHONMALLOC in this build, for messages. */
extern const char _PyMem_AllocatorNames[];

#endif /* !Py_INTERNAL_PYMEM_H */
