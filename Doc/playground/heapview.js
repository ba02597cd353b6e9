/* Pictures of a state: arenas with their pools, one pool with its blocks and the list of the
 * free ones, the rings of used pools.
 *
 * Owns what is drawn.  What is chosen comes by callbacks to view.js. */

(function () {
"use strict";
const play = globalThis.pymemPlay = globalThis.pymemPlay || {};
const MOST_ARENAS = 24, MOST_ARROWS = 24;
const WORDS = {used: "used", free: "free", never: "never used"};

function filled(made, attributes, children) {
    for (const [key, value] of Object.entries(attributes)) {
        made.setAttribute(key, value);
    }
    made.append(...children);
    return made;
}

/* An element: attributes, then children or text. */
play.element = (name, attributes, ...children) =>
    filled(document.createElement(name), attributes, children);
const element = play.element;

const svg = (name, attributes, ...children) =>
    filled(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);

/* A colour of each size of blocks: neighbours differ. */
const hue = blocksize => blocksize * 137.5 / 16 % 360;

function pool_label(pool) {
    return `pool ${pool.key}: blocks of ${play.count(pool.blocksize)} bytes, `
        + `${pool.nused} of ${pool.nblocks} used`;
}

/* How far an arrow key goes in a grid; other keys go nowhere. */
play.arrow_step = (key, columns) =>
    ({ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns}[key]);

/* Arrow keys go through the buttons of a grid, of which one can be reached by Tab. */
play.roving = function (grid, columns) {
    const buttons = () => [...grid.querySelectorAll("button")];
    const first = buttons().find(b => b.getAttribute("aria-pressed") === "true") || buttons()[0];
    buttons().forEach(button => { button.tabIndex = button === first ? 0 : -1; });
    grid.onkeydown = event => {
        const step = play.arrow_step(event.key, columns());
        const all = buttons(), next = all[all.indexOf(event.target) + step];
        if (step !== undefined) {
            event.preventDefault();
            event.stopPropagation();
            if (next !== undefined) {
                event.target.tabIndex = -1;
                next.tabIndex = 0;
                next.focus();
            }
        }
    };
};

function pool_button(arena, number, marked, chosen) {
    const pool = arena.pools.get(number), key = `${arena.number}.${number}`;
    const button = element("button", {
        type: "button", class: "pool" + (marked.has(key) ? " marked" : ""), "data-pool": key,
        "aria-pressed": chosen === key, disabled: ""});
    if (pool === undefined) {
        button.setAttribute("aria-label", `pool ${key}: free`);
        button.title = `pool ${key}: free`;
        return button;
    }
    button.removeAttribute("disabled");
    button.classList.add("of-class");
    button.style.setProperty("--hue", hue(pool.blocksize));
    button.style.setProperty("--fill", `${100 * pool.nused / pool.nblocks}%`);
    button.title = pool_label(pool);
    button.setAttribute("aria-label", pool_label(pool));
    button.append(element("b", {}, String(pool.blocksize)),
                  element("span", {}, `${pool.nused}/${pool.nblocks}`));
    return button;
}

play.draw_arenas = function (box, state, marked, chosen) {
    const shown = state.arenas.slice(0, MOST_ARENAS).map(arena => {
        const pools = Array.from({length: arena.npools},
                                 (_, i) => pool_button(arena, i, marked, chosen));
        const grid = element("div", {class: "pools"}, ...pools);
        play.roving(grid, () => getComputedStyle(grid).gridTemplateColumns.split(" ").length);
        return element("div", {class: "arena", role: "group",
                               "aria-label": `arena ${arena.number}`},
                       element("b", {}, `arena ${arena.number}`),
                       element("p", {}, `${play.size_text(arena.size)} at `
                               + `${play.hex(arena.address)}, ${arena.nfree} of ${arena.npools} `
                               + `pools free${arena.is_medium ? "; medium blocks" : ""}`),
                       grid);
    });
    const left = state.arenas.length - shown.length;
    box.replaceChildren(...shown, ...(left > 0 ? [element("p", {}, `and ${left} more`)] : []),
                        ...(shown.length === 0
                            ? [element("p", {}, "No arena has been bought yet.")] : []));
};

/* One pool.  Blocks are as large as there is room for. */
function block_states(pool, list) {
    const states = Array.from({length: pool.nblocks}, (_, i) => i < pool.ncut ? "used" : "never");
    list.forEach(i => {
        if (states[i] !== undefined) {
            states[i] = "free";
        }
    });
    return states;
}

function layout(pool, width) {
    const least = pool.nblocks <= 100 ? 46 : pool.nblocks <= 400 ? 22 : 12;
    const columns = Math.max(4, Math.min(pool.nblocks, Math.floor(width / least)));
    const side = width / columns, height = pool.nblocks <= 100 ? 30 : Math.max(11, side * 0.7);
    return {columns, side, height,
            x: i => (i % columns + 0.5) * side, y: i => (Math.floor(i / columns) + 0.5) * height};
}

function arrows(list, place) {
    return list.slice(0, MOST_ARROWS).slice(1).map((to, i) => {
        const from = list[i], x1 = place.x(from), y1 = place.y(from), x2 = place.x(to);
        const y2 = place.y(to), bend = Math.min(30, 8 + Math.hypot(x2 - x1, y2 - y1) / 5);
        return svg("path", {class: "link", "marker-end": "url(#pymem-play-arrow)",
                            d: `M${x1} ${y1}Q${(x1 + x2) / 2 + (y2 - y1) / 8} `
                               + `${(y1 + y2) / 2 - bend} ${x2} ${y2}`});
    });
}

function block_cell(state, i, place, marked, chosen) {
    const label = `block ${i}: ${WORDS[state]}`;
    const cell = svg("rect", {
        x: place.x(i) - place.side / 2 + 1, y: place.y(i) - place.height / 2 + 1,
        width: place.side - 2, height: place.height - 2, "data-block": i,
        class: `block ${state}` + (marked === i ? " marked" : "")
            + (chosen === i ? " chosen" : "")}, svg("title", {}, label));
    const parts = [cell];
    if (place.height >= 30) {
        parts.push(svg("text", {x: place.x(i), y: place.y(i) + 4, "text-anchor": "middle"},
                       String(i)));
    }
    return parts;
}

/* marked: the block of this call; chosen: the one whose bytes are shown. */
play.draw_pool = function (box, pool, list, marked, chosen) {
    const width = Math.max(260, box.clientWidth || 600), place = layout(pool, width);
    const states = block_states(pool, list);
    const height = Math.ceil(pool.nblocks / place.columns) * place.height;
    const marker = svg("marker", {id: "pymem-play-arrow", viewBox: "0 0 8 8", refX: 7, refY: 4,
                                  markerWidth: 7, markerHeight: 7, orient: "auto"},
                       svg("path", {d: "M0 0L8 4L0 8Z", class: "head"}));
    const at = chosen === null ? "" : `; block ${chosen}: ${WORDS[states[chosen]]}`;
    const picture = svg("svg", {viewBox: `0 0 ${width} ${height}`, width, height, tabindex: 0,
                                role: "application", "data-columns": place.columns,
                                "aria-label": `${pool_label(pool)}${at}`, class: "blocks"},
                        svg("defs", {}, marker));
    picture.style.setProperty("--hue", hue(pool.blocksize));
    states.forEach((state, i) =>
        picture.append(...block_cell(state, i, place, marked, chosen)));
    picture.append(...arrows(list, place));
    const first = list.slice(0, 12).join(" → ");
    const words = pool.nused === pool.nblocks ? "No block is free."
        : list.length === 0 ? "The list of free blocks is empty: the next call cuts more."
        : `Free, in the order in which they are given: ${first}`
          + (list.length > 12 ? ` → … (${list.length})` : "");
    box.replaceChildren(
        element("p", {}, `${pool_label(pool)}, ${pool.ncut} cut. `, words), picture);
};

/* Rings. */
play.draw_rings = function (box, state, marked, chosen) {
    const rows = state.rings.map(ring => {
        const name = ring.level === 0 ? `usedpools, ${ring.blocksize} bytes`
            : `wait, group ${ring.level}, ${ring.blocksize} bytes`;
        const pools = ring.pools.slice(0, 40).flatMap(key => {
            const button = element("button", {type: "button", "data-pool": key, class: "in-ring",
                                              "aria-pressed": chosen === key,
                                              "aria-label": `pool ${key}`}, key);
            button.style.setProperty("--hue", hue(ring.blocksize));
            return [element("span", {"aria-hidden": "true"}, "→"), button];
        });
        const more = ring.pools.length > 40 ? [`→ and ${ring.pools.length - 40} more`] : [];
        return element("div", {
            class: "ring" + (marked.has(`${ring.blocksize}/${ring.level}`) ? " marked" : "")},
                       element("span", {class: "name"}, name), ...pools, ...more,
                       element("span", {"aria-hidden": "true"}, "↩"));
    });
    box.replaceChildren(...(rows.length > 0 ? rows : [element("p", {}, "All rings are empty.")]));
};
}());
