/* pymem-run: a CPython as it is, with pymem in it.
 *
 * Sets LD_PRELOAD and becomes the program, so that signals and its exit status
 * are its own.  What can be said against the program is said before: afterwards
 * an interpreter that can't be found looks like one that does not use it.  What can be
 * said against its options and its environment Programs/preload.c says, which is there
 * when the interpreter begins. */

#define _GNU_SOURCE     /* memmem() */
#include "pyconfig.h"
#include "pycore_keepsize.h"
#include "wordlist.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <link.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#ifndef PKGLIBDIR
#  define PKGLIBDIR "pymem"
#endif

static const char usage[] =
    "usage: pymem-run [options] PYTHON [ARGUMENT...]\n"
    "\n"
    "Run a CPython 3.8 to 3.15, which need not be built for it, with pymem as the\n"
    "allocator of its mem and object domains.  PYTHON is the interpreter or a script\n"
    "that leads to one (a venv's tool, pyenv's python).\n"
    "\n"
    "  --raw                 serve the raw domain, too\n"
    "  --debug               put the interpreter's debug hooks above pymem\n"
    "  --hardened[=OPTIONS]  end the program where it misuses its memory; options as in\n"
    "                        PYMEM_HARDENED: quarantine=4M,canary=0\n"
    "  --hugepages           ask for huge pages for arenas\n"
    "  --mmap-only           call only mmap and munmap of the system, for a sandbox\n"
    "                        that ends programs at other calls\n"
    "  --medium=WHO          serve requests of 513 bytes to 32 KiB from pools, or malloc\n"
    "  --keep=SIZE           so much free memory may stay (12M); 0 is as in CPython\n"
    "  --trim-interval=TIME  give unused memory back so often: 0.5, 90s, 5m, 1h\n"
    "  --stats               write statistics on stderr at the end\n"
    "  --stats-json=FILE     write statistics into a file, as JSON\n"
    "  --no-children         run child processes without pymem\n"
    "  --version, --help\n"
    "\n"
    "The exit status is the program's, or 125 for bad options, 126 for a program that\n"
    "can't be run with pymem, and 127 for a program that was not found.\n";

enum { BAD_OPTIONS = 125, CANNOT_RUN = 126, NOT_FOUND = 127 };

static void __attribute__((noreturn, format(printf, 2, 3)))
fail(int status, const char *format, ...)
{
    fputs("pymem-run: ", stderr);
    va_list args;
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    exit(status);
}

/* The folder of this program, without links to it. */
static void
find_own_folder(char folder[PATH_MAX])
{
    ssize_t length = readlink("/proc/self/exe", folder, PATH_MAX - 1);
    folder[length > 0 ? length : 0] = '\0';
    char *slash = strrchr(folder, '/');
    if (slash != NULL) {
        *slash = '\0';
    }
}

/* A program of the virtual environment that pip installed this one into: so that
 * venv/bin/pymem-run python is the environment's, whether that is active or not. */
static int
find_in_own_environment(const char *name, char path[PATH_MAX])
{
#ifdef PYTHON_VERSION
    char folder[PATH_MAX], marker[PATH_MAX + 20];
    find_own_folder(folder);
    snprintf(marker, sizeof(marker), "%s/../pyvenv.cfg", folder);
    return strchr(name, '/') == NULL && access(marker, F_OK) == 0
        && snprintf(path, PATH_MAX, "%s/%s", folder, name) < PATH_MAX
        && access(path, X_OK) == 0;
#else
    (void)name;
    (void)path;
    return 0;
#endif
}

static int
is_program(const char *path)
{
    struct stat status;
    return access(path, X_OK) == 0 && stat(path, &status) == 0 && S_ISREG(status.st_mode);
}

/* Where execvp() would find a program. */
static void
find_program(const char *name, char path[PATH_MAX])
{
    if (find_in_own_environment(name, path)) {
        return;
    }
    if (strchr(name, '/') != NULL) {
        if (access(name, F_OK) != 0) {
            fail(NOT_FOUND, "%s: %s", name, strerror(errno));
        }
        snprintf(path, PATH_MAX, "%s", name);
        return;
    }
    char usual[PATH_MAX] = "";
    confstr(_CS_PATH, usual, sizeof(usual));
    const char *places = getenv("PATH");
    if (places == NULL) {
        places = usual;
    }
    for (;; places++) {         /* an empty place is the current folder */
        size_t length = strcspn(places, ":");
        snprintf(path, PATH_MAX, "%.*s%s%s", (int)length, places,
                 length > 0 ? "/" : "", name);
        if (is_program(path)) {
            return;
        }
        places += length;
        if (*places == '\0') {
            fail(NOT_FOUND, "%s: not found in PATH", name);
        }
    }
}

