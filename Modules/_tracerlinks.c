/* Blocks that other extension modules report reach this tracer.
 *
 * NumPy and others call PyTraceMalloc_Track() and PyTraceMalloc_Untrack(), and _pymem
 * asks where a block was allocated.  Each of them has a table of the addresses of such
 * functions, which the dynamic linker fills with the interpreter's.  While this tracer is
 * on, its own stand there.
 *
 *   multiarray.so  call --> [ table: PyTraceMalloc_Track ] --> the interpreter's
 *                                                 \--> ours, while tracing
 *
 * Calls that do not go by such a table are not reached: in the interpreter itself, and
 * where somebody asked dlsym() for the function.  Owns nothing; with the GIL. */

#define _GNU_SOURCE
#include "_tracerlinks.h"
#include "tracemalloc.h"

#include <dlfcn.h>
#include <elf.h>
#include <link.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* Which relocations fill the table, and how a list of them looks. */
#if defined(__x86_64__)
#  define IN_TABLE(type) ((type) == R_X86_64_JUMP_SLOT || (type) == R_X86_64_GLOB_DAT)
#elif defined(__aarch64__)
#  define IN_TABLE(type) ((type) == R_AARCH64_JUMP_SLOT || (type) == R_AARCH64_GLOB_DAT)
#elif defined(__i386__)
#  define IN_TABLE(type) ((type) == R_386_JMP_SLOT || (type) == R_386_GLOB_DAT)
#else
#  define IN_TABLE(type) ((void)(type), 0)      /* not known: nothing is changed */
#endif
#if defined(__i386__)
#  define SYMBOL_OF(info) ELF32_R_SYM(info)
#  define TYPE_OF(info) ELF32_R_TYPE(info)
typedef ElfW(Rel) relocation;
enum { LIST = DT_REL, LIST_BYTES = DT_RELSZ };
#else
#  define SYMBOL_OF(info) ELF64_R_SYM(info)
#  define TYPE_OF(info) ELF64_R_TYPE(info)
typedef ElfW(Rela) relocation;
enum { LIST = DT_RELA, LIST_BYTES = DT_RELASZ };
#endif

/* It tells a module, as of another's block, where it was allocated. */
extern void *_PyTraceMalloc_GetTraceback(unsigned domain, uintptr_t ptr);

#define NFUNCTIONS 3

/* The functions: by name, the interpreter's and ours. */
struct link {
    const char *name;
    void *theirs, *ours;
};
struct links {
    struct link functions[NFUNCTIONS];
    int to_ours;
    const void *base_of_theirs;     /* of the object that defines them */
};

static uintptr_t
address_in(const struct dl_phdr_info *info, uintptr_t pointer)
{
    return pointer < info->dlpi_addr ? pointer + info->dlpi_addr : pointer;
}

/* The table may be read-only since it was filled (RELRO). */
static void
store_address(const struct dl_phdr_info *info, void **place, void *function)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t at = (uintptr_t)place & ~(page - 1);
    int is_read_only = 0;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *segment = &info->dlpi_phdr[i];
        uintptr_t start = info->dlpi_addr + segment->p_vaddr;
        is_read_only |= segment->p_type == PT_GNU_RELRO && (uintptr_t)place >= start
            && (uintptr_t)place < start + segment->p_memsz;
    }
    if (is_read_only && mprotect((void *)at, page, PROT_READ | PROT_WRITE) != 0) {
        return;
    }
    __atomic_store_n(place, function, __ATOMIC_RELEASE);
    if (is_read_only) {
        (void)mprotect((void *)at, page, PROT_READ);
    }
}

struct relocations {
    const ElfW(Sym) *symbols;
    const char *names;
    struct {
        const relocation *first;
        size_t bytes;
    } tables[2];
};

static struct relocations
relocations_of(const struct dl_phdr_info *info, const ElfW(Dyn) *dynamic)
{
    struct relocations found = {NULL, NULL, {{NULL, 0}, {NULL, 0}}};
    for (; dynamic->d_tag != DT_NULL; dynamic++) {
        void *at = (void *)address_in(info, dynamic->d_un.d_ptr);
        switch (dynamic->d_tag) {
        case DT_SYMTAB: found.symbols = at; break;
        case DT_STRTAB: found.names = at; break;
        case DT_JMPREL: found.tables[0].first = at; break;
        case DT_PLTRELSZ: found.tables[0].bytes = dynamic->d_un.d_val; break;
        case LIST: found.tables[1].first = at; break;
        case LIST_BYTES: found.tables[1].bytes = dynamic->d_un.d_val; break;
        default: break;
        }
    }
    return found;
}

static void
link_entry(const struct dl_phdr_info *info, const struct relocations *relocations,
           const relocation *entry, const struct links *links)
{
    if (!IN_TABLE(TYPE_OF(entry->r_info))) {
        return;
    }
    const char *name = relocations->names
        + relocations->symbols[SYMBOL_OF(entry->r_info)].st_name;
    for (int i = 0; i < NFUNCTIONS; i++) {
        const struct link *function = &links->functions[i];
        if (strcmp(name, function->name) == 0) {
            store_address(info, (void **)(info->dlpi_addr + entry->r_offset),
                          links->to_ours ? function->ours : function->theirs);
        }
    }
}

static int
link_object(struct dl_phdr_info *info, size_t size, void *arg)
{
    (void)size;
    const struct links *links = arg;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *segment = &info->dlpi_phdr[i];
        if (segment->p_type != PT_DYNAMIC
            || (const void *)info->dlpi_addr == links->base_of_theirs)
        {
            continue;
        }
        struct relocations relocations = relocations_of(
            info, (const ElfW(Dyn) *)(info->dlpi_addr + segment->p_vaddr));
        for (int n = 0; n < 2 && relocations.symbols != NULL; n++) {
            const relocation *first = relocations.tables[n].first;
            size_t count = first != NULL ? relocations.tables[n].bytes / sizeof(*first) : 0;
            for (size_t k = 0; k < count; k++) {
                link_entry(info, &relocations, &first[k], links);
            }
        }
    }
    return 0;
}

/* A function as an address. */
#define ADDRESS_OF(function) \
    (*(void **)&(__typeof__(&(function)) []){function})

void
tracer_link_others(int to_ours)
{
    struct links links = {
        {{"PyTraceMalloc_Track", NULL, ADDRESS_OF(PyTraceMalloc_Track)},
         {"PyTraceMalloc_Untrack", NULL, ADDRESS_OF(PyTraceMalloc_Untrack)},
         {"_PyTraceMalloc_GetTraceback", NULL, ADDRESS_OF(_PyTraceMalloc_GetTraceback)}},
        to_ours, NULL};
    Dl_info of_theirs;
    for (int i = 0; i < NFUNCTIONS; i++) {
        struct link *function = &links.functions[i];
        function->theirs = dlsym(RTLD_DEFAULT, function->name);
        if (function->theirs == NULL || dladdr(function->theirs, &of_theirs) == 0) {
            return;
        }
        links.base_of_theirs = of_theirs.dli_fbase;
    }
    dl_iterate_phdr(link_object, &links);
}
