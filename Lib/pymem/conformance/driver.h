/* The memory API as a test drives it: plain C, no Python object, no Python.h.
 *
 *   Modules/tests/_testpymemmodule.c   Python objects      driver.py   ctypes
 *                    \                               /
 *                     v                             v
 *                  driver.c, load.c   the API under test, by addresses
 *                     ^                             ^
 *   Modules/tests/_testpymem.c         by link             |
 *   the functions of the subject, as its dlsym() finds them
 *
 * What is tested is a table of addresses.  So one object file serves each CPython, PyPy
 * and any library: the layout of PyMemAllocatorEx is that of CPython 3.5 and later. */

#ifndef TESTPYMEM_H
#define TESTPYMEM_H

#include <stddef.h>
#include <stdint.h>

/* The address of a function of the API, by the name in CPython.  0; -1 where the driver
 * has no use for the name. */
int testpymem_provide(const char *name, void *address);

/* Modules/tests/_testpymem.c: the address of each function that it is linked with. */
void testpymem_provide_linked(void);

/* Set by each function that asks for one that the implementation does not
 * provide; its result is without meaning then. */
extern const char *testpymem_missing;
/* The same, and then nothing is missing. */
const char *testpymem_take_missing(void);

/* Domains are numbers as in PyMemAllocatorDomain. */
void *testpymem_malloc(int domain, size_t size);
void *testpymem_calloc(int domain, size_t nelem, size_t elsize);
void *testpymem_realloc(int domain, void *ptr, size_t new_size);
void testpymem_free(int domain, void *ptr);

/* A hook on a domain that records the calls that this driver makes or causes
 * (not those of the interpreter around it), and fails the fail_at-th of them,
 * or all from there on.  Two hooks a domain: that of domain + 3 goes around the other
 * if it is put on later. */
struct testpymem_call {
    int domain;
    char what;              /* 'm', 'c', 'r', 'f' */
    uintptr_t ptr;          /* given to realloc and free */
    size_t size;            /* asked for; of calloc the product */
    uintptr_t result;
};
void testpymem_hook(int domain, long fail_at, int fail_on);
void testpymem_unhook(int domain);
/* 1: PyMem_GetAllocator() gives what PyMem_SetAllocator() was given. */
int testpymem_hook_is_set(int domain);
/* The calls since the last time this was called, of all hooks in order. */
size_t testpymem_take_calls(struct testpymem_call *calls, size_t room);

/* An arena allocator that counts, gives memory at an offset from a multiple of
 * 1 MiB, and fails like a hook. */
struct testpymem_arenas {
    size_t nalloc, nfree, wrong_size;
};
void testpymem_arena_hook(size_t offset, long fail_at, int fail_on);
struct testpymem_arenas testpymem_arenas(void);
/* 1: what is set by PyObject_SetArenaAllocator() is what the other one gets. */
int testpymem_arena_hook_is_set(void);

/* Allocators as values: context and four functions as addresses. */
void testpymem_get_allocator(int domain, uintptr_t fields[5]);

void testpymem_setup_debug_hooks(void);
/* A hook, the debug hooks twice, three calls, and all as before: in between no block of
 * the interpreter may be freed, as it has no marks. */
void testpymem_debug_hooks_around_hook(int domain);
int testpymem_setup_allocators(const char *name);
const char *testpymem_current_name(void);
ptrdiff_t testpymem_allocated_blocks(void);
/* Appended to a file; what the function returned. */
int testpymem_malloc_stats(const char *path);

int testpymem_track(unsigned domain, uintptr_t ptr, size_t size);
int testpymem_untrack(unsigned domain, uintptr_t ptr);

/* Call a mem or object function from a thread that does not hold the GIL. */
void testpymem_malloc_without_gil(int domain);

/* load.c: many requests at once.  0, or what is wrong; a text of it in problem. */
extern char testpymem_problem[256];

/* Threads without the GIL ask, check what they wrote and free, each also what others
 * asked for; over_fork forks meanwhile, and the child must go on. */
int testpymem_threads(int domain, int nthreads, int rounds, int over_fork);
/* A thread asks for blocks and ends; another checks and frees them. */
int testpymem_blocks_of_an_ended_thread(int domain);
/* Blocks of one size until there is no memory: extra bytes of address space are left.
 * Then calloc and realloc must fail, and all be whole; then half is freed, and there must
 * be memory again. */
int testpymem_exhaust(int domain, size_t size, size_t extra);
/* One block after the other, freed at once: with a limit on memory all must come.
 * grown is 0, or the size that realloc makes of each. */
int testpymem_churn(int domain, size_t size, size_t grown, size_t rounds, size_t extra);

#endif
