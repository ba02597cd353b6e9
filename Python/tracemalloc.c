/* The allocation tracer's side that the rest of the library and programs see.
 *
 * The standalone library does not trace: Track and Untrack say so, and the
 * dump of a block says how its origin could be known.  In a substitute these
 * are CPython's own. */

#include "tracemalloc.h"
#include "pycore_host.h"

#include <string.h>
#include <unistd.h>

int
PyTraceMalloc_Track(unsigned int domain, uintptr_t ptr, size_t size)
{
    (void)domain;
    (void)ptr;
    (void)size;
    return -2;
}

int
PyTraceMalloc_Untrack(unsigned int domain, uintptr_t ptr)
{
    (void)domain;
    (void)ptr;
    return -2;
}

void
_PyMem_DumpTraceback(int fd, const void *ptr)
{
    static const char text[] = "Enable tracemalloc to get the memory block "
                               "allocation traceback\n\n";
    (void)ptr;
    /* Nothing can be done about a stderr that is closed. */
    if (write(fd, text, sizeof(text) - 1) < 0) {
        return;
    }
}
