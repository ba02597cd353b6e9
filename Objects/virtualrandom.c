/* Bytes that nobody can foresee: the kernel's.
 *
 * Calls virtualmem.c, for whether the system may be asked. */

#define _GNU_SOURCE
#include "pycore_virtualmem.h"

#include <time.h>

#if defined(__unix__) || defined(__APPLE__)

#include <errno.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>
#ifdef __linux__
#  include <sys/auxv.h>
#  include <sys/syscall.h>
#endif

/* Where the system must not be asked, of what it gave the process at its start: each time other
 * numbers, but a reader of some of them can tell the next. */
static void
random_of_start(unsigned char *bytes, size_t size)
{
    static _Atomic uint64_t state;
    struct timespec now;
    uint64_t n = state ^ (uintptr_t)&now;
#ifdef __linux__
    const void *given = (const void *)getauxval(AT_RANDOM);
    uint64_t word = 0;
    if (given != NULL) {
        memcpy(&word, given, sizeof(word));
    }
    n ^= word;
#endif
    if (clock_gettime(CLOCK_MONOTONIC, &now) == 0) {
        n ^= (uint64_t)now.tv_nsec << 20;
    }
    for (size_t i = 0; i < size; i++) {         /* splitmix64 */
        n += 0x9E3779B97F4A7C15u;
        uint64_t mixed = (n ^ n >> 30) * 0xBF58476D1CE4E5B9u;
        mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EBu;
        bytes[i] = (unsigned char)(mixed >> 56);
    }
    state = n;
}

void
virtual_random(void *bytes, size_t size)
{
    int kept = errno;
    size_t done = 0;
#ifdef SYS_getrandom
    while (!virtual_is_confined() && done < size) {
        long n = syscall(SYS_getrandom, (char *)bytes + done, size - done, 0);
        if (n < 0 && errno != EINTR) {
            break;
        }
        done += n > 0 ? (size_t)n : 0;
    }
#endif
    random_of_start((unsigned char *)bytes + done, size - done);
    errno = kept;
}

#else

void
virtual_random(void *bytes, size_t size)
{
    static unsigned state;
    unsigned char *byte = bytes;
    for (size_t i = 0; i < size; i++) {
        state = (state ^ (unsigned)time(NULL)) * 1103515245u + 12345u;
        byte[i] = (unsigned char)(state >> 16);
    }
}

#endif
