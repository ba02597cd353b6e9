"""Tools around CPython's memory subsystem; each module says what it is for.

    pymem.trim()                    give unused memory back now
"""


def trim():
    """Give back to the system all memory that no block is in: empty arenas, free pools,
    pages between blocks.  Returns the number of bytes.  HeapError where pymem does not
    serve this process."""
    from pymem.heap import from_module
    return from_module("trim")
