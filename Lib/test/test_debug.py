"""Each misuse is provoked in a child; the text is CPython's."""

import pytest

from conftest import DOMAINS, LETTERS, MEM, OBJ, SSIZE_MAX, Child
from pymem.conformance.debug import WORD, overflow_text

SIZES = [0, 1, 16, 17, 5000]

# Misuses as code; domain and size are filled in.
MISUSES = {
    "overflow by 1": "api.write(p + size, b'x'); api.free(domain, p)",
    "overflow by 8": "api.write(p + size, b'ABCDEFGH'); api.free(domain, p)",
    "underflow by 1": "api.write(p - 1, b'x'); api.free(domain, p)",
    "underflow by all pads": f"api.write(p - {WORD - 1}, b'A' * {WORD - 1}); api.free(domain, p)",
    "underflow by a word": f"api.write(p - {WORD}, b'A' * {WORD}); api.free(domain, p)",
    "overflow, realloc": "api.write(p + size + 2, b'x'); "
                         "api.realloc(domain, p, 40)",
    "wrong domain": "api.free((domain + 1) % 3, p)",
    "wrong domain, realloc": "api.realloc((domain + 2) % 3, p, 40)",
}


# From the start: an interpreter has blocks that later hooks would not know.
HOOKS = {"PYTHONMALLOC": "debug"}


def code_for(misuse, domain, size):
    return (f"domain, size = {domain}, {size}\n"
            f"p = api.malloc(domain, size)\n{misuse}")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("misuse", list(MISUSES))
def test_text_is_cpythons(misuse, domain, size, oracle):
    code = code_for(MISUSES[misuse], domain, size)
    ours, cpython = (child.fatal(code, **HOOKS) for child in (Child("ours"), oracle))
    assert ours == cpython
    assert f"API '{LETTERS[domain]}'" in ours or misuse == "underflow by a word"


@pytest.mark.parametrize("domain", DOMAINS)
def test_long_overflow_text(domain, child):
    text = child.fatal(code_for(MISUSES["overflow by 1"], domain, 16), **HOOKS)
    assert text == overflow_text(domain) + (
        "Fatal Python error: _PyMem_DebugRawFree: bad trailing pad byte\n")


@pytest.mark.parametrize("domain", [MEM, OBJ])
def test_without_gil(domain, child):
    text = child.fatal(f"api.malloc_without_gil({domain})", **HOOKS)
    assert text == ("Fatal Python error: _PyMem_DebugMalloc: Python memory "
                    "allocator called without holding the GIL\n")


def test_raw_needs_no_gil(child):
    result = child.run("api.malloc_without_gil(0)", **HOOKS)
    assert result.returncode == 0, result.stderr


# Where ours goes on and CPython's crashes or says nothing: Doc/differences.rst.

@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("second", ["free(domain, p)", "realloc(domain, p, 40)"])
def test_dead_block_is_told(domain, size, second):
    text = Child("ours").fatal(code_for(
        f"api.free(domain, p); api.{second}", domain, size), **HOOKS)
    assert text.startswith("Debug memory block at address p=0x...: API '")
    assert ("The block looks freed already: its head is DEADBYTE (0xdd)."
            in text) or size > 1000     # malloc may have given its page back
    assert "Fatal Python error: _PyMem_DebugRaw" in text


@pytest.mark.parametrize("domain", DOMAINS)
def test_write_after_free_is_told(domain):
    text = Child("ours").fatal(code_for(
        "api.free(domain, p); api.write(p + 5, b'x')\n"
        "for i in range(200): api.free(domain, api.malloc(domain, 9))", domain, 20), **HOOKS)
    assert text == (
        f"Debug memory block at address p=0x...: API '{LETTERS[domain]}'\n"
        "    20 bytes originally requested\n"
        "    The block was freed, and then written to. "
        "Not all of it is DEADBYTE (0xdd):\n"
        "        at p+5: 0x78 *** OUCH\n\n"
        "Fatal Python error: _PyMem_DebugRawFree: "
        "block was written to after free\n")


# What the hooks write around a block, equal on both.

@pytest.mark.parametrize("domain", DOMAINS)
def test_layout(domain, child):
    child.keeps("debug.layout", domain, **HOOKS)
    child.keeps("debug.freed_bytes_are_dead", domain, **HOOKS)


@pytest.mark.parametrize("domain", DOMAINS)
def test_hooks_below_are_asked_for_three_words_more(domain):
    result = Child("ours").run(f"""
api.hook({domain})
api.setup_debug_hooks()
api.setup_debug_hooks()
api.take_calls()
p = api.realloc({domain}, api.malloc({domain}, 10), 20)
assert api.realloc({domain}, p, {SSIZE_MAX + 1 - 3 * WORD}) is None     # not asked at all
api.free({domain}, p)
print([(what, size) for _, what, _, size, _ in api.take_calls()])
""")
    assert result.stdout == str([("malloc", 10 + 3 * WORD), ("realloc", 20 + 3 * WORD),
                                 ("free", 0)]) + "\n"


@pytest.mark.parametrize("domain", DOMAINS)
def test_a_request_without_room_for_the_marks_is_not_asked_for(domain, child):
    child.keeps("debug.request_without_room_for_the_marks_fails", domain, **HOOKS)


@pytest.mark.parametrize("name", ["debug", "malloc_debug", "pymalloc_debug"])
def test_names_with_debug(name, child):
    result = child.run("print(api.current_name())", PYTHONMALLOC=name)
    expected = "pymalloc_debug" if name == "debug" else name
    assert result.stdout == expected + "\n"
