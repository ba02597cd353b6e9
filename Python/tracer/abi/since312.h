/* CPythons from 3.12 on have this in common: each interpreter may have a heap.  The file
 * that includes this says where its version keeps the pointer to it:
 *
 *   HEAP_OF(interp)    an lvalue in the interpreter's state, NULL in a new one, that the
 *                      interpreter itself does not use with our library
 *
 * Interpreters that are told to share the main one's allocator, which then also share
 * its GIL, have main_heap; others get a heap when they first ask.  Until
 * python_has_other_heaps() is called nobody asks: main_heap serves all. */

#undef _Py_GetAllocatedBlocks       /* to which 3.12 has a macro */
extern Py_ssize_t _Py_GetAllocatedBlocks(void);

struct heap;
extern __attribute__((visibility("hidden"))) struct heap main_heap, heap_of_nobody;
extern struct heap *heap_new(int64_t interpreter);
extern void heap_end(struct heap *heap);
extern void _PyMem_AskForHeap(struct heap *(*of_interpreter)(void));
extern Py_ssize_t _PyMem_CountBlocksOfHeap(struct heap *heap);

extern Py_ssize_t _Py_GetGlobalAllocatedBlocks(void);
extern Py_ssize_t _PyInterpreterState_GetAllocatedBlocks(PyInterpreterState *);
extern void _PyInterpreterState_FinalizeAllocatedBlocks(PyInterpreterState *);
extern void _Py_FinalizeAllocatedBlocks(_PyRuntimeState *);

static int
uses_main_heap(PyInterpreterState *interp)
{
    return interp == PyInterpreterState_Main()
        || _PyInterpreterState_HasFeature(interp, Py_RTFLAGS_USE_MAIN_OBMALLOC);
}

/* NULL: no memory. */
static struct heap *
heap_begin(PyInterpreterState *interp)
{
    HEAP_OF(interp) = (void *)(uses_main_heap(interp) ? &main_heap
                               : heap_new(PyInterpreterState_GetID(interp)));
    return (struct heap *)HEAP_OF(interp);
}

static __attribute__((cold, noinline)) struct heap *
heap_begin_or_none(PyInterpreterState *interp)
{
    struct heap *heap = heap_begin(interp);
    return heap != NULL ? heap : &heap_of_nobody;
}

/* The heap of the thread's interpreter; heap_of_nobody for a thread that has none. */
static struct heap *
python_heap(void)
{
    PyThreadState *tstate = _PyThreadState_GET();
    if (tstate == NULL) {
        return &heap_of_nobody;
    }
    struct heap *heap = (struct heap *)HEAP_OF(tstate->interp);
    return heap != NULL ? heap : heap_begin_or_none(tstate->interp);
}

int
_PyMem_HoldsGIL(void)
{
    return _PyThreadState_GET() != NULL;
}

static void
python_has_other_heaps(void)
{
    _PyMem_AskForHeap(python_heap);
}

/* Blocks by interpreter. */

Py_ssize_t
_Py_GetGlobalAllocatedBlocks(void)
{
    return _Py_GetAllocatedBlocks();
}

Py_ssize_t
_PyInterpreterState_GetAllocatedBlocks(PyInterpreterState *interp)
{
    struct heap *heap = (struct heap *)HEAP_OF(interp);
    if (heap == NULL && uses_main_heap(interp)) {
        heap = &main_heap;
    }
    return heap != NULL ? _PyMem_CountBlocksOfHeap(heap) : 0;
}

/* The interpreter ends; what it leaves behind stays in the count of all. */
void
_PyInterpreterState_FinalizeAllocatedBlocks(PyInterpreterState *interp)
{
    struct heap *heap = (struct heap *)HEAP_OF(interp);
    HEAP_OF(interp) = NULL;
    if (heap != NULL && heap != &main_heap) {
        heap_end(heap);
    }
}

void
_Py_FinalizeAllocatedBlocks(_PyRuntimeState *runtime)
{
    (void)runtime;
}
