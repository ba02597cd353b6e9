/* CPythons before 3.12 have this in common: whether they are traced is in a variable that
 * obmalloc.o defined, and object.o reads at each new reference. */

struct _PyTraceMalloc_Config _Py_tracemalloc_config = {.max_nframe = 1};

struct _PyTraceMalloc_Config *
python_tracemalloc_config(void)
{
    return &_Py_tracemalloc_config;
}

int
_PyMem_HoldsGIL(void)
{
    PyThreadState *current = _PyThreadState_UncheckedGet();
    return current != NULL && current->thread_id == PyThread_get_thread_ident();
}

int
python_trace_references(int on)
{
    (void)on;       /* the interpreter looks at the variable itself */
    return 0;
}
