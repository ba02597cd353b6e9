/* The tracer's lock at a fork.
 *
 * Owns the lock. */

#include "pycore_tracelock.h"

#include <pthread.h>

atomic_int tracelock_is_held;

static void
lock_before_fork(void)
{
    tracer_lock();
}

static void
unlock_after_fork(void)
{
    tracer_unlock();
}

void
tracelock_be_safe_at_fork(void)
{
    static int is_safe;
    if (!is_safe) {
        is_safe = pthread_atfork(lock_before_fork, unlock_after_fork,
                                 unlock_after_fork) == 0;
    }
}
