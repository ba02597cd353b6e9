/* The lock of a heap that several interpreters share.
 *
 * The GIL protects pymalloc.  From CPython 3.12 on interpreters may have a GIL
 * each; as long as there is one nothing here is used, and PyObject_Malloc() goes
 * straight into pymalloc.  After heap_share() it finds unshared_pymalloc empty,
 * goes through the domain's allocator, and that takes the lock.
 *
 * The thread that holds it may take it again: what is not small is asked of the
 * raw domain, and a hook there may use the other domains. */

#define _GNU_SOURCE
#include "pycore_sharedheap.h"
#ifdef WITH_PYMALLOC
#  include "pycore_pymalloc.h"
#endif

#include <pthread.h>

int heap_is_shared;

#ifdef WITH_PYMALLOC
struct unshared_pymalloc unshared_pymalloc = {
    _PyObject_Malloc, _PyObject_Realloc, _PyObject_Free
};
#endif

static pthread_mutex_t lock = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;

void
heap_lock(void)
{
    pthread_mutex_lock(&lock);
}

void
heap_unlock(void)
{
    pthread_mutex_unlock(&lock);
}

/* The child's only thread is not the one that took it. */
static void
heap_new_lock(void)
{
    lock = (pthread_mutex_t)PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;
}

void
heap_share(void)
{
    if (!heap_is_shared) {
        heap_is_shared = 1;
#ifdef WITH_PYMALLOC
        unshared_pymalloc = (struct unshared_pymalloc){NULL, NULL, NULL};
#endif
        pthread_atfork(heap_lock, heap_unlock, heap_new_lock);
    }
}
