/* Memory by the page where the system has no mmap: the C library's, aligned, and nothing that
 * needs another system call.  A part of virtualmem.c. */

#include <stdlib.h>
#include <string.h>
#include <time.h>

size_t
virtual_page_size(void)
{
    return 4096;
}

void *
virtual_alloc(size_t size, size_t alignment)
{
    if (alignment < virtual_page_size()) {
        alignment = virtual_page_size();
    }
    size = (size + alignment - 1) & ~(alignment - 1);
    void *ptr = aligned_alloc(alignment, size);
    if (ptr != NULL) {
        memset(ptr, 0, size);
    }
    return ptr;
}

void *
virtual_alloc_named(size_t size, size_t alignment)
{
    return virtual_alloc(size, alignment);
}

void
virtual_free(void *ptr, size_t size)
{
    (void)size;
    free(ptr);
}

void *
virtual_reserve(size_t size, size_t alignment)
{
    return virtual_alloc(size, alignment);
}

void
virtual_free_table(void *table, size_t size)
{
    virtual_free(table, size);
}

int
virtual_commit(void *table, size_t size, size_t offset)
{
    (void)table;
    (void)size;
    (void)offset;
    return 0;
}

void
virtual_populate(void *ptr, size_t size)
{
    (void)ptr;
    (void)size;
}

size_t
virtual_purge(void *ptr, size_t size)
{
    memset(ptr, 0, size);
    return 0;
}

int
virtual_lend(void *ptr, size_t size)
{
    (void)ptr;
    (void)size;
    return -1;
}

void
virtual_use_huge_pages(void *ptr, size_t size)
{
    (void)ptr;
    (void)size;
}

uint64_t
virtual_clock(void)
{
    return (uint64_t)time(NULL) * 1000;
}

uint64_t
virtual_count_waits(void)
{
    static uint64_t nobody_knows;
    return nobody_knows++;
}

int
virtual_is_limited(void)
{
    return 0;
}

int
virtual_barrier(void)
{
    return -1;
}

uintptr_t
virtual_thread_number(void)
{
    return 1;
}

int
virtual_is_mapped(const void *ptr)
{
    (void)ptr;
    return 1;       /* who knows */
}

void
virtual_yield(void)
{
}

void
virtual_avoid_huge_pages(void *ptr, size_t size)
{
    (void)ptr;
    (void)size;
}

/* No pages that can't be touched: the hardened allocator has no guards here. */

void *
virtual_claim(size_t size)
{
    return virtual_alloc(size, 1);
}

int
virtual_open(void *ptr, size_t size)
{
    memset(ptr, 0, size);
    return 0;
}

int
virtual_close(void *ptr, size_t size)
{
    return virtual_open(ptr, size);
}
