/* A wrapper of malloc, calloc, realloc and free that keeps all promises, or breaks one.
 *
 *     cc -DFAULT=n [-DBASE='"libjemalloc.so.2"'] [-DWITH_DOMAINS] -shared -fPIC ...
 *
 * FAULT=0 is without fault.  BASE is the library that is wrapped; without it glibc.
 * WITH_DOMAINS exports PyMem functions with hooks instead of malloc; its faults begin
 * at 51.  Lib/test/test_conformance.py says which promise finds which fault. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static struct {
    void *(*malloc)(size_t);
    void *(*calloc)(size_t, size_t);
    void *(*realloc)(void *, size_t);
    void (*free)(void *);
    size_t (*usable)(void *);
} base;

__attribute__((constructor)) static void
find_base(void)
{
#ifdef BASE
    void *library = dlopen(BASE, RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND);
    if (library == NULL) {
        abort();
    }
#else
    void *library = RTLD_NEXT;
#endif
    *(void **)&base.malloc = dlsym(library, "malloc");
    *(void **)&base.calloc = dlsym(library, "calloc");
    *(void **)&base.realloc = dlsym(library, "realloc");
    *(void **)&base.free = dlsym(library, "free");
    *(void **)&base.usable = dlsym(library, "malloc_usable_size");
}

#define IS(number) (FAULT == (number))
#define HALF_ALIGNED(p) ((uintptr_t)(p) % 16 == 8)

/* IS(3): what each request for 0 bytes gets. */
static char nothing[16];

/* IS(16): the block freed last is remembered, and given twice. */
static void *last_freed;
static int given;

/* IS(18): a list of free blocks that no lock guards. */
static struct link { struct link *next; } *unguarded;

/* IS(19): a lock that a fork leaves taken. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* IS(20): blocks of a thread lie in its memory, which goes with it. */
static __thread char *own, *own_end;
static char *region;
static size_t region_used;
#define REGION ((size_t)1 << 30)
#define PIECE ((size_t)1 << 22)
static pthread_key_t key;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void
thread_ends(void *piece)
{
    memset(piece, 0, PIECE);
}

