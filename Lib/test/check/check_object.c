/* Python/host/object.c: objects without an interpreter. */

#include "support.h"

typedef struct {
    PyObject_HEAD
    int value;
} Box;

typedef struct {
    PyObject_VAR_HEAD
    char items[1];
} Text;

static int deallocated;

static void
dealloc(PyObject *op)
{
    deallocated++;
    PyTypeObject *type = Py_TYPE(op);
    PyObject_Free(op);
    if (type->tp_flags & Py_TPFLAGS_HEAPTYPE) {
        Py_DECREF(type);
    }
}

static PyTypeObject BoxType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "Box",
    .tp_basicsize = sizeof(Box),
    .tp_dealloc = dealloc,
    .tp_alloc = PyType_GenericAlloc,
    .tp_free = PyObject_Free,
};

static PyTypeObject TextType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "Text",
    .tp_basicsize = offsetof(Text, items),
    .tp_itemsize = 1,
    .tp_dealloc = dealloc,
};

START_TEST(a_new_object_has_one_reference)
{
    Box *box = PyObject_New(Box, &BoxType);
    ck_assert_int_eq(Py_REFCNT(box), 1);
    ck_assert_ptr_eq(Py_TYPE(box), &BoxType);
    PyObject *same = Py_NewRef(box);
    ck_assert_int_eq(Py_REFCNT(box), 2);
    Py_DECREF(same);
    ck_assert_int_eq(deallocated, 0);
    Py_DECREF(box);
    ck_assert_int_eq(deallocated, 1);
}
END_TEST

START_TEST(var_objects_have_room_for_their_items)
{
    Text *text = PyObject_NewVar(Text, &TextType, 1000);
    ck_assert_int_eq(Py_SIZE(text), 1000);
    memset(text->items, 'x', 1000);
    Py_DECREF(text);
    ck_assert_uint_eq(_PyObject_VAR_SIZE(&TextType, 0), 3 * sizeof(void *));
    ck_assert_uint_eq(_PyObject_VAR_SIZE(&TextType, 1), 4 * sizeof(void *));
    ck_assert_uint_eq(_PyObject_VAR_SIZE(&TextType, sizeof(void *)),
                      4 * sizeof(void *));
}
END_TEST

START_TEST(generic_alloc_is_zeroed_with_an_item_more)
{
    Text *text = (Text *)PyType_GenericAlloc(&TextType, 24);
    ck_assert_int_eq(Py_SIZE(text), 24);
    for (int i = 0; i <= 24; i++) {
        ck_assert_int_eq(text->items[i], 0);
    }
    Py_DECREF(text);
    Box *box = (Box *)BoxType.tp_alloc(&BoxType, 0);
    ck_assert_int_eq(box->value, 0);
    Py_DECREF(box);
}
END_TEST

START_TEST(sizes_that_can_not_be_are_refused)
{
    static struct recorder recorder;
    recorder_install(&recorder, PYMEM_DOMAIN_OBJ);
    ck_assert_ptr_null(PyObject_NewVar(Text, &TextType, -1));
    ck_assert_ptr_null(PyObject_NewVar(Text, &TextType, PY_SSIZE_T_MAX));
    ck_assert_ptr_null(PyType_GenericAlloc(&TextType, PY_SSIZE_T_MAX));
    ck_assert_uint_eq(recorder.ncalls, 0);
    ck_assert_ptr_eq(PyErr_Occurred(), PyExc_MemoryError);
    PyErr_Clear();
    recorder.fail_at = 1;
    recorder.fail_on = 1;
    ck_assert_ptr_null(PyObject_New(Box, &BoxType));
    ck_assert_ptr_null(PyObject_NewVar(Text, &TextType, 5));
    ck_assert_ptr_null(PyType_GenericAlloc(&BoxType, 0));
    recorder_remove(&recorder);
    ck_assert_ptr_eq(PyErr_Occurred(), PyExc_MemoryError);
}
END_TEST

START_TEST(immortal_objects_stay)
{
    Py_ssize_t before = Py_REFCNT(&BoxType);
    ck_assert(_Py_IsImmortal((PyObject *)&BoxType));
    for (int i = 0; i < 10; i++) {
        Py_INCREF(&BoxType);
    }
    for (int i = 0; i < 100; i++) {
        Py_DECREF(&BoxType);
    }
    ck_assert_int_eq(Py_REFCNT(&BoxType), before);
}
END_TEST

START_TEST(objects_hold_a_type_made_at_run_time)
{
    PyTypeObject *type = PyObject_Malloc(sizeof(PyTypeObject));
    *type = BoxType;
    type->tp_flags = Py_TPFLAGS_HEAPTYPE;
    PyObject_Init((PyObject *)type, &BoxType);
    Box *box = PyObject_New(Box, type);
    ck_assert_int_eq(Py_REFCNT(type), 2);
    Py_DECREF(box);
    ck_assert_int_eq(Py_REFCNT(type), 1);
    Py_DECREF(type);
    ck_assert_int_eq(deallocated, 2);
}
END_TEST

START_TEST(clear_and_setref_change_the_variable_first)
{
    Box *box = PyObject_New(Box, &BoxType), *other = PyObject_New(Box, &BoxType);
    Py_SETREF(box, other);
    ck_assert_ptr_eq(box, other);
    ck_assert_int_eq(deallocated, 1);
    Py_CLEAR(box);
    ck_assert_ptr_null(box);
    ck_assert_int_eq(deallocated, 2);
    Py_CLEAR(box);
    Py_XDECREF(box);
    Py_XINCREF(box);
    ck_assert_ptr_null(Py_XNewRef(box));
    ck_assert_int_eq(deallocated, 2);
}
END_TEST

