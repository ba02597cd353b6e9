/* Memory that runs out on purpose: for people who test what their code does then.
 *
 *     PyMemFaults faults = {.fail_from = 3};
 *     PyMemFaults_Start(PYMEM_DOMAIN_MEM, &faults);
 *     ... the third request of the mem domain returns NULL, and all after it ...
 *     PyMemFaults_Report(PYMEM_DOMAIN_MEM, stderr);      what was not freed
 *     PyMemFaults_Stop(PYMEM_DOMAIN_MEM);
 *
 * An allocator around the one that a domain has, as PyMem_SetAllocator() knows them.
 * Blocks that were there before are passed through.  A request is a malloc, calloc
 * or realloc; a realloc that fails leaves its block as it was.  pymem's own: CPython
 * has something like it in its test modules only.
 *
 * Start and Stop with the GIL held, and for the raw domain while no other thread
 * uses it.  The functions that return an int: 0; -1 with an error set. */

#ifndef PYMEMFAULTS_H
#define PYMEMFAULTS_H

#include <Python.h>

#include <stdio.h>

#ifdef __cplusplus
extern "C" {
#endif

/* All zero: nothing fails, everything is counted. */
typedef struct {
    size_t fail_from;       /* number of the first request to fail, from 1; 0: none */
    size_t fail_count;      /* how many fail from there on; 0: all */
    double fail_share;      /* each request fails with this probability, 0 to 1 */
    unsigned long long seed;    /* the same seed, the same ones */
    size_t quota;           /* bytes in use at which requests fail; 0: no limit */
} PyMemFaults;

typedef struct {
    size_t requests;        /* since the start */
    size_t failed;          /* of those; also where there really was no memory */
    size_t frees;
    size_t blocks;          /* allocated since the start and not freed */
    size_t bytes;           /* that were asked for them */
    size_t peak_bytes;
} PyMemFaultsCounts;

/* ValueError for a domain, share or count that can't be; RuntimeError where it is
 * started already. */
PyAPI_FUNC(int) PyMemFaults_Start(PyMemAllocatorDomain domain,
                                  const PyMemFaults *faults);

/* Put the former allocator back.  RuntimeError where it was not started, or another
 * allocator was set since and not removed. */
PyAPI_FUNC(int) PyMemFaults_Stop(PyMemAllocatorDomain domain);

/* RuntimeError where it was not started. */
PyAPI_FUNC(int) PyMemFaults_Count(PyMemAllocatorDomain domain,
                                  PyMemFaultsCounts *counts);

/* Call visit for each block that is allocated, until it returns not 0: that is
 * returned.  It may allocate; -1 with MemoryError when there is none for the list. */
PyAPI_FUNC(int) PyMemFaults_Visit(PyMemAllocatorDomain domain,
                                  int (*visit)(void *arg, void *ptr, size_t size),
                                  void *arg);

#ifndef PYMEMFAULTS_IN_CPYTHON
/* Write them, and where they were allocated as far as the tracer knows.  How many
 * there are; -1. */
PyAPI_FUNC(Py_ssize_t) PyMemFaults_Report(PyMemAllocatorDomain domain, FILE *out);
#endif

#ifdef __cplusplus
}
#endif

#endif /* !PYMEMFAULTS_H */
