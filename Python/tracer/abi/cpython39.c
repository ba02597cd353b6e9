/* CPython 3.9: its frames.  It is not linked with the library: its tracer is always an
 * extension module. */

#include "abi.h"
#include "beside.h"
#include "pycore_gc.h"

#define BYTES_OF_LASTI 1
#include "before311.h"
