/* A thread of ours in a CPython that runs already: python -m pymem attach.
 *
 *   debugger:  dlopen(pymem-attach.so), pymem_attach(request)
 *                                             |  in a thread that can wait
 *   thread:    take the GIL, run the request's code, give the GIL back, end
 *
 * The debugger calls pymem_attach() in a thread that it has stopped where no lock of the
 * C library is held (Lib/pymem/attachgdb.py).  So pymem_attach() waits for nothing: the
 * thread that it makes waits for the GIL, as each thread of a program in C does.
 *
 * Owns the pages of the request, which the thread unmaps.  Calls the interpreter by the
 * addresses in the request: where it is, the debugger knows. */

#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <sys/mman.h>

/* As Lib/pymem/attach.py writes it, at the start of separate pages. */
struct request {
    size_t size;                        /* of the pages */
    int (*is_initialized)(void);
    int (*ensure)(void);
    int (*run)(const char *code);
    void (*release)(int state);
    char code[];
};

static void *
run_request(void *arg)
{
    struct request *request = arg;
    if (request->is_initialized()) {
        int state = request->ensure();
        (void)request->run(request->code);
        request->release(state);
    }
    (void)munmap(request, request->size);
    return NULL;
}

/* 0, or why there is no thread.  Signals are the program's: the thread gets none. */
__attribute__((visibility("default"))) int pymem_attach(struct request *request);

int
pymem_attach(struct request *request)
{
    sigset_t all, before;
    pthread_t thread;
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_BLOCK, &all, &before);
    int error = pthread_create(&thread, NULL, run_request, request);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error == 0) {
        (void)pthread_detach(thread);
    }
    else {
        (void)munmap(request, request->size);
    }
    return error;
}
