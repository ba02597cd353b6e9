/* The bytes that the hardened allocator writes into a block, and behind its request's end.
 *
 *   in use   | request ...... | canary, at least a byte of it |
 *   free     | DEADBYTE ...................................... |
 */

#ifndef Py_INTERNAL_HARDBLOCKS_H
#define Py_INTERNAL_HARDBLOCKS_H

#include "pycore_compiler.h"
#include "pycore_deadblocks.h"

#include <string.h>

#define CANARY_SIZE 8u

/* All blocks are whole vectors. */
#if defined(__GNUC__)
typedef uint64_t vector __attribute__((vector_size(16)));
#  define VECTOR(word) {word, word}
#  define IS_ZERO(v) ((v[0] | v[1]) == 0)
#else
typedef uint64_t vector;
#  define VECTOR(word) word
#  define IS_ZERO(v) (v == 0)
#endif
static const vector dead_vector = VECTOR(UINT64_MAX / 0xff * DEADBYTE);

/* No byte of it is 0, so that the zero behind a string is no part of it. */
INTERNAL_DATA(uint64_t) hard_canary;

static inline const unsigned char *
first_not_dead(const unsigned char *block, size_t size)
{
    const unsigned char *at = block;
    while (at < block + size && *at == DEADBYTE) {
        at++;
    }
    return at;
}

/* From here on the C library is faster. */
enum { LONG = 256 };

static inline int
is_dead(const unsigned char *start, size_t size)
{
    size_t n = size <= LONG ? size : sizeof(vector);
    vector wrong = VECTOR(0);
    for (size_t i = 0; i < n; i += sizeof(vector)) {
        vector there;
        memcpy(&there, start + i, sizeof(there));
        wrong |= there ^ dead_vector;
    }
    return IS_ZERO(wrong) && (n == size || memcmp(start, start + n, size - n) == 0);
}

static inline void
make_dead(unsigned char *start, size_t size)
{
    if (UNLIKELY(size > LONG)) {
        memset(start, DEADBYTE, size);
        return;
    }
    for (size_t i = 0; i < size; i += sizeof(vector)) {
        memcpy(start + i, &dead_vector, sizeof(dead_vector));
    }
}

static inline void
mark_end(unsigned char *end, unsigned slack)
{
    if (LIKELY(slack >= CANARY_SIZE)) {
        memcpy(end, &hard_canary, CANARY_SIZE);
    }
    else {
        memcpy(end, &hard_canary, slack);
    }
}

static inline int
end_is_marked(const unsigned char *end, unsigned slack)
{
    if (LIKELY(slack >= CANARY_SIZE)) {
        uint64_t there;
        memcpy(&there, end, CANARY_SIZE);
        return there == hard_canary;
    }
    return memcmp(end, &hard_canary, slack) == 0;
}

#endif /* !Py_INTERNAL_HARDBLOCKS_H */
