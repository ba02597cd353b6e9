/* Blocks that grow: lists that are appended to, buffers, files that are read.
 *
 * malloc and allocators with size classes copy a block that grows, again and again, unless
 * nothing is behind it.  Here it gets a slot: 128 KiB of address space, of which only the
 * pages that it has reached take memory.  Most calls of realloc then write down a number.
 *
 *   slot   [ block of 20 KiB | pages that nobody touched ......................... ]
 *                     grows -->
 *
 * A block that outgrows its slot goes to malloc: from there on a fresh page costs more than
 * to copy one.  A free slot keeps its pages for the next block, up to a bound in bytes and for
 * a short time (PYMEM_KEEP).
 *
 * A slot is a frame of a medium pool and has its record in the pool map, so whoever asks for
 * the pool of a block finds it; HEAP_OF_GROWING is its owner.  Only realloc brings blocks
 * here, of those that would otherwise go to malloc.  There are none under a limit on
 * address space, where all memory is locked, and on 32-bit platforms.
 *
 * One lock for all: a block is here for long, and most of its calls need no lock.
 *
 * Owns slots.  Calls keeping.c for the bound, poolmap.c, shortways.c and virtualmem.c. */

#include "pycore_growing.h"
#include "pycore_arenas.h"
#include "pycore_rings.h"
#include "pycore_shortways.h"
#include "pycore_spinlock.h"
#include "pycore_valgrind.h"

#define SLOT_SIZE MEDIUM_POOL_SIZE
#define BOUGHT_TOGETHER 16u
#define IDLE_MILLISECONDS 200

/* The blocksize of a slot's record while it has a block: it is one of a medium pool. */
#define A_MEDIUM_POOLS (SMALL_REQUEST_THRESHOLD + ALIGNMENT)

static spin_lock lock;
static struct pool warm = {.next = &warm, .prev = &warm};   /* free slots with memory: a ring,
                                                               the last freed one is last */
static poolp cold;                          /* free ones without */
static atomic_size_t kept;                  /* bytes of memory in free slots */
static _Atomic uint64_t freed_at;           /* the last one, by virtual_clock() */
static atomic_int is_out_of_use;            /* the system can't have slots */

/* The record of a slot.  Whoever has the block, or the lock while it is free, works on it. */

static block *
block_of(const struct pool *slot)
{
    return slot->freeblock;
}

/* Bytes that were asked for last. */
static uint32_t *
used(poolp slot)
{
    return &medium_header_of(slot)->gone;
}

/* Bytes that may have memory behind them, in whole pages. */
static uint32_t *
reached(poolp slot)
{
    return &medium_header_of(slot)->kept;
}

static void
slot_reach(poolp slot, size_t nbytes)
{
    *used(slot) = (uint32_t)nbytes;
    if (nbytes > *reached(slot)) {
        *reached(slot) = (uint32_t)virtual_whole_pages(nbytes);
    }
}

/* Give back what is behind so many bytes; the number of bytes. */
static size_t
slot_purge(poolp slot, size_t nbytes)
{
    size_t before = *reached(slot), left = virtual_whole_pages(nbytes);
    if (left >= before) {
        return 0;
    }
    *reached(slot) = (uint32_t)left;
    return virtual_purge(block_of(slot) + left, before - left);
}

void
growing_lock(void)
{
    spin_take(&lock);
}

void
growing_unlock(void)
{
    spin_release(&lock);
}

/* Slots come.  While the lock is held. */

static void
slot_cool(poolp slot)
{
    slot->next = cold;
    cold = slot;
}

/* In locked memory all of a slot would be there at once, and stay. */
static int
can_purge(block *memory)
{
    memory[0] = 0;
    return virtual_purge(memory, virtual_page_size()) > 0;
}

static int
memory_serves(block *memory, size_t size)
{
    return can_purge(memory) && pool_map_cover((uintptr_t)memory) == 0
        && pool_map_cover((uintptr_t)memory + size - SLOT_SIZE) == 0;
}

static void
slots_cut(block *memory)
{
    for (unsigned i = BOUGHT_TOGETHER; i > 0; i--) {
        block *start = memory + (i - 1) * SLOT_SIZE;
        poolp slot = pool_record((uintptr_t)start, 1);
        slot->freeblock = start;
        *reached(slot) = 0;
        atomic_store_explicit(&slot->owner, HEAP_OF_GROWING, memory_order_relaxed);
        slot_cool(slot);
    }
}

static void
slots_buy(void)
{
    size_t size = BOUGHT_TOGETHER * SLOT_SIZE;
    if (virtual_is_limited()) {
        is_out_of_use = 1;
        return;
    }
    block *memory = virtual_alloc_named(size, SLOT_SIZE);
    if (memory == NULL) {
        return;
    }
    virtual_avoid_huge_pages(memory, size);         /* before the first touch makes one */
    if (!memory_serves(memory, size)) {
        is_out_of_use = 1;
        virtual_free(memory, size);
        return;
    }
    short_ways_pass_by((uintptr_t)memory);
    slots_cut(memory);
}

static poolp
slot_take(void)
{
    poolp slot = warm.prev;
    if (slot != &warm) {
        pool_unlink(slot);
        kept -= *reached(slot);
        return slot;
    }
    if (cold == NULL) {
        slots_buy();
    }
    slot = cold;
    if (slot != NULL) {
        cold = slot->next;
    }
    return slot;
}

/* And go. */

/* Those that were freed first give back their memory, until so many bytes are left. */
static size_t
purge(size_t left)
{
    size_t nbytes = 0;
    while (kept > left && warm.next != &warm) {
        poolp slot = warm.next;
        pool_unlink(slot);
        kept -= *reached(slot);
        nbytes += slot_purge(slot, 0);
        slot_cool(slot);
    }
    return nbytes;
}

size_t
growing_trim(void)
{
    growing_lock();
    size_t nbytes = purge(0);
    growing_unlock();
    return nbytes;
}

int
growing_tick(void)
{
    if (kept > 0 && virtual_clock() - freed_at > IDLE_MILLISECONDS) {
        growing_trim();
    }
    return kept > 0;
}

void
growing_free(poolp slot)
{
    growing_lock();
    slot->blocksize = 0;
    pool_link(&warm, slot);
    kept += *reached(slot);
    freed_at = virtual_clock();
    purge(arenas_keep() / 4);
    growing_unlock();
    if (kept > 0) {
        heap_tell(&main_heap, HEAP_KEEPS_SLOTS);
    }
}

/* Blocks. */

void *
growing_malloc(size_t nbytes)
{
    if (UINTPTR_MAX <= 0xFFFFFFFFu || nbytes > SLOT_SIZE / 5 * 4 || is_out_of_use
        || running_on_valgrind())
    {
        return NULL;
    }
    growing_lock();
    poolp slot = slot_take();
    growing_unlock();
    if (slot == NULL) {
        return NULL;
    }
    slot->blocksize = A_MEDIUM_POOLS;
    slot_reach(slot, nbytes);
    return block_of(slot);
}

size_t
growing_size(poolp slot, const void *ptr)
{
    return ptr == block_of(slot) ? *used(slot) : 0;
}

int
growing_resize(poolp slot, size_t nbytes)
{
    if (nbytes > SLOT_SIZE || nbytes < GROWING_FROM / 2) {
        return 0;
    }
    if (nbytes < *used(slot) / 2) {
        slot_purge(slot, nbytes);
    }
    slot_reach(slot, nbytes);
    return 1;
}
