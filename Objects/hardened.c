/* The hardened allocator: what a program does wrong with its memory ends it, before that is
 * used.
 *
 *   free slots of slabs  -->  ready blocks  -->  in use  -->  quarantine  --+
 *           ^                 (a random one)                 (a while)     |
 *           +------------------------ those that are too many <-----------+
 *
 * A block is told by its slab and its number, and its state lies apart: no address and no
 * mark is in a block.  A free block is full of DEADBYTE, which is checked when it is handed
 * out.  Behind the end of each request is at least a byte that is checked when it is freed.
 *
 * Requests of the mem and object domains of up to 512 bytes have a heap that the GIL
 * guards, as in CPython.  All others have one with a lock, as they never need the GIL.
 *
 * Owns the two heaps.  Calls hardrings.c, hardlarge.c and hardoptions.c; malloc for what is
 * no block, where that was asked for. */

#include "pycore_hardrings.h"
#include "pycore_hardblocks.h"
#include "pycore_geometry.h"

#include <pthread.h>
#include <stdlib.h>

const char _PyMem_HardenedDomains[3] = {'r', 'm', 'o'};

/* Of a heap that has none yet. */
static struct ready no_classes[NCLASSES];

enum { NORDERS = 64 };
static struct heap_of_blocks {
    spin_lock lock;
    int is_locked;              /* by whoever is in the heap */
    atomic_int is_shared;       /* else the GIL is the lock */
    atomic_int is_in;           /* a thread, by the GIL */
    struct ready *classes;
    struct hard_random random;
    uint64_t orders[NORDERS];   /* of a hand: all numbers below 16; [0] is 0: none yet */
} hard_heaps[2] = {
    {.classes = no_classes, .random = HARD_RANDOM},
    {.classes = no_classes, .random = HARD_RANDOM, .is_shared = 1},
};
enum { OF_GIL, OF_ALL };

/* Blocks of the first one that others freed, who may have no GIL. */
enum { NGIVEN_BACK = 4096 };
static struct {
    spin_lock lock;
    atomic_uint n;
    handle blocks[NGIVEN_BACK];
} given_back;

static inline struct heap_of_blocks *
heap_of_request(const char *domain, size_t size)
{
    return size <= SMALL_REQUEST_THRESHOLD && *domain != 'r' ? &hard_heaps[OF_GIL]
        : &hard_heaps[OF_ALL];
}

/* While the GIL is the lock.  A thread without it may share the heap at any time: no barrier
 * orders the two, see _PyMem_ShareHardened(). */
static inline int
heap_enter_by_gil(struct heap_of_blocks *heap)
{
    atomic_store_explicit(&heap->is_in, 1, memory_order_relaxed);
    atomic_signal_fence(memory_order_seq_cst);
    if (LIKELY(!atomic_load_explicit(&heap->is_shared, memory_order_acquire))) {
        return 1;
    }
    atomic_store_explicit(&heap->is_in, 0, memory_order_relaxed);
    return 0;
}

static inline void
heap_leave_by_gil(struct heap_of_blocks *heap)
{
    atomic_store_explicit(&heap->is_in, 0, memory_order_release);
}

static inline void
heap_take(struct heap_of_blocks *heap)
{
    if (atomic_load_explicit(&heap->is_shared, memory_order_relaxed)
        || !heap_enter_by_gil(heap))
    {
        spin_take(&heap->lock);
        heap->is_locked = 1;
    }
}

static inline void
heap_release(struct heap_of_blocks *heap)
{
    if (heap->is_locked) {
        heap->is_locked = 0;
        spin_release(&heap->lock);
    }
    else {
        heap_leave_by_gil(heap);
    }
}

/* heap is NULL where nobody took it. */
static COLD void _Py_NO_RETURN
heap_fault(struct heap_of_blocks *heap, char api_id, const struct hard_fault *fault)
{
    if (heap != NULL) {
        heap_release(heap);
    }
    hard_fatal(api_id, fault);
}

