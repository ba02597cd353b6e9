/* A parser whose nodes lie in an arena: they are made one by one, and go all at once.
 *
 *   list = '(' item* ')'    item = name | list    name = [a-z]+ */

#include "examples.h"
#include "pymemfaults.h"

#include <stddef.h>

/* The arena: chunks, each twice as large as the one before. */

typedef struct chunk {
    struct chunk *previous;
    size_t used, size;
    max_align_t memory[];
} Chunk;

typedef struct {
    Chunk *last;
} Arena;

static void *
arena_malloc(Arena *arena, size_t size)
{
    const size_t align = sizeof(max_align_t);
    size = (size + align - 1) / align * align;
    Chunk *chunk = arena->last;
    if (chunk == NULL || chunk->size - chunk->used < size) {
        size_t chunk_size = chunk != NULL ? 2 * chunk->size : 256;
        if (chunk_size < size) {
            chunk_size = size;
        }
        chunk = PyMem_Malloc(sizeof(Chunk) + chunk_size);
        if (chunk == NULL) {
            return PyErr_NoMemory();
        }
        chunk->previous = arena->last;
        chunk->used = 0;
        chunk->size = chunk_size;
        arena->last = chunk;
    }
    void *ptr = (char *)chunk->memory + chunk->used;
    chunk->used += size;
    return ptr;
}

static void
arena_free(Arena *arena)
{
    while (arena->last != NULL) {
        Chunk *previous = arena->last->previous;
        PyMem_Free(arena->last);
        arena->last = previous;
    }
}

/* The parser. */

typedef struct node {
    const char *name;           /* in the text; NULL: a list */
    size_t length;
    struct node *first, *next;
} Node;

static Node *parse_item(Arena *arena, const char *text, const char **p);

static int
is_letter(char c)
{
    return c >= 'a' && c <= 'z';
}

static void
skip_space(const char **p)
{
    while (**p == ' ') {
        (*p)++;
    }
}

static Node *
parse_list(Arena *arena, const char *text, const char **p)
{
    Node *list = arena_malloc(arena, sizeof(Node));
    if (list == NULL) {
        return NULL;
    }
    *list = (Node){NULL, 0, NULL, NULL};
    Node **end = &list->first;
    (*p)++;
    for (skip_space(p); **p != ')'; skip_space(p)) {
        *end = parse_item(arena, text, p);
        if (*end == NULL) {
            return NULL;
        }
        end = &(*end)->next;
    }
    (*p)++;
    return list;
}

static Node *
parse_item(Arena *arena, const char *text, const char **p)
{
    if (**p == '(') {
        return parse_list(arena, text, p);
    }
    const char *name = *p;
    while (is_letter(**p)) {
        (*p)++;
    }
    if (*p == name) {
        if (**p == '\0') {
            PyErr_Format(PyExc_ValueError, "a ')' is missing at the end");
        }
        else {
            PyErr_Format(PyExc_ValueError, "column %d: '%c' can't be here",
                         (int)(*p - text), **p);
        }
        return NULL;
    }
    Node *node = arena_malloc(arena, sizeof(Node));
    if (node != NULL) {
        *node = (Node){name, (size_t)(*p - name), NULL, NULL};
    }
    return node;
}

static Node *
parse(Arena *arena, const char *text)
{
    const char *p = text;
    return parse_item(arena, text, &p);
}

static int
count_names(const Node *node)
{
    if (node == NULL) {
        return 0;
    }
    return (node->name != NULL) + count_names(node->first) + count_names(node->next);
}

const char *
test_parser(void)
{
    Arena arena = {NULL};
    Node *tree = parse(&arena, "(add (mul a b) (mul c (add d e)))");
    CHECK(tree != NULL && count_names(tree) == 9);
    CHECK(tree->first->length == 3 && strncmp(tree->first->name, "add", 3) == 0);
    arena_free(&arena);

    CHECK(parse(&arena, "(a (b) 7)") == NULL);
    CHECK(PyErr_ExceptionMatches(PyExc_ValueError));
    PyErr_Clear();
    arena_free(&arena);
    CHECK(parse(&arena, "(a (b)") == NULL && PyErr_Occurred() == PyExc_ValueError);
    PyErr_Clear();
    arena_free(&arena);

    /* The first request fails, the second, ...: an error, and nothing is left. */
    static char text[5000];
    for (size_t i = 0; i + 2 < sizeof(text); i += 2) {
        memcpy(text + i, i == 0 ? "( " : "a ", 2);
    }
    text[sizeof(text) - 2] = ')';
    PyMemFaultsCounts counts;
    size_t k = 0;
    do {
        PyMemFaults faults = {.fail_from = ++k, .fail_count = 1};
        CHECK(PyMemFaults_Start(PYMEM_DOMAIN_MEM, &faults) == 0);
        tree = parse(&arena, text);
        CHECK((tree == NULL) == (PyErr_Occurred() == PyExc_MemoryError));
        PyErr_Clear();
        CHECK(tree == NULL || count_names(tree) == 2498);
        arena_free(&arena);
        CHECK(PyMemFaults_Count(PYMEM_DOMAIN_MEM, &counts) == 0);
        CHECK(PyMemFaults_Stop(PYMEM_DOMAIN_MEM) == 0);
        CHECK(counts.blocks == 0);
    } while (counts.failed > 0);
    CHECK(k > 5 && tree != NULL);
    return NULL;
}
