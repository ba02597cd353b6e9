/* Memory by the page: the one file that talks to the operating system, and
 * the arena allocator, which by default is a thin layer over it.
 *
 *   arenas.c ---> _PyObject_Arena ---> _PyMem_ArenaAlloc ---> mmap
 *                 (can be replaced)    the default
 *
 * A sandbox may refuse a call, or kill the program for it.  Where one is refused the
 * program goes on without; PYTHON_PYMALLOC_MMAP_ONLY=1 says that nothing but mmap and
 * munmap is to be called at all.
 *
 * A kernel has pages of 4, 16 or 64 KiB.  It refuses an address in the middle of one,
 * and rounds each length up: what must not touch a neighbour is given whole pages.
 *
 * Owns _PyObject_Arena.  Calls nothing of this library but the host, for what the
 * environment says. */

#include "pycore_virtualmem.h"
#include "pycore_compiler.h"
#include "pycore_geometry.h"
#include "pycore_host.h"

#include <stdatomic.h>
#include <stdlib.h>

/* Switches: as the environment says, or whoever installed the library. */

static atomic_int mmap_only = -1, huge_pages = -1;     /* -1: not known yet */

/* A variable is off where it is empty or the number 0.  Another number is on, and so
 * is a text that is no number: CPython reads its own flags like this. */
static int
variable_is_on(const char *name)
{
    const char *value = Py_GETENV(name);
    if (value == NULL || *value == '\0') {
        return 0;
    }
    char *end;
    long number = strtol(value, &end, 10);
    return *end != '\0' || number != 0;
}

int
virtual_is_confined(void)
{
    if (UNLIKELY(mmap_only < 0)) {
        mmap_only = variable_is_on("PYTHON_PYMALLOC_MMAP_ONLY");
    }
    return mmap_only;
}

void
virtual_confine(void)
{
    mmap_only = 1;
}

#if defined(__unix__) || defined(__APPLE__)

#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>
#ifdef __linux__
#  include <sys/prctl.h>
#  include <sys/syscall.h>
#endif
#include <pthread.h>

#ifndef CLOCK_MONOTONIC_COARSE
#  define CLOCK_MONOTONIC_COARSE CLOCK_MONOTONIC
#endif

#ifndef MAP_ANONYMOUS
#  define MAP_ANONYMOUS MAP_ANON
#endif

/* Address space is not counted against memory until it is touched. */
#ifdef MAP_NORESERVE
#  define MAP_FLAGS (MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE)
#else
#  define MAP_FLAGS (MAP_PRIVATE | MAP_ANONYMOUS)
#endif

enum { READ_WRITE = PROT_READ | PROT_WRITE };

/* At wanted, if nothing is there; else anywhere. */
static void *
map_pages(void *wanted, size_t size, int access)
{
    void *ptr = mmap(wanted, size, access, MAP_FLAGS, -1, 0);
    return ptr == MAP_FAILED ? NULL : ptr;
}

void
virtual_free(void *ptr, size_t size)
{
    munmap(ptr, size);
}

size_t
virtual_page_size(void)
{
    static atomic_size_t size;
    size_t known = atomic_load_explicit(&size, memory_order_relaxed);
    if (UNLIKELY(known == 0)) {
        known = (size_t)sysconf(_SC_PAGESIZE);
        atomic_store_explicit(&size, known, memory_order_relaxed);
    }
    return known;
}

static uintptr_t
rounded_down(uintptr_t n, size_t power_of_two)
{
    return n & ~(uintptr_t)(power_of_two - 1);
}

static uintptr_t
rounded_up(uintptr_t n, size_t power_of_two)
{
    return rounded_down(n + power_of_two - 1, power_of_two);
}

/* The whole pages among size bytes: where the first one is, and their size. */
static size_t
whole_pages(void **ptr, size_t size)
{
    uintptr_t start = rounded_up((uintptr_t)*ptr, virtual_page_size());
    uintptr_t end = rounded_down((uintptr_t)*ptr + size, virtual_page_size());
    *ptr = (void *)start;
    return end > start ? end - start : 0;
}

/* One call instead of a page fault for each page.  A system that can't simply
 * takes the faults. */
void
virtual_populate(void *ptr, size_t size)
{
#ifdef MADV_POPULATE_WRITE
    static atomic_int refused;
    if (!refused && !virtual_is_confined()) {
        refused = madvise(ptr, size, MADV_POPULATE_WRITE) != 0;
    }
#else
    (void)ptr;
    (void)size;
#endif
}

/* Is it a sandbox that says no?  Otherwise the memory is such that it can't be. */
static int
call_is_forbidden(void)
{
    return errno == EPERM || errno == ENOSYS || errno == EACCES;
}

