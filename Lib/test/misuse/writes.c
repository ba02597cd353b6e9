/* Writes behind a block and into freed ones, accesses off the pages of a large one, reads
 * of what was freed.
 *
 * Every write changes its byte: a canary is random, and a fixed value may be what is there. */

#include "misuse.h"

#include <stdlib.h>

#define PAGE 4096

static void
change(byte *place)
{
    *place = (unsigned char)~*place;
}

/* Behind the end of a request. */

static void
write_behind(const struct how *how)
{
    byte *block = take(how);
    change(block + how->size);
    free_in_place(how, block);
}

static void
write_bit_behind(const struct how *how)
{
    byte *block = take(how);
    block[how->size] ^= 1;
    free_in_place(how, block);
}

static void
write_word_behind(const struct how *how)
{
    byte *block = take(how);
    for (size_t i = 0; i < sizeof(size_t); i++) {
        change(block + how->size + i);
    }
    free_in_place(how, block);
}

static void
write_behind_calloced(const struct how *how)
{
    byte *block = how->first->calloc(1, how->size);
    need(block != NULL, "no memory");
    change(block + how->size);
    free_in_place(how, block);
}

static byte *
resized(const struct how *how, size_t size)
{
    byte *block = how->first->realloc((void *)take(how), size);
    need(block != NULL, "no memory");
    return block;
}

static void
write_behind_grown(const struct how *how)
{
    byte *block = resized(how, how->size + 1);
    change(block + how->size + 1);
    free_in_place(how, block);
}

static void
write_behind_moved(const struct how *how)
{
    size_t size = how->size * 2 + 100;
    byte *block = resized(how, size);
    change(block + size);
    free_in_place(how, block);
}

static void
write_behind_shrunk(const struct how *how)
{
    byte *block = resized(how, how->size - 1);
    change(block + how->size - 1);
    free_in_place(how, block);
}

static void
write_behind_zero(const struct how *how)
{
    byte *block = resized(how, 0);
    change(block);
    free_in_place(how, block);
}

static void
write_behind_and_realloc(const struct how *how, void (*act)(const struct how *, void *))
{
    byte *block = take(how);
    change(block + how->size);
    run_in_place(how, act, (void *)block);
}

static void
write_behind_and_grow(const struct how *how)
{
    write_behind_and_realloc(how, grow);
}

static void
write_behind_and_shrink(const struct how *how)
{
    write_behind_and_realloc(how, shrink);
}

static void
write_behind_and_keep_size(const struct how *how)
{
    write_behind_and_realloc(how, keep_size);
}

static void
write_behind_and_resize_to_zero(const struct how *how)
{
    write_behind_and_realloc(how, resize_to_zero);
}

/* The last byte that a bytes object asks for is the zero behind its text. */
static void
write_behind_bytes(const struct how *how)
{
    PyObject *object = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)how->size);
    need(object != NULL, "no object");
    change((byte *)PyBytes_AS_STRING(object) + how->size + 1);
    Py_DECREF(object);
}

static void
write_behind_items(const struct how *how)
{
    Py_ssize_t length = (Py_ssize_t)how->size;
    PyObject *list = PyList_New(length);
    need(list != NULL, "no list");
    change((byte *)(((PyListObject *)list)->ob_item + length));
    Py_DECREF(list);
}

static int
by_address(const void *one, const void *other)
{
    uintptr_t left = *(const uintptr_t *)one, right = *(const uintptr_t *)other;
    return (left > right) - (left < right);
}

/* The byte before a block is the last one of its neighbour, which ends one byte before.
 * Where blocks lie further apart it is the allocator's. */
static void
write_before(const struct how *how)
{
    enum { COUNT = 500 };
    uintptr_t blocks[COUNT];
    int chosen = COUNT / 2;
    for (int i = 0; i < COUNT; i++) {
        blocks[i] = (uintptr_t)take(how);
    }
    qsort(blocks, COUNT, sizeof(blocks[0]), by_address);
    for (int i = 0; i + 1 < COUNT; i++) {
        if (blocks[i + 1] - blocks[i] == how->size + 1) {
            chosen = i;
        }
    }
    change((byte *)blocks[chosen + 1] - 1);
    free_in_place(how, (byte *)blocks[chosen]);
    free_in_place(how, (byte *)blocks[chosen + 1]);
}

/* The pages of a large block. */

