/* The cores of extension modules: C files that use memory and objects as extensions
 * do.  Each is compiled twice, unchanged: with CPython's Python.h into an extension
 * module (module.c), and with pymem's into a program (main.c).
 *
 * A test returns NULL, or what did not hold. */

#ifndef EXAMPLES_H
#define EXAMPLES_H

#include <Python.h>

const char *test_growable(void);
const char *test_boxed(void);
const char *test_parser(void);
const char *test_queue(void);
const char *test_buffers(void);

/* Frees a block by the wrong function.  Debug hooks end the program and say which; the
 * one by free() they do not see, and the C library does not survive it. */
void free_wrongly(const char *what);

#define EXAMPLES_TEXT(x) #x
#define EXAMPLES_LINE(x) EXAMPLES_TEXT(x)
#define CHECK(condition)                                                    \
    do {                                                                    \
        if (!(condition)) {                                                 \
            return __FILE__ ":" EXAMPLES_LINE(__LINE__) ": " #condition;    \
        }                                                                   \
    } while (0)

#endif
