/* Attacks: misuse that wants something of the allocator, with the knowledge of an attacker
 * who has the allocator's source and the addresses of blocks that are the attacker's.
 *
 * Each runs in a process of its own and tells whether it got what it wanted: a block with
 * two owners, a block over the allocator's records, an address of the attacker's choice,
 * what was in a freed block, or a layout that was foretold.  attacktable.py has the list. */

#include "misuse.h"

#include <stdio.h>
#include <stdlib.h>

#define MOST 1000           /* blocks that an attacker may ask for */
#define MOST_LARGE 60
#define WORD 0x4141414141414141u
#define SECRET 0x5ec5e75ec5e75ec5u

/* Where an attacker wants a block to be: no allocator's memory. */
static _Alignas(4096) unsigned char target[8192];

static int
most(size_t size)
{
    return size > 32 * 1024 ? MOST_LARGE : MOST;
}

static void
fill(void *block, uintptr_t value, size_t size)
{
    for (size_t i = 0; i + sizeof(uintptr_t) <= size; i += sizeof(uintptr_t)) {
        *word_at((char *)block + i) = value;
    }
}

static int
has(void *block, uintptr_t value, size_t size)
{
    for (size_t i = 0; i + sizeof(uintptr_t) <= size; i += sizeof(uintptr_t)) {
        if (*word_at((char *)block + i) == value) {
            return 1;
        }
    }
    return 0;
}

/* Blocks that live before, so many that new ones are not in holes. */
static void
live_before(const struct domain *d, size_t size, unsigned seed)
{
    int count = size > 32 * 1024 ? 3 : 150 + (int)(seed * 7 % 100);
    for (int i = 0; i < count; i++) {
        d->malloc(size);
        if (i % 10 == 0) {
            d->free(d->malloc(size * 2));
        }
    }
}

static void
take_all(const struct domain *d, size_t size, void **blocks, int count)
{
    for (int i = 0; i < count; i++) {
        blocks[i] = d->malloc(size);
    }
}

static int
by_address(const void *one, const void *other)
{
    uintptr_t left = *(const uintptr_t *)one, right = *(const uintptr_t *)other;
    return (left > right) - (left < right);
}

/* Is a block among the next ones that shares memory with another one, or with live? */
static int
two_owners(const struct domain *d, size_t size, void *live)
{
    static uintptr_t blocks[MOST + 1];
    int count = most(size);
    take_all(d, size, (void **)blocks, count);
    if (live != NULL) {
        blocks[count++] = (uintptr_t)live;
    }
    qsort(blocks, (size_t)count, sizeof(blocks[0]), by_address);
    for (int i = 0; i + 1 < count; i++) {
        if (blocks[i] != 0 && blocks[i + 1] - blocks[i] < size) {
            return 1;
        }
    }
    return 0;
}

static int
is_given(const struct domain *d, size_t size, void *wanted)
{
    for (int i = 0; i < most(size); i++) {
        if (d->malloc(size) == wanted) {
            return 1;
        }
    }
    return 0;
}

/* Two owners. */

static int
second_free_at_once(const struct domain *d, size_t size, unsigned seed)
{
    live_before(d, size, seed);
    void *block = d->malloc(size);
    d->free(block);
    d->free(block);
    return two_owners(d, size, NULL);
}

static int
second_free_after_another(const struct domain *d, size_t size, unsigned seed)
{
    live_before(d, size, seed);
    void *block = d->malloc(size), *other = d->malloc(size);
    d->free(block);
    d->free(other);
    d->free(block);
    return two_owners(d, size, NULL);
}

static int
second_free_late(const struct domain *d, size_t size, unsigned seed)
{
    void *others[16];
    live_before(d, size, seed);
    void *block = d->malloc(size);
    take_all(d, size, others, 16);
    d->free(block);
    for (int i = 0; i < 16; i++) {
        d->free(others[i]);
    }
    live_before(d, size * 3, seed);
    d->free(block);
    return two_owners(d, size, NULL);
}

static int
second_free_wiped(const struct domain *d, size_t size, unsigned seed)
{
    live_before(d, size, seed);
    void *block = d->malloc(size), *other = d->malloc(size);
    d->free(other);
    d->free(block);
    fill(block, 0, size < 64 ? size : 64);
    d->free(block);
    return two_owners(d, size, NULL);
}

static int
second_free_in_thread(const struct domain *d, size_t size, unsigned seed)
{
    struct how how = {d, d, size, THREAD, d->free == PyMem_RawFree};
    live_before(d, size, seed);
    void *block = d->malloc(size);
    d->free(block);
    free_in_place(&how, block);
    return two_owners(d, size, NULL);
}

