"""A history: what a program held at each moment, in a file that grows while it runs.

    writer = Writer(path, descriptor, process)      process: a dict that JSON can hold
    writer.add(seconds, changes)        changes: [(lines, {(domain, size): more blocks})]
    history = read(path)                HeapError: why it can't be read, in a line

Lines are from the outermost on, (file, line) or (file, line, function).  Doc/history.rst says
what stands in the file.  Each record is appended by one write and has a checksum, so that a
file which was cut off anywhere, or is still written, is read up to its last whole record.
"""

import json
import os
import struct
import zlib
from functools import lru_cache
from itertools import islice

from pymem.heap import HeapError
from pymem.pprof import varint

MAGIC, VERSION = b"\x89pymem\r\n", 1
HEADER = struct.Struct("<8sI")          # MAGIC, VERSION
RECORD = struct.Struct("<cII")          # kind, bytes of the body, CRC-32 of kind and body
PROCESS, MOMENT, END = b"P", b"M", b"E"
LEVEL = 6                               # of compression
MICROSECONDS = 1_000_000

number = lru_cache(maxsize=4096)(varint)


def signed(value):
    """0, -1, 1, -2 ... as 0, 1, 2, 3 ..., which are short where the value is near 0."""
    return number(value << 1 if value >= 0 else ~value << 1 | 1)


def add_blocks(blocks, more):
    """Of {(domain, size): blocks}."""
    for key, count in more.items():
        blocks[key] = blocks.get(key, 0) + count
    return blocks


def record(kind, body):
    return RECORD.pack(kind, len(body), zlib.crc32(kind + body)) + body


class Writer:
    """Strings and nodes have numbers, from 1 on, in the order in which they are written.  A
    node is a line that the line of another node called, or of node 0, which is none."""

    def __init__(self, path, descriptor, process):
        self.path, self.descriptor, self.nmoments = path, descriptor, 0
        self.strings, self.nodes = {}, {}
        self.nstrings = self.nnodes = 0     # so many of them are written
        status = os.fstat(descriptor)
        self.file = status.st_dev, status.st_ino
        self.write(HEADER.pack(MAGIC, VERSION)
                   + record(PROCESS, json.dumps(process).encode()))

    def is_open(self):
        """A program may close all files, and have others with their descriptors."""
        try:
            status = os.fstat(self.descriptor)
        except OSError:
            return False
        return (status.st_dev, status.st_ino) == self.file

    def write(self, data):
        if not self.is_open():
            self.descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
            if not self.is_open():
                os.close(self.descriptor)
                raise OSError("another file has its name")
        while data:
            data = data[os.write(self.descriptor, data):]

    def string(self, text):
        found = self.strings.get(text)
        if found is None:
            found = self.strings[text] = len(self.strings) + 1
        return found

    def node(self, lines):
        """The number of a stack."""
        at = 0
        for file, line, *function in lines:
            key = at, self.string(file), line, self.string(function[0]) if function else 0
            at = self.nodes.get(key)
            if at is None:
                at = self.nodes[key] = len(self.nodes) + 1
        return at

    def add(self, seconds, changes):
        """Where there is no memory for it, the next moment can have the same."""
        of_nodes = {}
        for lines, blocks in changes:
            add_blocks(of_nodes.setdefault(self.node(lines), {}), blocks)
        parts = [varint(round(seconds * MICROSECONDS)),
                 number(len(self.strings) - self.nstrings)]
        for text in islice(self.strings, self.nstrings, None):
            data = text.encode("utf-8", "surrogatepass")
            parts += number(len(data)), data
        parts.append(number(len(self.nodes) - self.nnodes))
        for key in islice(self.nodes, self.nnodes, None):
            parts += map(number, key)
        parts.append(number(len(of_nodes)))
        for node, blocks in of_nodes.items():
            parts += number(node), number(len(blocks))
            for (domain, size), more in blocks.items():
                parts += number(domain), number(size), signed(more)
        self.write(record(MOMENT, zlib.compress(b"".join(parts), LEVEL)))
        self.nstrings, self.nnodes = len(self.strings), len(self.nodes)
        self.nmoments += 1

    def end(self):
        self.write(record(END, b""))

    def close(self):
        if self.is_open():
            os.close(self.descriptor)


