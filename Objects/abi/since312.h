/* What CPythons have alike from 3.12 on: they ask for the blocks of interpreters,
 * which there have a heap each.  Here one heap serves them all (Objects/sharedheap.c), so what an
 * interpreter leaves behind when it ends is in the count of all as it was. */

#undef _Py_GetAllocatedBlocks       /* to which 3.12 has a macro */
extern Py_ssize_t _Py_GetAllocatedBlocks(void);
extern void heap_share(void);

extern Py_ssize_t _Py_GetGlobalAllocatedBlocks(void);
extern Py_ssize_t _PyInterpreterState_GetAllocatedBlocks(PyInterpreterState *);
extern void _PyInterpreterState_FinalizeAllocatedBlocks(PyInterpreterState *);
extern void _Py_FinalizeAllocatedBlocks(_PyRuntimeState *);

Py_ssize_t
_Py_GetGlobalAllocatedBlocks(void)
{
    return _Py_GetAllocatedBlocks();
}

Py_ssize_t
_PyInterpreterState_GetAllocatedBlocks(PyInterpreterState *interp)
{
    (void)interp;
    return _Py_GetAllocatedBlocks();
}

void
_PyInterpreterState_FinalizeAllocatedBlocks(PyInterpreterState *interp)
{
    (void)interp;
}

void
_Py_FinalizeAllocatedBlocks(_PyRuntimeState *runtime)
{
    (void)runtime;
}
