"""gdb commands that show pymem's heap, in a process or a core file.

    (gdb) source Tools/gdb/pymem.py
    (gdb) pymem-arenas              all arenas: where they are, how full
    (gdb) pymem-pool ADDRESS        the pool an address lies in, and its free list
    (gdb) pymem-block ADDRESS       the block: class, number, free or used, neighbours

ADDRESS is any expression.  The structures are those of Include/internal/; they print
short, too.  Nothing in the process is called or changed, so the heap may be broken:
what can't be is said.
"""

import os

import gdb
import gdb.printing


def value(expression):
    return gdb.parse_and_eval(expression)


def read_word(address):
    size = gdb.lookup_type("void").pointer().sizeof
    return int.from_bytes(gdb.selected_inferior().read_memory(address, size), "little")


def number(expression):
    """The address that somebody typed; an object, a pointer or a number."""
    return int(value(expression).cast(gdb.lookup_type("unsigned long")))


class Heap:
    """The numbers that the structures do not tell."""

    def __init__(self):
        try:
            self.pool_size = int(value("main_heap.small_arenas.pool_size"))
        except gdb.error as error:
            raise gdb.GdbError(f"pymem: this program has no pymem with debugging "
                               f"symbols, or does not run yet ({error})") from error
        pointer = gdb.lookup_type("void").pointer().sizeof
        alignment = 16 if pointer == 8 else 8
        # POOL_OVERHEAD of pycore_geometry.h
        self.overhead = -(-(4 * pointer + 16) // alignment) * alignment
        self.medium_pool_size = int(value("main_heap.medium_arenas.pool_size"))
        self.alignment = alignment
        # HEAP_OF_GROWING of pycore_growing.h
        self.grow_here = int(value("heap_of_nobody.number")) - 1

    def heaps(self):
        """All heaps, by number."""
        pointer = gdb.lookup_type("struct heap").pointer()
        table, word = int(value("&heaps[0]")), pointer.sizeof
        for number in range(65536):
            heap = read_word(table + number * word)
            if not heap:
                break
            yield gdb.Value(heap).cast(pointer).dereference()

    def arenas(self):
        for heap in self.heaps():
            chunk = heap["first_chunk"]
            while int(chunk):
                first, last = chunk["objects"].type.range()
                for i in range(first, last + 1):
                    arena = chunk["objects"][i]
                    if int(arena["address"]):
                        yield heap, arena
                chunk = chunk["next"]

    def leaf(self, address):
        """The leaf of the pool map that covers an address, or None."""
        number, word = address >> 32, gdb.lookup_type("void").pointer().sizeof
        first, last = value("pool_map").type.range()
        leaf = read_word(int(value("&pool_map[0]")) + number * word) if number <= last else 0
        return (gdb.Value(leaf).cast(gdb.lookup_type("struct pool_leaf").pointer())
                if leaf else None)

    def pool_of(self, address):
        """A Pool, or None for an address that is in none."""
        leaf = self.leaf(address)
        if leaf is None:
            return None
        record = leaf["small"][(address & 0xffffffff) // self.pool_size]
        if has_pool(record):
            return Pool(self, record, False, address)
        record = leaf["medium"][(address & 0xffffffff) // self.medium_pool_size]["pool"]
        return (Pool(self, record, True, address)
                if has_pool(record) and int(record["owner"]) != self.grow_here else None)

    def owner(self, number):
        """Whose heap a pool's number names."""
        for heap in self.heaps():
            if int(heap["number"]) == number:
                return owner_of(heap)
        return f"heap {number}"

    def at_hand(self):
        """Addresses of the blocks at hand: down from the top of each stack."""
        first, last = value("at_hand").type.range()
        word = gdb.lookup_type("void").pointer().sizeof
        for i in range(first, last + 1):
            bottom = int(value(f"&at_hand_places[{i}][0]"))
            for place in range(int(value(f"at_hand[{i}].top")), bottom, -word):
                if block := read_word(place):
                    yield block

    def freed_by_others(self, number):
        """Addresses of the blocks of a heap that wait for its owner."""
        found = set()
        for heap in self.heaps():
            block = int(heap["freed_by_others"]) if int(heap["number"]) == number else 0
            while block and block not in found:
                found.add(block)
                block = read_word(block)
        return found


def has_pool(record):
    """A core file leaves out the parts of a leaf that were never written to."""
    try:
        return int(record["blocksize"]) != 0
    except gdb.MemoryError:
        return False


def owner_of(heap):
    interpreter = int(heap["interpreter"])
    return (f"thread {int(heap['thread'])}" if interpreter < 0
            else f"interpreter {interpreter}")


class Pool:
    def __init__(self, heap, record, is_medium, address):
        self.record, self.is_medium = record, is_medium
        size = heap.medium_pool_size if is_medium else heap.pool_size
        self.address = address & ~(size - 1)
        self.start = self.address + (0 if is_medium else heap.overhead)
        self.blocksize = int(record["blocksize"])
        self.nblocks = (self.address + size - self.start) // self.blocksize
        self.is_full = not int(record["next"])
        # A full pool's count stands at 1.
        self.nused = self.nblocks if self.is_full else int(record["inuse"])
        self.ncut = (int(record["nextoffset"]) * heap.alignment
                     - (self.start - self.address)) // self.blocksize
        self.owner = heap.owner(int(record["owner"]))
        blocks = range(self.address, self.address + size)
        self.waiting = [block for block in heap.freed_by_others(int(record["owner"]))
                        if block in blocks]
        self.at_hand = [block for block in heap.at_hand() if block in blocks]

    def free_list(self):
        """Numbers of the free blocks, in the order in which they will be given."""
        found, fault = [], None
        address = int(self.record["freeblock"])
        while address:
            i, rest = divmod(address - self.start, self.blocksize)
            if rest or not 0 <= i < self.ncut:
                return found, f"{address:#x} in the free list is no block of the pool"
            if i in found:
                return found, f"block {i} is in the free list twice"
            found.append(i)
            address = read_word(address)
        if not self.is_full and len(found) + self.nused != self.ncut:
            found += self.blocks_in_gone_pages()
        if not self.is_full and len(found) + self.nused != self.ncut:
            fault = (f"{len(found)} free blocks and {self.nused} used ones are not "
                     f"the {self.ncut} that were cut")
        return found, fault

    def blocks_in_gone_pages(self):
        """Free blocks that are in no list: their pages went back to the system."""
        header = (int(self.record.address) + self.record.type.sizeof if self.is_medium
                  else self.address)
        gone = int(gdb.Value(header).cast(
            gdb.lookup_type("struct pool_header").pointer())["gone"])
        size = os.sysconf("SC_PAGE_SIZE")

        def pages(i):
            start = self.start - self.address + i * self.blocksize
            return range(start // size, (start + self.blocksize - 1) // size + 1)
        return [i for i in range(self.ncut) if any(gone >> page & 1 for page in pages(i))]

    def describe(self):
        kind = "medium" if self.is_medium else "small"
        state = "full" if self.is_full else "empty" if not self.nused else "used"
        return (f"{kind} pool {self.address:#x}: blocks of {self.blocksize} bytes, "
                f"{self.nused - len(self.waiting) - len(self.at_hand)} of {self.nblocks} used, "
                f"{self.ncut} cut, {state}, of {self.owner}")


class Arenas(gdb.Command):
    """All arenas: pymem-arenas"""

    def __init__(self):
        super().__init__("pymem-arenas", gdb.COMMAND_DATA)

    def invoke(self, argument, from_tty):
        heap, count, nbytes, used = Heap(), 0, 0, 0
        for of_heap, arena in heap.arenas():
            arenas = arena["set"].dereference()
            size, total = int(arenas["arena_size"]), int(arena["ntotalpools"])
            free = int(arena["nfreepools"])
            kind = "medium" if int(arenas["is_medium"]) else "small"
            gdb.write(f"{int(arena['address']):#x}  {size >> 10} KiB  {kind:6}  "
                      f"{total - free:2} of {total} pools used  "
                      f"{'#' * (total - free)}{'.' * free}  {owner_of(of_heap)}\n")
            count, nbytes, used = count + 1, nbytes + size, used + total - free
        gdb.write(f"{count} arenas of {nbytes >> 10} KiB, {used} pools used\n")


def pool_at(command, argument):
    """The address that was asked for, and its pool."""
    if not argument:
        raise gdb.GdbError(f"usage: {command} ADDRESS")
    address = number(argument)
    pool = Heap().pool_of(address)
    if pool is None:
        raise gdb.GdbError(f"{address:#x} is in no pool: never pymem's, freed with "
                           "its pool, a block that grows, or one of the raw domain")
    return address, pool


class PoolCommand(gdb.Command):
    """The pool that an address lies in: pymem-pool ADDRESS"""

    def __init__(self):
        super().__init__("pymem-pool", gdb.COMMAND_DATA, gdb.COMPLETE_EXPRESSION)

    def invoke(self, argument, from_tty):
        address, pool = pool_at("pymem-pool", argument)
        free, fault = pool.free_list()
        gdb.write(pool.describe() + "\n")
        gdb.write(f"free list: {' '.join(map(str, free)) or 'empty'}\n")
        if fault:
            gdb.write(f"broken: {fault}\n")


class BlockCommand(gdb.Command):
    """The block that an address lies in: pymem-block ADDRESS"""

    def __init__(self):
        super().__init__("pymem-block", gdb.COMMAND_DATA, gdb.COMPLETE_EXPRESSION)

    def invoke(self, argument, from_tty):
        address, pool = pool_at("pymem-block", argument)
        if not pool.start <= address < pool.start + pool.nblocks * pool.blocksize:
            raise gdb.GdbError(f"{address:#x} is in the {pool.describe()}, but in no "
                               "block of it")
        i = (address - pool.start) // pool.blocksize
        start = pool.start + i * pool.blocksize
        free, fault = pool.free_list()

        def state(n):
            address = pool.start + n * pool.blocksize
            return ("not there" if not 0 <= n < pool.nblocks else
                    "never used" if n >= pool.ncut else
                    "free" if n in free or address in pool.at_hand else
                    "freed by another heap's owner" if address in pool.waiting else "used")
        gdb.write(f"block {i} at {start:#x}, {pool.blocksize} bytes, {state(i)}; "
                  f"the address is its byte {address - start}\n")
        gdb.write(f"before it: {state(i - 1)}; behind it: {state(i + 1)}\n")
        word = gdb.lookup_type("void").pointer().sizeof
        head = bytes(gdb.selected_inferior().read_memory(start, 2 * word))
        if head[word:word + 1] in (b"r", b"m", b"o") and head[word + 1:] == b"\xfd" * (word - 1):
            gdb.write(f"debug hooks: API '{chr(head[word])}', "
                      f"{int.from_bytes(head[:word], 'big')} bytes asked for\n")
        gdb.write(f"in the {pool.describe()}\n")
        if fault:
            gdb.write(f"broken: {fault}\n")


class RecordPrinter:
    """struct pool"""

    def __init__(self, record):
        self.record = record

    def to_string(self):
        blocksize = int(self.record["blocksize"])
        if not blocksize:
            return "no pool"
        full = not int(self.record["next"])
        return (f"pool of {blocksize}-byte blocks, "
                + ("full" if full else f"{int(self.record['inuse'])} used")
                + f", free from {int(self.record['freeblock']):#x}")


class ArenaPrinter:
    """struct arena_object"""

    def __init__(self, arena):
        self.arena = arena

    def to_string(self):
        address = int(self.arena["address"])
        return (f"arena at {address:#x}, {int(self.arena['nfreepools'])} of "
                f"{int(self.arena['ntotalpools'])} pools free" if address
                else "no arena")


class AllocatorPrinter:
    """PyMemAllocatorEx"""

    def __init__(self, allocator):
        self.allocator = allocator

    def to_string(self):
        def name(field):
            function = int(self.allocator[field])
            symbol = gdb.execute(f"info symbol {function}", to_string=True).split()
            return symbol[0] if "section" in symbol else f"{function:#x}"
        return f"allocator {name('malloc')} ... {name('free')}, ctx " \
               f"{int(self.allocator['ctx']):#x}"


def register():
    printers = gdb.printing.RegexpCollectionPrettyPrinter("pymem")
    printers.add_printer("pool", "^pool$", RecordPrinter)
    printers.add_printer("arena", "^arena_object$", ArenaPrinter)
    printers.add_printer("allocator", "^PyMemAllocatorEx$", AllocatorPrinter)
    gdb.printing.register_pretty_printer(None, printers, replace=True)
    Arenas()
    PoolCommand()
    BlockCommand()


register()
