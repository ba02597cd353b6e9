/* Memory of the hardened allocator's blocks, and what is known of it.
 *
 * All of it is reserved at once, at an address that nobody foresees, and can't be touched.
 * An arena of 16 slabs is opened when it is needed, and the 64 KiB behind it never are.
 * Records and states are in separate parts, with such gaps on both sides.
 *
 * Calls virtualmem.c. */

#include "pycore_hardened.h"

#define SLABS_IN_ARENA 16u
#define ARENA_STRIDE (SLABS_IN_ARENA + 1)       /* with the gap behind it */
#define GAP HARD_SLAB_SIZE

/* Free slabs that keep their memory, 4 MiB; what is more goes back at once. */
#define NWARM 64u

#if UINTPTR_MAX > 0xFFFFFFFFu
#  define MOST_RESERVED ((size_t)1 << 39)
#else
#  define MOST_RESERVED ((size_t)1 << 29)
#endif
#define LEAST_RESERVED ((size_t)1 << 25)

/* States take an eighth of their blocks at the most. */
#define STATES_SHARE 8

spin_lock hard_slabs_lock;
unsigned char *hard_slabs_start;
struct hard_slab *hard_slab_records;
atomic_size_t hard_slabs_size;

static uint32_t nslabs;             /* that there may be */
static uint32_t first_arena, next_arena;    /* the first slab of an arena */
static struct hard_random order = HARD_RANDOM;

/* A part of what is reserved is opened from its low end on. */
struct part {
    unsigned char *start;
    size_t size, used, open;
};
static struct part records, metadata;

static int
part_grow(struct part *part, size_t used)
{
    if (used > part->size) {
        return -1;
    }
    if (used > part->open) {
        size_t more = (used - part->open + HARD_SLAB_SIZE - 1) & ~(HARD_SLAB_SIZE - 1);
        if (part->open + more > part->size) {
            more = part->size - part->open;
        }
        if (virtual_open(part->start + part->open, more) < 0) {
            return -1;
        }
        part->open += more;
    }
    part->used = used;
    return 0;
}

/* Where the parts are in size bytes for blocks; the bytes of all. */
static size_t
lay_out(size_t size, unsigned char *start)
{
    nslabs = (uint32_t)(size >> HARD_SLAB_BITS);
    size_t of_records = (nslabs * sizeof(struct hard_slab) + GAP) & ~(GAP - 1);
    size_t of_states = size / STATES_SHARE;
    if (start != NULL) {
        records = (struct part){.start = start + GAP, .size = of_records};
        metadata = (struct part){.start = records.start + of_records + GAP,
                                 .size = of_states};
        hard_slab_records = (struct hard_slab *)(void *)records.start;
        hard_slabs_start = metadata.start + of_states + GAP;
    }
    return of_records + of_states + 3 * GAP + size;
}

/* A limit on the address space may leave little.  Arenas begin at a random one of the first
 * slabs, beyond what the system does to the address of all. */
static int
reserve(void)
{
    for (size_t size = MOST_RESERVED; size >= LEAST_RESERVED; size /= 2) {
        unsigned char *start = virtual_claim(lay_out(size, NULL));
        if (start != NULL) {
            lay_out(size, start);
            first_arena = 1 + hard_random_below(&order, nslabs / 64 < 256 ? nslabs / 64 : 256);
            next_arena = first_arena;
            return 0;
        }
    }
    return -1;
}

/* Metadata in whole cache lines. */
static void *
take_metadata(size_t size)
{
    size_t start = (metadata.used + 63) & ~(size_t)63;
    return part_grow(&metadata, start + size) < 0 ? NULL : metadata.start + start;
}

void *
hard_metadata(size_t size)
{
    spin_take(&hard_slabs_lock);
    void *ptr = hard_slabs_start != NULL || reserve() == 0 ? take_metadata(size) : NULL;
    spin_release(&hard_slabs_lock);
    return ptr;
}

/* Free slabs, linked by their next: with memory, and without.  States of slabs that were
 * freed wait for the next slab with as many blocks. */
static uint32_t warm, cold;
static unsigned nwarm;
static struct spare_states { struct spare_states *next; } *spare[NCLASSES];

static uint16_t *
states_take(unsigned class, unsigned nblocks)
{
    size_t size = ((nblocks + 1) * sizeof(uint16_t) + 15) & ~(size_t)15;
    struct spare_states *states = spare[class];
    if (states == NULL) {
        return take_metadata(size);
    }
    spare[class] = states->next;
    return memset(states, 0, size);
}

static void
put_slab(uint32_t *list, uint32_t number)
{
    hard_slab_records[number].next = *list;
    *list = number;
}

