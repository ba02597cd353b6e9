/* The raw domain's allocators: malloc, and mimalloc where it is built in.
 *
 * Both are thread-safe.  malloc(0) may return NULL and calloc(0, n) too, so
 * both are asked for a byte instead.  Calls the C library; pymalloc.c for medium
 * blocks of the mem domain, which in CPython are malloc's; and asks virtualmem.c
 * whether it may call the system. */

#include "pycore_pymem.h"
#include "pycore_virtualmem.h"

#include <stdlib.h>
#include <string.h>
#ifdef __GLIBC__
#  include <malloc.h>
#endif

/* Medium blocks that come here. */

#ifdef WITH_PYMALLOC

static int
is_medium(const void *ptr)
{
    return pymalloc_has_medium(ptr) && pymalloc_medium_size(ptr) != 0;
}

/* A block that is made larger here is likely to grow again, and stays with malloc. */
static COLD void *
move_medium(void *ptr, size_t size, void *moved)
{
    if (moved != NULL) {
        size_t old_size = pymalloc_medium_size(ptr);
        memcpy(moved, ptr, size < old_size ? size : old_size);
        pymalloc_free_medium(ptr);
    }
    return moved;
}

#else
#  define is_medium(ptr) 0
#  define move_medium(ptr, size, moved) ((void)(moved), NULL)
#  define pymalloc_free_medium(ptr) ((void)0)
#endif

void *
_PyMem_RawMalloc(void *ctx, size_t size)
{
    (void)ctx;
    size_t at_least_1 = size != 0 ? size : 1;
    void *ptr = malloc(at_least_1);
    return TWICE(ptr, malloc(at_least_1));
}

void *
_PyMem_RawCalloc(void *ctx, size_t nelem, size_t elsize)
{
    (void)ctx;
    if (nelem == 0 || elsize == 0) {
        nelem = elsize = 1;
    }
    void *ptr = calloc(nelem, elsize);
    return TWICE(ptr, calloc(nelem, elsize));
}

static void *
resize(void *ptr, size_t size)
{
    return realloc(ptr, size != 0 ? size : 1);
}

void *
_PyMem_RawRealloc(void *ctx, void *ptr, size_t size)
{
    if (is_medium(ptr)) {
        return move_medium(ptr, size, _PyMem_RawMalloc(ctx, size));
    }
    void *moved = resize(ptr, size);
    return TWICE(moved, resize(ptr, size));
}

void
_PyMem_RawFree(void *ctx, void *ptr)
{
    (void)ctx;
    if (is_medium(ptr)) {
        pymalloc_free_medium(ptr);
    }
    else {
        free(ptr);
    }
}

/* The allocator that the raw domain starts with, whatever was set since. */
static const PyMemAllocatorEx default_raw = RAW_ALLOC;

void *
_PyMem_DefaultRawMalloc(size_t size)
{
    return default_raw.malloc(NULL, size);
}

void *
_PyMem_DefaultRawCalloc(size_t nelem, size_t elsize)
{
    return default_raw.calloc(NULL, nelem, elsize);
}

void *
_PyMem_DefaultRawRealloc(void *ptr, size_t size)
{
    return default_raw.realloc(NULL, ptr, size);
}

void
_PyMem_DefaultRawFree(void *ptr)
{
    default_raw.free(NULL, ptr);
}

wchar_t *
_PyMem_DefaultRawWcsdup(const wchar_t *text)
{
    size_t length = wcslen(text);
    if (length > (size_t)PY_SSIZE_T_MAX / sizeof(wchar_t) - 1) {
        return NULL;
    }
    size_t nbytes = (length + 1) * sizeof(wchar_t);
    wchar_t *copy = _PyMem_DefaultRawMalloc(nbytes);
    return copy != NULL ? memcpy(copy, text, nbytes) : NULL;
}

/* The number of bytes is not known: malloc does not tell. */
size_t
_PyMem_RawTrim(void)
{
#ifdef __GLIBC__
    if (!virtual_is_confined()) {
        malloc_trim(0);         /* by madvise() */
    }
#endif
    return 0;
}

#ifdef WITH_MIMALLOC

#include <dlfcn.h>
#include <stdio.h>

/* mimalloc's shared library also defines malloc.  Linking with it would put it
 * under every allocator of the process, so it is loaded when it is asked for,
 * and only its own names are used. */
