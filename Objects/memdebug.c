/* The debug hooks: an allocator around another that marks what it gives out
 * and checks what it gets back.
 *
 *       p - 2S      p - S  p - S + 1     p             p + N         p + N + S
 *         |           |      |           |             |             |
 *         +-----------+------+-----------+-------------+-------------+--------+
 *         | N         | 'm'  | FD ... FD | N bytes     | FD ...   FD | serial |
 *         +-----------+------+-----------+-------------+-------------+--------+
 *          big-endian  api id             the caller's  S of them     only with
 *                                                                     PYMEM_DEBUG_SERIALNO
 * S is WORD_SIZE, sizeof(size_t).  A program that writes past either end of its block, or
 * into it after free(), or frees it through another family, without the GIL or
 * twice, is ended with a description of the block.
 *
 * Owns _PyMem_Debug[].  Calls the allocators that it wraps, and the host. */

#define _GNU_SOURCE
#include "pycore_pymem.h"
#include "pycore_compiler.h"
#include "pycore_deadblocks.h"
#include "pycore_geometry.h"
#include "pycore_host.h"
#include "pycore_virtualmem.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#define CLEANBYTE      0xCD     /* allocated, not written yet */
#define FORBIDDENBYTE  0xFD     /* nobody's: before and behind a block */
                                /* DEADBYTE, 0xDD, freed: pycore_deadblocks.h */

#define SST WORD_SIZE
#define HEAD_SIZE (2 * SST)
#ifdef PYMEM_DEBUG_SERIALNO
#  define TAIL_SIZE (2 * SST)
#else
#  define TAIL_SIZE SST
#endif
#define EXTRA_BYTES (HEAD_SIZE + TAIL_SIZE)
#define MAX_REQUEST ((size_t)PY_SSIZE_T_MAX - EXTRA_BYTES)

/* A realloc erases this much at each end of the old block before it moves. */
#define ERASED_SIZE 64

struct debug_hooks _PyMem_Debug[NB_DOMAINS] = {
    [PYMEM_DOMAIN_RAW] = {'r', DEFAULT_ALLOC(RAW)},
    [PYMEM_DOMAIN_MEM] = {'m', DEFAULT_ALLOC(MEM)},
    [PYMEM_DOMAIN_OBJ] = {'o', DEFAULT_ALLOC(OBJ)},
};

static PyMemAllocatorDomain
hooks_domain(const struct debug_hooks *hooks)
{
    return (PyMemAllocatorDomain)(hooks - _PyMem_Debug);
}

/* Head and tail. */

static size_t
read_size_t(const uint8_t *p)
{
    size_t value = 0;
    for (size_t i = 0; i < SST; i++) {
        value = (value << 8) | p[i];
    }
    return value;
}

static void
write_size_t(uint8_t *p, size_t value)
{
    for (size_t i = SST; i > 0; i--) {
        p[i - 1] = (uint8_t)value;
        value >>= 8;
    }
}

#ifdef PYMEM_DEBUG_SERIALNO
/* The number of this malloc, calloc or realloc.  Never inlined, so that a debugger
 * finds it: with a condition on the number that a dump told it stops at that call. */
static NOINLINE size_t
bumpserialno(void)
{
    static atomic_size_t serialno;
    return atomic_fetch_add_explicit(&serialno, 1, memory_order_relaxed) + 1;
}

static size_t
read_serialno(const uint8_t *tail)
{
    return read_size_t(tail + SST);
}

static void
write_serialno(uint8_t *tail, size_t serialno)
{
    write_size_t(tail + SST, serialno);
}

static void
dump_serialno(const uint8_t *tail)
{
    fprintf(stderr, "    The block was made by call #%zu to debug "
            "malloc/realloc.\n", read_serialno(tail));
}
#else
#  define bumpserialno() ((size_t)0)
#  define read_serialno(tail) ((size_t)0)
#  define write_serialno(tail, serialno) ((void)(serialno))
#  define dump_serialno(tail) ((void)0)
#endif

/* Mark memory that an allocator gave as a block of nbytes, and give its data: all
 * around it is forbidden, but for what is known of the block. */
