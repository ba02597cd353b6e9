/* Threads where there is only one: what the library asks of pthread.h, for WebAssembly
 * without threads.  Debian's wasi-libc has no such header.
 *
 * Locks are always free, nothing ends or forks. */

#ifndef PLAYGROUND_PTHREAD_H
#define PLAYGROUND_PTHREAD_H

typedef int pthread_mutex_t, pthread_once_t;
typedef unsigned pthread_key_t;
#define PTHREAD_MUTEX_INITIALIZER 0
#define PTHREAD_ONCE_INIT 0

static inline int
pthread_mutex_init(pthread_mutex_t *mutex, const void *attributes)
{
    (void)attributes;
    return *mutex = 0;
}

static inline int
pthread_mutex_lock(pthread_mutex_t *mutex)
{
    (void)mutex;
    return 0;
}

static inline int
pthread_mutex_trylock(pthread_mutex_t *mutex)
{
    return pthread_mutex_lock(mutex);
}

static inline int
pthread_mutex_unlock(pthread_mutex_t *mutex)
{
    return pthread_mutex_lock(mutex);
}

static inline int
pthread_once(pthread_once_t *once, void (*function)(void))
{
    if (*once == 0) {
        *once = 1;
        function();
    }
    return 0;
}

static inline int
pthread_atfork(void (*prepare)(void), void (*parent)(void), void (*child)(void))
{
    (void)prepare;
    (void)parent;
    (void)child;
    return 0;
}

static inline int
pthread_key_create(pthread_key_t *key, void (*destructor)(void *))
{
    (void)destructor;
    *key = 0;
    return 0;
}

static inline int
pthread_setspecific(pthread_key_t key, const void *value)
{
    (void)key;
    (void)value;
    return 0;
}

#endif /* !PLAYGROUND_PTHREAD_H */
