/* Where a block was allocated, as text on a file descriptor.
 *
 * For a program that is about to end, or for a signal handler: it writes, and calls nothing
 * else but what tracestacks.c knows.  It can't have malloc, whose heap may be the broken one.
 * Owns nothing. */

#include "pycore_traceblocks.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#define LONGEST_NAME 500        /* as CPython cuts one in a traceback */

static void
put(int fd, const char *text, size_t length)
{
    while (length > 0) {
        ssize_t written = write(fd, text, length);
        if (written > 0) {
            text += written;
            length -= (size_t)written;
        }
        else if (written == 0 || errno != EINTR) {
            return;     /* nothing can be done about a stderr that is closed */
        }
    }
}

static void
put_text(int fd, const char *text)
{
    put(fd, text, strlen(text));
}

static void
put_number(int fd, unsigned number, unsigned base, int width)
{
    char digits[16];
    int n = 0;
    do {
        digits[(int)sizeof(digits) - 1 - n++] = "0123456789abcdef"[number % base];
        number /= base;
    } while (number != 0 || n < width);
    put(fd, digits + sizeof(digits) - n, (size_t)n);
}

static uint32_t
name_character(const struct trace_name *name, size_t i)
{
    switch (name->kind) {
    case 1: return ((const uint8_t *)name->characters)[i];
    case 2: return ((const uint16_t *)name->characters)[i];
    default: return ((const uint32_t *)name->characters)[i];
    }
}

/* ASCII as it is, all else by its number. */
static void
put_character(int fd, uint32_t c)
{
    if (c >= ' ' && c <= '~') {
        put(fd, &(char){(char)c}, 1);
    }
    else {
        put_text(fd, c <= 0xFF ? "\\x" : c <= 0xFFFF ? "\\u" : "\\U");
        put_number(fd, c, 16, c <= 0xFF ? 2 : c <= 0xFFFF ? 4 : 8);
    }
}

/* The bytes of a character in UTF-8, a surrogate as if it were one. */
static unsigned
utf8_bytes(uint32_t c, uint8_t bytes[4])
{
    static const uint8_t marks[] = {0, 0, 0xC0, 0xE0, 0xF0};
    unsigned n = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (unsigned i = n; i > 1; i--) {
        bytes[i - 1] = (uint8_t)(0x80 | (c & 0x3F));
        c >>= 6;
    }
    bytes[0] = (uint8_t)(marks[n] | c);
    return n;
}

/* A name's first characters; or its first bytes, and none behind a NUL. */
static void
put_name(int fd, const struct trace_name *name, int is_utf8)
{
    size_t n = 0;
    for (size_t i = 0; i < name->length; i++) {
        uint8_t bytes[4];
        uint32_t c = name_character(name, i);
        unsigned nbytes = is_utf8 ? utf8_bytes(c, bytes) : 1;
        for (unsigned k = 0; k < nbytes; k++) {
            if (n++ == LONGEST_NAME) {
                put_text(fd, "...");
                return;
            }
            put_character(fd, is_utf8 ? bytes[k] : c);
        }
    }
}

void
stack_dump(int fd, const struct trace_source *source, stack_id id)
{
    if (source == NULL) {
        put_text(fd, "Enable tracemalloc to get the memory block "
                     "allocation traceback\n\n");
        return;
    }
    struct trace_frame frames[100];
    unsigned total, length = stack_length(id, &total);
    stack_frames(id, frames, 100);
    put_text(fd, "Memory block allocated at (most recent call first):\n");
    for (unsigned i = 0; i < length && i < 100; i++) {
        if (frames[i].file == 0 && source->name_place == NULL) {
            continue;           /* on Python frames, which say enough */
        }
        if (frames[i].file == 0) {
            char text[1000];
            source->name_place(text, sizeof(text), stack_address(frames[i].line));
            put_text(fd, "  ");
            put_text(fd, text);
            put_text(fd, "\n");
            continue;
        }
        struct trace_name name = stack_name(frames[i].file);
        put_text(fd, "  File \"");
        put_name(fd, &name, source->names_are_utf8);
        put_text(fd, "\", line ");
        put_number(fd, frames[i].line, 10, 1);
        put_text(fd, "\n");
    }
    put_text(fd, "\n");
}

