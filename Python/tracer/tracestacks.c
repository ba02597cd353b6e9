/* Call stacks: taken from a frame source, each kept once.
 *
 *   place (an instruction)  --sites-->  frame (file, line, function)
 *   frames, oldest first:   node = (node of the caller, frame)
 *   stack = (node of the most recent frame, number of frames, total)
 *
 * Stacks with the same beginning share their nodes.  It is cheap: a place is asked for its line
 * once, and a stack usually differs from the one before only in its last frames, so that the
 * nodes of the others are at hand.
 *
 * Everything here is called with the tracer's lock held. */

#include "pycore_traceblocks.h"
#include "pycore_tracetables.h"

#include <string.h>

struct node {
    uint32_t caller;            /* node of the frame that called; 0: none kept */
    uint32_t frame;
};
struct stack {
    uint32_t node;
    uint16_t length;
    uint16_t total;
};

static struct intern_table frames = {.item_size = sizeof(struct trace_frame)};
static struct intern_table addresses = {.item_size = sizeof(void *)};
static struct intern_table nodes = {.item_size = sizeof(struct node)};
static struct intern_table stacks = {.item_size = sizeof(struct stack)};
static struct pointer_map sites;        /* instruction: number of a frame, and
                                           the next site of the same code */
static struct pointer_map codes;        /* block that holds code: its first site */

/* Names of files and functions, found by their hash. */
struct known_name {
    struct trace_name name;
    uint32_t hash;
};
static struct {
    struct known_name *known;   /* by number - 1 */
    uint32_t *index;            /* open addressing: numbers, 0 is free */
    uint32_t count, capacity;   /* the index has twice as many entries */
} names;

/* The last stack that was captured, and the node of each frame.  Places of a
 * stack of one frame have a separate cache: programs go back and forth between a
 * few. */
static struct {
    unsigned length, total, capacity;
    struct trace_place *places;         /* the most recent first */
    uint32_t *nodes;                    /* of the same frames */
    stack_id stack;
    struct trace_place *next_places;    /* room for the next capture */
    uint32_t *next_nodes;
} last;

#define RECENT_STACKS 1024u
static struct {
    const void *instruction;
    unsigned total;
    stack_id stack;
} recent[RECENT_STACKS];

/* Names. */

static size_t
name_size(const struct trace_name *name)
{
    return name->length * name->kind;
}

static int
is_name(const struct known_name *known, const struct trace_name *name, uint32_t hash)
{
    return known->hash == hash && known->name.length == name->length
        && known->name.kind == name->kind
        && memcmp(known->name.characters, name->characters, name_size(name)) == 0;
}

/* Where the number of a name is in the index, or belongs. */
static uint32_t *
name_entry(const struct trace_name *name, uint32_t hash)
{
    uint32_t mask = 2 * names.capacity - 1;
    uint32_t i = hash & mask;
    while (names.index[i] != 0
           && !is_name(&names.known[names.index[i] - 1], name, hash))
    {
        i = (i + 1) & mask;
    }
    return &names.index[i];
}

static int
names_grow(void)
{
    uint32_t old = names.capacity, capacity = old != 0 ? 2 * old : 64;
    size_t index_size = 2 * (size_t)capacity * sizeof(uint32_t);
    uint32_t *index = tracer_alloc(index_size);
    struct known_name *known = index == NULL ? NULL : tracer_resize(
        names.known, old * sizeof(*known), capacity * sizeof(*known));
    if (known == NULL) {
        tracer_free(index, index_size);
        return -1;
    }
    tracer_free(names.index, 2 * (size_t)old * sizeof(uint32_t));
    memset(index, 0, index_size);
    names.known = known;
    names.index = index;
    names.capacity = capacity;
    for (uint32_t i = 0; i < names.count; i++) {
        *name_entry(&known[i].name, known[i].hash) = i + 1;
    }
    return 0;
}

/* The number of a name from 1 on; 0: no memory. */
static uint32_t
name_number(const struct trace_name *name)
{
    size_t size = name_size(name);
    uint32_t hash = hash_bytes(name->characters, size);
    if (names.count == names.capacity && names_grow() < 0) {
        return 0;
    }
    uint32_t *entry = name_entry(name, hash);
    if (*entry == 0) {
        void *copy = tracer_alloc(size + 1);
        if (copy == NULL) {
            return 0;
        }
        memcpy(copy, name->characters, size);
        struct known_name *known = &names.known[names.count];
        known->hash = hash;
        known->name = *name;
        known->name.characters = copy;
        *entry = ++names.count;
    }
    return *entry;
}

struct trace_name
stack_name(uint32_t number)
{
    return names.known[number - 1].name;
}

size_t
stacks_name_count(void)
{
    return names.count;
}

