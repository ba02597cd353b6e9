/* The tracer's hash tables.
 *
 * An intern_table gives equal things the same number and forgets none: file names,
 * frames, stacks.  A pointer_map has an entry for each live thing and loses it
 * again: traces, places in code.
 *
 * Owns the count of the tracer's memory. */

#include "pycore_tracetables.h"

#include <string.h>

/* The index has twice as many entries, which are counted with 32 bits. */
#define MAX_CAPACITY ((uint32_t)1 << 30)

uint32_t
intern(struct intern_table *table, const void *item)
{
    unsigned size = table->item_size;
    uint64_t hash = 0;
    for (unsigned i = 0; i < size; i += 4) {
        uint32_t word;
        memcpy(&word, (const char *)item + i, 4);
        hash = hash_mix(hash + word + 1);
    }
    uint32_t i = 0;
    if (table->index != NULL) {
        for (i = (uint32_t)hash & table->mask; table->index[i] != 0;
             i = (i + 1) & table->mask)
        {
            if (memcmp(interned(table, table->index[i]), item, size) == 0) {
                return table->index[i];
            }
        }
    }
    if (table->count == table->capacity) {
        uint32_t capacity = table->capacity != 0 ? 2 * table->capacity : 64;
        size_t index_size = 2 * (size_t)capacity * sizeof(uint32_t);
        uint32_t *index = capacity <= MAX_CAPACITY ? tracer_alloc(index_size) : NULL;
        char *items = index == NULL ? NULL : tracer_resize(
            table->items, (size_t)table->capacity * size,
            (size_t)capacity * size);
        if (items == NULL) {
            tracer_free(index, index_size);
            return 0;
        }
        struct intern_table old = *table;
        memset(index, 0, index_size);
        table->items = items;       /* they stay in order, and are found anew */
        table->index = index;
        table->capacity = capacity;
        table->mask = 2 * capacity - 1;
        table->count = 0;
        tracer_free(old.index, 2 * (size_t)old.capacity * sizeof(uint32_t));
        for (uint32_t n = 1; n <= old.count; n++) {
            intern(table, interned(table, n));
        }
        return intern(table, item);
    }
    memmove(table->items + (size_t)table->count * size, item, size);
    table->index[i] = ++table->count;
    return table->count;
}

void
intern_clear(struct intern_table *table)
{
    tracer_free(table->items, (size_t)table->capacity * table->item_size);
    tracer_free(table->index, 2 * (size_t)table->capacity * sizeof(uint32_t));
    *table = (struct intern_table){.item_size = table->item_size};
}

static size_t
map_home(const struct pointer_map *map, uintptr_t key, uint32_t domain)
{
    return (size_t)hash_mix(key + domain) >> 8 & map->mask;
}

struct map_entry *
map_find(const struct pointer_map *map, uintptr_t key, uint32_t domain)
{
    if (map->count == 0) {
        return NULL;
    }
    for (size_t i = map_home(map, key, domain); map->entries[i].value != 0;
         i = (i + 1) & map->mask)
    {
        if (map->entries[i].key == key && map->entries[i].domain == domain) {
            return &map->entries[i];
        }
    }
    return NULL;
}

/* At most two thirds of the entries are taken. */
int
map_grow(struct pointer_map *map)
{
    size_t size = map->entries != NULL ? map->mask + 1 : 0;
    struct pointer_map larger = {.mask = size != 0 ? 2 * size - 1 : 63};
    size_t bytes = (larger.mask + 1) * sizeof(struct map_entry);
    larger.entries = tracer_alloc(bytes);
    if (larger.entries == NULL) {
        return -1;
    }
    memset(larger.entries, 0, bytes);
    larger.limit = (larger.mask + 1) / 3 * 2;
    for (size_t i = 0; i < size; i++) {
        const struct map_entry *old = &map->entries[i];
        if (old->value != 0) {
            *map_add(&larger, old->key, old->domain) = *old;
        }
    }
    map_clear(map);
    *map = larger;
    return 0;
}

struct map_entry *
map_add(struct pointer_map *map, uintptr_t key, uint32_t domain)
{
    size_t i = map_home(map, key, domain);
    while (map->entries[i].value != 0) {
        if (map->entries[i].key == key && map->entries[i].domain == domain) {
            return &map->entries[i];
        }
        i = (i + 1) & map->mask;
    }
    map->entries[i] = (struct map_entry){.key = key, .domain = domain};
    map->count++;
    return &map->entries[i];
}

/* Those behind it move up as far as their home allows, so that no search ends
 * too early. */
void
map_remove(struct pointer_map *map, struct map_entry *entry)
{
    size_t gap = (size_t)(entry - map->entries);
    for (size_t i = (gap + 1) & map->mask; map->entries[i].value != 0;
         i = (i + 1) & map->mask)
    {
        size_t home = map_home(map, map->entries[i].key,
                               map->entries[i].domain);
        if (((i - home) & map->mask) >= ((i - gap) & map->mask)) {
            map->entries[gap] = map->entries[i];
            gap = i;
        }
    }
    map->entries[gap] = (struct map_entry){.value = 0};
    map->count--;
}

void
map_clear(struct pointer_map *map)
{
    if (map->entries != NULL) {
        tracer_free(map->entries, (map->mask + 1) * sizeof(struct map_entry));
    }
    *map = (struct pointer_map){.entries = NULL};
}
