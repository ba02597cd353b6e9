/* The system's memory, failing when the model says so.  For programs linked with
 * -Wl,--wrap=malloc and so on: what the library asks of the C library and of the
 * kernel comes here first. */

#include "model.h"

#include <errno.h>
#include <sys/mman.h>

void *__real_malloc(size_t size);
void *__real_calloc(size_t nelem, size_t elsize);
void *__real_realloc(void *ptr, size_t size);
void *__real_mmap(void *addr, size_t length, int prot, int flags, int fd,
                  off_t offset);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t nelem, size_t elsize);
void *__wrap_realloc(void *ptr, size_t size);
void *__wrap_mmap(void *addr, size_t length, int prot, int flags, int fd,
                  off_t offset);

void *
__wrap_malloc(size_t size)
{
    return model_fails_now(MODEL_SYSTEM) ? NULL : __real_malloc(size);
}

void *
__wrap_calloc(size_t nelem, size_t elsize)
{
    return model_fails_now(MODEL_SYSTEM) ? NULL : __real_calloc(nelem, elsize);
}

void *
__wrap_realloc(void *ptr, size_t size)
{
    return model_fails_now(MODEL_SYSTEM) ? NULL : __real_realloc(ptr, size);
}

void *
__wrap_mmap(void *addr, size_t length, int prot, int flags, int fd, off_t offset)
{
    if (model_fails_now(MODEL_SYSTEM)) {
        errno = ENOMEM;
        return MAP_FAILED;
    }
    return __real_mmap(addr, length, prot, flags, fd, offset);
}
