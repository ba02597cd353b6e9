/* Modules/_tracemalloc.c and the library ask this of the file of a CPython's version,
 * Python/tracer/abi/cpython3XX.c.  Tools/relink compiles that file and the module with the headers of
 * the CPython that it links, and no other.
 *
 * Where TRACER_BESIDE is defined the tracer is an extension module in a CPython that
 * keeps its own memory subsystem: of the file the frames are taken, and beside.h.
 *
 * From 3.12 on the file also says where its version keeps an interpreter's heap,
 * HEAP_OF(), and calls python_has_other_heaps() before an interpreter begins that does
 * not share the main one's: since312.h, which does the rest. */

#ifndef PYMEM_ABI_H
#define PYMEM_ABI_H

#if defined(TRACER_BESIDE)
#  define Py_BUILD_CORE_MODULE
#elif !defined(Py_BUILD_CORE_BUILTIN)
#  define Py_BUILD_CORE_BUILTIN
#endif
#ifndef Py_BUILD_CORE
#  define Py_BUILD_CORE
#endif
#include "Python.h"
#include "pycore_code.h"
#include "pycore_object.h"
#include "pycore_pymem.h"
#include "pycore_pystate.h"

#include "../../../Include/internal/pycore_tracemalloc.h"

/* CPython's frames for the tracer; and the same with the C functions between them, of which
 * there are at most so many: that source is asked for so many places more.  It needs the
 * unwinder: 0, or -1 where there is none. */
#define MAX_NATIVE_FRAMES 64
extern const struct trace_source python_frames, python_frames_with_native;
int python_find_unwinder(void);
/* Where the compiler placed what the interpreter's loop seldom does, if it did and that is
 * known: no symbol that is exported tells. */
struct code_range { uintptr_t start, end; };
extern struct code_range python_cold_loop;

/* The interpreter looks at these fields: initialized (0 not yet, 1 yes, 2 finalized),
 * tracing, max_nframe (1 unless the tracer is told otherwise). */
struct _PyTraceMalloc_Config *python_tracemalloc_config(void);

/* For the library: see pycore_host.h. */
extern int _PyMem_HoldsGIL(void);

/* How many bytes of a block are in front of an object of this type. */
size_t python_header_size(PyTypeObject *type);

/* Be told of each new object by _PyTraceMalloc_NewReference(), or no more.  0; -1
 * with an exception where the interpreter says no: from 3.15 on
 * PyRefTracer_SetTracer() fails when the tracer that was there raises at its removal,
 * and that version's file has to return the result. */
int python_trace_references(int on);

/* A switch that the file of a version sets before it includes frames.h (or
 * since311.h, which does).
 *
 *   #define NAMES_ARE_UTF8 1
 *
 * for 3.15 and later: names of files are their bytes in UTF-8, without all that
 * follows a NUL; a dump writes at most 500 of these bytes.  Without it, as up to 3.14,
 * they are the characters of a str, and a dump writes at most 500 of those. */

#endif /* !PYMEM_ABI_H */
