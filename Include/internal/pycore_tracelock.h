/* The tracer's lock: over its tables, and never held while a block is allocated or freed.
 *
 * Held for some tens of nanoseconds, so waiting is looking again.  While there is one
 * thread an exchange, which takes longer than all the rest of a call, is not needed. */

#ifndef Py_INTERNAL_TRACELOCK_H
#define Py_INTERNAL_TRACELOCK_H

#include "pycore_compiler.h"
#include "pycore_virtualmem.h"

#include <stdatomic.h>

#if __has_include(<sys/single_threaded.h>)     /* glibc 2.32 */
#  include <sys/single_threaded.h>
#  define there_is_one_thread() (__libc_single_threaded)
#else
#  define there_is_one_thread() 0
#endif

INTERNAL_DATA(atomic_int) tracelock_is_held;

/* No other thread is in the tables at a fork; the child goes on tracing. */
void tracelock_be_safe_at_fork(void);

static inline int
tracer_try_lock(void)
{
    if (there_is_one_thread()) {
        int was_held = atomic_load_explicit(&tracelock_is_held, memory_order_relaxed);
        atomic_store_explicit(&tracelock_is_held, 1, memory_order_relaxed);
        return !was_held;
    }
    return !atomic_exchange_explicit(&tracelock_is_held, 1, memory_order_acquire);
}

static inline void
tracer_lock(void)
{
    while (UNLIKELY(!tracer_try_lock())) {
        virtual_yield();
    }
}

static inline void
tracer_unlock(void)
{
    atomic_store_explicit(&tracelock_is_held, 0, memory_order_release);
}

#endif /* !Py_INTERNAL_TRACELOCK_H */
