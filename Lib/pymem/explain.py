"""What an address is: domain, arena, pool, class, block, neighbours, size, traceback.

    print(explain(obj))             where an object lies
    print(explain_address(p))       any address, of a block or of anything else

Nothing but memory that is mapped is read.
"""

import sys
import tracemalloc

from pymem.elf import Memory
from pymem.heap import Heap, HeapError

PAD = b"\xfd"
DOMAINS = {"r": "raw", "m": "mem", "o": "object"}
STATES = {"u": "used", "f": "free", "n": "never used",
          "q": "free, in quarantine or ready to be handed out"}


class Explanation:
    """Facts by name, in the order in which they are printed."""

    def __init__(self):
        self.facts = {}

    def __getitem__(self, name):
        return self.facts[name]

    def __contains__(self, name):
        return name in self.facts

    def add(self, name, text):
        self.facts[name] = text

    def __str__(self):
        lines = []
        for name, text in self.facts.items():
            first, *more = str(text).split("\n")
            lines.append(f"{name:11}{first}")
            lines += [f"{'':11}{line}" for line in more]
        return "\n".join(lines)


def debug_head(memory, start):
    """(domain, bytes asked for) where a block begins as debug hooks begin one."""
    word = memory.word_size
    head = memory.read(start, 2 * word)
    if head is None or head[word + 1:] != PAD * (word - 1) or chr(head[word]) not in DOMAINS:
        return None
    return DOMAINS[chr(head[word])], int.from_bytes(head[:word], "big")


def traced(address):
    """(bytes asked for or None, traceback or None) of a block of this process."""
    try:
        import _pymem
        import _tracemalloc
    except ImportError:
        return None, None
    size_of = getattr(_tracemalloc, "_get_block_size", lambda address: None)
    frames = _pymem.traceback(address)
    # Unless it is ours CPython's own function gives (traceback, depth) from 3.9 on.
    if frames and isinstance(frames[0], tuple) and frames[0] \
            and isinstance(frames[0][0], tuple):
        frames = frames[0]
    return size_of(address), frames


def traceback_text(frames):
    return "\n".join(f"{name}:{line}" for name, line in frames)


def explain_block(facts, memory, place, own):
    pool, number = place.pool, place.number
    states = pool.block_states()
    start, state = pool.block_address(number), states[number]
    end = start + pool.blocksize

    def neighbour(i):
        return (f"{STATES[states[i]]} ({pool.block_address(i):#x})"
                if 0 <= i < pool.nblocks else "none: the pool's edge")
    facts.add("block", f"number {number} of {pool.nblocks}, {start:#x} to {end:#x}, "
              f"{STATES[state]}; the address is its byte {place.offset}")
    facts.add("neighbours", f"before it: {neighbour(number - 1)}\n"
              f"behind it: {neighbour(number + 1)}")
    if state == "f" and pool.free and not place.arena.is_hardened:
        at = pool.free.index(number)
        facts.add("free list", f"{at} of {len(pool.free)} come before it")
    if state != "u":
        return
    head = debug_head(memory, start)
    head_size = 2 * memory.word_size if head else 0
    size, frames = traced(start + head_size) if own else (None, None)
    if head:
        facts.add("domain", f"{head[0]} (debug hooks)")
        size = head[1]
    if size is not None:
        facts.add("requested", f"{size} bytes"
                  + (f", {head_size} bytes into the block" if head else ""))
    elif place.arena.is_medium or place.arena.is_hardened:
        facts.add("requested", f"not known: up to {pool.blocksize} bytes")
    else:
        smallest = pool.blocksize - place.alignment + 1
        facts.add("requested", f"not known: {smallest} to {pool.blocksize} bytes")
    if frames:
        facts.add("allocated", traceback_text(frames))
    elif own:
        facts.add("allocated", "not traced (tracemalloc.start())")


def explain_elsewhere(facts, memory, address, own):
    mapping = next((m for m in memory.maps if m.start <= address < m.end), None)
    if mapping is None:
        facts.add("memory", "nothing is mapped there")
        return
    where = mapping.path or "anonymous memory"
    facts.add("memory", f"{where} ({mapping.access[:3]}, {mapping.start:#x} to "
              f"{mapping.end:#x})")
    if mapping.path.startswith("/"):
        facts.add("block", "none: part of a file that is mapped, as static objects are")
        return
    head = debug_head(memory, address - 2 * memory.word_size)
    if head:
        facts.add("domain", f"{head[0]} (debug hooks)")
        facts.add("requested", f"{head[1]} bytes")
    else:
        facts.add("domain", "raw, or nobody's: in no arena")
    frames = traced(address)[1] if own else None
    if frames:
        facts.add("allocated", traceback_text(frames))


def explain_address(address, heap=None, memory=None):
    """An Explanation.  heap and memory are another process's, or this one's."""
    if not 0 <= address < 1 << 64:
        raise HeapError(f"{address:#x} is no address: 64 bits at the most")
    own = memory is None
    heap = heap or Heap.take()
    memory = memory or Memory()
    facts, place = Explanation(), heap.find(address)
    facts.add("address", f"{address:#x}")
    if place is None:
        explain_elsewhere(facts, memory, address, own)
    else:
        facts.add("domain", "any: the hardened allocator serves all" if place.arena.is_hardened
                  else "mem or object, over the threshold" if place.arena.is_medium
                  else "object or mem: pymalloc serves both")
        facts.add("arena", str(place.arena))
        facts.add("pool", f"{place.pool}\nnumber "
                  f"{(place.pool.address - place.arena.pool_address) // place.arena.pool_size}"
                  f" of {place.arena.npools}, the address is its byte "
                  f"{address - place.pool.address}")
        if place.pool.blocksize and place.arena.kind == "small":
            largest = place.pool.blocksize
            facts.add("class", f"{largest // place.alignment - 1}: requests of "
                      f"{largest - place.alignment + 1} to {largest} bytes")
        if place.number is not None:
            explain_block(facts, memory, place, own)
        elif place.pool.blocksize:
            facts.add("block", "none: the header of the pool, or what is left behind its "
                      "last block")
    if own:
        memory.close()
    return facts


def explain(obj):
    """An Explanation of the memory of an object of this process."""
    facts = explain_address(id(obj))
    if facts.facts.get("domain", "").startswith("object or mem"):
        facts.add("domain", "object")
    if "allocated" not in facts:        # a large one, which its block's address is not
        frames = tracemalloc.get_object_traceback(obj)
        if frames:
            facts.add("allocated", traceback_text(
                (frame.filename, frame.lineno) for frame in reversed(frames)))
    described = f"{type(obj).__name__}, {sys.getsizeof(obj)} bytes"
    facts.facts = {"object": described, **facts.facts}
    return facts
