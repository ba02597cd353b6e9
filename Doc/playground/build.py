"""Build the playground of the documentation: the library as WebAssembly, and a trace.

    python3 Doc/playground/build.py --output=playground [--record=record.so] SOURCE...

Makefile.am calls it with the library's sources.  In the folder are afterwards

    GEOMETRY-RULE.js   a module, packed (gzip, base64): a page that lies in a file may load a
                       script and no other file
    traces.js          calls of a Python program, recorded by record.so

--native=PROGRAM compiles the same for this machine instead, for the tests.
"""

import argparse
import base64
import gzip
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
TOP = HERE.parent.parent
sys.path.insert(0, str(TOP / "Lib"))
from pymem.recording import record  # noqa: E402

GEOMETRIES = {"default": (20, 14), "classic": (18, 12)}         # bits of an arena, of a pool
RULES = "ours", "cpython"
WASM = ["--target=wasm32-wasi", "-mexec-model=reactor", "-nostdlibinc",
        "-isystem", "/usr/include/wasm32-wasi", f"-I{HERE / 'wasi'}", "-DGEOMETRY_OF_64_BIT",
        "-Oz", "-flto", "-Wl,--strip-all", "-Wl,--gc-sections",
        "-lc-printscan-no-floating-point"]
NATIVE = ["-O0", "-pthread"]
CALLS = 3000                    # of the trace
RECORDED = """
import json, marshal
marshal.dumps([bytes(487 - bytes.__basicsize__)])      # 487 bytes: here it begins
people = json.loads('[%s]' % ', '.join(
    '{"name": "person %d", "age": %d, "likes": ["tea", "snakes", %d.5]}' % (i, i % 90, i)
    for i in range(120)))
by_age = {}
for person in people:
    by_age.setdefault(person["age"], []).append(person["name"].upper())
text = json.dumps(by_age, indent=1)
"""
MALLOC, FREE, REALLOC, CALLOC = range(4)


def configuration(folder, geometry):
    """The pyconfig.h of a plain build of that geometry."""
    arena_bits, pool_bits = GEOMETRIES[geometry]
    text = (TOP / "Include/pyconfig.h.in").read_text()
    text = text.replace("@arena_bits@", str(arena_bits)).replace("@pool_bits@", str(pool_bits))
    for name in "WITH_PYMALLOC", "WITH_MEDIUM_POOLS":
        text = text.replace(f"#@DEFINE_{name}@", f"#define {name} 1")
    (folder / "pyconfig.h").write_text(re.sub(r"#@DEFINE_\w+@", "", text))


def compile_to(output, compiler, options, sources, geometry, rule):
    if rule == "cpython":
        options = options + ["-include", str(HERE / "cpythonrings.h")]
        sources = [source for source in sources if Path(source).name != "rings.c"]
    with tempfile.TemporaryDirectory() as folder:
        configuration(Path(folder), geometry)
        # -l comes last: it is for what the sources ask.
        libraries = [option for option in options if option.startswith("-l")]
        subprocess.run(
            [*shlex.split(compiler), "-std=gnu11", "-fvisibility=hidden",
             *(option for option in options if option not in libraries),
             f"-I{folder}", f"-I{TOP / 'Include'}", f"-I{TOP / 'Include/internal'}",
             *(str(TOP / source) for source in sources), *libraries, "-o", str(output)],
            check=True)


def pack(module):
    packed = base64.b64encode(gzip.compress(module.read_bytes(), 9, mtime=0)).decode()
    return f'(globalThis.pymemModules ??= {{}})["{module.stem}"] =\n"{packed}";\n'


# The trace

def numbers(data):
    value = shift = 0
    for byte in data:
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            yield value
            value = shift = 0


def calls_of(data):
    """(what, slot, size) of each."""
    words = numbers(data[8:])
    for word in words:
        what = word % 4
        yield what, word // 4, 0 if what == FREE else next(words)


def cut(calls):
    """From the mark on, some thousand, of blocks that were asked for there: as numbers.  A
    slot is used again, but here each block has a number of its own."""
    found, ncalls, nblocks, live, result = False, 0, 0, {}, []
    for what, slot, size in calls:
        found = found or (what in (MALLOC, CALLOC) and size == 487)
        if not found or (what == FREE and slot not in live):
            continue
        if slot not in live:
            what = MALLOC if what == REALLOC else what
            live[slot], nblocks = nblocks, nblocks + 1
        number = live.pop(slot) if what == FREE else live[slot]
        result += [number * 4 + what] + ([] if what == FREE else [size])
        ncalls += 1
        if ncalls == CALLS:
            break
    return result


def record_calls(library, python):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace"
        record(library, path, [python, "-S", "-c", RECORDED],
               {**os.environ, "PYTHONHASHSEED": "0"}, check=True)
        return cut(calls_of(path.read_bytes()))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cc", default="clang", help="a compiler for WebAssembly (clang)")
    parser.add_argument("--output", type=Path, default=Path("playground"))
    parser.add_argument("--record", help="record.so; without it there is no trace")
    parser.add_argument("--python", default="/usr/bin/python3", help="which one is recorded")
    parser.add_argument("--native", metavar="PROGRAM", help="compile for this machine")
    parser.add_argument("--geometry", choices=GEOMETRIES, default="default")
    parser.add_argument("--rule", choices=RULES, default="ours")
    parser.add_argument("sources", nargs="+")
    options = parser.parse_args()
    if options.native:
        compile_to(options.native, options.cc, NATIVE, options.sources, options.geometry,
                   options.rule)
        return
    options.output.mkdir(exist_ok=True)
    for geometry in GEOMETRIES:
        for rule in RULES:
            module = options.output / f"{geometry}-{rule}.wasm"
            compile_to(module, options.cc, WASM, options.sources, geometry, rule)
            module.with_suffix(".js").write_text(pack(module))
            module.unlink()
    traces = {"json": record_calls(options.record, options.python)} if options.record else {}
    (options.output / "traces.js").write_text(
        f"globalThis.pymemTraces =\n{json.dumps(traces, separators=(',', ':'))};\n")


if __name__ == "__main__":
    sys.exit(main())
