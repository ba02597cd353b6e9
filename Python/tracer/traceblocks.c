/* Traces by block.
 *
 * Nearly all blocks are small ones of pymalloc.  The trace of such a block is one
 * number in an array beside its pool, found from its address as the pool itself
 * is, without hashing:
 *
 *   pool (16 KiB)     header | block 0 | block 1 | block 2 | ...
 *   pool_traces                slot 0    slot 1    slot 2    ...
 *
 *   slot   [ holds code: 1 bit | blocksize - size: 7 bits | stack: 24 bits ]
 *
 * Beside another memory subsystem, whose pools we can't ask for, the addresses of the
 * blocks tell where slots belong: pycore_traceframes.h.
 *
 * All others (large blocks, the raw domain, domains of libraries, estimates, the
 * stacks after 16,777,215 different ones) are in a hash table. */

#include "pycore_traceblocks.h"
#include "pycore_tracetables.h"
#if defined(WITH_PYMALLOC) && !defined(TRACER_BESIDE)
#  include "pycore_pymalloc.h"
#  include "pycore_virtualmem.h"
#endif

#include <string.h>

static struct pointer_map other_blocks;
static size_t ntraced;              /* traces, wherever they are */
static size_t memory_now, memory_peak;

/* Has a small block of Python's own, which belongs in a slot, been stored in
 * the hash table since all was cleared? */
static int small_blocks_are_elsewhere;

/* All traces of a moment near the peak: from a number of bytes on they are copied
 * again where there is a sixteenth more than at the last copy.  So all copies cost
 * at most as much as seventeen of the last one. */
#define NEVER SIZE_MAX
static struct {
    size_t from;                /* bytes; NEVER: no copies are wanted */
    size_t due;                 /* bytes at which the next copy is made */
    struct trace *traces;
    size_t ntraces, capacity;
} peak_copy = {.from = NEVER, .due = NEVER};

static void
peak_copy_drop(void)
{
    tracer_free(peak_copy.traces, peak_copy.capacity * sizeof(struct trace));
    peak_copy.traces = NULL;
    peak_copy.ntraces = peak_copy.capacity = 0;
    peak_copy.due = peak_copy.from;
}

/* Where there is no memory for it the older copy stays. */
static COLD void
peak_copy_make(void)
{
    peak_copy.due = memory_now + memory_now / 16 + 1;
    if (peak_copy.capacity < ntraced) {
        size_t capacity = ntraced + ntraced / 4;
        struct trace *larger =
            tracer_resize(peak_copy.traces, peak_copy.capacity * sizeof(struct trace),
                          capacity * sizeof(struct trace));
        if (larger == NULL) {
            return;
        }
        peak_copy.traces = larger;
        peak_copy.capacity = capacity;
    }
    peak_copy.ntraces = ntraced;
    blocks_copy(peak_copy.traces);
}

/* The block's trace is where it belongs. */
static void
memory_add(size_t size, stack_id stack)
{
    if (stack == HIDDEN_STACK) {
        return;
    }
    memory_now += size;
    ntraced++;
    if (memory_now > memory_peak) {
        memory_peak = memory_now;
        if (UNLIKELY(memory_now >= peak_copy.due)) {
            peak_copy_make();
        }
    }
}

static void
memory_subtract(size_t size, stack_id stack)
{
    if (stack != HIDDEN_STACK) {
        memory_now -= size;
        ntraced--;
    }
}

/* The filter. */

uint16_t trace_filter[TRACE_FILTER_SIZE];
static int filter_is_on;

static void
filter_add(uintptr_t ptr)
{
    if (filter_is_on && *trace_filter_count(ptr) != UINT16_MAX) {
        ++*trace_filter_count(ptr);
    }
}

static void
filter_remove(uintptr_t ptr)
{
    if (filter_is_on && *trace_filter_count(ptr) != UINT16_MAX) {
        --*trace_filter_count(ptr);
    }
}

void
blocks_use_filter(int on)
{
    memset(trace_filter, 0, sizeof(trace_filter));
#ifdef TRACER_BESIDE
    on = 1;                 /* slots ask it, too */
#endif
    filter_is_on = on;
}

/* Slots. */

#if defined(TRACER_BESIDE)
#  include "pycore_traceframes.h"
#elif defined(WITH_PYMALLOC)

