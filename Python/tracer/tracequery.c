/* The tracer's answers to questions: stacks, names, sums, all traces.
 *
 * Owns nothing; each function takes the tracer's lock (tracelock.c) around what it reads
 * of traceblocks.c and tracestacks.c. */

#include "pycore_traceblocks.h"
#include "pycore_tracelock.h"

#include <stdlib.h>
#include <string.h>

unsigned
tracer_stack_length(stack_id id, unsigned *total)
{
    tracer_lock();
    unsigned length = stack_length(id, total);
    tracer_unlock();
    return length;
}

void
tracer_stack_frames(stack_id id, struct trace_frame *frames,
                    unsigned max_frames)
{
    tracer_lock();
    stack_frames(id, frames, max_frames);
    tracer_unlock();
}

struct trace_name
tracer_name(uint32_t number)
{
    tracer_lock();
    struct trace_name name = stack_name(number);
    tracer_unlock();
    return name;
}

const void *
tracer_address(uint32_t number)
{
    tracer_lock();
    const void *address = stack_address(number);
    tracer_unlock();
    return address;
}

void
tracer_stack_counts(uint32_t *nstacks, size_t *nnames)
{
    tracer_lock();
    *nstacks = stacks_count();
    *nnames = stacks_name_count();
    tracer_unlock();
}

void
tracer_memory(size_t *current, size_t *peak)
{
    tracer_lock();
    blocks_memory(current, peak);
    tracer_unlock();
}

void
tracer_reset_peak(void)
{
    tracer_lock();
    blocks_reset_peak();
    tracer_unlock();
}

void
tracer_keep_peak(size_t from)
{
    tracer_lock();
    blocks_keep_peak(from);
    tracer_unlock();
}

int
tracer_peak_snapshot(struct trace **traces, size_t *ntraces)
{
    tracer_lock();
    const struct trace *kept = blocks_at_peak(ntraces);
    *traces = malloc((*ntraces + 1) * sizeof(**traces));
    if (*traces != NULL && *ntraces > 0) {
        memcpy(*traces, kept, *ntraces * sizeof(**traces));
    }
    tracer_unlock();
    return *traces != NULL ? 0 : -1;
}

int
tracer_snapshot(struct trace **traces, size_t *ntraces)
{
    tracer_lock();
    *ntraces = blocks_count();
    *traces = malloc((*ntraces + 1) * sizeof(**traces));
    if (*traces != NULL) {
        blocks_copy(*traces);
    }
    tracer_unlock();
    return *traces != NULL ? 0 : -1;
}

void
tracer_release(struct trace *traces)
{
    free(traces);
}
