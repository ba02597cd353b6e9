/* Statistics of pymalloc and of the hardened allocator: counted from their structures,
 * never kept beside them.
 *
 * Reads arenas, pools, slabs and the counts of raw blocks; changes nothing.  The text is
 * CPython's, to the column. */

#include "cpython/objimpl.h"
#include "pymemheap.h"
#include "pycore_hardened.h"
#include "pycore_host.h"
#include "pycore_pymem.h"

#include <stdio.h>
#include <string.h>

/* Lines of the report. */

/* value with thousands separators, right-aligned in width columns. */
static void
print_number(FILE *out, size_t value, int width)
{
    char digits[24];
    char text[32];
    int ndigits = PyOS_snprintf(digits, sizeof(digits), "%zu", value);
    size_t length = 0;
    for (int i = 0; i < ndigits; i++) {
        if (i > 0 && (ndigits - i) % 3 == 0) {
            text[length++] = ',';
        }
        text[length++] = digits[i];
    }
    text[length] = '\0';
    fprintf(out, "%*s\n", width, text);
}

static size_t
print_line(FILE *out, const char *label, size_t value)
{
    fprintf(out, "%-35s=", label);
    print_number(out, value, 21);
    return value;
}

/* The hardened allocator. */

struct hardened_usage {
    size_t narenas, nslabs, nfree_slabs;
    struct {
        size_t blocksize, slabs, blocks, waiting, free_blocks;
    } classes[NCLASSES];
};

static int
hardened_add_arena(void *arg, uint32_t first, unsigned nslabs)
{
    struct hardened_usage *usage = arg;
    usage->narenas++;
    usage->nslabs += nslabs;
    for (uint32_t number = first; number < first + nslabs; number++) {
        const struct hard_slab *slab = &hard_slab_records[number];
        if (slab->states == NULL) {
            usage->nfree_slabs++;
            continue;
        }
        unsigned class = slab->class;
        struct hard_slab_counts counts = hard_slab_count(slab);
        usage->classes[class].blocksize = slab->blocksize;
        usage->classes[class].slabs++;
        usage->classes[class].blocks += counts.used;
        usage->classes[class].waiting += counts.waiting;
        usage->classes[class].free_blocks +=
            hard_slab_nblocks(slab) - counts.used - counts.waiting;
    }
    return 0;
}

static int
print_hardened(FILE *out)
{
    static struct hardened_usage usage;
    memset(&usage, 0, sizeof(usage));
    hard_arenas_visit(hardened_add_arena, &usage);
    fprintf(out, "Small block threshold = %u, hardened.\n\n"
            "class   size   num slabs   blocks in use  waiting blocks  avail blocks\n"
            "-----   ----   ---------   -------------  --------------  ------------\n",
            SMALL_REQUEST_THRESHOLD);
    for (unsigned i = 0; i < NCLASSES; i++) {
        if (usage.classes[i].slabs != 0) {
            fprintf(out, "%5u %6zu %11zu %15zu %15zu %13zu\n", i, usage.classes[i].blocksize,
                    usage.classes[i].slabs, usage.classes[i].blocks, usage.classes[i].waiting,
                    usage.classes[i].free_blocks);
        }
    }
    fputc('\n', out);
    print_line(out, "# arenas allocated current", usage.narenas);
    print_line(out, "# unused slabs", usage.nfree_slabs);
    print_line(out, "# large blocks", hard_large_count());
    print_line(out, "# bytes in arenas", usage.nslabs * HARD_SLAB_SIZE);
    return 1;
}

/* Does an allocator serve the object domain, perhaps below debug hooks? */
static int
objects_are_served_by(void *(*served_by)(void *ctx, size_t size))
{
    const PyMemAllocatorEx *alloc = &_PyMem_Allocators[PYMEM_DOMAIN_OBJ];
    if (_PyMem_HasDebugHooks(PYMEM_DOMAIN_OBJ)) {
        alloc = &_PyMem_Debug[PYMEM_DOMAIN_OBJ].alloc;
    }
    return alloc->malloc == served_by;
}

#ifdef WITH_PYMALLOC

