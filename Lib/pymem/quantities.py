"""Sizes and times as a person writes them, for options and marks.

    size_of("24 MiB")       bytes; also 24M, 24MB (of 1000), 1.5k, 4096
    seconds_of("5m")        seconds; also 300, 300s, 0.5h, 200ms

ValueError: what is wrong and what would be right, in a line.
"""

import re
import sys
from threading import TIMEOUT_MAX

SIZES = {"": 1, "b": 1, **{f"{letter}{end}": (1000 if end == "b" else 1024) ** power
                           for power, letter in enumerate("kmgt", 1)
                           for end in ("", "b", "ib")}}
TIMES = {"": 1, "ms": 0.001, "s": 1, "m": 60, "h": 3600}
QUANTITY = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([A-Za-z]*)\s*")


def quantity(text, units):
    """None: it is none, or of another unit."""
    match = QUANTITY.fullmatch(text)
    scale = units.get(match[2].lower()) if match else None
    if scale is None:
        return None
    return float(match[1]) * scale if "." in match[1] else int(match[1]) * scale


def size_of(text):
    found = quantity(text, SIZES)
    if found is None or found > sys.maxsize:
        raise ValueError(f"{text!r} is no size, as \"24 MiB\", 512K or 4096")
    return int(found)


def seconds_of(text):
    """Over 0."""
    found = quantity(text, TIMES)
    if not found or not 0 < found <= TIMEOUT_MAX:
        raise ValueError(f"{text!r} is no time over 0, as 60s, 5m, 1h or 200ms")
    return float(found)
