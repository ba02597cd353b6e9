"""The C functions on a stack, by the symbols of the files they are in."""

import struct
from functools import lru_cache

import _pymem

from pymem.elf import symbols
from pymem.explain import traced
from pymem.running import tracer

RECORD = struct.Struct(f"={2 + _pymem.NATIVE_FRAMES}Q")
# What calls Python code: frames further out are told by the Python stack.
EVALUATION = {"_PyEval_EvalFrameDefault", "_PyEval_EvalFrame"}
OWN = ("_pymem.", "hook_", "block_keep", "counted_request")


@lru_cache(maxsize=None)
def function_at(address):
    """(file, name) of the function that an address is in."""
    place = _pymem.symbol(address)
    if place is None:
        return "", hex(address)
    file, offset, exported = place
    found = symbols(file)
    name = found and found.function_at(offset + found.load_address)
    return file, name or exported or f"{file.rsplit('/', 1)[-1]}+{offset:#x}"


@lru_cache(maxsize=1 << 16)
def stack(addresses):
    """(file, name) from the outermost function to the one that asked for memory."""
    frames = []
    for address in addresses:
        if address == 0:
            break
        file, name = function_at(address - 1)       # a call returns to behind it
        if not frames and ("_pymem." in file or name.startswith(OWN)):
            continue
        frames.append((file, name))
    return tuple(reversed(frames))


def below_python(frames):
    """The part of a stack that the innermost Python function called."""
    for i in range(len(frames) - 1, -1, -1):
        if frames[i][1].split(".")[0] in EVALUATION:
            return frames[i + 1:]
    return frames


def stop_recording():
    """(size, traceback or None, stack) of each block that is live since
    _pymem.record(); tracing is stopped, too, before anything is made of it."""
    records = _pymem.recorded()
    _pymem.stop()
    addresses = memoryview(records).cast("Q")[::RECORD.size // 8]
    tracebacks = [traced(address)[1] for address in addresses]
    tracer().stop()
    for (_, size, *frames), traceback in zip(RECORD.iter_unpack(records), tracebacks):
        yield size, traceback, stack(tuple(frames))
