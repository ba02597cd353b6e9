"""What readelf says of a file, for tests of what is installed."""

import re

from conftest import run


def readelf(option, path):
    result = run("readelf", "-W", option, path)
    assert result.returncode == 0, result.stderr
    return result.stdout


def is_elf(path):
    return path.is_file() and path.read_bytes()[:4] == b"\x7fELF"


def checked_calls(path):
    """Of the C library's functions, those that know the size of what they write."""
    return set(re.findall(r"UND (__\w+_chk)\b", readelf("--dyn-syms", path)))


def is_bound_at_once(path):
    """All addresses are looked up when it is loaded, and then their table is read-only."""
    return (re.search(r"\(FLAGS_1\).*\bNOW\b", readelf("-d", path)) is not None
            and "GNU_RELRO" in readelf("-l", path))
