/* Memory that nothing is in goes back to the system every so often.
 *
 *   WAITING --- the interpreter is initialized ---> ASKED
 *      ^                                              | a pending call: begin()
 *      |                                              v
 *      +--- it is initialized no more --- ENDING <-- RUNNING <-- the first request
 *                                     atexit: end()   |  |           ^     ^
 *                                     child of a fork |  +--- DUE ---+     |
 *                                                     +------ FORKED ------+
 *
 * A thread of our own takes the GIL, trims, and sleeps again, so that it works while
 * the main thread waits for others or for the system.  It must not touch an interpreter
 * that is not there.  So nothing asks from outside whether there is one.  The first
 * call for memory that finds it initialized asks it to call begin(), which registers
 * end() and the functions around a fork before the thread exists; and end() waits until
 * the thread is gone.
 *
 * A program that embeds Python may hold the GIL for good (uWSGI without
 * --enable-threads).  A thread that waits for it would wake up all the time, and a child
 * of such a program would wait for that thread, which it does not have.  So there the
 * thread takes the GIL only where it sees that it stays free.  Else a trim is due, and the
 * next request that comes with the GIL does it first.
 *
 * The thread blocks every signal: they are the program's.  There is none at a fork of the
 * interpreter's, as CPython 3.12 and later warn of a fork with threads.  A fork by other
 * code finds the thread asleep.
 *
 * Owns the thread.  Calls the interpreter by the names that it exports, all of them of
 * its stable ABI but one. */

#define _GNU_SOURCE
#include "trimming.h"
#include "pycore_compiler.h"
#include "pycore_heap.h"
#include "pycore_host.h"
#include "pycore_pymem.h"

#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

typedef void object;            /* PyObject */

struct method {                 /* PyMethodDef */
    const char *name;
    object *(*function)(object *, object *);
    int flags;
    const char *doc;
};
#define NO_ARGUMENTS 0x0004     /* METH_NOARGS */

static struct {
    int (*Py_IsInitialized)(void);
    const char *(*Py_GetVersion)(void);
    int (*Py_AddPendingCall)(int (*function)(void *), void *arg);
    int (*PyGILState_Ensure)(void);
    void (*PyGILState_Release)(int state);
    void *(*PyEval_SaveThread)(void);
    void (*PyEval_RestoreThread)(void *state);
    void (*PyMem_GetAllocator)(int domain, PyMemAllocatorEx *allocator);
    void (*PyMem_SetAllocator)(int domain, PyMemAllocatorEx *allocator);
    object *(*PyImport_ImportModule)(const char *name);
    object *(*PyObject_GetAttrString)(object *object, const char *name);
    object *(*PyObject_Call)(object *callable, object *args, object *kwargs);
    object *(*PyCFunction_NewEx)(struct method *method, object *self, object *module);
    object *(*Py_BuildValue)(const char *format, ...);
    void (*Py_DecRef)(object *object);
    void (*PyErr_Clear)(void);
} interpreter;

static const struct {
    const char *name;
    size_t offset;
} functions[] = {
#define FUNCTION(name) {#name, offsetof(__typeof__(interpreter), name)}
    FUNCTION(Py_IsInitialized), FUNCTION(Py_GetVersion), FUNCTION(Py_AddPendingCall),
    FUNCTION(PyGILState_Ensure), FUNCTION(PyGILState_Release),
    FUNCTION(PyEval_SaveThread), FUNCTION(PyEval_RestoreThread),
    FUNCTION(PyMem_GetAllocator), FUNCTION(PyMem_SetAllocator),
    FUNCTION(PyImport_ImportModule), FUNCTION(PyObject_GetAttrString),
    FUNCTION(PyObject_Call), FUNCTION(PyCFunction_NewEx), FUNCTION(Py_BuildValue),
    FUNCTION(Py_DecRef), FUNCTION(PyErr_Clear),
};

/* Up to 3.11: the thread state of whoever holds the GIL, or NULL. */
static void *(*holder_of_gil)(void);

