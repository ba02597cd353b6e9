/* Bytes as PYMEM_KEEP and pymem-run --keep say them: a number, perhaps with K, M or G. */

#ifndef Py_INTERNAL_KEEPSIZE_H
#define Py_INTERNAL_KEEPSIZE_H

#include <stdint.h>
#include <stdlib.h>

#define KEEPSIZE_IS "a number of bytes, perhaps with K, M or G behind it"

/* SIZE_MAX: it is no such number. */
static inline size_t
keepsize_parse(const char *text)
{
    char *end;
    unsigned long long number = strtoull(text, &end, 10);
    int shift = 0;
    switch (*end) {
    case 'K': case 'k': shift = 10; break;
    case 'M': case 'm': shift = 20; break;
    case 'G': case 'g': shift = 30; break;
    default: break;
    }
    end += shift != 0;
    int is_number = *text >= '0' && *text <= '9' && *end == '\0';
    return is_number && number <= (SIZE_MAX >> 1) >> shift ? (size_t)number << shift
        : SIZE_MAX;
}

#endif /* !Py_INTERNAL_KEEPSIZE_H */