static void *load_and_malloc(size_t size);
static void *load_and_calloc(size_t count, size_t size);
static void *load_and_realloc(void *ptr, size_t size);
static void load_and_free(void *ptr);

struct allocator_functions {
    void *(*malloc)(size_t size);
    void *(*calloc)(size_t count, size_t size);
    void *(*realloc)(void *ptr, size_t size);
    void (*free)(void *ptr);
};
static struct allocator_functions mimalloc = {
    load_and_malloc, load_and_calloc, load_and_realloc, load_and_free
};

int
_PyMem_LoadMimalloc(void)
{
    static int is_loaded;
    if (is_loaded) {
        return 0;
    }
    void *library = dlopen(MIMALLOC_LIBRARY, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        fprintf(stderr, "pymem: mimalloc can't be used: %s\n", dlerror());
        return -1;
    }
    /* Through an object pointer: ISO C has no cast from one to a function. */
    struct allocator_functions found;
    *(void **)&found.malloc = dlsym(library, "mi_malloc");
    *(void **)&found.calloc = dlsym(library, "mi_calloc");
    *(void **)&found.realloc = dlsym(library, "mi_realloc");
    *(void **)&found.free = dlsym(library, "mi_free");
    if (found.malloc == NULL || found.calloc == NULL
        || found.realloc == NULL || found.free == NULL)
    {
        fprintf(stderr, "pymem: mimalloc can't be used: %s lacks mi_malloc, "
                "mi_calloc, mi_realloc or mi_free\n", MIMALLOC_LIBRARY);
        return -1;
    }
    mimalloc = found;
    is_loaded = 1;
    return 0;
}

/* A raw domain that is mimalloc from the start can't do without: where there is
 * none malloc takes its place, after the line that says why, and for good. */
static void
load_or_use_malloc(void)
{
    if (mimalloc.malloc == load_and_malloc && _PyMem_LoadMimalloc() < 0) {
        mimalloc = (struct allocator_functions){malloc, calloc, realloc, free};
    }
}

static void *
load_and_malloc(size_t size)
{
    load_or_use_malloc();
    return mimalloc.malloc(size);
}

static void *
load_and_calloc(size_t count, size_t size)
{
    load_or_use_malloc();
    return mimalloc.calloc(count, size);
}

static void *
load_and_realloc(void *ptr, size_t size)
{
    load_or_use_malloc();
    return mimalloc.realloc(ptr, size);
}

static void
load_and_free(void *ptr)
{
    load_or_use_malloc();
    mimalloc.free(ptr);
}

#ifdef WITH_RAW_MIMALLOC
/* Before there are threads.  Where one loads a library while another forks, the child
 * has half of the library, takes it for loaded, and crashes in its first call. */
__attribute__((constructor)) static void
load_before_main(void)
{
    load_or_use_malloc();
}
#endif

/* mimalloc aligns blocks of up to 8 bytes to 8 only, and malloc all to 16. */
static size_t
at_least_16(size_t size)
{
    return size > 16 ? size : 16;
}

void *
_PyMem_MiMalloc(void *ctx, size_t size)
{
    (void)ctx;
    void *ptr = mimalloc.malloc(at_least_16(size));
    return TWICE(ptr, mimalloc.malloc(at_least_16(size)));
}

void *
_PyMem_MiCalloc(void *ctx, size_t nelem, size_t elsize)
{
    (void)ctx;
    int is_tiny = elsize == 0 || nelem <= 16 / elsize;
    if (is_tiny) {
        nelem = 1;
        elsize = 16;
    }
    void *ptr = mimalloc.calloc(nelem, elsize);
    return TWICE(ptr, mimalloc.calloc(nelem, elsize));
}

void *
_PyMem_MiRealloc(void *ctx, void *ptr, size_t size)
{
    if (is_medium(ptr)) {
        return move_medium(ptr, size, _PyMem_MiMalloc(ctx, size));
    }
    void *moved = mimalloc.realloc(ptr, at_least_16(size));
    return TWICE(moved, mimalloc.realloc(ptr, at_least_16(size)));
}

void
_PyMem_MiFree(void *ctx, void *ptr)
{
    (void)ctx;
    if (is_medium(ptr)) {
        pymalloc_free_medium(ptr);
    }
    else {
        mimalloc.free(ptr);
    }
}

#endif /* WITH_MIMALLOC */
