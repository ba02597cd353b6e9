/* The playground's driver: the library, one call at a time, and what its heap is like then.
 *
 *   playground.js ---> play_call() ---> PyObject_Malloc() and its like ---> places for arenas
 *                 ---> play_look(), play_pool(), play_table()  ---> a text that tells the state
 *
 * In the browser the functions are called one by one.  Elsewhere this is a program that reads
 * calls from its standard input and prints the same texts, so that a test can compare both.
 * In the texts a place is an arena's number and an offset in it: arenas have other addresses in
 * each process.
 *
 * Arenas come from an allocator that is installed, so CPython's rule decides how long they
 * stay, and no clock does.
 *
 * Owns the places and the table of blocks.  Looks into the structures of the heap. */

#include "Python.h"
#include "pycore_arenas.h"
#include "pycore_pymalloc.h"
#include "pycore_pymem.h"
#include "pycore_rings.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef __wasm__
#  define EXPORT(name) __attribute__((export_name(#name)))
#else
#  define EXPORT(name) static
#endif

/* Places for arenas.  A place is for one size and is used again, the first one first. */

#define MAX_PLACES 256
static struct place {
    char *address;
    size_t size;
    int is_used;
} places[MAX_PLACES];

static void *
place_take(void *ctx, size_t size)
{
    (void)ctx;
    for (struct place *place = places; place < places + MAX_PLACES; place++) {
        if (place->address == NULL) {
            place->address = virtual_alloc(size, size);
            place->size = size;
        }
        if (place->address != NULL && place->size == size && !place->is_used) {
            place->is_used = 1;
            memset(place->address, 0, size);
            return place->address;
        }
    }
    return NULL;
}

static void
place_release(void *ctx, void *ptr, size_t size)
{
    (void)ctx;
    (void)size;
    for (struct place *place = places; place < places + MAX_PLACES; place++) {
        if (place->address == ptr) {
            place->is_used = 0;
        }
    }
}

EXPORT(play_arena) char *
play_arena(unsigned number)
{
    return number < MAX_PLACES ? places[number].address : NULL;
}

EXPORT(play_arena_of) int
play_arena_of(const char *ptr)
{
    for (int i = 0; i < MAX_PLACES && places[i].address != NULL; i++) {
        if (ptr >= places[i].address && ptr < places[i].address + places[i].size) {
            return i;
        }
    }
    return -1;
}

/* Calls. */

#define MAX_SLOTS 20000
static char *slots[MAX_SLOTS];

EXPORT(play_start) void
play_start(int with_debug_hooks)
{
    PyObjectArenaAllocator allocator = {NULL, place_take, place_release};
    PyObject_SetArenaAllocator(&allocator);
    medium_arena_allocator = allocator;
    medium_pools_at_once = 1;
    if (with_debug_hooks) {
        PyMem_SetupDebugHooks();
    }
}

/* The block of the slot afterwards.  A write is for overflows: a byte at an offset. */
EXPORT(play_call) char *
play_call(int what, unsigned slot, size_t size, int value)
{
    char *ptr = slots[slot], *moved;
    switch (what) {
    case 'm':
        slots[slot] = PyObject_Malloc(size);
        break;
    case 'c':
        slots[slot] = PyObject_Calloc(1, size);
        break;
    case 'r':
        malloc_in_place = 0;    /* whatever the malloc of a browser does */
        moved = PyObject_Realloc(ptr, size);
        slots[slot] = moved != NULL ? moved : ptr;
        break;
    case 'f':
        PyObject_Free(ptr);
        break;
    case 'w':
        ptr[(ptrdiff_t)size] = (char)value;
        break;
    }
    return slots[slot];
}

/* Texts. */

static char text[1 << 19];
static size_t text_length;

static void
text_add(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    size_t room = sizeof(text) - text_length;
    int n = vsnprintf(text + text_length, room, format, args);
    va_end(args);
    text_length += n > 0 && (size_t)n < room ? (size_t)n : 0;
}

static void
text_begin(void)
{
    text_length = 0;
    text[0] = '\0';
}

/* arena NUMBER small|medium SIZE POOL-SIZE NPOOLS NFREE FIRST-BLOCK
 * pool ARENA NUMBER BLOCKSIZE NBLOCKS NCUT NUSED FREEBLOCK IN-RING
 *
 * FREEBLOCK is an offset in the pool, 0 for none.  IN-RING is 0 for a full pool. */

static void
add_pool(int number, const struct arena_object *arena, unsigned i)
{
    const struct pool *pool = arena_pool(arena, i);
    struct pool_view view = pool_look(pool);
    if (view.class != NULL) {
        const block *start = arena_pool_address(arena, i);
        text_add("pool %d %u %u %u %u %u %u %d\n", number, i, view.class->blocksize,
                 view.class->nblocks, view.ncut, view.nused,
                 view.freeblock != NULL ? (unsigned)(view.freeblock - start) : 0,
                 pool->next != NULL);
    }
}