/* Fresh pages over the old ones do the same as the advice. */
size_t
virtual_purge(void *ptr, size_t size)
{
    static int refused;
    size = whole_pages(&ptr, size);
    if (size == 0) {
        return 0;
    }
    if (!refused && !virtual_is_confined()) {
        if (madvise(ptr, size, MADV_DONTNEED) == 0) {
            return size;
        }
        refused = call_is_forbidden();
    }
    int is_fresh = (refused || virtual_is_confined())
        && mmap(ptr, size, READ_WRITE, MAP_FLAGS | MAP_FIXED, -1, 0) == ptr;
    return is_fresh ? size : 0;
}

int
virtual_lend(void *ptr, size_t size)
{
#ifdef MADV_FREE
    size = whole_pages(&ptr, size);
    return size == 0 || virtual_is_confined() ? -1 : madvise(ptr, size, MADV_FREE);
#else
    (void)ptr;
    (void)size;
    return -1;
#endif
}

void
virtual_name(void *ptr, size_t size)
{
#ifdef PR_SET_VMA_ANON_NAME
    static atomic_int refused;
    if (!refused && !virtual_is_confined()) {
        refused = prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, (unsigned long)ptr,
                        (unsigned long)size, "pymalloc") != 0;
    }
#else
    (void)ptr;
    (void)size;
#endif
}

void
virtual_use_huge_pages(void *ptr, size_t size)
{
#ifdef MADV_HUGEPAGE
    if (!virtual_is_confined()) {
        madvise(ptr, size, MADV_HUGEPAGE);
    }
#else
    (void)ptr;
    (void)size;
#endif
}

