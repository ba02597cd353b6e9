/* Memory by the page, from the operating system. */

#ifndef Py_INTERNAL_VIRTUALMEM_H
#define Py_INTERNAL_VIRTUALMEM_H

#include "pycore_compiler.h"
#include "cpython/objimpl.h"

/* The unit in which the system maps and unmaps, in bytes: 4 KiB; 16 or 64 on some
 * kernels for arm64 and ppc64.  It rounds lengths up to that. */
size_t virtual_page_size(void);

static inline size_t
virtual_whole_pages(size_t nbytes)
{
    size_t page = virtual_page_size();
    return (nbytes + page - 1) & ~(page - 1);
}

/* Zeroed memory, aligned to a page and to a power of two; NULL when the system has none,
 * or only with one of the last mappings that the process may have.  It takes up memory
 * only where it is touched.  The part of its last page that is behind size bytes is nobody
 * else's. */
void *virtual_alloc(size_t size, size_t alignment);

/* The same, called [anon:pymalloc] in /proc/PID/maps, where the system has names. */
void *virtual_alloc_named(size_t size, size_t alignment);

/* Its end; what can't be unmapped now is used again, or unmapped later. */
void virtual_free(void *ptr, size_t size);

/* The same for what is small and stays for ever: it shares pages with its like, and is
 * aligned to two cache lines.  Of a size up to 16 KiB, and from any thread. */
void *virtual_alloc_for_good(size_t size);

/* A table of which a small part will be used: memory that reads as zeros and may not be
 * written to, so that it takes none, not even where the program locks all that it has
 * (mlockall).  NULL: no memory. */
void *virtual_reserve(size_t size, size_t alignment);
void virtual_free_table(void *table, size_t size);

/* Let the table be written to around one of its bytes; -1: no memory.  size is that of
 * the whole table; of two threads that call this for one table the second waits. */
int virtual_commit(void *table, size_t size, size_t offset);

/* Have memory that will all be written to soon put in place at once. */
void virtual_populate(void *ptr, size_t size);

/* Forget the contents of the whole pages among these bytes: what is touched again is
 * zeroed.  The number of bytes that the system got; 0 where it takes none, as of memory
 * that is locked. */
size_t virtual_purge(void *ptr, size_t size);

/* The system may take the same pages when it is short of memory, until they are written
 * to: a read finds the old contents or zeros until then. Returns -1 where it can't. */
int virtual_lend(void *ptr, size_t size);

/* Ask for huge pages, where the system has them. */
void virtual_use_huge_pages(void *ptr, size_t size);

/* Have none there, where most of the memory will not be touched. */
void virtual_avoid_huge_pages(void *ptr, size_t size);

/* Is nothing to be called but mmap and munmap?  PYTHON_PYMALLOC_MMAP_ONLY, or
 * virtual_confine() before the first block. */
int virtual_is_confined(void);
void virtual_confine(void);

/* Are arenas to be in huge pages?  PYTHON_PYMALLOC_HUGEPAGES where configure allows it, or
 * virtual_want_huge_pages() before the first one. */
int virtual_huge_pages_are_wanted(void);
void virtual_want_huge_pages(void);

/* Address space that can't be touched, aligned to a page, until a part of it is opened; it
 * ends by virtual_free().  NULL: there is not so much. */
void *virtual_claim(size_t size);

/* Whole pages of it: zeroed memory, -1 without memory; and nothing any more. */
int virtual_open(void *ptr, size_t size);
int virtual_close(void *ptr, size_t size);

/* Move what whole pages have to others that are open; the old ones read as zeros then.  -1:
 * the system can't, and nothing changed. */
int virtual_move(void *from, void *to, size_t size);

/* Bytes that nobody can foresee. */
void virtual_random(void *bytes, size_t size);

/* Let another thread run, while one waits for a lock that is held for a moment. */
void virtual_yield(void);

/* Milliseconds since some moment; cheap, and exact to a few of them. */
uint64_t virtual_clock(void);

/* A number that is another one if this process waited for something meanwhile, or if
 * nobody can tell. */
uint64_t virtual_count_waits(void);

/* Does the process have a limit on its address space or data?  (A group of processes with
 * a limit on its memory may always take what was lent.) */
int virtual_is_limited(void);

/* Each thread of the process that runs passes a full memory barrier before this returns;
 * -1: the system knows no such thing, or may not be asked. */
int virtual_barrier(void);

/* The system's number of the calling thread, or the C library's where the system must not
 * be asked. */
uintptr_t virtual_thread_number(void);

/* Can a byte be read there?  For diagnostics; 1 where nobody may ask. */
int virtual_is_mapped(const void *ptr);

/* The default arena allocator. */
void *_PyMem_ArenaAlloc(void *ctx, size_t size);
void _PyMem_ArenaFree(void *ctx, void *ptr, size_t size);

/* The arena allocator in force. */
INTERNAL_DATA(PyObjectArenaAllocator) _PyObject_Arena;

#endif /* !Py_INTERNAL_VIRTUALMEM_H */
