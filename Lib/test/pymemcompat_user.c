/* Uses each name of Misc/pymemcompat.h; test_names() is 0 where all do as they should,
 * or the line that did not.  C89, as old compilers are met with old Pythons. */

#include "Python.h"
#include "pymemcompat.h"

#define CHECK(condition) do { if (!(condition)) { return __LINE__; } } while (0)

typedef struct {
    PyObject_HEAD
    int value;
} Box;

typedef struct {
    PyObject_VAR_HEAD
    char items[1];
} Text;

static int ended;

static void
end_object(PyObject *op)
{
    ended++;
    PyObject_Del(op);
}

static PyTypeObject BoxType, TextType;

#ifdef __GNUC__
__attribute__((visibility("default")))
#endif
int test_names(void);

int
test_names(void)
{
    char *p, *q;
    int i;
    Box *box;
    Text *text;
    PyObject *other;
    size_t too_many = (size_t)PY_SSIZE_T_MAX + 1;

    /* Today's names. */
    p = (char *)PyMem_RawMalloc(0);
    CHECK(p != NULL && PyMem_RawMalloc(too_many) == NULL);
    p = (char *)PyMem_RawRealloc(p, 100);
    CHECK(p != NULL && PyMem_RawRealloc(p, too_many) == NULL);
    PyMem_RawFree(p);
    PyMem_RawFree(NULL);
    p = (char *)PyMem_RawCalloc(10, 10);
    q = (char *)PyMem_Calloc(10, 10);
    for (i = 0; i < 100; i++) {
        CHECK(p[i] == 0 && q[i] == 0);
    }
    PyMem_RawFree(p);
    PyMem_Free(q);
    p = (char *)PyObject_Calloc(5, 20);
    CHECK(p != NULL && p[99] == 0);
    PyObject_Free(p);
    CHECK(PyMem_Calloc(too_many, 2) == NULL && PyObject_Calloc(2, too_many) == NULL);
    CHECK(PyMem_RawCalloc((size_t)PY_SSIZE_T_MAX / 2, 3) == NULL);
    CHECK(PyMem_RawCalloc(0, 0) != NULL);
    CHECK(PyTraceMalloc_Track(7, 4096, 10) == -2 || PyTraceMalloc_Untrack(7, 4096) == 0);

    /* Objects. */
    Py_SET_REFCNT(&BoxType, 1);
    BoxType.tp_name = "Box";
    BoxType.tp_basicsize = sizeof(Box);
    BoxType.tp_dealloc = end_object;
    Py_SET_REFCNT(&TextType, 1);
    TextType.tp_name = "Text";
    TextType.tp_basicsize = sizeof(Text);
    TextType.tp_itemsize = 1;
    TextType.tp_dealloc = end_object;
    CHECK(PyType_Ready(&BoxType) == 0 && PyType_Ready(&TextType) == 0);
    box = PyObject_New(Box, &BoxType);
    CHECK(Py_REFCNT(box) == 1 && Py_IS_TYPE(box, &BoxType));
    other = Py_NewRef(box);
    CHECK(Py_REFCNT(box) == 2 && Py_Is(other, box) && Py_XNewRef(NULL) == NULL);
    Py_CLEAR(other);
    CHECK(other == NULL && Py_REFCNT(box) == 1);
    Py_SETREF(box, PyObject_NEW(Box, &BoxType));
    CHECK(ended == 1 && Py_REFCNT(box) == 1);
    Py_XSETREF(box, NULL);
    CHECK(ended == 2);
    text = PyObject_NewVar(Text, &TextType, 30);
    CHECK(Py_SIZE(text) == 30 && Py_TYPE(text) == &TextType);
    Py_SET_SIZE(text, 20);
    Py_SET_TYPE(text, &TextType);
    CHECK(Py_SIZE(text) == 20);
    Py_DECREF(text);
    text = PyObject_NEW_VAR(Text, &TextType, 3);
    Py_DECREF(text);
    CHECK(ended == 4);

    /* Old names. */
    p = (char *)PyMem_MALLOC(10);
    p = (char *)PyMem_REALLOC(p, 1000);
    CHECK(p != NULL);
    PyMem_FREE(p);
    p = PyMem_NEW(char, 10);
    PyMem_RESIZE(p, char, 20);
    CHECK(p != NULL);
    PyMem_Del(p);
    p = PyMem_New(char, 10);
    PyMem_Resize(p, char, 20);
    PyMem_DEL(p);
    p = NULL;
    PyMem_XDEL(p);
    p = (char *)PyObject_MALLOC(sizeof(Box));
    p = (char *)PyObject_REALLOC(p, sizeof(Box) + 16);
    CHECK(PyObject_INIT((PyObject *)p, &BoxType) == (PyObject *)p);
    Py_DECREF((PyObject *)p);
    p = (char *)PyObject_MALLOC(sizeof(Text) + 8);
    CHECK(Py_SIZE(PyObject_INIT_VAR((PyVarObject *)p, &TextType, 8)) == 8);
    Py_DECREF((PyObject *)p);
    CHECK(ended == 6);
    p = (char *)PyObject_MALLOC(10);
    PyObject_FREE(p);
    p = (char *)PyObject_MALLOC(10);
    PyObject_DEL(p);
    return 0;
}
