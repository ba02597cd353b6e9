/* What the command line of a python says of the environment and of developer mode.
 *
 * Options are letters, and several may be joined: -bE, -IXdev, -bX dev.  They end with
 * -c, -m, "-", "--", or the first argument that is none.  Calls nothing. */

#include "pythonoptions.h"

#include <string.h>

static int
is_dev(const char *argument)
{
    return strncmp(argument, "dev", 3) == 0
        && (argument[3] == '\0' || argument[3] == '=');
}

/* One argument of letters.  How many arguments it takes, with that of its last
 * letter; 0: the options end here. */
static int
read_letters(char **arguments, struct python_options *options)
{
    for (const char *letter = arguments[0] + 1; *letter != '\0'; letter++) {
        switch (*letter) {
        case 'c':
        case 'm':
            return 0;
        case 'E':
        case 'I':
            options->ignores_environment = 1;
            break;
        case 'W':
        case 'X': {
            const char *value = letter[1] != '\0' ? letter + 1 : arguments[1];
            if (*letter == 'X' && value != NULL) {
                options->is_dev |= is_dev(value);
            }
            return letter[1] != '\0' || value == NULL ? 1 : 2;
        }
        default:
            break;
        }
    }
    return 1;
}

struct python_options
python_options_read(char **arguments)
{
    struct python_options options = {0, 0};
    while (*arguments != NULL && arguments[0][0] == '-' && arguments[0][1] != '\0') {
        int n = 1;
        if (arguments[0][1] != '-') {
            n = read_letters(arguments, &options);
        }
        else if (arguments[0][2] == '\0') {
            n = 0;
        }
        else if (strcmp(arguments[0], "--check-hash-based-pycs") == 0
                 && arguments[1] != NULL)
        {
            n = 2;
        }
        if (n == 0) {
            break;
        }
        arguments += n;
    }
    return options;
}
