/* The module _pymem: what Lib/pymem cannot know without C.
 *
 * One file for CPython 3.8 to 3.13 (the stable ABI).  Whether the process has our
 * heap it asks the dynamic linker: PyMemHeap_Visit() is in an interpreter that
 * Tools/relink made, and in what pymem-run loads. */

#define _GNU_SOURCE
#define Py_LIMITED_API 0x03080000
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "pymemheap.h"
#include "_pymem.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

/* Exported by CPython, declared in headers that differ by version. */
extern PyObject *_PyTraceMalloc_GetTraceback(unsigned int domain, uintptr_t ptr);

static struct {
    int (*visit)(PyMemHeapArenaVisitor, PyMemHeapPoolVisitor, void *);
    int (*free_blocks)(const PyMemHeapPool *, uint16_t *);
    void (*get_figures)(PyMemHeapFigures *);
    size_t (*trim)(void);
} heap;

static int
find_heap(void)
{
    *(void **)&heap.visit = dlsym(RTLD_DEFAULT, "PyMemHeap_Visit");
    *(void **)&heap.free_blocks = dlsym(RTLD_DEFAULT, "PyMemHeap_FreeBlocks");
    *(void **)&heap.get_figures = dlsym(RTLD_DEFAULT, "PyMemHeap_GetFigures");
    *(void **)&heap.trim = dlsym(RTLD_DEFAULT, "PyMem_Trim");
    if (heap.visit == NULL || heap.free_blocks == NULL || heap.get_figures == NULL
        || heap.trim == NULL)
    {
        PyErr_SetString(PyExc_RuntimeError, "this Python's memory is not pymem's; run "
                        "it as build/python, or as: pymem-run python3");
        return -1;
    }
    return 0;
}

static PyObject *
pymem_trim(PyObject *module, PyObject *noargs)
{
    return find_heap() < 0 ? NULL : PyLong_FromSize_t(heap.trim());
}

/* A walk.  The records are written down while the heap stands still, with memory of
 * the C library; objects are made of them afterwards. */

struct arena_record {
    uint64_t address, pool_address, size;
    uint32_t pool_size, npools, nfreepools, is_medium;
    int64_t interpreter;
    uint64_t thread;
    uint32_t heap, padding;
};

struct pool_record {
    uint64_t address, first_block, freeblock;
    uint32_t blocksize;
    uint16_t nblocks, ncut, nused, nfree;   /* nfree UINT16_MAX: a broken list */
    uint32_t padding;           /* which compilers for i386 leave out */
};

struct bytes {
    char *start;
    size_t length, room;
};

static void *
bytes_add(struct bytes *bytes, size_t size)
{
    if (bytes->start == NULL || bytes->room - bytes->length < size) {
        size_t room = 2 * bytes->room + size + 4096;
        char *larger = realloc(bytes->start, room);
        if (larger == NULL) {
            return NULL;
        }
        bytes->start = larger;
        bytes->room = room;
    }
    bytes->length += size;
    return bytes->start + bytes->length - size;
}

struct walk {
    struct bytes arenas, pools, free_blocks;
};

static int
write_arena(void *walk, const PyMemHeapArena *arena)
{
    struct arena_record *record =
        bytes_add(&((struct walk *)walk)->arenas, sizeof(*record));
    if (record == NULL) {
        return -1;
    }
    *record = (struct arena_record){
        arena->address, arena->pool_address, arena->size, (uint32_t)arena->pool_size,
        arena->npools, arena->nfreepools, (uint32_t)(arena->is_hardened ? 2 : arena->is_medium),
        arena->interpreter, arena->thread, arena->heap, 0};
    return 0;
}

static int
write_pool(void *into, const PyMemHeapArena *arena, const PyMemHeapPool *pool)
{
    (void)arena;
    struct walk *walk = into;
    struct pool_record *record = bytes_add(&walk->pools, sizeof(*record));
    size_t room = pool->nblocks * sizeof(uint16_t);
    uint16_t *numbers = bytes_add(&walk->free_blocks, room);
    if (record == NULL || numbers == NULL) {
        return -1;
    }
    int nfree = pool->blocksize == 0 ? 0 : heap.free_blocks(pool, numbers);
    walk->free_blocks.length -= room - (nfree > 0 ? (size_t)nfree : 0) * sizeof(uint16_t);
    *record = (struct pool_record){
        pool->address, pool->first_block, (uintptr_t)pool->freeblock,
        (uint32_t)pool->blocksize, (uint16_t)pool->nblocks, (uint16_t)pool->ncut,
        (uint16_t)pool->nused, nfree < 0 ? UINT16_MAX : (uint16_t)nfree, 0};
    return 0;
}

static PyObject *
bytes_object(const struct bytes *bytes)
{
    return PyBytes_FromStringAndSize(bytes->start, (Py_ssize_t)bytes->length);
}

