/* Free lists, as CPython's types keep them: objects that ended and whose memory
 * stays with the type for the next one.
 *
 *     static PyMemFreeList nodes = PYMEM_FREELIST_INIT(80);
 *
 *     Node *node = PyMemFreeList_Pop(&nodes);         in place of PyObject_New()
 *     node = node != NULL ? (Node *)PyObject_Init((PyObject *)node, &NodeType)
 *                         : PyObject_New(Node, &NodeType);
 *     ...
 *     if (!PyMemFreeList_Push(&nodes, node)) {        in place of PyObject_Free()
 *         PyObject_Free(node);
 *     }
 *
 * All objects of a list are of one size.  Their first word is the list's.  With the
 * GIL held.  pymem's own, for the standalone library and for extension modules of any
 * CPython: that one's are in its internal headers. */

#ifndef PYMEMFREELIST_H
#define PYMEMFREELIST_H

#include <Python.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    void *first;
    Py_ssize_t size;        /* how many there are */
    Py_ssize_t max_size;
} PyMemFreeList;

#define PYMEM_FREELIST_INIT(max_size) {NULL, 0, (max_size)}

/* Memory from the list, uninitialised; NULL: there is none. */
static inline void *
PyMemFreeList_Pop(PyMemFreeList *list)
{
    void *memory = list->first;
    if (memory != NULL) {
        list->first = *(void **)memory;
        list->size--;
    }
    return memory;
}

/* Keep memory for later: 1, or 0 when the list is full. */
static inline int
PyMemFreeList_Push(PyMemFreeList *list, void *memory)
{
    if (list->size >= list->max_size) {
        return 0;
    }
    *(void **)memory = list->first;
    list->first = memory;
    list->size++;
    return 1;
}

/* Give everything to a function that frees it, PyObject_Free() for most: at the end,
 * or where memory is short.  How many there were. */
static inline Py_ssize_t
PyMemFreeList_Clear(PyMemFreeList *list, void (*free_memory)(void *))
{
    Py_ssize_t n = list->size;
    void *memory;
    while ((memory = PyMemFreeList_Pop(list)) != NULL) {
        free_memory(memory);
    }
    return n;
}

#ifdef __cplusplus
}
#endif

#endif /* !PYMEMFREELIST_H */
