/* Python/host/host.c, hosttext.c: the GIL, fatal errors, the environment at start. */

#include "support.h"
#include "pycore_host.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/wait.h>
#include <unistd.h>

START_TEST(everybody_holds_a_gil_that_was_never_taken)
{
    ck_assert_int_eq(PyGILState_Check(), 1);
}
END_TEST

static int seen_by_other = -1;

static void *
look(void *unused)
{
    seen_by_other = PyGILState_Check();
    return unused;
}

static void
run_thread(void *(*function)(void *))
{
    pthread_t thread;
    ck_assert_int_eq(pthread_create(&thread, NULL, function, NULL), 0);
    ck_assert_int_eq(pthread_join(thread, NULL), 0);
}

START_TEST(one_thread_holds_it_once_it_was_taken)
{
    PyGILState_STATE outer = PyGILState_Ensure();
    ck_assert_int_eq(outer, PyGILState_UNLOCKED);
    PyGILState_STATE inner = PyGILState_Ensure();
    ck_assert_int_eq(inner, PyGILState_LOCKED);
    ck_assert_int_eq(PyGILState_Check(), 1);
    run_thread(look);
    ck_assert_int_eq(seen_by_other, 0);
    PyGILState_Release(inner);
    ck_assert_int_eq(PyGILState_Check(), 1);
    PyGILState_Release(outer);
    ck_assert_int_eq(PyGILState_Check(), 0);
}
END_TEST

static long counter;

static void *
count(void *unused)
{
    for (int i = 0; i < 20000; i++) {
        PyGILState_STATE state = PyGILState_Ensure();
        counter++;
        PyGILState_Release(state);
    }
    return unused;
}

START_TEST(it_excludes_other_threads)
{
    run_threads(4, count);
    ck_assert_int_eq(counter, 80000);
}
END_TEST

/* A fork while another thread holds the GIL, or this one. */

static atomic_int is_held, may_release;

static void *
hold(void *unused)
{
    PyGILState_STATE state = PyGILState_Ensure();
    atomic_store(&is_held, 1);
    while (!atomic_load(&may_release)) {
        usleep(1000);
    }
    PyGILState_Release(state);
    return unused;
}

static void *
use_gil(void *unused)
{
    PyGILState_STATE state = PyGILState_Ensure();
    PyMem_Free(PyMem_Malloc(100));
    PyGILState_Release(state);
    return unused;
}

/* In a child: 0 if the GIL is free, excludes others and is released again. */
static int
child_uses_gil(int depth)
{
    alarm(10);
    if (PyGILState_Check() != (depth > 0)) {
        return 1;
    }
    PyGILState_STATE state = PyGILState_Ensure();
    int is_right = state == (depth > 0 ? PyGILState_LOCKED : PyGILState_UNLOCKED);
    run_thread(look);
    is_right &= seen_by_other == 0;
    PyGILState_Release(state);
    for (; depth > 0; depth--) {
        PyGILState_Release(depth > 1 ? PyGILState_LOCKED : PyGILState_UNLOCKED);
    }
    run_thread(use_gil);
    return is_right ? 0 : 2;
}

static void
fork_and_use_gil(int depth)
{
    pid_t child = fork();
    if (child == 0) {
        pid_t grandchild = fork();
        int result = child_uses_gil(depth);
        int status;
        if (grandchild != 0) {
            waitpid(grandchild, &status, 0);
            result |= status;
        }
        _exit(result);
    }
    int status;
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert_int_eq(status, 0);
}

START_TEST(a_child_has_a_gil_that_no_other_thread_holds)
{
    pthread_t thread;
    pthread_create(&thread, NULL, hold, NULL);
    while (!atomic_load(&is_held)) {
        usleep(1000);
    }
    fork_and_use_gil(0);
    atomic_store(&may_release, 1);
    pthread_join(thread, NULL);
    PyGILState_STATE outer = PyGILState_Ensure();
    fork_and_use_gil(1);
    PyGILState_STATE inner = PyGILState_Ensure();
    fork_and_use_gil(2);
    PyGILState_Release(inner);
    PyGILState_Release(outer);
    fork_and_use_gil(0);
}
END_TEST

static void
release_too_much(void *unused)
{
    (void)unused;
    PyGILState_Release(PyGILState_UNLOCKED);
}

static void
release_wrongly(void *unused)
{
    (void)unused;
    PyGILState_Ensure();
    PyGILState_Release(PyGILState_LOCKED);
}

