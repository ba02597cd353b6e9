"""The heap of another process, read from outside.

    process = Process(pid)
    process.heap()              a Heap; the process stands still for so long
    process.usage()             sums of it, read while it goes on

Where the heap begins and how its structures look says _PyMem_HeapLayout, which is in
every program with pymem in it (Include/pymemheap.h).  Nothing runs in the process; the
same rights are needed as for a debugger.
"""

import ctypes
import os
import struct
import time
from contextlib import contextmanager

from pymem.elf import Memory, symbols
from pymem.heap import Arena, Heap, HeapError, Pool, Usage

POINTERS = ("first_chunk small_arenas medium_arenas pool_map larger_blocks "
            "bookkeeping").split()
NUMBERS = """
    alignment threshold pool_overhead frames_in_leaf map_root chunk_objects
    chunk_nobjects arena_object arena_heap arena_address arena_pool_address
    arena_nfreepools arena_ntotalpools heap_arena_size heap_pool_size
    heap_ntimes_allocated heap_ncurrent heap_nhighwater pool pool_freeblock pool_next
    pool_inuse pool_blocksize pool_nextoffset medium medium_freeblock medium_next
    medium_inuse medium_blocksize medium_ncut medium_nblocks""".split()
LAYOUT = struct.Struct(f"<8s{len(POINTERS)}Q{len(NUMBERS)}I")
COOKIE = b"pymemhp1"

# ptrace(2), waitpid(2)
SEIZE, INTERRUPT, DETACH, ALL_CHILDREN = 0x4206, 0x4207, 17, 0x40000000


