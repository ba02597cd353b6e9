"""The picture of the layers in CONTRIBUTING.rst: includes and calls go down."""

import re
import shutil

import pytest

from conftest import BUILD, C_SOURCES, TOP, run

# {(file, header): why it is above}
INCLUDES_UP = {
    ("shortways.c", "pycore_pymem.h"): "a short way depends on the domain's functions"}
# {(caller, function): why it is above}
CALLS_UP = {
    ("pools", "_PyObject_DebugMallocStats"): "PYTHONMALLOCSTATS prints at each new arena",
    ("memdebug", "_PyMem_DumpTraceback"): "a message says where the block was allocated",
    ("hardoptions", "_PyMem_DumpTraceback"): "a message says where the block was allocated"}


def layers():
    """{name: layer}, the lowest is 0."""
    text = (TOP / "CONTRIBUTING.rst").read_text()
    picture = re.search(r"^    outside .*?\n(?=\S)", text, re.M | re.S)[0]
    rows = [row.split() for row in picture.replace("\n              ", " ").split("\n") if row]
    rows = [row[1:] for row in rows if row and row != ["|"]]
    return {name: len(rows) - 1 - i for i, row in enumerate(rows) for name in row}


LAYERS = layers()
HEADERS = list((TOP / "Include" / "internal").glob("pycore_*.h"))


def name_of(path):
    return path.stem.replace("pycore_", "")


def test_every_file_is_in_the_picture():
    names = {name_of(path) for path in [*C_SOURCES, *HEADERS]} - {"host"}
    assert names - set(LAYERS) == set()
    assert set(LAYERS) - {"host"} - names == set()


def test_includes_go_down():
    """Headers without pycore_ are the contract, which every layer knows."""
    up = set()
    for path in [*C_SOURCES, *HEADERS]:
        if path.name == "pycore_host.h":
            continue
        for header in re.findall(r'^# *include "(pycore_\w+\.h)"', path.read_text(), re.M):
            name = header[len("pycore_"):-len(".h")]
            if name != "host" and LAYERS[name] > LAYERS[name_of(path)]:
                up.add((path.name, header))
    assert up - set(INCLUDES_UP) == set()


def functions_of_the_host():
    return set(re.findall(r"\b(_?Py\w+)\(", (
        TOP / "Include" / "internal" / "pycore_host.h").read_text()))


def symbols(path):
    """(what it defines, what it needs), of a file of the library in the build."""
    folder = BUILD / path.parent.relative_to(TOP) / ".libs"
    objects = folder.glob(f"libpymem[cth]*_la-{path.stem}.o")
    objects = [path for path in objects if "beside" not in path.name]
    defined, needed = set(), set()
    for line in run("nm", *objects).stdout.splitlines() if objects else ():
        kind, symbol = line.split()[-2:]
        if kind == "U":
            needed.add(symbol)
        elif kind in "TDBRVWC":
            defined.add(symbol)
    return defined, needed


@pytest.mark.skipif(shutil.which("nm") is None, reason="needs nm (Debian: binutils)")
def test_calls_go_down():
    """By the symbols of the object files, data too."""
    found = {name_of(path): symbols(path) for path in C_SOURCES}
    assert sum(bool(defined) for defined, _ in found.values()) > 20
    # The host replaces some weak symbols of layers below it, which stay theirs.
    owner = {symbol: name for name in sorted(found, key=LAYERS.get, reverse=True)
             for symbol in found[name][0]}
    of_the_host = functions_of_the_host()
    up = {(name, symbol): owner[symbol] for name, (_, needed) in found.items()
          for symbol in needed - of_the_host
          if symbol in owner and LAYERS[owner[symbol]] > LAYERS[name]}
    assert {call: above for call, above in up.items() if call not in CALLS_UP} == {}


def test_the_names_of_the_domains_stand_once():
    """In C in one header; in Python beside it, and equal."""
    from pymem.conformance.subjects import DOMAIN_NAMES
    names = '{"raw", "mem", "object"}'
    files = [path for folder in ("Include", "Objects", "Python", "Modules", "Programs")
             for path in (TOP / folder).rglob("*.[ch]")]
    [header] = [path for path in files if names in path.read_text()]
    assert header.name == "pycore_domainnames.h"
    assert DOMAIN_NAMES == re.findall(r'"(\w+)"', names)
