/* A program with a Python inside, and pymem inside that.
 *
 *     cc embed.c $(pkg-config --cflags --libs pymeminstall python-3.11-embed)
 */

#include <Python.h>
#include <pymeminstall.h>

static void
check(PyStatus status)
{
    if (PyStatus_Exception(status)) {
        Py_ExitStatusException(status);
    }
}

int
main(int argc, char **argv)
{
    /* First: it may choose an allocator (PYTHONMALLOC, developer mode). */
    PyPreConfig preconfig;
    PyPreConfig_InitPythonConfig(&preconfig);
    check(Py_PreInitializeFromBytesArgs(&preconfig, argc, argv));

    /* Second: from here on it is ours. */
    char error[200];
    if (pymem_install(0, error, sizeof(error)) < 0) {
        fprintf(stderr, "%s: without pymem: %s\n", argv[0], error);
    }

    /* Third: the first block. */
    PyConfig config;
    PyConfig_InitPythonConfig(&config);
    check(PyConfig_SetBytesArgv(&config, argc, argv));
    check(Py_InitializeFromConfig(&config));
    PyConfig_Clear(&config);

    int status = PyRun_SimpleString("print(sum(len(str(i)) for i in range(100_000)))");
    int is_flushed = Py_FinalizeEx() == 0;
    pymem_write_statistics(stdout);
    return status < 0 || !is_flushed;
}
