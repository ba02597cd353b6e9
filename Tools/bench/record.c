/* Record what a Python program asks of the mem and object domains.
 *
 *   LD_PRELOAD=build/record.so PYMEM_TRACE=app.trace python3 app.py
 *
 * Works with any CPython since 3.5 that exports its API: before main() the
 * interpreter's own PyMem_SetAllocator() is called with allocators that write
 * each call down and pass it on.  Both domains need the GIL, so there is one
 * writer.  A child process writes to a file of its own, app.trace.PID; a
 * forked one stops recording.
 *
 * The trace: 8 bytes "pymemtr1", then for each call a number, slot * 4 + what,
 * and for all but free a second one, the size.  Numbers are little-endian, 7 bits
 * to a byte, the high bit set in all but the last.  A slot is where a player
 * keeps the address; slots are used again. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum what { MALLOC, FREE, REALLOC, CALLOC };

typedef struct {
    void *ctx;
    void *(*malloc)(void *ctx, size_t size);
    void *(*calloc)(void *ctx, size_t nelem, size_t elsize);
    void *(*realloc)(void *ctx, void *ptr, size_t new_size);
    void (*free)(void *ctx, void *ptr);
} Allocator;

static Allocator wrapped[3];
static int fd = -1;

/* Output. */

static uint8_t buffer[65536];
static size_t filled;

static void
flush(void)
{
    for (size_t done = 0; fd >= 0 && done < filled;) {
        ssize_t n = write(fd, buffer + done, filled - done);
        if (n <= 0) {
            fputs("record: the trace can't be written; it ends here\n", stderr);
            fd = -1;
            break;
        }
        done += (size_t)n;
    }
    filled = 0;
}

static void
put(uint64_t number)
{
    do {
        buffer[filled++] = (uint8_t)((number & 127) | (number > 127 ? 128 : 0));
        number >>= 7;
    } while (number != 0);
}

static void
put_call(enum what what, uint32_t slot, size_t size)
{
    if (fd < 0) {
        return;
    }
    if (filled + 32 > sizeof(buffer)) {
        flush();
    }
    put((uint64_t)slot * 4 + what);
    if (what != FREE) {
        put(size);
    }
}

/* Live blocks: address to slot, in a table with open addressing. */

static struct entry {
    uintptr_t address;      /* 0: nothing was ever here */
    uint32_t slot;          /* GONE: there was a block, which was freed */
} *table;
#define GONE UINT32_MAX
static size_t room, taken;              /* room is a power of two */
static uint32_t *free_slots;
static size_t nfree_slots, free_room;
static uint32_t next_slot;

static void *
pages(size_t size)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) {
        fputs("record: no memory for the recorder\n", stderr);
        abort();
    }
    return p;
}

/* Where an address is, or may be put. */
static struct entry *
find(uintptr_t address)
{
    size_t i = (size_t)((address >> 3) * 0x9E3779B97F4A7C15u >> 20);
    for (;; i++) {
        struct entry *entry = &table[i & (room - 1)];
        if (entry->address == 0 || entry->address == address) {
            return entry;
        }
    }
}

static void
grow_table(void)
{
    struct entry *old = table;
    size_t old_room = room;
    size_t live = 0;
    for (size_t i = 0; i < old_room; i++) {
        live += old[i].address != 0 && old[i].slot != GONE;
    }
    room = old_room == 0 ? 1 << 16 : live * 2 > old_room / 2 ? old_room * 2
                                                             : old_room;
    table = pages(room * sizeof(*table));
    taken = live;
    for (size_t i = 0; i < old_room; i++) {
        if (old[i].address != 0 && old[i].slot != GONE) {
            *find(old[i].address) = old[i];
        }
    }
    if (old != NULL) {
        munmap(old, old_room * sizeof(*table));
    }
}