static size_t
to_pages(size_t size)
{
    return (size + PAGE - 1) / PAGE * PAGE;
}

static void
write_last_byte_of_pages(const struct how *how)
{
    byte *block = take(how);
    change(block + to_pages(how->size) - 1);
    free_in_place(how, block);
}

static void
act_write(const struct how *how, void *place)
{
    (void)how;
    change(place);
}

static void
act_read(const struct how *how, void *place)
{
    (void)how;
    (void)*(byte *)place;
}

static void
write_past_pages(const struct how *how)
{
    run_in_place(how, act_write, (void *)(take(how) + to_pages(how->size)));
}

static void
read_past_pages(const struct how *how)
{
    run_in_place(how, act_read, (void *)(take(how) + to_pages(how->size)));
}

static void
write_before_pages(const struct how *how)
{
    run_in_place(how, act_write, (void *)(take(how) - 1));
}

static void
read_before_pages(const struct how *how)
{
    run_in_place(how, act_read, (void *)(take(how) - 1));
}

static byte *
freed(const struct how *how)
{
    byte *block = take(how);
    how->first->free((void *)block);
    return block;
}

static void
write_freed_pages(const struct how *how)
{
    run_in_place(how, act_write, (void *)freed(how));
}

static void
read_freed_pages(const struct how *how)
{
    run_in_place(how, act_read, (void *)freed(how));
}

static void
read_moved_pages(const struct how *how)
{
    byte *block = take(how);
    void *now = how->first->realloc((void *)block, how->size * 16);
    need(now != NULL && now != (void *)block, "the block was not moved");
    run_in_place(how, act_read, (void *)block);
}

/* Written after free: found at the latest when the block is handed out again.  So many
 * come and go that each free block of the size is. */

static void *
by_malloc(const struct domain *domain, size_t size)
{
    return domain->malloc(size);
}

static void *
by_calloc(const struct domain *domain, size_t size)
{
    return domain->calloc(1, size);
}

static void *
by_realloc(const struct domain *domain, size_t size)
{
    return domain->realloc(NULL, size);
}

static void *(*get)(const struct domain *, size_t) = by_malloc;

static void
come_and_go(const struct how *how, void *unused)
{
    enum { MOST = 2000, ROUNDS = 12 };
    static void *blocks[MOST];
    size_t count = (size_t)2000000 / (how->size + 1);
    count = count < 60 ? 60 : count > MOST ? MOST : count;
    for (int round = 0; round < ROUNDS; round++) {
        for (size_t i = 0; i < count; i++) {
            blocks[i] = get(how->second, how->size);
        }
        for (size_t i = 0; i < count; i++) {
            how->second->free(blocks[i]);
        }
    }
    (void)unused;
}

static void
write_freed(const struct how *how)
{
    change(freed(how));
    run_in_place(how, come_and_go, NULL);
}

static void
write_freed_last(const struct how *how)
{
    change(freed(how) + (how->size > 0 ? how->size - 1 : 0));
    run_in_place(how, come_and_go, NULL);
}

static void
write_freed_middle(const struct how *how)
{
    change(freed(how) + how->size / 2);
    run_in_place(how, come_and_go, NULL);
}

static void
write_freed_bit(const struct how *how)
{
    freed(how)[how->size / 3] ^= 0x10;
    run_in_place(how, come_and_go, NULL);
}

static void
write_freed_whole(const struct how *how)
{
    byte *block = freed(how);
    for (size_t i = 0; i < how->size; i++) {
        block[i] = 'b';
    }
    run_in_place(how, come_and_go, NULL);
}

/* As Py_INCREF() does. */
static void
count_freed(const struct how *how)
{
    ++*word_at(freed(how));
    run_in_place(how, come_and_go, NULL);
}

static void
write_freed_found_by_calloc(const struct how *how)
{
    get = by_calloc;
    write_freed(how);
}

static void
write_freed_found_by_realloc(const struct how *how)
{
    get = by_realloc;
    write_freed(how);
}

static void
write_moved(const struct how *how)
{
    byte *block = take(how);
    void *now = how->first->realloc((void *)block, how->size * 3 + 200000);
    need(now != NULL && now != (void *)block, "the block was not moved");
    change(block);
    run_in_place(how, come_and_go, NULL);
}

