/* What pages have moves to other pages, without a copy where the system can.
 *
 * Calls virtualmem.c, for whether the system may be asked. */

#define _GNU_SOURCE
#include "pycore_virtualmem.h"

#ifdef __linux__
#  include <sys/mman.h>
#endif

#if defined(MREMAP_DONTUNMAP) && defined(MREMAP_FIXED)
#  include <errno.h>
#  include <string.h>
#  include <sys/syscall.h>
#  include <unistd.h>

/* A kernel takes away what is at the new place before it looks at the old one.  So to a place of
 * its choice first, where what it refuses is still there.  -1: errno says why. */
static int
move_at_once(void *from, void *to, size_t size)
{
    /* glibc up to 2.36 gives the kernel no address with these flags, but what is there. */
    void *between = (void *)syscall(SYS_mremap, from, size, size,
                                    MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL);
    if (between == MAP_FAILED) {
        return -1;
    }
    if (mremap(between, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, to) == MAP_FAILED) {
        memcpy(to, between, size);      /* too many mappings for that */
        munmap(between, size);
    }
    return 0;
}

static int move(unsigned char *from, unsigned char *to, size_t size);

static void
move_or_copy(unsigned char *from, unsigned char *to, size_t size)
{
    if (move(from, to, size) < 0) {
        memcpy(to, from, size);
        memset(from, 0, size);
    }
}

/* EFAULT: these are several mappings, as of what moved and grew.  Then by halves. */
static int
move(unsigned char *from, unsigned char *to, size_t size)
{
    if (move_at_once(from, to, size) == 0) {
        return 0;
    }
    size_t half = virtual_whole_pages(size / 2);
    if (errno != EFAULT || half == size) {
        return -1;
    }
    move_or_copy(from, to, half);
    move_or_copy(from + half, to + half, size - half);
    return 0;
}

int
virtual_move(void *from, void *to, size_t size)
{
    if (virtual_is_confined()) {
        return -1;
    }
    int kept = errno, result = move(from, to, size);
    errno = kept;
    return result;
}

#else

int
virtual_move(void *from, void *to, size_t size)
{
    (void)from;
    (void)to;
    (void)size;
    return -1;
}

#endif
