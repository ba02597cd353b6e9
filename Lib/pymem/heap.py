"""The heaps of pymalloc at one moment, as objects.

    heap = Heap.take()              of this process; pymem.remote has others'
    heap.arenas                     each with its pools, of all interpreters and threads
    heap.owners()                   whose arenas they are
    heap.find(address)              the block that an address lies in
    heap.statistics()               what sys._debugmallocstats() prints, as data

Each interpreter has a heap for small blocks, each thread one for larger ones; a Heap has
the arenas of all.  It is taken while this interpreter stands still, and taking it allocates
nothing in it: what is seen of this interpreter and thread is exact, and does not change
afterwards.  What Python allocates to hold the result comes after.
"""

import struct
import time
from typing import NamedTuple, Optional

ARENA = struct.Struct("=QQQIIIIqQI4x")
POOL = struct.Struct("=QQQIHHHH4x")
BROKEN = 0xffff
WAITS = 0x8000              # added to the number of a block of a slab


NO_MODULE = "the module _pymem is not here; it is in the folder of the build: " \
    "PYTHONPATH=build"


class HeapError(Exception):
    """What can't be seen, and what is needed."""


def unused_share(used, held):
    """Which part of what is held is not used, from 0 to 1."""
    return max(0.0, 1 - used / held) if held else 0.0


class Pool:
    """Blocks of one size.  free has the numbers of its free blocks, in the order in
    which they will be given; None where that list is broken.  Of a slab of the hardened
    allocator they are in no order, and waiting has those in quarantine or ready."""

    __slots__ = ("address", "first_block", "freeblock", "blocksize", "nblocks", "ncut",
                 "nused", "free", "waiting")

    def __init__(self, address, first_block, freeblock, blocksize, nblocks, ncut, nused,
                 free, waiting=frozenset()):
        self.address, self.first_block, self.freeblock = address, first_block, freeblock
        self.blocksize, self.nblocks = blocksize, nblocks
        self.ncut, self.nused, self.free, self.waiting = ncut, nused, free, waiting

    @property
    def state(self):
        """free: nobody's; empty: kept for the next block of its class; used; full."""
        if not self.blocksize:
            return "free"
        if not self.nused:
            return "empty"
        return "full" if self.nused == self.nblocks else "used"

    @property
    def fill(self):
        return self.nused / self.nblocks if self.nblocks else 0.0

    def block_states(self):
        """One letter a block: u used, f free, n never used, q in quarantine or ready."""
        states = bytearray(b"u" * self.ncut + b"n" * (self.nblocks - self.ncut))
        for number in self.free or ():
            states[number] = ord("q" if number in self.waiting else "f")
        return states.decode()

    def block_address(self, number):
        return self.first_block + number * self.blocksize

    def __str__(self):
        if not self.blocksize:
            return f"pool {self.address:#x}: free"
        return (f"pool {self.address:#x}: {self.state}, blocks of {self.blocksize} bytes, "
                f"{self.nused} of {self.nblocks} used, {self.ncut - self.nused} free, "
                f"{self.nblocks - self.ncut} never used"
                + (", its free list is broken" if self.free is None else ""))


class Arena:
    """heap is the number of its heap, 0 for the main interpreter's.  interpreter is the ID
    of the one that has it; -1 for a thread's, whose number in the system is thread."""

    __slots__ = ("address", "pool_address", "size", "pool_size", "npools", "nfreepools",
                 "is_medium", "is_hardened", "interpreter", "thread", "heap", "pools")

    def __init__(self, address, pool_address, size, pool_size, npools, nfreepools,
                 is_medium, interpreter, thread, heap, pools):
        self.address, self.pool_address = address, pool_address
        self.size, self.pool_size, self.npools = size, pool_size, npools
        self.nfreepools, self.is_medium = nfreepools, is_medium == 1
        self.is_hardened = is_medium == 2
        self.interpreter, self.thread, self.heap = interpreter, thread, heap
        self.pools = pools

    @property
    def owner(self):
        if self.interpreter < 0:
            return f"thread {self.thread}"
        return f"interpreter {self.interpreter}"

    def __str__(self):
        return (f"{self.kind} arena {self.address:#x} of {self.size >> 10} KiB, "
                f"{self.npools - self.nfreepools} of {self.npools} pools used, "
                f"of {self.owner}")

    @property
    def kind(self):
        return "hardened" if self.is_hardened else "medium" if self.is_medium else "small"

    @property
    def used_bytes(self):
        return sum(pool.nused * pool.blocksize for pool in self.pools)


