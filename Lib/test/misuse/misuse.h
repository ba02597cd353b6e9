/* What the programs that misuse memory have in common: domains, places, and how they end.
 *
 *     frees.c     blocks that are freed twice, from inside, or that are none
 *     writes.c    writes behind a block, into a freed block, off the pages of a large block
 *     legal.c     what no allocator may stop
 *     attacks.c   misuse with an aim: tries to get something out of the allocator
 *     places.c    the end of a program in a thread, an interpreter or a child
 *     module.c    the extension module _misuse: runs one of them by its name
 *
 * table.py says what each program does and how it must end. */

#ifndef MISUSE_H
#define MISUSE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>

struct domain {
    void *(*malloc)(size_t);
    void *(*calloc)(size_t, size_t);
    void *(*realloc)(void *, size_t);
    void (*free)(void *);
};

/* How a program runs: the domain that serves its blocks, the domain that it misuses,
 * the size of its blocks, and the place of the last act. */
struct how {
    const struct domain *first, *second;
    size_t size;
    int place;
    int needs_no_gil;       /* in a thread: blocks of the raw domain */
};

enum { HERE, THREAD, INTERPRETER, CHILD };

/* Every access is made: the compiler knows that a freed block is nobody's. */
typedef volatile unsigned char byte;
typedef volatile uintptr_t word;

/* The word at a place that is aligned for one. */
static inline word *
word_at(volatile void *place)
{
    return place;
}

struct program {
    const char *name;
    void (*run)(const struct how *);
};
extern const struct program free_programs[], write_programs[], legal_programs[];

/* An attack gets what it wants, or does not.  The seed changes what lies around. */
struct attack {
    const char *name;
    int (*run)(const struct domain *, size_t size, unsigned seed);
};
extern const struct attack attacks[];
/* Memory that children of one parent share. */
extern void **told_by_sibling;

/* A program that finds something wrong by itself ends with this status, and a line. */
#define WRONG 3
extern void need(int condition, const char *what);

/* For a program whose place is an interpreter. */
extern void make_interpreter(void);
/* Run act(how, block) where the program's last act belongs. */
extern void run_in_place(const struct how *how, void (*act)(const struct how *, void *),
                         void *block);

/* A block of the first domain, written from end to end. */
extern byte *take(const struct how *how);
/* The last acts that most programs have. */
extern void free_second(const struct how *how, void *block);
extern void free_in_place(const struct how *how, byte *block);
/* realloc in the second domain. */
extern void grow(const struct how *how, void *block);
extern void shrink(const struct how *how, void *block);
extern void keep_size(const struct how *how, void *block);
extern void resize_to_zero(const struct how *how, void *block);

#endif