#include "pycore_arenas.h"
#include "pycore_pools.h"

/* The counts of one walk over all arenas of small blocks. */
struct usage {
    const struct heap *heap;    /* NULL: of all */
    size_t narenas;
    size_t unaligned_arenas;
    size_t free_pools;
    size_t ntimes_allocated;    /* arenas, so far */
    size_t nhighwater;
    struct {
        size_t pools;
        size_t blocks;          /* in use */
        size_t free_blocks;
    } classes[NB_SMALL_SIZE_CLASSES];
};

static int
usage_add_arena(const struct arena_object *arena, void *arg)
{
    struct usage *usage = arg;
    usage->narenas++;
    if (arena->address != arena->pool_address) {
        usage->unaligned_arenas++;
    }
    for (unsigned i = 0; i < arena->ntotalpools; i++) {
        struct pool_view pool = pool_look(arena_pool(arena, i));
        if (pool.nused == 0) {
            usage->free_pools++;    /* a kept pool is free as well */
            continue;
        }
        usage->classes[pool.szclass].pools++;
        usage->classes[pool.szclass].blocks += pool.nused;
        usage->classes[pool.szclass].free_blocks += pool.class->nblocks - pool.nused;
    }
    return 0;
}

/* A block that another heap's owner freed, or that is at hand, is free. */
static void
usage_subtract(void *arg, block *bp)
{
    struct usage *usage = arg;
    poolp pool = pool_of(bp);
    if (pool != NULL) {
        unsigned szidx = SIZE_TO_INDEX(pool->blocksize);
        usage->classes[szidx].blocks--;
        usage->classes[szidx].free_blocks++;
    }
}

static int
usage_add_heap(struct heap *heap, void *arg)
{
    struct usage *usage = arg;
    const struct arena_set *set = &heap->small_arenas;
    arenas_visit(set, usage_add_arena, usage);
    heap_visit_freed(heap, heap->freed_by_others, usage_subtract, usage);
    usage->ntimes_allocated += set->ntimes_allocated;
    usage->nhighwater += set->nhighwater;
    return 0;
}

/* Of one heap; of all where that is NULL. */
static struct usage
usage_now(struct heap *heap)
{
    struct usage usage;
    memset(&usage, 0, sizeof(usage));
    usage.heap = heap;
    heaps_take_in_own();
    if (heap == NULL) {
        heaps_visit(usage_add_heap, &usage);
    }
    else {
        pthread_mutex_lock(&heap->look_lock);
        usage_add_heap(heap, &usage);
        pthread_mutex_unlock(&heap->look_lock);
    }
    return usage;
}

/* All its blocks are free, though its record counts those at hand and those that wait for
 * their owner: it counts as unused. */
static int
usage_add_unused(void *arg, const PyMemHeapArena *arena, const PyMemHeapPool *pool)
{
    struct usage *usage = arg;
    if (arena->is_medium || arena->is_hardened || pool->nfreed_by_others == 0
        || pool->nused != 0 || (usage->heap != NULL && usage->heap->number != arena->heap))
    {
        return 0;
    }
    unsigned szidx = SIZE_TO_INDEX(pool->blocksize);
    if (usage->classes[szidx].pools != 0) {     /* else others have changed it meanwhile */
        usage->classes[szidx].pools--;
        usage->classes[szidx].free_blocks -= pool->nblocks;
        usage->free_pools++;
    }
    return 0;
}

/* To be shown.  Where the system has no memory to tell whose blocks are free, a pool is
 * shown as its record counts. */
static struct usage
usage_by_pools(struct heap *heap)
{
    struct usage usage = usage_now(heap);
    (void)PyMemHeap_Visit(NULL, usage_add_unused, &usage);
    return usage;
}

static Py_ssize_t
usage_count_blocks(const struct usage *usage)
{
    Py_ssize_t n = 0;
    for (size_t i = 0; i < NB_SMALL_SIZE_CLASSES; i++) {
        n += (Py_ssize_t)usage->classes[i].blocks;
    }
    return n;
}

