"""The C functions at addresses of this process: by the symbols of the files they are in, with
their lines where there is debug information, in the file or beside it.

Lines are addr2line's (binutils), which is asked once for all addresses in a file.  Owns what is
known of addresses.
"""

import re
import shutil
import subprocess
from typing import NamedTuple

import _pymem

from pymem.elf import mappings, symbols

# The interpreter's loop, and how a Python function is called and another begins.
LOOP = "_PyEval_EvalFrameDefault", "_TAIL_CALL_"
CALLS = ("_PyEval_", "PyEval_", "_TAIL_CALL_", "_PyFunction_Vectorcall",
         "function_code_fastcall")
# How the tracer is told, and hooks over it; what PyMem_Malloc() and its kind call, where the
# compiler leaves that frame.
OWN = ("_PyTraceMalloc_", "PyTraceMalloc_", "_Py_NewReference", "new_reference", "hook_",
       "counted_request", "domain_malloc", "domain_calloc", "domain_realloc",
       "mem_malloc_otherwise", "object_malloc_otherwise")
LINE = re.compile(r"(.+):(\d+)")


def cold_loop():
    """(start, end) of what the compiler has split off from the interpreter's loop; (0, 0)
    where there is nothing, or no symbol of it."""
    for mapping in mappings():
        found = "/python" in mapping.path or "/libpython" in mapping.path
        of_file = symbols(mapping.path) if found and not mapping.offset else None
        for start, size, name in of_file.functions if of_file else ():
            if name.startswith("_PyEval_EvalFrameDefault.cold"):
                start += mapping.start - of_file.load_address
                return start, start + size
    return 0, 0


class Function(NamedTuple):
    name: str
    file: str           # of the source, where the line is known; else what holds it
    line: int           # 0: not known


known = {}              # {address: [Function], with those that are inlined, the innermost last}


def find(addresses):
    """Get to know all of these: each file is asked once."""
    of_files = {}
    for address in set(addresses) - known.keys():
        place = _pymem.symbol(address)
        if place is None:
            known[address] = [Function(hex(address), "", 0)]
        else:
            of_files.setdefault(place[0], []).append((address, *place[1:]))
    for file, places in of_files.items():
        found = symbols(file)
        in_file = [offset + (found.load_address if found else 0) for _, offset, _ in places]
        lines = source_lines(file, in_file) if found and found.debug_file() else {}
        for (address, offset, exported), at in zip(places, in_file):
            name = found and found.function_at(at) or exported \
                or f"{file.rsplit('/', 1)[-1]}+{offset:#x}"
            outer, *inlined = lines.get(at) or [Function(name, file, 0)]
            known[address] = [outer._replace(name=name), *inlined]


def function_at(address):
    find([address])
    return known[address][-1]


def source_lines(file, addresses):
    """{address in a file: [Function]}"""
    tool = shutil.which("addr2line")
    if tool is None:
        return {}
    result = subprocess.run([tool, "-a", "-f", "-i", "-e", file], stdout=subprocess.PIPE,
                            input="".join(f"{address:#x}\n" for address in addresses),
                            stderr=subprocess.DEVNULL, text=True, errors="replace")
    found, name = {}, None
    for text in result.stdout.splitlines():
        line = LINE.match(text)
        if name is None and text.startswith("0x"):
            inner_first = found[int(text, 16)] = []
        elif name is None:
            name = text
        else:
            if line and int(line[2]):
                inner_first.append(Function(name, line[1], int(line[2])))
            name = None
    return {address: functions[::-1] for address, functions in found.items()}


def functions(addresses):
    """Of C, from the outermost on, at addresses that follow each other; without the loop, and
    without what is below the last call of it: Python frames come first there."""
    find(addresses)
    found = [function for address in addresses for function in known[address]]
    begin = max((i + 1 for i, function in enumerate(found)
                 if function.name.startswith(LOOP)), default=0)
    return [function for function in found[begin:]
            if not function.name.startswith(CALLS + OWN) and "/_pymem." not in function.file]
