/* One fault of a program, for tools that are to find it.
 *
 *     faults none|leak|overrun|underrun|after-free|twice DOMAIN SIZE
 */

#include <Python.h>

static unsigned char *
faults_allocate(int domain, size_t size)
{
    return domain == 0 ? PyMem_RawMalloc(size)
        : domain == 1 ? PyMem_Malloc(size) : PyObject_Malloc(size);
}

static void
faults_free(int domain, void *ptr)
{
    domain == 0 ? PyMem_RawFree(ptr)
        : domain == 1 ? PyMem_Free(ptr) : PyObject_Free(ptr);
}

int
main(int argc, char **argv)
{
    if (argc != 4) {
        fprintf(stderr, "usage: faults none|leak|overrun|underrun|after-free|"
                "twice DOMAIN SIZE\n");
        return 2;
    }
    const char *fault = argv[1];
    int domain = atoi(argv[2]);
    size_t size = strtoul(argv[3], NULL, 10);
    /* Others of its size, so that it is not the only one of a pool. */
    for (int i = 0; i < 10; i++) {
        faults_free(domain, faults_allocate(domain, size));
    }
    unsigned char *volatile block = faults_allocate(domain, size);
    memset(block, 1, size);
    if (strcmp(fault, "leak") == 0) {
        block = NULL;
        return 0;
    }
    if (strcmp(fault, "overrun") == 0) {
        block[size] = 2;
    }
    else if (strcmp(fault, "underrun") == 0) {
        block[-1] = 2;
    }
    faults_free(domain, block);
    if (strcmp(fault, "after-free") == 0) {
        block[size / 2] = 2;
    }
    else if (strcmp(fault, "twice") == 0) {
        faults_free(domain, block);
    }
    return 0;
}
