/* The bytes of a block, as they are in memory, coloured by what the debug hooks put there.  A
 * click on a byte is a write, also behind the end of the block.
 *
 * Owns what is drawn.  Calls view.js back for a byte that was clicked. */

(function () {
"use strict";
const play = globalThis.pymemPlay = globalThis.pymemPlay || {};
const element = play.element, MOST_BYTES = 96;

const KINDS = {
    size: "bytes asked for", domain: "domain", forbidden: "FD, forbidden",
    clean: "CD, not written yet", dead: "DD, freed", written: "written", broken: "overwritten",
    inside: "in the block", next: "behind the block", link: "address of the next free block",
};

/* {start, end, asked}: offsets from the block's address that are shown. */
function range_of(machine, chosen) {
    const {block, size, address} = chosen;
    if (machine.with_debug_hooks) {
        const head = [...machine.bytes(address - 16, 8)];
        const said = head.reduce((all, byte) => all * 256 + byte, 0);
        const asked = said < 4000000 ? said : size;
        return {start: -16, end: Math.min(asked, MOST_BYTES) + 8, asked};
    }
    const whole = block === null ? size : block.pool.blocksize;
    return {start: 0, end: Math.min(whole, MOST_BYTES) + (block === null ? 0 : 16),
            asked: size, whole};
}

function kind_with_hooks(offset, byte, asked) {
    if (byte === 0xdd) {
        return "dead";
    }
    if (offset < -8) {
        return "size";
    }
    if (offset === -8) {
        return "domain";
    }
    if (offset < 0 || offset >= asked) {
        return byte === 0xfd ? "forbidden" : "broken";
    }
    return byte === 0xcd ? "clean" : "written";
}

function kind_of(machine, chosen, range, offset, byte) {
    if (machine.with_debug_hooks) {
        return kind_with_hooks(offset, byte, range.asked);
    }
    if (offset >= range.whole) {
        return "next";
    }
    return chosen.is_free && offset < 4 ? "link" : "inside";
}

function byte_button(offset, byte, kind) {
    const digits = byte.toString(16).padStart(2, "0");
    const label = `p${offset < 0 ? "−" : "+"}${Math.abs(offset)}: ${digits}, ${KINDS[kind]}`;
    return element("button", {type: "button", class: `byte ${kind}`, "data-offset": offset,
                              title: label, "aria-label": label}, digits);
}

/* chosen: {address, size, block, is_free, name}. */
play.draw_bytes = function (box, machine, chosen) {
    const range = range_of(machine, chosen), kinds = new Set();
    const bytes = machine.bytes(chosen.address + range.start, range.end - range.start);
    const rows = [];
    for (let at = 0; at < bytes.length; at += 8) {
        const cells = [...bytes.slice(at, at + 8)].map((byte, i) => {
            const kind = kind_of(machine, chosen, range, range.start + at + i, byte);
            kinds.add(kind);
            return byte_button(range.start + at + i, byte, kind);
        });
        const offset = range.start + at;
        rows.push(element("div", {class: "bytes-row"},
                          element("span", {class: "offset"},
                                  `p${offset < 0 ? "−" : "+"}${Math.abs(offset)}`), ...cells));
    }
    const grid = element("div", {role: "group", "aria-label": `bytes of ${chosen.name}`},
                         ...rows);
    play.roving(grid, () => 8);
    const legend = [...kinds].map(kind => element("span", {class: `byte ${kind}`}, KINDS[kind]));
    box.replaceChildren(
        element("p", {}, `${chosen.name}, ${play.hex(chosen.address)}: `
                + (chosen.is_free ? "a free block. " : `${play.count(range.asked)} bytes. `)
                + "A click on a byte writes 41 (“A”) there."),
        grid, element("p", {class: "legend"}, ...legend));
};
}());
