/* Pairs of malloc and free, for a tool that counts instructions.
 *
 *   bench-pairs LIBRARY PREFIX SIZE LIVE PAIRS
 *
 * PREFIX is PyObject_, PyMem_ or PyMem_Raw.  LIVE blocks of the size stay, with none each
 * free leaves a pool without a block; and one of 16 bytes, as any program has small ones. */

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

static void *
symbol(void *library, const char *prefix, const char *name)
{
    char whole[64];
    snprintf(whole, sizeof(whole), "%s%s", prefix, name);
    void *address = dlsym(library, whole);
    if (address == NULL) {
        fprintf(stderr, "bench-pairs: %s\n", dlerror());
        exit(2);
    }
    return address;
}

int
main(int argc, char **argv)
{
    if (argc != 6) {
        fputs("usage: bench-pairs LIBRARY PREFIX SIZE LIVE PAIRS\n", stderr);
        return 2;
    }
    void *library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        fprintf(stderr, "bench-pairs: %s\n", dlerror());
        return 2;
    }
    void *(*alloc)(size_t size);
    void (*release)(void *ptr);
    *(void **)&alloc = symbol(library, argv[2], "Malloc");
    *(void **)&release = symbol(library, argv[2], "Free");
    size_t size = strtoul(argv[3], NULL, 10);
    alloc(16);
    for (size_t i = strtoul(argv[4], NULL, 10); i > 0; i--) {
        alloc(size);
    }
    for (size_t i = strtoul(argv[5], NULL, 10); i > 0; i--) {
        release(alloc(size));
    }
    return 0;
}
