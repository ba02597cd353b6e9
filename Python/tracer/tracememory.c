/* Memory of the tracer itself: from the C library, as no hook may run while the tracer's
 * lock is held.
 *
 * Owns the count of it. */

#include "pycore_tracetables.h"

#include <stdlib.h>

atomic_size_t tracer_bytes;

void *
tracer_alloc(size_t size)
{
    return tracer_resize(NULL, 0, size);
}

void *
tracer_resize(void *ptr, size_t old_size, size_t size)
{
    void *resized = realloc(ptr, size);
    if (resized != NULL) {
        tracer_bytes += size - old_size;
    }
    return resized;
}

void
tracer_free(void *ptr, size_t size)
{
    if (ptr != NULL) {
        free(ptr);
        tracer_bytes -= size;
    }
}
