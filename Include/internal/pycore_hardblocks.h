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

/* All blocks are whole vectors.  An i386 without SSE has none to return. */
#if defined(__GNUC__) && (!defined(__i386__) || defined(__SSE2__))
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

/* Up to four vectors, some of them twice: whichever size it is, no branch is needed. */
#define FOUR_VECTORS (4 * sizeof(vector))
static inline size_t
second_vector(size_t size)
{
    return (size - sizeof(vector)) / 2 & ~(sizeof(vector) - 1);
}

static ALWAYS_INLINE vector
vector_at(const unsigned char *at)
{
    vector there;
    memcpy(&there, at, sizeof(there));
    return there;
}

/* Not zero where a byte is not DEADBYTE. */
static ALWAYS_INLINE vector
not_dead(const unsigned char *start, size_t size)
{
    size_t second = second_vector(size);
    const unsigned char *last = start + size - sizeof(vector);
    return (vector_at(start) ^ dead_vector) | (vector_at(start + second) ^ dead_vector)
        | (vector_at(last - second) ^ dead_vector) | (vector_at(last) ^ dead_vector);
}

static ALWAYS_INLINE void
make_four_dead(unsigned char *start, size_t size)
{
    size_t second = second_vector(size);
    unsigned char *last = start + size - sizeof(vector);
    memcpy(start, &dead_vector, sizeof(dead_vector));
    memcpy(start + second, &dead_vector, sizeof(dead_vector));
    memcpy(last - second, &dead_vector, sizeof(dead_vector));
    memcpy(last, &dead_vector, sizeof(dead_vector));
}

static ALWAYS_INLINE int
is_dead(const unsigned char *start, size_t size)
{
    vector wrong;
    if (size <= FOUR_VECTORS) {
        wrong = not_dead(start, size);
        return IS_ZERO(wrong);
    }
    wrong = not_dead(start + size - FOUR_VECTORS, FOUR_VECTORS);
    for (size_t i = 0; i < size - FOUR_VECTORS; i += FOUR_VECTORS) {
        wrong |= not_dead(start + i, FOUR_VECTORS);
    }
    return IS_ZERO(wrong);
}

static ALWAYS_INLINE void
make_dead(unsigned char *start, size_t size)
{
    if (size <= FOUR_VECTORS) {
        make_four_dead(start, size);
        return;
    }
    make_four_dead(start + size - FOUR_VECTORS, FOUR_VECTORS);
    for (size_t i = 0; i < size - FOUR_VECTORS; i += FOUR_VECTORS) {
        make_four_dead(start + i, FOUR_VECTORS);
    }
}

/* The word that ends with the canary's bytes, of which there are as many as fit behind the
 * request's end.  A block of less than a word behind it has more than that before it. */
static inline unsigned
bytes_before_canary(unsigned slack)
{
    return slack < CANARY_SIZE ? CANARY_SIZE - slack : 0;
}

static inline uint64_t
canary_mask(unsigned nbefore)
{
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    return UINT64_MAX >> 8 * nbefore;
#else
    return UINT64_MAX << 8 * nbefore;
#endif
}

/* What is before the end gets lost: zeros. */
static inline void
mark_end(unsigned char *end, unsigned slack)
{
    unsigned nbefore = bytes_before_canary(slack);
    uint64_t word = hard_canary & canary_mask(nbefore);
    memcpy(end - nbefore, &word, sizeof(word));
}

/* What is before the end stays. */
static inline void
mark_end_again(unsigned char *end, unsigned slack)
{
    unsigned nbefore = bytes_before_canary(slack);
    memcpy(end, (const char *)&hard_canary + nbefore, CANARY_SIZE - nbefore);
}

static inline int
end_is_marked(const unsigned char *end, unsigned slack)
{
    unsigned nbefore = bytes_before_canary(slack);
    uint64_t there;
    memcpy(&there, end - nbefore, sizeof(there));
    return ((there ^ hard_canary) & canary_mask(nbefore)) == 0;
}

#endif /* !Py_INTERNAL_HARDBLOCKS_H */
