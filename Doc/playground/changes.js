/* What a call changed, in words, and what the pictures mark: from the states before and
 * after it.
 *
 * Owns the sentences.  Calls machine.js for places. */

(function () {
"use strict";
const play = globalThis.pymemPlay = globalThis.pymemPlay || {};

const hex = number => "0x" + number.toString(16);
const count = number => number.toLocaleString("en");
play.hex = hex;
play.count = count;
play.size_text = bytes => bytes % 1048576 === 0 ? `${bytes / 1048576} MiB`
    : bytes % 1024 === 0 ? `${bytes / 1024} KiB` : `${count(bytes)} bytes`;

function place_text(block, address) {
    return block === null ? `a block of the raw domain, at ${hex(address)}`
        : `block ${block.number} of pool ${block.pool.key}, ${count(block.pool.blocksize)} bytes, `
          + `at ${hex(address)}`;
}

/* The call itself. */
function call_sentence(call, was, is, before, after) {
    const text = play.call_text(call);
    switch (call.what) {
    case "f":
        return `${text}: ${place_text(before, was)} is free now.`;
    case "r":
        return was === is ? `${text}: the block stays, ${place_text(after, is)}.`
            : `${text}: it moved to ${place_text(after, is)}.`;
    case "w":
        return `${text}: one byte at ${hex(was + call.size)}.`;
    default:
        return is === 0 ? `${text}: there is no memory.` : `${text}: ${place_text(after, is)}.`;
    }
}

function arena_sentences(before, after) {
    const known = new Set(before.arenas.map(arena => arena.number));
    const now = new Set(after.arenas.map(arena => arena.number));
    const kind = arena => arena.is_medium ? " for medium blocks" : "";
    return [
        ...after.arenas.filter(arena => !known.has(arena.number)).map(
            arena => `Arena ${arena.number} was bought: ${play.size_text(arena.size)}`
                     + `${kind(arena)}.`),
        ...before.arenas.filter(arena => !now.has(arena.number)).map(
            arena => `Arena ${arena.number} went back to its allocator.`)];
}

function freeblock_text(pool) {
    return pool.freeblock === null ? "none" : `block ${pool.freeblock}`;
}

function pool_sentences(was, is) {
    const sentences = [];
    if (was === undefined) {
        sentences.push(`Pool ${is.key} was taken for blocks of ${count(is.blocksize)} bytes.`);
    }
    const old = was || {...is, ncut: 0, nused: 0, in_ring: 1, freeblock: null};
    if (is.ncut > old.ncut) {
        sentences.push(`Pool ${is.key} was cut: blocks ${old.ncut} to ${is.ncut - 1}.`);
    }
    if (old.in_ring && !is.in_ring) {
        sentences.push(`Pool ${is.key} is full and left its ring.`);
    }
    if (!old.in_ring && is.in_ring) {
        sentences.push(`Pool ${is.key} came back into its ring.`);
    }
    if (old.nused !== is.nused || old.freeblock !== is.freeblock) {
        sentences.push(`Pool ${is.key}: used ${old.nused} → ${is.nused}; next free block: `
                       + `${freeblock_text(old)} → ${freeblock_text(is)}.`);
    }
    return sentences;
}

/* Pools of both states by key. */
function pools_of(state) {
    return new Map(state.arenas.flatMap(
        arena => [...arena.pools.values()].map(pool => [pool.key, pool])));
}

/* {sentences, pools: keys that changed, rings: sizes of those that changed}. */
function changes(before, after) {
    const was = pools_of(before), is = pools_of(after), pools = new Set();
    const sentences = arena_sentences(before, after);
    for (const [key, pool] of is) {
        const told = pool_sentences(was.get(key), pool);
        if (told.length > 0) {
            pools.add(key);
            sentences.push(...told);
        }
    }
    for (const key of was.keys()) {
        if (!is.has(key)) {
            pools.add(key);
            sentences.push(`Pool ${key} is empty and went back to its arena.`);
        }
    }
    const ring_text = state => new Map(state.rings.map(
        ring => [`${ring.blocksize}/${ring.level}`, ring.pools.join()]));
    const old_rings = ring_text(before), rings = new Set();
    for (const [key, text] of ring_text(after)) {
        if (old_rings.get(key) !== text) {
            rings.add(key);
        }
    }
    return {sentences, pools, rings};
}

/* Of one call: the same, with the call and its block in front. */
play.call_changes = function (machine, call, before, after, was, is) {
    const found = changes(before, after);
    const old_block = was ? play.block_at(before, machine, was) : null;
    const new_block = is ? play.block_at(after, machine, is) : null;
    found.sentences.unshift(call_sentence(call, was, is, old_block, new_block));
    found.block = call.what === "f" ? old_block : new_block;
    found.address = call.what === "f" ? was : is;
    if (found.block !== null) {
        found.pools.add(found.block.pool.key);
    }
    return found;
};
}());
