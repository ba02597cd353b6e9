/* Frames of a program without an interpreter: its functions, by their addresses.
 * And what CPython does for the tracer there: start by PYTHONTRACEMALLOC.
 *
 * Stacks are lists of addresses; names are looked for when they are printed. */

#define _GNU_SOURCE     /* dladdr() */
#include "pycore_host.h"
#include "pycore_pymem.h"
#include "pycore_tracemalloc.h"
#include "tracemalloc.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_DEPTH 256

/* On 32-bit ARM the lowest bit of a return address says which instructions are there.  The
 * unwinder leaves it out. */
#ifdef __arm__
#  define WITHOUT_MODE(address) ((const void *)((uintptr_t)(address) & ~(uintptr_t)1))
#else
#  define WITHOUT_MODE(address) (address)
#endif

struct stack {
    unsigned length;
    void *addresses[MAX_DEPTH];
};

/* glibc loads the unwinder where it is needed first; musl leaves it to the program. */
#if __has_include(<execinfo.h>)
#  include <execinfo.h>
static void
unwind(struct stack *stack)
{
    stack->length = (unsigned)backtrace(stack->addresses, MAX_DEPTH);
}
#else
#  include <unwind.h>
static _Unwind_Reason_Code
add_frame(struct _Unwind_Context *frame, void *arg)
{
    struct stack *stack = arg;
    if (stack->length == MAX_DEPTH) {
        return _URC_END_OF_STACK;
    }
    stack->addresses[stack->length++] = (void *)_Unwind_GetIP(frame);
    return _URC_NO_REASON;
}

static void
unwind(struct stack *stack)
{
    stack->length = 0;
    _Unwind_Backtrace(add_frame, stack);
}
#endif

/* The addresses where the calls return to, from the one of the API on: those
 * before it are in the tracer.  A place is the call, so a byte before. */
static unsigned
capture(struct trace_place *places, unsigned max_places, unsigned *total,
        int has_gil)
{
    (void)has_gil;
    struct stack stack;
    const void *caller = WITHOUT_MODE(tracer_caller());
    unwind(&stack);
    unsigned first = 0;
    while (first < stack.length && stack.addresses[first] != caller) {
        first++;
    }
    if (first == stack.length) {
        first = 0;
    }
    unsigned length = 0;
    for (unsigned i = first; i < stack.length && length < max_places; i++) {
        places[length].instruction = (const char *)stack.addresses[i] - 1;
        places[length].code = NULL;
        length++;
    }
    *total = stack.length - first;
    return length;
}

static void
name_place(char *text, size_t size, const void *instruction)
{
    Dl_info info;
    if (dladdr(instruction, &info) == 0) {
        snprintf(text, size, "%p", instruction);
    }
    else if (info.dli_sname != NULL) {
        snprintf(text, size, "File \"%s\", in %s+%td", info.dli_fname,
                 info.dli_sname,
                 (const char *)instruction - (const char *)info.dli_saddr);
    }
    else {
        snprintf(text, size, "File \"%s\", at offset %#tx", info.dli_fname,
                 (const char *)instruction - (const char *)info.dli_fbase);
    }
}

static const struct trace_source native_frames = {
    .capture = capture, .name_place = name_place
};

int
_PyTraceMalloc_Start(int max_nframe)
{
    if (max_nframe < 1 || max_nframe > MAX_TRACE_FRAMES) {
        return -1;
    }
    struct stack stack;
    unwind(&stack);     /* the first time it allocates */
    return tracer_start(&native_frames, (unsigned)max_nframe, 0, 0);
}

void
_PyTraceMalloc_Stop(void)
{
    tracer_stop();
}

int
_PyTraceMalloc_IsTracing(void)
{
    return tracer_is_tracing();
}

void
_PyTraceMalloc_GetTracedMemory(size_t *current, size_t *peak)
{
    *current = *peak = 0;
    if (tracer_is_tracing()) {
        tracer_memory(current, peak);
    }
}

/* After PYTHONMALLOC is in force (Python/host/host.c calls this). */
void _PyTraceMalloc_StartFromEnvironment(void);
void
_PyTraceMalloc_StartFromEnvironment(void)
{
    const char *value = Py_GETENV("PYTHONTRACEMALLOC");
    if (value == NULL || *value == '\0') {
        return;
    }
    char *end;
    errno = 0;
    long n = strtol(value, &end, 10);
    if (*end != '\0' || errno != 0 || n < 0 || n > MAX_TRACE_FRAMES) {
        _Py_FatalErrorFormat(__func__, "PYTHONTRACEMALLOC: \"%s\" is no number "
                             "of frames; 1 to %d, or 0 for no tracing", value,
                             MAX_TRACE_FRAMES);
    }
    if (n > 0) {
        _PyTraceMalloc_Start((int)n);
    }
}
