"""Profiles in the format of pprof: a gzip file of a protocol buffer (profile.proto)."""

import gzip
import time


def varint(number):
    out = bytearray()
    while True:
        byte = number & 127
        number >>= 7
        out.append(byte | (128 if number else 0))
        if not number:
            return bytes(out)


def field(number, value):
    """A number, or bytes of another message or string."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def packed(number, values):
    return field(number, b"".join(map(varint, values)))


class Profile:
    def __init__(self):
        self.strings = {"": 0}
        self.functions, self.locations = {}, {}
        self.samples = []

    def string(self, text):
        return self.strings.setdefault(text, len(self.strings))

    def location(self, frame):
        function = self.functions.setdefault((frame.name, frame.file),
                                             len(self.functions) + 1)
        return self.locations.setdefault((function, frame.line), len(self.locations) + 1)

    def add(self, frames, blocks, nbytes):
        """frames from the outermost on."""
        self.samples.append(
            packed(1, [self.location(frame) for frame in reversed(frames)])
            + packed(2, [blocks, nbytes]))

    def value_type(self, kind, unit):
        return field(1, self.string(kind)) + field(2, self.string(unit))

    def encode(self):
        types = [self.value_type("inuse_objects", "count"),
                 self.value_type("inuse_space", "bytes")]
        message = b"".join(field(1, kind) for kind in types)
        message += b"".join(field(2, sample) for sample in self.samples)
        for (function, line), number in self.locations.items():
            message += field(4, field(1, number) + field(
                4, field(1, function) + field(2, line)))
        for (name, file), number in self.functions.items():
            message += field(5, field(1, number) + field(2, self.string(name))
                             + field(3, self.string(name)) + field(4, self.string(file)))
        default = self.string("inuse_space")
        message += b"".join(field(6, text.encode()) for text in self.strings)
        return message + field(9, time.time_ns()) + field(14, default)

    def write(self, path):
        with gzip.open(path, "wb") as file:
            file.write(self.encode())
