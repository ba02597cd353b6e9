/* Slots for the blocks of an allocator that we can't ask.  Part of Python/tracer/traceblocks.c
 * where the tracer is beside another memory subsystem (TRACER_BESIDE).
 *
 * Each allocator for small blocks cuts a run of pages into blocks of one size.  So the
 * addresses tell the pattern: a frame of address space learns it from the first block that
 * is stored there, and corrects it by the second.
 *
 *   frame (16 KiB)    ... | block | block | block | ...    address: base + n * stride
 *   frame_traces          slot 0   slot 1   slot 2
 *
 * An address has at most one slot, and a slot one address: whatever was learned, a trace
 * is found again.  A block that does not fit the pattern goes into the hash table, and
 * where too many do not, no further frame learns anything. */

#ifndef Py_INTERNAL_TRACEFRAMES_H
#define Py_INTERNAL_TRACEFRAMES_H

#include "pycore_virtualmem.h"

/* A pool of the interpreter's pymalloc: 12 before CPython 3.10. */
#ifndef TRACE_FRAME_BITS
#  define TRACE_FRAME_BITS 14
#endif
#define TRACE_FRAME_SIZE ((uint32_t)1 << TRACE_FRAME_BITS)
#define LARGEST_LEARNED 512u            /* bytes: what pymalloc serves */
#define LARGEST_STRIDE 1024u            /* with what hooks below put around it */
#define SMALLEST_STRIDE ((uint32_t)(2 * sizeof(void *)))

#define STACK_BITS 24
#define STACK_MASK (((uint32_t)1 << STACK_BITS) - 1)
#define SHORTAGE_MASK ((uint32_t)127)   /* a realloc may leave a quarter unused */
#define HOLDS_CODE ((uint32_t)1 << 31)

struct frame_traces {
    struct frame_traces *next;      /* of all there are */
    struct frame_traces **link;     /* the pointer to this one */
    uintptr_t base;                 /* of the first block that begins in the frame */
    uint32_t stride;
    uint32_t reciprocal;            /* 2**32 / stride, rounded up */
    uint32_t nslots, room;
    uint32_t nused;                 /* slots that are not 0 */
    uint32_t slots[];
};
static struct frame_traces *all_frame_traces;
static size_t nlearned, nmisfits;   /* stores that had a cause to learn */

#if UINTPTR_MAX > 0xFFFFFFFFu
#  define FRAME_TABLES (1u << 16)       /* user space ends below 2**48 */
#else
#  define FRAME_TABLES 1u
#endif
/* One for each 4 GiB of addresses. */
#define FRAME_TABLE_SIZE \
    (((size_t)1 << (32 - TRACE_FRAME_BITS)) * sizeof(struct frame_traces *))
static struct frame_traces **frame_tables[FRAME_TABLES];

static inline size_t
frame_table_number(uintptr_t address)
{
    return (size_t)((uint64_t)address >> 32);
}

static inline struct frame_traces *
traces_at(uintptr_t address)
{
    size_t n = frame_table_number(address);
    struct frame_traces **table = LIKELY(n < FRAME_TABLES) ? frame_tables[n] : NULL;
    return table != NULL ? table[(uint32_t)address >> TRACE_FRAME_BITS] : NULL;
}

/* Where the pointer to the traces of a frame belongs; NULL: no memory. */
static struct frame_traces **
traces_made_at(uintptr_t address)
{
    size_t n = frame_table_number(address), frame = (uint32_t)address >> TRACE_FRAME_BITS;
    if (n >= FRAME_TABLES) {
        return NULL;
    }
    if (frame_tables[n] == NULL) {
        frame_tables[n] = virtual_reserve(FRAME_TABLE_SIZE, 1);
    }
    return frame_tables[n] != NULL
        && virtual_commit(frame_tables[n], FRAME_TABLE_SIZE,
                          frame * sizeof(struct frame_traces *)) == 0
        ? &frame_tables[n][frame] : NULL;
}

static size_t
frame_traces_size(size_t room)
{
    return sizeof(struct frame_traces) + room * sizeof(uint32_t);
}

/* The slot of the block at an address; NULL where the pattern has none. */
static inline uint32_t *
slot_at(struct frame_traces *traces, uintptr_t ptr)
{
    uint32_t offset = (uint32_t)(ptr - traces->base);
    uint32_t n = (uint32_t)((uint64_t)offset * traces->reciprocal >> 32);
    return LIKELY(n < traces->nslots && n * traces->stride == offset)
        ? &traces->slots[n] : NULL;
}