START_TEST(wrong_releases_are_fatal)
{
    struct child child = run_child(release_too_much, NULL);
    assert_fatal(child, "Fatal Python error: PyGILState_Release: "
                        "this thread does not hold the GIL\n");
    child = run_child(release_wrongly, NULL);
    assert_fatal(child, "Fatal Python error: PyGILState_Release: the state");
}
END_TEST

static void
fail_with_format(void *unused)
{
    (void)unused;
    _Py_FatalErrorFormat("a_function", "%d things are %s", 3, "wrong");
}

static void
fail_by_macro(void *unused)
{
    (void)unused;
    Py_FatalError("what went wrong");
}

START_TEST(a_fatal_error_names_function_and_fact)
{
    struct child child = run_child(fail_with_format, NULL);
    assert_fatal(child, "Fatal Python error: a_function: 3 things are wrong\n");
    child = run_child(fail_by_macro, NULL);
    assert_fatal(child, "Fatal Python error: fail_by_macro: what went wrong\n");
}
END_TEST

START_TEST(snprintf_ends_the_string)
{
    char text[8];
    ck_assert_int_eq(PyOS_snprintf(text, sizeof(text), "%d", 123456789), 9);
    ck_assert_str_eq(text, "1234567");
}
END_TEST

/* PYTHONMALLOC is read before main(): start this program anew. */

static const char *program;

static void
start_anew(void *value)
{
    setenv("PYTHONMALLOC", value, 1);
    execl(program, program, "name", NULL);
    _exit(99);
}

START_TEST(pythonmalloc_chooses_the_allocators)
{
    const char *names[][2] = {
        {"malloc", "malloc"}, {"malloc_debug", "malloc_debug"},
#ifdef WITH_PYMALLOC
        {"pymalloc", "pymalloc"}, {"pymalloc_debug", "pymalloc_debug"},
#endif
#ifdef WITH_MIMALLOC
        {"mimalloc", "mimalloc"}, {"mimalloc_debug", "mimalloc_debug"},
#endif
        {"hardened", "hardened"}, {"hardened_debug", "hardened_debug"},
    };
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        struct child child = run_child(start_anew, (void *)names[i][0]);
        ck_assert_int_eq(child.status, 0);
        ck_assert_str_eq(child.text, names[i][1]);
    }
}
END_TEST

START_TEST(an_unknown_pythonmalloc_names_the_valid_ones)
{
    struct child child = run_child(start_anew, (void *)"jemalloc");
    assert_fatal(child, "Fatal Python error: ");
    assert_fatal(child, ": PYTHONMALLOC: unknown allocator \"jemalloc\"; "
                        "this build knows default, debug, ");
    assert_fatal(child, "malloc, malloc_debug");
}
END_TEST

#ifdef WITH_PYMALLOC
static void
start_with_statistics(void *unused)
{
    (void)unused;
    setenv("PYTHONMALLOC", "pymalloc", 1);
    setenv("PYTHONMALLOCSTATS", "1", 1);
    execl(program, program, "name", NULL);
    _exit(99);
}

START_TEST(pythonmallocstats_prints_at_exit)
{
    struct child child = run_child(start_with_statistics, NULL);
    ck_assert_int_eq(child.status, 0);
    ck_assert_ptr_nonnull(strstr(child.text, "pymallocSmall block threshold"));
}
END_TEST
#endif

int
main(int argc, char **argv)
{
    program = argv[0];
    if (argc == 2 && strcmp(argv[1], "name") == 0) {
        fputs(_PyMem_GetCurrentAllocatorName(), stderr);
        return 0;
    }
    Suite *suite = suite_create("host");
    TCase *tc = tcase_create("host");
    tcase_set_timeout(tc, 60);
    suite_add_tcase(suite, tc);
    tcase_add_test(tc, everybody_holds_a_gil_that_was_never_taken);
    tcase_add_test(tc, one_thread_holds_it_once_it_was_taken);
    tcase_add_test(tc, it_excludes_other_threads);
    tcase_add_native_test(tc, a_child_has_a_gil_that_no_other_thread_holds,
                          FORKS_IN_THREADS);
    tcase_add_test(tc, wrong_releases_are_fatal);
    tcase_add_test(tc, a_fatal_error_names_function_and_fact);
    tcase_add_test(tc, snprintf_ends_the_string);
    tcase_add_native_test(tc, pythonmalloc_chooses_the_allocators, STARTS_ITSELF);
    tcase_add_native_test(tc, an_unknown_pythonmalloc_names_the_valid_ones,
                          STARTS_ITSELF);
#ifdef WITH_PYMALLOC
    tcase_add_native_test(tc, pythonmallocstats_prints_at_exit, STARTS_ITSELF);
#endif
    return run_suite(suite);
}