static uint32_t
block_new(void *ptr)
{
    if (taken * 2 >= room) {
        grow_table();
    }
    struct entry *entry = find((uintptr_t)ptr);
    if (entry->address == 0) {
        taken++;
        entry->address = (uintptr_t)ptr;
        entry->slot = GONE;
    }
    if (entry->slot == GONE) {
        entry->slot = nfree_slots > 0 ? free_slots[--nfree_slots] : next_slot++;
    }
    return entry->slot;
}

/* The slot that a block had; GONE for one from before the recording. */
static uint32_t
block_forget(void *ptr)
{
    if (room == 0) {
        return GONE;
    }
    struct entry *entry = find((uintptr_t)ptr);
    if (entry->address == 0 || entry->slot == GONE) {
        return GONE;
    }
    uint32_t slot = entry->slot;
    entry->slot = GONE;
    if (nfree_slots == free_room) {
        size_t bytes = free_room * sizeof(*free_slots);
        free_room = free_room == 0 ? 1 << 14 : free_room * 2;
        uint32_t *larger = pages(free_room * sizeof(*free_slots));
        if (free_slots != NULL) {
            memcpy(larger, free_slots, bytes);
            munmap(free_slots, bytes);
        }
        free_slots = larger;
    }
    free_slots[nfree_slots++] = slot;
    return slot;
}

/* The allocators. */

static void *
record_malloc(void *ctx, size_t size)
{
    Allocator *alloc = ctx;
    void *ptr = alloc->malloc(alloc->ctx, size);
    if (ptr != NULL) {
        put_call(MALLOC, block_new(ptr), size);
    }
    return ptr;
}

static void *
record_calloc(void *ctx, size_t nelem, size_t elsize)
{
    Allocator *alloc = ctx;
    void *ptr = alloc->calloc(alloc->ctx, nelem, elsize);
    if (ptr != NULL) {
        put_call(CALLOC, block_new(ptr), nelem * elsize);
    }
    return ptr;
}

static void
record_free(void *ctx, void *ptr)
{
    Allocator *alloc = ctx;
    if (ptr != NULL) {
        uint32_t slot = block_forget(ptr);
        if (slot != GONE) {
            put_call(FREE, slot, 0);
        }
    }
    alloc->free(alloc->ctx, ptr);
}

static void *
record_realloc(void *ctx, void *ptr, size_t size)
{
    Allocator *alloc = ctx;
    if (ptr == NULL) {
        return record_malloc(ctx, size);
    }
    void *moved = alloc->realloc(alloc->ctx, ptr, size);
    if (moved == NULL) {
        return NULL;
    }
    /* The slot goes on with the block: it is the first that is free now. */
    uint32_t slot = block_forget(ptr);
    put_call(slot != GONE ? REALLOC : MALLOC, block_new(moved), size);
    return moved;
}

static void
stop_in_child(void)
{
    fd = -1;
}

static int
open_trace(const char *path)
{
    int file = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (file < 0) {
        char name[4096];
        snprintf(name, sizeof(name), "%s.%ld", path, (long)getpid());
        file = open(name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    }
    return file;
}

__attribute__((constructor)) static void
start(void)
{
    const char *path = getenv("PYMEM_TRACE");
    void (*get)(int, Allocator *);
    void (*set)(int, Allocator *);
    *(void **)&get = dlsym(RTLD_DEFAULT, "PyMem_GetAllocator");
    *(void **)&set = dlsym(RTLD_DEFAULT, "PyMem_SetAllocator");
    if (path == NULL || get == NULL || set == NULL) {
        return;         /* not a Python: a shell that starts one, perhaps */
    }
    if ((fd = open_trace(path)) < 0) {
        fprintf(stderr, "record: %s can't be made\n", path);
        return;
    }
    memcpy(buffer, "pymemtr1", filled = 8);
    pthread_atfork(NULL, NULL, stop_in_child);
    for (int domain = 1; domain <= 2; domain++) {
        get(domain, &wrapped[domain]);
        Allocator alloc = {&wrapped[domain], record_malloc, record_calloc,
                           record_realloc, record_free};
        set(domain, &alloc);
    }
}

__attribute__((destructor)) static void
finish(void)
{
    flush();
}