static COLD void _Py_NO_RETURN
fault_of_free_block(struct heap_of_blocks *heap, const char *domain, unsigned char *block,
                    size_t size)
{
    const unsigned char *wrong = first_not_dead(block, size);
    const struct hard_fault fault = {
        WRITTEN_AFTER_FREE, block, block, size, SIZE_MAX, wrong, DEADBYTE};
    heap_fault(heap, *domain, &fault);
}

/* Forks, and the first request. */

/* The heap of the GIL.  The thread that forks may not have that: then is_in is another's. */
static int fork_locked;

static void
take_all(void)
{
    spin_take(&hard_heaps[OF_ALL].lock);
    if (hard_heaps[OF_GIL].is_shared) {
        spin_take(&hard_heaps[OF_GIL].lock);
        fork_locked = 1;
    }
    spin_take(&given_back.lock);
    spin_take(&hard_large_lock);
    spin_take(&hard_slabs_lock);
}

static void
release_all(void)
{
    spin_release(&hard_slabs_lock);
    spin_release(&hard_large_lock);
    spin_release(&given_back.lock);
    if (fork_locked) {
        fork_locked = 0;
        spin_release(&hard_heaps[OF_GIL].lock);
    }
    spin_release(&hard_heaps[OF_ALL].lock);
}

/* The child's order is its own, but in a heap that a thread was in that is not in the child. */
static void
begin_in_child(void)
{
    for (int i = 0; i < 2; i++) {
        struct heap_of_blocks *heap = &hard_heaps[i];
        heap->random.used = sizeof(heap->random.bytes);
        heap->orders[0] = 0;
        for (unsigned number = 0; !heap->is_in && number < NCLASSES; number++) {
            hard_hand_put_back(&heap->classes[number]);
        }
        heap->is_in = 0;
    }
    hard_large_begin_in_child();
    release_all();
}

uint64_t hard_canary;

static void
make_canary(void)
{
    unsigned char bytes[CANARY_SIZE];
    virtual_random(bytes, sizeof(bytes));
    for (unsigned i = 0; i < CANARY_SIZE; i++) {
        bytes[i] |= bytes[i] == 0;
    }
    memcpy(&hard_canary, bytes, sizeof(hard_canary));
}

static void
begin_once(void)
{
    hard_options_read();
    make_canary();
    if (!hard_options.fill || !hard_options.canary) {
        hard_heaps[OF_GIL].is_shared = 1;       /* request_by_gil() has no look for these */
    }
    pthread_atfork(take_all, release_all, begin_in_child);
}

/* Not by the first request: another thread may fork meanwhile, and its child would find a
 * lock that nobody releases. */
#ifdef WITH_HARDENED
__attribute__((constructor))
#endif
void
_PyMem_BeginHardened(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, begin_once);
}

static COLD int
heap_begin(struct heap_of_blocks *heap)
{
    _PyMem_BeginHardened();     /* where it was set as any other allocator */
    struct ready *classes = hard_metadata(NCLASSES * sizeof(struct ready));
    if (classes == NULL) {
        return -1;
    }
    heap->classes = classes;
    return 0;
}

/* Handing out. */

/* Blocks that others gave back come to their heap every 32 requests. */
static COLD void
take_in_given_back(struct heap_of_blocks *heap)
{
    spin_take(&given_back.lock);
    for (unsigned i = 0; i < given_back.n; i++) {
        const struct hard_slab *slab = &hard_slab_records[handle_slab(given_back.blocks[i])];
        hard_quarantine(&heap->classes[slab->class], given_back.blocks[i]);
    }
    given_back.n = 0;
    spin_release(&given_back.lock);
}

/* All numbers below 16, mixed. */
static uint64_t
mixed_numbers(struct hard_random *random)
{
    uint64_t order = 0;
    for (unsigned n = 0; n < MOST_IN_HAND; n++) {
        unsigned at = 4 * hard_random_below(random, n + 1);
        order |= (order >> at & 15) << 4 * n;
        order = (order & ~((uint64_t)15 << at)) | (uint64_t)n << at;
    }
    return order;
}

static COLD void
make_orders(struct heap_of_blocks *heap)
{
    for (unsigned i = 0; i < NORDERS; i++) {
        heap->orders[i] = mixed_numbers(&heap->random);
    }
}

