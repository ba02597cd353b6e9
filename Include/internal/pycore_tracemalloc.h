/* The allocation tracer: which blocks are alive, how large they are, and by
 * which calls they came to be.
 *
 *   Python/tracer/tracemalloc.c    hooks on the domains; capture of the caller's stack
 *   Python/tracer/traceblocks.c    traces by block
 *   Python/tracer/tracestacks.c    call stacks, each kept once
 *   Python/tracer/tracedump.c      one of them as text
 *   Python/tracer/tracequery.c     what is known, with the lock
 *   Python/tracer/tracetables.c    the two kinds of hash table they need
 *
 * It knows no Python object.  The frames of a thread come from a frame source:
 * CPython's in a substitute (Python/tracer/abi/), native ones in the
 * standalone library (Python/tracer/nativeframes.c).  Those two include this header
 * beside headers of others, so it needs none of ours, nor has CPython's guard. */

#ifndef PYMEM_INTERNAL_TRACEMALLOC_H
#define PYMEM_INTERNAL_TRACEMALLOC_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#  pragma GCC visibility push(hidden)
#endif

/* -- frame sources ---------------------------------------------------------- */

/* A place in a program: an instruction, or whatever no other instruction has,
 * and the block that holds its code, until whose end the place means the same;
 * NULL for code that is never freed. */
struct trace_place {
    const void *instruction;
    const void *code;
};

/* Of a place that is an instruction of the machine, and stays an address. */
#define NATIVE_CODE ((const void *)-1)

/* A name of a file or a function: characters of 1, 2 or 4 bytes each, as str keeps
 * them. */
struct trace_name {
    const void *characters;
    size_t length;              /* in characters */
    unsigned kind;              /* 1, 2 or 4 */
};

/* The frame that runs and its instruction. */
struct trace_position {
    const void *frame;
    const void *instruction;
};

struct trace_source {
    /* The frames of the calling thread, the most recent first: at most
     * max_places of them, how many of those; and how many there are in all.
     * Called without any lock but the tracer's; must not allocate.  With the GIL
     * the thread is easier to find. */
    unsigned (*capture)(struct trace_place *places, unsigned max_places,
                        unsigned *total, int has_gil);
    /* Where the calling thread, which holds the GIL, is: the first frame of
     * capture().  May be NULL. */
    void (*position)(struct trace_position *position);
    /* The name of a place.  NULL: places stay addresses until they are
     * printed. */
    void (*describe)(const struct trace_place *place, struct trace_name *file,
                     unsigned *line);
    /* The name of its function.  NULL: functions have none. */
    void (*name_function)(const struct trace_place *place, struct trace_name *name);
    /* Without describe: the text of a line about a place, as much as there is room for. */
    void (*name_place)(char *text, size_t size, const void *instruction);
    /* How a dump writes names of files: by their characters, or as CPython 3.15 by
     * the bytes of their UTF-8.  It cuts at 500 of them. */
    int names_are_utf8;
};

/* -- call stacks ------------------------------------------------------------- */

typedef uint32_t stack_id;              /* 0: none */

/* The stack of a block that is traced but not shown: it is not counted, listed or
 * found, until an object in it is given out anew. */
#define HIDDEN_STACK ((stack_id)1)

struct trace_frame {
    uint32_t file;              /* 0: line is the number of an address */
    uint32_t line;
    uint32_t function;          /* its name, numbered as files are; 0: not known */
};

#define MAX_TRACE_FRAMES 65535

/* Everything that is known of stacks; lock held. */
stack_id stack_capture(const struct trace_source *source, unsigned max_frames,
                       int has_gil);
int stack_forget_code(const void *block);       /* 1 if any of it was known */
void stacks_forget_places(void);
void stacks_clear(void);
uint32_t stacks_count(void);            /* ids are below this */
size_t stacks_name_count(void);

/* A stack that was captured: how many frames it has, how many there were, and
 * the frames, the most recent first.  The name of a file or a function, from 1 on. */
unsigned stack_length(stack_id id, unsigned *total);
void stack_frames(stack_id id, struct trace_frame *frames, unsigned max_frames);
struct trace_name stack_name(uint32_t number);
const void *stack_address(uint32_t number);

/* Write a stack to a file descriptor; without a source, how to get one. */
void stack_dump(int fd, const struct trace_source *source, stack_id id);

/* -- traces ------------------------------------------------------------------ */

struct trace {
    uintptr_t ptr;
    size_t size;
    unsigned domain;
    stack_id stack;
};

/* The tracer as its users see it; these take the lock (pycore_tracelock.h). */

/* All of max_frames frames; with sample_bytes only a sample for each so many
 * bytes on average, whose sizes are estimates, always the same ones for a seed
 * that is not 0.  -1: no memory. */
int tracer_start(const struct trace_source *source, unsigned max_frames,
                 size_t sample_bytes, uint64_t seed);
void tracer_stop(void);
int tracer_is_tracing(void);
unsigned tracer_max_frames(void);
size_t tracer_sample_bytes(void);
void tracer_clear(void);
void tracer_reset_peak(void);
void tracer_keep_peak(size_t from);     /* blocks_keep_peak(); until the stop */
void tracer_memory(size_t *current, size_t *peak);
size_t tracer_own_memory(void);

/* While a stack is captured: where the API's function returns to. */
const void *tracer_caller(void);

/* A traced block got a new owner: it has the stack of now.  With the GIL. */
void tracer_renew(uintptr_t ptr);

/* The trace of a block: 1, or 0 if there is none. */
int tracer_find(unsigned domain, uintptr_t ptr, struct trace *trace);

/* Between these two ids of stacks and numbers of names stay valid, though the
 * traces may be cleared and tracing stopped.  They count. */
void tracer_hold_stacks(void);
void tracer_let_stacks_go(void);
unsigned tracer_stack_length(stack_id id, unsigned *total);
void tracer_stack_frames(stack_id id, struct trace_frame *frames,
                         unsigned max_frames);
struct trace_name tracer_name(uint32_t number);
const void *tracer_address(uint32_t number);
void tracer_stack_counts(uint32_t *nstacks, size_t *nnames);

/* All traces at this moment, in memory for tracer_release(); -1 no memory. */
int tracer_snapshot(struct trace **traces, size_t *ntraces);
/* The same of the peak, as far as they are kept. */
int tracer_peak_snapshot(struct trace **traces, size_t *ntraces);
void tracer_release(struct trace *traces);

/* Between the two what this thread allocates is not shown; tracer_show() gets what
 * tracer_hide() gave.  Where such a block reaches a free list, the object that is
 * made of it later is traced. */
int tracer_hide(void);
void tracer_show(int before);

#if defined(__GNUC__)
#  pragma GCC visibility pop
#endif

#endif /* !PYMEM_INTERNAL_TRACEMALLOC_H */
