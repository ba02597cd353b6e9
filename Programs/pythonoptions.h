/* What the command line of a python says (Programs/pythonoptions.c). */

#ifndef PYMEM_PYTHONOPTIONS_H
#define PYMEM_PYTHONOPTIONS_H

struct python_options {
    int ignores_environment;    /* -E, -I */
    int is_dev;                 /* -X dev */
};

/* By CPython's own rules, for the arguments behind the program's name. */
struct python_options python_options_read(char **arguments);

#endif /* !PYMEM_PYTHONOPTIONS_H */
