/* The tracer's hash tables, and where its memory comes from. */

#ifndef Py_INTERNAL_TRACETABLES_H
#define Py_INTERNAL_TRACETABLES_H

#include "pycore_compiler.h"

#include <stdatomic.h>

/* Memory of the tracer itself: from the raw domain below its hooks, counted. */
void *tracer_alloc(size_t size);
void *tracer_resize(void *ptr, size_t old_size, size_t size);
void tracer_free(void *ptr, size_t size);
INTERNAL_DATA(atomic_size_t) tracer_bytes;

static inline uint64_t
hash_mix(uint64_t h)
{
    h *= 0x9E3779B97F4A7C15u;
    return h ^ h >> 29;
}

static inline uint32_t
hash_bytes(const void *bytes, size_t size)
{
    uint64_t hash = size;
    for (size_t i = 0; i < size; i++) {
        hash = hash_mix(hash + ((const unsigned char *)bytes)[i]);
    }
    return (uint32_t)(hash ^ hash >> 32);
}

/* The next number of a sequence (splitmix64). */
static inline uint64_t
random_next(uint64_t *state)
{
    uint64_t n = *state += 0x9E3779B97F4A7C15u;
    n = (n ^ n >> 30) * 0xBF58476D1CE4E5B9u;
    n = (n ^ n >> 27) * 0x94D049BB133111EBu;
    return n ^ n >> 31;
}

/* As a fraction, from 0 on and below 1. */
static inline double
random_fraction(uint64_t *state)
{
    return (double)(random_next(state) >> 11) / 9007199254740992.0;
}

/* Items of one size, each kept once, numbered from 1: equal bytes, same number. */
struct intern_table {
    unsigned item_size;
    uint32_t count;             /* items, from number 1 on */
    uint32_t capacity;          /* of items */
    char *items;
    uint32_t *index;            /* open addressing: numbers, 0 is free */
    uint32_t mask;              /* its size - 1 */
};

/* The number of an item, which is added if it is new; 0: no memory. */
uint32_t intern(struct intern_table *table, const void *item);
void intern_clear(struct intern_table *table);

static inline void *
interned(const struct intern_table *table, uint32_t number)
{
    return table->items + (size_t)(number - 1) * table->item_size;
}

/* From a pointer and a number to two values.  Every pointer is a key, NULL too:
 * others choose it. */
struct map_entry {
    uintptr_t key;
    uint32_t domain;
    uint32_t value;             /* 0: a free entry */
    size_t size;
};

struct pointer_map {
    struct map_entry *entries;  /* open addressing, linear */
    size_t mask;
    size_t count;
    size_t limit;               /* of count */
};

struct map_entry *map_find(const struct pointer_map *map, uintptr_t key,
                           uint32_t domain);
/* Make sure that one more can be added; -1: no memory. */
int map_grow(struct pointer_map *map);
static inline int
map_reserve(struct pointer_map *map)
{
    return LIKELY(map->count < map->limit) ? 0 : map_grow(map);
}
/* The entry of a key, old, or new with value and size 0; there must be room.  The
 * caller sets its value, to another number than 0, before the map is used again. */
struct map_entry *map_add(struct pointer_map *map, uintptr_t key,
                          uint32_t domain);
void map_remove(struct pointer_map *map, struct map_entry *entry);
void map_clear(struct pointer_map *map);

#endif /* !Py_INTERNAL_TRACETABLES_H */