/* One of many, as it is or with other numbers. */
static uint64_t
random_order(struct heap_of_blocks *heap)
{
    if (UNLIKELY(heap->orders[0] == 0)) {
        make_orders(heap);
    }
    unsigned other = hard_random_below(&heap->random, MOST_IN_HAND);
    return heap->orders[hard_random_below(&heap->random, NORDERS)]
        ^ other * (UINT64_MAX / (MOST_IN_HAND - 1));
}

static NOINLINE int
fill_hand(struct heap_of_blocks *heap, unsigned number)
{
    if (UNLIKELY(heap->classes == no_classes) && heap_begin(heap) < 0) {
        return -1;
    }
    if (heap == &hard_heaps[OF_GIL]
        && atomic_load_explicit(&given_back.n, memory_order_relaxed) != 0)
    {
        take_in_given_back(heap);
    }
    return hard_hand_fill(&heap->classes[number], number, (unsigned)(heap - hard_heaps),
                          random_order(heap));
}

static ALWAYS_INLINE uint16_t *
state_of(handle block)
{
    return &hard_slab_records[handle_slab(block)].states[handle_number(block)];
}

/* The next block of the hand is in use from now on. */
static ALWAYS_INLINE void *
hand_out(struct ready *class, handle block, size_t size)
{
    leaves_hand(class);
    unsigned char *start = handle_address(block);
    unsigned slack = class->blocksize - (unsigned)size;
    *state_of(block) = (uint16_t)slack;
    mark_end(start + size, slack);
    return start;
}

static ALWAYS_INLINE void *
heap_malloc(struct heap_of_blocks *heap, const char *domain, size_t size)
{
    unsigned number = class_of(size);
    struct ready *class = &heap->classes[number];
    if (UNLIKELY(class->nhand == 0)) {
        if (fill_hand(heap, number) < 0) {
            return NULL;
        }
        class = &heap->classes[number];
    }
    handle block = next_in_hand(class);
    unsigned blocksize = class->blocksize;
    unsigned char *start = handle_address(block);
    if (!(block & FRESH) && hard_options.fill && UNLIKELY(!is_dead(start, blocksize))) {
        fault_of_free_block(heap, domain, start, blocksize);
    }
    return hand_out(class, block, size);
}

static NOINLINE void *
request_otherwise(const char *domain, size_t size)
{
    if (UNLIKELY(size > HARD_MEDIUM_MAX)) {
        return hard_large_malloc(size);
    }
    struct heap_of_blocks *heap = heap_of_request(domain, size);
    heap_take(heap);
    void *block = heap_malloc(heap, domain, size);
    heap_release(heap);
    return block;
}

/* The common case calls nothing, so that no register is saved for it.  All else, and what is
 * wrong, is the other way's. */
static ALWAYS_INLINE void *
request_by_gil(const char *domain, size_t size)
{
    struct heap_of_blocks *heap = &hard_heaps[OF_GIL];
    if (UNLIKELY(size > SMALL_REQUEST_THRESHOLD) || !heap_enter_by_gil(heap)) {
        return request_otherwise(domain, size);
    }
    struct ready *class = &heap->classes[size / 16];
    if (LIKELY(class->nhand != 0)) {
        handle block = next_in_hand(class);
        if (LIKELY(block & FRESH || is_dead(handle_address(block), class->blocksize))) {
            void *start = hand_out(class, block, size);
            heap_leave_by_gil(heap);
            return start;
        }
    }
    heap_leave_by_gil(heap);
    return request_otherwise(domain, size);
}

static inline void *
request(const char *domain, size_t size)
{
    return *domain == 'r' ? request_otherwise(domain, size) : request_by_gil(domain, size);
}

/* Taking back. */

struct place {
    struct hard_slab *slab;
    uint16_t *state;
    uint32_t number;
    int is_start;               /* the address is where a block begins */
};

/* Which block an address is in; slab is NULL where it is in none of a slab.  Behind the last
 * block of a slab is a state that no block has. */
