/* What libpymeminstall.so and pymem-preload.so call what an interpreter has, too.
 *
 * They are beside an interpreter whose functions stay its own.  Nobody could tell from
 * which of the two "break PyMem_Malloc" in a debugger, or a frame of a profiler, is, if
 * both had it: so the compiler is told this file first.  Every name that a CPython
 * defines belongs here (a test looks at each of them). */

#ifndef Py_INTERNAL_INSTALLNAMES_H
#define Py_INTERNAL_INSTALLNAMES_H

#define _PyDebugAllocatorStats pymem__PyDebugAllocatorStats
#define PyGILState_Check pymem_PyGILState_Check
#define _PyMem_ArenaAlloc pymem__PyMem_ArenaAlloc
#define _PyMem_ArenaFree pymem__PyMem_ArenaFree
#define PyMem_Calloc pymem_PyMem_Calloc
#define _PyMem_Debug pymem__PyMem_Debug
#define _PyMem_DebugCalloc pymem__PyMem_DebugCalloc
#define _PyMem_DebugFree pymem__PyMem_DebugFree
#define _PyMem_DebugMalloc pymem__PyMem_DebugMalloc
#define _PyMem_DebugRawCalloc pymem__PyMem_DebugRawCalloc
#define _PyMem_DebugRawFree pymem__PyMem_DebugRawFree
#define _PyMem_DebugRawMalloc pymem__PyMem_DebugRawMalloc
#define _PyMem_DebugRawRealloc pymem__PyMem_DebugRawRealloc
#define _PyMem_DebugRealloc pymem__PyMem_DebugRealloc
#define _PyMem_DumpTraceback pymem__PyMem_DumpTraceback
#define PyMem_Free pymem_PyMem_Free
#define PyMem_GetAllocator pymem_PyMem_GetAllocator
#define _PyMem_GetAllocatorName pymem__PyMem_GetAllocatorName
#define _PyMem_GetCurrentAllocatorName pymem__PyMem_GetCurrentAllocatorName
#define PyMem_Malloc pymem_PyMem_Malloc
#define _PyMem_MiCalloc pymem__PyMem_MiCalloc
#define _PyMem_MiFree pymem__PyMem_MiFree
#define _PyMem_MiMalloc pymem__PyMem_MiMalloc
#define _PyMem_MiRealloc pymem__PyMem_MiRealloc
#define PyMem_RawCalloc pymem_PyMem_RawCalloc
#define _PyMem_RawCalloc pymem__PyMem_RawCalloc
#define PyMem_RawFree pymem_PyMem_RawFree
#define _PyMem_RawFree pymem__PyMem_RawFree
#define PyMem_RawMalloc pymem_PyMem_RawMalloc
#define _PyMem_RawMalloc pymem__PyMem_RawMalloc
#define PyMem_RawRealloc pymem_PyMem_RawRealloc
#define _PyMem_RawRealloc pymem__PyMem_RawRealloc
#define _PyMem_RawStrdup pymem__PyMem_RawStrdup
#define _PyMem_RawWcsdup pymem__PyMem_RawWcsdup
#define PyMem_Realloc pymem_PyMem_Realloc
#define PyMem_SetAllocator pymem_PyMem_SetAllocator
#define _PyMem_SetDefaultAllocator pymem__PyMem_SetDefaultAllocator
#define _PyMem_SetupAllocators pymem__PyMem_SetupAllocators
#define PyMem_SetupDebugHooks pymem_PyMem_SetupDebugHooks
#define _PyMem_Strdup pymem__PyMem_Strdup
#define PyOS_snprintf pymem_PyOS_snprintf
#define _PyObject_Arena pymem__PyObject_Arena
#define PyObject_Calloc pymem_PyObject_Calloc
#define _PyObject_Calloc pymem__PyObject_Calloc
#define _PyObject_DebugMallocStats pymem__PyObject_DebugMallocStats
#define PyObject_Free pymem_PyObject_Free
#define _PyObject_Free pymem__PyObject_Free
#define PyObject_GetArenaAllocator pymem_PyObject_GetArenaAllocator
#define PyObject_Malloc pymem_PyObject_Malloc
#define _PyObject_Malloc pymem__PyObject_Malloc
#define PyObject_Realloc pymem_PyObject_Realloc
#define _PyObject_Realloc pymem__PyObject_Realloc
#define PyObject_SetArenaAllocator pymem_PyObject_SetArenaAllocator
#define _PyObject_VirtualAlloc pymem__PyObject_VirtualAlloc
#define _PyObject_VirtualFree pymem__PyObject_VirtualFree
#define PyTraceMalloc_Track pymem_PyTraceMalloc_Track
#define PyTraceMalloc_Untrack pymem_PyTraceMalloc_Untrack
#define _Py_FatalErrorFormat pymem__Py_FatalErrorFormat
#define _Py_FatalErrorFunc pymem__Py_FatalErrorFunc
#define Py_GETENV pymem_Py_GETENV
#define _Py_GetAllocatedBlocks pymem__Py_GetAllocatedBlocks
#define raw_allocated_blocks pymem_raw_allocated_blocks
#define usedpools pymem_usedpools

#endif /* !Py_INTERNAL_INSTALLNAMES_H */
