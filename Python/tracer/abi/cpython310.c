/* CPython 3.10: what it takes beside the API, and its frames.
 *
 *   symbol                    who reads it
 *   that of before312.h       object.o
 *
 * 3.10 has all that our library asks of its host, but for Py_GETENV(), which is a macro in
 * 3.10. */

#include "abi.h"
#include "pycore_gc.h"

#include <stdlib.h>

#ifdef TRACER_BESIDE
#  include "beside.h"
#else
#  undef Py_GETENV
extern char *Py_GETENV(const char *name);

char *
Py_GETENV(const char *name)
{
    return Py_IgnoreEnvironmentFlag ? NULL : getenv(name);
}

#  include "before312.h"
#endif

#define BYTES_OF_LASTI ((int)sizeof(_Py_CODEUNIT))
#include "before311.h"
