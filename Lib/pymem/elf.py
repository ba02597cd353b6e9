"""Symbols of ELF files of 64 bits, and the memory of a process."""

import bisect
import os
import struct
from functools import lru_cache
from typing import NamedTuple

SECTION = struct.Struct("<IIQQQQIIQQ")
SEGMENT = struct.Struct("<IIQQQQQQ")
SYMBOL = struct.Struct("<IBBHQQ")
SYMTAB, DYNSYM, LOAD = 2, 11, 1


class Mapping(NamedTuple):
    """A line of /proc/PID/maps."""
    start: int
    end: int
    access: str
    offset: int
    path: str


def mappings(pid="self"):
    result = []
    with open(f"/proc/{pid}/maps", encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            addresses, access, offset, _, _, *path = line.rstrip("\n").split(None, 5)
            start, end = addresses.split("-")
            result.append(Mapping(int(start, 16), int(end, 16), access, int(offset, 16),
                                  path[0] if path else ""))
    return result


class Memory:
    """Of a process: what is mapped, and what is there."""

    def __init__(self, pid="self"):
        self.file = open(f"/proc/{pid}/mem", "rb", buffering=0)
        self.maps = mappings(pid)

    def read(self, address, size):
        """The bytes there; None where there is no memory."""
        try:
            data = os.pread(self.file.fileno(), size, address)
        except (OSError, OverflowError):
            return None
        return data if len(data) == size else None

    def close(self):
        self.file.close()


class Symbols:
    """Of one file: by name and by address, both as in the file."""

    def __init__(self, path):
        with open(path, "rb") as file:
            data = file.read()
        self.addresses, self.load_address, found = {}, 0, []
        if data[:5] != b"\x7fELF\x02":
            raise ValueError(f"{path} is no ELF file of 64 bits")
        phoff, shoff = struct.unpack_from("<QQ", data, 32)
        phentsize, phnum, shentsize, shnum = struct.unpack_from("<HHHH", data, 54)
        for i in range(phnum):
            kind, _, offset, address, *_ = SEGMENT.unpack_from(data, phoff + i * phentsize)
            if kind == LOAD:
                self.load_address = address - offset
                break
        sections = [SECTION.unpack_from(data, shoff + i * shentsize) for i in range(shnum)]
        self.path, self.has_lines, self.build_id = path, False, ""
        names = sections[struct.unpack_from("<H", data, 62)[0]][4] if sections else 0
        for name, _, _, _, offset, size, *_ in sections:
            name = data[names + name:data.index(b"\0", names + name)]
            self.has_lines = self.has_lines or name == b".debug_line"
            if name == b".note.gnu.build-id":
                self.build_id = data[offset + 16:offset + size].hex()
        for _, kind, _, _, offset, size, link, *_ in sections:
            if kind not in (SYMTAB, DYNSYM):
                continue
            strings = sections[link][4]
            for name, info, _, section, value, length in SYMBOL.iter_unpack(
                    data[offset:offset + size]):
                if section and name and info & 15 in (0, 1, 2):
                    end = data.index(b"\0", strings + name)
                    text = data[strings + name:end].decode("ascii", "replace")
                    self.addresses.setdefault(text, value)
                    if info & 15 == 2:
                        found.append((value, length, text))
        self.functions = sorted(set(found))

    def debug_file(self):
        """Which file has the lines of the source; None: neither this one, nor one beside."""
        if self.has_lines:
            return self.path
        beside = f"/usr/lib/debug/.build-id/{self.build_id[:2]}/{self.build_id[2:]}.debug"
        return beside if self.build_id and os.path.exists(beside) else None

    def function_at(self, address):
        i = bisect.bisect_right(self.functions, (address, float("inf"), "")) - 1
        if i < 0:
            return None
        start, length, name = self.functions[i]
        return name if address < start + max(length, 1) else None


@lru_cache(maxsize=None)
def symbols(path):
    """Symbols of a file, or None where it has none that can be read."""
    try:
        return Symbols(path)
    except (OSError, ValueError, struct.error, IndexError):
        return None
