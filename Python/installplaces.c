/* Where a function of the interpreter reads, by its machine code.
 *
 *   PyThreadState_GetInterpreter(tstate)    mov 0x10(%rdi), %rax ; ret
 *   PyThreadState_GetUnchecked()            mov %fs:-24, %rax ; ret
 *
 * These two are asked in each request where a process has several interpreters.  Compilers
 * make of each one or two instructions, so that a call costs more than what it does.  A
 * function that is anything else is called, as on processors that are not known here.
 *
 * Owns nothing.  Calls nothing. */

#include "pycore_install.h"

#include <string.h>

#if defined(__x86_64__) && defined(__LP64__)

/* Is this what the code goes on with?  Then it goes on behind. */
static int
matches(const unsigned char **code, const char *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if ((*code)[i] != (unsigned char)bytes[i]) {
            return 0;
        }
    }
    *code += n;
    return 1;
}
#define MATCHES(BYTES) matches(&code, BYTES, sizeof(BYTES) - 1)

#define ENDBR64 "\xf3\x0f\x1e\xfa"
#define RET "\xc3"

static int32_t
number_of_32_bits(const unsigned char **code)
{
    int32_t number;
    memcpy(&number, *code, sizeof(number));
    *code += sizeof(number);
    return number;
}

size_t
place_in_argument(const void *function)
{
    const unsigned char *code = function;
    (void)MATCHES(ENDBR64);
    long place = 0;
    if (MATCHES("\x48\x8b\x47")) {             /* mov place(%rdi), %rax */
        place = (signed char)*code++;
    }
    else if (MATCHES("\x48\x8b\x87")) {        /* the same, farther away */
        place = number_of_32_bits(&code);
    }
    return place > 0 && MATCHES(RET) ? (size_t)place : 0;
}

intptr_t
place_in_thread(const void *function)
{
    const unsigned char *code = function;
    (void)MATCHES(ENDBR64);
    if (MATCHES("\x64\x48\x8b\x04\x25")) {     /* mov %fs:place, %rax */
        intptr_t place = number_of_32_bits(&code);
        return MATCHES(RET) ? place : 0;
    }
    if (MATCHES("\x48\x8b\x05")) {             /* mov address(%rip), %rax */
        int32_t distance = number_of_32_bits(&code);
        const unsigned char *address = code + distance;
        if (MATCHES("\x64\x48\x8b\x00") && MATCHES(RET)) {    /* mov %fs:(%rax), %rax */
            intptr_t place;
            memcpy(&place, address, sizeof(place));
            return place;
        }
    }
    return 0;
}

#else

size_t
place_in_argument(const void *function)
{
    (void)function;
    return 0;
}

intptr_t
place_in_thread(const void *function)
{
    (void)function;
    return 0;
}

#endif
