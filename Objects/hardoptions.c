/* The hardened allocator's options, random bytes and messages.
 *
 *   PYMEM_HARDENED=quarantine=1M,canary=1,fill=1,guard=1,foreign=0
 *
 * Owns hard_options.  Calls the host. */

#include "pycore_hardened.h"
#include "pycore_host.h"
#include "pycore_keepsize.h"
#include "pycore_pymem.h"

#include <stdio.h>

struct hard_options hard_options = {
    .quarantine = (size_t)1 << 20, .canary = 1, .fill = 1, .guard = 1, .foreign = 0,
};

static const struct { const char *name; int *value; } switches[] = {
    {"canary", &hard_options.canary},
    {"fill", &hard_options.fill},
    {"guard", &hard_options.guard},
    {"foreign", &hard_options.foreign},
};
#define NSWITCHES (sizeof(switches) / sizeof(switches[0]))

static COLD void _Py_NO_RETURN
refuse(const char *text)
{
    _Py_FatalErrorFormat("_PyMem_Hardened", "PYMEM_HARDENED is a list like \"quarantine=1M,"
                         "canary=0,fill=0,guard=0,foreign=1\", not \"%s\"", text);
}

/* One "name=value". */
static int
set_option(const char *name, const char *value)
{
    if (strcmp(name, "quarantine") == 0) {
        hard_options.quarantine = keepsize_parse(value);
        return hard_options.quarantine == SIZE_MAX ? -1 : 0;
    }
    for (size_t i = 0; i < NSWITCHES; i++) {
        if (strcmp(name, switches[i].name) == 0) {
            *switches[i].value = *value == '1';
            return (*value == '0' || *value == '1') && value[1] == '\0' ? 0 : -1;
        }
    }
    return -1;
}

static int
read_option(const char *text, size_t length)
{
    char option[64];
    const char *equals = memchr(text, '=', length);
    if (equals == NULL || length >= sizeof(option)) {
        return -1;
    }
    size_t name_length = (size_t)(equals - text);
    memcpy(option, text, length);
    option[length] = '\0';
    option[name_length] = '\0';
    return set_option(option, option + name_length + 1);
}

void
hard_options_read(void)
{
    const char *text = getenv("PYMEM_HARDENED");
    for (const char *rest = text; rest != NULL && *rest != '\0';) {
        size_t length = strcspn(rest, ",");
        if (read_option(rest, length) < 0) {
            refuse(text);
        }
        rest += length + (rest[length] == ',');
    }
}

void
hard_random_refill(struct hard_random *random)
{
    virtual_random(random->bytes, sizeof(random->bytes));
    random->used = 0;
}

/* Findings. */

static const struct { const char *name, *sentence; } findings[] = {
    [FREED_TWICE] = {"freed twice", "The block is free already."},
    [INSIDE_A_BLOCK] = {"inside a block", "No block begins there: the address is inside one."},
    [NOT_A_BLOCK] = {"not a block", "No block was ever handed out there."},
    [WRITTEN_BEHIND_ITS_END] = {"written behind its end", NULL},
    [WRITTEN_AFTER_FREE] = {"written after free", NULL},
};

void
hard_fatal(char api_id, const struct hard_fault *fault)
{
    const unsigned char *start = fault->block;
    fprintf(stderr, "Hardened memory block at address p=%p: API '%c'\n", fault->address,
            api_id);
    if (fault->requested != SIZE_MAX) {
        fprintf(stderr, "    %zu bytes requested, in a block of %zu bytes at %p\n",
                fault->requested, fault->size, fault->block);
    }
    else if (start != NULL) {
        fprintf(stderr, "    a block of %zu bytes at %p\n", fault->size, fault->block);
    }
    if (fault->wrong != NULL) {
        fprintf(stderr, "    The byte at p+%td is 0x%02x, and was 0x%02x when %s.\n",
                fault->wrong - start, *fault->wrong, fault->right,
                fault->finding == WRITTEN_AFTER_FREE ? "the block was freed"
                : "the block was handed out");
    }
    else {
        fprintf(stderr, "    %s\n", findings[fault->finding].sentence);
    }
    fputc('\n', stderr);
    fflush(stderr);
    if (fault->requested != SIZE_MAX) {
        _PyMem_DumpTraceback(fileno(stderr), fault->block);
    }
    _Py_FatalErrorFunc("_PyMem_Hardened", findings[fault->finding].name);
}
