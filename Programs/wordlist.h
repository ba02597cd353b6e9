/* Lists of words in the environment, with a colon between two: LD_PRELOAD, LD_LIBRARY_PATH. */

#ifndef PYMEM_WORDLIST_H
#define PYMEM_WORDLIST_H

/* Put a word behind what a list has: what is there comes first, as without us.  -1: no
 * memory. */
int wordlist_add(const char *name, const char *word);

/* Take a word out, once; a list without words goes.  Nothing where it is not there. */
void wordlist_remove(const char *name, const char *word);

/* The same for a library in LD_PRELOAD, by its path, or by its name: where its path has a
 * space. */
void wordlist_remove_library(const char *path);

#endif /* !PYMEM_WORDLIST_H */
