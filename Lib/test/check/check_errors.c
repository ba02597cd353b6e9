/* Python/host/errors.c: the error of a thread. */

#include "support.h"

#include <pthread.h>
#include <unistd.h>

START_TEST(no_error_to_begin_with)
{
    ck_assert_ptr_null(PyErr_Occurred());
    ck_assert_ptr_null(_PyErr_Text());
    ck_assert(!PyErr_ExceptionMatches(PyExc_BaseException));
    PyErr_Clear();
    ck_assert_ptr_null(PyErr_Occurred());
}
END_TEST

START_TEST(no_memory)
{
    ck_assert_ptr_null(PyErr_NoMemory());
    ck_assert_ptr_eq(PyErr_Occurred(), PyExc_MemoryError);
    ck_assert_str_eq(_PyErr_Text(), "");
    PyErr_Clear();
    ck_assert_ptr_null(PyErr_Occurred());
}
END_TEST

START_TEST(texts)
{
    PyErr_SetString(PyExc_ValueError, "no %s here");
    ck_assert_str_eq(_PyErr_Text(), "no %s here");
    ck_assert_ptr_null(PyErr_Format(PyExc_TypeError, "%s: %zd of %d", _PyErr_Text(),
                                    (Py_ssize_t)-5, 7));
    ck_assert_ptr_eq(PyErr_Occurred(), PyExc_TypeError);
    ck_assert_str_eq(_PyErr_Text(), "no %s here: -5 of 7");
    PyErr_SetNone(PyExc_KeyError);
    ck_assert_str_eq(_PyErr_Text(), "");
    ck_assert_int_eq(PyErr_BadArgument(), 0);
    ck_assert_ptr_eq(PyErr_Occurred(), PyExc_TypeError);
    ck_assert_str_eq(_PyErr_Text(), "bad argument type for built-in operation");
    PyErr_BadInternalCall();
    ck_assert_ptr_eq(PyErr_Occurred(), PyExc_SystemError);
    ck_assert_ptr_nonnull(strstr(_PyErr_Text(), "bad argument to internal function"));
    ck_assert_ptr_nonnull(strstr(_PyErr_Text(), "check_errors.c:"));
}
END_TEST

START_TEST(a_long_text_is_cut)
{
    char text[2000];
    memset(text, 'x', sizeof(text) - 1);
    text[sizeof(text) - 1] = '\0';
    PyErr_SetString(PyExc_ValueError, text);
    ck_assert_uint_eq(strlen(_PyErr_Text()), 511);
}
END_TEST

START_TEST(errors_match_their_bases)
{
    PyErr_SetString(PyExc_IndexError, "out");
    ck_assert(PyErr_ExceptionMatches(PyExc_IndexError));
    ck_assert(PyErr_ExceptionMatches(PyExc_LookupError));
    ck_assert(PyErr_ExceptionMatches(PyExc_Exception));
    ck_assert(PyErr_ExceptionMatches(PyExc_BaseException));
    ck_assert(!PyErr_ExceptionMatches(PyExc_KeyError));
    ck_assert(!PyErr_ExceptionMatches(PyExc_ArithmeticError));
    ck_assert(PyErr_GivenExceptionMatches(PyExc_OverflowError, PyExc_ArithmeticError));
    ck_assert(!PyErr_GivenExceptionMatches(PyExc_ArithmeticError, PyExc_OverflowError));
    ck_assert(!PyErr_GivenExceptionMatches(NULL, PyExc_OverflowError));
    PyObject *direct[] = {
        PyExc_MemoryError, PyExc_TypeError, PyExc_ValueError, PyExc_SystemError,
        PyExc_RuntimeError, PyExc_OSError, PyExc_BufferError};
    for (size_t i = 0; i < sizeof(direct) / sizeof(direct[0]); i++) {
        ck_assert_ptr_eq(((PyTypeObject *)direct[i])->tp_base,
                         (PyTypeObject *)PyExc_Exception);
        ck_assert(_Py_IsImmortal(direct[i]));
    }
}
END_TEST

static void *
other_thread(void *unused)
{
    (void)unused;
    PyObject *before = PyErr_Occurred();
    PyErr_SetString(PyExc_ValueError, "of another thread");
    return before;
}

START_TEST(a_thread_has_its_own)
{
    PyErr_SetString(PyExc_KeyError, "mine");
    pthread_t thread;
    void *before = &thread;
    ck_assert_int_eq(pthread_create(&thread, NULL, other_thread, NULL), 0);
    ck_assert_int_eq(pthread_join(thread, &before), 0);
    ck_assert_ptr_null(before);
    ck_assert_ptr_eq(PyErr_Occurred(), PyExc_KeyError);
    ck_assert_str_eq(_PyErr_Text(), "mine");
}
END_TEST

static void
print_errors(void *unused)
{
    (void)unused;
    PyErr_Print();
    PyErr_SetString(PyExc_ValueError, "7 is too many");
    PyErr_Print();
    PyErr_Print();
    PyErr_NoMemory();
    PyErr_Print();
    _exit(PyErr_Occurred() != NULL);
}

START_TEST(printing_ends_an_error)
{
    struct child child = run_child(print_errors, NULL);
    ck_assert_int_eq(child.status, 0);
    ck_assert_str_eq(child.text, "ValueError: 7 is too many\nMemoryError\n");
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("errors");
    TCase *tcase = tcase_create("errors");
    tcase_add_test(tcase, no_error_to_begin_with);
    tcase_add_test(tcase, no_memory);
    tcase_add_test(tcase, texts);
    tcase_add_test(tcase, a_long_text_is_cut);
    tcase_add_test(tcase, errors_match_their_bases);
    tcase_add_test(tcase, a_thread_has_its_own);
    tcase_add_test(tcase, printing_ends_an_error);
    suite_add_tcase(suite, tcase);
    return run_suite(suite);
}