static uint8_t *
block_mark(uint8_t *memory, char api_id, size_t nbytes, size_t serialno)
{
    uint8_t *data = memory + HEAD_SIZE, *end = data + nbytes;
    memset(end, FORBIDDENBYTE, TAIL_SIZE);
    memset(memory, FORBIDDENBYTE, HEAD_SIZE);
    write_serialno(end, serialno);
    data[-(ptrdiff_t)SST] = (uint8_t)api_id;
    write_size_t(data - HEAD_SIZE, nbytes);
    return data;
}

static size_t
block_size(const uint8_t *data)
{
    return read_size_t(data - HEAD_SIZE);
}

/* A size that was written over is not followed to where no memory is.  Nearly
 * all blocks are so small that asking the system would cost more than all
 * other checks; a large one is filled from end to end anyway. */
#define ASK_FROM_SIZE ((size_t)1 << 16)
static int
size_can_be(const uint8_t *data)
{
    size_t nbytes = block_size(data);
    return nbytes < ASK_FROM_SIZE
        || (nbytes <= MAX_REQUEST && virtual_is_mapped(data + nbytes)
            && virtual_is_mapped(data + nbytes + TAIL_SIZE - 1));
}

static int
is_forbidden(const uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (p[i] != FORBIDDENBYTE) {
            return 0;
        }
    }
    return 1;
}

/* Dump of a block. */

/* The bytes of a pad, one a line when they are not what they should be.
 * offset is that of the first from the place that name stands for. */
static void
dump_pad(const uint8_t *pad, size_t n, const char *name, int offset)
{
    if (is_forbidden(pad, n)) {
        fputs("FORBIDDENBYTE, as expected.\n", stderr);
        return;
    }
    fprintf(stderr, "not all FORBIDDENBYTE (0x%02x):\n", FORBIDDENBYTE);
    for (size_t i = 0; i < n; i++) {
        fprintf(stderr, "        at %s%+d: 0x%02x%s\n", name, offset + (int)i,
                pad[i], pad[i] != FORBIDDENBYTE ? " *** OUCH" : "");
    }
}

/* The data: all of it, or the first and the last eight bytes. */
static void
dump_data(const uint8_t *data, size_t nbytes)
{
    if (nbytes == 0) {
        return;
    }
    fputs("    Data at p:", stderr);
    for (size_t i = 0; i < nbytes; i++) {
        if (i == 8 && nbytes > 16) {
            fputs(" ...", stderr);
            i = nbytes - 8;
        }
        fprintf(stderr, " %02x", data[i]);
    }
    fputc('\n', stderr);
}

/* A block that was freed is full of DEADBYTE, but for the first word of
 * memory, where the allocator may keep its list of free blocks. */
static int
looks_freed(const uint8_t *data)
{
    for (size_t i = 1; i <= SST; i++) {
        if (data[-(ptrdiff_t)i] != DEADBYTE) {
            return 0;
        }
    }
    return 1;
}

static void
block_dump(const uint8_t *data)
{
    size_t nbytes = block_size(data);
    fprintf(stderr, "Debug memory block at address p=%p:", (const void *)data);
    fprintf(stderr, " API '%c'\n", (char)data[-(ptrdiff_t)SST]);
    fprintf(stderr, "    %zu bytes originally requested\n", nbytes);

    int npad = (int)SST - 1;
    const uint8_t *pad = data - npad;
    fprintf(stderr, "    The %d pad bytes at p-%d are ", npad, npad);
    dump_pad(pad, (size_t)npad, "p", -npad);
    if (!is_forbidden(pad, (size_t)npad)) {
        fputs("    Because memory is corrupted at the start, "
              "the count of bytes requested\n"
              "       may be bogus, "
              "and checking the trailing pad bytes may segfault.\n", stderr);
    }

    if (looks_freed(data)) {
        fputs("    The block looks freed already: its head is DEADBYTE (0xdd).\n",
              stderr);
    }
    else if (!size_can_be(data)) {
        fputs("    No block is that large: the tail and the data are not read.\n",
              stderr);
    }
    else {
        const uint8_t *tail = data + nbytes;
        fprintf(stderr, "    The %zu pad bytes at tail=%p are ", SST,
                (const void *)tail);
        dump_pad(tail, SST, "tail", 0);
        dump_serialno(tail);
        dump_data(data, nbytes);
    }
    fputc('\n', stderr);

    fflush(stderr);
    _PyMem_DumpTraceback(fileno(stderr), data);
}

/* Checks. */