class Place(NamedTuple):
    """Where an address is: in a pool, and in which block of it, if in one."""
    arena: Arena
    pool: Pool
    number: Optional[int]
    offset: int                 # from the block's start; or from the pool's
    alignment: int              # between one class and the next


def arena_order(arena):
    """Small ones first, each heap's together."""
    return arena.is_medium, arena.heap, arena.address


def arenas_from_records(arenas, pools, free):
    """As _pymem.walk() writes them."""
    numbers, records = memoryview(free).cast("H"), POOL.iter_unpack(pools)
    position, result = 0, []
    for of_arena in ARENA.iter_unpack(arenas):
        in_arena = []
        for _ in range(of_arena[4]):
            *of_pool, nfree = next(records)
            if nfree == BROKEN:
                in_arena.append(Pool(*of_pool, None))
                continue
            free = numbers[position:position + nfree]
            in_arena.append(Pool(*of_pool, tuple(number & ~WAITS for number in free),
                                 frozenset(number & ~WAITS for number in free
                                           if number & WAITS)))
            position += nfree
        result.append(Arena(*of_arena, in_arena))
    result.sort(key=arena_order)
    return result


class Usage(NamedTuple):
    """Sums over a heap: bytes of arenas and of used blocks, used blocks, pools that are
    (free, empty, used, full), and {bytes in a block: (pools, used blocks)}."""
    figures: dict
    held_bytes: int
    used_bytes: int
    used_blocks: int
    pools: tuple
    sizes: dict

    @classmethod
    def now(cls):
        """Of this process; a tenth of a Heap's time, as no free list is followed."""
        return cls(*from_module("usage"))

    @property
    def fragmentation(self):
        return unused_share(self.used_bytes, self.held_bytes)


def from_module(function):
    try:
        import _pymem
    except ImportError:
        raise HeapError(NO_MODULE) from None
    try:
        return getattr(_pymem, function)()
    except RuntimeError as error:
        raise HeapError(str(error)) from None


