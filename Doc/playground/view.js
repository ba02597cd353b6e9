/* The playground on a page: the program, the buttons, and what is shown of each moment.
 *
 *   program.js ---> calls ---> machine.js ---> state ---> heapview.js, bytesview.js
 *
 * Owns what the reader chose: a program, a moment, a pool, a block, a module. */

(function () {
"use strict";
const play = globalThis.pymemPlay = globalThis.pymemPlay || {};
const element = play.element;

const EXAMPLES = {
    "One block": "p = malloc(37)\nq = malloc(40)\nfree(p)\nr = malloc(45)\n",
    "A list of free blocks": "a = [malloc(300) for i in range(12)]\n"
        + "for p in a[1::3]:\n    free(p)\np = malloc(290)\nq = malloc(290)\n",
    "A pool runs out": "a = [malloc(512) for i in range(33)]\nfree(a[3])\np = malloc(512)\n",
    "An arena is bought, and goes back": "a = [malloc(512) for i in range(2000)]\n"
        + "for p in a:\n    free(p)\n",
    "Which pool is next": "# Try both rules: ours and CPython's.\n"
        + "a = [malloc(512) for i in range(124)]\nfor p in a[:20]: free(p)\n"
        + "for p in a[31:36]: free(p)\nfor p in a[62:90]: free(p)\n"
        + "b = [malloc(512) for i in range(8)]\n",
    "realloc": "p = malloc(37)\np = realloc(p, 48)\np = realloc(p, 49)\n"
        + "p = realloc(p, 513)\nfree(p)\n",
    "Random sizes": "seed(1)\na = [malloc(random(1, 600)) for i in range(400)]\n"
        + "for p in a[::2]: free(p)\nfor i in range(0, 400, 2):\n"
        + "    a[i] = malloc(random(1, 600))\n",
    "An overflow": "# Debug hooks are on: see who notices.\np = malloc(5)\n"
        + "write(p, 5, 0x41)\nfree(p)\n",
    "A Python program, recorded": "trace(json)\n",
};
const SPEEDS = [1, 3, 10, 50, 250, 1000];

/* Modules */

async function compiled(name) {
    await play.load(name);
    const packed = Uint8Array.from(atob(globalThis.pymemModules[name]), c => c.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    return WebAssembly.compile(await new Response(stream).arrayBuffer());
}

const modules = new Map();
function module_of(geometry, rule) {
    const name = `${geometry}-${rule}`;
    if (!modules.has(name)) {
        modules.set(name, compiled(name));
    }
    return modules.get(name);
}

/* Permalinks: all that was chosen, as JSON, in base64 that an address may have. */

function packed(chosen) {
    const bytes = new TextEncoder().encode(JSON.stringify(chosen));
    return btoa(String.fromCharCode(...bytes)).replace(/\+/g, "-").replace(/\//g, "_")
        .replace(/=+$/, "");
}

function unpacked(text) {
    const bytes = Uint8Array.from(atob(text.replace(/-/g, "+").replace(/_/g, "/")),
                                  c => c.charCodeAt(0));
    return JSON.parse(new TextDecoder().decode(bytes));
}

function of_address() {
    const found = /^#play=([\w-]+)$/.exec(location.hash);
    try {
        return found === null ? {} : unpacked(found[1]);
    }
    catch (error) {
        return {};
    }
}

/* Parts of the page */

function button(text, label, action) {
    const made = element("button", {type: "button", "aria-label": label, title: label}, text);
    made.addEventListener("click", action);
    return made;
}

function choice(label, options, value, action) {
    const select = element("select", {}, ...options.map(
        ([name, text]) => element("option", {value: name}, text)));
    select.value = value;
    select.addEventListener("change", () => action(select.value));
    return element("label", {}, `${label} `, select);
}

function section(title, is_open, name) {
    const content = element("div", {class: name});
    const details = element("details", is_open ? {open: ""} : {},
                            element("summary", {}, title), content);
    return {details, content};
}

class View {
    constructor(box, options) {
        this.box = box;
        this.options = options;
        this.chosen = {program: "", geometry: "default", rule: "ours", debug: false, at: null,
                       pokes: [], speed: 10, ...options};
        if (options.is_page) {
            Object.assign(this.chosen, of_address());
        }
        this.pinned_pool = null;
        this.pinned_block = null;
        this.timer = null;
        this.address_timer = null;
    }

    /* What is there once. */

    build() {
        this.box.replaceChildren(this.bar(), element(
            "div", {class: "columns"}, this.left(), this.right()));
        this.box.setAttribute("role", "region");
        this.box.setAttribute("aria-label", "Playground: the allocator, step by step");
        this.box.addEventListener("keydown", event => this.key(event));
        this.box.addEventListener("click", event => this.clicked(event));
        if (this.options.exercise !== undefined) {
            this.box.append(this.exercise(play.EXERCISES[this.options.exercise]));
        }
    }
    bar() {
        this.slider = element("input", {type: "range", min: 0, value: 0, class: "moment",
                                        "aria-label": "moment, in calls"});
        this.slider.addEventListener("input", () => this.go(Number(this.slider.value)));
        this.label = element("output", {class: "label"});
        this.run_button = button("▶ run", "run, or stop", () => this.run_or_stop());
        this.run_button.classList.add("run");
        const speed = choice("", SPEEDS.map(n => [n, `${n} a second`]), this.chosen.speed,
                             value => { this.chosen.speed = Number(value); });
        speed.firstElementChild.setAttribute("aria-label", "speed, in calls");
        return element("div", {class: "bar", role: "toolbar", "aria-label": "steps"},
                       button("|◀", "to the beginning", () => this.go(0)),
                       button("◀", "one call back", () => this.go(this.at - 1)),
                       button("▶", "one call forward", () => this.go(this.at + 1)),
                       button("▶|", "to the end", () => this.go(this.calls.length)),
                       this.run_button, speed, this.slider, this.label);
    }
    left() {
        const names = Object.keys(EXAMPLES);
        const examples = choice("Example", [["", "your own"], ...names.map(n => [n, n])], "",
                                name => this.take_example(name));
        this.examples = examples.firstElementChild;
        this.lines = element("div", {class: "lines", "aria-hidden": "true"});
        this.editor = element("textarea", {class: "program", spellcheck: "false", wrap: "off",
                                           "aria-label": "program", autocapitalize: "off"});
        this.editor.addEventListener("input", () => this.edited());
        this.editor.addEventListener("scroll", () => {
            this.lines.scrollTop = this.editor.scrollTop;
        });
        this.fault = element("p", {class: "fault", role: "alert"});
        this.happened = element("ul", {class: "happened", "aria-live": "polite"});
        this.said = element("pre", {class: "said", tabindex: 0, hidden: "",
                                    "aria-label": "what the library said"});
        return element("div", {class: "left"}, examples,
                       element("div", {class: "editor"}, this.lines, this.editor), this.fault,
                       this.settings(), element("div", {class: "title"}, "What happened"), this.happened,
                       this.said);
    }
    settings() {
        const change = name => value => {
            this.chosen[name] = name === "debug" ? value === "on" : value;
            this.start();
        };
        this.link = element("a", {class: "permalink"}, "Link to this");
        const part = (name, label, options, value) => {
            const made = choice(label, options, value, change(name));
            made.firstElementChild.dataset.setting = name;
            return made;
        };
        return element(
            "div", {class: "settings"},
            part("geometry", "Geometry", [
                ["default", "3.10’s: 1 MiB, 16 KiB"], ["classic", "classic: 256 KiB, 4 KiB"]],
                 this.chosen.geometry),
            part("rule", "Next pool", [["ours", "ours: the fullest"],
                                       ["cpython", "CPython’s: freed last"]], this.chosen.rule),
            part("debug", "Debug hooks", [["off", "off"], ["on", "on"]],
                 this.chosen.debug ? "on" : "off"), this.link);
    }
    right() {
        const shown = (this.options.show || "arenas pool rings bytes").split(" ");
        /* What is closed is drawn when it opens: it costs time, and has no width to be drawn in. */
        const part = (title, name, draw) => {
            const made = section(title, shown.includes(name), `${name}-part`);
            made.draw = () => {
                if (made.details.open && this.state !== undefined) {
                    draw(made.content);
                }
            };
            made.details.addEventListener("toggle", made.draw);
            return made;
        };
        const table = part("Statistics", "table", box => this.show_table(box));
        table.content.tabIndex = 0;
        this.parts = [
            part("Arenas and pools", "arenas", box => play.draw_arenas(
                box, this.state, this.changed.pools, this.shown_pool)),
            part("A pool, its blocks, the list of free ones", "pool", box => this.draw_pool(box)),
            part("Rings of usedpools", "rings", box => play.draw_rings(
                box, this.state, this.changed.rings, this.shown_pool)),
            part("Bytes of a block", "bytes", box => this.draw_bytes(box)),
            table];
        return element("div", {class: "right"}, ...this.parts.map(made => made.details));
    }
    exercise(exercise) {
        const answer = element("input", {type: "text", "aria-label": "your answer",
                                         inputmode: "numeric"});
        const result = element("output", {class: "result", role: "status"});
        const form = element("form", {class: "exercise"}, element("p", {}, exercise.asks),
                             ...(exercise.answer !== undefined ? [answer] : []),
                             element("button", {}, "Is it right?"), result);
        form.addEventListener("submit", event => {
            event.preventDefault();
            const {is_right, text} = play.judge(exercise, this, answer.value);
            result.textContent = text;
            result.dataset.right = is_right;
        });
        return form;
    }

    /* What the reader does. */

    take_example(name) {
        if (name !== "") {
            this.chosen.debug = name === "An overflow";
            this.box.querySelector("[data-setting=debug]").value =
                this.chosen.debug ? "on" : "off";
            this.chosen.program = EXAMPLES[name];
            this.editor.value = this.chosen.program;
            this.chosen.pokes = [];
            this.chosen.at = 0;
            this.start();
        }
    }
    edited() {
        this.chosen.program = this.editor.value;
        this.chosen.pokes = [];
        this.chosen.at = null;
        this.examples.value = "";
        this.start();
    }
    key(event) {
        if (/^(TEXTAREA|INPUT|SELECT)$/.test(event.target.tagName)
            || event.ctrlKey || event.altKey || event.metaKey) {
            return;
        }
        if (event.target.matches("svg.blocks") && this.key_in_pool(event)) {
            return;
        }
        const to = {ArrowLeft: this.at - 1, ArrowRight: this.at + 1, Home: 0,
                    End: this.calls.length}[event.key];
        if (to !== undefined) {
            event.preventDefault();
            this.go(to);
        }
    }
    /* Arrow keys go from block to block. */
    key_in_pool(event) {
        const step = play.arrow_step(event.key, Number(event.target.dataset.columns));
        const pool = play.pool_of(this.state, this.shown_pool);
        if (step === undefined) {
            return false;
        }
        event.preventDefault();
        const next = this.pinned_block === null ? 0 : this.pinned_block + step;
        this.pinned_pool = this.shown_pool;
        this.pinned_block = Math.max(0, Math.min(pool.nblocks - 1, next));
        this.draw();
        this.refocus("svg.blocks");
        return true;
    }
    clicked(event) {
        const pool = event.target.closest("[data-pool]");
        const block = event.target.closest("[data-block]");
        const byte = event.target.closest("[data-offset]");
        if (pool !== null) {
            this.pinned_pool = this.pinned_pool === pool.dataset.pool ? null : pool.dataset.pool;
            this.pinned_block = null;
            this.draw();
            this.refocus(`[data-pool="${pool.dataset.pool}"]`);
        }
        else if (block !== null) {
            this.pinned_pool = this.shown_pool;
            this.pinned_block = Number(block.dataset.block);
            this.draw();
        }
        else if (byte !== null) {
            this.poke(Number(byte.dataset.offset));
            this.refocus(`[data-offset="${byte.dataset.offset}"]`);
        }
    }
    refocus(selector) {
        const found = this.box.querySelector(selector);
        if (found !== null) {
            found.focus({preventScroll: true});
        }
    }
    poke(offset) {
        const slot = this.shown_block.slot;
        if (slot === undefined || this.machine.ended) {
            return;
        }
        this.stop();
        this.chosen.pokes.push({at: this.at, slot, offset, value: 0x41,
                                name: this.shown_block.name});
        this.insert_poke(this.chosen.pokes[this.chosen.pokes.length - 1]);
        this.go(this.at + 1);
    }
    insert_poke({at, slot, offset, value, name}) {
        const line = at > 0 && this.calls[at - 1] !== undefined ? this.calls[at - 1].line : 1;
        this.calls.splice(at, 0, {what: "w", slot, size: offset, value, line, name});
    }

    /* From a program to a moment. */

    async start() {
        this.stop();
        const {geometry, rule, debug} = this.chosen;
        const module = await module_of(geometry, rule);
        if (/\btrace\b/.test(this.chosen.program)) {
            await play.load("traces");
        }
        if (this.chosen.geometry !== geometry || this.chosen.rule !== rule) {
            return;                     /* chosen anew meanwhile */
        }
        this.module = module;
        this.machine = new play.Machine(module, debug);
        this.fault.textContent = "";
        try {
            this.calls = play.calls_of(this.chosen.program, globalThis.pymemTraces);
            this.chosen.pokes.forEach(poke => this.insert_poke(poke));
        }
        catch (error) {
            if (!(error instanceof play.ProgramError)) {
                throw error;
            }
            this.calls = [];
            this.fault.textContent = error.message;
        }
        this.pinned_pool = this.pinned_block = null;
        this.go(this.chosen.at === null ? this.calls.length : this.chosen.at);
    }
    go(n) {
        const to = Math.max(0, Math.min(this.calls.length, n)), {calls, machine} = this;
        machine.go(calls, Math.max(0, to - 1));
        const before = machine.look();
        this.at = machine.go(calls, to);
        this.state = machine.ended ? before : machine.look();
        this.changed = {sentences: [], pools: new Set(), rings: new Set(), block: null};
        if (this.at > 0) {
            const call = calls[this.at - 1];
            this.changed = play.call_changes(
                machine, call, before, this.state, this.address_before(call),
                machine.addresses[this.at - 1]);
        }
        this.chosen.at = this.at;
        this.draw();
    }
    /* The number of the last call of a slot before another call, -1 for none. */
    last_call(slot, before, whats = "mcrfw") {
        let i = before - 1;
        while (i >= 0 && !(this.calls[i].slot === slot && whats.includes(this.calls[i].what))) {
            i--;
        }
        return i;
    }
    /* Where the block of a call was before it. */
    address_before(call) {
        const last = this.last_call(call.slot, this.at - 1);
        return last < 0 ? 0 : this.machine.addresses[last];
    }
    run_or_stop() {
        if (this.timer !== null) {
            this.stop();
            return;
        }
        if (this.at >= this.calls.length) {
            this.go(0);
        }
        const tick = Math.max(40, 1000 / this.chosen.speed);
        this.run_button.textContent = "■ stop";
        this.timer = setInterval(() => {
            this.go(this.at + Math.max(1, Math.round(this.chosen.speed * tick / 1000)));
            if (this.at >= this.calls.length || this.machine.ended) {
                this.stop();
            }
        }, tick);
    }
    stop() {
        clearInterval(this.timer);
        this.timer = null;
        this.run_button.textContent = "▶ run";
        if (this.calls !== undefined) {
            this.show_link();
        }
    }

    /* What is shown of the moment. */

    draw() {
        this.slider.max = this.calls.length;
        this.slider.value = this.at;
        this.label.textContent = `${play.count(this.at)} of ${play.count(this.calls.length)} calls`;
        this.choose_pool();
        this.parts.forEach(part => part.draw());
        this.happened.replaceChildren(...this.changed.sentences.slice(0, 12).map(
            sentence => element("li", {}, sentence)));
        this.said.hidden = this.machine.said === "";
        this.said.textContent = this.machine.said;
        this.show_lines();
        if (this.timer === null) {
            this.show_link();
        }
    }
    choose_pool() {
        const {block} = this.changed;
        const of_call = block === null ? [...this.changed.pools].pop() : block.pool.key;
        const any = this.state.arenas.flatMap(arena => [...arena.pools.values()])[0];
        this.shown_pool = [this.pinned_pool, of_call, this.shown_pool, any && any.key].find(
            key => key && play.pool_of(this.state, key) !== undefined);
    }
    draw_pool(box) {
        const pool = this.shown_pool && play.pool_of(this.state, this.shown_pool);
        if (!pool) {
            box.replaceChildren(element("p", {}, "No pool is in use."));
            return;
        }
        const {block} = this.changed, is_here = block !== null && block.pool.key === pool.key;
        play.draw_pool(box, pool, this.machine.free_list(pool), is_here ? block.number : null,
                       this.pinned_block);
    }
    /* {address, size, block, is_free, name, slot}: the block of this call, or the pinned one. */
    choose_block() {
        const {block, address} = this.changed, hooks = this.chosen.debug ? 16 : 0;
        if (this.pinned_block === null) {
            return address ? this.block_of_address(address, block) : null;
        }
        const pool = this.shown_pool && play.pool_of(this.state, this.shown_pool);
        if (!pool) {
            return null;
        }
        return this.block_of_address(
            pool.arena.address + pool.offset + pool.first + this.pinned_block * pool.blocksize
                + hooks, {pool, number: this.pinned_block});
    }
    block_of_address(address, block) {
        const made = this.machine.addresses.lastIndexOf(address, this.at - 1);
        const call = made < 0 ? {} : this.calls[made];
        const sized = this.last_call(call.slot, this.at, "mcr");
        return {address, block, slot: call.slot, size: sized < 0 ? 0 : this.calls[sized].size,
                is_free: call.what === "f" || made < 0,
                name: call.name || (made < 0 ? "a block that nobody has had" : `block ${call.slot}`)};
    }
    draw_bytes(box) {
        this.shown_block = this.choose_block() || {};
        if (this.shown_block.address === undefined) {
            box.replaceChildren(element("p", {}, "Choose a block: a click on it in its pool."));
            return;
        }
        play.draw_bytes(box, this.machine, this.shown_block);
    }
    show_lines() {
        const n = this.chosen.program.split("\n").length;
        const next = this.calls[this.at], last = this.calls[this.at - 1];
        this.lines.replaceChildren(...Array.from({length: n}, (_, i) => element(
            "span", {class: last && last.line === i + 1 ? "now"
                     : next && next.line === i + 1 ? "next" : ""}, String(i + 1))));
    }
    show_table(box) {
        if (!this.machine.ended) {
            box.replaceChildren(element("pre", {}, this.machine.table()));
        }
    }
    show_link() {
        const {program, geometry, rule, debug, at, pokes} = this.chosen;
        const hash = `#play=${packed({program, geometry, rule, debug, at, pokes})}`;
        this.link.href = (this.options.is_page ? "" : this.options.page) + hash;
        if (this.options.is_page && this.was_drawn) {
            /* Not for each of many steps: browsers allow few changes in a second. */
            clearTimeout(this.address_timer);
            this.address_timer = setTimeout(() => history.replaceState(null, "", hash), 300);
        }
        this.was_drawn = true;
    }
}

/* The picture that a playground stands for is folded away, and still there. */
function fold_picture(name) {
    const picture = document.querySelector(`figure[data-diagram="${name}"]`);
    if (picture !== null) {
        const details = element("details", {class: "picture"},
                                element("summary", {}, "The picture of a living process"));
        picture.before(details);
        details.append(picture);
    }
}

play.begin = async function (box) {
    const options = JSON.parse(box.dataset.play), view = new View(box, options);
    view.build();
    view.editor.value = view.chosen.program;
    view.editor.rows = Math.min(14, Math.max(5, view.chosen.program.split("\n").length));
    await view.start();
    if (options.replaces !== undefined) {
        fold_picture(options.replaces);
    }
    performance.measure("playground");          /* since the page began */
    box.playground = view;              /* for tests, and whoever is curious */
    box.dataset.ready = "yes";
};
}());
