/* An exercise: which table does this print? */

#include <Python.h>

int
main(void)
{
    static void *blocks[1000];
    for (int i = 0; i < 1000; i++) {
        blocks[i] = PyObject_Malloc(37);
    }
    for (int i = 0; i < 10; i++) {
        PyObject_Malloc(512);
    }
    for (int i = 0; i < 1000; i += 2) {
        PyObject_Free(blocks[i]);
    }
    _PyObject_DebugMallocStats(stdout);
    return 0;
}
