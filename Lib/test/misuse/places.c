/* Where the last act of a program happens: here, in a thread, an interpreter, a child. */

#include "misuse.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

void
need(int condition, const char *what)
{
    if (!condition) {
        fprintf(stderr, "misuse: %s\n", what);
        _exit(WRONG);
    }
}

struct task {
    const struct how *how;
    void (*act)(const struct how *, void *);
    void *block;
};

static void *
thread_main(void *argument)
{
    struct task *task = argument;
    if (task->how->needs_no_gil) {
        task->act(task->how, task->block);
        return NULL;
    }
    PyGILState_STATE state = PyGILState_Ensure();
    task->act(task->how, task->block);
    PyGILState_Release(state);
    return NULL;
}

static void
run_in_thread(struct task *task)
{
    pthread_t thread;
    PyThreadState *state = PyEval_SaveThread();
    need(pthread_create(&thread, NULL, thread_main, task) == 0, "no thread");
    pthread_join(thread, NULL);
    PyEval_RestoreThread(state);
}

/* It is there before the program begins: what it allocates could be a freed block.  It serves
 * one act. */
static PyThreadState *other;

void
make_interpreter(void)
{
    PyThreadState *state = PyThreadState_Get();
    other = Py_NewInterpreter();
    need(other != NULL, "no interpreter");
    PyThreadState_Swap(state);
}

static void
run_in_interpreter(struct task *task)
{
    PyThreadState *state = PyThreadState_Swap(other);
    task->act(task->how, task->block);
    Py_EndInterpreter(other);
    PyThreadState_Swap(state);
}

/* This process ends as its child did. */
static void
run_in_child(struct task *task)
{
    int status;
    pid_t child = fork();
    if (child == 0) {
        task->act(task->how, task->block);
        _exit(0);
    }
    need(child > 0 && waitpid(child, &status, 0) == child, "no child");
    if (WIFSIGNALED(status)) {
        signal(WTERMSIG(status), SIG_DFL);
        raise(WTERMSIG(status));
    }
    if (WEXITSTATUS(status) != 0) {
        _exit(WEXITSTATUS(status));
    }
}

void
run_in_place(const struct how *how, void (*act)(const struct how *, void *), void *block)
{
    struct task task = {how, act, block};
    switch (how->place) {
    case THREAD:
        run_in_thread(&task);
        break;
    case INTERPRETER:
        run_in_interpreter(&task);
        break;
    case CHILD:
        run_in_child(&task);
        break;
    default:
        act(how, block);
    }
}

byte *
take(const struct how *how)
{
    void *block = how->first->malloc(how->size);
    need(block != NULL, "no memory");
    return memset(block, 'a', how->size);
}

void
free_second(const struct how *how, void *block)
{
    how->second->free(block);
}

void
free_in_place(const struct how *how, byte *block)
{
    run_in_place(how, free_second, (void *)block);
}

void
grow(const struct how *how, void *block)
{
    how->second->realloc(block, how->size * 2 + 100);
}

void
shrink(const struct how *how, void *block)
{
    how->second->realloc(block, how->size / 2);
}

void
keep_size(const struct how *how, void *block)
{
    how->second->realloc(block, how->size);
}

void
resize_to_zero(const struct how *how, void *block)
{
    how->second->realloc(block, 0);
}