static COLD void _Py_NO_RETURN
block_fault(const char *func, const uint8_t *data, const char *message)
{
    block_dump(data);
    _Py_FatalErrorFunc(func, message);
}

static COLD void _Py_NO_RETURN
block_fault_api(const char *func, const uint8_t *data, char api_id)
{
    char allocated = (char)data[-(ptrdiff_t)SST];
    block_dump(data);
    _Py_FatalErrorFormat(func, "bad ID: Allocated using API '%c', "
                         "verified using API '%c'", allocated, api_id);
}

/* End the program unless data is a whole block of this domain. */
static void
block_check(const char *func, char api_id, const uint8_t *data)
{
    if (data[-(ptrdiff_t)SST] != (uint8_t)api_id) {
        block_fault_api(func, data, api_id);
    }
    if (!is_forbidden(data - (SST - 1), SST - 1)) {
        block_fault(func, data, "bad leading pad byte");
    }
    if (!size_can_be(data)) {
        block_fault(func, data, "bad size: no block is that large");
    }
    if (!is_forbidden(data + block_size(data), SST)) {
        block_fault(func, data, "bad trailing pad byte");
    }
}

/* The raw domain's hooks.  Those of the other two are these behind a check. */

void *
_PyMem_DebugRawMalloc(void *ctx, size_t nbytes)
{
    struct debug_hooks *hooks = ctx;
    dead_blocks_check_next(hooks_domain(hooks));
    if (nbytes > MAX_REQUEST) {
        return NULL;
    }
    uint8_t *memory = hooks->alloc.malloc(hooks->alloc.ctx,
                                          nbytes + EXTRA_BYTES);
    if (memory == NULL) {
        return NULL;
    }
    uint8_t *data = block_mark(memory, hooks->api_id, nbytes, bumpserialno());
    return memset(data, CLEANBYTE, nbytes);
}

void *
_PyMem_DebugRawCalloc(void *ctx, size_t nelem, size_t elsize)
{
    struct debug_hooks *hooks = ctx;
    size_t nbytes = nelem * elsize;     /* no overflow: see PyMem_RawCalloc() */
    if (nbytes > MAX_REQUEST) {
        return NULL;
    }
    uint8_t *memory = hooks->alloc.calloc(hooks->alloc.ctx, 1,
                                          nbytes + EXTRA_BYTES);
    if (memory == NULL) {
        return NULL;
    }
    return block_mark(memory, hooks->api_id, nbytes, bumpserialno());
}

void
_PyMem_DebugRawFree(void *ctx, void *ptr)
{
    struct debug_hooks *hooks = ctx;
    if (ptr == NULL) {
        return;
    }
    uint8_t *data = ptr;
    block_check(__func__, hooks->api_id, data);
    struct dead_block dead = {
        .memory = data - HEAD_SIZE,
        .size = block_size(data) + EXTRA_BYTES,
        .data = data,
        .nbytes = block_size(data),
        .api_id = hooks->api_id,
        .alloc = hooks->alloc,
    };
    memset(dead.memory, DEADBYTE, dead.size);
    dead_block_add(hooks_domain(hooks), &dead);
}

/* The parts that realloc erases before it calls the allocator below: head, tail, and up
 * to ERASED_SIZE bytes at each end of the data, which are saved.  If the block
 * moves, nobody finds live data in the old one. */
struct saved_ends {
    size_t first;                   /* bytes saved of the beginning */
    size_t last;                    /* and of the end */
    uint8_t bytes[2 * ERASED_SIZE];
};

static void
ends_erase(struct saved_ends *saved, uint8_t *data, size_t nbytes)
{
    saved->first = nbytes < ERASED_SIZE ? nbytes : ERASED_SIZE;
    saved->last = nbytes - saved->first < ERASED_SIZE ? nbytes - saved->first
                                                      : ERASED_SIZE;
    uint8_t *end = data + nbytes - saved->last;
    memcpy(saved->bytes, data, saved->first);
    memcpy(saved->bytes + ERASED_SIZE, end, saved->last);
    memset(data - HEAD_SIZE, DEADBYTE, HEAD_SIZE + saved->first);
    memset(end, DEADBYTE, saved->last + TAIL_SIZE);
}

