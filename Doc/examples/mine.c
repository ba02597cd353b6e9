/* An allocator with a fault on purpose: realloc(p, 0) frees the block. */

#include <stddef.h>

extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void __libc_free(void *);

void *
malloc(size_t size)
{
    return __libc_malloc(size);
}

void *
calloc(size_t nelem, size_t elsize)
{
    return __libc_calloc(nelem, elsize);
}

void *
realloc(void *ptr, size_t new_size)
{
    return __libc_realloc(ptr, new_size);
}

void
free(void *ptr)
{
    __libc_free(ptr);
}
