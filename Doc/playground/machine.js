/* The machine of the playground: the library in WebAssembly, one call after the other.
 *
 *   module (playground.c and Objects/) ---> an instance, which has made so many calls
 *
 * To go back is to begin anew and to make fewer calls: a call takes less than a microsecond.
 * Owns the instance.  Calls nothing but the module. */

(function () {
"use strict";
const play = globalThis.pymemPlay = globalThis.pymemPlay || {};

/* What the C library asks of a system: text that is written, and nothing else. */
function system_for(machine) {
    const view = () => new DataView(machine.exports.memory.buffer);
    return {
        fd_write(fd, list, count, written) {
            let n = 0;
            for (let i = 0; i < count; i++) {
                const at = view().getUint32(list + 8 * i, true);
                const length = view().getUint32(list + 8 * i + 4, true);
                machine.said += machine.text(at, length);
                n += length;
            }
            view().setUint32(written, n, true);
            return 0;
        },
        fd_fdstat_get(fd, at) {
            new Uint8Array(machine.exports.memory.buffer, at, 24).fill(0);
            view().setUint8(at, 2);             /* a terminal: each line is written at once */
            return 0;
        },
        environ_sizes_get(count, size) {
            view().setUint32(count, 0, true);
            view().setUint32(size, 0, true);
            return 0;
        },
        environ_get: () => 0,
        clock_time_get(clock, precision, at) {
            view().setBigUint64(at, 0n, true);
            return 0;
        },
    };
}

class Machine {
    constructor(module, with_debug_hooks) {
        this.module = module;
        this.with_debug_hooks = with_debug_hooks;
        this.restart();
    }
    restart() {
        this.said = "";             /* on stderr */
        this.ended = false;         /* by a fatal error */
        this.ncalls = 0;
        this.looked = null;         /* what look() gave, until the next call */
        /* Of the block in its slot, after each call; 0 where the call ended the program. */
        this.addresses = [];
        const known = system_for(this), imports = {};
        for (const {name} of WebAssembly.Module.imports(this.module)) {
            imports[name] = known[name] || (() => 52);      /* no such call */
        }
        this.exports = new WebAssembly.Instance(
            this.module, {wasi_snapshot_preview1: imports}).exports;
        this.exports._initialize();
        this.exports.play_start(this.with_debug_hooks ? 1 : 0);
    }
    /* Be where so many of the calls were made, or where one of them ended the program. */
    go(calls, n) {
        if (n < this.ncalls || this.ended && n <= this.ncalls) {
            this.restart();
        }
        while (this.ncalls < n && !this.ended) {
            this.make(calls[this.ncalls]);
        }
        return this.ncalls;
    }
    make(call) {
        this.looked = null;
        this.ncalls++;
        let address = 0;
        try {
            address = this.exports.play_call(call.what.charCodeAt(0), call.slot, call.size,
                                             call.value) >>> 0;
        }
        catch (error) {
            if (!(error instanceof WebAssembly.RuntimeError)) {
                throw error;
            }
            this.ended = true;
        }
        this.addresses.push(address);
    }
    bytes(at, length) {
        return new Uint8Array(this.exports.memory.buffer, at, length);
    }
    text(at, length) {
        return new TextDecoder().decode(this.bytes(at, length));
    }
    /* A text that a function of the driver made. */
    told(name, ...args) {
        const at = this.exports[name](...args), all = this.bytes(at, 1 << 19);
        return this.text(at, all.indexOf(0));
    }
    table() {
        return this.told("play_table");
    }
    look() {
        return this.looked ??= parse(this.told("play_look"),
                                     number => this.exports.play_arena(number) >>> 0);
    }
    free_list(pool) {
        return this.told("play_pool", pool.arena.number, pool.offset).split(" ")
            .filter(word => word !== "").map(Number);
    }
    /* Where an address is: [arena, offset], or null. */
    place(address) {
        const arena = this.exports.play_arena_of(address);
        return arena < 0 ? null
            : [arena, address - (this.exports.play_arena(arena) >>> 0)];
    }
}

/* What play_look() tells; its lines are described in playground.c. */
const LINES = {
    arena(state, words, address_of) {
        const [number, , size, pool_size, npools, nfree, first] = words.map(Number);
        state.arenas.push({number, is_medium: words[1] === "medium", size, pool_size, npools,
                           nfree, first, address: address_of(number), pools: new Map()});
    },
    pool(state, words) {
        const [arena_number, number, blocksize, nblocks, ncut, nused, freeblock, in_ring] =
            words.map(Number);
        const arena = state.arenas.find(a => a.number === arena_number);
        arena.pools.set(number, {
            key: `${arena_number}.${number}`, arena, number, blocksize, nblocks, ncut, nused,
            in_ring, offset: number * arena.pool_size, first: arena.first,
            freeblock: freeblock === 0 ? null : (freeblock - arena.first) / blocksize});
    },
    ring(state, words) {
        state.rings.push({blocksize: Number(words[0]), level: Number(words[1]),
                          pools: words.slice(2)});
    },
};

function parse(text, address_of) {
    const state = {arenas: [], rings: [], text};
    for (const line of text.split("\n")) {
        const [kind, ...words] = line.split(" ");
        if (LINES[kind] !== undefined) {
            LINES[kind](state, words, address_of);
        }
    }
    return state;
}

play.pool_of = function (state, key) {
    const [arena, number] = key.split(".").map(Number);
    const found = state.arenas.find(a => a.number === arena);
    return found === undefined ? undefined : found.pools.get(number);
};

/* {pool, number} of a block, where it is one of a pool. */
play.block_at = function (state, machine, address) {
    const place = machine.place(address);
    const arena = place === null ? undefined : state.arenas.find(a => a.number === place[0]);
    const pool = arena === undefined ? undefined
        : arena.pools.get(Math.floor(place[1] / arena.pool_size));
    if (pool === undefined) {
        return null;
    }
    const offset = place[1] - pool.offset - pool.first;
    return {pool, number: Math.floor(offset / pool.blocksize)};
};

play.Machine = Machine;
}());
