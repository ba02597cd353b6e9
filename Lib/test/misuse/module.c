/* The extension module _misuse: programs and attacks by their names.
 *
 * run() ends the process if the allocator stops the program.  attack() forks a process for
 * each run, without the interpreter's part of a fork: the child calls C only. */

#include "misuse.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static const struct domain domains[] = {
    {PyMem_RawMalloc, PyMem_RawCalloc, PyMem_RawRealloc, PyMem_RawFree},
    {PyMem_Malloc, PyMem_Calloc, PyMem_Realloc, PyMem_Free},
    {PyObject_Malloc, PyObject_Calloc, PyObject_Realloc, PyObject_Free},
};
static const char letters[] = "rmo";
static const char *const places[] = {"here", "thread", "interpreter", "child"};

/* -1 with an error set. */
static int
domain_number(char letter)
{
    const char *found = letter != '\0' ? strchr(letters, letter) : NULL;
    if (found == NULL) {
        PyErr_Format(PyExc_ValueError, "a domain is r, m or o, not '%c'", letter);
        return -1;
    }
    return (int)(found - letters);
}

static int
place_number(const char *name)
{
    for (int place = 0; place < 4; place++) {
        if (strcmp(places[place], name) == 0) {
            return place;
        }
    }
    PyErr_Format(PyExc_ValueError, "a place is here, thread, interpreter or child, not %s",
                 name);
    return -1;
}

static const struct program *
find_program(const char *name)
{
    const struct program *lists[] = {free_programs, write_programs, legal_programs};
    for (int i = 0; i < 3; i++) {
        for (const struct program *program = lists[i]; program->name != NULL; program++) {
            if (strcmp(program->name, name) == 0) {
                return program;
            }
        }
    }
    PyErr_Format(PyExc_ValueError, "no program is named %s", name);
    return NULL;
}

static PyObject *
run(PyObject *self, PyObject *args)
{
    const char *name, *pair, *place_name;
    Py_ssize_t size;
    (void)self;
    if (!PyArg_ParseTuple(args, "ssns", &name, &pair, &size, &place_name)) {
        return NULL;
    }
    const struct program *program = find_program(name);
    int place = program != NULL ? place_number(place_name) : -1;
    int first = place >= 0 ? domain_number(pair[0]) : -1;
    int second = first >= 0 ? domain_number(pair[1]) : -1;
    if (second < 0) {
        return NULL;
    }
    struct how how = {&domains[first], &domains[second], (size_t)size, place,
                      first == 0 && second == 0};
    if (place == INTERPRETER) {
        make_interpreter();
    }
    program->run(&how);
    Py_RETURN_NONE;
}

void **told_by_sibling;

/* What became of a run. */
enum { GOT_NOTHING, GOT_IT, STOPPED, CRASHED, HUNG, NB_ENDS };
#define EXIT_GOT_IT 10
#define SECONDS 5

static void
attack_in_child(const struct attack *attack, const struct domain *domain, size_t size,
                unsigned seed)
{
    const struct rlimit none = {0, 0}, seconds = {SECONDS, SECONDS};
    const int deadly[] = {SIGSEGV, SIGBUS, SIGABRT, SIGILL, SIGFPE, SIGALRM};
    for (size_t i = 0; i < sizeof(deadly) / sizeof(deadly[0]); i++) {
        signal(deadly[i], SIG_DFL);
    }
    setrlimit(RLIMIT_CORE, &none);
    setrlimit(RLIMIT_CPU, &seconds);
    alarm(10 * SECONDS);
    int null = open("/dev/null", O_WRONLY);
    dup2(null, STDOUT_FILENO);
    dup2(null, STDERR_FILENO);
    _exit(attack->run(domain, size, seed) ? EXIT_GOT_IT : 0);
}

static int
what_became_of_it(int status)
{
    if (WIFEXITED(status)) {
        return WEXITSTATUS(status) == EXIT_GOT_IT ? GOT_IT
            : WEXITSTATUS(status) == 0 ? GOT_NOTHING : STOPPED;
    }
    switch (WTERMSIG(status)) {
    case SIGABRT:
        return STOPPED;
    case SIGALRM:
    case SIGXCPU:
    case SIGKILL:
        return HUNG;
    default:
        return CRASHED;
    }
}

static const struct attack *
find_attack(const char *name)
{
    for (const struct attack *attack = attacks; attack->name != NULL; attack++) {
        if (strcmp(attack->name, name) == 0) {
            return attack;
        }
    }
    PyErr_Format(PyExc_ValueError, "no attack is named %s", name);
    return NULL;
}

static PyObject *
attack(PyObject *self, PyObject *args)
{
    const char *name, *domain;
    Py_ssize_t size, runs;
    unsigned ends[NB_ENDS] = {0};
    (void)self;
    if (!PyArg_ParseTuple(args, "ssnn", &name, &domain, &size, &runs)) {
        return NULL;
    }
    const struct attack *chosen = find_attack(name);
    int number = chosen != NULL ? domain_number(domain[0]) : -1;
    if (number < 0) {
        return NULL;
    }
    /* The first run does not count: what its child tells, the others know. */
    for (Py_ssize_t seed = 0; seed <= runs; seed++) {
        int status;
        pid_t child = fork();
        if (child == 0) {
            attack_in_child(chosen, &domains[number], (size_t)size, (unsigned)seed);
        }
        if (child < 0 || waitpid(child, &status, 0) != child) {
            return PyErr_SetFromErrno(PyExc_OSError);
        }
        ends[what_became_of_it(status)] += seed > 0;
    }
    return Py_BuildValue("{s:I,s:I,s:I,s:I,s:I}", "got it", ends[GOT_IT],
                         "stopped", ends[STOPPED], "crashed", ends[CRASHED],
                         "hung", ends[HUNG], "got nothing", ends[GOT_NOTHING]);
}

static PyMethodDef methods[] = {
    {"run", run, METH_VARARGS, "run(program, domains, size, place)"},
    {"attack", attack, METH_VARARGS,
     "attack(name, domain, size, runs) -> {what became of it: runs}"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_misuse", NULL, -1, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC
PyInit__misuse(void)
{
    told_by_sibling = mmap(NULL, sizeof(*told_by_sibling), PROT_READ | PROT_WRITE,
                           MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return told_by_sibling == MAP_FAILED ? PyErr_NoMemory() : PyModule_Create(&definition);
}