static void
names_clear(void)
{
    for (uint32_t i = 0; i < names.count; i++) {
        const struct trace_name *name = &names.known[i].name;
        tracer_free((void *)name->characters, name_size(name) + 1);
    }
    tracer_free(names.known, names.capacity * sizeof(struct known_name));
    tracer_free(names.index, 2 * (size_t)names.capacity * sizeof(uint32_t));
    memset(&names, 0, sizeof(names));
}

/* Frames. */

/* function: NULL where there is no name of it. */
static uint32_t
frame_number(const struct trace_name *file, unsigned line,
             const struct trace_name *function)
{
    struct trace_frame frame = {name_number(file), line, 0};
    if (function != NULL) {
        frame.function = name_number(function);
    }
    int is_complete = frame.file != 0 && (function == NULL || frame.function != 0);
    return is_complete ? intern(&frames, &frame) : 0;
}

static uint32_t
address_frame_number(const void *address)
{
    struct trace_frame frame = {0, intern(&addresses, &address), 0};
    return frame.line != 0 ? intern(&frames, &frame) : 0;
}

const void *
stack_address(uint32_t number)
{
    return *(const void **)interned(&addresses, number);
}

/* A place's code must not be freed unnoticed: see stack_forget_code(). */
static int
remember_site(const struct trace_place *place, uint32_t frame)
{
    uintptr_t instruction = (uintptr_t)place->instruction;
    if (map_reserve(&sites) < 0) {
        return -1;
    }
    if (place->code == NULL) {
        map_add(&sites, instruction, 0)->value = frame;
        return 0;
    }
    const void *block = block_holding(place->code);
    if (map_reserve(&codes) < 0) {
        return -1;
    }
    int is_known = map_find(&codes, (uintptr_t)block, 0) != NULL;
    if (block_watch(block, is_known) < 0) {
        return -1;
    }
    struct map_entry *code = map_add(&codes, (uintptr_t)block, 0);
    code->value = 1;
    struct map_entry *site = map_add(&sites, instruction, 0);
    site->value = frame;
    site->size = code->size;
    code->size = instruction;
    return 0;
}

/* The frame of a place; 0: no memory. */
static uint32_t
frame_at(const struct trace_source *source, const struct trace_place *place)
{
    if (source->describe == NULL || place->code == NATIVE_CODE) {
        return address_frame_number(place->instruction);
    }
    struct map_entry *site = map_find(&sites, (uintptr_t)place->instruction, 0);
    if (site != NULL) {
        return site->value;
    }
    struct trace_name file, function;
    unsigned line;
    source->describe(place, &file, &line);
    if (source->name_function != NULL) {
        source->name_function(place, &function);
    }
    uint32_t frame = frame_number(&file, line,
                                  source->name_function != NULL ? &function : NULL);
    return frame != 0 && remember_site(place, frame) == 0 ? frame : 0;
}

static void
forget_last_stacks(void)
{
    last.length = 0;
    memset(recent, 0, sizeof(recent));
}

/* A block of code is freed: its places are to mean nothing any more, as other
 * code may soon be there. */
int
stack_forget_code(const void *block)
{
    struct map_entry *code = map_find(&codes, (uintptr_t)block, 0);
    if (code == NULL) {
        return 0;
    }
    for (uintptr_t instruction = code->size; instruction != 0; ) {
        struct map_entry *site = map_find(&sites, instruction, 0);
        instruction = site->size;
        map_remove(&sites, site);
    }
    map_remove(&codes, code);
    forget_last_stacks();
    return 1;
}

void
stacks_forget_places(void)
{
    map_clear(&sites);
    map_clear(&codes);
    forget_last_stacks();
}

/* Stacks. */

static stack_id
stack_number(uint32_t node, unsigned length, unsigned total)
{
    static const struct stack hidden;
    if (stacks.count == 0 && intern(&stacks, &hidden) == 0) {
        return 0;               /* it has the number HIDDEN_STACK */
    }
    struct stack stack = {node, (uint16_t)length, (uint16_t)total};
    return node != 0 ? intern(&stacks, &stack) : 0;
}

static int
last_has_room(unsigned max_frames)
{
    if (max_frames <= last.capacity) {
        return 1;
    }
    size_t old = last.capacity, size = max_frames;
    struct trace_place *p[2];
    uint32_t *n[2];
    for (int i = 0; i < 2; i++) {
        p[i] = tracer_alloc(size * sizeof(*p[i]));
        n[i] = tracer_alloc(size * sizeof(*n[i]));
    }
    if (p[0] != NULL && p[1] != NULL && n[0] != NULL && n[1] != NULL) {
        tracer_free(last.places, old * sizeof(*p[0]));
        tracer_free(last.next_places, old * sizeof(*p[0]));
        tracer_free(last.nodes, old * sizeof(*n[0]));
        tracer_free(last.next_nodes, old * sizeof(*n[0]));
        last.places = p[0];
        last.next_places = p[1];
        last.nodes = n[0];
        last.next_nodes = n[1];
        last.length = 0;
        last.capacity = max_frames;
        return 1;
    }
    for (int i = 0; i < 2; i++) {
        tracer_free(p[i], size * sizeof(*p[i]));
        tracer_free(n[i], size * sizeof(*n[i]));
    }
    return 0;
}

