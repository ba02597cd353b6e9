/* What Modules/_tracemalloc.c and the library ask of the file of a CPython's
 * version, Objects/abi/cpython3XX.c.  Tools/relink compiles that file and the
 * module with the headers of the CPython that it links, and no other.
 *
 * From 3.12 on the file also says where its version keeps an interpreter's heap,
 * HEAP_OF(), and calls python_has_other_heaps() before an interpreter begins that does
 * not share the main one's: since312.h, which does the rest. */

#ifndef PYMEM_ABI_H
#define PYMEM_ABI_H

#define Py_BUILD_CORE_BUILTIN
#include "Python.h"
#include "pycore_code.h"
#include "pycore_object.h"
#include "pycore_pymem.h"
#include "pycore_pystate.h"

#include "../../Include/internal/pycore_tracemalloc.h"

/* CPython's frames for the tracer. */
extern const struct trace_source python_frames;

/* What the interpreter looks at: initialized (0 not yet, 1 yes, 2 finalized),
 * tracing, max_nframe (1 unless the tracer is told otherwise). */
struct _PyTraceMalloc_Config *python_tracemalloc_config(void);

/* How many bytes of a block are in front of an object of this type. */
size_t python_header_size(PyTypeObject *type);

/* Be told of each new object by _PyTraceMalloc_NewReference(), or no more. */
void python_trace_references(int on);

#endif /* !PYMEM_ABI_H */
