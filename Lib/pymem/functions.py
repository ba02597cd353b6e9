"""Which functions have code on a line, by the code objects of the file's source.

For tracebacks that hold no names, as those of a tracemalloc.Snapshot.  The line of a def
belongs to the code around it, which makes the function; to the function itself only where its
body is on that line, too.
"""

import dis
import linecache
import warnings
from functools import lru_cache
from types import CodeType

# What comes before a function's own code has the line of its def.
BEGINNINGS = {"RESUME", "GEN_START"}


def begin_of(code):
    """The first offset of its own code."""
    instructions = dis.get_instructions(code)
    has_beginning = any(instruction.opname in BEGINNINGS for instruction in instructions)
    return next(instructions).offset if has_beginning else 0    # caches are before it


def lines_of(code):
    if not hasattr(code, "co_lines"):           # before 3.10
        return {line for _, line in dis.findlinestarts(code)}
    begin = begin_of(code) if code.co_name != "<module>" else 0
    return {line for _, end, line in code.co_lines() if line and end > begin}


def qualified(code, outer, outer_name):
    """As co_qualname of 3.11 and later."""
    if outer.co_name == "<module>":
        return code.co_name
    is_function = outer.co_flags & 1            # CO_OPTIMIZED: no class
    return f"{outer_name}.{'<locals>.' if is_function else ''}{code.co_name}"


@lru_cache(maxsize=None)
def functions_of(file):
    """{line: [name]}, outer functions before inner ones."""
    found = {}

    def visit(code, name):
        for line in lines_of(code):
            names = found.setdefault(line, [])
            names += [name] * (name not in names)
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                visit(constant, qualified(constant, code, name))
    source = "".join(linecache.getlines(file))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if source:
                visit(compile(source, file, "exec", dont_inherit=True), "<module>")
    except (SyntaxError, ValueError, RecursionError):
        return {}
    return found


def functions_at(file, line, caller=None):
    """Names, the outermost first; [""] where none is known.  caller: the file of the frame that
    called this one.  No code of a file calls the file's module."""
    names = functions_of(file).get(line) or [""]
    if caller == file and len(names) > 1:
        names = [name for name in names if name != "<module>"]
    return names
