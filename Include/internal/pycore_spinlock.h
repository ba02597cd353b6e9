/* A lock that is held for tens of nanoseconds to a microsecond, so waiting is looking again.
 *
 * The exchange that takes it (acquire) sees what was written up to the store that released it.
 * While there is one thread an exchange, which takes longer than what the lock guards, is not
 * needed: a thread that begins sees what was written before. */

#ifndef Py_INTERNAL_SPINLOCK_H
#define Py_INTERNAL_SPINLOCK_H

#include "pycore_compiler.h"
#include "pycore_virtualmem.h"

#include <stdatomic.h>

#if __has_include(<sys/single_threaded.h>)     /* glibc 2.32 */
#  include <sys/single_threaded.h>
#  define there_is_one_thread() (__libc_single_threaded)
#else
#  define there_is_one_thread() 0
#endif

typedef atomic_int spin_lock;           /* 1: somebody has it */

static inline int
spin_try(spin_lock *lock)
{
    if (there_is_one_thread()) {
        int was_held = atomic_load_explicit(lock, memory_order_relaxed);
        atomic_store_explicit(lock, 1, memory_order_relaxed);
        return !was_held;
    }
    return !atomic_exchange_explicit(lock, 1, memory_order_acquire);
}

static inline void
spin_take(spin_lock *lock)
{
    while (UNLIKELY(!spin_try(lock))) {
        virtual_yield();
    }
}

static inline void
spin_release(spin_lock *lock)
{
    atomic_store_explicit(lock, 0, memory_order_release);
}

#endif /* !Py_INTERNAL_SPINLOCK_H */
