/* CPython 3.15: what it takes beside the API, and its frames.
 *
 *   symbol                                   who takes it
 *   those of cpython313.c                    the same, but for _PyObject_FreeDelayed
 *   _PyMem_DefaultRawMalloc, ...             import, configuration, sys: memory that
 *                                            no hook sees; the library has them
 *   _PyMem_ProcessDelayedNoDealloc           a build without the GIL */

#define NAMES_ARE_UTF8 1
#include "since314.h"