struct file {
    const char *bytes;
    size_t size;
};

static struct file
map_file(const char *path)
{
    struct file file = {"", 0};
    struct stat status;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &status) < 0) {
        fail(CANNOT_RUN, "%s: %s", path, strerror(errno));
    }
    if (!S_ISREG(status.st_mode)) {
        fail(CANNOT_RUN, "%s is not a file", path);
    }
    void *bytes = status.st_size == 0 ? MAP_FAILED : mmap(
        NULL, (size_t)status.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (bytes != MAP_FAILED) {
        file = (struct file){bytes, (size_t)status.st_size};
    }
    close(fd);
    return file;
}

static int
contains(struct file file, const char *bytes, size_t size)
{
    return memmem(file.bytes, file.size, bytes, size) != NULL;
}

/* Programs that are always at the same place, which is a low one, as Debian's interpreters. */
static int is_at_fixed_place;

static void
check_elf(const char *path, struct file file)
{
    ElfW(Ehdr) header;
    struct file self = map_file("/proc/self/exe");
    if (file.size < sizeof(header)) {
        fail(CANNOT_RUN, "%s is not a CPython: it is no program at all", path);
    }
    memcpy(&header, file.bytes, sizeof(header));
    ElfW(Ehdr) own;
    memcpy(&own, self.bytes, sizeof(own));
    if (memcmp(header.e_ident, own.e_ident, EI_VERSION) != 0
        || header.e_machine != own.e_machine)
    {
        fail(CANNOT_RUN, "%s is for another type of machine (ELF class %d, machine "
             "%d; this one: %d, %d)", path, header.e_ident[EI_CLASS],
             header.e_machine, own.e_ident[EI_CLASS], own.e_machine);
    }
    is_at_fixed_place = header.e_type == ET_EXEC;
    int is_dynamic = 0;
    for (unsigned i = 0; i < header.e_phnum; i++) {
        ElfW(Phdr) segment;
        size_t offset = header.e_phoff + i * sizeof(segment);
        if (offset + sizeof(segment) <= file.size) {
            memcpy(&segment, file.bytes + offset, sizeof(segment));
            is_dynamic |= segment.p_type == PT_INTERP;
        }
    }
    /* Names in its string table: what it exports, and what it is linked with. */
    if (!contains(file, "\0PyMem_SetAllocator", 20)
        && !contains(file, "\0libpython3", 11))
    {
        fail(CANNOT_RUN, "%s is not a CPython: it exports no PyMem_SetAllocator, "
             "and is not linked with libpython3", path);
    }
    if (!is_dynamic) {
        fail(CANNOT_RUN, "%s is linked statically: nothing can be loaded into it",
             path);
    }
}

static const char *
base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash != NULL ? slash + 1 : path;
}

static int
is_shell(const char *path)
{
    const char *name = base_name(path);
    return strcmp(name, "sh") == 0 || strcmp(name, "bash") == 0
        || strcmp(name, "dash") == 0 || strcmp(name, "zsh") == 0;
}

/* The program that env is to run, by its arguments in the first line of a script; NULL
 * where that is too much to know: variables, quotes. */
static const char *
program_of_env(char *arguments)
{
    for (char *word = strtok(arguments, " \t"); word != NULL; word = strtok(NULL, " \t")) {
        if (strpbrk(word, "\"'\\$") != NULL) {
            return NULL;
        }
        if (strcmp(word, "-S") == 0 || strcmp(word, "--split-string") == 0
            || strcmp(word, "-i") == 0 || strcmp(word, "-") == 0
            || strcmp(word, "-v") == 0 || strncmp(word, "--unset=", 8) == 0
            || (word[0] != '-' && strchr(word, '=') != NULL))
        {
            continue;
        }
        if (strcmp(word, "-u") == 0 || strcmp(word, "-C") == 0) {
            strtok(NULL, " \t");
        }
        else if (strncmp(word, "-S", 2) == 0) {
            return word + 2;                /* -Spython3 */
        }
        else {
            return word[0] != '-' ? word : NULL;
        }
    }
    return NULL;
}

