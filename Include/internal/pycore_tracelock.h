/* The tracer's lock: over its tables, and never held while a block is allocated or freed. */

#ifndef Py_INTERNAL_TRACELOCK_H
#define Py_INTERNAL_TRACELOCK_H

#include "pycore_spinlock.h"

INTERNAL_DATA(spin_lock) tracelock_is_held;

/* No other thread is in the tables at a fork; the child goes on tracing. */
void tracelock_be_safe_at_fork(void);

static inline int
tracer_try_lock(void)
{
    return spin_try(&tracelock_is_held);
}

static inline void
tracer_lock(void)
{
    spin_take(&tracelock_is_held);
}

static inline void
tracer_unlock(void)
{
    spin_release(&tracelock_is_held);
}

#endif /* !Py_INTERNAL_TRACELOCK_H */
