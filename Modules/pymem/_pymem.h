/* What the parts of the module _pymem know of each other. */

#ifndef PYMEM_MODULE_H
#define PYMEM_MODULE_H

#include <stddef.h>
#include <stdint.h>

/* Hooks on the mem and object domains (Modules/pymem/_pymemhooks.c), for the interpreter that
 * the calling thread is in.  With its GIL held. */

struct hook_counts {
    uint64_t requests;          /* malloc, calloc, realloc; */
    uint64_t bytes;             /* asked for by them */
    uint64_t frees;
};

/* Count from now on; 0, or -1 where it is on already, or there is no memory. */
int hooks_count(void);
/* Put the allocators back that were there, unless somebody set others since, and
 * count no more. */
void hooks_stop(struct hook_counts *counts);

/* What a trace would have come to with other numbers (Modules/pymem/_pymemreplay.c). */

struct replay_geometry {
    unsigned arena_bits, pool_bits;
    unsigned alignment, threshold;      /* bytes */
    unsigned overhead;                  /* bytes at the front of a pool */
    unsigned kept_arenas;               /* empty ones that stay */
};

struct replay_sample {
    uint64_t call;                      /* after so many calls */
    uint64_t live, small_live;          /* bytes asked for: all, small blocks */
    uint64_t pools, arenas, bought;     /* pools in use; arenas now, and ever */
};

/* How many samples there are, the last after the last call; 0 with *fault set where the
 * trace can't be played.  Without the GIL. */
int replay_simulate(const uint8_t *trace, size_t length,
                    const struct replay_geometry *geometry,
                    struct replay_sample *samples, unsigned nsamples,
                    const char **fault);

#endif /* !PYMEM_MODULE_H */
