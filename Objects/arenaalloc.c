/* The arena allocator, which by default is a thin layer over virtual memory.
 *
 *   arenas.c ---> _PyObject_Arena ---> _PyMem_ArenaAlloc ---> virtualmem.c
 *                 (can be replaced)    the default
 *
 * Owns _PyObject_Arena.  Calls virtualmem.c. */

#include "pycore_geometry.h"
#include "pycore_virtualmem.h"

#include <stdatomic.h>

/* Huge pages: the processor then looks up 2 MiB at a time, not 4 KiB.  Worth it
 * for large heaps, and waste in small ones, so the user asks for them. */
#define HUGE_PAGE_SIZE ((size_t)1 << 21)

/* Arenas that share a huge page are got with it, and the others wait here; from any
 * thread. */
static void *
huge_page_part(size_t size)
{
    static struct { uintptr_t next, end; } rest;
    if (rest.end - rest.next < size || (rest.next & (size - 1)) != 0) {
        void *page = virtual_alloc_named(HUGE_PAGE_SIZE, HUGE_PAGE_SIZE);
        if (page == NULL) {
            return NULL;
        }
        if (rest.end != rest.next) {
            virtual_free((void *)rest.next, rest.end - rest.next);
        }
        virtual_use_huge_pages(page, HUGE_PAGE_SIZE);
        rest.next = (uintptr_t)page;
        rest.end = rest.next + HUGE_PAGE_SIZE;
    }
    void *ptr = (void *)rest.next;
    rest.next += size;
    return ptr;
}

/* A thread that is in it at a fork leaves it half done: the child must not wait for it. */
static void *
alloc_in_huge_page(size_t size)
{
    static atomic_flag busy = ATOMIC_FLAG_INIT;
    if (atomic_flag_test_and_set_explicit(&busy, memory_order_acquire)) {
        return NULL;
    }
    void *ptr = huge_page_part(size);
    atomic_flag_clear_explicit(&busy, memory_order_release);
    return ptr;
}

/* An arena that is aligned to its size loses no pool at its ends.  Where
 * address space is so short that it can't be aligned, any place will do. */
void *
_PyMem_ArenaAlloc(void *ctx, size_t size)
{
    (void)ctx;
    int is_whole = size == ARENA_SIZE || size == MEDIUM_ARENA_SIZE;
    void *ptr = NULL;
    if (is_whole && virtual_huge_pages_are_wanted() && size >= virtual_page_size()) {
        ptr = alloc_in_huge_page(size);
    }
    if (ptr == NULL && is_whole) {
        ptr = virtual_alloc_named(size, size);
    }
    return ptr != NULL ? ptr : virtual_alloc_named(size, 1);
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
