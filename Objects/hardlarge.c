/* Large blocks of the hardened allocator: each in a separate mapping, between pages that
 * nobody can touch.
 *
 *   | guard | block ............................ canary | guard |
 *
 * A freed one has no memory any more, and its addresses wait for a while, so that a use of
 * it ends the program as well.  A process may have so many mappings only (vm.max_map_count),
 * so from a number of blocks on others have no guard pages.
 *
 * Owns the table of these blocks.  Calls virtualmem.c and virtualmove.c. */

#include "pycore_hardened.h"

enum {
    NGUARDED = 10000,           /* three mappings each */
    NWAITING = 1024,
    NGAPS = SIZE_MAX > UINT32_MAX ? 256 : 8,    /* of a page, before a block */
    CANARY = 0xa5,              /* the bytes from the request's end to that of its page */
};

struct large {
    unsigned char *block;       /* NULL: no entry */
    size_t size;                /* requested */
    size_t mapped;              /* bytes that can be used */
    size_t before, behind;      /* bytes of its guards */
};

spin_lock hard_large_lock;

/* By address, with linear probing; at most half of it is in use. */
static struct large *table;
static size_t table_size, nlarge, nguarded;

static struct hard_random gaps = HARD_RANDOM;

/* Freed ones whose addresses nobody gets yet: so many, and of so many bytes. */
static struct large waiting[NWAITING];
static unsigned next_waiting;
static size_t waiting_size;
#define MOST_WAITING (SIZE_MAX / 2 > UINT32_MAX ? (size_t)1 << 36 : (size_t)1 << 26)

/* Bytes of the guard before the next block; 0: it has none.  Where the system puts a mapping
 * can be told from the one before, and is the same in each child of a process: so some of the
 * pages are too many. */
static size_t
next_guard(void)
{
    spin_take(&hard_large_lock);
    int is_guarded = hard_options.guard && nguarded < NGUARDED;
    unsigned npages = is_guarded ? 1 + hard_random_below(&gaps, NGAPS) : 0;
    spin_release(&hard_large_lock);
    return npages * virtual_page_size();
}

/* Memory between guards.  block is NULL without. */
static struct large
map_between(size_t size, size_t before, size_t behind)
{
    struct large large = {NULL, size, virtual_whole_pages(size), before, behind};
    unsigned char *start = virtual_claim(before + large.mapped + behind);
    if (start != NULL && virtual_open(start + before, large.mapped) < 0) {
        virtual_free(start, before + large.mapped + behind);
        start = NULL;
    }
    large.block = start != NULL ? start + before : NULL;
    return large;
}

/* room: bytes that it may grow by, which are a part of its guard up to then. */
static struct large
map_block(size_t size, size_t room)
{
    size_t before = next_guard();
    return map_between(size, before, before != 0 ? virtual_page_size() + room : 0);
}

static void
unmap(const struct large *large)
{
    virtual_free(large->block - large->before,
                 large->before + large->mapped + large->behind);
}

/* The table; the lock is held. */

static size_t
place_of(const void *block)
{
    return ((uintptr_t)block >> 12) * (size_t)0x9E3779B1u & (table_size - 1);
}

static struct large *
find(const void *block)
{
    for (size_t i = table_size != 0 ? place_of(block) : 0; i < table_size;
         i = (i + 1) & (table_size - 1))
    {
        if (table[i].block == block) {
            return &table[i];
        }
        if (table[i].block == NULL) {
            break;
        }
    }
    return NULL;
}

static void
put(const struct large *large)
{
    size_t i = place_of(large->block);
    while (table[i].block != NULL) {
        i = (i + 1) & (table_size - 1);
    }
    table[i] = *large;
}

/* Entries behind a gap move up to where they are found. */
static void
take_out(struct large *entry)
{
    size_t gap = (size_t)(entry - table);
    entry->block = NULL;
    for (size_t i = (gap + 1) & (table_size - 1); table[i].block != NULL;
         i = (i + 1) & (table_size - 1))
    {
        struct large moved = table[i];
        table[i].block = NULL;
        put(&moved);
    }
}

