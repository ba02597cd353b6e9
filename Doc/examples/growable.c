/* An array that grows: most appends find room, as each growth asks for an eighth
 * more than is needed. */

#include "examples.h"
#include "pymemfaults.h"

typedef struct {
    double *items;
    Py_ssize_t length, allocated;
} Growable;

static int
growable_append(Growable *array, double item)
{
    if (array->length == array->allocated) {
        size_t allocated = ((size_t)array->length + ((size_t)array->length >> 3) + 6)
            & ~(size_t)3;
        /* PyMem_Resize() makes a NULL of its argument when it fails. */
        double *larger = array->items;
        PyMem_Resize(larger, double, allocated);
        if (larger == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        array->items = larger;
        array->allocated = (Py_ssize_t)allocated;
    }
    array->items[array->length++] = item;
    return 0;
}

static void
growable_clear(Growable *array)
{
    PyMem_Free(array->items);
    memset(array, 0, sizeof(*array));
}

static int
is_sequence(const Growable *array, Py_ssize_t length)
{
    for (Py_ssize_t i = 0; i < length; i++) {
        if (array->items[i] != (double)i) {
            return 0;
        }
    }
    return array->length == length;
}

const char *
test_growable(void)
{
    Growable array = {NULL, 0, 0};
    PyMemFaults none = {0}, third = {.fail_from = 3};
    PyMemFaultsCounts counts;

    CHECK(PyMemFaults_Start(PYMEM_DOMAIN_MEM, &none) == 0);
    for (int i = 0; i < 100000; i++) {
        CHECK(growable_append(&array, i) == 0);
    }
    CHECK(is_sequence(&array, 100000));
    CHECK(PyMemFaults_Count(PYMEM_DOMAIN_MEM, &counts) == 0);
    CHECK(counts.requests < 100 && counts.blocks == 1);
    CHECK(counts.bytes < 100000 * sizeof(double) * 9 / 8 + 100);
    growable_clear(&array);
    CHECK(PyMemFaults_Count(PYMEM_DOMAIN_MEM, &counts) == 0 && counts.blocks == 0);
    CHECK(PyMemFaults_Stop(PYMEM_DOMAIN_MEM) == 0);

    /* The third growth fails: what is there stays. */
    CHECK(PyMemFaults_Start(PYMEM_DOMAIN_MEM, &third) == 0);
    int n = 0;
    while (growable_append(&array, n) == 0) {
        n++;
    }
    CHECK(PyErr_ExceptionMatches(PyExc_MemoryError));
    PyErr_Clear();
    CHECK(PyMemFaults_Stop(PYMEM_DOMAIN_MEM) == 0);
    CHECK(n == 8 && is_sequence(&array, 8));
    CHECK(growable_append(&array, 8) == 0 && is_sequence(&array, 9));
    growable_clear(&array);
    return NULL;
}
