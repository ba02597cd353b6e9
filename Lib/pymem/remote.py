"""The heap of another process, read from outside.

    process = Process(pid)
    process.heap()              a Heap; the process stands still for so long
    process.usage()             sums of it, read while it goes on

_PyMem_HeapLayout says where the heap begins and how its structures look.  Every program with
pymem in it has that variable (Include/pymemheap.h).  Nothing runs in the process; the same
rights are needed as for a debugger.
"""

import ctypes
import os
import struct
import sys
import time
from bisect import bisect_left
from contextlib import contextmanager

from pymem.elf import Memory, symbols
from pymem.heap import Arena, Heap, HeapError, Pool, Usage, arena_order

POINTERS = "heaps pool_map map_leaves at_hand at_hand_places".split()
NUMBERS = """
    alignment threshold pool_overhead map_root nheaps nat_hand at_hand_nplaces
    heap_owner heap_interpreter heap_thread heap_small_arenas heap_medium_arenas heap_first_chunk heap_nchunks
    heap_raw_blocks heap_freed_by_others chunk chunk_objects chunk_nobjects
    arena_object arena_set arena_address arena_pool_address arena_nfreepools
    arena_ntotalpools set_arena_size set_pool_size set_ntimes_allocated set_ncurrent
    set_nhighwater leaf_medium medium_record medium_gone pool_gone pool pool_freeblock
    pool_next pool_inuse pool_blocksize pool_nextoffset pool_owner""".split()
# By the bytes of a pointer there, which need not be those of this Python.
LAYOUTS = {size: struct.Struct(f"=8s{len(POINTERS)}{word}{len(NUMBERS)}I")
           for size, word in ((4, "I"), (8, "Q"))}
COOKIE = b"pymemhp5"
PAGE_SIZE = os.sysconf("SC_PAGE_SIZE")

# ptrace(2), waitpid(2)
SEIZE, INTERRUPT, DETACH, ALL_CHILDREN = 0x4206, 0x4207, 17, 0x40000000


class Debuggee(Memory):
    """A process that may be looked at and stopped."""

    def __init__(self, pid):
        self.pid = pid
        try:
            super().__init__(pid)
        except FileNotFoundError:
            raise HeapError(f"there is no process {pid}") from None
        except PermissionError:
            raise HeapError(
                f"process {pid} may not be looked at: that takes its user and the right to "
                "debug it (root, or 0 in /proc/sys/kernel/yama/ptrace_scope)") from None

    def file_of(self, path):
        """Its file of that name, which need not be ours."""
        return f"/proc/{self.pid}/root{path}"

    @contextmanager
    def stopped(self):
        """All its threads stand still, which its parent is not told."""
        libc = ctypes.CDLL(None, use_errno=True)
        libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p,
                                ctypes.c_void_p]
        libc.ptrace.restype = ctypes.c_long
        seen, signals = set(), {}
        try:
            while True:
                new = set(map(int, os.listdir(f"/proc/{self.pid}/task"))) - seen
                if not new:
                    break
                seen |= new
                for thread in new:
                    if libc.ptrace(SEIZE, thread, None, None) < 0:
                        if thread != self.pid:
                            continue        # it ended
                        raise HeapError(f"process {self.pid} can't be stopped: "
                                        + os.strerror(ctypes.get_errno()))
                    signals[thread] = 0
                    libc.ptrace(INTERRUPT, thread, None, None)
                    _, status = os.waitpid(thread, ALL_CHILDREN)
                    if os.WIFSTOPPED(status) and status >> 16 == 0:
                        # It stopped for a signal, which it is to get afterwards.
                        signals[thread] = os.WSTOPSIG(status)
            yield
        finally:
            for thread, signal in signals.items():
                libc.ptrace(DETACH, thread, None, signal)


