"""Symbols of ELF files of 32 and 64 bits, and the memory of a process."""

import bisect
import os
import struct
from functools import lru_cache
from typing import NamedTuple

SYMTAB, DYNSYM, LOAD = 2, 11, 1


class Form(NamedTuple):
    """How the structures of a file look, and which of their fields are where."""
    word_size: int              # bytes of a pointer
    tables: struct.Struct       # where segments and sections begin
    tables_at: int
    counts_at: int              # sizes and numbers of them, and which section has the names
    section: struct.Struct
    segment: struct.Struct
    segment_fields: tuple       # kind, offset, address
    symbol: struct.Struct
    symbol_fields: tuple        # name, info, section, value, size


def form_of(data, path):
    order = {1: "<", 2: ">"}.get(data[5])
    if data[:4] != b"\x7fELF" or data[4] not in (1, 2) or order is None:
        raise ValueError(f"{path} is no ELF file")

    def structure(fields):
        return struct.Struct(order + fields)
    if data[4] == 1:
        return Form(4, structure("II"), 28, 42, structure("10I"), structure("8I"), (0, 1, 2),
                    structure("IIIBBH"), (0, 3, 5, 1, 2))
    return Form(8, structure("QQ"), 32, 54, structure("IIQQQQIIQQ"), structure("IIQQQQQQ"),
                (0, 2, 3), structure("IBBHQQ"), (0, 1, 3, 4, 5))


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
    word_size = struct.calcsize("P")        # bytes of a pointer there; this process's

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
        form = form_of(data, path)
        self.path, self.word_size = path, form.word_size
        tables = form.tables.unpack_from(data, form.tables_at)
        phentsize, phnum, shentsize, shnum, names = struct.unpack_from(
            form.tables.format[0] + "5H", data, form.counts_at)
        self.load_address = self._load_address(
            form, (form.segment.unpack_from(data, tables[0] + i * phentsize)
                   for i in range(phnum)))
        sections = [form.section.unpack_from(data, tables[1] + i * shentsize)
                    for i in range(shnum)]
        self._read_notes(data, sections, sections[names][4] if sections else 0)
        self._read_symbols(data, form, sections)

    @staticmethod
    def _load_address(form, segments):
        for fields in segments:
            kind, offset, address = (fields[i] for i in form.segment_fields)
            if kind == LOAD:
                return address - offset
        return 0

    def _read_notes(self, data, sections, names):
        self.has_lines, self.build_id = False, ""
        for name, _, _, _, offset, size, *_ in sections:
            name = data[names + name:data.index(b"\0", names + name)]
            self.has_lines = self.has_lines or name == b".debug_line"
            if name == b".note.gnu.build-id":
                self.build_id = data[offset + 16:offset + size].hex()

    def _read_symbols(self, data, form, sections):
        self.addresses, found = {}, []
        for _, kind, _, _, offset, size, link, *_ in sections:
            if kind not in (SYMTAB, DYNSYM):
                continue
            strings = sections[link][4]
            for fields in form.symbol.iter_unpack(data[offset:offset + size]):
                name, info, section, value, length = (fields[i] for i in form.symbol_fields)
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