static int
make_room(void)
{
    if (2 * (nlarge + 1) <= table_size) {
        return 0;
    }
    struct large *old = table;
    size_t old_size = table_size, page = virtual_page_size();
    size_t size = old_size != 0 ? 2 * old_size : 256;
    struct large memory = map_between(size * sizeof(struct large), page, page);
    if (memory.block == NULL) {
        return -1;
    }
    table = (struct large *)(void *)memory.block;
    table_size = size;
    for (size_t i = 0; i < old_size; i++) {
        if (old[i].block != NULL) {
            put(&old[i]);
        }
    }
    if (old != NULL) {
        memory.block = (unsigned char *)old;
        memory.mapped = virtual_whole_pages(old_size * sizeof(struct large));
        unmap(&memory);
    }
    return 0;
}

static int
add(const struct large *large)
{
    spin_take(&hard_large_lock);
    int result = make_room();
    if (result == 0) {
        put(large);
        nlarge++;
        nguarded += large->behind != 0;
    }
    spin_release(&hard_large_lock);
    return result;
}

/* The bytes behind the end. */

static void
mark_end(const struct large *large)
{
    memset(large->block + large->size, CANARY, large->mapped - large->size);
}

static const unsigned char *
wrong_behind(const struct large *large)
{
    for (size_t i = large->size; i < large->mapped; i++) {
        if (large->block[i] != CANARY) {
            return large->block + i;
        }
    }
    return NULL;
}

static int
is_inside(const struct large *large, const void *ptr)
{
    return large->block != NULL
        && (uintptr_t)ptr - (uintptr_t)large->block < large->mapped;
}

/* Of an address that is no large block: the entry that the address is in, or NULL. */
static COLD const struct large *
find_inside(const void *ptr, enum hard_finding *finding)
{
    for (unsigned i = 0; i < NWAITING; i++) {
        if (is_inside(&waiting[i], ptr)) {
            *finding = waiting[i].block == ptr ? FREED_TWICE : INSIDE_A_BLOCK;
            return &waiting[i];
        }
    }
    for (size_t i = 0; i < table_size; i++) {
        if (is_inside(&table[i], ptr)) {
            *finding = INSIDE_A_BLOCK;
            return &table[i];
        }
    }
    return NULL;
}

/* The entry of a block with its end as it was; not found: block is NULL. */
static struct large
checked_entry(char api_id, const void *ptr)
{
    struct hard_fault fault = {.address = ptr, .requested = SIZE_MAX, .right = CANARY};
    spin_take(&hard_large_lock);
    const struct large *entry = find(ptr);
    int is_one = entry != NULL;
    if (is_one) {
        fault.wrong = hard_options.canary ? wrong_behind(entry) : NULL;
        fault.finding = WRITTEN_BEHIND_ITS_END;
        fault.requested = entry->size;
    }
    else {
        entry = find_inside(ptr, &fault.finding);
    }
    const struct large large = entry != NULL ? *entry : (struct large){NULL, 0, 0, 0, 0};
    spin_release(&hard_large_lock);
    if (entry != NULL && (!is_one || fault.wrong != NULL)) {
        fault.block = large.block;
        fault.size = large.mapped;
        hard_fatal(api_id, &fault);
    }
    return large;
}

/* The one that has waited longest, or an empty place, gets free. */
static void
let_oldest_go(void)
{
    struct large *oldest = &waiting[next_waiting];
    if (oldest->block != NULL) {
        waiting_size -= oldest->mapped;
        unmap(oldest);
        oldest->block = NULL;
    }
    next_waiting = (next_waiting + 1) % NWAITING;
}

/* Its addresses wait, the memory goes at once. */
static void
let_wait(const struct large *large)
{
    if (large->mapped > MOST_WAITING || virtual_close(large->block, large->mapped) < 0) {
        unmap(large);
        return;
    }
    waiting_size += large->mapped;
    do {
        let_oldest_go();
    } while (waiting_size > MOST_WAITING);
    waiting[(next_waiting + NWAITING - 1) % NWAITING] = *large;
}