class Heap:
    def __init__(self, figures, arenas):
        """arenas: a list; or a function that makes it when it is first asked for."""
        self.figures, self._arenas = figures, arenas
        self.time = time.time()

    @classmethod
    def take(cls):
        """Of this process.  Until it is looked at it is a few bytes objects, so that the
        next one does not see the objects of this one."""
        figures, arenas, pools, free = from_module("walk")
        if not arenas:
            raise HeapError("pymalloc serves nothing in this process: is PYTHONMALLOC "
                            "set to malloc, or was it built without pymalloc?")
        return cls(figures, lambda: arenas_from_records(arenas, pools, free))

    @property
    def arenas(self):
        if callable(self._arenas):
            self._arenas = self._arenas()
        return self._arenas

    @property
    def pools(self):
        """All that are not free."""
        return [pool for arena in self.arenas for pool in arena.pools if pool.blocksize]

    def find(self, address):
        """A Place, or None for an address that is in no pool of an arena."""
        alignment = self.figures["alignment"]
        for arena in self.arenas:
            if not arena.address <= address < arena.address + arena.size:
                continue
            index = (address - arena.pool_address) // arena.pool_size
            if not 0 <= index < arena.npools:
                return None
            pool = arena.pools[index]
            if not pool.blocksize or address < pool.first_block:
                return Place(arena, pool, None, address - pool.address, alignment)
            number, offset = divmod(address - pool.first_block, pool.blocksize)
            if number >= pool.nblocks:
                return Place(arena, pool, None, address - pool.address, alignment)
            return Place(arena, pool, number, offset, alignment)
        return None

    def owners(self):
        """{"interpreter 0" and others: (arenas, bytes of them, used blocks)}"""
        owners = {}
        for arena in self.arenas:
            arenas, size, blocks = owners.get(arena.owner, (0, 0, 0))
            owners[arena.owner] = (arenas + 1, size + arena.size,
                                   blocks + sum(pool.nused for pool in arena.pools))
        return owners

    def classes(self, is_medium=False):
        """{size of blocks: {pools, blocks, free_blocks}}, as the statistics count: a
        pool without a used block counts as free."""
        classes = {}
        for arena in self.arenas:
            for pool in (arena.pools if arena.is_medium == is_medium
                         and not arena.is_hardened else ()):
                if pool.nused:
                    usage = classes.setdefault(
                        pool.blocksize, {"pools": 0, "blocks": 0, "free_blocks": 0})
                    usage["pools"] += 1
                    usage["blocks"] += pool.nused
                    usage["free_blocks"] += pool.nblocks - pool.nused
        return dict(sorted(classes.items()))

    @property
    def held_bytes(self):
        return sum(arena.size for arena in self.arenas)

    @property
    def used_bytes(self):
        return sum(arena.used_bytes for arena in self.arenas)

    @property
    def used_blocks(self):
        return sum(pool.nused for arena in self.arenas for pool in arena.pools)

    @property
    def fragmentation(self):
        """Which part of the arenas' memory is in no used block."""
        return unused_share(self.used_bytes, self.held_bytes)

    def statistics(self):
        """All that _PyObject_DebugMallocStats() knows, and the same of medium blocks."""
        figures, classes = self.figures, self.classes()
        small = [arena for arena in self.arenas if arena.kind == "small"]
        hardened = [arena for arena in self.arenas if arena.is_hardened]
        medium = [arena for arena in self.arenas if arena.is_medium]
        pool_size, overhead = figures["pool_size"], figures["pool_overhead"]
        free_pools = sum(not pool.nused for arena in small for pool in arena.pools)
        unaligned = sum(arena.address != arena.pool_address for arena in small)

        def total(key):
            return sum(size * usage[key] for size, usage in classes.items())
        return {
            "threshold": figures["threshold"],
            "alignment": figures["alignment"],
            "pool_size": pool_size,
            "arena_size": figures["arena_size"],
            "classes": [{"class": size // figures["alignment"] - 1, "size": size, **usage}
                        for size, usage in classes.items()],
            "arenas": {"allocated": figures["arenas_allocated"],
                       "reclaimed": figures["arenas_allocated"] - len(small),
                       "highwater": figures["arenas_highwater"],
                       "current": len(small),
                       "bytes": len(small) * figures["arena_size"]},
            "bytes": {"allocated_blocks": total("blocks"),
                      "available_blocks": total("free_blocks"),
                      "unused_pools": free_pools * pool_size,
                      "pool_headers": sum(usage["pools"] for usage in classes.values())
                      * overhead,
                      "quantization": sum(usage["pools"] * ((pool_size - overhead) % size)
                                          for size, usage in classes.items()),
                      "arena_alignment": unaligned * pool_size},
            "unused_pools": free_pools,
            "map": {"leaves": figures["map_leaves"], "root_bytes": figures["map_root"],
                    "record_bytes": figures["map_records"],
                    "arena_object_bytes": figures["arena_objects"]},
            "blocks_over_threshold": figures["larger_blocks"],
            "heaps": [{"owner": owner, "arenas": arenas, "bytes": size, "blocks": blocks}
                      for owner, (arenas, size, blocks) in self.owners().items()],
            "medium": {"arena_size": figures["medium_arena_size"],
                       "pool_size": figures["medium_pool_size"],
                       "arenas": {"allocated": figures["medium_arenas_allocated"],
                                  "reclaimed": figures["medium_arenas_allocated"]
                                  - len(medium),
                                  "highwater": figures["medium_arenas_highwater"],
                                  "current": len(medium)},
                       "classes": [{"size": size, **usage} for size, usage
                                   in self.classes(is_medium=True).items()]},
            "hardened": {"arenas": len(hardened),
                         "blocks": sum(pool.nused for arena in hardened
                                       for pool in arena.pools),
                         "waiting": sum(len(pool.waiting) for arena in hardened
                                        for pool in arena.pools)},
        }
