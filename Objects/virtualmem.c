/* Memory by the page: the one file that talks to the operating system, but for random bytes
 * (virtualrandom.c) and for pages that move (virtualmove.c).
 *
 * A sandbox may refuse a call, or kill the program for it.  Where one is refused the
 * program goes on without; PYTHON_PYMALLOC_MMAP_ONLY=1 says that only mmap and munmap may be
 * called.
 *
 * A kernel has pages of 4, 16 or 64 KiB.  It refuses an address in the middle of one,
 * and rounds each length up: what must not touch a neighbour is given whole pages.
 *
 * Calls nothing of this library but the host, for what the environment says. */

#define _GNU_SOURCE
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

/* configure says whether the environment may ask for huge pages. */
#ifdef PYMALLOC_USE_HUGEPAGES
#  define HUGE_PAGES_IN_ENVIRONMENT 1
#else
#  define HUGE_PAGES_IN_ENVIRONMENT 0
#endif

int
virtual_huge_pages_are_wanted(void)
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

/* A system that does not know the flag maps elsewhere. */
#ifdef MAP_FIXED_NOREPLACE
#  define ONLY_THERE MAP_FIXED_NOREPLACE
#else
#  define ONLY_THERE 0
#endif

/* NULL, with errno EEXIST where something else is. */
static void *
map_only_there(void *wanted, size_t size)
{
    void *ptr = mmap(wanted, size, READ_WRITE, MAP_FLAGS | ONLY_THERE, -1, 0);
    if (ptr != wanted && ptr != MAP_FAILED) {
        munmap(ptr, size);
        errno = EEXIST;
    }
    return ptr == wanted ? ptr : NULL;
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
 * takes the faults.  Without memory, or with too many mappings, a call fails once. */
void
virtual_populate(void *ptr, size_t size)
{
#ifdef MADV_POPULATE_WRITE
    static atomic_int refused;
    if (!refused && !virtual_is_confined()) {
        refused = madvise(ptr, size, MADV_POPULATE_WRITE) != 0
            && errno != ENOMEM && errno != EAGAIN;
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

/* Fresh pages, or such as can't be touched, over what is there; as mmap for errno. */
static int
map_over(void *ptr, size_t size, int access)
{
    return mmap(ptr, size, access, MAP_FLAGS | MAP_FIXED, -1, 0) == ptr ? 0 : -1;
}

/* Fresh pages over the old ones do the same as the advice. */
size_t
virtual_purge(void *ptr, size_t size)
{
    static atomic_int refused;
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
        && map_over(ptr, size, READ_WRITE) == 0;
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

static void
virtual_name(void *ptr, size_t size)
{
#ifdef PR_SET_VMA_ANON_NAME
    static atomic_int refused;
    if (!refused && !virtual_is_confined()) {
        refused = prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, (unsigned long)ptr,
                        (unsigned long)size, "pymalloc") != 0
            && errno != ENOMEM && errno != EAGAIN;
    }
#else
    (void)ptr;
    (void)size;
#endif
}

#ifdef MADV_HUGEPAGE
/* A kernel without huge pages refuses it. */
static void
advise(void *ptr, size_t size, int advice)
{
    int kept = errno;
    if (!virtual_is_confined()) {
        madvise(ptr, size, advice);
    }
    errno = kept;
}
#else
#  define advise(ptr, size, advice) ((void)(ptr), (void)(size))
#endif

void
virtual_use_huge_pages(void *ptr, size_t size)
{
    advise(ptr, size, MADV_HUGEPAGE);
}

void
virtual_avoid_huge_pages(void *ptr, size_t size)
{
    advise(ptr, size, MADV_NOHUGEPAGE);
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

int
virtual_is_limited(void)
{
    struct rlimit space, data;
    return virtual_is_confined()
        || (getrlimit(RLIMIT_AS, &space) == 0 && space.rlim_cur != RLIM_INFINITY)
        || (getrlimit(RLIMIT_DATA, &data) == 0 && data.rlim_cur != RLIM_INFINITY);
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
    long number = virtual_is_confined() ? -1 : syscall(SYS_gettid);
    if (number >= 0) {
        return (uintptr_t)number;
    }
#endif
    return (uintptr_t)pthread_self();
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

/* With the last mapping of a process the heap of the C library can't grow any more, and
 * it serves those whom we have no arena for.  Its large blocks are mappings, and a table
 * that grows is two of them for a moment.  So three are left: to find out, pages that are
 * never used are made three mappings of, and one again.  Not those that were just mapped,
 * as no page fault of another thread may have to wait for it.  A second thread that does so
 * meanwhile finds what the first one did.  Where two are left the kernel makes the first of
 * two cuts and refuses the second: one is left then, until there are three again. */
static int
hardly_any_mapping_is_left(void)
{
    enum { LARGEST_PAGE = 1 << 16 };
    static char unused[4 * LARGEST_PAGE];
    size_t page = virtual_page_size();
    void *ptr = (void *)(rounded_up((uintptr_t)unused, page) + page);
    if (!virtual_is_confined()) {
        if (mprotect(ptr, page, PROT_READ) == 0) {
            return mprotect(ptr, page, READ_WRITE) < 0;
        }
        if (errno == ENOMEM) {
            return 1;
        }
    }
    /* To map what is mapped already: the system looks at the number first. */
    void *another = mmap(ptr, page, PROT_NONE, MAP_FLAGS | ONLY_THERE, -1, 0);
    if (another != MAP_FAILED) {
        munmap(another, page);
    }
    return another == MAP_FAILED && errno == ENOMEM;
}

/* The end of memory.  Where it was in the middle of a mapping that makes two of one.  This
 * can fail where a process has as many as it may have (vm.max_map_count), and must not take
 * one of the last three.  Its contents go in any case.  The addresses wait in a list,
 * until they can go or are asked for again.  The list is taken whole, so that no lock is
 * needed. */

struct refused {
    struct refused *next;
    size_t size;
};
static struct refused *_Atomic all_refused;

static void
refused_push(struct refused *refused)
{
    refused->next = all_refused;
    while (!atomic_compare_exchange_weak(&all_refused, &refused->next, refused)) {
    }
}

static void
refused_add(void *ptr, size_t size)
{
    struct refused *refused = ptr;
    refused->size = size;
    refused_push(refused);
}

/* Its contents have gone, or are zero; 0: it can't be written to, and so is empty. */
static int
clear_refused(void *ptr, size_t size)
{
    if (!virtual_is_confined() && mprotect(ptr, size, READ_WRITE) < 0) {
        return 0;               /* a table that could not be made */
    }
    if (virtual_purge(ptr, size) < size) {
        memset(ptr, 0, size);
    }
    return 1;
}

/* Of an arena, or of some in a row? */
static int
is_arenas(const void *ptr, size_t size)
{
    return ((uintptr_t)ptr | size) % ARENA_SIZE == 0;
}

/* Where it was, and as it was: as one mapping with what lies beside it. */
static int
map_again(void *ptr, size_t size)
{
    if (map_only_there(ptr, size) == NULL) {
        return 0;
    }
    if (is_arenas(ptr, size)) {
        virtual_name(ptr, size);
    }
    return 1;
}

enum fate { GONE, REFUSED, CAME_AGAIN };

/* A hole that took one of the last mappings is filled; where that is no help it was none. */
static enum fate
give_back(void *ptr, size_t size)
{
    if (UNLIKELY(munmap(ptr, size) != 0)) {
        return REFUSED;
    }
    if (LIKELY(!hardly_any_mapping_is_left()) || !map_again(ptr, size)) {
        return GONE;
    }
    if (!hardly_any_mapping_is_left()) {
        return CAME_AGAIN;
    }
    return munmap(ptr, size) == 0 ? GONE : REFUSED;
}

/* One that fits, zeroed, or NULL; others are asked to go once more, until one may not.  The
 * list is turned round by it, so that another one is asked first the next time. */
static void *
refused_take(size_t size, size_t alignment)
{
    struct refused *found = NULL;
    int others_stay = 0;
    for (struct refused *one = atomic_exchange(&all_refused, NULL), *next; one != NULL;
         one = next)
    {
        next = one->next;
        if (found == NULL && one->size == size
            && ((uintptr_t)one & (alignment - 1)) == 0)
        {
            found = memset(one, 0, sizeof(*one));
        }
        else {
            size_t its_size = one->size;
            if (others_stay || give_back(one, its_size) != GONE) {
                others_stay = 1;
                refused_add(one, its_size);
            }
        }
    }
    return found;
}

/* Arenas are asked for downwards from here, where each is one mapping with the one before:
 * from the last one, or from the highest that went since. */
static _Atomic uintptr_t next_arena_ends;

static void
arena_goes(uintptr_t end)
{
    uintptr_t now = atomic_load_explicit(&next_arena_ends, memory_order_relaxed);
    while (end > now && !atomic_compare_exchange_weak(&next_arena_ends, &now, end)) {
    }
}

/* errno is the program's, which asked for nothing. */
void
virtual_free(void *ptr, size_t size)
{
    int kept = errno;
    enum fate fate = give_back(ptr, size);
    if (LIKELY(fate == GONE)) {
        if (is_arenas(ptr, size)) {
            arena_goes((uintptr_t)ptr + size);
        }
    }
    else if (fate == CAME_AGAIN || clear_refused(ptr, size)) {
        refused_add(ptr, size);
    }
    errno = kept;
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

/* Below others it is aligned by itself.  Where arenas were before they come again: their
 * pools have records for good, so that a process which went on downwards, peak after peak,
 * would fill its memory with those. */
static void *
map_arena(size_t size, size_t alignment)
{
    enum { PLACES = 16 };
    uintptr_t place = atomic_load_explicit(&next_arena_ends, memory_order_relaxed);
    void *ptr = NULL;
    for (int i = 0; i < PLACES && ptr == NULL && place > size; i++) {
        place = rounded_down(place - size, alignment);
        ptr = map_only_there((void *)place, size);
        if (ptr == NULL && errno == ENOMEM) {
            return NULL;
        }
    }
    if (ptr == NULL) {
        ptr = map_aligned(NULL, size, alignment, READ_WRITE);
        if ((uintptr_t)ptr < place || place <= size) {
            place = (uintptr_t)ptr;
        }
    }
    if (ptr != NULL) {
        atomic_store_explicit(&next_arena_ends, place, memory_order_relaxed);
    }
    return ptr;
}

static void *
map_memory(size_t size, size_t alignment)
{
    if (alignment <= virtual_page_size()) {
        return map_pages(NULL, size, READ_WRITE);
    }
    return alignment < ARENA_SIZE ? map_aligned(NULL, size, alignment, READ_WRITE)
        : map_arena(size, alignment);
}

/* With its name it becomes one mapping with others, so what is left is asked then. */
static void *
map_and_name(size_t size, size_t alignment, int is_named)
{
    void *ptr = UNLIKELY(all_refused != NULL) ? refused_take(size, alignment) : NULL;
    if (ptr != NULL) {
        return ptr;             /* it is a mapping already, and has its name */
    }
    ptr = map_memory(size, alignment);
    if (ptr != NULL && is_named) {
        virtual_name(ptr, size);
    }
    if (ptr != NULL && UNLIKELY(hardly_any_mapping_is_left())) {
        virtual_free(ptr, size);
        ptr = NULL;
    }
    return ptr;
}

/* Calls that are refused on the way leave the program's errno. */
static void *
alloc(size_t size, size_t alignment, int is_named)
{
    int kept = errno;
    void *ptr = map_and_name(size, alignment, is_named);
    errno = kept;
    return ptr;
}

void *
virtual_alloc(size_t size, size_t alignment)
{
    return alloc(size, alignment, 0);
}

void *
virtual_alloc_named(size_t size, size_t alignment)
{
    return alloc(size, alignment, 1);
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

/* Memory that was never written to may be mapped over, where a sandbox refuses better. */
static int
allow_writing(void *ptr, size_t size)
{
    return mprotect(ptr, size, READ_WRITE) == 0
        || (call_is_forbidden() && map_over(ptr, size, READ_WRITE) == 0) ? 0 : -1;
}

void *
virtual_reserve(size_t size, size_t alignment)
{
    int is_confined = virtual_is_confined();
    int access = is_confined ? READ_WRITE : PROT_READ;
    void *table = map_aligned(NULL, rounded_up(size, PIECE) + size_of_bits(size),
                              alignment < PIECE ? PIECE : alignment, access);
    if (table == NULL) {
        return NULL;
    }
    if (is_confined) {
        memset(bits_of(table, size), 0xff, size / PIECE / 8 + 1);
    }
    else if (allow_writing(bits_of(table, size), size_of_bits(size)) < 0
             || hardly_any_mapping_is_left())
    {
        virtual_free_table(table, size);
        return NULL;
    }
    return table;
}

static int
piece_is_writable(const unsigned char *bits, size_t piece)
{
    return bits[piece / 8] >> piece % 8 & 1;
}

/* A piece among others that are read only makes three mappings of one.  With all pieces
 * up to the next one that is writable, or up to the bits, it makes none. */
static int
commit_up_to_writable(void *table, size_t size, size_t piece)
{
    unsigned char *bits = bits_of(table, size);
    size_t end = piece + 1;
    while (end * PIECE < size && !piece_is_writable(bits, end)) {
        end++;
    }
    if (allow_writing((char *)table + piece * PIECE, (end - piece) * PIECE) < 0) {
        return -1;
    }
    for (; piece < end; piece++) {
        bits[piece / 8] |= (unsigned char)(1u << piece % 8);
    }
    return 0;
}

int
virtual_commit(void *table, size_t size, size_t offset)
{
    size_t piece = offset / PIECE;
    unsigned char *bits = bits_of(table, size);
    char *start = (char *)table + piece * PIECE;
    if (piece_is_writable(bits, piece)) {
        return 0;
    }
    int is_writable = allow_writing(start, PIECE) == 0;
    if (is_writable ? hardly_any_mapping_is_left() : errno == ENOMEM) {
        return commit_up_to_writable(table, size, piece);
    }
    bits[piece / 8] |= (unsigned char)(is_writable << piece % 8);
    return is_writable ? 0 : -1;
}

/* Address space of which parts are opened, by mmap alone. */

static int
map_over_quietly(void *ptr, size_t size, int access)
{
    int kept = errno;
    int result = map_over(ptr, size, access);
    errno = kept;
    return result;
}

void *
virtual_claim(size_t size)
{
    int kept = errno;
    void *start = map_pages(NULL, size, PROT_NONE);
    if (start != NULL && UNLIKELY(hardly_any_mapping_is_left())) {
        munmap(start, size);
        start = NULL;
    }
    errno = kept;
    return start;
}

int
virtual_open(void *ptr, size_t size)
{
    return map_over_quietly(ptr, size, READ_WRITE);
}

int
virtual_close(void *ptr, size_t size)
{
    return map_over_quietly(ptr, size, PROT_NONE);
}

#else
#  include "virtualmem_none.h"
#endif