static ALWAYS_INLINE struct place
find_place(const void *ptr)
{
    struct place place = {NULL, NULL, 0, 0};
    size_t offset = (uintptr_t)ptr - (uintptr_t)hard_slabs_start;
    if (UNLIKELY(offset >= atomic_load_explicit(&hard_slabs_size, memory_order_acquire))) {
        return place;
    }
    struct hard_slab *slab = &hard_slab_records[offset >> HARD_SLAB_BITS];
    size_t inside = (offset & (HARD_SLAB_SIZE - 1)) - slab->first;
    if (UNLIKELY(slab->states == NULL || inside >= HARD_SLAB_SIZE)) {
        return place;
    }
    uint64_t quotient = (uint64_t)inside * slab->reciprocal;
    uint32_t number = (uint32_t)(quotient >> 32);
    return (struct place){slab, &slab->states[number], number,
                          (uint32_t)quotient < slab->reciprocal};
}

static unsigned char *
block_of_place(struct place place)
{
    size_t slab_number = (size_t)(place.slab - hard_slab_records);
    return hard_slab_address(slab_number) + place.slab->first
        + place.number * (size_t)place.slab->blocksize;
}

static COLD struct hard_fault
fault_of_address(struct place place, const void *ptr)
{
    unsigned state = *place.state;
    size_t size = place.slab->blocksize;
    return (struct hard_fault){
        .finding = state == NEVER_USED || state == WAITS_FRESH ? NOT_A_BLOCK
            : !place.is_start ? INSIDE_A_BLOCK : FREED_TWICE,
        .address = ptr,
        .block = block_of_place(place),
        .size = size,
        .requested = hard_is_in_use(state) ? size - state : SIZE_MAX,
    };
}

static COLD struct hard_fault
fault_of_end(struct place place, const void *block, unsigned slack)
{
    size_t size = place.slab->blocksize;
    const unsigned char *end = (const unsigned char *)block + size - slack;
    unsigned char canary[CANARY_SIZE];
    memcpy(canary, &hard_canary, CANARY_SIZE);
    const unsigned char *right = canary + bytes_before_canary(slack);
    unsigned i = 0;
    while (i < CANARY_SIZE - 1 && end[i] == right[i]) {
        i++;
    }
    return (struct hard_fault){WRITTEN_BEHIND_ITS_END, block, block, size,
                               size - slack, end + i, right[i]};
}

/* The bytes behind the request's end in its block, after all is found to be right; the heap
 * is the caller's. */
static inline unsigned
check_block(struct heap_of_blocks *heap, const char *domain, struct place place,
            const void *ptr)
{
    unsigned slack = *place.state;
    if (UNLIKELY(!place.is_start || !hard_is_in_use(slack))) {
        struct hard_fault fault = fault_of_address(place, ptr);
        heap_fault(heap, *domain, &fault);
    }
    if (hard_options.canary
        && UNLIKELY(!end_is_marked((const unsigned char *)ptr + place.slab->blocksize - slack,
                                   slack)))
    {
        struct hard_fault fault = fault_of_end(place, ptr, slack);
        heap_fault(heap, *domain, &fault);
    }
    return slack;
}

static ALWAYS_INLINE handle
handle_of_place(struct place place, const void *ptr)
{
    return handle_of((uintptr_t)ptr - (uintptr_t)hard_slabs_start, place.number);
}

/* All of a free that is the block's own. */
static ALWAYS_INLINE void
take_back(struct heap_of_blocks *heap, const char *domain, struct place place, void *ptr)
{
    check_block(heap, domain, place, ptr);
    if (hard_options.fill) {
        memset(ptr, DEADBYTE, place.slab->blocksize);
    }
    *place.state = WAITS_DEAD;
}

static ALWAYS_INLINE void
heap_free(struct heap_of_blocks *heap, const char *domain, struct place place, void *ptr)
{
    take_back(heap, domain, place, ptr);
    hard_quarantine(&heap->classes[place.slab->class], handle_of_place(place, ptr));
}

static inline struct heap_of_blocks *
heap_of_block(struct place place)
{
    return place.slab->heap == OF_GIL ? &hard_heaps[OF_GIL] : &hard_heaps[OF_ALL];
}

/* A block that the GIL guards, given back through the raw domain, which has no GIL: the heap
 * takes it in later. */