/* Addresses are what there is little of: ulimit -v, or 32 bits. */
static COLD void
let_all_go(void)
{
    spin_take(&hard_large_lock);
    for (unsigned i = 0; i < NWAITING; i++) {
        let_oldest_go();
    }
    spin_release(&hard_large_lock);
}

/* Blocks. */

static void *
new_block(size_t size, size_t room)
{
    if (size > PY_SSIZE_T_MAX - 3 * virtual_page_size()) {
        return NULL;
    }
    struct large large = map_block(size, room);
    if (UNLIKELY(large.block == NULL)) {
        let_all_go();
        large = map_block(size, 0);
    }
    if (large.block == NULL) {
        return NULL;
    }
    mark_end(&large);
    if (add(&large) < 0) {
        unmap(&large);
        return NULL;
    }
    return large.block;
}

void *
hard_large_malloc(size_t size)
{
    return new_block(size, 0);
}

static int
take_back(const void *ptr)
{
    spin_take(&hard_large_lock);
    struct large *entry = find(ptr);
    if (entry != NULL) {
        const struct large large = *entry;
        take_out(entry);
        nlarge--;
        nguarded -= large.behind != 0;
        let_wait(&large);
    }
    spin_release(&hard_large_lock);
    return entry != NULL;
}

/* Two threads that free one block: the second finds it among those that wait. */
int
hard_large_free(char api_id, void *ptr)
{
    if (checked_entry(api_id, ptr).block == NULL) {
        return -1;
    }
    return take_back(ptr) ? 0 : hard_large_free(api_id, ptr);
}

size_t
hard_large_size(char api_id, const void *ptr)
{
    return checked_entry(api_id, ptr).size;
}

/* More of its pages are opened, where a guard is left behind them. */
static int
has_pages(struct large *entry, size_t mapped)
{
    if (mapped <= entry->mapped || mapped - entry->mapped >= entry->behind) {
        return mapped == entry->mapped;
    }
    size_t more = mapped - entry->mapped;
    if (virtual_open(entry->block + entry->mapped, more) < 0) {
        return 0;
    }
    entry->mapped = mapped;
    entry->behind -= more;
    return 1;
}

static int
resize_there(const void *ptr, size_t size)
{
    spin_take(&hard_large_lock);
    struct large *entry = find(ptr);
    int is_there = entry != NULL && has_pages(entry, virtual_whole_pages(size));
    if (is_there) {
        entry->size = size;
        mark_end(entry);
    }
    spin_release(&hard_large_lock);
    return is_there;
}

/* Addresses behind a block that grew: it may grow again, up to twice the size, in its place. */
static size_t
room_to_grow(size_t old_size, size_t size)
{
    return size > old_size && size < MOST_WAITING / 4 ? virtual_whole_pages(size) : 0;
}

/* Its pages move, where the system can: a large block that grows is not copied. */
void *
hard_large_realloc(char api_id, void *ptr, size_t old_size, size_t size)
{
    if (resize_there(ptr, size)) {
        return ptr;
    }
    unsigned char *block = new_block(size, room_to_grow(old_size, size));
    if (block == NULL) {
        return NULL;
    }
    size_t mapped = virtual_whole_pages(size), old_mapped = virtual_whole_pages(old_size);
    size_t data = old_size < size ? old_size : size;
    size_t pages = old_mapped < mapped ? old_mapped : mapped;
    if (virtual_move(ptr, block, pages) < 0) {
        memcpy(block, ptr, data);
    }
    else {
        memset(block + data, 0, pages - data);
        if (pages == mapped) {
            memset(block + size, CANARY, mapped - size);
        }
    }
    if (!take_back(ptr)) {
        hard_large_free(api_id, ptr);       /* another thread did, and this is found */
    }
    return block;
}

void
hard_large_begin_in_child(void)
{
    gaps.used = sizeof(gaps.bytes);
}

size_t
hard_large_count(void)
{
    spin_take(&hard_large_lock);
    size_t n = nlarge;
    spin_release(&hard_large_lock);
    return n;
}
