/* Blocks that are freed twice, addresses inside a block, and addresses of no block. */

#define _GNU_SOURCE
#include "misuse.h"

#include <stdlib.h>
#include <sys/mman.h>

#define SOME 100            /* blocks of a program that needs more than one */
#define PAGE 4096           /* at least: a mapping of this size is whole pages */

/* Freed twice. */

static void
free_twice(const struct how *how)
{
    byte *block = take(how);
    how->first->free((void *)block);
    free_in_place(how, block);
}

static void
free_twice_with_one_between(const struct how *how)
{
    byte *block = take(how), *other = take(how);
    how->first->free((void *)block);
    how->first->free((void *)other);
    free_in_place(how, block);
}

static void
take_some(const struct how *how, byte *blocks[SOME])
{
    for (int i = 0; i < SOME; i++) {
        blocks[i] = take(how);
    }
}

static void
free_twice_with_many_between(const struct how *how)
{
    byte *blocks[SOME];
    take_some(how, blocks);
    for (int i = 0; i < SOME; i++) {
        how->first->free((void *)blocks[i]);
    }
    free_in_place(how, blocks[0]);
}

static void
free_twice_in_the_middle(const struct how *how)
{
    byte *blocks[SOME];
    take_some(how, blocks);
    for (int i = 0; i < SOME; i++) {
        how->first->free((void *)blocks[i]);
    }
    free_in_place(how, blocks[SOME / 2]);
}

/* A process may have 65,530 mappings: so many blocks can't have three each. */
static void
free_twice_of_very_many(const struct how *how)
{
    void *block = NULL;
    for (int i = 0; i < 25000; i++) {
        block = how->first->malloc(how->size);
        need(block != NULL, "no memory");
    }
    how->first->free(block);
    free_in_place(how, block);
}

/* Blocks of another size come and go: the freed block stays free. */
static void
free_twice_after_other_sizes(const struct how *how)
{
    byte *block = take(how);
    how->first->free((void *)block);
    for (size_t i = 0; i < 2000; i++) {
        size_t size = how->size < 2000 ? 5000 + i : 1 + i % 500;
        how->first->free(how->first->malloc(size));
    }
    free_in_place(how, block);
}

static void
free_twice_calloced(const struct how *how)
{
    void *block = how->first->calloc(1, how->size);
    need(block != NULL, "no memory");
    how->first->free(block);
    free_in_place(how, block);
}

static void
free_twice_resized(const struct how *how)
{
    void *block = how->first->realloc((void *)take(how), how->size * 2 + 100);
    need(block != NULL, "no memory");
    how->first->free(block);
    free_in_place(how, block);
}

static void
free_twice_resized_to_zero(const struct how *how)
{
    void *block = how->first->realloc((void *)take(how), 0);
    need(block != NULL, "no block of zero bytes");
    how->first->free(block);
    free_in_place(how, block);
}

/* Whatever a freed block says of itself is wiped before. */
static void
free_twice_wiped(const struct how *how)
{
    byte *block = take(how);
    how->first->free((void *)block);
    for (size_t i = 0; i < how->size && i < 64; i++) {
        block[i] = 0;
    }
    free_in_place(how, block);
}

static void *
moved(const struct how *how, byte *block)
{
    void *now = how->first->realloc((void *)block, how->size * 3 + 200000);
    need(now != NULL, "no memory");
    need(now != (void *)block, "the block was not moved");
    return now;
}

static void
free_after_move(const struct how *how)
{
    byte *block = take(how);
    moved(how, block);
    free_in_place(how, block);
}

static void
realloc_freed(const struct how *how, void (*act)(const struct how *, void *))
{
    byte *block = take(how);
    how->first->free((void *)block);
    run_in_place(how, act, (void *)block);
}

static void
grow_freed(const struct how *how)
{
    realloc_freed(how, grow);
}

static void
shrink_freed(const struct how *how)
{
    realloc_freed(how, shrink);
}

static void
resize_freed_to_zero(const struct how *how)
{
    realloc_freed(how, resize_to_zero);
}

static void
realloc_freed_to_its_size(const struct how *how)
{
    realloc_freed(how, keep_size);
}

static void
realloc_after_move(const struct how *how)
{
    byte *block = take(how);
    moved(how, block);
    run_in_place(how, grow, (void *)block);
}

