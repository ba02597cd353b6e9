/* One heap for several interpreters that have a GIL each (Objects/sharedheap.c). */

#ifndef Py_INTERNAL_SHAREDHEAP_H
#define Py_INTERNAL_SHAREDHEAP_H

#include "pycore_compiler.h"

/* From now on each use of pymalloc takes a lock.  To be called while no other
 * thread can be in it: with the only GIL that there is, before there is a second
 * one.  For good: an interpreter that ended may have left blocks behind. */
void heap_share(void);

INTERNAL_DATA(int) heap_is_shared;

void heap_lock(void);
void heap_unlock(void);

/* Around what may need the lock; heap_leave() gets what heap_enter() gave. */
static inline int
heap_enter(void)
{
    if (UNLIKELY(heap_is_shared)) {
        heap_lock();
        return 1;
    }
    return 0;
}

static inline void
heap_leave(int is_locked)
{
    if (UNLIKELY(is_locked)) {
        heap_unlock();
    }
}

#endif /* !Py_INTERNAL_SHAREDHEAP_H */