enum stage { WAITING, ASKED, RUNNING, DUE, FORKED, ENDING };

static atomic_int stage;
static struct timespec interval;
static int is_python;           /* python itself, which lets go of the GIL while it waits */
static pthread_t thread;
static atomic_int has_thread;   /* of this process; set with the GIL */
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t wake;     /* by CLOCK_MONOTONIC, as the mutex guards what follows: */
static int is_to_end;
static int is_at_work;          /* the thread, which may wait for the GIL, */
static int is_trimming;         /* or has it, and is in the heaps */
static int nforking;            /* it is not to begin either */

static void
wake_init(void)
{
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&wake, &attributes);
    pthread_condattr_destroy(&attributes);
}

/* The thread. */

static struct timespec
time_after(struct timespec span)
{
    struct timespec end;
    clock_gettime(CLOCK_MONOTONIC, &end);
    end.tv_sec += span.tv_sec;
    end.tv_nsec += span.tv_nsec;
    if (end.tv_nsec >= 1000000000) {
        end.tv_sec++;
        end.tv_nsec -= 1000000000;
    }
    return end;
}

/* 0 when the interval is over, -1 when the thread is to end. */
static int
sleep_a_while(void)
{
    struct timespec end = time_after(interval);
    int is_over = 0;
    pthread_mutex_lock(&mutex);
    while (!is_to_end && (!is_over || nforking > 0)) {
        is_over |= (is_over ? pthread_cond_wait(&wake, &mutex)
                    : pthread_cond_timedwait(&wake, &mutex, &end)) != 0;
    }
    is_at_work = !is_to_end;
    int result = is_to_end ? -1 : 0;
    pthread_mutex_unlock(&mutex);
    return result;
}

static void
work_is_done(void)
{
    pthread_mutex_lock(&mutex);
    is_at_work = is_trimming = 0;
    pthread_cond_broadcast(&wake);
    pthread_mutex_unlock(&mutex);
}

/* The GIL may have come after a fork began, which did not wait for ever. */
static int
may_trim(void)
{
    pthread_mutex_lock(&mutex);
    is_trimming = nforking == 0;
    int result = is_trimming;
    pthread_mutex_unlock(&mutex);
    return result;
}

static void
stage_change(int from, int to)
{
    atomic_compare_exchange_strong(&stage, &from, to);
}

/* Whether the GIL is free, and not just for a moment: a program that holds it lets go of it
 * for each read() and write(), and has it back before the thread could ask for it. */
static int
gil_stays_free(void)
{
    if (holder_of_gil == NULL || holder_of_gil() != NULL) {
        return 0;
    }
    nanosleep(&(struct timespec){0, 1000000}, NULL);
    return holder_of_gil() == NULL;
}

static void *
trim_again_and_again(void *unused)
{
    for (; sleep_a_while() == 0; work_is_done()) {
        if (!interpreter.Py_IsInitialized()) {
            continue;           /* a program that removed end() from atexit */
        }
        if (is_python || gil_stays_free()) {
            int state = interpreter.PyGILState_Ensure();
            if (may_trim()) {
                PyMem_Trim();
            }
            interpreter.PyGILState_Release(state);
        }
        else {
            stage_change(RUNNING, DUE);
        }
    }
    return unused;
}

