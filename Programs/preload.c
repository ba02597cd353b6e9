/* What pymem-run loads into a program before it starts.
 *
 * PYMEM_RUN is "PID FLAGS TRIM-MILLISECONDS": the process that pymem-run became,
 * and letters: d debug hooks, r raw domain, H hardened, c children too, s statistics,
 * h huge pages, m nothing but mmap and munmap.  PYMEM_RUN_STATS_JSON names a file.
 *
 * A process on the way to the interpreter (env, a shell) is left alone.  In the
 * process itself a reason not to install ends it, and where nothing was served in the
 * end that is said; in a child nothing is said. */

#define _GNU_SOURCE
#include "pymeminstall.h"
#include "pythonoptions.h"
#include "trimming.h"
#include "wordlist.h"
#include "pycore_poolmap.h"
#include "pycore_pymem.h"
#include "pycore_virtualmem.h"
#include "cpython/objimpl.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct {
    pid_t pid;
    char flags[16];
    long trim_milliseconds;
    const char *json_path;
    /* The interpreter's. */
    void (*get_allocator)(int domain, PyMemAllocatorEx *allocator);
    void (*setup_debug_hooks)(void);
    PyMemAllocatorEx installed;     /* in the object domain */
} run;

static int
has_flag(char flag)
{
    return strchr(run.flags, flag) != NULL;
}

/* At the end. */

/* Every heap begins with an arena, and the first arena with a leaf.  Before a fork the
 * heaps may be locked already: this takes no lock. */
static int
nothing_was_served(void)
{
    return pool_map_nleaves == 0;
}

/* Another allocator in our place is a reason; an interpreter that never began is not.
 * At the end, and before a fork: a server may not come to an end for long. */
static void
say_if_nothing_is_served(void)
{
    static int is_said;
    PyMemAllocatorEx now;
    run.get_allocator(PYMEM_DOMAIN_OBJ, &now);
    if (!is_said && getpid() == run.pid && now.malloc != run.installed.malloc
        && nothing_was_served())
    {
        is_said = 1;
        fputs("pymem-run: pymem serves nothing: the program chose other allocators "
              "(PYTHONMALLOC, the developer mode, PyPreConfig, PyMem_SetAllocator)\n",
              stderr);
    }
}

static void
write_json(void)
{
    FILE *out = fopen(run.json_path, "w");
    if (out == NULL || pymem_write_statistics(out) < 0) {
        fprintf(stderr, "pymem-run: %s: %s\n", run.json_path, strerror(errno));
    }
    if (out != NULL) {
        fclose(out);
    }
}

static void
at_exit(void)
{
    if (getpid() != run.pid) {      /* a child of a fork */
        return;
    }
    say_if_nothing_is_served();
    if (has_flag('s')) {
        _PyObject_DebugMallocStats(stderr);
    }
    if (run.json_path != NULL) {
        write_json();
    }
}

/* Children have what they would have without us.  pymem-run put our library behind
 * what was there; see preload_library() there. */

static void
leave_children_alone(void)
{
    Dl_info self;
    if (dladdr(&run, &self) != 0) {
        char folder[strlen(self.dli_fname) + 1];
        strcpy(folder, self.dli_fname);
        wordlist_remove_library(folder);
        char *slash = strrchr(folder, '/');
        if (slash != NULL) {
            *slash = '\0';
            if (strchr(folder, ' ') != NULL) {
                wordlist_remove("LD_LIBRARY_PATH", folder);
            }
        }
    }
    unsetenv("PYMEM_RUN");
    unsetenv("PYMEM_RUN_STATS_JSON");
}

/* Or is it another program that embeds a CPython? */
static int
program_is_python(void)
{
    char path[4096];
    ssize_t length = readlink("/proc/self/exe", path, sizeof(path) - 1);
    path[length > 0 ? length : 0] = '\0';
    const char *slash = strrchr(path, '/');
    return strstr(slash != NULL ? slash : path, "python") != NULL;
}

/* The arguments of main(), NULL behind the last.  glibc gives them to constructors, and musl does
 * not. */
static char **
read_arguments(void)
{
    FILE *file = fopen("/proc/self/cmdline", "re");
    char **arguments = calloc(1, sizeof(*arguments)), **longer, *word = NULL;
    size_t room = 0, n = 0;
    while (file != NULL && arguments != NULL && getdelim(&word, &room, '\0', file) > 0
           && (longer = realloc(arguments, (n + 2) * sizeof(*arguments))) != NULL)
    {
        arguments = longer;
        arguments[n++] = word;
        arguments[n] = word = NULL;
        room = 0;
    }
    free(word);
    if (file != NULL) {
        fclose(file);
    }
    return arguments;
}

