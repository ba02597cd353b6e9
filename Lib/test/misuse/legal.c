/* What no allocator may stop: all legal use, and what CPython's own forgives. */

#include "misuse.h"

#include <pthread.h>
#include <stdlib.h>

static void
check_filled(byte *block, size_t size, unsigned char value)
{
    for (size_t i = 0; i < size; i++) {
        need(block[i] == value, "the contents changed");
    }
}

static void
act_use(const struct how *how, void *unused)
{
    byte *block = take(how);
    check_filled(block, how->size, 'a');
    how->second->free((void *)block);
    (void)unused;
}

static void
use(const struct how *how)
{
    run_in_place(how, act_use, NULL);
}

/* The second domain, the thread, the interpreter or the child frees. */
static void
pass_on(const struct how *how)
{
    byte *block = take(how);
    check_filled(block, how->size, 'a');
    free_in_place(how, block);
}

static void
free_nothing(const struct how *how)
{
    free_in_place(how, NULL);
}

static void
realloc_nothing(const struct how *how)
{
    byte *block = how->first->realloc(NULL, how->size);
    need(block != NULL, "no memory");
    memset((void *)block, 'a', how->size);
    free_in_place(how, block);
}

static void
zero_bytes_are_blocks(const struct how *how)
{
    enum { COUNT = 100 };
    void *blocks[COUNT];
    for (int i = 0; i < COUNT; i++) {
        blocks[i] = i % 2 ? how->first->malloc(0) : how->first->calloc(0, 5);
        need(blocks[i] != NULL, "no block");
        for (int k = 0; k < i; k++) {
            need(blocks[k] != blocks[i], "two requests for zero bytes share a block");
        }
    }
    for (int i = 0; i < COUNT; i++) {
        how->second->free(blocks[i]);
    }
}

static void
realloc_to_zero_keeps_a_block(const struct how *how)
{
    void *block = how->first->realloc((void *)take(how), 0);
    need(block != NULL, "realloc to zero gave no block");
    free_in_place(how, block);
}

/* Blocks that were full of other values came back before. */
static void
calloc_gives_zeros(const struct how *how)
{
    for (int i = 0; i < 100; i++) {
        how->first->free((void *)take(how));
    }
    for (int i = 0; i < 100; i++) {
        byte *block = how->second->calloc(1, how->size);
        need(block != NULL, "no memory");
        check_filled(block, how->size, 0);
        how->second->free((void *)block);
    }
}

static void
blocks_are_aligned(const struct how *how)
{
    for (size_t i = 0; i < 50; i++) {
        uintptr_t block = (uintptr_t)how->first->malloc(how->size + i);
        need(block != 0 && block % 16 == 0, "a block is not aligned");
        how->second->free((void *)block);
    }
}

/* Up over all borders and down again, a step of an eighth each. */
static void
realloc_keeps_contents(const struct how *how)
{
    size_t size = 1;
    byte *block = how->first->malloc(size);
    need(block != NULL, "no memory");
    *block = 'a';
    while (size < 300000) {
        size_t next = size + size / 8 + 1;
        block = how->second->realloc((void *)block, next);
        need(block != NULL, "no memory");
        check_filled(block, size, 'a');
        memset((void *)(block + size), 'a', next - size);
        size = next;
    }
    while (size > 1) {
        size -= size / 8 + 1;
        block = how->second->realloc((void *)block, size);
        need(block != NULL, "no memory");
        check_filled(block, size, 'a');
    }
    free_in_place(how, block);
}

static void
realloc_by_one(const struct how *how)
{
    byte *block = take(how);
    for (size_t size = how->size; size < how->size + 40; size++) {
        block = how->second->realloc((void *)block, size + 1);
        need(block != NULL, "no memory");
        block[size] = 'a';
        check_filled(block, size + 1, 'a');
    }
    free_in_place(how, block);
}

static void
realloc_to_its_size(const struct how *how)
{
    byte *block = take(how);
    for (int i = 0; i < 20; i++) {
        block = how->second->realloc((void *)block, how->size);
        check_filled(block, how->size, 'a');
    }
    free_in_place(how, block);
}

static void
impossible_requests_fail(const struct how *how)
{
    size_t most = (size_t)PY_SSIZE_T_MAX;
    byte *block = take(how);
    need(how->second->malloc(most + 1) == NULL, "a request for too much was served");
    need(how->second->malloc(most) == NULL, "a request for too much was served");
    need(how->second->calloc(most, 3) == NULL, "a product that overflows was served");
    need(how->second->realloc((void *)block, most) == NULL, "a request for too much");
    check_filled(block, how->size, 'a');
    free_in_place(how, block);
}

/* In an order that is neither that of the requests nor its reverse. */
static void
many_blocks(const struct how *how)
{
    enum { COUNT = 3000 };
    static byte *blocks[COUNT];
    int count = how->size > 5000 ? COUNT / 10 : COUNT;
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < count; i++) {
            blocks[i] = take(how);
            *blocks[i] = (unsigned char)i;
        }
        for (int i = 0; i < count; i++) {
            int k = (int)((long)i * 1789 % count);      /* prime to both counts */
            need(*blocks[k] == (unsigned char)k, "a block has two owners");
            how->second->free((void *)blocks[k]);
        }
    }
}