class Process(Debuggee):
    def __init__(self, pid):
        super().__init__(pid)
        self.layout = self._find_layout()       # and word_size
        self.word_format = {4: "I", 8: "Q"}[self.word_size]

    def _find_layout(self):
        for mapping in self.maps:
            if mapping.offset or not mapping.path.startswith("/"):
                continue
            found = symbols(self.file_of(mapping.path))
            if found is None or "_PyMem_HeapLayout" not in found.addresses:
                continue
            address = mapping.start - found.load_address \
                + found.addresses["_PyMem_HeapLayout"]
            layout = LAYOUTS[found.word_size]
            data = self.read(address, layout.size)
            if data and data[:8] == COOKIE:
                fields = layout.unpack(data)[1:]
                self.word_size = found.word_size
                return dict(zip(POINTERS + NUMBERS, fields))
        raise HeapError(f"process {self.pid} has no heap of pymem: it runs neither "
                        "build/python nor under pymem-run")

    def words(self, address, count=1):
        data = self.bytes(address, self.word_size * count)
        return struct.unpack(f"={count}{self.word_format}", data)

    def word(self, address):
        return self.words(address)[0]

    def word_in(self, data, offset):
        return struct.unpack_from("=" + self.word_format, data, offset)[0]

    # Consistent for a caller that stops the process.

    def _heaps(self):
        """Addresses of the heaps, by number."""
        table, number, heaps = self.layout["heaps"], 0, []
        while number < self.layout["nheaps"]:
            for heap in self.words(table + self.word_size * number,
                                   min(64, self.layout["nheaps"] - number)):
                if not heap:
                    return heaps
                heaps.append(heap)
                number += 1
        return heaps

    def figures(self):
        """As PyMemHeap_GetFigures(), but that larger_blocks lacks those in medium pools."""
        at = self.layout
        figures = {"threshold": at["threshold"], "alignment": at["alignment"],
                   "pool_overhead": at["pool_overhead"], "map_root": at["map_root"],
                   "map_leaves": self.word(at["map_leaves"]), "arena_objects": 0,
                   "larger_blocks": 0, "heaps": 0}
        for prefix in ("", "medium_"):
            for name in ("allocated", "current", "highwater"):
                figures[f"{prefix}arenas_{name}"] = 0
        for heap in self._heaps():
            owner, = struct.unpack("=I", self.bytes(heap + at["heap_owner"], 4))
            figures["heaps"] += owner != 0
            figures["larger_blocks"] += int.from_bytes(
                self.bytes(heap + at["heap_raw_blocks"], self.word_size), sys.byteorder,
                signed=True)
            figures["arena_objects"] += self.word(heap + at["heap_nchunks"]) * at["chunk"]
            for prefix, arenas in (("", "heap_small_arenas"),
                                   ("medium_", "heap_medium_arenas")):
                def field(name, arenas=heap + at[arenas]):
                    return self.word(arenas + at["set_" + name])
                figures[prefix + "arena_size"] = field("arena_size")
                figures[prefix + "pool_size"] = field("pool_size")
                figures[prefix + "arenas_allocated"] += field("ntimes_allocated")
                figures[prefix + "arenas_current"] += field("ncurrent")
                figures[prefix + "arenas_highwater"] += field("nhighwater")
        figures["map_records"] = figures["arenas_current"] * at["pool"] \
            * (figures["arena_size"] // figures["pool_size"])
        return figures

    def bytes(self, address, size):
        data = self.read(address, size)
        if data is None:
            raise Torn(f"nothing at {address:#x}")
        return data

    def _arena_objects(self):
        """An Arena without its pools for each that there is."""
        at = self.layout
        for number, heap in enumerate(self._heaps()):
            interpreter, = struct.unpack("=q", self.bytes(heap + at["heap_interpreter"], 8))
            thread = self.word(heap + at["heap_thread"])
            medium = heap + at["heap_medium_arenas"]
            chunk = self.word(heap + at["heap_first_chunk"])
            while chunk:
                size, count = at["arena_object"], at["chunk_nobjects"]
                data = self.bytes(chunk + at["chunk_objects"], size * count)
                for i in range(0, size * count, size):
                    address = self.word_in(data, i + at["arena_address"])
                    if not address:
                        continue
                    arenas = self.word_in(data, i + at["arena_set"])
                    pools = self.word_in(data, i + at["arena_pool_address"])
                    nfree, = struct.unpack_from("=I", data, i + at["arena_nfreepools"])
                    total, = struct.unpack_from("=I", data, i + at["arena_ntotalpools"])
                    yield Arena(address, pools, self.word(arenas + at["set_arena_size"]),
                                self.word(arenas + at["set_pool_size"]), total, nfree,
                                arenas == medium, interpreter, thread, number, [])
                chunk = self.word(chunk)

    def _records(self, arena):
        """The bytes of the records of an arena's pools."""
        at, records = self.layout, b""
        pools, npools, pool_size = arena.pool_address, arena.npools, arena.pool_size
        while npools:
            leaf = self.word(at["pool_map"] + self.word_size * (pools >> 32))
            first = (pools & 0xffffffff) // pool_size
            count = min(npools, 2**32 // pool_size - first)
            size = at["medium_record" if arena.is_medium else "pool"]
            start = leaf + first * size + (at["leaf_medium"] if arena.is_medium else 0)
            records += self.bytes(start, size * count)
            npools, pools = npools - count, pools + count * pool_size
        return records

    def _at_hand(self):
        """For each small class the addresses of the blocks at hand."""
        at = self.layout
        tops = self.words(at["at_hand"], 2 * at["nat_hand"])[::2]
        size = self.word_size * at["at_hand_nplaces"]
        bottoms = range(at["at_hand_places"], at["at_hand_places"] + size * len(tops), size)
        return [[block for block in self.words(bottom, (top - bottom) // self.word_size + 1)
                 if block] for top, bottom in zip(tops, bottoms)]

    def _freed(self):
        """Addresses of blocks that wait for their owner, or are at hand, sorted."""
        found = [block for blocks in self._at_hand() for block in blocks]
        for heap in self._heaps():
            block = self.word(heap + self.layout["heap_freed_by_others"])
            while block:
                found.append(block)
                block = self.word(block)
        return sorted(found)

    def _pool(self, record, arena, address, freed):
        at = self.layout
        blocksize, = struct.unpack_from("=H", record, at["pool_blocksize"])
        if not blocksize:
            return Pool(address, 0, 0, 0, 0, 0, 0, ())
        freeblock = self.word_in(record, at["pool_freeblock"])
        following = self.word_in(record, at["pool_next"])
        inuse, = struct.unpack_from("=H", record, at["pool_inuse"])
        offset, = struct.unpack_from("=H", record, at["pool_nextoffset"])
        first = address + (0 if arena.is_medium else at["pool_overhead"])
        nblocks = (address + arena.pool_size - first) // blocksize
        ncut = (address + offset * at["alignment"] - first) // blocksize
        freed = freed[bisect_left(freed, address):
                      bisect_left(freed, address + arena.pool_size)]
        pool = Pool(address, first, freeblock, blocksize, nblocks, ncut,
                    (inuse if following else nblocks) - len(freed), ())
        pool.free = self._free_list(pool, arena.pool_size, freed)
        if pool.free is not None and len(pool.free) + pool.nused != ncut:
            pool.free += self._blocks_in_gone_pages(pool, record, arena)
            if len(pool.free) + pool.nused != ncut:
                pool.free = None
        return pool

    def _blocks_in_gone_pages(self, pool, record, arena):
        """Numbers of the free blocks that are in no list, as their pages went back to the
        system."""
        at = self.layout
        gone, = struct.unpack("=I", record[at["medium_gone"]:at["medium_gone"] + 4]
                              if arena.is_medium
                              else self.bytes(pool.address + at["pool_gone"], 4))

        def pages(number):
            start = pool.block_address(number) - pool.address
            return range(start // PAGE_SIZE,
                         (start + pool.blocksize - 1) // PAGE_SIZE + 1)
        return tuple(number for number in range(pool.ncut)
                     if any(gone >> page & 1 for page in pages(number)))

    def _free_list(self, pool, pool_size, freed):
        """As PyMemHeap_FreeBlocks(): None where it is broken."""
        numbers, address = [], pool.freeblock
        data = self.read(pool.address, pool_size) if address else b""
        while address:
            number, rest = divmod(address - pool.first_block, pool.blocksize)
            if rest or not 0 <= number < pool.ncut or len(numbers) == pool.ncut or not data:
                return None
            numbers.append(number)
            address = self.word_in(data, address - pool.address)
        numbers += [(block - pool.first_block) // pool.blocksize for block in freed]
        return tuple(numbers)

    def _walk(self):
        figures, arenas, freed = self.figures(), [], self._freed()
        for arena in self._arena_objects():
            records = self._records(arena)
            size = len(records) // arena.npools
            arena.pools = [
                self._pool(records[i * size:(i + 1) * size], arena,
                           arena.pool_address + i * arena.pool_size, freed)
                for i in range(arena.npools)]
            arenas.append(arena)
            if arena.is_medium:
                figures["larger_blocks"] += sum(pool.nused for pool in arena.pools)
        return Heap(figures, sorted(arenas, key=arena_order))

    def heap(self, tries=20):
        """The process is stopped anywhere, perhaps where a block is on its way into a
        list or out of one: then the counts do not agree, and it is let go on for a
        moment.  A pool that never agrees is broken."""
        heap = None
        for _ in range(tries):
            try:
                with self.stopped():
                    heap = self._walk()
            except Torn:
                continue
            except (FileNotFoundError, ProcessLookupError, ChildProcessError):
                raise HeapError(f"process {self.pid} ended") from None
            if all(pool.free is not None for pool in heap.pools):
                break
            time.sleep(0.001)
        if heap is None:
            raise HeapError(f"the heap of process {self.pid} can't be read: what is there "
                            "does not agree")
        return heap

    # While it goes on.

    def usage(self):
        try:
            return self._usage()
        except Torn:
            if not os.path.exists(f"/proc/{self.pid}/task"):
                raise HeapError(f"process {self.pid} ended") from None
            raise

    def _usage(self):
        figures = self.figures()
        at, held, states, sizes = self.layout, 0, [0, 0, 0, 0], {}
        for arena in self._arena_objects():
            held += arena.size
            records = memoryview(self._records(arena))
            size = at["medium_record" if arena.is_medium else "pool"]
            room = arena.pool_size - (0 if arena.is_medium else at["pool_overhead"])
            blocksizes = records.cast("H")[at["pool_blocksize"] // 2::size // 2]
            counts = records.cast("H")[at["pool_inuse"] // 2::size // 2]
            links = records.cast(self.word_format)[
                at["pool_next"] // self.word_size::size // self.word_size]
            for blocksize, inuse, link in zip(blocksizes, counts, links):
                if not blocksize:
                    states[0] += 1
                    continue
                if not link:
                    inuse = room // blocksize
                    states[3] += 1
                else:
                    states[2 if inuse else 1] += 1
                figures["larger_blocks"] += inuse if arena.is_medium else 0
                if inuse:
                    npools, nblocks = sizes.get(blocksize, (0, 0))
                    sizes[blocksize] = npools + 1, nblocks + inuse
        for number, blocks in enumerate(self._at_hand()):
            blocksize = (number + 1) * at["alignment"]
            if blocks and blocksize in sizes:
                npools, nblocks = sizes.pop(blocksize)
                if nblocks > len(blocks):
                    sizes[blocksize] = npools, nblocks - len(blocks)
        return Usage(figures, held, sum(size * n for size, (_, n) in sizes.items()),
                     sum(n for _, n in sizes.values()), tuple(states), sizes)


class Torn(Exception):
    """What was read does not fit together: the process was changing it."""
