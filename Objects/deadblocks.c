/* Blocks that the debug hooks freed, held back to see who still writes.
 *
 *       dead_block_add()                         the allocator's free()
 *             |                                           ^
 *             v                                           |
 *           +---+---+---+---+---+---+-- ... --+---+---+   |
 *           | . | . | . | . | . | . |         | . | . | --+   the oldest goes
 *           +---+---+---+---+---+---+-- ... --+---+---+       when one comes
 *                     ^
 *                     checked at this call of the hooks; the next at the next
 *
 * A freed block is full of DEADBYTE.  While it is held nobody else can have
 * its memory, so any other byte in it was written through a stale pointer: no
 * guess, no false alarm.  Only small blocks of the allocators that this
 * library brings along are held: an allocator that somebody installed sees
 * each free() at once.
 *
 * Each domain has a separate ring.  A block leaves the ring during a free() of the
 * same domain.  So its allocator is called as that free() is: with the GIL where the
 * domain needs it.
 *
 * The raw domain's hooks come here from any thread.  A thread that finds the lock taken goes
 * without.  Only a fork waits for it, so that no other thread is in a ring then: in the child
 * that one would never come out again. */

#include "pycore_deadblocks.h"
#include "pycore_compiler.h"
#include "pycore_host.h"
#include "pycore_pymem.h"
#include "pycore_valgrind.h"
#include "pycore_virtualmem.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>

#define HELD_BLOCKS 64      /* a power of two */
#define HELD_SIZE_MAX 1024  /* bytes of a block; checking it must be cheap */

static struct ring {
    struct dead_block held[HELD_BLOCKS];
    unsigned next_in;       /* the oldest block, where there are as many */
    unsigned next_checked;
    atomic_bool busy;
} rings[NB_DOMAINS];

static int
try_lock(struct ring *ring)
{
    return !atomic_exchange_explicit(&ring->busy, 1, memory_order_acquire);
}

static void
unlock(struct ring *ring)
{
    atomic_store_explicit(&ring->busy, 0, memory_order_release);
}

static void
lock_before_fork(void)
{
    for (struct ring *ring = rings; ring < rings + NB_DOMAINS; ring++) {
        while (!try_lock(ring)) {
            virtual_yield();
        }
    }
}

static void
unlock_after_fork(void)
{
    for (struct ring *ring = rings; ring < rings + NB_DOMAINS; ring++) {
        unlock(ring);
    }
}

static void
make_safe_at_fork(void)
{
    pthread_atfork(lock_before_fork, unlock_after_fork, unlock_after_fork);
}

static COLD void _Py_NO_RETURN
dead_block_fault(const struct dead_block *dead)
{
    fprintf(stderr, "Debug memory block at address p=%p: API '%c'\n",
            (void *)dead->data, dead->api_id);
    fprintf(stderr, "    %zu bytes originally requested\n", dead->nbytes);
    fprintf(stderr, "    The block was freed, and then written to. "
            "Not all of it is DEADBYTE (0x%02x):\n", DEADBYTE);
    for (size_t i = 0; i < dead->size; i++) {
        if (dead->memory[i] != DEADBYTE) {
            fprintf(stderr, "        at p%+td: 0x%02x *** OUCH\n",
                    &dead->memory[i] - dead->data, dead->memory[i]);
        }
    }
    fputc('\n', stderr);
    fflush(stderr);
    _Py_FatalErrorFunc("_PyMem_DebugRawFree", "block was written to after free");
}

static void
dead_block_check(const struct dead_block *dead)
{
    for (size_t i = 0; i < dead->size; i++) {
        if (UNLIKELY(dead->memory[i] != DEADBYTE)) {
            dead_block_fault(dead);
        }
    }
}

static int
is_own_allocator(const PyMemAllocatorEx *alloc)
{
#ifdef WITH_PYMALLOC
    if (alloc->free == _PyObject_Free) {
        return 1;
    }
#endif
#ifdef WITH_MIMALLOC
    if (alloc->free == _PyMem_MiFree) {
        return 1;
    }
#endif
    return alloc->free == _PyMem_RawFree;
}

/* Valgrind finds what is written to after free, if it sees the free. */
static int
can_be_held(const struct dead_block *dead)
{
    return dead->size <= HELD_SIZE_MAX && is_own_allocator(&dead->alloc)
        && !running_on_valgrind();
}

void
dead_block_add(PyMemAllocatorDomain domain, const struct dead_block *dead)
{
    static pthread_once_t safe_at_fork = PTHREAD_ONCE_INIT;
    struct ring *ring = &rings[domain];
    struct dead_block oldest = *dead;
    pthread_once(&safe_at_fork, make_safe_at_fork);
    if (can_be_held(dead) && try_lock(ring)) {
        struct dead_block *place = &ring->held[ring->next_in++ % HELD_BLOCKS];
        oldest = *place;
        *place = *dead;
        unlock(ring);
        if (oldest.memory == NULL) {
            return;
        }
        dead_block_check(&oldest);
    }
    oldest.alloc.free(oldest.alloc.ctx, oldest.memory);
}

void
dead_blocks_check_next(PyMemAllocatorDomain domain)
{
    struct ring *ring = &rings[domain];
    if (try_lock(ring)) {
        dead_block_check(&ring->held[ring->next_checked++ % HELD_BLOCKS]);
        unlock(ring);
    }
}

void
dead_blocks_check_all(void)
{
    for (struct ring *ring = rings; ring < rings + NB_DOMAINS; ring++) {
        if (try_lock(ring)) {
            for (size_t i = 0; i < HELD_BLOCKS; i++) {
                dead_block_check(&ring->held[i]);
            }
            unlock(ring);
        }
    }
}
