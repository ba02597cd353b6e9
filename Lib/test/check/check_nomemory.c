/* Memory runs out everywhere: a program of mixed calls of all domains runs again
 * and again, and each time the next call for memory fails, once or for ever.
 * When no call fails any more, all were tried. */

#include "support.h"
#include "../fuzz/model.h"

#include <limits.h>
#include <stdlib.h>

static const struct {
    const char *name;
    unsigned setting;
} settings[] = {
    {"plain", MODEL_HOOK_RAW | MODEL_HOOK_ARENAS},
    {"hooks", MODEL_HOOK_ALL | MODEL_HOOK_ARENAS},
    {"debug hooks", MODEL_HOOK_RAW | MODEL_HOOK_ARENAS | MODEL_DEBUG},
};
enum { NSETTINGS = 3, NSOURCES = 3 };
static const unsigned sources[NSOURCES] = {
    MODEL_ARENAS, MODEL_RAW, MODEL_ARENAS | MODEL_RAW};

/* Steps that would take the hook away or fail by themselves are others. */
static void
make_program(uint8_t *program, size_t nsteps)
{
    uint64_t state = 4;
    model_random_program(&state, program, 3 * nsteps);
    for (size_t i = 0; i < 3 * nsteps; i += 3) {
        if (program[i] == 241 || program[i] == 246 || program[i] == 247) {
            program[i] = 255;
        }
    }
}

/* How many calls of the source a program makes before it sees no failure. */
static unsigned
sweep(unsigned setting, unsigned source, unsigned nfailures)
{
    enum { NSTEPS = 600 };
    static uint8_t program[3 * NSTEPS];
    make_program(program, NSTEPS);
    /* 0, 1, 2, ... 25, and then wider apart; with CHECK_NOMEMORY_WHOLE set all. */
    unsigned stride = getenv("CHECK_NOMEMORY_WHOLE") != NULL ? UINT_MAX : 25;
    for (unsigned k = 0;; k += 1 + k / stride) {
        model_begin(setting);
        model_fail(source, k, nfailures);
        for (size_t i = 0; i < sizeof(program); i += 3) {
            model_step(program[i], program[i + 1], program[i + 2]);
        }
        unsigned nfailed = model_failures();
        /* Everything works again, on what the failures left. */
        model_fail(0, 0, 0);
        for (size_t i = 0; i < sizeof(program) / 4; i += 3) {
            model_step(program[i], program[i + 1], program[i + 2]);
        }
        model_end();
        if (nfailed == 0) {
            return k;
        }
    }
}

START_TEST(each_call_fails)
{
    unsigned setting = settings[_i / NSOURCES / 2].setting;
    unsigned source = sources[_i / 2 % NSOURCES];
    unsigned ncalls = sweep(setting, source, _i % 2 ? UINT_MAX : 1);
    ck_assert_uint_ge(ncalls, source & MODEL_RAW ? 100 : 2);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("nomemory");
    TCase *tcase = tcase_create("each call");
    tcase_set_timeout(tcase, 1200);
    tcase_add_loop_test(tcase, each_call_fails, 0, NSETTINGS * NSOURCES * 2);
    suite_add_tcase(suite, tcase);
    return run_suite(suite);
}
