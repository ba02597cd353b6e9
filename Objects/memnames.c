/* The names of PYTHONMALLOC, and what each stands for.
 *
 *   name          raw          mem         object
 *   malloc        malloc       malloc      malloc
 *   pymalloc      malloc       pymalloc    pymalloc
 *   mimalloc      mimalloc     mimalloc    mimalloc
 *   hardened      hardened     hardened    hardened
 *   ..._debug     the same, in debug hooks
 *   default       hardened --with-hardened, else pymalloc, where it is built; its _debug
 *                 in a debug build
 *   debug         the default, in debug hooks
 *
 * (--with-raw-allocator=mimalloc: the raw domain of pymalloc is mimalloc, too.)
 *
 * Sets allocators through PyMem_SetAllocator() and PyMem_SetupDebugHooks(); owns only
 * the table. */

#include "pycore_hardened.h"
#include "pycore_pymem.h"

#include <string.h>

/* A name and the same with _debug, without debug hooks. */
#define OF_ALL(alloc) {alloc, alloc, alloc}
static const PyMemAllocatorEx default_allocs[NB_DOMAINS] = {
    DEFAULT_ALLOC(RAW), DEFAULT_ALLOC(MEM), DEFAULT_ALLOC(OBJ),
};
#ifdef WITH_PYMALLOC
static const PyMemAllocatorEx pymalloc_allocs[NB_DOMAINS] = {
    RAW_ALLOC, PYMALLOC_ALLOC, PYMALLOC_ALLOC,
};
#endif
static const PyMemAllocatorEx malloc_allocs[NB_DOMAINS] = OF_ALL(MALLOC_ALLOC);
#ifdef WITH_MIMALLOC
static const PyMemAllocatorEx mimalloc_allocs[NB_DOMAINS] = OF_ALL(MIMALLOC_ALLOC);
#endif
static const PyMemAllocatorEx hardened_allocs[NB_DOMAINS] = HARDENED_ALLOCS;

static const struct allocator_name {
    const char *name;
    PyMemAllocatorName value;
    int is_debug;
} allocator_names[] = {
    {"default", PYMEM_ALLOCATOR_DEFAULT, 0},
    {"debug", PYMEM_ALLOCATOR_DEBUG, 1},
#ifdef WITH_PYMALLOC
    {"pymalloc", PYMEM_ALLOCATOR_PYMALLOC, 0},
    {"pymalloc_debug", PYMEM_ALLOCATOR_PYMALLOC_DEBUG, 1},
#endif
    {"malloc", PYMEM_ALLOCATOR_MALLOC, 0},
    {"malloc_debug", PYMEM_ALLOCATOR_MALLOC_DEBUG, 1},
#ifdef WITH_MIMALLOC
    {"mimalloc", PYMEM_ALLOCATOR_MIMALLOC, 0},
    {"mimalloc_debug", PYMEM_ALLOCATOR_MIMALLOC_DEBUG, 1},
#endif
    {"hardened", PYMEM_ALLOCATOR_HARDENED, 0},
    {"hardened_debug", PYMEM_ALLOCATOR_HARDENED_DEBUG, 1},
};
#define NB_NAMES (sizeof(allocator_names) / sizeof(allocator_names[0]))

const char _PyMem_AllocatorNames[] =
    "default, debug"
#ifdef WITH_PYMALLOC
    ", pymalloc, pymalloc_debug"
#endif
    ", malloc, malloc_debug"
#ifdef WITH_MIMALLOC
    ", mimalloc, mimalloc_debug"
#endif
    ", hardened, hardened_debug";

int
_PyMem_GetAllocatorName(const char *name, PyMemAllocatorName *allocator)
{
    if (name == NULL || *name == '\0') {
        name = "default";
    }
    for (size_t i = 0; i < NB_NAMES; i++) {
        if (strcmp(name, allocator_names[i].name) == 0) {
            *allocator = allocator_names[i].value;
            return 0;
        }
    }
    return -1;
}

/* The allocators of the three domains that a name stands for, without debug hooks.  NULL
 * for an unknown name. */