static PyObject *
figures_object(const PyMemHeapFigures *figures)
{
#define FIGURE(name) {#name, offsetof(PyMemHeapFigures, name)}
    static const struct {
        const char *name;
        size_t offset;
    } names[] = {
        FIGURE(threshold), FIGURE(alignment), FIGURE(pool_overhead), FIGURE(arena_size),
        FIGURE(pool_size), FIGURE(arenas_allocated), FIGURE(arenas_current),
        FIGURE(arenas_highwater), FIGURE(medium_arena_size), FIGURE(medium_pool_size),
        FIGURE(medium_arenas_allocated), FIGURE(medium_arenas_current),
        FIGURE(medium_arenas_highwater), FIGURE(larger_blocks), FIGURE(map_root),
        FIGURE(map_leaves), FIGURE(map_records), FIGURE(arena_objects), FIGURE(heaps),
    };
    PyObject *dict = PyDict_New();
    for (size_t i = 0; dict != NULL && i < sizeof(names) / sizeof(names[0]); i++) {
        size_t value;
        memcpy(&value, (const char *)figures + names[i].offset, sizeof(value));
        PyObject *number = PyLong_FromSize_t(value);
        if (number == NULL || PyDict_SetItemString(dict, names[i].name, number) < 0) {
            Py_CLEAR(dict);
        }
        Py_XDECREF(number);
    }
    return dict;
}

static PyObject *
pymem_walk(PyObject *module, PyObject *noargs)
{
    struct walk walk = {{NULL, 0, 0}, {NULL, 0, 0}, {NULL, 0, 0}};
    PyMemHeapFigures figures;
    PyObject *result = NULL;
    if (find_heap() < 0) {
        return NULL;
    }
    heap.get_figures(&figures);
    if (heap.visit(write_arena, write_pool, &walk) < 0) {
        PyErr_NoMemory();
    }
    else {
        result = Py_BuildValue("(NNNN)", figures_object(&figures),
                               bytes_object(&walk.arenas), bytes_object(&walk.pools),
                               bytes_object(&walk.free_blocks));
    }
    free(walk.arenas.start);
    free(walk.pools.start);
    free(walk.free_blocks.start);
    return result;
}

/* Sums, for those who look often: no free list is followed. */

#define NSIZES 256              /* there are fewer sizes of blocks */

struct sums {
    uint64_t held, used, blocks;
    uint64_t pools[4];          /* free, empty, used, full */
    unsigned nsizes;
    struct {
        size_t blocksize;
        uint64_t pools, blocks;
    } sizes[NSIZES];
};

static int
sum_arena(void *sums, const PyMemHeapArena *arena)
{
    ((struct sums *)sums)->held += arena->size;
    return 0;
}

static int
sum_pool(void *into, const PyMemHeapArena *arena, const PyMemHeapPool *pool)
{
    (void)arena;
    struct sums *sums = into;
    sums->pools[pool->blocksize == 0 ? 0 : pool->nused == 0 ? 1
                : pool->nused < pool->nblocks ? 2 : 3]++;
    sums->blocks += pool->nused;
    sums->used += pool->nused * pool->blocksize;
    if (pool->nused == 0) {
        return 0;
    }
    unsigned i = 0;
    while (i < sums->nsizes && sums->sizes[i].blocksize != pool->blocksize) {
        i++;
    }
    if (i == sums->nsizes && i < NSIZES) {
        sums->sizes[i].blocksize = pool->blocksize;
        sums->nsizes++;
    }
    if (i < NSIZES) {
        sums->sizes[i].pools++;
        sums->sizes[i].blocks += pool->nused;
    }
    return 0;
}

static PyObject *
pymem_usage(PyObject *module, PyObject *noargs)
{
    struct sums sums;
    PyMemHeapFigures figures;
    if (find_heap() < 0) {
        return NULL;
    }
    memset(&sums, 0, sizeof(sums));
    heap.get_figures(&figures);
    heap.visit(sum_arena, sum_pool, &sums);
    PyObject *sizes = PyDict_New();
    for (unsigned i = 0; sizes != NULL && i < sums.nsizes; i++) {
        PyObject *size = PyLong_FromSize_t(sums.sizes[i].blocksize);
        PyObject *counts = Py_BuildValue("(KK)",
                                         (unsigned long long)sums.sizes[i].pools,
                                         (unsigned long long)sums.sizes[i].blocks);
        if (size == NULL || counts == NULL || PyDict_SetItem(sizes, size, counts) < 0) {
            Py_CLEAR(sizes);
        }
        Py_XDECREF(size);
        Py_XDECREF(counts);
    }
    return Py_BuildValue(
        "(NKKK(KKKK)N)", figures_object(&figures), (unsigned long long)sums.held,
        (unsigned long long)sums.used, (unsigned long long)sums.blocks,
        (unsigned long long)sums.pools[0], (unsigned long long)sums.pools[1],
        (unsigned long long)sums.pools[2], (unsigned long long)sums.pools[3], sizes);
}

/* Blocks. */

static PyObject *
pymem_traceback(PyObject *module, PyObject *address)
{
    uintptr_t ptr = (uintptr_t)PyLong_AsVoidPtr(address);
    return PyErr_Occurred() ? NULL : _PyTraceMalloc_GetTraceback(0, ptr);
}