static int
is_small_block(uintptr_t ptr)
{
    return pool_of((void *)ptr) != NULL;
}

#define STACK_BITS 24
#define STACK_MASK (((uint32_t)1 << STACK_BITS) - 1)
#define SHORTAGE_MASK ((uint32_t)127)   /* a realloc may leave a quarter unused */
#define HOLDS_CODE ((uint32_t)1 << 31)

struct pool_traces {
    struct pool_traces *next;       /* of all there are */
    struct pool_traces **link;      /* the pointer to this one */
    uintptr_t pool_address;
    uint32_t blocksize;
    uint32_t nslots;
    uint32_t reciprocal;            /* 2**32 / blocksize, rounded up */
    uint32_t shift;                 /* where in a block the addresses are that we
                                       are told: debug hooks below have a head */
    uint32_t slots[];
};
static struct pool_traces *all_pool_traces;

/* By frame: the table of a leaf of the pool map. */
#define TABLE_SIZE (FRAMES_IN_LEAF * sizeof(struct pool_traces *))

static size_t
pool_traces_size(size_t nslots)
{
    return sizeof(struct pool_traces) + nslots * sizeof(uint32_t);
}

/* NULL: there are none of this leaf. */
static inline struct pool_traces **
traces_of_frame(const struct pool_leaf *leaf, uintptr_t address)
{
    struct pool_traces **table = leaf->traces;
    return table != NULL ? &table[frame_of(address)] : NULL;
}

/* The same to store something there; NULL: no memory. */
static struct pool_traces **
traces_of_frame_made(struct pool_leaf *leaf, uintptr_t address)
{
    if (leaf->traces == NULL) {
        leaf->traces = virtual_reserve(TABLE_SIZE, 1);
    }
    size_t offset = frame_of(address) * sizeof(struct pool_traces *);
    return leaf->traces != NULL && virtual_commit(leaf->traces, TABLE_SIZE, offset) == 0
        ? traces_of_frame(leaf, address) : NULL;
}

static size_t
slot_size(const struct pool_traces *traces, uint32_t slot)
{
    return traces->blocksize - (slot >> STACK_BITS & SHORTAGE_MASK);
}

static COLD void
slot_code_freed(struct pool_traces *traces, uint32_t *slot)
{
    *slot &= ~HOLDS_CODE;
    size_t n = (size_t)(slot - traces->slots);
    const char *start = (const char *)traces->pool_address + POOL_OVERHEAD
        + n * traces->blocksize;
    stack_forget_code(start);
    filter_remove((uintptr_t)start);
}

/* The pool was given to another size class: what is left here is of blocks that
 * went without our knowing. */
static void
pool_traces_clear(struct pool_traces *traces)
{
    for (uint32_t i = 0; i < traces->nslots; i++) {
        uint32_t *slot = &traces->slots[i];
        if (*slot & STACK_MASK) {
            memory_subtract(slot_size(traces, *slot), *slot & STACK_MASK);
        }
        if (*slot & HOLDS_CODE) {
            slot_code_freed(traces, slot);
        }
    }
    memset(traces->slots, 0, traces->nslots * sizeof(uint32_t));
}

#define UNKNOWN_SHIFT UINT32_MAX

/* The traces of a pool that a block is in; NULL: no memory. */
static struct pool_traces *
pool_traces_new(poolp pool, uintptr_t ptr)
{
    struct pool_traces **of_frame = traces_of_frame_made(pool_leaf_of(pool), ptr);
    if (of_frame == NULL) {
        return NULL;
    }
    struct pool_traces *traces = *of_frame;
    uint32_t nslots = NUMBLOCKS(pool->blocksize);
    if (traces != NULL) {
        pool_traces_clear(traces);
    }
    if (traces == NULL || traces->nslots < nslots) {
        size_t old_size = traces != NULL ? pool_traces_size(traces->nslots) : 0;
        struct pool_traces *larger =
            tracer_resize(traces, old_size, pool_traces_size(nslots));
        if (larger == NULL) {
            return NULL;
        }
        if (traces == NULL) {
            larger->next = all_pool_traces;
            larger->link = &all_pool_traces;
        }
        *larger->link = *of_frame = traces = larger;
        if (traces->next != NULL) {
            traces->next->link = &traces->next;
        }
        traces->nslots = nslots;
        memset(traces->slots, 0, nslots * sizeof(uint32_t));
    }
    traces->pool_address = ptr & ~(uintptr_t)POOL_SIZE_MASK;
    traces->blocksize = pool->blocksize;
    traces->reciprocal = (uint32_t)(((uint64_t)1 << 32) / pool->blocksize + 1);
    traces->shift = UNKNOWN_SHIFT;
    return traces;
}

