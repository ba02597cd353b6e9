/* The pool map's leaves: made when an arena is the first one in 4 GiB, and kept.
 *
 * Owns pool_map[] and the lock under which it grows.  Calls virtualmem.c. */

#include "pycore_poolmap.h"
#include "pycore_virtualmem.h"

#include <pthread.h>

struct pool_leaf *_Atomic pool_map[POOL_MAP_LEAVES];
atomic_size_t pool_map_nleaves;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

_Static_assert(sizeof(struct pool_leaf) <= LEAF_ALIGNMENT, "a leaf fits");
_Static_assert(sizeof(struct pool_header) <= POOL_OVERHEAD, "a header fits");
#if UINTPTR_MAX > 0xFFFFFFFFu
_Static_assert(sizeof(struct pool) == 32, "two records are a cache line");
_Static_assert(sizeof(struct medium_record) == 64, "a cache line");
#endif

void
pool_map_lock(void)
{
    pthread_mutex_lock(&lock);
}

void
pool_map_unlock(void)
{
    pthread_mutex_unlock(&lock);
}

/* What was written before is seen by whoever has the lock next: pool_map_cover().  A block of
 * malloc may be at the address next, too.  The thread that has it got it from the system after
 * the system took the memory back, with the lock of the system. */
void
pool_map_uncover(void)
{
    pool_map_lock();
    pool_map_unlock();
}

static int
leaf_commit(struct pool_leaf *leaf, const void *part)
{
    return virtual_commit(leaf, sizeof(*leaf), (size_t)((const char *)part - (char *)leaf));
}

/* The few bytes of a leaf that are not zeros are written before others see it. */
static struct pool_leaf *
leaf_new(size_t number)
{
    struct pool_leaf *leaf = virtual_reserve(
        sizeof(*leaf), POOL_MAP_LEAVES > 1 ? LEAF_ALIGNMENT : 1);
    if (leaf == NULL) {
        return NULL;
    }
    if (leaf_commit(leaf, &leaf->number) < 0) {
        virtual_free_table(leaf, sizeof(*leaf));
        return NULL;
    }
    leaf->number = number;
    atomic_store_explicit(&pool_map[number], leaf, memory_order_release);
    pool_map_nleaves++;
    return leaf;
}

int
pool_map_cover(uintptr_t address)
{
    size_t number = leaf_of(address);
    if (number >= POOL_MAP_LEAVES) {
        return -1;
    }
    pool_map_lock();
    struct pool_leaf *leaf = pool_map_leaf(number);
    if (leaf == NULL) {
        leaf = leaf_new(number);
    }
    int is_covered = leaf != NULL
        && leaf_commit(leaf, small_record_in(leaf, address)) == 0
        && leaf_commit(leaf, medium_record_in(leaf, address)) == 0;
    pool_map_unlock();
    return is_covered ? 0 : -1;
}
