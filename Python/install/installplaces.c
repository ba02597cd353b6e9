/* Where a function of the interpreter reads, by its machine code.
 *
 *   PyThreadState_GetInterpreter(tstate)    mov 0x10(%rdi), %rax ; ret
 *   PyThreadState_GetUnchecked()            mov %fs:-24, %rax ; ret
 *   the same in a shared library            lea index(%rip), %rdi ; call __tls_get_addr
 *                                           mov (%rax), %rax ; ret
 *
 * These two are asked in each request where a process has several interpreters.  Compilers
 * make of each a few instructions, so that a call costs more than what it does.  A function
 * that is anything else is called, as on processors that are not known here.
 *
 * Owns nothing.  Calls the C library for a library's data of a thread. */

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

/* The address that lies so far from the end of the number that tells it. */
static const void *
at_distance(const unsigned char **code)
{
    int32_t distance = number_of_32_bits(code);
    return *code + distance;
}

static const char *
thread_address(void)
{
    const char *address;
    __asm__("movq %%fs:0, %0" : "=r"(address));
    return address;
}

/* In a program: so far from the thread's own address. */
static const void *
word_of_program(const unsigned char *code)
{
    intptr_t place = 0;
    if (MATCHES("\x64\x48\x8b\x04\x25")) {             /* mov %fs:place, %rax */
        place = number_of_32_bits(&code);
    }
    else if (MATCHES("\x48\x8b\x05")) {                 /* mov address(%rip), %rax */
        const void *address = at_distance(&code);
        if (MATCHES("\x64\x48\x8b\x00")) {             /* mov %fs:(%rax), %rax */
            memcpy(&place, address, sizeof(place));
        }
    }
    return place != 0 && MATCHES(RET) ? thread_address() + place : NULL;
}

/* In a library: the C library knows where the thread has the library's data.  The prefixes
 * of these instructions are for the linker, and say that nothing else is called. */
extern void *__tls_get_addr(const void *index);

static const void *
word_of_library(const unsigned char *code)
{
    const void *index = NULL;
    if (MATCHES("\x48\x83\xec\x08" "\x66\x48\x8d\x3d")) {  /* sub $8, %rsp ; lea, %rdi */
        index = at_distance(&code);
    }
    if (!MATCHES("\x66\x66\x48\xe8") && !MATCHES("\x66\x48\xff\x15")) {      /* call */
        return NULL;
    }
    (void)number_of_32_bits(&code);
    int is_word = MATCHES("\x48\x8b\x00" "\x48\x83\xc4\x08" RET);
    return index != NULL && is_word ? __tls_get_addr(index) : NULL;
}

const void *
word_in_thread(const void *function)
{
    const unsigned char *code = function;
    (void)MATCHES(ENDBR64);
    const void *word = word_of_program(code);
    return word != NULL ? word : word_of_library(code);
}

#else

size_t
place_in_argument(const void *function)
{
    (void)function;
    return 0;
}

const void *
word_in_thread(const void *function)
{
    (void)function;
    return NULL;
}

#endif