static inline uint32_t *
slot_of(uintptr_t ptr, struct frame_traces **traces)
{
    *traces = traces_at(ptr);
    return *traces != NULL ? slot_at(*traces, ptr) : NULL;
}

static size_t
slot_size(const struct frame_traces *traces, uint32_t slot)
{
    return traces->stride - (slot >> STACK_BITS & SHORTAGE_MASK);
}

static inline int
size_fits(size_t size, uint32_t stride)
{
    return size <= stride && stride - size <= SHORTAGE_MASK;
}

/* Give a frame the pattern that a block has its place in; all slots are 0.  NULL: no
 * memory. */
static struct frame_traces *
frame_learn(uintptr_t ptr, uint32_t stride)
{
    uint32_t offset = (uint32_t)ptr & (TRACE_FRAME_SIZE - 1);
    uint32_t nslots = (TRACE_FRAME_SIZE - offset % stride + stride - 1) / stride;
    struct frame_traces **place = traces_made_at(ptr);
    if (place == NULL) {
        return NULL;
    }
    struct frame_traces *traces = *place;
    if (traces == NULL || traces->room < nslots) {
        struct frame_traces *larger = tracer_resize(
            traces, traces != NULL ? frame_traces_size(traces->room) : 0,
            frame_traces_size(nslots));
        if (larger == NULL) {
            return NULL;
        }
        if (traces == NULL) {
            larger->next = all_frame_traces;
            larger->link = &all_frame_traces;
        }
        *larger->link = *place = traces = larger;
        if (traces->next != NULL) {
            traces->next->link = &traces->next;
        }
        traces->room = nslots;
    }
    traces->base = ptr - offset + offset % stride;
    traces->stride = stride;
    traces->reciprocal = (uint32_t)(((uint64_t)1 << 32) / stride + 1);
    traces->nslots = nslots;
    traces->nused = 0;
    memset(traces->slots, 0, traces->room * sizeof(uint32_t));
    return traces;
}

static uint32_t
stride_of_size(size_t size)
{
    uint32_t stride = ((uint32_t)size + SMALLEST_STRIDE - 1) & ~(SMALLEST_STRIDE - 1);
    return stride != 0 ? stride : SMALLEST_STRIDE;
}

/* The pattern that two blocks have a place in; 0 where there is none. */
static uint32_t
stride_of_two(uintptr_t a, size_t a_size, uintptr_t b, size_t b_size)
{
    uintptr_t distance = a > b ? a - b : b - a;
    uint32_t stride = stride_of_size(a_size > b_size ? a_size : b_size);
    if (distance % stride != 0) {
        stride = distance > LARGEST_STRIDE || distance % SMALLEST_STRIDE != 0 ? 0
            : (uint32_t)distance;
    }
    return stride != 0 && size_fits(a_size, stride) && size_fits(b_size, stride)
        ? stride : 0;
}

/* One block was there, and another one does not fit. */
static struct frame_traces *
frame_learn_again(struct frame_traces *traces, const struct trace *trace)
{
    uint32_t n = 0;
    while (traces->slots[n] == 0) {
        n++;
    }
    uint32_t slot = traces->slots[n];
    uintptr_t ptr = traces->base + (uintptr_t)n * traces->stride;
    size_t size = slot_size(traces, slot);
    uint32_t stride = ptr != trace->ptr
        ? stride_of_two(ptr, size, trace->ptr, trace->size) : 0;
    traces = stride != 0 ? frame_learn(ptr, stride) : NULL;
    if (traces != NULL) {
        *slot_at(traces, ptr) = (slot & (HOLDS_CODE | STACK_MASK))
            | (uint32_t)(stride - size) << STACK_BITS;
        traces->nused = 1;
    }
    return traces;
}