static void
drop_without_dealloc(void *unused)
{
    (void)unused;
    static PyTypeObject bare = {PyVarObject_HEAD_INIT(NULL, 0)
                                .tp_name = "bare", .tp_basicsize = sizeof(Box)};
    Py_DECREF(PyObject_New(Box, &bare));
}

START_TEST(a_type_without_dealloc_is_named)
{
    struct child child = run_child(drop_without_dealloc, NULL);
    assert_fatal(child, "Fatal Python error: _Py_Dealloc: "
                        "type bare has no tp_dealloc\n");
}
END_TEST

START_TEST(a_type_gets_what_it_lacks_from_its_base)
{
    static PyTypeObject base = {PyVarObject_HEAD_INIT(NULL, 0) .tp_name = "base",
                                .tp_basicsize = sizeof(Box), .tp_dealloc = dealloc};
    static PyTypeObject type = {PyVarObject_HEAD_INIT(NULL, 0) .tp_name = "type",
                                .tp_base = &base};
    ck_assert_int_eq(PyType_Ready(&type), 0);
    ck_assert_int_eq(PyType_Ready(&type), 0);
    ck_assert_ptr_eq(Py_TYPE(&type), &PyType_Type);
    ck_assert_ptr_eq(base.tp_base, &PyBaseObject_Type);
    ck_assert_int_eq(type.tp_basicsize, sizeof(Box));
    ck_assert(type.tp_dealloc == dealloc && type.tp_free == PyObject_Free);
    ck_assert(PyType_IsSubtype(&type, &base) && PyType_IsSubtype(&base, &base));
    ck_assert(PyType_IsSubtype(&base, &PyBaseObject_Type));
    ck_assert(!PyType_IsSubtype(&base, &type));
    Box *box = (Box *)type.tp_new(&type, NULL, NULL);
    ck_assert_int_eq(box->value, 0);
    ck_assert(PyObject_TypeCheck(box, &base) && Py_IS_TYPE(box, &type));
    Py_DECREF(box);
    ck_assert_int_eq(deallocated, 1);
}
END_TEST

START_TEST(an_object_without_a_dealloc_of_its_own)
{
    static PyTypeObject type = {PyVarObject_HEAD_INIT(NULL, 0) .tp_name = "type",
                                .tp_flags = Py_TPFLAGS_HEAPTYPE};
    ck_assert_int_eq(PyType_Ready(&type), 0);
    Py_SET_REFCNT(&type, 5);
    ck_assert(_Py_IsImmortal((PyObject *)&type));       /* it stays */
    ((PyObject *)&type)->ob_refcnt = 5;
    Py_ssize_t before = _Py_GetAllocatedBlocks();
    PyObject *op = PyType_GenericNew(&type, NULL, NULL);
    ck_assert_int_eq(Py_REFCNT(&type), 6);
    Py_SET_REFCNT(op, 3);
    Py_DECREF(op);
    ck_assert_int_eq(Py_REFCNT(op), 2);
    Py_DECREF(op);
    Py_DECREF(op);
    ck_assert_int_eq(Py_REFCNT(&type), 5);
    ck_assert_int_le(_Py_GetAllocatedBlocks(), before + 1);
    op = PyType_GenericNew(&type, NULL, NULL);
    _Py_SetImmortal(op);
    for (int i = 0; i < 10; i++) {
        Py_DECREF(op);
    }
    ck_assert(_Py_IsImmortal(op));
}
END_TEST

START_TEST(types_that_can_not_be)
{
    static PyTypeObject nameless = {PyVarObject_HEAD_INIT(NULL, 0)
                                    .tp_basicsize = sizeof(Box)};
    static PyTypeObject small = {PyVarObject_HEAD_INIT(NULL, 0) .tp_name = "small",
                                 .tp_basicsize = 8};
    ck_assert_int_eq(PyType_Ready(&nameless), -1);
    ck_assert(PyErr_ExceptionMatches(PyExc_SystemError));
    ck_assert_str_eq(_PyErr_Text(), "Type does not define the tp_name field.");
    ck_assert_int_eq(PyType_Ready(&small), -1);
    ck_assert_str_eq(_PyErr_Text(), "type small has a tp_basicsize of 8; its base "
                     "object has 16");
    nameless.tp_base = &small;
    small.tp_flags = 0;
    nameless.tp_name = "now";
    ck_assert_int_eq(PyType_Ready(&nameless), -1);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("object");
    TCase *tc = tcase_create("object");
    tcase_add_test(tc, a_type_gets_what_it_lacks_from_its_base);
    tcase_add_test(tc, an_object_without_a_dealloc_of_its_own);
#if UINTPTR_MAX > 0xFFFFFFFFu       /* sizes are in the texts */
    tcase_add_test(tc, types_that_can_not_be);
#else
    (void)types_that_can_not_be;
#endif
    suite_add_tcase(suite, tc);
    tcase_add_test(tc, a_new_object_has_one_reference);
    tcase_add_test(tc, var_objects_have_room_for_their_items);
    tcase_add_test(tc, generic_alloc_is_zeroed_with_an_item_more);
    tcase_add_test(tc, sizes_that_can_not_be_are_refused);
    tcase_add_test(tc, immortal_objects_stay);
    tcase_add_test(tc, objects_hold_a_type_made_at_run_time);
    tcase_add_test(tc, clear_and_setref_change_the_variable_first);
    tcase_add_test(tc, a_type_without_dealloc_is_named);
    return run_suite(suite);
}
