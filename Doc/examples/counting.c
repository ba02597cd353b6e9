/* A hook that counts, around the allocators of two domains. */

#include <Python.h>

static PyMemAllocatorEx found[3];       /* by domain: what the hooks wrap */
static size_t requests[3], frees[3];

/* The context says which domain it is. */
static void *
counting_malloc(void *domain, size_t size)
{
    size_t i = (size_t)domain;
    requests[i]++;
    return found[i].malloc(found[i].ctx, size);
}

static void *
counting_calloc(void *domain, size_t nelem, size_t elsize)
{
    size_t i = (size_t)domain;
    requests[i]++;
    return found[i].calloc(found[i].ctx, nelem, elsize);
}

static void *
counting_realloc(void *domain, void *ptr, size_t new_size)
{
    size_t i = (size_t)domain;
    requests[i]++;
    return found[i].realloc(found[i].ctx, ptr, new_size);
}

static void
counting_free(void *domain, void *ptr)
{
    size_t i = (size_t)domain;
    frees[i]++;
    found[i].free(found[i].ctx, ptr);
}

static void
count(PyMemAllocatorDomain domain)
{
    PyMemAllocatorEx hook = {(void *)(size_t)domain, counting_malloc, counting_calloc,
                             counting_realloc, counting_free};
    PyMem_GetAllocator(domain, &found[domain]);
    PyMem_SetAllocator(domain, &hook);
}

int
main(void)
{
    count(PYMEM_DOMAIN_RAW);
    count(PYMEM_DOMAIN_OBJ);
    PyObject_Free(PyObject_Malloc(37));
    PyObject_Free(PyObject_Malloc(512));
    PyObject_Free(PyObject_Malloc(10000));
    printf("object domain: %zu requests, %zu frees\n", requests[PYMEM_DOMAIN_OBJ],
           frees[PYMEM_DOMAIN_OBJ]);
    printf("raw domain: %zu requests, %zu frees\n", requests[PYMEM_DOMAIN_RAW],
           frees[PYMEM_DOMAIN_RAW]);
    return 0;
}