static void
thread_start(void)
{
    sigset_t all, before;
    is_to_end = is_at_work = is_trimming = 0;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    has_thread = pthread_create(&thread, NULL, trim_again_and_again, NULL) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/* With the GIL, which the thread may need to come to its end. */
static void
thread_end(void)
{
    if (!has_thread) {
        return;
    }
    has_thread = 0;
    pthread_mutex_lock(&mutex);
    is_to_end = 1;
    pthread_cond_broadcast(&wake);
    pthread_mutex_unlock(&mutex);
    void *state = interpreter.PyEval_SaveThread();
    pthread_join(thread, NULL);
    interpreter.PyEval_RestoreThread(state);
}

static int
start_soon(void *unused)
{
    (void)unused;
    int now = atomic_load(&stage);
    if (!has_thread && (now == RUNNING || now == DUE)) {
        thread_start();
    }
    return 0;
}

/* A fork that the interpreter may not know of.  A child in which a thread was left while
 * it waits for the GIL could not let go of the GIL again. */

/* A trim comes to its end, however slow the machine is.  Whoever has the GIL may not let go
 * of it. */
static void
wait_until_asleep(void)
{
    pthread_mutex_lock(&mutex);
    struct timespec end = time_after((struct timespec){is_trimming ? 20 : 1, 0});
    while (is_at_work && pthread_cond_timedwait(&wake, &mutex, &end) == 0) {
    }
    pthread_mutex_unlock(&mutex);
}

static void
before_any_fork(void)
{
    pthread_mutex_lock(&mutex);
    nforking++;
    int must_wait = is_at_work;
    pthread_mutex_unlock(&mutex);
    if (must_wait && _PyMem_HoldsGIL()) {
        void *state = interpreter.PyEval_SaveThread();
        wait_until_asleep();
        interpreter.PyEval_RestoreThread(state);
    }
    else if (must_wait) {
        wait_until_asleep();
    }
}

static void
after_any_fork_in_parent(void)
{
    pthread_mutex_lock(&mutex);
    nforking--;
    pthread_cond_broadcast(&wake);
    pthread_mutex_unlock(&mutex);
}

/* A child has no thread, whatever the parent had. */
static void
after_any_fork_in_child(void)
{
    has_thread = 0;
    nforking = 0;
    mutex = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
    wake_init();
    stage_change(DUE, RUNNING);
    stage_change(RUNNING, FORKED);
}

/* What the interpreter calls. */

static object *
before_fork(object *self, object *unused)
{
    (void)self;
    (void)unused;
    thread_end();
    return interpreter.Py_BuildValue("");
}

/* Soon, not now, as a thread would be warned of.  Pending calls are the main thread's. */
static object *
after_fork_in_parent(object *self, object *unused)
{
    (void)self;
    (void)unused;
    if (getpid() != (pid_t)syscall(SYS_gettid)
        || interpreter.Py_AddPendingCall(start_soon, NULL) != 0)
    {
        start_soon(NULL);
    }
    return interpreter.Py_BuildValue("");
}

static object *
end(object *self, object *unused)
{
    (void)self;
    (void)unused;
    thread_end();
    atomic_store(&stage, ENDING);
    return interpreter.Py_BuildValue("");
}

/* Call module.function(callback), or with it as the argument of a name; -1: it
 * could not be done. */
static int
register_callback(const char *module_name, const char *function_name,
                  const char *argument, struct method *method)
{
    object *module = interpreter.PyImport_ImportModule(module_name);
    object *function = module != NULL
        ? interpreter.PyObject_GetAttrString(module, function_name) : NULL;
    object *callback = function != NULL
        ? interpreter.PyCFunction_NewEx(method, NULL, NULL) : NULL;
    object *args = callback == NULL ? NULL : argument == NULL
        ? interpreter.Py_BuildValue("(O)", callback) : interpreter.Py_BuildValue("()");
    object *kwargs = args == NULL || argument == NULL ? NULL
        : interpreter.Py_BuildValue("{sO}", argument, callback);
    object *result = args != NULL && (argument == NULL || kwargs != NULL)
        ? interpreter.PyObject_Call(function, args, kwargs) : NULL;
    int status = result != NULL ? 0 : -1;
    if (status < 0) {
        interpreter.PyErr_Clear();
    }
    object *all[] = {module, function, callback, args, kwargs, result};
    for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++) {
        interpreter.Py_DecRef(all[i]);      /* may be NULL */
    }
    return status;
}