static void
region_begin(void)
{
    region = mmap(NULL, REGION, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    pthread_key_create(&key, thread_ends);
}

static void *
thread_malloc(size_t size)
{
    pthread_once(&once, region_begin);
    size = (size + 31) / 16 * 16;
    if (own == NULL) {
        size_t at = __atomic_fetch_add(&region_used, PIECE, __ATOMIC_RELAXED);
        if (at + PIECE > REGION) {
            return NULL;
        }
        own = region + at;
        own_end = own + PIECE;
        pthread_setspecific(key, own);
    }
    if (own + size > own_end) {
        return NULL;
    }
    void *block = own + 16;
    *(size_t *)own = size - 16;
    own += size;
    return block;
}

static int
in_region(void *ptr)
{
    return region != NULL && (char *)ptr >= region && (char *)ptr < region + REGION;
}

/* Blocks that a fault takes from elsewhere; NULL: none. */
static void *
faulty_block(size_t size)
{
    if (IS(3) && size == 0) {
        return nothing;
    }
    if (IS(16) && last_freed != NULL && size <= 64) {
        void *block = last_freed;
        if (++given % 2 == 0) {
            last_freed = NULL;
        }
        return block;
    }
    if (IS(18) && size <= 64) {
        struct link *link = unguarded;
        if (link != NULL) {
            struct link *next = link->next;
            for (volatile int i = 0; i < 50; i++) {
            }
            unguarded = next;
        }
        return link;
    }
    return IS(20) && size < 200 ? thread_malloc(size) : NULL;
}

/* What the base is asked for. */
static size_t
faulty_size(size_t size)
{
    return IS(12) ? (uint32_t)size
        : IS(17) && size > 300 ? size - 64
        : IS(18) && size <= 64 ? 64 : size;
}

static void *
locked_malloc(size_t size)
{
    if (!IS(19)) {
        return base.malloc(size);
    }
    pthread_mutex_lock(&lock);
    void *block = base.malloc(size);
    for (volatile int i = 0; i < 200; i++) {
    }
    pthread_mutex_unlock(&lock);
    return block;
}

static void *
wrapped_malloc(size_t size)
{
    static int stuck;
    if ((IS(2) && size == 0) || (IS(23) && stuck)) {
        return NULL;
    }
    if (IS(8)) {
        char *block = base.malloc(size + 8);
        return block == NULL ? NULL : block + 8;
    }
    void *block = faulty_block(size);
    if (block != NULL) {
        return block;
    }
    block = locked_malloc(faulty_size(size));
    stuck |= block == NULL && size < (1u << 24);
    if (IS(21) && block == NULL) {
        return (void *)-1;
    }
    if (IS(22) && block == NULL && size < (1u << 24)) {
        abort();
    }
    while (IS(24) && size > 100000) {
    }
    return block;
}

static void
wrapped_free(void *ptr)
{
    if (IS(7) && *(volatile char *)ptr == 77) {
        return;
    }
    static unsigned nfrees;
    if (IS(14) && ++nfrees % 2 == 0) {
        return;
    }
    if ((IS(8) || IS(9)) && HALF_ALIGNED(ptr)) {
        ptr = (char *)ptr - 8;
    }
    if (IS(16) && ptr != NULL && last_freed == NULL && base.usable(ptr) >= 64) {
        last_freed = ptr;
        given = 0;
        return;
    }
    if (IS(18) && ptr != NULL && base.usable(ptr) >= 64 && base.usable(ptr) < 80) {
        struct link *link = ptr;
        link->next = unguarded;
        unguarded = link;
        return;
    }
    if ((IS(20) && in_region(ptr)) || (IS(3) && ptr == nothing)) {
        return;
    }
    base.free(ptr);
}

static void *
wrapped_calloc(size_t nelem, size_t elsize)
{
    if (IS(4)) {
        return elsize != 0 && nelem > SIZE_MAX / elsize ? NULL
            : base.malloc(nelem * elsize);
    }
    if (IS(5)) {
        void *block = base.malloc(nelem * elsize);
        return block == NULL ? NULL : memset(block, 0, nelem * elsize);
    }
    if (IS(13) && nelem == 1) {
        elsize = (uint32_t)elsize;
    }
    return base.calloc(nelem, elsize);
}

/* By a new block and a copy. */
static void *
move(void *ptr, size_t new_size, size_t old_size)
{
    void *moved = wrapped_malloc(new_size);
    if (moved != NULL) {
        size_t kept = old_size < new_size ? old_size : new_size;
        memcpy(moved, ptr, IS(10) ? kept / 2 : kept);
        if (!IS(15)) {
            wrapped_free(ptr);
        }
    }
    return moved;
}

static void *
wrapped_realloc(void *ptr, size_t new_size)
{
    if (IS(1) && ptr != NULL && new_size == 0) {
        wrapped_free(ptr);
        return NULL;
    }
    if (IS(6) && ptr == NULL) {
        return NULL;
    }
    if (ptr == NULL) {
        return wrapped_malloc(new_size);
    }
    if (IS(8) || IS(9)) {
        size_t shift = HALF_ALIGNED(ptr) ? 8 : 0;
        char *moved = base.malloc(new_size + 8);
        if (moved == NULL) {
            return NULL;
        }
        size_t kept = base.usable((char *)ptr - shift) - shift;
        memcpy(moved + 8, ptr, kept < new_size ? kept : new_size);
        wrapped_free(ptr);
        return moved + 8;
    }
    if (IS(20) && in_region(ptr)) {
        return move(ptr, new_size, ((size_t *)ptr)[-2]);
    }
    if (IS(10) || IS(15) || IS(18)) {
        return move(ptr, new_size, base.usable(ptr));
    }
    void *moved = base.realloc(ptr, new_size == 0 ? 1 : new_size);
    if (IS(11) && moved == NULL) {
        base.free(ptr);
    }
    return moved;
}

#ifndef WITH_DOMAINS

void *malloc(size_t size) { return wrapped_malloc(size); }
void *calloc(size_t nelem, size_t elsize) { return wrapped_calloc(nelem, elsize); }
void *realloc(void *ptr, size_t size) { return wrapped_realloc(ptr, size); }
void free(void *ptr) { wrapped_free(ptr); }

#else

typedef struct {
    void *ctx;
    void *(*malloc)(void *ctx, size_t size);
    void *(*calloc)(void *ctx, size_t nelem, size_t elsize);
    void *(*realloc)(void *ctx, void *ptr, size_t new_size);
    void (*free)(void *ctx, void *ptr);
} Allocator;

static void *plain_malloc(void *ctx, size_t size)
{ (void)ctx; return wrapped_malloc(size); }
static void *plain_calloc(void *ctx, size_t nelem, size_t elsize)
{ (void)ctx; return wrapped_calloc(nelem, elsize); }
static void *plain_realloc(void *ctx, void *ptr, size_t size)
{ (void)ctx; return wrapped_realloc(ptr, size); }
static void plain_free(void *ctx, void *ptr)
{ (void)ctx; wrapped_free(ptr); }

#define PLAIN {NULL, plain_malloc, plain_calloc, plain_realloc, plain_free}
static const Allocator plain = PLAIN;
static Allocator domains[3] = {PLAIN, PLAIN, PLAIN};

void
PyMem_GetAllocator(int domain, Allocator *allocator)
{
    *allocator = IS(52) ? plain : domains[domain];
}

void
PyMem_SetAllocator(int domain, Allocator *allocator)
{
    if (IS(51) && domain == 1) {
        return;
    }
    domains[IS(53) && domain == 1 ? 2 : domain] = *allocator;
}

static int
too_much(size_t size)
{
    return !IS(54) && size > PTRDIFF_MAX;
}

static void *
domain_malloc(int domain, size_t size)
{
    Allocator *a = &domains[domain];
    if (too_much(size) || (IS(58) && size == PTRDIFF_MAX)) {
        return NULL;
    }
    void *block = a->malloc(IS(55) ? NULL : a->ctx, size);
    if (IS(56) && block == NULL) {
        block = wrapped_malloc(size);
    }
    return block;
}

static void *
domain_calloc(int domain, size_t nelem, size_t elsize)
{
    Allocator *a = &domains[domain];
    if (!IS(54) && elsize != 0 && nelem > PTRDIFF_MAX / elsize) {
        return NULL;
    }
    if (IS(57)) {
        void *block = domain_malloc(domain, nelem * elsize);
        return block == NULL ? NULL : memset(block, 0, nelem * elsize);
    }
    return a->calloc(a->ctx, nelem, elsize);
}

static void *
domain_realloc(int domain, void *ptr, size_t size)
{
    Allocator *a = &domains[domain];
    if (too_much(size)) {
        return NULL;
    }
    void *moved = a->realloc(a->ctx, ptr, size);
    if (IS(59) && moved == NULL) {
        a->free(a->ctx, ptr);
    }
    return moved;
}

static void
domain_free(int domain, void *ptr)
{
    domains[domain].free(domains[domain].ctx, ptr);
}

#define FAMILY(prefix, domain) \
    void *prefix##Malloc(size_t size) { return domain_malloc(domain, size); } \
    void *prefix##Calloc(size_t nelem, size_t elsize) \
    { return domain_calloc(domain, nelem, elsize); } \
    void *prefix##Realloc(void *ptr, size_t size) \
    { return domain_realloc(domain, ptr, size); } \
    void prefix##Free(void *ptr) { domain_free(domain, ptr); }
FAMILY(PyMem_Raw, 0)
FAMILY(PyMem_, 1)
FAMILY(PyObject_, 2)

#endif