static PyObject *
pymem_symbol(PyObject *module, PyObject *address)
{
    Dl_info info;
    void *ptr = PyLong_AsVoidPtr(address);
    if (PyErr_Occurred()) {
        return NULL;
    }
    if (dladdr(ptr, &info) == 0) {
        Py_RETURN_NONE;
    }
    return Py_BuildValue("(zKz)", info.dli_fname, (unsigned long long)(
        (uintptr_t)ptr - (uintptr_t)info.dli_fbase), info.dli_sname);
}

/* Hooks. */

static PyObject *
pymem_count(PyObject *module, PyObject *noargs)
{
    if (hooks_count() < 0) {
        PyErr_SetString(PyExc_RuntimeError, "requests are counted already");
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
pymem_stop(PyObject *module, PyObject *noargs)
{
    struct hook_counts counts;
    hooks_stop(&counts);
    return Py_BuildValue("(KKK)", (unsigned long long)counts.requests,
                         (unsigned long long)counts.bytes,
                         (unsigned long long)counts.frees);
}

/* Replays. */

static PyObject *
pymem_simulate(PyObject *module, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"trace", "arena_bits", "pool_bits", "alignment", "threshold",
                            "overhead", "kept_arenas", "samples", NULL};
    const char *trace;
    Py_ssize_t length;
    struct replay_geometry geometry;
    unsigned nsamples;
    if (!PyArg_ParseTupleAndKeywords(
            args, kwargs, "y#IIIIIII", names, &trace, &length, &geometry.arena_bits,
            &geometry.pool_bits, &geometry.alignment, &geometry.threshold,
            &geometry.overhead, &geometry.kept_arenas, &nsamples))
    {
        return NULL;
    }
    if (geometry.pool_bits < 10 || geometry.pool_bits > 20
        || geometry.arena_bits < geometry.pool_bits || geometry.arena_bits > 30
        || (geometry.alignment != 8 && geometry.alignment != 16)
        || geometry.threshold > 4096 || geometry.threshold % geometry.alignment != 0
        || geometry.overhead + geometry.threshold > 1u << geometry.pool_bits
        || nsamples == 0 || nsamples > 1000000)
    {
        PyErr_SetString(PyExc_ValueError, "no such geometry: pools are 2**10 to 2**20 "
                        "bytes, arenas as large or larger, blocks aligned to 8 or 16");
        return NULL;
    }
    struct replay_sample *samples = calloc(nsamples, sizeof(*samples));
    const char *fault = samples == NULL ? "no memory for the replay" : NULL;
    int n = 0;
    Py_BEGIN_ALLOW_THREADS
    if (samples != NULL) {
        n = replay_simulate((const uint8_t *)trace, (size_t)length, &geometry, samples,
                            nsamples, &fault);
    }
    Py_END_ALLOW_THREADS
    PyObject *result = NULL;
    if (fault != NULL) {
        PyErr_SetString(PyExc_ValueError, fault);
    }
    else {
        result = PyBytes_FromStringAndSize((const char *)samples,
                                           n * (Py_ssize_t)sizeof(*samples));
    }
    free(samples);
    return result;
}

static PyMethodDef methods[] = {
    {"walk", pymem_walk, METH_NOARGS,
     PyDoc_STR("The heap at this moment: figures, and records of arenas, of pools and\n"
               "of the numbers of free blocks (Lib/pymem/heap.py reads them).")},
    {"usage", pymem_usage, METH_NOARGS,
     PyDoc_STR("Sums over the heap: figures, bytes held, bytes used, blocks, pools that\n"
               "are (free, empty, used, full), {bytes in a block: (pools, blocks)}.")},
    {"trim", pymem_trim, METH_NOARGS,
     PyDoc_STR("PyMem_Trim(): give back all memory that no block is in; its bytes.")},
    {"traceback", pymem_traceback, METH_O,
     PyDoc_STR("Where the block at an address was allocated, if that is traced.")},
    {"symbol", pymem_symbol, METH_O,
     PyDoc_STR("(file, offset in it, exported name or None) of an address, or None.")},
    {"count", pymem_count, METH_NOARGS,
     PyDoc_STR("Count requests of the mem and object domains from now on.")},
    {"stop", pymem_stop, METH_NOARGS,
     PyDoc_STR("Count no more: (requests, bytes asked for, frees).")},
    {"simulate", (PyCFunction)(void (*)(void))pymem_simulate,
     METH_VARARGS | METH_KEYWORDS,
     PyDoc_STR("Play a trace on a geometry: records of samples, evenly over the calls\n"
               "(Lib/pymem/replay.py reads them).")},
    {NULL, NULL, 0, NULL}
};

static struct PyModuleDef module_def = {
    PyModuleDef_HEAD_INIT, "_pymem", NULL, -1, methods, NULL, NULL, NULL, NULL
};

PyMODINIT_FUNC PyInit__pymem(void);

PyMODINIT_FUNC
PyInit__pymem(void)
{
    PyObject *module = PyModule_Create(&module_def);
    if (module != NULL
        && PyModule_AddStringConstant(module, "VERSION", PACKAGE_VERSION_TEXT) < 0)
    {
        Py_CLEAR(module);
    }
    return module;
}
