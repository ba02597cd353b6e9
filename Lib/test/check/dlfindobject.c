/* What Debian's libgcc asks of glibc to unwind a stack, for tests with musl: Debian has no
 * libgcc that was compiled for it.  Systems with musl do.
 *
 * As glibc 2.35 tells it: where the table of frames is of the library that has an address. */

#define _GNU_SOURCE
#include <link.h>
#include <stddef.h>
#include <stdint.h>

struct dl_find_object {
    unsigned long long flags;
    const void *map_start, *map_end;
    struct link_map *link_map;
    const void *eh_frame;
    unsigned long long reserved[7];
};

struct search {
    uintptr_t address;
    struct dl_find_object *found;
};

static int
look(struct dl_phdr_info *library, size_t size, void *arg)
{
    (void)size;
    struct search *search = arg;
    const ElfW(Phdr) *table = NULL;
    int has_address = 0;
    for (int i = 0; i < library->dlpi_phnum; i++) {
        const ElfW(Phdr) *part = &library->dlpi_phdr[i];
        uintptr_t start = library->dlpi_addr + part->p_vaddr;
        if (part->p_type == PT_LOAD && search->address - start < part->p_memsz) {
            search->found->map_start = (const void *)start;
            search->found->map_end = (const void *)(start + part->p_memsz);
            has_address = 1;
        }
        else if (part->p_type == PT_GNU_EH_FRAME) {
            table = part;
        }
    }
    if (!has_address || table == NULL) {
        return 0;
    }
    search->found->eh_frame = (const void *)(library->dlpi_addr + table->p_vaddr);
    return 1;
}

int _dl_find_object(const void *address, struct dl_find_object *found);
int
_dl_find_object(const void *address, struct dl_find_object *found)
{
    *found = (struct dl_find_object){0};
    struct search search = {(uintptr_t)address, found};
    return dl_iterate_phdr(look, &search) ? 0 : -1;
}