/* The function that frees the memory of an object is called once more. */
static void
free_object_twice(const struct how *how)
{
    PyObject *object = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)how->size + 100);
    need(object != NULL, "no object");
    Py_DECREF(object);
    free_in_place(how, (byte *)object);
}

static void
free_text_twice(const struct how *how)
{
    wchar_t *text = Py_DecodeLocale("a text of some length", NULL);
    need(text != NULL, "no text");
    PyMem_RawFree(text);
    free_in_place(how, (byte *)text);
}

/* Inside a block. */

static void
free_inside(const struct how *how)
{
    free_in_place(how, take(how) + 16);
}

static void
free_in_the_middle(const struct how *how)
{
    free_in_place(how, take(how) + how->size / 2 / 16 * 16);
}

static void
free_last_bytes(const struct how *how)
{
    free_in_place(how, take(how) + (how->size - 1) / 16 * 16);
}

static void
free_inside_freed(const struct how *how)
{
    byte *block = take(how);
    how->first->free((void *)block);
    free_in_place(how, block + 16);
}

static void
realloc_inside(const struct how *how)
{
    run_in_place(how, grow, (void *)(take(how) + 16));
}

static void
shrink_inside(const struct how *how)
{
    run_in_place(how, shrink, (void *)(take(how) + 16));
}

static void
realloc_inside_freed(const struct how *how)
{
    byte *block = take(how);
    how->first->free((void *)block);
    run_in_place(how, grow, (void *)(block + 16));
}

/* Words before the address look like the header of a block of glibc. */
static void
forge_header(byte *address)
{
    word_at(address)[-2] = 0;
    word_at(address)[-1] = 0x41;
}

static void
free_inside_with_forged_header(const struct how *how)
{
    byte *address = take(how) + 32;
    forge_header(address);
    free_in_place(how, address);
}

static void
free_second_page(const struct how *how)
{
    free_in_place(how, take(how) + PAGE);
}

static void
free_text_of_bytes(const struct how *how)
{
    PyObject *object = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)how->size);
    need(object != NULL, "no object");
    free_in_place(how, (byte *)PyBytes_AS_STRING(object));
}

/* In front of an object that the garbage collector knows lies its header. */
static void
free_object_without_its_header(const struct how *how)
{
    PyObject *object = PyList_New(1);
    need(object != NULL, "no object");
    PyObject_GC_UnTrack(object);
    free_in_place(how, (byte *)object);
}

static void
free_at_8(const struct how *how)
{
    free_in_place(how, take(how) + 8);
}

static void
free_at_1(const struct how *how)
{
    free_in_place(how, take(how) + 1);
}

static void
free_freed_at_8(const struct how *how)
{
    byte *block = take(how);
    how->first->free((void *)block);
    free_in_place(how, block + 8);
}

/* A small block of the mem and object domains is the GIL's. */
static void
free_without_the_gil(const struct how *how)
{
    struct how without = *how;
    without.needs_no_gil = 1;
    without.place = THREAD;
    free_in_place(&without, take(how));
}

/* No block at all. */

static _Alignas(16) unsigned char memory[1 << 16];
static _Alignas(16) const char constant[64] = "constant";
/* Not its first bytes: for a library that is loaded late, those may begin a block. */
static _Thread_local _Alignas(16) unsigned char of_thread[128];

static void
free_stack(const struct how *how)
{
    _Alignas(16) unsigned char bytes[64] = {0};
    free_in_place(how, bytes);
}

static void
realloc_stack(const struct how *how)
{
    _Alignas(16) unsigned char bytes[64] = {0};
    run_in_place(how, grow, bytes);
}

static void
free_static(const struct how *how)
{
    free_in_place(how, memory);
}

static void
realloc_static(const struct how *how)
{
    run_in_place(how, grow, memory);
}

static void
free_static_with_forged_header(const struct how *how)
{
    forge_header(memory + 64);
    forge_header(memory + 64 + 0x40);
    free_in_place(how, memory + 64);
}

static void
free_constant(const struct how *how)
{
    free_in_place(how, (byte *)constant);
}

static void
free_function(const struct how *how)
{
    free_in_place(how, (byte *)((uintptr_t)free_function & ~(uintptr_t)15));
}

static void
free_of_thread(const struct how *how)
{
    free_in_place(how, of_thread + 64);
}

static void
free_malloced(const struct how *how)
{
    free_in_place(how, malloc(how->size));
}

