/* A system with larger pages than this one's: CHECK_PAGE_SIZE=16384 or 65536, for a
 * program that is linked with this file or has it in LD_PRELOAD.
 *
 * What the program asks the system comes here first, and is answered as a kernel with such
 * pages does: an address that is no multiple of them is refused (EINVAL), and a length is
 * rounded up to them, so that advice for a part of a page takes the whole page.  The C
 * library's own calls, and files that are mapped, keep the pages that there are.
 *
 * The environment is read at the first call, not by a constructor: that of a library which
 * was loaded behind this one runs earlier, and would see pages that change their size.
 *
 * Owns the size that is pretended.  Calls the C library's functions of the same names. */

#define _GNU_SOURCE
#include "pages.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

static atomic_size_t pretended;        /* 0: the system's own */
static atomic_int is_known;

/* Declare real_name: the function that would have been called without us. */
#define REAL(name) \
    __typeof__(name) *real_##name; \
    *(void **)&real_##name = dlsym(RTLD_NEXT, #name)

static size_t
page_of_system(void)
{
    REAL(sysconf);
    return (size_t)real_sysconf(_SC_PAGESIZE);
}

/* With a wrong size all tests would pass for nothing. */
void
pages_pretend(size_t size)
{
    if ((size & (size - 1)) != 0 || size % page_of_system() != 0) {
        abort();
    }
    pretended = size;
    is_known = 1;
}

static size_t
page_pretended(void)
{
    const char *value = is_known ? NULL : getenv("CHECK_PAGE_SIZE");
    if (value != NULL && *value != '\0') {
        pages_pretend(strtoul(value, NULL, 10));
    }
    is_known = 1;
    return pretended;
}

static int
is_unaligned(const void *ptr)
{
    size_t page = page_pretended();
    return page != 0 && ((uintptr_t)ptr & (page - 1)) != 0;
}

static size_t
rounded_up(size_t size)
{
    size_t page = page_pretended();
    return page == 0 ? size : (size + page - 1) & ~(page - 1);
}

static int
refused(void)
{
    errno = EINVAL;
    return -1;
}

long
sysconf(int name)
{
    size_t page = page_pretended();
    REAL(sysconf);
    if (page != 0 && name == _SC_PAGESIZE) {
        return (long)page;
    }
    long answer = real_sysconf(name);
    if (page != 0 && (name == _SC_PHYS_PAGES || name == _SC_AVPHYS_PAGES)) {
        answer /= (long)(page / page_of_system());
    }
    return answer;
}

int
getpagesize(void)
{
    return (int)sysconf(_SC_PAGESIZE);
}

/* At an address that such a kernel would choose: a page more, less what is too much. */
static void *
map_anywhere(size_t size, int prot, int flags)
{
    size_t page = page_pretended();
    REAL(mmap);
    REAL(munmap);
    char *start = real_mmap(NULL, size + page, prot, flags, -1, 0);
    if (start == MAP_FAILED) {
        return start;
    }
    size_t before = -(uintptr_t)start & (page - 1);
    if (before != 0) {
        real_munmap(start, before);
    }
    real_munmap(start + before + size, page - before);
    return start + before;
}

void *
mmap(void *ptr, size_t size, int prot, int flags, int fd, off_t offset)
{
    size_t page = page_pretended();
    REAL(mmap);
    REAL(munmap);
    if (page == 0 || (flags & MAP_ANONYMOUS) == 0) {
        return real_mmap(ptr, size, prot, flags, fd, offset);
    }
    if ((flags & MAP_FIXED) && is_unaligned(ptr)) {
        refused();
        return MAP_FAILED;
    }
    void *at = (void *)((uintptr_t)ptr & ~(uintptr_t)(page - 1));
    void *mapped = real_mmap(at, rounded_up(size), prot, flags, fd, offset);
    if (mapped != MAP_FAILED && is_unaligned(mapped)) {
        real_munmap(mapped, rounded_up(size));
        mapped = map_anywhere(rounded_up(size), prot, flags);
    }
    return mapped;
}

#if defined(__LP64__) && defined(__GLIBC__)
/* The name that programs with large files know it by. */
void *mmap64(void *, size_t, int, int, int, off_t) __attribute__((alias("mmap")));
#endif

int
munmap(void *ptr, size_t size)
{
    REAL(munmap);
    return is_unaligned(ptr) ? refused() : real_munmap(ptr, rounded_up(size));
}

int
mprotect(void *ptr, size_t size, int prot)
{
    REAL(mprotect);
    return is_unaligned(ptr) ? refused() : real_mprotect(ptr, rounded_up(size), prot);
}

int
madvise(void *ptr, size_t size, int advice)
{
    REAL(madvise);
    return is_unaligned(ptr) ? refused() : real_madvise(ptr, rounded_up(size), advice);
}

/* Of the one page that it is asked for here: a mapping by the C library may take only a
 * part of it. */
int
mincore(void *ptr, size_t size, unsigned char *is_there)
{
    size_t page = page_pretended();
    REAL(mincore);
    if (page == 0) {
        return real_mincore(ptr, size, is_there);
    }
    if (is_unaligned(ptr) || size > page) {
        return refused();
    }
    int result = -1;
    for (size_t i = 0; i < page && result < 0; i += page_of_system()) {
        result = real_mincore((char *)ptr + i, 1, is_there);
    }
    return result;
}

/* All of its arguments are registers, as many as there are. */
int
prctl(int option, ...)
{
    unsigned long arguments[4];
    va_list list;
    va_start(list, option);
    for (int i = 0; i < 4; i++) {
        arguments[i] = va_arg(list, unsigned long);
    }
    va_end(list);
    REAL(prctl);
#ifdef PR_SET_VMA
    if (option == PR_SET_VMA && page_pretended() != 0) {
        if (is_unaligned((void *)arguments[1])) {
            return refused();
        }
        arguments[2] = rounded_up(arguments[2]);
    }
#endif
    return real_prctl(option, arguments[0], arguments[1], arguments[2], arguments[3]);
}