/* Others come and go until somebody has the block again: a quarantine is driven out. */
static int
is_given_again(const struct domain *d, size_t size, void *block)
{
    static void *blocks[MOST];
    for (int round = 0; round < 20; round++) {
        int count = most(size), found = 0;
        take_all(d, size, blocks, count);
        for (int i = 0; i < count; i++) {
            found += blocks[i] == block;
        }
        for (int i = 0; i < count; i++) {
            if (blocks[i] != block) {
                d->free(blocks[i]);
            }
        }
        if (found) {
            return 1;
        }
    }
    return 0;
}

/* The block was handed out to somebody else meanwhile, who gets it taken away. */
static int
second_free_of_reused(const struct domain *d, size_t size, unsigned seed)
{
    live_before(d, size, seed);
    void *block = d->malloc(size);
    d->free(block);
    if (!is_given_again(d, size, block)) {
        return 0;
    }
    d->free(block);
    return is_given_again(d, size, block);
}

static int
realloc_of_freed(const struct domain *d, size_t size, unsigned seed)
{
    live_before(d, size, seed);
    void *block = d->malloc(size);
    d->free(block);
    return two_owners(d, size, d->realloc(block, size));
}

static int
free_inside_freed(const struct domain *d, size_t size, unsigned seed)
{
    live_before(d, size, seed);
    char *block = d->malloc(size);
    d->free(block);
    d->free(block + 16);
    return two_owners(d, size, NULL);
}

static int
free_inside_live(const struct domain *d, size_t size, unsigned seed)
{
    live_before(d, size, seed);
    char *block = d->malloc(size);
    d->free(block + 16);
    return two_owners(d, size, block);
}

/* What glibc takes for the header of a block of this size. */
static void
forge_header(char *address, size_t size)
{
    *word_at(address - 16) = 0;
    *word_at(address - 8) = ((size + 8 + 15) & ~(size_t)15) | 1;
}

static int
free_inside_live_forged(const struct domain *d, size_t size, unsigned seed)
{
    live_before(d, size, seed);
    char *block = d->malloc(size);
    forge_header(block + 16, size);
    d->free(block + 16);
    return two_owners(d, size, block);
}

/* One byte of what may be a link is changed: no address need be known. */
static int
link_by_one_byte(const struct domain *d, size_t size, unsigned seed)
{
    live_before(d, size, seed);
    void *one = d->malloc(size), *other = d->malloc(size);
    d->free(one);
    d->free(other);
    *(byte *)other ^= 0x10;
    return two_owners(d, size, NULL);
}

/* An address of the attacker's choice. */

static int
free_forged_block(const struct domain *d, size_t size, unsigned seed)
{
    char *block = (char *)target + 64;
    live_before(d, size, seed);
    forge_header(block, size);
    forge_header(block + ((size + 8 + 15) & ~(size_t)15), 64);
    d->free(block);
    return is_given(d, size, block);
}

/* A link as most allocators have it, and as glibc has it since 2.32. */
static uintptr_t
plain_link(void *to, void *place)
{
    (void)place;
    return (uintptr_t)to;
}

static uintptr_t
masked_link(void *to, void *place)
{
    return (uintptr_t)to ^ ((uintptr_t)place >> 12);
}

typedef uintptr_t link_function(void *, void *);

static int
forge_link(const struct domain *d, size_t size, void *to, link_function *link)
{
    void *one = d->malloc(size), *other = d->malloc(size);
    d->free(one);
    d->free(other);
    *word_at(other) = link(to, other);
    return is_given(d, size, to);
}

static int
link_forged(const struct domain *d, size_t size, unsigned seed)
{
    live_before(d, size, seed);
    return forge_link(d, size, target, plain_link);
}

static int
masked_link_forged(const struct domain *d, size_t size, unsigned seed)
{
    live_before(d, size, seed);
    return forge_link(d, size, target, masked_link);
}

/* Two blocks that lie side by side, the left one first. */
static void
find_neighbours(const struct domain *d, size_t size, char *pair[2])
{
    enum { COUNT = 60 };
    uintptr_t blocks[COUNT], nearest = UINTPTR_MAX;
    take_all(d, size, (void **)blocks, COUNT);
    qsort(blocks, COUNT, sizeof(blocks[0]), by_address);
    for (int i = 0; i + 1 < COUNT; i++) {
        if (blocks[i + 1] - blocks[i] <= nearest) {
            nearest = blocks[i + 1] - blocks[i];
            pair[0] = (char *)blocks[i];
            pair[1] = (char *)blocks[i + 1];
        }
    }
}