static void
realloc_malloced(const struct how *how)
{
    run_in_place(how, grow, malloc(how->size));
}

static byte *
map_page(void)
{
    byte *page = mmap(NULL, 16 * PAGE, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    need(page != MAP_FAILED, "no mapping");
    return page;
}

static void
free_mapped(const struct how *how)
{
    free_in_place(how, map_page());
}

static void
free_unmapped(const struct how *how)
{
    byte *page = map_page();
    munmap((void *)page, 16 * PAGE);
    free_in_place(how, page);
}

static void
free_low(const struct how *how)
{
    free_in_place(how, (byte *)(uintptr_t)16);
}

static void
free_wild(const struct how *how)
{
    free_in_place(how, (byte *)(uintptr_t)0x123456789ab0);
}

static void
realloc_wild(const struct how *how)
{
    run_in_place(how, grow, (void *)(uintptr_t)0x123456789ab0);
}

/* No program of this processor has such an address: the highest bits differ. */
static void
free_impossible(const struct how *how)
{
    free_in_place(how, (byte *)(uintptr_t)0x6161616161616160);
}

static void
free_of_kernel(const struct how *how)
{
    free_in_place(how, (byte *)(uintptr_t)0xffffffff81000000);
}

static void
free_none(const struct how *how)
{
    free_in_place(how, (byte *)Py_None);
}

static void
free_type(const struct how *how)
{
    free_in_place(how, (byte *)&PyList_Type);
}

static void
free_page_before(const struct how *how)
{
    free_in_place(how, take(how) - PAGE);
}

static void
free_page_behind(const struct how *how)
{
    free_in_place(how, take(how) + how->size / PAGE * PAGE + PAGE);
}

const struct program free_programs[] = {
    {"free_twice", free_twice},
    {"free_twice_with_one_between", free_twice_with_one_between},
    {"free_twice_with_many_between", free_twice_with_many_between},
    {"free_twice_in_the_middle", free_twice_in_the_middle},
    {"free_twice_of_very_many", free_twice_of_very_many},
    {"free_twice_after_other_sizes", free_twice_after_other_sizes},
    {"free_twice_calloced", free_twice_calloced},
    {"free_twice_resized", free_twice_resized},
    {"free_twice_resized_to_zero", free_twice_resized_to_zero},
    {"free_twice_wiped", free_twice_wiped},
    {"free_after_move", free_after_move},
    {"grow_freed", grow_freed},
    {"shrink_freed", shrink_freed},
    {"resize_freed_to_zero", resize_freed_to_zero},
    {"realloc_freed_to_its_size", realloc_freed_to_its_size},
    {"realloc_after_move", realloc_after_move},
    {"free_object_twice", free_object_twice},
    {"free_text_twice", free_text_twice},
    {"free_inside", free_inside},
    {"free_in_the_middle", free_in_the_middle},
    {"free_last_bytes", free_last_bytes},
    {"free_inside_freed", free_inside_freed},
    {"realloc_inside", realloc_inside},
    {"shrink_inside", shrink_inside},
    {"realloc_inside_freed", realloc_inside_freed},
    {"free_inside_with_forged_header", free_inside_with_forged_header},
    {"free_second_page", free_second_page},
    {"free_text_of_bytes", free_text_of_bytes},
    {"free_object_without_its_header", free_object_without_its_header},
    {"free_at_8", free_at_8},
    {"free_at_1", free_at_1},
    {"free_freed_at_8", free_freed_at_8},
    {"free_without_the_gil", free_without_the_gil},
    {"free_stack", free_stack},
    {"realloc_stack", realloc_stack},
    {"free_static", free_static},
    {"realloc_static", realloc_static},
    {"free_static_with_forged_header", free_static_with_forged_header},
    {"free_constant", free_constant},
    {"free_function", free_function},
    {"free_of_thread", free_of_thread},
    {"free_malloced", free_malloced},
    {"realloc_malloced", realloc_malloced},
    {"free_mapped", free_mapped},
    {"free_unmapped", free_unmapped},
    {"free_low", free_low},
    {"free_wild", free_wild},
    {"realloc_wild", realloc_wild},
    {"free_impossible", free_impossible},
    {"free_of_kernel", free_of_kernel},
    {"free_none", free_none},
    {"free_type", free_type},
    {"free_page_before", free_page_before},
    {"free_page_behind", free_page_behind},
    {NULL, NULL},
};
