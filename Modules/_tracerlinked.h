/* The tracer that an interpreter is linked with: how the interpreter is told of it, and
 * what it calls as it starts and ends.  Part of Modules/_tracemalloc.c. */

#define MODULE_NAME "_tracemalloc"
#define MODULE_SLOTS NULL
#define MORE_METHODS

static struct PyModuleDef module_def;
static int start(int nframe, size_t sample_bytes, uint64_t seed, int native);

/* Of the configuration, whose own names differ by version. */
enum { NOT_INITIALIZED, INITIALIZED, FINALIZED };

static int
tell_the_interpreter(void)
{
    struct _PyTraceMalloc_Config *config = python_tracemalloc_config();
    /* Asks to be told of each new object: also of those that a free list gives
     * again, which have the stack of their block while samples are traced. */
    int was_told = config->tracing;
    config->tracing = tracer_is_tracing() && tracer_sample_bytes() == 0;
    config->max_nframe = tracer_is_tracing() ? (int)tracer_max_frames() : 1;
    return config->tracing != was_told ? python_trace_references(config->tracing) : 0;
}

static void
tell_the_interpreter_no(void)
{
    struct _PyTraceMalloc_Config *config = python_tracemalloc_config();
    config->tracing = 0;
    config->max_nframe = 1;
}

static int
check_the_interpreter(void)
{
    struct _PyTraceMalloc_Config *config = python_tracemalloc_config();
    if ((int)config->initialized == FINALIZED && !Py_IsInitialized()) {
        PyErr_SetString(PyExc_RuntimeError,
                        "the tracemalloc module has been unloaded");
        return -1;
    }
    config->initialized = INITIALIZED;
    return 0;
}

/* PYTHONTRACEMALLOC_SAMPLE: the mean number of bytes between samples. */
static int
sample_bytes_of_environment(size_t *sample_bytes)
{
    const char *text = Py_GETENV("PYTHONTRACEMALLOC_SAMPLE");
    *sample_bytes = 0;
    if (text == NULL || *text == '\0') {
        return 0;
    }
    size_t n = keepsize_parse(text);
    if (n == SIZE_MAX) {
        PyErr_Format(PyExc_ValueError, "PYTHONTRACEMALLOC_SAMPLE takes "
                     KEEPSIZE_IS ", not \"%s\"", text);
        return -1;
    }
    *sample_bytes = n;
    return 0;
}

/* As the interpreter starts: nframe is what it was told, 0 for nothing. */
static int
start_from_environment(int nframe)
{
    assert(PyGILState_Check());
    size_t sample_bytes;
    if (sample_bytes_of_environment(&sample_bytes) < 0) {
        return -1;
    }
    if (nframe == 0 && sample_bytes == 0) {
        return 0;
    }
    /* Another cycle of Py_Initialize() and Py_FinalizeEx() may have been before. */
    python_tracemalloc_config()->initialized = NOT_INITIALIZED;
    return start(nframe != 0 ? nframe : 1, sample_bytes, 0, 0);
}

/* Up to 3.11 always, from 3.12 on if PYTHONTRACEMALLOC is set. */
#if PY_VERSION_HEX < 0x030C0000
int
_PyTraceMalloc_Init(int nframe)
{
    return start_from_environment(nframe);
}
#else
int
_PyTraceMalloc_Start(int max_nframe)
{
    return start_from_environment(max_nframe);
}

/* Nothing is left to do: the first start does it.  Releases of 3.13 declare either
 * type; all zeros is success in both. */
typedef __typeof__(_PyTraceMalloc_Init()) init_result;   /* int or PyStatus */

init_result
_PyTraceMalloc_Init(void)
{
    return (init_result){0};
}
#endif

void
_PyTraceMalloc_Fini(void)
{
    struct _PyTraceMalloc_Config *config = python_tracemalloc_config();
    assert(PyGILState_Check());
    if ((int)config->initialized == INITIALIZED) {
        config->initialized = FINALIZED;
        _PyTraceMalloc_Stop();
    }
}

PyMODINIT_FUNC
PyInit__tracemalloc(void)
{
    return PyModule_Create(&module_def);
}