static int check_program(const char *name, int depth);

/* What the first line of a script leads to.  Where a shell's script leads only it
 * knows. */
static void
check_script(const char *path, struct file file, int depth)
{
    char line[PATH_MAX];
    size_t length = file.size - 2 < sizeof(line) - 1 ? file.size - 2
                                                    : sizeof(line) - 1;
    memcpy(line, file.bytes + 2, length);
    line[length] = '\0';
    line[strcspn(line, "\n")] = '\0';
    char *interpreter = line + strspn(line, " \t");
    char *arguments = interpreter + strcspn(interpreter, " \t");
    if (*arguments != '\0') {
        *arguments++ = '\0';
    }
    if (depth > 4) {
        fail(CANNOT_RUN, "%s: scripts that are run by scripts without end", path);
    }
    const char *program = strcmp(base_name(interpreter), "env") == 0
        ? program_of_env(arguments) : interpreter;
    if (program != NULL && !is_shell(program)) {
        check_program(program, depth + 1);
    }
}

/* A program, or a script that leads to one; whether it is the program itself. */
static int
check_program(const char *name, int depth)
{
    char path[PATH_MAX];
    find_program(name, path);
    struct file file = map_file(path);
    if (file.size >= 2 && memcmp(file.bytes, "#!", 2) == 0) {
        check_script(path, file, depth);
        return 0;
    }
    if (file.size < SELFMAG || memcmp(file.bytes, ELFMAG, SELFMAG) != 0) {
        fail(CANNOT_RUN, "%s is not a CPython: it is neither a program nor a "
             "script with a first line #!", path);
    }
    check_elf(path, file);
    return 1;
}

/* Beside this program in a build, or where it was installed; PYTHON_VERSION: by pip, into
 * the folders of that version. */
static void
find_preload(char path[PATH_MAX])
{
    char self[PATH_MAX];
    find_own_folder(self);
    static const char *const places[] = {
        "%s/.libs/pymem-preload.so", "%s/pymem-preload.so",
#ifdef PYTHON_VERSION
        "%s/../lib/python" PYTHON_VERSION "/site-packages/pymem/pymem-preload.so",
        "%s/../lib/python" PYTHON_VERSION "/dist-packages/pymem/pymem-preload.so",
        "%s/../lib64/python" PYTHON_VERSION "/site-packages/pymem/pymem-preload.so",
        "%s/../pymem/pymem-preload.so",         /* pip install --target */
#endif
        "%s/../lib/pymem/pymem-preload.so"};
    for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
        char candidate[2 * PATH_MAX];
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
        snprintf(candidate, sizeof(candidate), places[i], self);
#pragma GCC diagnostic pop
        if (realpath(candidate, path) != NULL) {
            return;
        }
    }
    if (access(PKGLIBDIR "/pymem-preload.so", R_OK) != 0) {
        fail(CANNOT_RUN, PKGLIBDIR "/pymem-preload.so is missing: pymem is not "
             "installed whole");
    }
    strcpy(path, PKGLIBDIR "/pymem-preload.so");
}

/* The same library, for an interpreter that is always at the same low place: it is loaded
 * near to that.  A processor that keeps the targets of branches in few bits takes each call
 * from one end of the address space to the other four cycles longer.  Where the interpreter's
 * place is foretold the library's may be, but not the one that hardens. */
static void
find_near(const char *preload, char near[PATH_MAX])
{
    snprintf(near, PATH_MAX, "%.*s-near.so", (int)(strlen(preload) - strlen(".so")), preload);
}

static int
suits_near(const char *near, const char *flags)
{
    return is_at_fixed_place && strchr(flags, 'H') == NULL && access(near, R_OK) == 0;
}

static void
add_to_list(const char *name, const char *word)
{
    if (wordlist_add(name, word) < 0) {
        fail(CANNOT_RUN, "%s: %s", name, strerror(errno));
    }
}

/* The dynamic linker takes a space for the end of a path here, but not in the list of
 * folders where it looks for a name. */