uint64_t
virtual_clock(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

uint64_t
virtual_count_waits(void)
{
    static _Atomic uint64_t nobody_knows;
    struct rusage usage;
    if (virtual_is_confined() || getrusage(RUSAGE_SELF, &usage) < 0) {
        return nobody_knows++;
    }
    return (uint64_t)usage.ru_nvcsw;
}

static int
has_limit(int resource)
{
    struct rlimit limit;
    return getrlimit(resource, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY;
}

int
virtual_is_limited(void)
{
    return virtual_is_confined() || has_limit(RLIMIT_AS) || has_limit(RLIMIT_DATA);
}

/* membarrier(2): a process tells once that it will ask. */
int
virtual_barrier(void)
{
#ifdef SYS_membarrier
    enum { PRIVATE_EXPEDITED = 1 << 3, REGISTER = 1 << 4 };
    static atomic_int refused;
    if (refused || virtual_is_confined()) {
        return -1;
    }
    int errno_before = errno;
    if (syscall(SYS_membarrier, PRIVATE_EXPEDITED, 0, 0) != 0) {
        refused = syscall(SYS_membarrier, REGISTER, 0, 0) != 0
            || syscall(SYS_membarrier, PRIVATE_EXPEDITED, 0, 0) != 0;
    }
    errno = errno_before;
    return refused ? -1 : 0;
#else
    return -1;
#endif
}

uintptr_t
virtual_thread_number(void)
{
#ifdef SYS_gettid
    return (uintptr_t)syscall(SYS_gettid);
#else
    return (uintptr_t)pthread_self();
#endif
}

int
virtual_is_mapped(const void *ptr)
{
    uintptr_t page = rounded_down((uintptr_t)ptr, virtual_page_size());
    unsigned char in_memory;
    return virtual_is_confined()
        || mincore((void *)page, 1, (void *)&in_memory) == 0 || call_is_forbidden();
}

void
virtual_yield(void)
{
    if (!virtual_is_confined()) {
        sched_yield();
    }
}

/* Map more than asked for and cut off what lies before and behind. */
static void *
map_more(size_t size, size_t alignment, int access)
{
    size = rounded_up(size, virtual_page_size());
    uintptr_t start = (uintptr_t)map_pages(NULL, size + alignment, access);
    if (start == 0) {
        return NULL;
    }
    uintptr_t aligned = rounded_up(start, alignment);
    size_t before = aligned - start;
    size_t behind = alignment - before;
    if (before > 0) {
        virtual_free((void *)start, before);
    }
    if (behind > 0) {
        virtual_free((void *)(aligned + size), behind);
    }
    return (void *)aligned;
}

/* Where the system puts it, or else a little below, as the system goes downwards: so that
 * a limit on the address space needs to have room for no more than size. */
static void *
map_aligned(void *wanted, size_t size, size_t alignment, int access)
{
    void *ptr = NULL;
    for (int i = 0; i < 2; i++) {
        ptr = map_pages(wanted, size, access);
        if (ptr == NULL || rounded_down((uintptr_t)ptr, alignment) == (uintptr_t)ptr) {
            return ptr;
        }
        virtual_free(ptr, size);
        wanted = (void *)rounded_down((uintptr_t)ptr, alignment);
    }
    return map_more(size, alignment, access);
}

/* Each arena is asked for right below the one before, where it is aligned by itself, and
 * one mapping for the system as long as no other comes between. */
void *
virtual_alloc(size_t size, size_t alignment)
{
    static _Atomic uintptr_t last;
    if (alignment <= virtual_page_size()) {
        return map_pages(NULL, size, READ_WRITE);
    }
    if (alignment < ARENA_SIZE) {
        return map_aligned(NULL, size, alignment, READ_WRITE);
    }
    uintptr_t below = atomic_load_explicit(&last, memory_order_relaxed);
    void *wanted = (void *)(below > size ? below - size : 0);
    void *ptr = map_aligned(wanted, size, alignment, READ_WRITE);
    if (ptr != NULL) {
        atomic_store_explicit(&last, (uintptr_t)ptr, memory_order_relaxed);
    }
    return ptr;
}

/* Tables.  Behind one is a bit for each PIECE of it that may be written to.
 *
 *   table  [ zeros | piece | zeros ... | piece | bits ]
 */
#define PIECE ((size_t)1 << 16)

static unsigned char *
bits_of(void *table, size_t size)
{
    return (unsigned char *)table + rounded_up(size, PIECE);
}

static size_t
size_of_bits(size_t size)
{
    return rounded_up(size / PIECE / 8 + 1, virtual_page_size());
}

void
virtual_free_table(void *table, size_t size)
{
    virtual_free(table, rounded_up(size, PIECE) + size_of_bits(size));
}

/* What was never written to may be mapped over, where a sandbox refuses better. */
static int
allow_writing(void *ptr, size_t size)
{
    return mprotect(ptr, size, READ_WRITE) == 0
        || (call_is_forbidden()
            && mmap(ptr, size, READ_WRITE, MAP_FLAGS | MAP_FIXED, -1, 0) == ptr)
        ? 0 : -1;
}

void *
virtual_reserve(size_t size, size_t alignment)
{
    int is_confined = virtual_is_confined();
    void *table = map_aligned(NULL, rounded_up(size, PIECE) + size_of_bits(size),
                              alignment < PIECE ? PIECE : alignment,
                              is_confined ? READ_WRITE : PROT_READ);
    if (table == NULL) {
        return NULL;
    }
    if (is_confined) {
        memset(bits_of(table, size), 0xff, size / PIECE / 8 + 1);
    }
    else if (allow_writing(bits_of(table, size), size_of_bits(size)) < 0) {
        virtual_free_table(table, size);
        return NULL;
    }
    return table;
}

int
virtual_commit(void *table, size_t size, size_t offset)
{
    size_t piece = offset / PIECE;
    unsigned char *bits = bits_of(table, size) + piece / 8;
    unsigned char bit = (unsigned char)(1u << piece % 8);
    if (*bits & bit) {
        return 0;
    }
    if (allow_writing((char *)table + piece * PIECE, PIECE) < 0) {
        return -1;
    }
    *bits |= bit;
    return 0;
}

#else /* no mmap */

#include <stdlib.h>
#include <string.h>
#include <time.h>

size_t
virtual_page_size(void)
{
    return 4096;
}

void *
virtual_alloc(size_t size, size_t alignment)
{
    if (alignment < virtual_page_size()) {
        alignment = virtual_page_size();
    }
    size = (size + alignment - 1) & ~(alignment - 1);
    void *ptr = aligned_alloc(alignment, size);
    if (ptr != NULL) {
        memset(ptr, 0, size);
    }
    return ptr;
}

void
virtual_free(void *ptr, size_t size)
{
    (void)size;
    free(ptr);
}

void *
virtual_reserve(size_t size, size_t alignment)
{
    return virtual_alloc(size, alignment);
}

void
virtual_free_table(void *table, size_t size)
{
    virtual_free(table, size);
}

int
virtual_commit(void *table, size_t size, size_t offset)
{
    (void)table;
    (void)size;
    (void)offset;
    return 0;
}

void
virtual_populate(void *ptr, size_t size)
{
    (void)ptr;
    (void)size;
}

size_t
virtual_purge(void *ptr, size_t size)
{
    memset(ptr, 0, size);
    return 0;
}

int
virtual_lend(void *ptr, size_t size)
{
    (void)ptr;
    (void)size;
    return -1;
}

void
virtual_name(void *ptr, size_t size)
{
    (void)ptr;
    (void)size;
}

void
virtual_use_huge_pages(void *ptr, size_t size)
{
    (void)ptr;
    (void)size;
}

uint64_t
virtual_clock(void)
{
    return (uint64_t)time(NULL) * 1000;
}

uint64_t
virtual_count_waits(void)
{
    static uint64_t nobody_knows;
    return nobody_knows++;
}

int
virtual_is_limited(void)
{
    return 0;
}

int
virtual_barrier(void)
{
    return -1;
}

uintptr_t
virtual_thread_number(void)
{
    return 1;
}

int
virtual_is_mapped(const void *ptr)
{
    (void)ptr;
    return 1;       /* who knows */
}

void
virtual_yield(void)
{
}

#endif

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

/* Huge pages: the processor then looks up 2 MiB at a time, not 4 KiB.  Worth it
 * for large heaps, and waste in small ones, so the user asks for them.  configure
 * says whether the environment may. */
#define HUGE_PAGE_SIZE ((size_t)1 << 21)
#ifdef PYMALLOC_USE_HUGEPAGES
#  define HUGE_PAGES_IN_ENVIRONMENT 1
#else
#  define HUGE_PAGES_IN_ENVIRONMENT 0
#endif

static int
huge_pages_are_wanted(void)
{
    if (huge_pages < 0) {
        huge_pages = HUGE_PAGES_IN_ENVIRONMENT
            && variable_is_on("PYTHON_PYMALLOC_HUGEPAGES");
    }
    return huge_pages;
}

void
virtual_want_huge_pages(void)
{
    huge_pages = 1;
}

/* Arenas that share a huge page are got with it, and the others wait here; from any
 * thread. */
static void *
huge_page_part(size_t size)
{
    static struct { uintptr_t next, end; } rest;
    if (rest.end - rest.next < size || (rest.next & (size - 1)) != 0) {
        void *page = virtual_alloc(HUGE_PAGE_SIZE, HUGE_PAGE_SIZE);
        if (page == NULL) {
            return NULL;
        }
        if (rest.end != rest.next) {
            virtual_free((void *)rest.next, rest.end - rest.next);
        }
        virtual_use_huge_pages(page, HUGE_PAGE_SIZE);
        rest.next = (uintptr_t)page;
        rest.end = rest.next + HUGE_PAGE_SIZE;
    }
    void *ptr = (void *)rest.next;
    rest.next += size;
    return ptr;
}

/* Who is in it at a fork left it half done: the child must not wait for it. */
static void *
alloc_in_huge_page(size_t size)
{
    static atomic_flag busy = ATOMIC_FLAG_INIT;
    if (atomic_flag_test_and_set_explicit(&busy, memory_order_acquire)) {
        return NULL;
    }
    void *ptr = huge_page_part(size);
    atomic_flag_clear_explicit(&busy, memory_order_release);
    return ptr;
}

/* An arena that is aligned to its size loses no pool at its ends.  Where
 * address space is so short that it can't be aligned, any place will do. */
void *
_PyMem_ArenaAlloc(void *ctx, size_t size)
{
    (void)ctx;
    void *ptr = NULL;
    if (size == ARENA_SIZE || size == MEDIUM_ARENA_SIZE) {
        if (huge_pages_are_wanted() && size >= virtual_page_size()) {
            ptr = alloc_in_huge_page(size);
        }
        if (ptr == NULL) {
            ptr = virtual_alloc(size, size);
        }
    }
    if (ptr == NULL) {
        ptr = virtual_alloc(size, 1);
    }
    if (ptr != NULL) {
        virtual_name(ptr, size);
    }
    return ptr;
}

void
_PyMem_ArenaFree(void *ctx, void *ptr, size_t size)
{
    (void)ctx;
    virtual_free(ptr, size);
}

PyObjectArenaAllocator _PyObject_Arena = {
    NULL, _PyMem_ArenaAlloc, _PyMem_ArenaFree
};

void
PyObject_GetArenaAllocator(PyObjectArenaAllocator *allocator)
{
    *allocator = _PyObject_Arena;
}

void
PyObject_SetArenaAllocator(PyObjectArenaAllocator *allocator)
{
    _PyObject_Arena = *allocator;
}

void *
_PyObject_VirtualAlloc(size_t size)
{
    return _PyObject_Arena.alloc(_PyObject_Arena.ctx, size);
}

void
_PyObject_VirtualFree(void *ptr, size_t size)
{
    _PyObject_Arena.free(_PyObject_Arena.ctx, ptr, size);
}
