/* What pymem-run loads into a program before it starts.
 *
 * PYMEM_RUN is "PID FLAGS TRIM-MILLISECONDS": the process that pymem-run became,
 * and letters: d debug hooks, r raw domain, c children too, s statistics.
 * PYMEM_RUN_STATS_JSON names a file.
 *
 * A process on the way to the interpreter (env, a shell) is left alone.  In the
 * process itself a reason not to install ends it; in a child nothing is said. */

#define _GNU_SOURCE
#include "pymeminstall.h"
#include "pycore_pymem.h"
#include "cpython/objimpl.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static struct {
    pid_t pid;
    char flags[8];
    long trim_milliseconds;
    const char *json_path;
    int (*add_pending_call)(int (*function)(void *), void *arg);
} run;

static int
has_flag(char flag)
{
    return strchr(run.flags, flag) != NULL;
}

static void
write_statistics(void)
{
    if (getpid() != run.pid) {      /* a child of a fork */
        return;
    }
    if (has_flag('s')) {
        _PyObject_DebugMallocStats(stderr);
    }
    if (run.json_path != NULL) {
        FILE *out = fopen(run.json_path, "w");
        if (out == NULL || pymem_write_statistics(out) < 0) {
            fprintf(stderr, "pymem-run: %s: %s\n", run.json_path,
                    strerror(errno));
        }
        if (out != NULL) {
            fclose(out);
        }
    }
}

/* Every so often, in the main thread of the interpreter with its GIL. */

static int
trim(void *arg)
{
    (void)arg;
    PyMem_Trim();
    return 0;
}

static void *
trim_now_and_then(void *arg)
{
    (void)arg;
    struct timespec pause = {run.trim_milliseconds / 1000,
                             run.trim_milliseconds % 1000 * 1000000};
    for (;;) {
        nanosleep(&pause, NULL);
        run.add_pending_call(trim, NULL);
    }
    return NULL;
}

static void
start_trimming(void)
{
    void *address = dlsym(RTLD_DEFAULT, "Py_AddPendingCall");
    memcpy(&run.add_pending_call, &address, sizeof(address));
    pthread_t thread;
    if (address != NULL
        && pthread_create(&thread, NULL, trim_now_and_then, NULL) == 0)
    {
        pthread_detach(thread);
    }
}

/* Take our library off LD_PRELOAD, of which it is the first. */
static void
leave_children_alone(void)
{
    char *preloaded = getenv("LD_PRELOAD");
    char *rest = preloaded != NULL ? strchr(preloaded, ':') : NULL;
    if (rest != NULL) {
        setenv("LD_PRELOAD", rest + 1, 1);
    }
    else {
        unsetenv("LD_PRELOAD");
    }
    unsetenv("PYMEM_RUN");
    unsetenv("PYMEM_RUN_STATS_JSON");
}

__attribute__((constructor)) static void
start(void)
{
    const char *told = getenv("PYMEM_RUN");
    int pid;
    if (told == NULL
        || sscanf(told, "%d -%7s %ld", &pid, run.flags,
                  &run.trim_milliseconds) != 3
        || dlsym(RTLD_DEFAULT, "PyMem_SetAllocator") == NULL)
    {
        return;
    }
    run.pid = pid;
    run.json_path = getenv("PYMEM_RUN_STATS_JSON");
    int is_child = getpid() != run.pid;
    unsigned flags = (has_flag('r') ? PYMEM_INSTALL_RAW : 0)
        | (has_flag('d') ? PYMEM_INSTALL_DEBUG : 0);
    char error[256];
    if (pymem_install(flags, error, sizeof(error)) < 0) {
        if (!is_child) {
            fprintf(stderr, "pymem-run: %s\n", error);
            _exit(126);
        }
        return;
    }
    if (!is_child) {
        atexit(write_statistics);
    }
    if (run.trim_milliseconds > 0) {
        start_trimming();
    }
    if (!has_flag('c')) {
        leave_children_alone();
    }
}