/* In the main thread, with the GIL, where any code of Python may run. */
static int
begin(void *unused)
{
    (void)unused;
    static struct method at_end = {"pymem_end", end, NO_ARGUMENTS, NULL};
    static struct method before = {"pymem_before_fork", before_fork, NO_ARGUMENTS, NULL};
    static struct method after = {
        "pymem_after_fork", after_fork_in_parent, NO_ARGUMENTS, NULL
    };
    if (register_callback("atexit", "register", NULL, &at_end) < 0
        || register_callback("posix", "register_at_fork", "before", &before) < 0
        || register_callback("posix", "register_at_fork", "after_in_parent", &after) < 0)
    {
        fputs("pymem-run: --trim-interval: the interpreter takes no callbacks, so "
              "nothing is trimmed\n", stderr);
        return 0;
    }
    atomic_store(&stage, RUNNING);
    thread_start();
    return 0;
}

/* The mem domain: a first look at each request, which costs one load.  A request may
 * come without the GIL, by a fault of the program. */

static PyMemAllocatorEx below;

static COLD void
look_at_interpreter(void)
{
    int now = atomic_load(&stage), is_initialized = interpreter.Py_IsInitialized();
    if (now == WAITING && is_initialized) {
        atomic_store(&stage, ASKED);
        if (interpreter.Py_AddPendingCall(begin, NULL) != 0) {
            atomic_store(&stage, WAITING);      /* too many of them: at the next one */
        }
    }
    else if (now == FORKED && is_initialized && _PyMem_HoldsGIL()) {
        atomic_store(&stage, RUNNING);
        thread_start();
    }
    else if (now == DUE && _PyMem_HoldsGIL()) {
        stage_change(DUE, RUNNING);
        PyMem_Trim();
    }
    else if (now == ENDING && !is_initialized) {
        atomic_store(&stage, WAITING);
    }
}

static inline void
look(void)
{
    if (UNLIKELY(atomic_load_explicit(&stage, memory_order_relaxed) != RUNNING)) {
        look_at_interpreter();
    }
}

static void *
watching_malloc(void *ctx, size_t size)
{
    look();
    return below.malloc(ctx, size);
}

static void *
watching_calloc(void *ctx, size_t nelem, size_t elsize)
{
    look();
    return below.calloc(ctx, nelem, elsize);
}

static void *
watching_realloc(void *ctx, void *ptr, size_t new_size)
{
    look();
    return below.realloc(ctx, ptr, new_size);
}

/* N of "3.N.2 (main, ...)". */
static int
minor_version(void)
{
    const char *point = strchr(interpreter.Py_GetVersion(), '.');
    return point != NULL ? atoi(point + 1) : 0;
}

void
trimming_start(long milliseconds, int is_python_itself)
{
    for (size_t i = 0; i < sizeof(functions) / sizeof(functions[0]); i++) {
        void *address = dlsym(RTLD_DEFAULT, functions[i].name);
        if (address == NULL) {
            fprintf(stderr, "pymem-run: --trim-interval: the interpreter has no %s, so "
                    "nothing is trimmed\n", functions[i].name);
            return;
        }
        memcpy((char *)&interpreter + functions[i].offset, &address, sizeof(address));
    }
    is_python = is_python_itself;
    if (minor_version() < 12) {
        *(void **)&holder_of_gil = dlsym(RTLD_DEFAULT, "_PyThreadState_UncheckedGet");
    }
    interval = (struct timespec){milliseconds / 1000, milliseconds % 1000 * 1000000};
    wake_init();
    /* Heaps register what locks them at a fork: that has to come after the wait for the
     * thread, which needs the lock, so it must be there before.  The system is not called
     * yet: whether that is allowed the environment says, if the interpreter looks at it. */
    heaps_prepare();
    pthread_atfork(before_any_fork, after_any_fork_in_parent, after_any_fork_in_child);
    interpreter.PyMem_GetAllocator(PYMEM_DOMAIN_MEM, &below);
    PyMemAllocatorEx watching = {
        below.ctx, watching_malloc, watching_calloc, watching_realloc, below.free
    };
    interpreter.PyMem_SetAllocator(PYMEM_DOMAIN_MEM, &watching);
}
