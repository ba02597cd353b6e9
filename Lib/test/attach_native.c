/* Threads that Python did not make, for Lib/test/attachprograms.py: they allocate raw blocks
 * without the GIL, take the GIL for objects, load a library, and sleep. */

#include <dlfcn.h>
#include <pthread.h>
#include <stddef.h>
#include <stdlib.h>
#include <time.h>

extern void *PyMem_RawMalloc(size_t), *PyMem_RawCalloc(size_t, size_t);
extern void *PyMem_RawRealloc(void *, size_t);
extern void PyMem_RawFree(void *);
extern int PyGILState_Ensure(void);
extern void PyGILState_Release(int);
extern void *PyList_New(ptrdiff_t), *PyFloat_FromDouble(double);
extern int PyList_SetItem(void *, ptrdiff_t, void *);
extern void Py_DecRef(void *);

static volatile int over;

static void *
allocate_raw(void *arg)
{
    while (!over) {
        void *block = PyMem_RawRealloc(PyMem_RawMalloc(100), 3000);
        PyMem_RawFree(PyMem_RawCalloc(3, 50));
        free(malloc(5000));
        PyMem_RawFree(block);
    }
    return arg;
}

static void *
make_objects(void *arg)
{
    while (!over) {
        int state = PyGILState_Ensure();
        void *list = PyList_New(1000);
        for (ptrdiff_t i = 0; i < 1000; i++) {
            PyList_SetItem(list, i, PyFloat_FromDouble((double)i));
        }
        Py_DecRef(list);
        PyGILState_Release(state);
        nanosleep(&(struct timespec){0, 1000000}, NULL);
    }
    return arg;
}

static void *
load_and_sleep(void *arg)
{
    while (!over) {
        void *library = dlopen("libm.so.6", RTLD_NOW);
        nanosleep(&(struct timespec){0, 200000}, NULL);
        if (library != NULL) {
            dlclose(library);
        }
    }
    return arg;
}

static pthread_t threads[3];

int
start_threads(void)
{
    void *(*functions[])(void *) = {allocate_raw, make_objects, load_and_sleep};
    for (int i = 0; i < 3; i++) {
        if (pthread_create(&threads[i], NULL, functions[i], NULL) != 0) {
            return -1;
        }
    }
    return 0;
}

/* Without the GIL, which one of them may wait for. */
void
end_threads(void)
{
    over = 1;
    for (int i = 0; i < 3; i++) {
        pthread_join(threads[i], NULL);
    }
}