/* The traces of a pool as it is now; NULL if there are none yet. */
static inline struct pool_traces *
traces_of_pool(poolp pool, uintptr_t ptr)
{
    struct pool_traces **of_frame = traces_of_frame(pool_leaf_of(pool), ptr);
    struct pool_traces *traces = of_frame != NULL ? *of_frame : NULL;
    return traces != NULL && traces->blocksize == pool->blocksize ? traces : NULL;
}

/* Where a block would have its slot, and where in the block the address is. */
static inline uint32_t
slot_number(const struct pool_traces *traces, uintptr_t ptr, uint32_t *shift)
{
    uint32_t offset = (uint32_t)((ptr & POOL_SIZE_MASK) - POOL_OVERHEAD);
    uint32_t n = (uint32_t)((uint64_t)offset * traces->reciprocal >> 32);
    *shift = offset - n * traces->blocksize;
    return (ptr & POOL_SIZE_MASK) >= POOL_OVERHEAD ? n : UINT32_MAX;
}

/* The slot of a block; NULL if the address is no block's.  Others choose it: it may be
 * inside a block, in the header of a pool or behind its last block. */
static inline uint32_t *
slot_at(struct pool_traces *traces, uintptr_t ptr)
{
    uint32_t shift, n = slot_number(traces, ptr, &shift);
    return LIKELY(n < traces->nslots && shift == traces->shift)
        ? &traces->slots[n] : NULL;
}

/* The same with whose traces it is; NULL if there are none yet, either. */
static inline uint32_t *
slot_of(poolp pool, uintptr_t ptr, struct pool_traces **traces)
{
    *traces = traces_of_pool(pool, ptr);
    return *traces != NULL ? slot_at(*traces, ptr) : NULL;
}

static COLD struct pool_traces *
pool_traces_begin(poolp pool, uintptr_t ptr)
{
    struct pool_traces *traces = traces_of_pool(pool, ptr);
    if (traces == NULL) {
        traces = pool_traces_new(pool, ptr);
    }
    if (traces != NULL) {
        slot_number(traces, ptr, &traces->shift);
    }
    return traces;
}

/* The same, to store something there: the first address of a pool is a block's. */
static inline uint32_t *
slot_made(poolp pool, uintptr_t ptr, struct pool_traces **traces)
{
    *traces = traces_of_pool(pool, ptr);
    if (UNLIKELY(*traces == NULL || (*traces)->shift == UNKNOWN_SHIFT)) {
        *traces = pool_traces_begin(pool, ptr);
    }
    return *traces != NULL ? slot_at(*traces, ptr) : NULL;
}

/* The slot of a block by its real start. */
static uint32_t *
slot_of_start(poolp pool, uintptr_t start, struct pool_traces **traces)
{
    *traces = traces_of_pool(pool, start);
    if (*traces == NULL) {
        *traces = pool_traces_new(pool, start);
    }
    if (*traces == NULL) {
        return NULL;
    }
    uint32_t shift, n = slot_number(*traces, start, &shift);
    return n < (*traces)->nslots ? &(*traces)->slots[n] : NULL;
}

/* 1 if the trace was stored beside its pool. */
static inline int
slot_store(const struct trace *trace)
{
    poolp pool = pool_of((void *)trace->ptr);
    struct pool_traces *traces;
    uint32_t *slot;
    if (pool == NULL || trace->size > pool->blocksize
        || pool->blocksize - trace->size > SHORTAGE_MASK
        || trace->stack > STACK_MASK
        || (slot = slot_made(pool, trace->ptr, &traces)) == NULL)
    {
        return 0;
    }
    if (*slot & STACK_MASK) {
        memory_subtract(slot_size(traces, *slot), *slot & STACK_MASK);
    }
    *slot = (*slot & HOLDS_CODE)
        | (uint32_t)(pool->blocksize - trace->size) << STACK_BITS
        | trace->stack;
    memory_add(trace->size, trace->stack);
    return 1;
}

