/* Buffers, and the function that each must go back through. */

#include "examples.h"

#include <stdlib.h>

enum { SIZE = 1000 };

/* Bytes: PyMem_Malloc(). */
static char *
copy_upper(const char *text, size_t length)
{
    char *copy = PyMem_Malloc(length + 1);
    if (copy == NULL) {
        return (char *)PyErr_NoMemory();
    }
    for (size_t i = 0; i < length; i++) {
        copy[i] = (char)(text[i] >= 'a' && text[i] <= 'z' ? text[i] - 32 : text[i]);
    }
    copy[length] = '\0';
    return copy;
}

/* So many of a type: PyMem_New(), which knows when that is too many bytes. */
static long *
squares(size_t n)
{
    long *numbers = PyMem_New(long, n);
    if (numbers == NULL) {
        return (long *)PyErr_NoMemory();
    }
    for (size_t i = 0; i < n; i++) {
        numbers[i] = (long)(i * i);
    }
    return numbers;
}

const char *
test_buffers(void)
{
    char *text = copy_upper("Memory 16", 9);
    CHECK(text != NULL && strcmp(text, "MEMORY 16") == 0);
    PyMem_Free(text);
    long *numbers = squares(SIZE);
    CHECK(numbers != NULL && numbers[30] == 900);
    PyMem_Free(numbers);
    CHECK(squares((size_t)PY_SSIZE_T_MAX / 2) == NULL);
    CHECK(PyErr_ExceptionMatches(PyExc_MemoryError));
    PyErr_Clear();
    return NULL;
}

void
free_wrongly(const char *what)
{
    if (strcmp(what, "mem-as-object") == 0) {
        PyObject_Free(PyMem_Malloc(SIZE));      /* right: PyMem_Free() */
    }
    else if (strcmp(what, "object-as-mem") == 0) {
        PyMem_Free(PyObject_Malloc(SIZE));      /* right: PyObject_Free() */
    }
    else if (strcmp(what, "mem-as-raw") == 0) {
        PyMem_RawFree(PyMem_New(char, SIZE));   /* right: PyMem_Free() */
    }
    else if (strcmp(what, "mem-as-malloc") == 0) {
        free(PyMem_New(char, SIZE));            /* right: PyMem_Free() */
    }
}