static void
preload_library(const char *flags)
{
    char far[PATH_MAX], near[PATH_MAX], path[PATH_MAX];
    find_preload(far);
    find_near(far, near);
    strcpy(path, suits_near(near, flags) ? near : far);
    wordlist_remove_library(far);       /* if this program runs another, one of them */
    wordlist_remove_library(near);
    if (strpbrk(path, ":;") != NULL) {
        fail(CANNOT_RUN, "%s: a path with a colon or a semicolon can't be loaded before "
             "a program", path);
    }
    if (strchr(path, ' ') == NULL) {
        add_to_list("LD_PRELOAD", path);
        return;
    }
    add_to_list("LD_PRELOAD", base_name(path));
    path[base_name(path) - path - 1] = '\0';
    add_to_list("LD_LIBRARY_PATH", path);
}

/* Where "-m pymem" or "-mpymem" stands in the arguments of an interpreter; NULL: nowhere. */
static char **
find_pymem_module(char **argument)
{
    for (; *argument != NULL && **argument == '-'; argument++) {
        if (strcmp(*argument, "-mpymem") == 0
            || (strcmp(*argument, "-m") == 0 && argument[1] != NULL
                && strcmp(argument[1], "pymem") == 0))
        {
            return argument;
        }
        if (strncmp(*argument, "-m", 2) == 0 || strncmp(*argument, "-c", 2) == 0
            || strcmp(*argument, "-") == 0 || strcmp(*argument, "--") == 0)
        {
            return NULL;
        }
        int has_value = strcmp(*argument, "-X") == 0 || strcmp(*argument, "-W") == 0
            || strcmp(*argument, "--check-hash-based-pycs") == 0;
        argument += has_value && argument[1] != NULL;
    }
    return NULL;
}

/* In place of "-m pymem" a file of the package, which finds it: this interpreter need not. */
static void
lend_package(char **arguments)
{
    static const char *const places[] = {
        "%s/runchild.py",                       /* by pip */
        "%s/../pymem/runchild.py",              /* in a build */
        "%s/python/pymem/runchild.py"};         /* by make install */
    static char path[2 * PATH_MAX];
    char folder[PATH_MAX];
    char **at = find_pymem_module(arguments);
    find_preload(folder);
    *strrchr(folder, '/') = '\0';
    for (size_t i = 0; at != NULL && i < sizeof(places) / sizeof(places[0]); i++) {
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
        snprintf(path, sizeof(path), places[i], folder);
#pragma GCC diagnostic pop
        if (access(path, R_OK) == 0) {
            if (strcmp(*at, "-m") == 0) {       /* two words */
                for (char **word = at; *word != NULL; word++) {
                    word[0] = word[1];
                }
            }
            *at = path;
            return;
        }
    }
}

/* The program may go elsewhere before it writes. */
static void
set_json_path(const char *name)
{
    char *folder = *name == '/' ? NULL : realpath(".", NULL);
    char whole[2 * PATH_MAX];
    snprintf(whole, sizeof(whole), "%s%s%s", folder != NULL ? folder : "",
             folder != NULL ? "/" : "", name);
    setenv("PYMEM_RUN_STATS_JSON", whole, 1);
    free(folder);
}

static int
is_medium_choice(const char *choice)
{
    return strcmp(choice, "pools") == 0 || strcmp(choice, "malloc") == 0;
}

static void
set_medium(const char *choice)
{
    if (!is_medium_choice(choice)) {
        fail(BAD_OPTIONS, "--medium takes pools or malloc, not \"%s\"", choice);
    }
    setenv("PYMEM_MEDIUM", choice, 1);
}

static void
set_keep(const char *size)
{
    if (keepsize_parse(size) == SIZE_MAX) {
        fail(BAD_OPTIONS, "--keep takes " KEEPSIZE_IS ", not \"%s\"", size);
    }
    setenv("PYMEM_KEEP", size, 1);
}

static void
set_hardened(const char *parts)
{
    if (parts != NULL) {
        setenv("PYMEM_HARDENED", parts, 1);
    }
}