static int
slot_find(struct trace *trace, int drop)
{
    poolp pool = pool_of((void *)trace->ptr);
    struct pool_traces *traces;
    uint32_t *slot = pool != NULL ? slot_of(pool, trace->ptr, &traces) : NULL;
    if (slot == NULL || (*slot & STACK_MASK) == 0) {
        return 0;
    }
    trace->stack = *slot & STACK_MASK;
    trace->size = slot_size(traces, *slot);
    if (drop) {
        memory_subtract(trace->size, trace->stack);
        *slot &= HOLDS_CODE;
    }
    return 1;
}

/* 1 if the block is a small one and all is done. */
static inline int
slot_freed(uintptr_t ptr, stack_id *stack)
{
    poolp pool = pool_of((void *)ptr);
    if (pool == NULL) {
        return 0;
    }
    struct pool_traces *traces = traces_of_pool(pool, ptr);
    if (traces == NULL) {
        return !small_blocks_are_elsewhere;
    }
    uint32_t shift, n = slot_number(traces, ptr, &shift);
    uint32_t *slot = n < traces->nslots ? &traces->slots[n] : NULL;
    if (slot != NULL && *slot != 0) {
        if (UNLIKELY(*slot & HOLDS_CODE)) {
            slot_code_freed(traces, slot);
        }
        if ((*slot & STACK_MASK) && shift == traces->shift) {
            *stack = *slot & STACK_MASK;
            memory_subtract(slot_size(traces, *slot), *stack);
            *slot = 0;
        }
    }
    return !small_blocks_are_elsewhere;
}

const void *
block_holding(const void *code)
{
    poolp pool = pool_of(code);
    uintptr_t offset = (uintptr_t)code & POOL_SIZE_MASK;
    return pool == NULL || offset < POOL_OVERHEAD ? code
        : (const char *)code - (offset - POOL_OVERHEAD) % pool->blocksize;
}

/* 1 if it is a small block and all is done; -1: no memory. */
static int
slot_watch(const void *start)
{
    poolp pool = pool_of(start);
    struct pool_traces *traces;
    if (pool == NULL) {
        return 0;
    }
    uint32_t *slot = slot_of_start(pool, (uintptr_t)start, &traces);
    if (slot == NULL) {
        return -1;
    }
    if ((*slot & HOLDS_CODE) == 0) {
        *slot |= HOLDS_CODE;
        filter_add((uintptr_t)start);
    }
    return 1;
}

static size_t
slots_copy(struct trace *out)
{
    size_t n = 0;
    for (const struct pool_traces *traces = all_pool_traces; traces != NULL;
         traces = traces->next)
    {
        for (uint32_t i = 0; i < traces->nslots; i++) {
            uint32_t slot = traces->slots[i];
            if ((slot & STACK_MASK) > HIDDEN_STACK) {
                out[n].ptr = traces->pool_address + POOL_OVERHEAD
                    + (uintptr_t)i * traces->blocksize + traces->shift;
                out[n].size = slot_size(traces, slot);
                out[n].domain = 0;
                out[n].stack = slot & STACK_MASK;
                n++;
            }
        }
    }
    return n;
}

static void
slots_clear(void)
{
    while (all_pool_traces != NULL) {
        struct pool_traces *traces = all_pool_traces;
        all_pool_traces = traces->next;
        uintptr_t address = traces->pool_address;
        *traces_of_frame(pool_map_leaf(leaf_of(address)), address) = NULL;
        tracer_free(traces, pool_traces_size(traces->nslots));
    }
}

#else /* without pymalloc all are in the hash table */

static int
is_small_block(uintptr_t ptr)
{
    (void)ptr;
    return 0;
}

static int
slot_store(const struct trace *trace)
{
    (void)trace;
    return 0;
}

static int
slot_find(struct trace *trace, int drop)
{
    (void)trace;
    (void)drop;
    return 0;
}

static int
slot_freed(uintptr_t ptr, stack_id *stack)
{
    (void)ptr;
    (void)stack;
    return 0;
}

const void *
block_holding(const void *code)
{
    return code;
}

static int
slot_watch(const void *start)
{
    (void)start;
    return 0;
}

