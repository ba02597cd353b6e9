/* The exercises of the chapters that can be tried: what is asked, and whether an answer is
 * right.  Answers are not written down here: the library is run, and what it does is right.
 *
 * An exercise has either `answer`, numbers for the reader to predict, or `judge`, a look at
 * the reader's program.  Calls machine.js. */

(function () {
"use strict";
const play = globalThis.pymemPlay = globalThis.pymemPlay || {};

/* A program from beginning to end. */
function run(module, source, with_debug_hooks) {
    const calls = play.calls_of(source), machine = new play.Machine(module, with_debug_hooks);
    machine.go(calls, calls.length);
    return {machine, state: machine.look()};
}

function pools(state) {
    return state.arenas.flatMap(arena => [...arena.pools.values()]);
}

function used_in(pools) {
    return pools.reduce((sum, pool) => sum + pool.nused, 0);
}

function small_arenas(state) {
    return state.arenas.filter(arena => !arena.is_medium);
}

/* The states of a program, some hundred at most: a look costs more than a call. */
function* states(view) {
    const machine = new play.Machine(view.module, view.machine.with_debug_hooks);
    const step = Math.max(1, Math.floor(view.calls.length / 300));
    for (let n = 0; n < view.calls.length; n += step) {
        machine.go(view.calls, n + step < view.calls.length ? n + step : view.calls.length);
        yield machine.look();
    }
}

function rows_of_table(module, source) {
    const {machine} = run(module, source);
    return machine.table().split("\n").map(line => line.trim().split(/\s+/).map(Number))
        .filter(row => row.length === 5 && row.every(Number.isFinite));
}

play.EXERCISES = {
    header: {
        asks: "How many bytes is the header of a pool?",
        answer: module => [run(module, "p = malloc(336)").state.arenas[0].first],
    },
    table: {
        asks: "Pools, blocks in use and available blocks of the class of 48 bytes, then of 512:",
        answer: module => rows_of_table(
            module, "a = [malloc(37) for i in range(1000)]\n"
            + "b = [malloc(512) for i in range(10)]\nfor p in a[::2]: free(p)")
            .flatMap(row => row.slice(2)),
    },
    follow: {
        asks: "The numbers of the first four free blocks after this program, in the order in "
            + "which they will be given:",
        answer: (module, view) => {
            const {machine, state} = run(module, view.options.program);
            return machine.free_list(state.arenas[0].pools.get(0)).slice(0, 4);
        },
    },
    worst: {
        asks: "Which request of 1 to 512 bytes wastes the largest share of its pool?",
        answer: module => {
            const {machine, state} = run(module, "a = [malloc(n) for n in range(1, 513)]");
            const shares = machine.addresses.map((address, i) => {
                const {pool} = play.block_at(state, machine, address);
                return pool.nblocks * (i + 1) / state.arenas[0].pool_size;
            });
            return [shares.indexOf(Math.min(...shares)) + 1];
        },
    },
    moves: {
        asks: "A block of 100 bytes is resized to 112, 113, 97, 96 and 90 bytes. The sizes at "
            + "which it moves:",
        answer: module => {
            const sizes = [100, 112, 113, 97, 96, 90];
            const {machine} = run(module, "p = malloc(100)\n" + sizes.slice(1).map(
                size => `p = realloc(p, ${size})\n`).join(""));
            return sizes.filter((_, i) => i > 0
                                && machine.addresses[i] !== machine.addresses[i - 1]);
        },
    },
    arenas: {
        asks: "20,000 blocks of 500 bytes: how many arenas?",
        answer: module => [small_arenas(run(
            module, "for i in range(20000): malloc(500)").state).length],
    },
    pattern: {
        asks: "How many bytes were written behind the block in the dump?",
        answer: module => {
            const {machine} = run(module, "p = malloc(10)\nfor i in range(11): write(p, i)\n"
                                  + "write(p, 11, 0)", true);
            return [[...machine.bytes(machine.addresses[0] + 10, 8)].filter(
                byte => byte !== 0xfd).length];
        },
    },
    hookcost: {
        asks: "Bytes that a pool serves of requests of 40 bytes, without hooks and with them:",
        answer: module => [false, true].map(
            hooks => 40 * pools(run(module, "p = malloc(40)", hooks).state)[0].nblocks),
    },
    survivor: {
        asks: "Write a program that fills an arena and frees all of its blocks but one.",
        judge: view => {
            const full = new Set();
            let last;
            for (last of states(view)) {
                small_arenas(last).filter(arena => arena.nfree === 0)
                    .forEach(arena => full.add(arena.number));
            }
            const left = small_arenas(last || view.machine.look()).filter(
                arena => full.has(arena.number) && used_in([...arena.pools.values()]) === 1);
            return full.size === 0 ? "No arena was full: one had free pools all the time."
                : left.length === 0 ? "An arena was full, but none of these has one block in "
                + "use at the end." : "";
        },
    },
    high: {
        asks: "Write a program that has at least four arenas, frees 98 of 100 blocks and keeps "
            + "more than half of the arenas.",
        judge: view => {
            let most = 0, blocks = 0, now = null;
            for (now of states(view)) {
                most = Math.max(most, small_arenas(now).length);
                blocks = Math.max(blocks, used_in(pools(now)));
            }
            const left = now === null ? 0 : used_in(pools(now));
            return most < 4 ? `There were ${most} arenas at most.`
                : left > blocks / 50 ? `${left} of ${blocks} blocks are still in use.`
                : small_arenas(now).length <= most / 2
                ? `${small_arenas(now).length} of ${most} arenas are left.` : "";
        },
    },
    caught: {
        asks: "Write one byte too many behind a block, so that the debug hooks find it.",
        judge: view => {
            const machine = new play.Machine(view.module, view.machine.with_debug_hooks);
            machine.go(view.calls, view.calls.length);
            return !machine.with_debug_hooks ? "The debug hooks are off."
                : !machine.ended ? "Nothing was found: the hooks look when the block is freed."
                : !/at tail\+0: 0x\w\w \*\*\* OUCH/.test(machine.said)
                ? "Something else was found: " + machine.said.trim().split("\n").pop() : "";
        },
    },
};

/* Is it right?  A sentence, and whether. */
play.judge = function (exercise, view, typed) {
    if (exercise.judge !== undefined) {
        const fault = exercise.judge(view);
        return {is_right: fault === "", text: fault === "" ? "Right." : fault};
    }
    const numbers = (typed.replace(/(\d),(?=\d{3}\b)/g, "$1").match(/\d+/g) || []).map(Number);
    const right = exercise.answer(view.module, view), n = right.length;
    const is_right = numbers.length === n && numbers.every((number, i) => number === right[i]);
    return {is_right, text: is_right ? "Right: the library did the same."
        : numbers.length !== n ? `The answer is ${n === 1 ? "a number" : `${n} numbers`}.`
        : "Not so. Try it in the program above."};
};
}());