/* All from the left block's end to the first word of the right one. */
static void
overflow(char *pair[2], size_t size, uintptr_t value)
{
    char *place = pair[0] + size;
    for (; place <= pair[1] && place < pair[0] + size + 8192; place += sizeof(value)) {
        *word_at(place) = value;
    }
}

static int
overflow_into_freed_by(const struct domain *d, size_t size, unsigned seed,
                       link_function *link)
{
    char *pair[2];
    live_before(d, size, seed);
    find_neighbours(d, size, pair);
    d->free(d->malloc(size));
    d->free(pair[1]);
    overflow(pair, size, link(target, pair[1]));
    return is_given(d, size, target);
}

static int
overflow_into_freed(const struct domain *d, size_t size, unsigned seed)
{
    return overflow_into_freed_by(d, size, seed, plain_link);
}

static int
masked_overflow_into_freed(const struct domain *d, size_t size, unsigned seed)
{
    return overflow_into_freed_by(d, size, seed, masked_link);
}

/* Records. */

#define POOL ((uintptr_t)1 << 14)       /* of CPython's own, since 3.10 */
#define POOL_HEADER 48
#define POOL_FREEBLOCK 8                /* in the header: the first free block */

/* Where regions of this size begin below one of very many blocks, and no block lies: there
 * are the records, if the allocator has them there.  NULL: blocks lie at all of them.  With
 * fewer blocks a place could be one that is not handed out yet: so it is tried. */
static void *
boundary_without_block(const struct domain *d, size_t size, uintptr_t region)
{
    enum { COUNT = 5 * MOST };
    static uintptr_t blocks[COUNT];
    take_all(d, size, (void **)blocks, COUNT);
    qsort(blocks, COUNT, sizeof(blocks[0]), by_address);
    for (int i = 1; i < COUNT; i++) {
        uintptr_t boundary = blocks[i] & ~(region - 1);
        int k = i;
        while (k >= 0 && blocks[k] > boundary) {
            k--;
        }
        if (k < 0 || boundary >= blocks[k] + size) {
            return is_given(d, size, (void *)boundary) ? NULL : (void *)boundary;
        }
    }
    return NULL;
}

static int
free_boundary_of(const struct domain *d, size_t size, unsigned seed, uintptr_t region)
{
    live_before(d, size, seed);
    void *boundary = boundary_without_block(d, size, region);
    if (boundary == NULL) {
        return 0;
    }
    d->free(boundary);
    return is_given(d, size, boundary);
}

static int
free_pool_header(const struct domain *d, size_t size, unsigned seed)
{
    return free_boundary_of(d, size, seed, POOL);
}

/* Allocators have records at the start of regions of 4 KiB to 64 MiB: each run tries one. */
static int
free_boundary(const struct domain *d, size_t size, unsigned seed)
{
    return free_boundary_of(d, size, seed, (uintptr_t)1 << (12 + seed % 15));
}

static int
link_to_pool_header(const struct domain *d, size_t size, unsigned seed)
{
    live_before(d, size, seed);
    void *header = boundary_without_block(d, size, POOL);
    return header != NULL && forge_link(d, size, header, plain_link);
}

/* glibc's lists of the first thread lie at the start of its heap. */
static char *
cache_of_first_thread(void)
{
    char line[256];
    uintptr_t start = 0;
    FILE *maps = fopen("/proc/self/maps", "r");
    while (maps != NULL && start == 0 && fgets(line, sizeof(line), maps) != NULL) {
        if (strstr(line, "[heap]") != NULL) {
            start = (uintptr_t)strtoull(line, NULL, 16);
        }
    }
    return (char *)start + 16;
}

static int
link_to_thread_cache(const struct domain *d, size_t size, unsigned seed)
{
    char *cache = cache_of_first_thread();
    live_before(d, size, seed);
    return forge_link(d, size, cache, masked_link);
}

static int
free_thread_cache(const struct domain *d, size_t size, unsigned seed)
{
    char *cache = cache_of_first_thread();
    live_before(d, size, seed);
    d->free(cache);
    return is_given(d, size, cache);
}

/* In front of the first block of a pool lies its header. */
static int
underflow_into_records(const struct domain *d, size_t size, unsigned seed)
{
    static void *blocks[MOST];
    live_before(d, size, seed);
    take_all(d, size, blocks, MOST);
    char *first = blocks[0];
    for (int i = 0; i < MOST; i++) {
        if (((uintptr_t)blocks[i] & (POOL - 1)) == POOL_HEADER) {
            first = blocks[i];
        }
    }
    *word_at(first - POOL_HEADER + POOL_FREEBLOCK) = (uintptr_t)target;
    return is_given(d, size, target);
}

