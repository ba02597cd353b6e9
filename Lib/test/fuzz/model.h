/* A model of what an allocator owes: a program of random steps runs on the
 * library, and the model knows of every block that lives its size, what is in it
 * and whether it is traced, and after each program the counts: blocks, traced
 * bytes, arenas.  A promise that is broken ends the process with its name. */

#ifndef PYMEM_FUZZ_MODEL_H
#define PYMEM_FUZZ_MODEL_H

#include "Python.h"

/* A program: any number of model_step() between model_begin() and model_end(),
 * which frees what lives and takes off every hook.  The setting says what is put
 * on at the start: hooks that pass calls on, an arena allocator that does, and
 * above these the debug hooks. */
#define MODEL_HOOK_RAW 1u
#define MODEL_HOOK_ALL 2u
#define MODEL_HOOK_ARENAS 4u
#define MODEL_DEBUG 8u
void model_begin(unsigned setting);
void model_end(void);

/* What is done, to which block and with which size. */
void model_step(unsigned what, unsigned a, unsigned b);

/* After so many calls of the hook of the raw domain, of the arena allocator and of
 * what the library asks of the system (system.c) the next n fail; how many did. */
#define MODEL_RAW 1u
#define MODEL_ARENAS 2u
#define MODEL_SYSTEM 4u
void model_fail(unsigned of, unsigned calls_before, unsigned n);
unsigned model_failures(void);

/* For system.c: is it the turn of a call to fail? */
int model_fails_now(unsigned what);

/* Pseudo-random bytes; the state goes on. */
void model_random_program(uint64_t *state, uint8_t *program, size_t size);

#endif
