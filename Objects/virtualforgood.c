/* Memory that stays for as long as the process does: structures of heaps and arenas.
 *
 * Calls virtualmem.c. */

#include "pycore_virtualmem.h"

#include <stdatomic.h>

/* Each block of memory is cut from its low end; where the next piece is cut says whether
 * there is room: blocks are aligned to their size. */
void *
virtual_alloc_for_good(size_t size)
{
    static _Atomic uintptr_t next;
    const size_t block = (size_t)1 << 16;
    size = (size + 127) & ~(size_t)127;
    uintptr_t ptr = atomic_load_explicit(&next, memory_order_acquire);
    for (;;) {
        size_t used = ptr & (block - 1);
        if (used != 0 && block - used >= size) {
            if (atomic_compare_exchange_weak(&next, &ptr, ptr + size)) {
                return (void *)ptr;
            }
            continue;
        }
        uintptr_t fresh = (uintptr_t)virtual_alloc(block, block);
        if (fresh == 0) {
            return NULL;
        }
        if (atomic_compare_exchange_strong(&next, &ptr, fresh + size)) {
            return (void *)fresh;
        }
        virtual_free((void *)fresh, block);
    }
}