/* Freed contents. */

static void *
freed_secret(const struct domain *d, size_t size, unsigned seed)
{
    live_before(d, size, seed);
    void *block = d->malloc(size);
    fill(block, SECRET, size);
    d->free(block);
    return block;
}

static int
stale_read(const struct domain *d, size_t size, unsigned seed)
{
    void *block = freed_secret(d, size, seed);
    return has(block, SECRET, size);
}

static int
next_owner_has(const struct domain *d, size_t size, uintptr_t value)
{
    for (int i = 0; i < most(size); i++) {
        if (has(d->malloc(size), value, size)) {
            return 1;
        }
    }
    return 0;
}

static int
next_owner_reads(const struct domain *d, size_t size, unsigned seed)
{
    freed_secret(d, size, seed);
    return next_owner_has(d, size, SECRET);
}

static int
moved_read(const struct domain *d, size_t size, unsigned seed)
{
    live_before(d, size, seed);
    void *block = d->malloc(size);
    fill(block, SECRET, size);
    return d->realloc(block, size * 5) != block && has(block, SECRET, size);
}

/* The address of a block, or what glibc masks it with, where no program wrote it. */
static int
has_address(void *block, size_t size)
{
    for (size_t i = 0; i + sizeof(uintptr_t) <= size; i += sizeof(uintptr_t)) {
        uintptr_t value = *word_at((char *)block + i);
        if (value >> 22 == (uintptr_t)block >> 22 || value == (uintptr_t)block >> 12) {
            return 1;
        }
    }
    return 0;
}

enum { NFREED = 20 };

static void
free_filled(const struct domain *d, size_t size, unsigned seed, void *blocks[NFREED])
{
    live_before(d, size, seed);
    take_all(d, size, blocks, NFREED);
    for (int i = 0; i < NFREED; i++) {
        fill(blocks[i], WORD, size);
        d->free(blocks[i]);
    }
}

static int
addresses_left(const struct domain *d, size_t size, unsigned seed)
{
    void *blocks[NFREED];
    free_filled(d, size, seed, blocks);
    for (int i = 0; i < NFREED; i++) {
        if (has_address(blocks[i], size)) {
            return 1;
        }
    }
    return 0;
}

static int
addresses_for_next_owner(const struct domain *d, size_t size, unsigned seed)
{
    void *blocks[NFREED];
    free_filled(d, size, seed, blocks);
    for (int i = 0; i < most(size); i++) {
        if (has_address(d->malloc(size), size)) {
            return 1;
        }
    }
    return 0;
}

static int
write_seen_by_next_owner(const struct domain *d, size_t size, unsigned seed)
{
    live_before(d, size, seed);
    char *block = d->malloc(size);
    d->free(block);
    *word_at(block + 24) = WORD;
    return next_owner_has(d, size, WORD);
}

/* Layout. */

static int
reuse_at_once(const struct domain *d, size_t size, unsigned seed)
{
    live_before(d, size, seed);
    void *block = d->malloc(size);
    d->free(block);
    return d->malloc(size) == block;
}

static int
reuse_within(const struct domain *d, size_t size, unsigned seed, int requests)
{
    live_before(d, size, seed);
    void *block = d->malloc(size);
    d->free(block);
    for (int i = 0; i < requests; i++) {
        void *other = d->malloc(size);
        if (other == block) {
            return 1;
        }
    }
    return 0;
}

static int
reuse_within_100(const struct domain *d, size_t size, unsigned seed)
{
    return reuse_within(d, size, seed, 100);
}

static int
reuse_within_10000(const struct domain *d, size_t size, unsigned seed)
{
    return reuse_within(d, size, seed, 10000);
}

/* A few others are freed, too. */
static int
reuse_after_20_frees(const struct domain *d, size_t size, unsigned seed)
{
    void *others[20];
    live_before(d, size, seed);
    take_all(d, size, others, 20);
    void *block = d->malloc(size);
    d->free(block);
    for (int i = 0; i < 20; i++) {
        d->free(others[i]);
    }
    for (int i = 0; i < 100; i++) {
        if (d->malloc(size) == block) {
            return 1;
        }
    }
    return 0;
}

static int
reuse_with_frees(const struct domain *d, size_t size, unsigned seed)
{
    live_before(d, size, seed);
    void *block = d->malloc(size);
    d->free(block);
    return is_given_again(d, size, block);
}

static int
neighbours_foretold(const struct domain *d, size_t size, unsigned seed)
{
    live_before(d, size, seed);
    char *one = d->malloc(size), *two = d->malloc(size), *three = d->malloc(size);
    return three - two == two - one;
}