static COLD void
free_for_gil(const char *domain, struct place place, void *ptr)
{
    take_back(NULL, domain, place, ptr);
    spin_take(&given_back.lock);
    unsigned n = given_back.n;
    if (n < NGIVEN_BACK) {      /* more than that are lost */
        given_back.blocks[n] = handle_of_place(place, ptr);
        atomic_store_explicit(&given_back.n, n + 1, memory_order_relaxed);
    }
    spin_release(&given_back.lock);
}

/* A slab that nobody has is as it was when the last block of it was freed. */
static COLD enum hard_finding
finding_in_slab(const void *ptr)
{
    size_t offset = (uintptr_t)ptr - (uintptr_t)hard_slabs_start;
    if (offset >= hard_slabs_size) {
        return NOT_A_BLOCK;
    }
    const struct hard_slab *slab = &hard_slab_records[offset >> HARD_SLAB_BITS];
    size_t inside = (offset & (HARD_SLAB_SIZE - 1)) - slab->first;
    if (slab->blocksize == 0 || inside / slab->blocksize >= slab->ncut) {
        return NOT_A_BLOCK;
    }
    return inside % slab->blocksize == 0 ? FREED_TWICE : INSIDE_A_BLOCK;
}

static COLD void _Py_NO_RETURN
fault_of_stranger(const char *domain, const void *ptr)
{
    const struct hard_fault fault = {finding_in_slab(ptr), ptr, NULL, 0, SIZE_MAX, NULL, 0};
    hard_fatal(*domain, &fault);
}

static int
may_be_mallocs(const void *ptr)
{
    return hard_options.foreign
        && (uintptr_t)ptr - (uintptr_t)hard_slabs_start >= hard_slabs_size;
}

static COLD void
free_elsewhere(const char *domain, void *ptr)
{
    if (hard_large_free(*domain, ptr) == 0) {
        return;
    }
    if (!may_be_mallocs(ptr)) {
        fault_of_stranger(domain, ptr);
    }
    free(ptr);
}

/* Resizing. */

static void *
move(const char *domain, void *ptr, size_t old_size, size_t size)
{
    void *moved = request(domain, size);
    if (moved != NULL) {
        memcpy(moved, ptr, old_size < size ? old_size : size);
        (*domain == 'r' ? _PyMem_HardenedRawFree : _PyMem_HardenedFree)((void *)domain, ptr);
    }
    return moved;
}

static COLD void *
resize_elsewhere(const char *domain, void *ptr, size_t size)
{
    size_t old_size = hard_large_size(*domain, ptr);
    if (old_size != 0) {
        return size > HARD_MEDIUM_MAX ? hard_large_realloc(*domain, ptr, old_size, size)
            : move(domain, ptr, old_size, size);
    }
    if (!may_be_mallocs(ptr)) {
        fault_of_stranger(domain, ptr);
    }
    return realloc(ptr, size != 0 ? size : 1);
}

/* In its block where that is of the right class; else NULL, and how much of it is data. */
static void *
resize_in_place(const char *domain, struct place place, void *ptr, size_t size,
                size_t *old_size)
{
    struct heap_of_blocks *heap = heap_of_block(place);
    int is_of_all = heap == &hard_heaps[OF_ALL];     /* else all of it is the block's own */
    if (is_of_all) {
        heap_take(heap);
    }
    unsigned slack = check_block(is_of_all ? heap : NULL, domain, place, ptr);
    size_t blocksize = place.slab->blocksize;
    *old_size = blocksize - slack;
    int is_there = size <= HARD_MEDIUM_MAX && class_of(size) == place.slab->class;
    if (is_there) {
        slack = (unsigned)(blocksize - size);
        *place.state = (uint16_t)slack;
        mark_end_again((unsigned char *)ptr + size, slack);
    }
    if (is_of_all) {
        heap_release(heap);
    }
    return is_there ? ptr : NULL;
}

static NOINLINE void
free_otherwise(const char *domain, void *ptr)
{
    struct place place = find_place(ptr);
    if (UNLIKELY(place.slab == NULL)) {
        if (ptr != NULL) {
            free_elsewhere(domain, ptr);
        }
        return;
    }
    struct heap_of_blocks *heap = heap_of_block(place);
    if (heap == &hard_heaps[OF_GIL] && *domain == 'r') {
        free_for_gil(domain, place, ptr);
        return;
    }
    heap_take(heap);
    heap_free(heap, domain, place, ptr);
    heap_release(heap);
}

