/* Memory by the page: the one file that talks to the operating system, and
 * the arena allocator, which by default is a thin layer over it.
 *
 *   arenas.c ---> _PyObject_Arena ---> _PyMem_ArenaAlloc ---> mmap
 *                 (can be replaced)    the default
 *
 * Owns _PyObject_Arena.  Calls nothing of this library. */

#include "pycore_virtualmem.h"
#include "pycore_compiler.h"
#include "pycore_geometry.h"

#if defined(__unix__) || defined(__APPLE__)

#include <sys/mman.h>
#include <time.h>

#ifndef CLOCK_MONOTONIC_COARSE
#  define CLOCK_MONOTONIC_COARSE CLOCK_MONOTONIC
#endif

#ifndef MAP_ANONYMOUS
#  define MAP_ANONYMOUS MAP_ANON
#endif

/* Address space is not counted against memory until it is touched. */
#ifdef MAP_NORESERVE
#  define MAP_FLAGS (MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE)
#else
#  define MAP_FLAGS (MAP_PRIVATE | MAP_ANONYMOUS)
#endif

/* At wanted, if nothing is there; else anywhere. */
static void *
map_pages(void *wanted, size_t size)
{
    void *ptr = mmap(wanted, size, PROT_READ | PROT_WRITE, MAP_FLAGS, -1, 0);
    return ptr == MAP_FAILED ? NULL : ptr;
}

void
virtual_free(void *ptr, size_t size)
{
    munmap(ptr, size);
}

/* One call instead of a page fault for each page.  A system that can't simply
 * takes the faults. */
void
virtual_populate(void *ptr, size_t size)
{
#ifdef MADV_POPULATE_WRITE
    static int refused;
    if (!refused) {
        refused = madvise(ptr, size, MADV_POPULATE_WRITE) != 0;
    }
#else
    (void)ptr;
    (void)size;
#endif
}

void
virtual_purge(void *ptr, size_t size)
{
    madvise(ptr, size, MADV_DONTNEED);
}

uint64_t
virtual_clock(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

int
virtual_is_mapped(const void *ptr)
{
    uintptr_t page = (uintptr_t)ptr & ~(uintptr_t)(SYSTEM_PAGE_SIZE - 1);
    unsigned char in_memory;
    return mincore((void *)page, 1, (void *)&in_memory) == 0;
}

/* Map more than asked for and cut off what lies before and behind. */
static void *
map_aligned_pages(size_t size, size_t alignment)
{
    uintptr_t start = (uintptr_t)map_pages(NULL, size + alignment);
    if (start == 0) {
        return NULL;
    }
    uintptr_t aligned = (start + alignment - 1) & ~(uintptr_t)(alignment - 1);
    size_t before = aligned - start;
    size_t behind = alignment - before;
    if (before > 0) {
        virtual_free((void *)start, before);
    }
    if (behind > 0) {
        virtual_free((void *)(aligned + size), behind);
    }
    return (void *)aligned;
}

/* Each mapping is asked for right below the one before, where it is aligned by
 * itself, and one mapping for the system as long as no other comes between. */
void *
virtual_alloc(size_t size, size_t alignment)
{
    static uintptr_t last;      /* the arenas' alignment, so not for pages */
    if (alignment <= SYSTEM_PAGE_SIZE) {
        return map_pages(NULL, size);
    }
    void *wanted = (void *)(last > size ? last - size : 0);
    void *ptr = map_pages(wanted, size);
    if (ptr != NULL && ((uintptr_t)ptr & (alignment - 1)) != 0) {
        virtual_free(ptr, size);
        ptr = map_aligned_pages(size, alignment);
    }
    if (ptr != NULL) {
        last = (uintptr_t)ptr;
    }
    return ptr;
}

#else /* no mmap */

#include <stdlib.h>
#include <string.h>
#include <time.h>

void *
virtual_alloc(size_t size, size_t alignment)
{
    void *ptr = aligned_alloc(alignment, size);
    if (ptr != NULL) {
        memset(ptr, 0, size);
    }
    return ptr;
}

void
virtual_free(void *ptr, size_t size)
{
    (void)size;
    free(ptr);
}

void
virtual_populate(void *ptr, size_t size)
{
    (void)ptr;
    (void)size;
}

void
virtual_purge(void *ptr, size_t size)
{
    memset(ptr, 0, size);
}

uint64_t
virtual_clock(void)
{
    return (uint64_t)time(NULL) * 1000;
}

int
virtual_is_mapped(const void *ptr)
{
    (void)ptr;
    return 1;       /* who knows */
}

#endif

/* An arena that is aligned to its size loses no pool at its ends.  Where
 * address space is so short that it can't be aligned, any place will do. */
void *
_PyMem_ArenaAlloc(void *ctx, size_t size)
{
    (void)ctx;
    void *ptr = NULL;
    if (size == ARENA_SIZE || size == MEDIUM_ARENA_SIZE) {
        ptr = virtual_alloc(size, size);
    }
    return ptr != NULL ? ptr : virtual_alloc(size, SYSTEM_PAGE_SIZE);
}

void
_PyMem_ArenaFree(void *ctx, void *ptr, size_t size)
{
    (void)ctx;
    virtual_free(ptr, size);
}

PyObjectArenaAllocator _PyObject_Arena = {
    NULL, _PyMem_ArenaAlloc, _PyMem_ArenaFree
};

void
PyObject_GetArenaAllocator(PyObjectArenaAllocator *allocator)
{
    *allocator = _PyObject_Arena;
}

void
PyObject_SetArenaAllocator(PyObjectArenaAllocator *allocator)
{
    _PyObject_Arena = *allocator;
}

void *
_PyObject_VirtualAlloc(size_t size)
{
    return _PyObject_Arena.alloc(_PyObject_Arena.ctx, size);
}

void
_PyObject_VirtualFree(void *ptr, size_t size)
{
    _PyObject_Arena.free(_PyObject_Arena.ctx, ptr, size);
}