/* The victim's block comes right behind the attacker's request; nothing is freed before
 * the victim uses it. */
static int
overflow_into_next_request(const struct domain *d, size_t size, unsigned seed)
{
    live_before(d, size, seed);
    char *block = d->malloc(size), *victim = d->malloc(size);
    fill(victim, 0, size);
    fill(block + size, WORD, 64);
    return *word_at(victim) == WORD;
}

/* The attacker knows that the victim lies behind.  The buffer is freed before the victim
 * is used, as that of a function that returns. */
static int
overflow_into_live(const struct domain *d, size_t size, unsigned seed)
{
    char *pair[2];
    live_before(d, size, seed);
    find_neighbours(d, size, pair);
    fill(pair[1], 0, size);
    overflow(pair, size, WORD);
    d->free(pair[0]);
    return *word_at(pair[1]) == WORD;
}

/* The attacker reads what lies between the blocks, writes the victim's first word only,
 * and so leaves each mark as it was: no linear overflow can do that. */
static int
write_over_the_gap(const struct domain *d, size_t size, unsigned seed)
{
    char *pair[2];
    live_before(d, size, seed);
    find_neighbours(d, size, pair);
    fill(pair[1], 0, size);
    *word_at(pair[1]) = WORD;
    d->free(pair[0]);
    return *word_at(pair[1]) == WORD;
}

static int
nul_behind(const struct domain *d, size_t size, unsigned seed)
{
    char *pair[2];
    live_before(d, size, seed);
    find_neighbours(d, size, pair);
    fill(pair[1], WORD, size);
    ((byte *)pair[0])[size] = 0;
    d->free(pair[0]);
    return *word_at(pair[1]) != WORD;
}

static int
read_next_request(const struct domain *d, size_t size, unsigned seed)
{
    live_before(d, size, seed);
    char *block = d->malloc(size), *victim = d->malloc(size);
    fill(victim, SECRET, size);
    return has(block + size, SECRET, size > 4096 ? size : 256);
}

/* A child of the same parent has told the attacker where its blocks lie. */
static int
layout_of_sibling(const struct domain *d, size_t size, unsigned seed)
{
    for (int i = 0; i < 10; i++) {
        d->malloc(size);
    }
    void *block = d->malloc(size);
    if (seed == 0) {
        *told_by_sibling = block;
        return 0;
    }
    return block == *told_by_sibling;
}

const struct attack attacks[] = {
    {"second_free_at_once", second_free_at_once},
    {"second_free_after_another", second_free_after_another},
    {"second_free_late", second_free_late},
    {"second_free_wiped", second_free_wiped},
    {"second_free_in_thread", second_free_in_thread},
    {"second_free_of_reused", second_free_of_reused},
    {"realloc_of_freed", realloc_of_freed},
    {"free_inside_freed", free_inside_freed},
    {"free_inside_live", free_inside_live},
    {"free_inside_live_forged", free_inside_live_forged},
    {"link_by_one_byte", link_by_one_byte},
    {"free_forged_block", free_forged_block},
    {"link_forged", link_forged},
    {"masked_link_forged", masked_link_forged},
    {"overflow_into_freed", overflow_into_freed},
    {"masked_overflow_into_freed", masked_overflow_into_freed},
    {"free_pool_header", free_pool_header},
    {"free_boundary", free_boundary},
    {"link_to_pool_header", link_to_pool_header},
    {"link_to_thread_cache", link_to_thread_cache},
    {"free_thread_cache", free_thread_cache},
    {"underflow_into_records", underflow_into_records},
    {"stale_read", stale_read},
    {"next_owner_reads", next_owner_reads},
    {"moved_read", moved_read},
    {"addresses_left", addresses_left},
    {"addresses_for_next_owner", addresses_for_next_owner},
    {"write_seen_by_next_owner", write_seen_by_next_owner},
    {"reuse_at_once", reuse_at_once},
    {"reuse_within_100", reuse_within_100},
    {"reuse_within_10000", reuse_within_10000},
    {"reuse_after_20_frees", reuse_after_20_frees},
    {"reuse_with_frees", reuse_with_frees},
    {"neighbours_foretold", neighbours_foretold},
    {"overflow_into_next_request", overflow_into_next_request},
    {"overflow_into_live", overflow_into_live},
    {"write_over_the_gap", write_over_the_gap},
    {"nul_behind", nul_behind},
    {"read_next_request", read_next_request},
    {"layout_of_sibling", layout_of_sibling},
    {NULL, NULL},
};
