/* Memory runs out everywhere: a program of mixed calls of all domains runs again
 * and again, and each time the next call for memory fails, once or for ever.
 * When no call fails any more, all were tried. */

#include "support.h"
#include "../fuzz/model.h"

#include <limits.h>
#include <stdlib.h>
#include <sys/wait.h>
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

/* The program with the k-th call failing, and then in part without a failure, on
 * what is left.  In a child, so that each begins with nothing.  Did a call fail? */
static int
run_with_failure(unsigned setting, unsigned source, unsigned k, unsigned nfailures)
{
    enum { NSTEPS = 600 };
    static uint8_t program[3 * NSTEPS];
    make_program(program, NSTEPS);
    fflush(NULL);
    pid_t pid = fork();
    ck_assert_int_ge(pid, 0);
    if (pid == 0) {
        model_begin(setting);
        model_fail(source, k, nfailures);
        for (size_t i = 0; i < sizeof(program); i += 3) {
            model_step(program[i], program[i + 1], program[i + 2]);
        }
        unsigned nfailed = model_failures();
        model_fail(0, 0, 0);
        for (size_t i = 0; i < sizeof(program) / 4; i += 3) {
            model_step(program[i], program[i + 1], program[i + 2]);
        }
        model_end();
        _exit(nfailed > 0);
    }
    int status;
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert_msg(WIFEXITED(status), "call %u of those that fail", k);
    return WEXITSTATUS(status);
}

START_TEST(each_call_fails)
{
    unsigned setting = sweeps[_i / 2].setting, source = sweeps[_i / 2].source;
    /* 0, 1, 2, ... 8, and then wider apart; with CHECK_NOMEMORY_WHOLE set all. */
    unsigned stride = getenv("CHECK_NOMEMORY_WHOLE") != NULL ? UINT_MAX : 8;
    unsigned k = 0;
    while (run_with_failure(setting, source, k, _i % 2 ? UINT_MAX : 1)) {
        k += 1 + k / stride;
    }
    ck_assert_uint_ge(k, sweeps[_i / 2].ncalls);
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
