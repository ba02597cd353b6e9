/* The contract of the three domains in one program that needs no test library:
 * for platforms where none is at hand (gcc -m32, cross builds), and for trying
 * an installed library.  Says nothing but the number of promises kept. */

#include <Python.h>

static int checks;

#define CHECK(promise)                                                      \
    do {                                                                    \
        checks++;                                                           \
        if (!(promise)) {                                                   \
            fprintf(stderr, "contract.c:%d: %s: broken: %s\n", __LINE__,    \
                    family->name, #promise);                                \
            exit(EXIT_FAILURE);                                             \
        }                                                                   \
    } while (0)

struct family {
    const char *name;
    void *(*malloc)(size_t size);
    void *(*calloc)(size_t nelem, size_t elsize);
    void *(*realloc)(void *ptr, size_t new_size);
    void (*free)(void *ptr);
};

static const struct family families[] = {
    {"raw", PyMem_RawMalloc, PyMem_RawCalloc, PyMem_RawRealloc, PyMem_RawFree},
    {"mem", PyMem_Malloc, PyMem_Calloc, PyMem_Realloc, PyMem_Free},
    {"object", PyObject_Malloc, PyObject_Calloc, PyObject_Realloc,
     PyObject_Free},
};

static int
is_filled(const unsigned char *p, size_t n, int value)
{
    for (size_t i = 0; i < n; i++) {
        if (p[i] != value) {
            return 0;
        }
    }
    return 1;
}

static void
check_sizes(const struct family *family)
{
    size_t alignment = sizeof(void *) >= 8 ? 16 : 8;
    for (size_t n = 0; n < 1200; n++) {
        unsigned char *p = family->malloc(n);
        CHECK(p != NULL);
        CHECK((uintptr_t)p % alignment == 0);
        memset(p, 0x5a, n);
        size_t m = (n * 37 + 11) % 1500;
        p = family->realloc(p, m);
        CHECK(p != NULL);
        CHECK((uintptr_t)p % alignment == 0);
        CHECK(is_filled(p, n < m ? n : m, 0x5a));
        memset(p, 0xff, m);
        family->free(p);
        p = family->calloc(1, n);
        CHECK(p != NULL);
        CHECK(is_filled(p, n, 0));
        family->free(p);
    }
}

static void
check_limits(const struct family *family)
{
    size_t over = (size_t)PY_SSIZE_T_MAX + 1;
    CHECK(family->malloc(over) == NULL);
    CHECK(family->calloc(over, 1) == NULL);
    CHECK(family->calloc(SIZE_MAX / 4, 5) == NULL);
    CHECK(family->realloc(NULL, over) == NULL);
    unsigned char *p = family->malloc(100);
    memset(p, 7, 100);
    CHECK(family->realloc(p, over) == NULL);
    CHECK(is_filled(p, 100, 7));
    family->free(p);
    family->free(NULL);
}

static void
check_many(const struct family *family)
{
    enum { N = 20000 };
    static unsigned char *blocks[N];
    for (int i = 0; i < N; i++) {
        blocks[i] = family->malloc((size_t)i % 600);
        CHECK(blocks[i] != NULL);
        memset(blocks[i], i & 0xff, (size_t)i % 600);
    }
    for (int i = 0; i < N; i++) {
        int k = (int)((unsigned)i * 7919u % N);
        CHECK(is_filled(blocks[k], (size_t)k % 600, k & 0xff));
        family->free(blocks[k]);
    }
}

int
main(void)
{
    const struct family *family = families;
    Py_ssize_t before = _Py_GetAllocatedBlocks();
    for (; family < families + 3; family++) {
        check_sizes(family);
        check_limits(family);
        check_many(family);
    }
    family = &families[2];
    Py_ssize_t left = _Py_GetAllocatedBlocks() - before;
    /* Debug hooks hold a few freed blocks back. */
    CHECK(left == 0 || (strstr(_PyMem_GetCurrentAllocatorName(), "debug")
                        && left <= 128));
    PyMem_SetupDebugHooks();
    void *p = PyObject_Malloc(10);
    CHECK(p != NULL && is_filled(p, 10, 0xcd));
    PyObject_Free(p);
    CHECK(PyTraceMalloc_Track(1, 2, 3) == -2);
    printf("%d promises kept, %zu-bit\n", checks, 8 * sizeof(void *));
    return EXIT_SUCCESS;
}
