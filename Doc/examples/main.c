/* The examples as a program: without arguments all tests, with one a wrong free. */

#include "examples.h"

int
main(int argc, char **argv)
{
    static const struct {
        const char *name;
        const char *(*test)(void);
    } tests[] = {
        {"growable", test_growable}, {"boxed", test_boxed}, {"parser", test_parser},
        {"queue", test_queue}, {"buffers", test_buffers},
    };
    if (argc > 1) {
        free_wrongly(argv[1]);
        return 0;
    }
    int nfailed = 0;
    for (size_t i = 0; i < sizeof(tests) / sizeof(tests[0]); i++) {
        const char *fault = tests[i].test();
        printf("%s: %s\n", tests[i].name, fault == NULL ? "ok" : fault);
        nfailed += fault != NULL;
    }
    return nfailed != 0;
}
