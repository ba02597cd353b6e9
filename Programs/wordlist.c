/* See wordlist.h.  Calls nothing of pymem. */

#define _GNU_SOURCE     /* setenv() */
#include "wordlist.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int
wordlist_add(const char *name, const char *word)
{
    const char *before = getenv(name);
    if (before == NULL) {
        return setenv(name, word, 1);
    }
    char *text = malloc(strlen(before) + strlen(word) + 2);
    if (text == NULL) {
        return -1;
    }
    sprintf(text, "%s:%s", before, word);
    int result = setenv(name, text, 1);
    free(text);
    return result;
}

void
wordlist_remove(const char *name, const char *word)
{
    char *list = getenv(name);
    size_t length = strlen(word);
    for (char *at = list; at != NULL && (at = strstr(at, word)) != NULL; at++) {
        if ((at == list || at[-1] == ':')
            && (at[length] == '\0' || at[length] == ':' || at[length] == ' '))
        {
            if (at == list && at[length] == '\0') {
                unsetenv(name);
                return;
            }
            char *begin = at != list ? at - 1 : at;
            char *end = at + length + (at == list);
            memmove(begin, end, strlen(end) + 1);
            return;
        }
    }
}

void
wordlist_remove_library(const char *path)
{
    const char *slash = strrchr(path, '/');
    wordlist_remove("LD_PRELOAD", path);
    if (slash != NULL) {
        wordlist_remove("LD_PRELOAD", slash + 1);
    }
}
