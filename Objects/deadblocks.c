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
 * The raw domain's hooks come here from any thread.  Who finds the lock taken
 * goes without: it is never waited for, so a fork can't leave it behind. */

#include "pycore_deadblocks.h"
#include "pycore_compiler.h"
#include "pycore_host.h"
#include "pycore_pymem.h"

#include <stdatomic.h>
#include <stdio.h>

#define HELD_BLOCKS 64      /* a power of two */
#define HELD_SIZE_MAX 1024  /* bytes of a block; checking it must be cheap */

static struct dead_block held[HELD_BLOCKS];
static unsigned next_in;        /* the oldest block, where there are as many */
static unsigned next_checked;
static atomic_flag busy = ATOMIC_FLAG_INIT;

static int
try_lock(void)
{
    return !atomic_flag_test_and_set_explicit(&busy, memory_order_acquire);
}

static void
unlock(void)
{
    atomic_flag_clear_explicit(&busy, memory_order_release);
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

void
dead_block_add(const struct dead_block *dead)
{
    struct dead_block oldest = *dead;
    if (dead->size <= HELD_SIZE_MAX && is_own_allocator(&dead->alloc)
        && try_lock())
    {
        struct dead_block *place = &held[next_in++ % HELD_BLOCKS];
        oldest = *place;
        *place = *dead;
        unlock();
        if (oldest.memory == NULL) {
            return;
        }
        dead_block_check(&oldest);
    }
    oldest.alloc.free(oldest.alloc.ctx, oldest.memory);
}

void
dead_blocks_check_next(void)
{
    if (try_lock()) {
        dead_block_check(&held[next_checked++ % HELD_BLOCKS]);
        unlock();
    }
}

void
dead_blocks_check_all(void)
{
    if (try_lock()) {
        for (size_t i = 0; i < HELD_BLOCKS; i++) {
            dead_block_check(&held[i]);
        }
        unlock();
    }
}