/* Room for a trace that has none; NULL: there will be none. */
static COLD struct frame_traces *
frame_make_room(struct frame_traces *traces, const struct trace *trace)
{
    if (trace->size > LARGEST_LEARNED || trace->stack > STACK_MASK
        || (nmisfits > 1000 && nmisfits > nlearned))
    {
        return NULL;
    }
    struct frame_traces *learned = traces == NULL || traces->nused == 0
        ? frame_learn(trace->ptr, stride_of_size(trace->size))
        : traces->nused == 1 ? frame_learn_again(traces, trace) : NULL;
    if (learned != NULL) {
        nlearned += learned->nslots / 2;
    }
    else {
        nmisfits++;
    }
    return learned;
}

/* 1 if the trace was stored in a slot. */
static inline int
slot_store(const struct trace *trace)
{
    struct frame_traces *traces;
    uint32_t *slot = slot_of(trace->ptr, &traces);
    if (UNLIKELY(slot == NULL || !size_fits(trace->size, traces->stride)
                 || trace->stack > STACK_MASK))
    {
        traces = frame_make_room(traces, trace);
        slot = traces != NULL ? slot_at(traces, trace->ptr) : NULL;
        if (slot == NULL || !size_fits(trace->size, traces->stride)) {
            return 0;
        }
    }
    if (*slot == 0) {
        traces->nused++;
    }
    else if (*slot & STACK_MASK) {
        memory_subtract(slot_size(traces, *slot), *slot & STACK_MASK);
    }
    *slot = (*slot & HOLDS_CODE)
        | (uint32_t)(traces->stride - trace->size) << STACK_BITS | trace->stack;
    memory_add(trace->size, trace->stack);
    return 1;
}

static int
slot_find(struct trace *trace, int drop)
{
    struct frame_traces *traces;
    uint32_t *slot = slot_of(trace->ptr, &traces);
    if (slot == NULL || (*slot & STACK_MASK) == 0) {
        return 0;
    }
    trace->stack = *slot & STACK_MASK;
    trace->size = slot_size(traces, *slot);
    if (drop) {
        memory_subtract(trace->size, trace->stack);
        *slot &= HOLDS_CODE;
        traces->nused -= *slot == 0;
    }
    return 1;
}

/* 1 if all is done: what has a slot is nowhere else. */
static inline int
slot_freed(uintptr_t ptr, stack_id *stack)
{
    struct frame_traces *traces;
    uint32_t *slot = slot_of(ptr, &traces);
    if (slot == NULL || *slot == 0) {
        return *trace_filter_count(ptr) == 0;
    }
    if (UNLIKELY(*slot & HOLDS_CODE)) {
        stack_forget_code((void *)ptr);
    }
    *stack = *slot & STACK_MASK;
    if (*stack != 0) {
        memory_subtract(slot_size(traces, *slot), *stack);
    }
    *slot = 0;
    traces->nused--;
    return 1;
}

/* Nobody puts a head in front of a block while it is in use. */
const void *
block_holding(const void *code)
{
    return code;
}

/* 1 if the code has a slot, which remembers it. */
static int
slot_watch(const void *start)
{
    struct frame_traces *traces;
    uint32_t *slot = slot_of((uintptr_t)start, &traces);
    if (slot == NULL || *slot == 0) {
        return 0;
    }
    *slot |= HOLDS_CODE;
    return 1;
}

static size_t
slots_copy(struct trace *out)
{
    size_t n = 0;
    for (const struct frame_traces *traces = all_frame_traces; traces != NULL;
         traces = traces->next)
    {
        for (uint32_t i = 0; traces->nused != 0 && i < traces->nslots; i++) {
            uint32_t slot = traces->slots[i];
            if ((slot & STACK_MASK) > HIDDEN_STACK) {
                out[n++] = (struct trace){traces->base + (uintptr_t)i * traces->stride,
                                          slot_size(traces, slot), 0, slot & STACK_MASK};
            }
        }
    }
    return n;
}

static void
slots_clear(void)
{
    while (all_frame_traces != NULL) {
        struct frame_traces *traces = all_frame_traces;
        all_frame_traces = traces->next;
        *traces_made_at(traces->base) = NULL;
        tracer_free(traces, frame_traces_size(traces->room));
    }
    nlearned = nmisfits = 0;
}

static int
is_small_block(uintptr_t ptr)
{
    (void)ptr;
    return 0;
}

/* May the hash table have a trace of a block that has a slot? */
static inline int
may_be_elsewhere(uintptr_t ptr)
{
    return *trace_filter_count(ptr) != 0;
}

#endif /* !Py_INTERNAL_TRACEFRAMES_H */
