/* Traces by block: Python/tracer/traceblocks.c.  With the tracer's lock held. */

#ifndef Py_INTERNAL_TRACEBLOCKS_H
#define Py_INTERNAL_TRACEBLOCKS_H

#include "pycore_tracemalloc.h"

/* Make sure that one trace can be stored, whatever block it is of; -1: no
 * memory. */
int blocks_reserve(void);

/* Store a trace, in place of an older one of the block; there must be room.
 * A size that is an estimate is not the block's own. */
void block_store(const struct trace *trace, int is_estimate);

/* Fill in what is known of a block, by its domain and ptr; 0 if nothing is. */
int block_find(struct trace *trace);

/* The same, and forget it. */
int block_drop(struct trace *trace);

/* A block of Python's own is freed: also what is known of it as code.  The stack
 * it had, or 0. */
stack_id block_freed(uintptr_t ptr);

/* The block that holds a code: of a small one its start, as hooks above the tracer
 * may keep something in front of the code. */
const void *block_holding(const void *code);

/* From now on stack_forget_code() is told when this block is freed; -1: no
 * memory. */
int block_watch(const void *start, int is_watched);

/* How many blocks there are of which something is known, for each 16 KiB of
 * addresses (and others that share the place): kept while samples are traced.
 * Then nearly all places are 0, and that is all that free() looks at.  Needs no lock for a
 * block that the caller owns. */
#define TRACE_FILTER_SIZE 16384u
extern uint16_t trace_filter[TRACE_FILTER_SIZE];
void blocks_use_filter(int on);

static inline uint16_t *
trace_filter_count(uintptr_t ptr)
{
    return &trace_filter[ptr >> 14 & (TRACE_FILTER_SIZE - 1)];
}

void blocks_clear(void);
size_t blocks_count(void);
void blocks_copy(struct trace *traces);
void blocks_memory(size_t *current, size_t *peak);
void blocks_reset_peak(void);

/* Begin the peak anew, and keep the traces of it where it is at least so many bytes;
 * SIZE_MAX: keep none.  Those kept are of a moment with at most a sixteenth less. */
void blocks_keep_peak(size_t from);
const struct trace *blocks_at_peak(size_t *ntraces);

#endif /* !Py_INTERNAL_TRACEBLOCKS_H */