/* A wrong one would end the program at its first request. */
static void
check_variables(void)
{
    const char *medium = getenv("PYMEM_MEDIUM");
    if (medium != NULL && *medium != '\0' && !is_medium_choice(medium)) {
        fail(CANNOT_RUN, "PYMEM_MEDIUM is pools or malloc, not \"%s\"", medium);
    }
    const char *keep = getenv("PYMEM_KEEP");
    if (keep != NULL && *keep != '\0' && keepsize_parse(keep) == SIZE_MAX) {
        fail(CANNOT_RUN, "PYMEM_KEEP is " KEEPSIZE_IS ", not \"%s\"", keep);
    }
}

static double
read_seconds(const char *text)
{
    char *end;
    double seconds = strtod(text, &end);
    switch (*end) {
    case 's': end++; break;
    case 'm': end++; seconds *= 60; break;
    case 'h': end++; seconds *= 3600; break;
    }
    if (end == text || *end != '\0' || !(seconds >= 0.001 && seconds <= 1e6)) {
        fail(BAD_OPTIONS, "--trim-interval takes seconds, 0.001 to 1000000, or 90s, 5m, 1h, "
             "not \"%s\"", text);
    }
    return seconds;
}

/* What PYMEM_RUN says of the options (Programs/preload.c). */
struct told {
    char flags[16];
    double trim_seconds;
};

static void
add_flag(struct told *told, char flag)
{
    size_t length = strlen(told->flags);
    if (strchr(told->flags, flag) != NULL) {
        fail(BAD_OPTIONS, "each option once");
    }
    told->flags[length] = flag;
}

static struct told
read_options(int argc, char **argv)
{
    enum { RAW = 256, DEBUG, HARDENED, HUGEPAGES, MMAP_ONLY, MEDIUM, KEEP, TRIM, STATS, JSON,
           NO_CHILDREN, VERSION };
    static const struct option options[] = {
        {"raw", no_argument, NULL, RAW},
        {"debug", no_argument, NULL, DEBUG},
        {"hardened", optional_argument, NULL, HARDENED},
        {"hugepages", no_argument, NULL, HUGEPAGES},
        {"mmap-only", no_argument, NULL, MMAP_ONLY},
        {"medium", required_argument, NULL, MEDIUM},
        {"keep", required_argument, NULL, KEEP},
        {"trim-interval", required_argument, NULL, TRIM},
        {"stats", no_argument, NULL, STATS},
        {"stats-json", required_argument, NULL, JSON},
        {"no-children", no_argument, NULL, NO_CHILDREN},
        {"version", no_argument, NULL, VERSION},
        {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0}};
    struct told told = {"c", 0};
    int option;
    while ((option = getopt_long(argc, argv, "+h", options, NULL)) != -1) {
        switch (option) {
        case RAW: add_flag(&told, 'r'); break;
        case DEBUG: add_flag(&told, 'd'); break;
        case HARDENED: add_flag(&told, 'H'); set_hardened(optarg); break;
        case HUGEPAGES: add_flag(&told, 'h'); break;
        case MMAP_ONLY: add_flag(&told, 'm'); break;
        case MEDIUM: set_medium(optarg); break;
        case KEEP: set_keep(optarg); break;
        case TRIM: told.trim_seconds = read_seconds(optarg); break;
        case STATS: add_flag(&told, 's'); break;
        case JSON: set_json_path(optarg); break;
        case NO_CHILDREN: told.flags[0] = '-'; break;
        case VERSION: puts("pymem-run " PACKAGE_VERSION_TEXT); exit(0);
        case 'h': fputs(usage, stdout); exit(0);
        default: exit(BAD_OPTIONS);
        }
    }
    if (optind == argc) {
        fputs(usage, stderr);
        exit(BAD_OPTIONS);
    }
    return told;
}

int
main(int argc, char **argv)
{
    unsetenv("PYMEM_RUN_STATS_JSON");
    struct told told = read_options(argc, argv);
    check_variables();
    char path[PATH_MAX];
    if (find_in_own_environment(argv[optind], path)) {
        argv[optind] = path;
    }
    if (check_program(argv[optind], 0)) {
        lend_package(argv + optind + 1);
    }
    preload_library(told.flags);
    char text[100];
    snprintf(text, sizeof(text), "%d -%s %ld", (int)getpid(), told.flags,
             (long)(told.trim_seconds * 1000));
    setenv("PYMEM_RUN", text, 1);
    execvp(argv[optind], argv + optind);
    fail(CANNOT_RUN, "%s: %s", argv[optind], strerror(errno));
}
