/* Random programs against the model.
 *
 *   clang -fsanitize=fuzzer    LLVMFuzzerTestOneInput() is called by libFuzzer
 *                              (or by AFL++ with its compiler)
 *   -DFUZZ_BY_ITSELF           main(): programs of pseudo-random bytes
 *
 *     fuzz_pymem [SECONDS [SEED]]
 */

#include "model.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The first byte is the setting, the others are steps. */
int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    model_begin(size > 0 ? data[0] : 0);
    for (size_t i = 1; i + 3 <= size; i += 3) {
        model_step(data[i], data[i + 1], data[i + 2]);
    }
    model_end();
    return 0;
}

#ifdef FUZZ_BY_ITSELF
int
main(int argc, char **argv)
{
    long seconds = argc > 1 ? strtol(argv[1], NULL, 10) : 10;
    uint64_t state = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
    time_t end = time(NULL) + seconds;
    unsigned long programs = 0;
    static uint8_t program[6000];
    do {
        if (getenv("FUZZ_SHOW_SEEDS") != NULL) {
            fprintf(stderr, "%llu\n", (unsigned long long)state);
        }
        model_random_program(&state, program, sizeof(program));
        LLVMFuzzerTestOneInput(program, 1 + state % (sizeof(program) - 1));
        programs++;
    } while (time(NULL) < end);
    printf("fuzz_pymem: %lu programs in %ld seconds, no fault\n", programs,
           seconds);
    return 0;
}
#endif
