/* The memory API as a test drives it: plain C, no Python object.
 *
 *   _testpymemmodule.c   Python objects; the host's Python.h
 *         |
 *         v  this header
 *   _testpymem.c         the API under test; our Python.h, or the host's
 *
 * _testpymem.c is compiled twice from the same source: against this project,
 * with a private copy of its library, and against the CPython that runs the
 * tests.  The two see nothing of each other.  Tools/check-oracle compiles it for
 * other interpreters, and for any library with the PyMem functions. */

#ifndef TESTPYMEM_H
#define TESTPYMEM_H

#include <stddef.h>
#include <stdint.h>

/* Set by each function that asks for one that the implementation does not
 * provide; its result is without meaning then. */
extern const char *testpymem_missing;

/* Domains are numbers as in PyMemAllocatorDomain. */
void *testpymem_malloc(int domain, size_t size);
void *testpymem_calloc(int domain, size_t nelem, size_t elsize);
void *testpymem_realloc(int domain, void *ptr, size_t new_size);
void testpymem_free(int domain, void *ptr);

/* A hook on a domain that records the calls that this driver makes or causes
 * (not those of the interpreter around it), and fails the fail_at-th of them,
 * or all from there on.  One hook a domain. */
struct testpymem_call {
    int domain;
    char what;              /* 'm', 'c', 'r', 'f' */
    uintptr_t ptr;          /* given to realloc and free */
    size_t size;            /* asked for; of calloc the product */
    uintptr_t result;
};
void testpymem_hook(int domain, long fail_at, int fail_on);
void testpymem_unhook(int domain);
/* The calls since the last time this was called, of all hooks in order. */
size_t testpymem_take_calls(struct testpymem_call *calls, size_t room);

/* An arena allocator that counts, gives memory at an offset from a multiple of
 * 1 MiB, and fails like a hook. */
struct testpymem_arenas {
    size_t nalloc, nfree, wrong_size;
};
void testpymem_arena_hook(size_t offset, long fail_at, int fail_on);
struct testpymem_arenas testpymem_arenas(void);

/* Allocators as values: context and four functions as addresses. */
void testpymem_get_allocator(int domain, uintptr_t fields[5]);

void testpymem_setup_debug_hooks(void);
int testpymem_setup_allocators(const char *name);
const char *testpymem_current_name(void);
ptrdiff_t testpymem_allocated_blocks(void);
/* Appended to a file; what the function returned. */
int testpymem_malloc_stats(const char *path);

int testpymem_track(unsigned domain, uintptr_t ptr, size_t size);
int testpymem_untrack(unsigned domain, uintptr_t ptr);

/* Call a mem or object function from a thread that does not hold the GIL. */
void testpymem_malloc_without_gil(int domain);

#endif