static void
free_arguments(char **arguments)
{
    for (char **word = arguments; word != NULL && *word != NULL; word++) {
        free(*word);
    }
    free(arguments);
}

/* What would replace our allocators again, by CPython's own rules; NULL: nothing is
 * known.  Of another program that embeds a CPython we do not know what it makes of the
 * environment and of its arguments. */
static const char *
reason_not_to_install(char text[200])
{
    if (!program_is_python()) {
        return NULL;
    }
    struct python_options options = {0, 0};
    char **arguments = read_arguments();
    if (arguments != NULL && arguments[0] != NULL) {
        options = python_options_read(arguments + 1);
    }
    free_arguments(arguments);
    const char *name = options.ignores_environment ? NULL : getenv("PYTHONMALLOC");
    if (name != NULL && *name != '\0') {
        snprintf(text, 200, "PYTHONMALLOC=%.40s would replace pymem; unset it (debug "
                 "hooks: pymem-run --debug)", name);
        return text;
    }
    const char *mode = options.ignores_environment ? NULL : getenv("PYTHONDEVMODE");
    if (options.is_dev || (mode != NULL && *mode != '\0')) {
        return "the developer mode (-X dev, PYTHONDEVMODE) would replace pymem; debug "
               "hooks: pymem-run --debug";
    }
    return NULL;
}

/* 0, or -1 with the reason in error. */
static int
install(char *error, size_t size)
{
    if (has_flag('h')) {
        virtual_want_huge_pages();
    }
    if (has_flag('m')) {
        virtual_confine();
    }
    unsigned flags = (has_flag('r') ? PYMEM_INSTALL_RAW : 0)
        | (has_flag('H') ? PYMEM_INSTALL_HARDENED : 0);
    if (pymem_install(flags, error, size) < 0) {
        return -1;
    }
    if (run.trim_milliseconds > 0) {
        trimming_start(run.trim_milliseconds, program_is_python());
    }
    if (has_flag('d')) {        /* above all others */
        run.setup_debug_hooks();
    }
    run.get_allocator(PYMEM_DOMAIN_OBJ, &run.installed);
    return 0;
}

/* A program that loads its CPython later finds no pymem in it.  A shell or env is on the
 * way to another program, or to processes that have one. */
static void
say_that_there_was_none(void)
{
    if (getpid() == run.pid) {
        fputs("pymem-run: pymem serves nothing: there was no CPython in this program "
              "when it began\n", stderr);
    }
}

static void
look_at_other_program(void)
{
    static const char *const names[] = {"sh", "bash", "dash", "zsh", "ksh", "busybox",
                                        "env"};
    char **arguments = read_arguments();
    const char *name = arguments != NULL && arguments[0] != NULL ? arguments[0] : "";
    const char *slash = strrchr(name, '/');
    int is_on_the_way = 0;
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        is_on_the_way |= strcmp(slash != NULL ? slash + 1 : name, names[i]) == 0;
    }
    free_arguments(arguments);
    if (!is_on_the_way) {
        atexit(say_that_there_was_none);
    }
}

__attribute__((constructor)) static void
start(void)
{
    const char *told = getenv("PYMEM_RUN");
    int pid;
    *(void **)&run.get_allocator = dlsym(RTLD_DEFAULT, "PyMem_GetAllocator");
    *(void **)&run.setup_debug_hooks = dlsym(RTLD_DEFAULT, "PyMem_SetupDebugHooks");
    if (told == NULL
        || sscanf(told, "%d -%15s %ld", &pid, run.flags, &run.trim_milliseconds) != 3)
    {
        return;
    }
    run.pid = pid;
    if (run.get_allocator == NULL || run.setup_debug_hooks == NULL) {
        if (getpid() == run.pid) {
            look_at_other_program();
        }
        return;
    }
    run.json_path = getenv("PYMEM_RUN_STATS_JSON");
    int is_child = getpid() != run.pid;
    char text[256];
    const char *error = reason_not_to_install(text);
    if (error == NULL && install(text, sizeof(text)) < 0) {
        error = text;
    }
    if (error != NULL) {
        if (!is_child) {
            fprintf(stderr, "pymem-run: %s\n", error);
            _exit(126);
        }
        return;
    }
    if (!is_child) {
        atexit(at_exit);
        pthread_atfork(say_if_nothing_is_served, NULL, NULL);
    }
    if (!has_flag('c')) {
        leave_children_alone();
    }
}