static int
add_larger_blocks(struct heap *heap, void *sum)
{
    *(Py_ssize_t *)sum += heap_count_larger(heap);
    return 0;
}

/* A thread that gives the raw domain's blocks back that another asked for counts less than
 * none, and each heap is read at another moment. */
static Py_ssize_t
count_larger_blocks(void)
{
    Py_ssize_t n = 0;
    heaps_visit(add_larger_blocks, &n);
    return n > 0 ? n : 0;
}

Py_ssize_t
_Py_GetAllocatedBlocks(void)
{
    struct usage usage = usage_now(NULL);
    return usage_count_blocks(&usage) + count_larger_blocks() + _PyMem_CountHardened();
}

/* Larger blocks belong to threads, and count as the main interpreter's. */
Py_ssize_t
_PyMem_CountBlocksOfHeap(struct heap *heap)
{
    struct usage usage = usage_now(heap);
    return usage_count_blocks(&usage)
        + (heap == &main_heap ? count_larger_blocks() + _PyMem_CountHardened() : 0);
}

/* A line whose label is a calculation: "n things * size bytes". */
static size_t
print_product(FILE *out, size_t n, const char *things, size_t size,
              const char *unit)
{
    char label[64];
    PyOS_snprintf(label, sizeof(label), "%zu %s * %zu bytes%s", n, things,
                  size, unit);
    return print_line(out, label, n * size);
}

static void
print_classes(FILE *out, const struct usage *usage)
{
    fputs("class   size   num pools   blocks in use  avail blocks\n"
          "-----   ----   ---------   -------------  ------------\n", out);
    for (unsigned i = 0; i < NB_SMALL_SIZE_CLASSES; i++) {
        if (usage->classes[i].pools != 0) {
            fprintf(out, "%5u %6u %11zu %15zu %13zu\n", i, INDEX_TO_SIZE(i),
                    usage->classes[i].pools, usage->classes[i].blocks,
                    usage->classes[i].free_blocks);
        }
    }
    fputc('\n', out);
}

static void
print_arenas(FILE *out, const struct usage *usage)
{
    print_line(out, "# arenas allocated total", usage->ntimes_allocated);
    print_line(out, "# arenas reclaimed",
               usage->ntimes_allocated - usage->narenas);
    print_line(out, "# arenas highwater mark", usage->nhighwater);
    print_line(out, "# arenas allocated current", usage->narenas);
    print_product(out, usage->narenas, "arenas", ARENA_SIZE, "/arena");
    fputc('\n', out);
}

/* Where each byte of the arenas is; the lines add up to the total. */
static void
print_bytes(FILE *out, const struct usage *usage)
{
    size_t allocated = 0, available = 0, headers = 0, quantization = 0;
    for (unsigned i = 0; i < NB_SMALL_SIZE_CLASSES; i++) {
        size_t pools = usage->classes[i].pools;
        size_t size = INDEX_TO_SIZE(i);
        allocated += usage->classes[i].blocks * size;
        available += usage->classes[i].free_blocks * size;
        headers += pools * POOL_OVERHEAD;
        quantization += pools * ((POOL_SIZE - POOL_OVERHEAD) % size);
    }
    size_t total = 0;
    total += print_line(out, "# bytes in allocated blocks", allocated);
    total += print_line(out, "# bytes in available blocks", available);
    total += print_product(out, usage->free_pools, "unused pools", POOL_SIZE,
                           "");
    total += print_line(out, "# bytes lost to pool headers", headers);
    total += print_line(out, "# bytes lost to quantization", quantization);
    total += print_line(out, "# bytes lost to arena alignment",
                        usage->unaligned_arenas * POOL_SIZE);
    print_line(out, "Total", total);
}

/* Memory of the bookkeeping in the process, apart from the arenas.  That of other heaps is not
 * told apart.  CPython's arena map has other parts; the block has the same form. */