static const PyMemAllocatorEx *
allocators_of_name(PyMemAllocatorName name)
{
    switch (name) {
    case PYMEM_ALLOCATOR_DEFAULT:
    case PYMEM_ALLOCATOR_DEBUG:
        return default_allocs;
#ifdef WITH_PYMALLOC
    case PYMEM_ALLOCATOR_PYMALLOC:
    case PYMEM_ALLOCATOR_PYMALLOC_DEBUG:
        return pymalloc_allocs;
#endif
    case PYMEM_ALLOCATOR_MALLOC:
    case PYMEM_ALLOCATOR_MALLOC_DEBUG:
        return malloc_allocs;
#ifdef WITH_MIMALLOC
    case PYMEM_ALLOCATOR_MIMALLOC:
    case PYMEM_ALLOCATOR_MIMALLOC_DEBUG:
        return mimalloc_allocs;
#endif
    case PYMEM_ALLOCATOR_HARDENED:
    case PYMEM_ALLOCATOR_HARDENED_DEBUG:
        return hardened_allocs;
    default:
        return NULL;
    }
}

static int
name_is_debug(PyMemAllocatorName name)
{
#ifdef Py_DEBUG
    if (name == PYMEM_ALLOCATOR_DEFAULT) {
        return 1;
    }
#endif
    for (size_t i = 0; i < NB_NAMES; i++) {
        if (allocator_names[i].value == name) {
            return allocator_names[i].is_debug;
        }
    }
    return 0;
}

int
_PyMem_SetupAllocators(PyMemAllocatorName name)
{
    if (name == PYMEM_ALLOCATOR_NOT_SET) {
        return 0;
    }
    const PyMemAllocatorEx *allocs = allocators_of_name(name);
    if (allocs == NULL) {
        return -1;
    }
#ifdef WITH_MIMALLOC
    if (allocs == mimalloc_allocs && _PyMem_LoadMimalloc() < 0) {
        return -1;
    }
#endif
    if (allocs == hardened_allocs) {
        _PyMem_BeginHardened();
    }
    for (int domain = 0; domain < NB_DOMAINS; domain++) {
        PyMemAllocatorEx alloc = allocs[domain];
        PyMem_SetAllocator((PyMemAllocatorDomain)domain, &alloc);
    }
    if (name_is_debug(name)) {
        PyMem_SetupDebugHooks();
    }
    return 0;
}

int
_PyMem_SetDefaultAllocator(PyMemAllocatorDomain domain,
                           PyMemAllocatorEx *old_alloc)
{
    if ((unsigned)domain >= NB_DOMAINS) {
        return -1;
    }
    if (old_alloc != NULL) {
        PyMem_GetAllocator(domain, old_alloc);
    }
    PyMemAllocatorEx alloc = default_allocs[domain];
    PyMem_SetAllocator(domain, &alloc);
    if (name_is_debug(PYMEM_ALLOCATOR_DEFAULT)) {
        _PyMem_SetupDebugHooksInDomain(domain);
    }
    return 0;
}

/* Which name do the domains match? */

static int
allocators_are_equal(const PyMemAllocatorEx *a, const PyMemAllocatorEx *b)
{
    return a->ctx == b->ctx
        && a->malloc == b->malloc
        && a->calloc == b->calloc
        && a->realloc == b->realloc
        && a->free == b->free;
}

static int
allocators_match(PyMemAllocatorName name, int is_debug)
{
    const PyMemAllocatorEx *allocs = allocators_of_name(name);
    for (int domain = 0; allocs != NULL && domain < NB_DOMAINS; domain++) {
        PyMemAllocatorEx alloc;
        PyMem_GetAllocator((PyMemAllocatorDomain)domain, &alloc);
        if (_PyMem_HasDebugHooks((PyMemAllocatorDomain)domain) != is_debug) {
            return 0;
        }
        if (is_debug) {
            alloc = _PyMem_Debug[domain].alloc;
        }
        if (!allocators_are_equal(&alloc, &allocs[domain])) {
            return 0;
        }
    }
    return allocs != NULL;
}

const char *
_PyMem_GetCurrentAllocatorName(void)
{
    for (size_t i = 0; i < NB_NAMES; i++) {
        const struct allocator_name *name = &allocator_names[i];
        if (name->value != PYMEM_ALLOCATOR_DEFAULT
            && name->value != PYMEM_ALLOCATOR_DEBUG
            && allocators_match(name->value, name->is_debug))
        {
            return name->name;
        }
    }
    return NULL;
}
