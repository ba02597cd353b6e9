/* The environment under an interpreter that has its own memory subsystem. pymem ignores the
 * variables that it ignores (-E, -I, its configuration).
 *
 * Asks the interpreter, by the names that it exports. */

#define _GNU_SOURCE     /* RTLD_DEFAULT */
#include "pycore_host.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

/* CPython 3.11 and later export the function; others have a variable only. */
char *
Py_GETENV(const char *name)
{
    void *address = dlsym(RTLD_DEFAULT, "Py_GETENV");
    if (address != NULL) {
        char *(*function)(const char *);
        memcpy(&function, &address, sizeof(function));
        return function(name);
    }
    const int *ignored = dlsym(RTLD_DEFAULT, "Py_IgnoreEnvironmentFlag");
    return ignored != NULL && *ignored ? NULL : getenv(name);
}