/* See request_by_gil(). */
static ALWAYS_INLINE void
free_by_gil(const char *domain, void *ptr)
{
    struct heap_of_blocks *heap = &hard_heaps[OF_GIL];
    struct place place = find_place(ptr);
    if (UNLIKELY(place.slab == NULL) || place.slab->heap != OF_GIL
        || !heap_enter_by_gil(heap))
    {
        free_otherwise(domain, ptr);
        return;
    }
    unsigned slack = *place.state, blocksize = place.slab->blocksize;
    struct ready *class = &heap->classes[place.slab->class];
    if (LIKELY(place.is_start && hard_is_in_use(slack) && !ring_is_full(class)
               && end_is_marked((unsigned char *)ptr + blocksize - slack, slack)))
    {
        make_dead(ptr, blocksize);
        *place.state = WAITS_DEAD;
        ring_append(class, handle_of_place(place, ptr));
        heap_leave_by_gil(heap);
        return;
    }
    heap_leave_by_gil(heap);
    free_otherwise(domain, ptr);
}

/* The allocator. */

void *
_PyMem_HardenedRawMalloc(void *ctx, size_t size)
{
    return request_otherwise(ctx, size);
}

void *
_PyMem_HardenedMalloc(void *ctx, size_t size)
{
    return request_by_gil(ctx, size);
}

void *
_PyMem_HardenedCalloc(void *ctx, size_t nelem, size_t elsize)
{
    size_t size = nelem * elsize;       /* no overflow: see PyMem_RawCalloc() */
    void *block = request(ctx, size);
    return block != NULL && size <= HARD_MEDIUM_MAX ? memset(block, 0, size) : block;
}

void
_PyMem_HardenedRawFree(void *ctx, void *ptr)
{
    free_otherwise(ctx, ptr);
}

void
_PyMem_HardenedFree(void *ctx, void *ptr)
{
    free_by_gil(ctx, ptr);
}

void *
_PyMem_HardenedRealloc(void *ctx, void *ptr, size_t size)
{
    const char *domain = ctx;
    size_t old_size;
    if (ptr == NULL) {
        return request(domain, size);
    }
    struct place place = find_place(ptr);
    if (UNLIKELY(place.slab == NULL)) {
        return resize_elsewhere(domain, ptr, size);
    }
    void *same = resize_in_place(domain, place, ptr, size, &old_size);
    return same != NULL ? same : move(domain, ptr, old_size, size);
}

/* The thread that has the GIL may be in the heap.  After the barrier either it sees that the
 * heap is shared, or its is_in is seen here. */
void
_PyMem_ShareHardened(void)
{
    struct heap_of_blocks *heap = &hard_heaps[OF_GIL];
    heap->is_shared = 1;
    for (int i = 0; virtual_barrier() != 0 && i < 1000; i++) {
        virtual_yield();        /* for longer than a processor keeps what it writes */
    }
    while (atomic_load_explicit(&heap->is_in, memory_order_acquire)) {
        virtual_yield();
    }
}

/* Of all classes, blocks that are ready go back to their slabs. */
size_t
_PyMem_TrimHardened(void)
{
    for (int i = 0; i < 2; i++) {
        struct heap_of_blocks *heap = &hard_heaps[i];
        heap_take(heap);
        for (unsigned number = 0; number < NCLASSES; number++) {
            hard_ready_give_back(&heap->classes[number], 0);
        }
        heap_release(heap);
    }
    return hard_slabs_trim();
}

static int
count_in_use(void *count, uint32_t first, unsigned nslabs)
{
    for (uint32_t number = first; number < first + nslabs; number++) {
        *(size_t *)count += hard_slab_count(&hard_slab_records[number]).used;
    }
    return 0;
}

Py_ssize_t
_PyMem_CountHardened(void)
{
    size_t count = hard_large_count();
    hard_arenas_visit(count_in_use, &count);
    return (Py_ssize_t)count;
}