/* A thread that has no frames, or none that can be known. */
static stack_id
unknown_stack(void)
{
    struct trace_name name = {"<unknown>", 9, 1};
    struct node node = {0, frame_number(&name, 0, NULL)};
    return stack_number(node.frame != 0 ? intern(&nodes, &node) : 0, 1, 1);
}

/* The nodes of next_places; those of the oldest frames are the last stack's as
 * far as the frames are. */
static uint32_t
find_nodes(const struct trace_source *source, unsigned length)
{
    unsigned same = 0;
    uint32_t node = 0;
    while (same < length && same < last.length
           && last.next_places[length - 1 - same].instruction
              == last.places[last.length - 1 - same].instruction)
    {
        node = last.nodes[last.length - 1 - same];
        last.next_nodes[length - 1 - same] = node;
        same++;
    }
    for (unsigned i = length - same; i > 0; i--) {
        struct node next = {node, frame_at(source, &last.next_places[i - 1])};
        node = next.frame != 0 ? intern(&nodes, &next) : 0;
        if (node == 0) {
            return 0;
        }
        last.next_nodes[i - 1] = node;
    }
    return node;
}

static stack_id
capture_frames(const struct trace_source *source, unsigned max_frames,
               int has_gil)
{
    unsigned total;
    unsigned length = source->capture(last.next_places, max_frames, &total,
                                      has_gil);
    if (length == 0) {
        return unknown_stack();
    }
    if (total > MAX_TRACE_FRAMES) {
        total = MAX_TRACE_FRAMES;
    }
    uint32_t node = find_nodes(source, length);
    stack_id stack = stack_number(node, length, total);
    if (stack != 0) {
        struct trace_place *places = last.places;
        uint32_t *old_nodes = last.nodes;
        last.places = last.next_places;
        last.nodes = last.next_nodes;
        last.next_places = places;
        last.next_nodes = old_nodes;
        last.length = length;
    }
    return stack;
}

static stack_id
capture_frame(const struct trace_source *source, int has_gil)
{
    struct trace_place place;
    unsigned total;
    if (source->capture(&place, 1, &total, has_gil) == 0) {
        return unknown_stack();
    }
    if (total > MAX_TRACE_FRAMES) {
        total = MAX_TRACE_FRAMES;
    }
    size_t i = (hash_mix((uintptr_t)place.instruction + total) >> 20)
        % RECENT_STACKS;
    if (recent[i].instruction == place.instruction && recent[i].total == total)
    {
        return recent[i].stack;
    }
    struct node node = {0, frame_at(source, &place)};
    stack_id stack =
        stack_number(node.frame != 0 ? intern(&nodes, &node) : 0, 1, total);
    if (stack != 0) {
        recent[i].instruction = place.instruction;
        recent[i].total = total;
        recent[i].stack = stack;
    }
    return stack;
}

stack_id
stack_capture(const struct trace_source *source, unsigned max_frames,
              int has_gil)
{
    if (max_frames == 1) {
        return capture_frame(source, has_gil);
    }
    return last_has_room(max_frames)
        ? capture_frames(source, max_frames, has_gil) : 0;
}

uint32_t
stacks_count(void)
{
    return stacks.count + 1;
}

unsigned
stack_length(stack_id id, unsigned *total)
{
    const struct stack *stack = interned(&stacks, id);
    *total = stack->total;
    return stack->length;
}

void
stack_frames(stack_id id, struct trace_frame *out, unsigned max_frames)
{
    const struct stack *stack = interned(&stacks, id);
    uint32_t number = stack->node;
    for (unsigned i = 0; i < stack->length && i < max_frames; i++) {
        const struct node *node = interned(&nodes, number);
        out[i] = *(struct trace_frame *)interned(&frames, node->frame);
        number = node->caller;
    }
}

void
stacks_clear(void)
{
    intern_clear(&frames);
    intern_clear(&addresses);
    intern_clear(&nodes);
    intern_clear(&stacks);
    stacks_forget_places();
    names_clear();
    size_t n = last.capacity;
    tracer_free(last.places, n * sizeof(*last.places));
    tracer_free(last.next_places, n * sizeof(*last.places));
    tracer_free(last.nodes, n * sizeof(*last.nodes));
    tracer_free(last.next_nodes, n * sizeof(*last.nodes));
    memset(&last, 0, sizeof(last));
}