/* In a separate random order. */
static int
open_arena(void)
{
    uint32_t first = next_arena, numbers[SLABS_IN_ARENA];
    if (first + ARENA_STRIDE > nslabs
        || part_grow(&records, (first + ARENA_STRIDE) * sizeof(struct hard_slab)) < 0
        || virtual_open(hard_slab_address(first), SLABS_IN_ARENA * HARD_SLAB_SIZE) < 0)
    {
        return -1;
    }
    next_arena += ARENA_STRIDE;
    atomic_store_explicit(&hard_slabs_size, (size_t)next_arena << HARD_SLAB_BITS,
                          memory_order_release);
    for (unsigned i = 0; i < SLABS_IN_ARENA; i++) {
        numbers[i] = first + i;
    }
    for (unsigned n = SLABS_IN_ARENA; n > 0; n--) {
        unsigned chosen = hard_random_below(&order, n);
        put_slab(&cold, numbers[chosen]);
        numbers[chosen] = numbers[n - 1];
    }
    return 0;
}

static uint32_t
take_slab(void)
{
    uint32_t *list = warm != 0 ? &warm : &cold;
    if (*list == 0 && open_arena() < 0) {
        return 0;
    }
    uint32_t number = *list;
    *list = hard_slab_records[number].next;
    nwarm -= list == &warm;
    return number;
}

static uint32_t
new_slab(unsigned class, unsigned blocksize, unsigned heap)
{
    if (hard_slabs_start == NULL && reserve() < 0) {
        return 0;
    }
    uint32_t number = take_slab();
    if (number == 0) {
        return 0;
    }
    unsigned nblocks = (unsigned)(HARD_SLAB_SIZE / blocksize);
    uint16_t *states = states_take(class, nblocks);
    if (states == NULL) {
        put_slab(&cold, number);
        return 0;
    }
    unsigned nplaces = (unsigned)(HARD_SLAB_SIZE - nblocks * blocksize) / 16 + 1;
    hard_slab_records[number] = (struct hard_slab){
        .states = states,
        .reciprocal = (uint32_t)((((uint64_t)1 << 32) + blocksize - 1) / blocksize),
        .first = (uint16_t)(hard_random_below(&order, nplaces < 256 ? nplaces : 256) * 16),
        .blocksize = (uint16_t)blocksize,
        .free = FREE_LAST,
        .class = (uint8_t)class,
        .heap = (uint8_t)heap,
    };
    return number;
}

uint32_t
hard_slab_new(unsigned class, unsigned blocksize, unsigned heap)
{
    spin_take(&hard_slabs_lock);
    uint32_t number = new_slab(class, blocksize, heap);
    spin_release(&hard_slabs_lock);
    return number;
}

void
hard_slab_free(uint32_t number)
{
    struct hard_slab *slab = &hard_slab_records[number];
    spin_take(&hard_slabs_lock);
    struct spare_states *states = (struct spare_states *)(void *)slab->states;
    states->next = spare[slab->class];
    spare[slab->class] = states;
    slab->states = NULL;
    int is_warm = nwarm < NWARM;
    if (is_warm) {
        nwarm++;
    }
    else {
        virtual_purge(hard_slab_address(number), HARD_SLAB_SIZE);
    }
    put_slab(is_warm ? &warm : &cold, number);
    spin_release(&hard_slabs_lock);
}

size_t
hard_slabs_trim(void)
{
    size_t nbytes = 0;
    spin_take(&hard_slabs_lock);
    while (warm != 0) {
        uint32_t number = warm;
        warm = hard_slab_records[number].next;
        nbytes += virtual_purge(hard_slab_address(number), HARD_SLAB_SIZE);
        put_slab(&cold, number);
    }
    nwarm = 0;
    spin_release(&hard_slabs_lock);
    return nbytes;
}

READS_WHILE_OTHERS_WRITE struct hard_slab_counts
hard_slab_count(const struct hard_slab *slab)
{
    struct hard_slab_counts counts = {0, 0};
    for (unsigned i = 0; slab->states != NULL && i < slab->ncut; i++) {
        counts.used += (unsigned)hard_is_in_use(slab->states[i]);
        counts.waiting += slab->states[i] >= WAITS_FRESH;
    }
    return counts;
}

int
hard_arenas_visit(int (*visit)(void *arg, uint32_t first, unsigned nslabs), void *arg)
{
    int result = 0;
    size_t end = atomic_load_explicit(&hard_slabs_size, memory_order_acquire) >> HARD_SLAB_BITS;
    for (uint32_t first = first_arena; result == 0 && first < end; first += ARENA_STRIDE) {
        result = visit(arg, first, SLABS_IN_ARENA);
    }
    return result;
}