static void
write_freed_object(const struct how *how)
{
    PyObject *object = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)how->size);
    need(object != NULL, "no object");
    byte *text = (byte *)PyBytes_AS_STRING(object);
    Py_DECREF(object);
    change(text);
    struct how of_object = *how;
    of_object.size = how->size + (size_t)PyBytes_Type.tp_basicsize;
    run_in_place(&of_object, come_and_go, NULL);
}

/* Reads of what was freed: the program goes on, and must see nothing old. */

static void
need_nothing_old(byte *block, size_t size)
{
    for (size_t i = 0; i + 4 <= size; i++) {
        need(memcmp((const void *)(block + i), "aaaa", 4) != 0, "old contents were read");
    }
}

static void
act_read_old(const struct how *how, void *block)
{
    need_nothing_old(block, how->size);
}

static void
read_freed(const struct how *how)
{
    run_in_place(how, act_read_old, (void *)freed(how));
}

static void
read_moved(const struct how *how)
{
    byte *block = take(how);
    void *now = how->first->realloc((void *)block, how->size * 3 + 1000);
    need(now != NULL && now != (void *)block, "the block was not moved");
    run_in_place(how, act_read_old, (void *)block);
}

static void
read_next_owner(const struct how *how)
{
    int count = how->size > 32 * 1024 ? 50 : 500;
    freed(how);
    for (int i = 0; i < count; i++) {
        byte *block = how->second->malloc(how->size);
        need_nothing_old(block, how->size);
    }
}

/* The block that was cut off is no longer the program's. */
static void
read_shrunk(const struct how *how)
{
    byte *block = resized(how, how->size / 16);
    need_nothing_old(block + how->size / 16, 32);
}

/* An address in a freed block tells where the heap is. */
static void
read_address_in_freed(const struct how *how)
{
    enum { COUNT = 20 };
    byte *blocks[COUNT];
    for (int i = 0; i < COUNT; i++) {
        blocks[i] = take(how);
    }
    for (int i = 0; i < COUNT; i++) {
        how->first->free((void *)blocks[i]);
    }
    for (int i = 0; i < COUNT; i++) {
        for (size_t k = 0; k + sizeof(uintptr_t) <= how->size; k += sizeof(uintptr_t)) {
            uintptr_t value = *word_at(blocks[i] + k);
            need(value >> 24 != (uintptr_t)blocks[i] >> 24, "an address was read");
        }
    }
}

const struct program write_programs[] = {
    {"write_behind", write_behind},
    {"write_bit_behind", write_bit_behind},
    {"write_word_behind", write_word_behind},
    {"write_behind_calloced", write_behind_calloced},
    {"write_behind_grown", write_behind_grown},
    {"write_behind_moved", write_behind_moved},
    {"write_behind_shrunk", write_behind_shrunk},
    {"write_behind_zero", write_behind_zero},
    {"write_behind_and_grow", write_behind_and_grow},
    {"write_behind_and_shrink", write_behind_and_shrink},
    {"write_behind_and_keep_size", write_behind_and_keep_size},
    {"write_behind_and_resize_to_zero", write_behind_and_resize_to_zero},
    {"write_behind_bytes", write_behind_bytes},
    {"write_behind_items", write_behind_items},
    {"write_before", write_before},
    {"write_last_byte_of_pages", write_last_byte_of_pages},
    {"write_past_pages", write_past_pages},
    {"read_past_pages", read_past_pages},
    {"write_before_pages", write_before_pages},
    {"read_before_pages", read_before_pages},
    {"write_freed_pages", write_freed_pages},
    {"read_freed_pages", read_freed_pages},
    {"read_moved_pages", read_moved_pages},
    {"write_freed", write_freed},
    {"write_freed_last", write_freed_last},
    {"write_freed_middle", write_freed_middle},
    {"write_freed_bit", write_freed_bit},
    {"write_freed_whole", write_freed_whole},
    {"count_freed", count_freed},
    {"write_freed_found_by_calloc", write_freed_found_by_calloc},
    {"write_freed_found_by_realloc", write_freed_found_by_realloc},
    {"write_moved", write_moved},
    {"write_freed_object", write_freed_object},
    {"read_freed", read_freed},
    {"read_moved", read_moved},
    {"read_next_owner", read_next_owner},
    {"read_shrunk", read_shrunk},
    {"read_address_in_freed", read_address_in_freed},
    {NULL, NULL},
};