/* Put back what of it lies in the first nbytes of the block. */
static void
ends_restore(const struct saved_ends *saved, uint8_t *data, size_t old_nbytes,
             size_t nbytes)
{
    size_t first = saved->first < nbytes ? saved->first : nbytes;
    memcpy(data, saved->bytes, first);
    size_t end = old_nbytes - saved->last;
    if (nbytes > end) {
        size_t last = saved->last < nbytes - end ? saved->last : nbytes - end;
        memcpy(data + end, saved->bytes + ERASED_SIZE, last);
    }
}

static void *
debug_realloc(const char *func, struct debug_hooks *hooks, uint8_t *data,
              size_t nbytes)
{
    block_check(func, hooks->api_id, data);
    if (nbytes > MAX_REQUEST) {
        return NULL;
    }
    size_t old_nbytes = block_size(data);
    size_t serialno = read_serialno(data + old_nbytes);
    uint8_t *old_memory = data - HEAD_SIZE;
    struct saved_ends saved;
    ends_erase(&saved, data, old_nbytes);

    uint8_t *memory = hooks->alloc.realloc(hooks->alloc.ctx, old_memory,
                                           nbytes + EXTRA_BYTES);
    if (memory == NULL) {       /* the old block stays as it was */
        block_mark(old_memory, hooks->api_id, old_nbytes, serialno);
        ends_restore(&saved, data, old_nbytes, old_nbytes);
        return NULL;
    }
    data = block_mark(memory, hooks->api_id, nbytes, bumpserialno());
    ends_restore(&saved, data, old_nbytes, nbytes);
    if (nbytes > old_nbytes) {
        memset(data + old_nbytes, CLEANBYTE, nbytes - old_nbytes);
    }
    return data;
}

void *
_PyMem_DebugRawRealloc(void *ctx, void *ptr, size_t nbytes)
{
    if (ptr == NULL) {
        return _PyMem_DebugRawMalloc(ctx, nbytes);
    }
    return debug_realloc(__func__, ctx, ptr, nbytes);
}

/* The mem and object domains' hooks: the same for whoever holds the GIL. */

static COLD void _Py_NO_RETURN
fault_without_gil(const char *func)
{
    _Py_FatalErrorFunc(func, "Python memory allocator called without holding the GIL");
}

#define FOR_GIL_HOLDER(hook, ...) \
    (LIKELY(PyGILState_Check()) ? (void)0 : fault_without_gil(__func__), \
     hook(__VA_ARGS__))

void *
_PyMem_DebugMalloc(void *ctx, size_t nbytes)
{
    return FOR_GIL_HOLDER(_PyMem_DebugRawMalloc, ctx, nbytes);
}

void *
_PyMem_DebugCalloc(void *ctx, size_t nelem, size_t elsize)
{
    return FOR_GIL_HOLDER(_PyMem_DebugRawCalloc, ctx, nelem, elsize);
}

void *
_PyMem_DebugRealloc(void *ctx, void *ptr, size_t nbytes)
{
    return FOR_GIL_HOLDER(_PyMem_DebugRawRealloc, ctx, ptr, nbytes);
}

void
_PyMem_DebugFree(void *ctx, void *ptr)
{
    FOR_GIL_HOLDER(_PyMem_DebugRawFree, ctx, ptr);
}

/* Installing them. */

static PyMemAllocatorEx
hooks_as_allocator(PyMemAllocatorDomain domain)
{
    if (domain == PYMEM_DOMAIN_RAW) {
        return (PyMemAllocatorEx)DEBUG_RAW_ALLOC;
    }
    return (PyMemAllocatorEx)DEBUG_ALLOC(domain);
}

int
_PyMem_HasDebugHooks(PyMemAllocatorDomain domain)
{
    PyMemAllocatorEx alloc;
    PyMem_GetAllocator(domain, &alloc);
    return alloc.malloc == hooks_as_allocator(domain).malloc;
}

void
_PyMem_SetupDebugHooksInDomain(PyMemAllocatorDomain domain)
{
    if (_PyMem_HasDebugHooks(domain)) {
        return;
    }
    PyMem_GetAllocator(domain, &_PyMem_Debug[domain].alloc);
    PyMemAllocatorEx hooks = hooks_as_allocator(domain);
    PyMem_SetAllocator(domain, &hooks);
}

void
PyMem_SetupDebugHooks(void)
{
    for (int domain = 0; domain < NB_DOMAINS; domain++) {
        _PyMem_SetupDebugHooksInDomain((PyMemAllocatorDomain)domain);
    }
}
