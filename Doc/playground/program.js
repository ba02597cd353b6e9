/* The language of the playground: a little of Python, which makes a list of calls.
 *
 *     p = malloc(37)
 *     blocks = [malloc(random(1, 512)) for i in range(100)]
 *     for q in blocks[::2]:
 *         free(q)
 *
 * Owns the language.  Calls nothing; the calls are carried out by machine.js. */

(function () {
"use strict";
const play = globalThis.pymemPlay = globalThis.pymemPlay || {};
const MOST_CALLS = 25000, MOST_STEPS = 400000, MOST_SLOTS = 20000;

class ProgramError extends Error {
    constructor(line, message) {
        super(`line ${line}: ${message}`);
        this.line = line;
    }
}

/* Words of a line. */
const WORD = /\s*(?:(0x[0-9a-fA-F]+|\d+)|([A-Za-z_]\w*)|(\/\/|==|!=|<=|>=|[-+*%()[\]:,=<>]))/y;

function words_of(text, line) {
    const words = [];
    WORD.lastIndex = 0;
    while (WORD.lastIndex < text.length) {
        const at = WORD.lastIndex, found = WORD.exec(text);
        if (found === null) {
            throw new ProgramError(line, `"${text.slice(at).trim()}" is not understood`);
        }
        words.push(found[1] !== undefined ? {number: Number(found[1])}
            : found[2] !== undefined ? {name: found[2]} : {sign: found[3]});
    }
    return words;
}

/* Lines with their depth. */
function lines_of(source) {
    const lines = [];
    source.split("\n").forEach((text, i) => {
        const code = text.replace(/#.*/, "").replace(/\t/g, "    ").trimEnd();
        if (code.trim() !== "") {
            lines.push({number: i + 1, depth: code.length - code.trimStart().length,
                        words: words_of(code.trim(), i + 1)});
        }
    });
    return lines;
}

/* From words to a tree. */
class Parser {
    constructor(line) {
        this.line = line.number;
        this.words = line.words;
        this.at = 0;
    }
    fail(message) {
        throw new ProgramError(this.line, message);
    }
    peek(text) {
        const word = this.words[this.at];
        return word !== undefined && (word.sign === text || word.name === text);
    }
    take(text) {
        const is_there = this.peek(text);
        this.at += is_there;
        return is_there;
    }
    need(text) {
        if (!this.take(text)) {
            const word = this.words[this.at];
            this.fail(`"${text}" is missing ` + (word === undefined ? "at the end"
                : `before "${word.sign || word.name || word.number}"`));
        }
    }
    name() {
        const word = this.words[this.at++];
        return word !== undefined && word.name !== undefined ? word.name
            : this.fail("a name is missing");
    }
    list(end) {
        const items = [];
        while (!this.take(end)) {
            items.push(this.comparison());
            if (!this.peek(end)) {
                this.need(",");
            }
        }
        return items;
    }
    levels(signs, below) {
        let left = below.call(this);
        for (let sign; (sign = signs.find(s => this.take(s))) !== undefined;) {
            left = {kind: "sum", sign, left, right: below.call(this)};
        }
        return left;
    }
    comparison() {
        return this.levels(["==", "!=", "<=", ">=", "<", ">"], this.sum);
    }
    sum() {
        return this.levels(["+", "-"], this.product);
    }
    product() {
        return this.levels(["*", "//", "%"], this.unary);
    }
    unary() {
        return this.take("-")
            ? {kind: "sum", sign: "-", left: {kind: "number", value: 0}, right: this.unary()}
            : this.subscripts();
    }
    subscripts() {
        let value = this.atom();
        while (this.take("[")) {
            value = this.subscript(value);
        }
        return value;
    }
    subscript(of) {
        const parts = [null];
        while (!this.take("]")) {
            if (this.take(":")) {
                parts.push(null);
            }
            else {
                parts[parts.length - 1] = this.comparison();
            }
            if (this.at >= this.words.length) {
                this.need("]");
            }
        }
        return parts.length > 1 ? {kind: "slice", of, parts} : {kind: "item", of, index: parts[0]};
    }
    atom() {
        const word = this.words[this.at++];
        if (word === undefined) {
            this.fail("a value is missing at the end");
        }
        if (word.number !== undefined) {
            return {kind: "number", value: word.number};
        }
        if (word.name !== undefined) {
            return this.take("(") ? {kind: "call", name: word.name, args: this.list(")")}
                : {kind: "name", name: word.name};
        }
        if (word.sign === "(") {
            const value = this.comparison();
            this.need(")");
            return value;
        }
        return word.sign === "[" ? this.brackets() : this.fail(`"${word.sign}" is not expected`);
    }
    brackets() {
        if (this.take("]")) {
            return {kind: "list", items: []};
        }
        const value = this.comparison();
        if (this.take("for")) {
            const name = this.name();
            this.need("in");
            const over = this.comparison();
            this.need("]");
            return {kind: "each", value, name, over};
        }
        if (!this.peek("]")) {
            this.need(",");
        }
        return {kind: "list", items: [value, ...this.list("]")]};
    }
    end() {
        if (this.at < this.words.length) {
            const word = this.words[this.at];
            this.fail(`"${word.sign || word.name || word.number}" is not expected`);
        }
    }
    simple() {
        const target = this.comparison();
        const value = this.take("=") ? this.comparison() : null;
        this.end();
        if (value !== null && !["name", "item"].includes(target.kind)) {
            this.fail('only a name or an item like a[3] stands before "="');
        }
        return value === null ? {kind: "do", value: target, line: this.line}
            : {kind: "assign", target, value, line: this.line};
    }
}

/* A line with what belongs to it: the lines below that are deeper, or what follows ":". */
function body_of(parser, lines, depth) {
    parser.need(":");
    if (parser.at < parser.words.length) {
        return [parser.simple()];
    }
    if (lines.length === 0 || lines[0].depth <= depth) {
        parser.fail('lines that are indented must follow ":"');
    }
    return block_of(lines, lines[0].depth);
}

function statement_of(lines, depth) {
    const line = lines.shift(), parser = new Parser(line);
    if (parser.take("for")) {
        const name = parser.name();
        parser.need("in");
        const over = parser.comparison();
        return {kind: "for", name, over, line: line.number,
                body: body_of(parser, lines, depth)};
    }
    if (parser.take("if")) {
        const condition = parser.comparison();
        const statement = {kind: "if", condition, line: line.number, otherwise: [],
                           body: body_of(parser, lines, depth)};
        if (lines.length > 0 && lines[0].depth === depth && lines[0].words[0].name === "else") {
            const other = new Parser(lines.shift());
            other.need("else");
            statement.otherwise = body_of(other, lines, depth);
        }
        return statement;
    }
    return parser.simple();
}

function block_of(lines, depth) {
    const statements = [];
    while (lines.length > 0 && lines[0].depth >= depth) {
        if (lines[0].depth > depth) {
            throw new ProgramError(lines[0].number, "this line is indented too far");
        }
        statements.push(statement_of(lines, depth));
    }
    return statements;
}

/* Carrying it out: each call is written down, and a block is the number of its slot. */
const SUMS = {
    "+": (a, b) => a + b, "-": (a, b) => a - b, "*": (a, b) => a * b,
    "//": (a, b) => Math.floor(a / b), "%": (a, b) => ((a % b) + b) % b,
    "==": (a, b) => +(a === b), "!=": (a, b) => +(a !== b), "<": (a, b) => +(a < b),
    ">": (a, b) => +(a > b), "<=": (a, b) => +(a <= b), ">=": (a, b) => +(a >= b),
};
/* How many arguments a function takes. */
const ARGUMENTS = {malloc: [1], calloc: [1, 2], realloc: [2], free: [1], write: [2, 3],
                   random: [2], range: [1, 2, 3], len: [1], seed: [1], trace: [1]};
const FUNCTIONS = Object.keys(ARGUMENTS);

class Run {
    constructor(traces) {
        this.calls = [];
        this.values = new Map();
        this.nslots = 0;
        this.nsteps = 0;
        this.state = 1;
        this.traces = traces || {};
    }
    fail(message) {
        throw new ProgramError(this.line, message);
    }
    add(call) {
        if (this.calls.length >= MOST_CALLS) {
            this.fail(`a program makes ${MOST_CALLS.toLocaleString("en")} calls at most`);
        }
        this.calls.push({...call, line: this.line});
    }
    slot() {
        if (this.nslots >= MOST_SLOTS) {
            this.fail(`a program has ${MOST_SLOTS.toLocaleString("en")} blocks at most`);
        }
        return {slot: this.nslots++};
    }
    number(value, least, most, what) {
        if (typeof value !== "number" || !(value >= least && value <= most)) {
            this.fail(`${what} is a number from ${least} to ${most.toLocaleString("en")}`);
        }
        return value;
    }
    block(value, name) {
        return value instanceof Object && value.slot !== undefined ? value.slot
            : this.fail(`${name}() takes a block, as p = malloc(37) gives one`);
    }
    size(value) {
        return this.number(value, 0, 4000000, "a size");
    }
    /* xorshift: the same numbers in every run. */
    random(low, high) {
        this.state ^= this.state << 13;
        this.state ^= this.state >>> 17;
        this.state ^= this.state << 5;
        return low + (this.state >>> 0) % (high - low + 1);
    }
    text(node) {
        return node.kind === "name" ? node.name : node.kind !== "item" ? "p"
            : `${this.text(node.of)}[${this.value(node.index)}]`;
    }
    call(node) {
        const {name, args} = node;
        if (!FUNCTIONS.includes(name)) {
            this.fail(`there is no function ${name}(); there are ${FUNCTIONS.join(", ")}`);
        }
        if (name === "trace") {
            return this.trace(args);
        }
        const block_name = args.length > 0 && ["realloc", "free", "write"].includes(name)
            ? this.text(args[0]) : "";
        const values = args.map(arg => this.value(arg));
        const wanted = ARGUMENTS[name];
        if (!wanted.includes(values.length)) {
            this.fail(`${name}() takes ${wanted.join(" or ")} argument`
                      + (wanted[wanted.length - 1] > 1 ? "s" : ""));
        }
        return this["do_" + name](values, block_name);
    }
    do_malloc([size]) {
        const block = this.slot();
        this.add({what: "m", slot: block.slot, size: this.size(size), value: 0});
        return block;
    }
    do_calloc([count, size = 1]) {
        const block = this.slot();
        this.add({what: "c", slot: block.slot, size: this.size(count * size), value: 0});
        return block;
    }
    do_realloc([block, size], name) {
        const slot = this.block(block, "realloc");
        this.add({what: "r", slot, size: this.size(size), value: 0, name});
        return block;
    }
    do_free([block], name) {
        this.add({what: "f", slot: this.block(block, "free"), size: 0, value: 0, name});
        return null;
    }
    do_write([block, offset, byte = 0x41], name) {
        this.add({what: "w", slot: this.block(block, "write"), name,
                  size: this.number(offset, -64, 4000000, "an offset"),
                  value: this.number(byte, 0, 255, "a byte")});
        return null;
    }
    do_random([low, high]) {
        return this.random(this.number(low, 0, 4000000, "random()'s first one"),
                           this.number(high, low, 4000000, "random()'s second one"));
    }
    do_seed([value]) {
        this.state = this.number(value, 1, 0x7fffffff, "a seed");
        return null;
    }
    do_len([list]) {
        return Array.isArray(list) ? list.length : this.fail("len() takes a list");
    }
    do_range(values) {
        const [start, stop, step] = values.length === 1 ? [0, values[0], 1]
            : [values[0], values[1], values[2] === undefined ? 1 : values[2]];
        if (![start, stop, step].every(Number.isFinite) || step === 0) {
            this.fail("range() takes numbers, and a step that is not 0");
        }
        const numbers = [];
        for (let i = start; step > 0 ? i < stop : i > stop; i += step) {
            this.step();
            numbers.push(i);
        }
        return numbers;
    }
    /* trace(NAME): calls of a Python program, that record.so wrote down. */
    trace(args) {
        const name = args.length === 1 && args[0].kind === "name" ? args[0].name : "";
        const calls = this.traces[name];
        if (calls === undefined) {
            const names = Object.keys(this.traces);
            this.fail(names.length === 0 ? "this page has no trace"
                : `there is no trace ${name}; there is ${names.join(", ")}`);
        }
        const slots = new Map();
        for (let i = 0; i < calls.length;) {
            const what = "mfrc"[calls[i] % 4], number = Math.floor(calls[i] / 4);
            if (what === "m" || what === "c") {
                slots.set(number, this.slot().slot);
            }
            this.add({what, slot: slots.get(number), value: 0, name: `t${number}`,
                      size: what === "f" ? 0 : calls[i + 1]});
            i += what === "f" ? 1 : 2;
        }
        return null;
    }
    step() {
        if (++this.nsteps > MOST_STEPS) {
            this.fail("the program goes on for too long");
        }
    }
    items(value) {
        return Array.isArray(value) ? [...value] : this.fail("a list or range(...) is missing");
    }
    slice(node) {
        const list = this.items(this.value(node.of));
        const [start, stop, step = 1] = node.parts.map(
            part => part === null ? undefined : this.value(part));
        if (!(step > 0)) {
            this.fail("the step of a slice is 1 or more");
        }
        return list.slice(start, stop).filter((_, i) => i % step === 0);
    }
    item(node) {
        const list = this.value(node.of), index = this.value(node.index);
        const at = Array.isArray(list) && index < 0 ? list.length + index : index;
        return Array.isArray(list) && list[at] !== undefined ? list[at]
            : this.fail(`there is no item ${this.text(node)}`);
    }
    value(node) {
        this.step();
        switch (node.kind) {
        case "number":
            return node.value;
        case "name":
            return this.values.has(node.name) ? this.values.get(node.name)
                : this.fail(`${node.name} is not known yet`);
        case "sum": {
            const left = this.value(node.left), right = this.value(node.right);
            if (typeof left !== "number" || typeof right !== "number") {
                this.fail(`"${node.sign}" stands between numbers`);
            }
            return SUMS[node.sign](left, right);
        }
        case "list":
            return node.items.map(item => this.value(item));
        case "each":
            return this.items(this.value(node.over)).map(item => {
                this.values.set(node.name, item);
                return this.value(node.value);
            });
        default:
            return this[node.kind](node);
        }
    }
    assign({target, value}) {
        const result = this.value(value);
        if (target.kind === "name") {
            this.values.set(target.name, result);
        }
        else {
            if (target.of.kind === "name" && !this.values.has(target.of.name)) {
                this.values.set(target.of.name, []);
            }
            const list = this.value(target.of);
            if (!Array.isArray(list)) {
                this.fail(`${this.text(target.of)} is no list`);
            }
            list[this.number(this.value(target.index), 0, 1e6, "an index")] = result;
        }
        const last = this.calls[this.calls.length - 1];
        if (last !== undefined && last.line === this.line && last.name === undefined) {
            last.name = this.text(target);
        }
    }
    statements(list) {
        for (const statement of list) {
            this.step();
            this.line = statement.line;
            if (statement.kind === "assign") {
                this.assign(statement);
            }
            else if (statement.kind === "do") {
                this.value(statement.value);
            }
            else if (statement.kind === "if") {
                this.statements(this.value(statement.condition) ? statement.body
                    : statement.otherwise);
            }
            else {
                for (const item of this.items(this.value(statement.over))) {
                    this.values.set(statement.name, item);
                    this.statements(statement.body);
                    this.line = statement.line;
                }
            }
        }
    }
}

/* The calls of a program: {what, slot, size, value, line, name} each; throws ProgramError. */
play.calls_of = function (source, traces) {
    const lines = lines_of(source), run = new Run(traces);
    run.statements(block_of(lines, lines.length > 0 ? lines[0].depth : 0));
    return run.calls;
};

/* A call as a line of the language. */
play.call_text = function (call) {
    const name = call.name || `block ${call.slot}`;
    return {m: `${name} = malloc(${call.size})`, c: `${name} = calloc(${call.size})`,
            r: `${name} = realloc(${name}, ${call.size})`, f: `free(${name})`,
            w: `write(${name}, ${call.size}, 0x${call.value.toString(16).padStart(2, "0")})`,
           }[call.what];
};
play.ProgramError = ProgramError;
}());