static void
print_map(FILE *out, const struct usage *usage)
{
    PyMemHeapFigures figures;
    PyMemHeap_GetFigures(&figures);
    size_t records = usage->narenas * MAX_POOLS_IN_ARENA;
    fputs("\narena map counts\n", out);
    print_line(out, "# pool map leaves", pool_map_nleaves);
    print_line(out, "# arena object chunks",
               figures.arena_objects / CHUNK_SIZE);
    fputc('\n', out);
    size_t total = 0;
    total += print_line(out, "# bytes lost to pool map root", sizeof(pool_map));
    total += print_line(out, "# bytes lost to pool map records",
                        records * sizeof(struct pool));
    total += print_line(out, "# bytes lost to arena objects",
                        figures.arena_objects);
    print_line(out, "Total", total);
}

int
_PyObject_DebugMallocStats(FILE *out)
{
    if (objects_are_served_by(_PyMem_HardenedMalloc)) {
        return print_hardened(out);
    }
    if (!objects_are_served_by(_PyObject_Malloc)) {
        return 0;
    }
    struct heap *heap = heap_current();     /* without an interpreter, as in the end: */
    struct usage usage = usage_by_pools(heap != &heap_of_nobody ? heap : &main_heap);
    fprintf(out, "Small block threshold = %u, in %u size classes.\n\n",
            SMALL_REQUEST_THRESHOLD, NB_SMALL_SIZE_CLASSES);
    print_classes(out, &usage);
    print_arenas(out, &usage);
    print_bytes(out, &usage);
    print_map(out, &usage);
    return 1;
}

/* The same of all heaps as one JSON object, sizes in bytes. */
void
_PyObject_WriteMallocStats(FILE *out)
{
    struct usage usage = usage_by_pools(NULL);
    PyMemHeapFigures figures;
    PyMemHeap_GetFigures(&figures);
    fprintf(out, "{\"threshold\": %u, \"pool_size\": %zu, \"arena_size\": %zu,\n"
            " \"allocated_blocks\": %td, \"blocks_over_threshold\": %td,\n"
            " \"classes\": [", SMALL_REQUEST_THRESHOLD, (size_t)POOL_SIZE,
            (size_t)ARENA_SIZE, _Py_GetAllocatedBlocks(), (Py_ssize_t)figures.larger_blocks);
    const char *comma = "";
    for (unsigned i = 0; i < NB_SMALL_SIZE_CLASSES; i++) {
        if (usage.classes[i].pools != 0) {
            fprintf(out, "%s\n  {\"size\": %u, \"pools\": %zu, \"blocks\": %zu, "
                    "\"free_blocks\": %zu}", comma, INDEX_TO_SIZE(i),
                    usage.classes[i].pools, usage.classes[i].blocks,
                    usage.classes[i].free_blocks);
            comma = ",";
        }
    }
    fprintf(out, "],\n \"arenas\": {\"allocated\": %zu, \"reclaimed\": %zu, "
            "\"highwater\": %zu, \"current\": %zu},\n \"free_pools\": %zu,\n"
            " \"medium_arenas\": {\"current\": %zu, \"size\": %zu}}\n",
            usage.ntimes_allocated,
            usage.ntimes_allocated - usage.narenas,
            usage.nhighwater, usage.narenas, usage.free_pools,
            figures.medium_arenas_current, figures.medium_arena_size);
}

#else /* without pymalloc: nothing to count */

Py_ssize_t
_Py_GetAllocatedBlocks(void)
{
    return _PyMem_CountHardened();
}

int
_PyObject_DebugMallocStats(FILE *out)
{
    return objects_are_served_by(_PyMem_HardenedMalloc) ? print_hardened(out) : 0;
}

#endif

/* The label is right-aligned, and longer than print_line() has room for. */
void
_PyDebugAllocatorStats(FILE *out, const char *block_name, int num_blocks,
                       size_t sizeof_block)
{
    const char *format = "%*s%d %ss * %zu bytes each =";
#define LABEL(room) format, (room), "", num_blocks, block_name, sizeof_block
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    int length = snprintf(NULL, 0, LABEL(0));
    fprintf(out, LABEL(length < 50 ? 50 - length : 0));
#pragma GCC diagnostic pop
#undef LABEL
    print_number(out, (size_t)num_blocks * sizeof_block, 21);
}
