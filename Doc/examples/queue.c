/* A linked queue.  Its nodes are objects, and those that ended wait in a free list
 * for the next ones. */

#include "examples.h"
#include "pymemfaults.h"
#include "pymemfreelist.h"

typedef struct node {
    PyObject_HEAD
    struct node *next;
    int value;
} Node;

static PyMemFreeList free_nodes = PYMEM_FREELIST_INIT(80);

static void
node_dealloc(PyObject *op)
{
    if (!PyMemFreeList_Push(&free_nodes, op)) {
        PyObject_Free(op);
    }
}

static PyTypeObject NodeType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "examples.Node",
    .tp_basicsize = sizeof(Node),
    .tp_dealloc = node_dealloc,
    .tp_flags = Py_TPFLAGS_DEFAULT,
};

static Node *
node_new(int value)
{
    Node *node = PyMemFreeList_Pop(&free_nodes);
    node = node != NULL ? (Node *)PyObject_Init((PyObject *)node, &NodeType)
        : PyObject_New(Node, &NodeType);
    if (node != NULL) {
        node->next = NULL;
        node->value = value;
    }
    return node;
}

typedef struct {
    Node *first, *last;
} Queue;

static int
queue_put(Queue *queue, int value)
{
    Node *node = node_new(value);
    if (node == NULL) {
        return -1;
    }
    if (queue->last != NULL) {
        queue->last->next = node;
    }
    else {
        queue->first = node;
    }
    queue->last = node;
    return 0;
}

static int
queue_get(Queue *queue, int *value)
{
    Node *node = queue->first;
    if (node == NULL) {
        PyErr_SetString(PyExc_IndexError, "the queue is empty");
        return -1;
    }
    *value = node->value;
    queue->first = node->next;
    if (queue->first == NULL) {
        queue->last = NULL;
    }
    Py_DECREF(node);
    return 0;
}

const char *
test_queue(void)
{
    Queue queue = {NULL, NULL};
    PyMemFaults none = {0}, all = {.fail_from = 1};
    PyMemFaultsCounts counts;
    int value;

    CHECK(PyType_Ready(&NodeType) == 0);
    CHECK(PyMemFaults_Start(PYMEM_DOMAIN_OBJ, &none) == 0);
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 100; i++) {
            CHECK(queue_put(&queue, i) == 0);
        }
        for (int i = 0; i < 100; i++) {
            CHECK(queue_get(&queue, &value) == 0 && value == i);
        }
    }
    CHECK(PyMemFaults_Count(PYMEM_DOMAIN_OBJ, &counts) == 0);
    CHECK(counts.requests == 100 + 20 + 20 && counts.blocks == 80);
    CHECK(PyMemFaults_Stop(PYMEM_DOMAIN_OBJ) == 0);

    /* Without memory there are still those of the list. */
    CHECK(PyMemFaults_Start(PYMEM_DOMAIN_OBJ, &all) == 0);
    int n = 0;
    while (queue_put(&queue, n) == 0) {
        n++;
    }
    CHECK(PyMemFaults_Stop(PYMEM_DOMAIN_OBJ) == 0);
    CHECK(n == 80 && PyErr_ExceptionMatches(PyExc_MemoryError));
    PyErr_Clear();
    while (n-- > 0) {
        CHECK(queue_get(&queue, &value) == 0);
    }
    CHECK(queue_get(&queue, &value) == -1 && PyErr_ExceptionMatches(PyExc_IndexError));
    PyErr_Clear();
    CHECK(PyMemFreeList_Clear(&free_nodes, PyObject_Free) == 80);
    CHECK(free_nodes.size == 0 && PyMemFreeList_Pop(&free_nodes) == NULL);
    return NULL;
}
