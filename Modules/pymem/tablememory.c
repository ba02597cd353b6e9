/* Where Python/tracer/tracetables.c gets its memory in an extension module: from the C
 * library, whose malloc no hook of Python's sees. */

#include "pycore_tracetables.h"

#include <stdlib.h>

atomic_size_t tracer_bytes;

void *
tracer_alloc(size_t size)
{
    return malloc(size);
}

void
tracer_free(void *ptr, size_t size)
{
    (void)size;
    free(ptr);
}

void *
tracer_resize(void *ptr, size_t old_size, size_t size)
{
    (void)old_size;
    return realloc(ptr, size);
}