/* A process may have 65,530 mappings. */
static void
very_many_blocks(const struct how *how)
{
    enum { COUNT = 25000 };
    static byte *blocks[COUNT];
    for (int i = 0; i < COUNT; i++) {
        blocks[i] = how->first->malloc(how->size);
        need(blocks[i] != NULL, "no memory");
        blocks[i][how->size / 2] = (unsigned char)i;
    }
    for (int i = 0; i < COUNT; i++) {
        need(blocks[i][how->size / 2] == (unsigned char)i, "a block has two owners");
        how->second->free((void *)blocks[i]);
    }
}

static void *
thread_works(void *argument)
{
    const struct how *how = argument;
    for (int i = 0; i < 100; i++) {
        PyGILState_STATE state = PyGILState_UNLOCKED;
        if (!how->needs_no_gil) {
            state = PyGILState_Ensure();
        }
        byte *block = take(how);
        check_filled(block, how->size, 'a');
        how->second->free((void *)block);
        if (!how->needs_no_gil) {
            PyGILState_Release(state);
        }
    }
    return NULL;
}

static void
threads_work(const struct how *how)
{
    pthread_t threads[4];
    PyThreadState *state = PyEval_SaveThread();
    for (int i = 0; i < 4; i++) {
        need(pthread_create(&threads[i], NULL, thread_works, (void *)how) == 0, "no thread");
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
    }
    PyEval_RestoreThread(state);
}

/* The byte behind may be read, and written as it is. */
static void
write_back_what_is_behind(const struct how *how)
{
    byte *block = take(how);
    block[how->size] = block[how->size];
    free_in_place(how, block);
}

static void
free_decoded_text(const struct how *how)
{
    free_in_place(how, (byte *)Py_DecodeLocale("a text of some length", NULL));
}

static void
free_encoded_text(const struct how *how)
{
    free_in_place(how, (byte *)Py_EncodeLocale(L"a text of some length", NULL));
}

static void
resize_objects(const struct how *how)
{
    PyObject *list = PyList_New(0);
    PyObject *object = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)how->size + 1);
    need(list != NULL && object != NULL, "no object");
    for (Py_ssize_t i = 0; i < 500; i++) {
        need(_PyBytes_Resize(&object, (Py_ssize_t)how->size + 1 + i) == 0, "no object");
        need(PyList_Append(list, object) == 0, "no list");
        Py_SETREF(object, PyBytes_FromStringAndSize(NULL, (Py_ssize_t)how->size + 1));
    }
    need(PyList_SetSlice(list, 100, 400, NULL) == 0, "no list");
    Py_DECREF(object);
    Py_DECREF(list);
}

/* CPython's own hands what is not pymalloc's to free(). */
static void
free_what_malloc_gave(const struct how *how)
{
    free_in_place(how, malloc(how->size));
}

/* A hook of the program's own around the domain. */
static PyMemAllocatorEx hooked;

static void *
hook_malloc(void *ctx, size_t size)
{
    (void)ctx;
    return hooked.malloc(hooked.ctx, size);
}

static void *
hook_calloc(void *ctx, size_t count, size_t size)
{
    (void)ctx;
    return hooked.calloc(hooked.ctx, count, size);
}

static void *
hook_realloc(void *ctx, void *block, size_t size)
{
    (void)ctx;
    return hooked.realloc(hooked.ctx, block, size);
}

static void
hook_free(void *ctx, void *block)
{
    (void)ctx;
    hooked.free(hooked.ctx, block);
}

static void
hook_comes_and_goes(const struct how *how)
{
    PyMemAllocatorEx hook = {NULL, hook_malloc, hook_calloc, hook_realloc, hook_free};
    byte *before = take(how);
    PyMem_GetAllocator(PYMEM_DOMAIN_OBJ, &hooked);
    PyMem_SetAllocator(PYMEM_DOMAIN_OBJ, &hook);
    byte *while_hooked = take(how);
    how->second->free((void *)before);
    PyMem_SetAllocator(PYMEM_DOMAIN_OBJ, &hooked);
    free_in_place(how, while_hooked);
}

const struct program legal_programs[] = {
    {"use", use},
    {"pass_on", pass_on},
    {"pass_to_raw", pass_on},
    {"free_nothing", free_nothing},
    {"realloc_nothing", realloc_nothing},
    {"zero_bytes_are_blocks", zero_bytes_are_blocks},
    {"realloc_to_zero_keeps_a_block", realloc_to_zero_keeps_a_block},
    {"calloc_gives_zeros", calloc_gives_zeros},
    {"blocks_are_aligned", blocks_are_aligned},
    {"realloc_keeps_contents", realloc_keeps_contents},
    {"realloc_by_one", realloc_by_one},
    {"realloc_to_its_size", realloc_to_its_size},
    {"impossible_requests_fail", impossible_requests_fail},
    {"many_blocks", many_blocks},
    {"very_many_blocks", very_many_blocks},
    {"threads_work", threads_work},
    {"write_back_what_is_behind", write_back_what_is_behind},
    {"free_decoded_text", free_decoded_text},
    {"free_encoded_text", free_encoded_text},
    {"resize_objects", resize_objects},
    {"free_what_malloc_gave", free_what_malloc_gave},
    {"hook_comes_and_goes", hook_comes_and_goes},
    {NULL, NULL},
};