class Process(Memory):
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
        self.layout = self._find_layout()

    def _find_layout(self):
        for mapping in self.maps:
            if mapping.offset or not mapping.path.startswith("/"):
                continue
            found = symbols(f"/proc/{self.pid}/root{mapping.path}")
            if found is None or "_PyMem_HeapLayout" not in found.addresses:
                continue
            address = mapping.start - found.load_address \
                + found.addresses["_PyMem_HeapLayout"]
            data = self.read(address, LAYOUT.size)
            if data and data[:8] == COOKIE:
                fields = LAYOUT.unpack(data)[1:]
                return dict(zip(POINTERS + NUMBERS, fields))
        raise HeapError(f"process {self.pid} has no heap of pymem: it runs neither "
                        "build/python nor under pymem-run")

    def words(self, address, count=1):
        data = self.read(address, 8 * count)
        if data is None:
            raise Torn(f"nothing at {address:#x}")
        return struct.unpack(f"<{count}Q", data)

    def word(self, address):
        return self.words(address)[0]

    # Consistent for who stops the process.

    def figures(self):
        at = self.layout
        leaves, chunks, chunk_bytes = self.words(at["bookkeeping"], 3)
        figures = {"threshold": at["threshold"], "alignment": at["alignment"],
                   "pool_overhead": at["pool_overhead"], "map_root": at["map_root"],
                   "map_leaves": leaves, "arena_objects": chunks * chunk_bytes,
                   "larger_blocks": self.word(at["larger_blocks"])}
        for prefix, heap in (("", "small_arenas"), ("medium_", "medium_arenas")):
            def field(name, heap=heap):
                return self.word(at[heap] + at["heap_" + name])
            figures.update({
                prefix + "arena_size": field("arena_size"),
                prefix + "pool_size": field("pool_size"),
                prefix + "arenas_allocated": field("ntimes_allocated"),
                prefix + "arenas_current": field("ncurrent"),
                prefix + "arenas_highwater": field("nhighwater")})
        figures["map_records"] = figures["arenas_current"] * at["pool"] \
            * (figures["arena_size"] // figures["pool_size"])
        return figures

    def _arena_objects(self):
        """(is_medium, address, pool address, free pools, pools) of each arena."""
        at = self.layout
        chunk = self.word(at["first_chunk"])
        while chunk:
            size, count = at["arena_object"], at["chunk_nobjects"]
            data = self.read(chunk + at["chunk_objects"], size * count)
            if data is None:
                raise Torn(f"nothing at {chunk:#x}")
            for i in range(0, size * count, size):
                address, = struct.unpack_from("<Q", data, i + at["arena_address"])
                if address:
                    heap, = struct.unpack_from("<Q", data, i + at["arena_heap"])
                    pools, = struct.unpack_from("<Q", data, i + at["arena_pool_address"])
                    nfree, = struct.unpack_from("<I", data, i + at["arena_nfreepools"])
                    total, = struct.unpack_from("<I", data, i + at["arena_ntotalpools"])
                    yield heap == at["medium_arenas"], address, pools, nfree, total
            chunk = self.word(chunk)

    def _records(self, is_medium, pools, npools, pool_size):
        """The bytes of the records of an arena's pools."""
        at = self.layout
        records = b""
        while npools:
            leaf = self.word(at["pool_map"] + 8 * (pools >> 32))
            first = (pools & 0xffffffff) // pool_size
            count = min(npools, 2**32 // pool_size - first)
            size = at["medium" if is_medium else "pool"]
            start = leaf + first * size
            if is_medium:
                start += at["frames_in_leaf"] * at["pool"]
            data = self.read(start, size * count)
            if data is None:
                raise Torn(f"nothing at {start:#x}")
            records += data
            npools, pools = npools - count, pools + count * pool_size
        return records

    def _pool(self, record, is_medium, address, pool_size):
        at, kind = self.layout, "medium_" if is_medium else "pool_"
        number = "<I" if is_medium else "<H"
        blocksize, = struct.unpack_from(number, record, at[kind + "blocksize"])
        if not blocksize:
            return Pool(address, 0, 0, 0, 0, 0, 0, ())
        freeblock, = struct.unpack_from("<Q", record, at[kind + "freeblock"])
        following, = struct.unpack_from("<Q", record, at[kind + "next"])
        inuse, = struct.unpack_from("<H", record, at[kind + "inuse"])
        first = address + (0 if is_medium else at["pool_overhead"])
        nblocks = (address + pool_size - first) // blocksize
        if is_medium:
            ncut, = struct.unpack_from("<H", record, at["medium_ncut"])
        else:
            offset, = struct.unpack_from("<H", record, at["pool_nextoffset"])
            ncut = (offset - at["pool_overhead"]) // blocksize
        pool = Pool(address, first, freeblock, blocksize, nblocks, ncut,
                    inuse if following else nblocks, ())
        pool.free = self._free_list(pool, pool_size)
        return pool

    def _free_list(self, pool, pool_size):
        """As PyMemHeap_FreeBlocks(): None where it is broken."""
        numbers, address = [], pool.freeblock
        data = self.read(pool.address, pool_size) if address else b""
        while address:
            number, rest = divmod(address - pool.first_block, pool.blocksize)
            if rest or not 0 <= number < pool.ncut or len(numbers) == pool.ncut or not data:
                return None
            numbers.append(number)
            address, = struct.unpack_from("<Q", data, address - pool.address)
        return tuple(numbers) if len(numbers) + pool.nused == pool.ncut else None

    def _walk(self):
        figures, arenas = self.figures(), []
        for is_medium, address, pools, nfree, total in self._arena_objects():
            prefix = "medium_" if is_medium else ""
            pool_size = figures[prefix + "pool_size"]
            records = self._records(is_medium, pools, total, pool_size)
            size = len(records) // total
            arenas.append(Arena(
                address, pools, figures[prefix + "arena_size"], pool_size, total, nfree,
                is_medium,
                [self._pool(records[i * size:(i + 1) * size], is_medium,
                            pools + i * pool_size, pool_size) for i in range(total)]))
        arenas.sort(key=lambda arena: (arena.is_medium, arena.address))
        return Heap(figures, arenas)

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
        for is_medium, _, pools, _, total in self._arena_objects():
            prefix = "medium_" if is_medium else ""
            pool_size = figures[prefix + "pool_size"]
            held += figures[prefix + "arena_size"]
            records = memoryview(self._records(is_medium, pools, total, pool_size))
            kind, size = ("medium_", at["medium"]) if is_medium else ("pool_", at["pool"])
            width = 4 if is_medium else 2
            room = pool_size - (0 if is_medium else at["pool_overhead"])
            blocksizes = records.cast("I" if is_medium else "H")[
                at[kind + "blocksize"] // width::size // width]
            counts = records.cast("H")[at[kind + "inuse"] // 2::size // 2]
            links = records.cast("Q")[at[kind + "next"] // 8::size // 8]
            for blocksize, inuse, link in zip(blocksizes, counts, links):
                if not blocksize:
                    states[0] += 1
                    continue
                if not link:
                    inuse = room // blocksize
                    states[3] += 1
                else:
                    states[2 if inuse else 1] += 1
                if inuse:
                    npools, nblocks = sizes.get(blocksize, (0, 0))
                    sizes[blocksize] = npools + 1, nblocks + inuse
        return Usage(figures, held, sum(size * n for size, (_, n) in sizes.items()),
                     sum(n for _, n in sizes.values()), tuple(states), sizes)


class Torn(Exception):
    """What was read does not fit together: the process was changing it."""
