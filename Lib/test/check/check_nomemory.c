/* Memory runs out everywhere: a program of mixed calls of all domains runs again
 * and again, and each time the next call for memory fails, once or for ever.
 * When no call fails any more, all were tried. */

#include "support.h"
#include "../fuzz/model.h"

#include <limits.h>
#include <stdlib.h>
#include <unistd.h>

static const struct {
    const char *name;
    unsigned setting, source;
    unsigned ncalls;            /* a program makes at least */
} sweeps[] = {
    {"plain", MODEL_HOOK_RAW | MODEL_HOOK_ARENAS, MODEL_ARENAS, 2},
    {"plain", MODEL_HOOK_RAW | MODEL_HOOK_ARENAS, MODEL_RAW, 100},
    {"plain", MODEL_HOOK_RAW | MODEL_HOOK_ARENAS, MODEL_ARENAS | MODEL_RAW, 100},
    {"plain", 0, MODEL_SYSTEM, 50},
    {"hooks", MODEL_HOOK_ALL | MODEL_HOOK_ARENAS, MODEL_ARENAS, 2},
    {"hooks", MODEL_HOOK_ALL | MODEL_HOOK_ARENAS, MODEL_RAW, 100},
    {"hooks", MODEL_HOOK_ALL | MODEL_HOOK_ARENAS, MODEL_ARENAS | MODEL_RAW, 100},
    {"hooks", MODEL_HOOK_ALL | MODEL_HOOK_ARENAS, MODEL_SYSTEM, 50},
    {"debug hooks", MODEL_HOOK_RAW | MODEL_HOOK_ARENAS | MODEL_DEBUG,
     MODEL_ARENAS, 1},
    {"debug hooks", MODEL_HOOK_RAW | MODEL_HOOK_ARENAS | MODEL_DEBUG,
     MODEL_RAW, 100},
    {"debug hooks", MODEL_HOOK_RAW | MODEL_HOOK_ARENAS | MODEL_DEBUG,
     MODEL_ARENAS | MODEL_RAW, 100},
    {"debug hooks", MODEL_DEBUG, MODEL_SYSTEM, 50},
};
enum { NSWEEPS = sizeof(sweeps) / sizeof(sweeps[0]) };

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

struct run {
    unsigned setting, source, k, nfailures;
};
enum { A_CALL_FAILED = 3 };     /* exit status; tools for faults have others */

/* The program with the k-th call failing, and then in part without a failure, on
 * what is left. */
static void
run_with_failure(void *arg)
{
    const struct run *run = arg;
    enum { NSTEPS = 600 };
    static uint8_t program[3 * NSTEPS];
    make_program(program, NSTEPS);
    model_begin(run->setting);
    model_fail(run->source, run->k, run->nfailures);
    for (size_t i = 0; i < sizeof(program); i += 3) {
        model_step(program[i], program[i + 1], program[i + 2]);
    }
    unsigned nfailed = model_failures();
    model_fail(0, 0, 0);
    for (size_t i = 0; i < sizeof(program) / 4; i += 3) {
        model_step(program[i], program[i + 1], program[i + 2]);
    }
    model_end();
    _exit(nfailed > 0 ? A_CALL_FAILED : 0);
}

START_TEST(each_call_fails)
{
    /* 0, 1, 2, and then wider apart; with CHECK_NOMEMORY_WHOLE set all.  An emulator, where
     * a process is slow, has fewer. */
    unsigned stride = getenv("CHECK_NOMEMORY_WHOLE") != NULL ? UINT_MAX : is_emulated() ? 1 : 2;
    struct run run = {sweeps[_i / 2].setting, sweeps[_i / 2].source, 0,
                      _i % 2 ? UINT_MAX : 1};
    struct child child;
    /* Each in a process of its own, so that it begins with nothing. */
    while ((child = run_child(run_with_failure, &run)).status == A_CALL_FAILED) {
        run.k += 1 + run.k / stride;
    }
    ck_assert_msg(child.signal == 0 && child.status == 0, "%s, call %u: %s",
                  sweeps[_i / 2].name, run.k, child.text);
    ck_assert_uint_ge(run.k, sweeps[_i / 2].ncalls);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("nomemory");
    TCase *tcase = tcase_create("each call");
    tcase_set_timeout(tcase, 1200);
    tcase_add_loop_test(tcase, each_call_fails, 0, 2 * NSWEEPS);
    suite_add_tcase(suite, tcase);
    return run_suite(suite);
}
