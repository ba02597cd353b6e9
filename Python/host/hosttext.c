/* The one function of pycore_host.h that is the same wherever the host is not a
 * CPython with which we are linked. */

#include "pycore_host.h"

#include <stdarg.h>
#include <stdio.h>

int
PyOS_snprintf(char *str, size_t size, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int length = vsnprintf(str, size, format, args);
    va_end(args);
    return length;
}