class Numbers:
    """Of a body, one after the other."""

    def __init__(self, body):
        self.body, self.at = body, 0

    def next(self):
        value = shift = 0
        while True:
            byte = self.body[self.at]
            self.at += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7

    def next_signed(self):
        value = self.next()
        return ~(value >> 1) if value & 1 else value >> 1

    def text(self):
        end = self.next() + self.at
        data, self.at = self.body[self.at:end], end
        return data.decode("utf-8", "surrogatepass")


class History:
    """process: what is known of it.  times: seconds from its start to each moment.  totals:
    bytes at each.  cut: where whole records end, if something is behind them; else None."""

    def __init__(self, path):
        self.path, self.process, self.is_ended, self.cut = path, None, False, None
        self.times, self.totals = [], []
        self.strings, self.files, self.stacks = [""], {}, [()]      # by their numbers
        self.changes = []       # at each moment, [(number of the stack, blocks)]

    @property
    def sample_bytes(self):
        return self.process["sample_bytes"]

    def file(self, string):
        """A source may be named from the folder on in which the program started."""
        found = self.files.get(string)
        if found is None:
            name = self.strings[string]
            path = os.path.join(self.process["folder"], name)
            found = self.files[string] = path if os.path.exists(path) else name
        return found

    def add_moment(self, numbers):
        seconds = numbers.next() / MICROSECONDS
        self.strings += [numbers.text() for _ in range(numbers.next())]
        for _ in range(numbers.next()):
            caller, file, line, function = (numbers.next() for _ in range(4))
            named = (self.strings[function],) if function else ()
            self.stacks.append((*self.stacks[caller],
                                (self.file(file), line, *named)))
        total, changes = self.totals[-1] if self.totals else 0, []
        for _ in range(numbers.next()):
            stack, blocks = numbers.next(), {}
            for _ in range(numbers.next()):
                domain, size = numbers.next(), numbers.next()
                blocks[domain, size] = more = numbers.next_signed()
                total += more * size
            changes.append((self.stacks[stack], blocks))
        self.times.append(seconds)
        self.totals.append(total)
        self.changes.append(changes)

    def add_record(self, kind, body):
        """Kinds that are not known may be of a later writer."""
        if kind == PROCESS:
            process = json.loads(body.decode())
            self.process = {**process, "started": float(process["started"]),
                            "sample_bytes": int(process["sample_bytes"])}
        elif kind == MOMENT:
            self.add_moment(Numbers(zlib.decompress(body)))
        elif kind == END:
            self.is_ended = True

    def held(self, nmoments):
        """{lines: {(domain, size): blocks}} after so many moments."""
        held = {}
        for changes in self.changes[:nmoments]:
            for lines, blocks in changes:
                add_blocks(held.setdefault(lines, {}), blocks)
        return held


def is_history(path):
    """Or a part of one."""
    with open(path, "rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def check_header(path, data):
    if not data:
        raise HeapError(f"{path} is empty; pymem track writes what report reads")
    if data[:8] != MAGIC[:len(data)]:
        raise HeapError(f"{path} is no history of a program, as pymem track writes it")
    if len(data) >= HEADER.size and HEADER.unpack_from(data)[1] != VERSION:
        raise HeapError(f"{path} has version {HEADER.unpack_from(data)[1]} of the format; "
                        f"this pymem reads version {VERSION}")


def read(path):
    with open(path, "rb") as file:
        data = file.read()
    check_header(path, data)
    history, at = History(path), HEADER.size
    while at + RECORD.size <= len(data):
        kind, length, checksum = RECORD.unpack_from(data, at)
        body = data[at + RECORD.size:at + RECORD.size + length]
        if len(body) < length or zlib.crc32(kind + body) != checksum:
            break
        try:
            history.add_record(kind, body)
        except (IndexError, KeyError, OverflowError, TypeError, ValueError, zlib.error):
            raise HeapError(f"{path} can't be read: its record at byte {at:,} is not as "
                            "pymem track writes it") from None
        at += RECORD.size + length
    if not history.times or not history.process:
        raise HeapError(f"{path} has no whole moment in it: the program ended before, or the "
                        "file was cut off")
    history.cut = at if at < len(data) else None
    return history