static size_t
slots_copy(struct trace *out)
{
    (void)out;
    return 0;
}

static void
slots_clear(void)
{
}

#endif

#ifndef TRACER_BESIDE
/* May the hash table have a trace of a block that has a slot? */
static inline int
may_be_elsewhere(uintptr_t ptr)
{
    (void)ptr;
    return small_blocks_are_elsewhere;
}
#endif

/* All others. */

static int
map_find_or_drop(struct trace *trace, int drop)
{
    struct map_entry *entry =
        map_find(&other_blocks, trace->ptr, trace->domain);
    if (entry == NULL) {
        return 0;
    }
    trace->stack = entry->value;
    trace->size = entry->size;
    if (drop) {
        memory_subtract(entry->size, entry->value);
        map_remove(&other_blocks, entry);
        filter_remove(trace->ptr);
    }
    return 1;
}

/* Both. */

int
blocks_reserve(void)
{
    return map_reserve(&other_blocks);
}

static NOINLINE void
store_in_map(const struct trace *trace)
{
    struct map_entry *entry =
        map_add(&other_blocks, trace->ptr, trace->domain);
    if (entry->value != 0) {
        memory_subtract(entry->size, entry->value);
    }
    else {
        filter_add(trace->ptr);
    }
    entry->value = trace->stack;
    entry->size = trace->size;
    memory_add(trace->size, trace->stack);
}

/* A block has one trace: an older one may be where this one is not. */
void
block_store(const struct trace *trace, int is_estimate)
{
    if (trace->domain != 0) {
        store_in_map(trace);
    }
    else if (LIKELY(!is_estimate && slot_store(trace))) {
        if (UNLIKELY(may_be_elsewhere(trace->ptr))) {
            struct trace old = *trace;
            map_find_or_drop(&old, 1);
        }
    }
    else {
        struct trace old = *trace;
        slot_find(&old, 1);
        if (is_small_block(trace->ptr)) {
            small_blocks_are_elsewhere = 1;
        }
        store_in_map(trace);
    }
}

static int
block_find_or_drop(struct trace *trace, int drop)
{
    return (trace->domain == 0 && slot_find(trace, drop))
        || map_find_or_drop(trace, drop);
}

int
block_find(struct trace *trace)
{
    return block_find_or_drop(trace, 0);
}

int
block_drop(struct trace *trace)
{
    return block_find_or_drop(trace, 1);
}

stack_id
block_freed(uintptr_t ptr)
{
    struct trace trace = {.ptr = ptr};
    if (slot_freed(ptr, &trace.stack)) {
        return trace.stack;
    }
    map_find_or_drop(&trace, 1);
    if (stack_forget_code((void *)ptr)) {
        filter_remove(ptr);
    }
    return trace.stack;
}

int
block_watch(const void *start, int is_watched)
{
    int is_small = slot_watch(start);
    if (is_small == 0 && !is_watched) {
        filter_add((uintptr_t)start);
    }
    return is_small < 0 ? -1 : 0;
}

size_t
blocks_count(void)
{
    return ntraced;
}

void
blocks_copy(struct trace *traces)
{
    size_t n = slots_copy(traces);
    for (size_t i = 0; other_blocks.count != 0 && i <= other_blocks.mask; i++) {
        const struct map_entry *entry = &other_blocks.entries[i];
        if (entry->value > HIDDEN_STACK) {
            traces[n++] = (struct trace){entry->key, entry->size,
                                         entry->domain, entry->value};
        }
    }
}

void
blocks_clear(void)
{
    slots_clear();
    map_clear(&other_blocks);
    ntraced = memory_now = memory_peak = 0;
    peak_copy_drop();
    small_blocks_are_elsewhere = 0;
    blocks_use_filter(filter_is_on);
}

void
blocks_memory(size_t *current, size_t *peak)
{
    *current = memory_now;
    *peak = memory_peak;
}

void
blocks_reset_peak(void)
{
    memory_peak = memory_now;
    peak_copy_drop();
}

void
blocks_keep_peak(size_t from)
{
    peak_copy.from = from;
    blocks_reset_peak();
}

const struct trace *
blocks_at_peak(size_t *ntraces)
{
    *ntraces = peak_copy.ntraces;
    return peak_copy.traces;
}