static int
add_arena(const struct arena_object *arena, void *number)
{
    const struct arena_set *set = arena->set;
    int is_it = (char *)arena->address == places[*(int *)number].address;
    if (is_it) {
        text_add("arena %d %s %u %u %u %u %u\n", *(int *)number,
                 set->is_medium ? "medium" : "small", (unsigned)set->arena_size,
                 (unsigned)set->pool_size, arena->ntotalpools, arena->nfreepools,
                 set->is_medium ? 0 : (unsigned)POOL_OVERHEAD);
        for (unsigned i = 0; i < arena->ntotalpools; i++) {
            add_pool(*(int *)number, arena, i);
        }
    }
    return is_it;
}

/* ring BLOCKSIZE LEVEL ARENA.POOL...: level 0 is the class's ring, others are the groups in
 * which pools wait. */
static void
add_ring(unsigned szclass, unsigned level, const struct pool *ring)
{
    if (ring->next == NULL || ring->next == ring) {
        return;
    }
    text_add("ring %u %u", size_classes[szclass].blocksize, level);
    for (const struct pool *pool = ring->next; pool != ring; pool = pool->next) {
        if (pool->blocksize != 0) {
            const char *start = (const char *)pool_address(pool);
            int number = play_arena_of(start);
            text_add(" %d.%u", number, (unsigned)((size_t)(start - places[number].address)
                                                  / size_classes[szclass].pool_size));
        }
    }
    text_add("\n");
}

static void
add_rings(const struct heap *heap)
{
    /* rings.c has them by class and level; CPython's rule has none. */
    const struct pool *groups = (const struct pool *)heap->groups;
    for (unsigned i = 0; i < NB_SIZE_CLASSES; i++) {
        add_ring(i, 0, &heap->usedpools[i]);
        for (unsigned level = 1; groups != NULL && level <= POOL_LEVELS; level++) {
            add_ring(i, level, &groups[i * POOL_LEVELS + level - 1]);
        }
    }
}

EXPORT(play_look) const char *
play_look(void)
{
    text_begin();
    for (int i = 0; i < MAX_PLACES && places[i].address != NULL; i++) {
        if (arenas_visit(&main_heap.small_arenas, add_arena, &i) == 0) {
            arenas_visit(&heap_of_thread->medium_arenas, add_arena, &i);
        }
    }
    add_rings(&main_heap);
    if (heap_of_thread != &main_heap) {
        add_rings(heap_of_thread);
    }
    return text;
}

/* The numbers of a pool's free blocks, in the order in which they will be given. */
EXPORT(play_pool) const char *
play_pool(unsigned arena, unsigned pool_offset)
{
    text_begin();
    char *address = places[arena].address + pool_offset;
    poolp pool = pool_of(address);
    pool = pool != NULL ? pool : medium_pool_of(address);
    if (pool == NULL || (char *)pool_address(pool) != address) {
        return text;
    }
    const struct size_class *class = &size_classes[pool_class(pool)];
    const block *first = pool_address(pool) + class->first;
    unsigned n = 0;
    for (const block *bp = pool->freeblock; bp != NULL && n++ < class->nblocks;
         bp = *(block *const *)bp)
    {
        text_add("%d ", (int)((bp - first) / class->blocksize));
        if (bp < first || bp >= first + (size_t)class->blocksize * class->nblocks) {
            break;                      /* somebody wrote over it */
        }
    }
    return text;
}

EXPORT(play_table) const char *
play_table(void)
{
    char *table = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&table, &size);
    text_begin();
    if (out != NULL) {
        _PyObject_DebugMallocStats(out);
        fclose(out);
        text_add("%s", table);
        free(table);
    }
    return text;
}

/* The tracer is left out: these are what others ask of it. */

void _PyTraceMalloc_StartFromEnvironment(void);

void
_PyTraceMalloc_StartFromEnvironment(void)
{
}

void
_PyMem_DumpTraceback(int fd, const void *ptr)
{
    (void)fd;
    (void)ptr;
}

#ifndef __wasm__
static void
print_pools(void)
{
    for (unsigned i = 0; i < MAX_PLACES && places[i].address != NULL; i++) {
        for (size_t offset = 0; offset < places[i].size; offset += POOL_SIZE) {
            const char *list = play_pool(i, (unsigned)offset);
            if (*list != '\0') {
                printf("free %u %zu %s\n", i, offset, list);
            }
        }
    }
}

/* Lines "WHAT SLOT SIZE VALUE"; an argument switches debug hooks on.  For each call where
 * its block is, then the state. */
int
main(int argc, char **argv)
{
    (void)argv;
    char what;
    unsigned slot;
    long size;
    int value;
    play_start(argc > 1);
    while (scanf(" %c %u %ld %d", &what, &slot, &size, &value) == 4) {
        const char *ptr = play_call(what, slot, (size_t)size, value);
        int arena = play_arena_of(ptr);
        printf("%d %td\n", arena, arena >= 0 ? ptr - play_arena((unsigned)arena) : 0);
    }
    fputs(play_look(), stdout);
    print_pools();
    fputs(play_table(), stdout);
    return 0;
}
#endif
