/* Hints for the compiler beyond C11. */

#ifndef Py_INTERNAL_COMPILER_H
#define Py_INTERNAL_COMPILER_H

#include "pyport.h"

#if defined(__GNUC__)
/* int, as every condition; the builtin's value is a long. */
#  define LIKELY(cond) (__builtin_expect(!!(cond), 1) != 0)
#  define UNLIKELY(cond) (__builtin_expect(!!(cond), 0) != 0)
#  define COLD __attribute__((cold, noinline))
#  define NOINLINE __attribute__((noinline))
#  define ALWAYS_INLINE inline __attribute__((always_inline))
#  define WEAK __attribute__((weak))
#else
#  define LIKELY(cond) (cond)
#  define UNLIKELY(cond) (cond)
#  define COLD
#  define NOINLINE
#  define ALWAYS_INLINE inline
#  define WEAK
#endif

/* A function that reads what another thread may be changing, and says what becomes of
 * it: the thread sanitizer does not look. */
#if defined(__GNUC__)
#  define READS_WHILE_OTHERS_WRITE __attribute__((no_sanitize("thread"), noinline))
#else
#  define READS_WHILE_OTHERS_WRITE
#endif

/* May a function of another library be called without the jump through the table of
 * procedure linkage? */
#ifdef __has_attribute
#  define HAS_NOPLT __has_attribute(noplt)
#else
#  define HAS_NOPLT 0
#endif

/* Data of a thread, reached without a call also in a shared library.  Only glibc has room for it
 * where a program loads that library later; musl refuses to. */
#if defined(__GNUC__) && defined(__GLIBC__)
#  define FAST_THREAD_LOCAL \
    _Thread_local __attribute__((tls_model("initial-exec")))
#else
#  define FAST_THREAD_LOCAL _Thread_local
#endif

/* Data of the library that no other part of a program sees: reached without a
 * table of addresses. */
#if defined(__GNUC__)
#  define INTERNAL_DATA(RTYPE) extern __attribute__((visibility("hidden"))) RTYPE
#else
#  define INTERNAL_DATA(RTYPE) extern RTYPE
#endif

/* Invariants: checked in --with-pydebug builds, free in others. */
#ifdef Py_DEBUG
#  include <assert.h>
#  define DEBUG_ASSERT(cond) assert(cond)
#else
#  define DEBUG_ASSERT(cond) ((void)0)
#endif

/* Index of the lowest bit that is set; mask is not 0. */
static inline unsigned
lowest_bit(uint64_t mask)
{
#if defined(__GNUC__)
    return (unsigned)__builtin_ctzll(mask);
#else
    unsigned bit = 0;
    while (!(mask & 1)) {
        mask >>= 1;
        bit++;
    }
    return bit;
#endif
}

/* Index of the highest bit that is set; n is not 0. */
static inline unsigned
highest_bit(uint64_t n)
{
#if defined(__GNUC__)
    return 63u ^ (unsigned)__builtin_clzll(n);      /* one instruction on x86 */
#else
    unsigned bit = 0;
    while (n >>= 1) {
        bit++;
    }
    return bit;
#endif
}

#endif /* !Py_INTERNAL_COMPILER_H */
