#!/usr/bin/python3
"""Instructions of a pair of malloc and free, counted by Callgrind.

    bench_instructions.py [--build=DIR] [LIBRARY...]

For each libpymem.so (without one BUILD's) and each kind of pair: how many instructions
it takes, with malloc's and free's of the C library and some ten of the loop.  The figures
are exact and the same on a machine that does other things, so they show what a change
costs; Valgrind's callgrind is needed.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]

# What it is called: the functions' prefix, the size, blocks that stay.
PAIRS = {"small": ("PyObject_", 64, 10), "small, alone": ("PyObject_", 64, 0),
         "medium": ("PyObject_", 1000, 10), "medium, alone": ("PyObject_", 1000, 0),
         "40,000 bytes": ("PyObject_", 40_000, 0), "raw": ("PyMem_Raw", 64, 0)}


def count(worker, library, prefix, size, live, pairs):
    with tempfile.NamedTemporaryFile() as out:
        result = subprocess.run(
            ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out.name}",
             *map(str, (worker, library, prefix, size, live, pairs))],
            text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env={**os.environ, "PYMEM_MEDIUM": "pools"})    # the live blocks, too
    collected = re.search(r"Collected : (\d+)", result.stdout)
    if result.returncode != 0 or collected is None:
        sys.exit(f"bench: valgrind failed:\n{result.stdout}")
    return int(collected.group(1))


def of_a_pair(worker, library, kind):
    """The first pairs do more: they count on both sides."""
    few, many = 1000, 5000
    return round((count(worker, library, *PAIRS[kind], many)
                  - count(worker, library, *PAIRS[kind], few)) / (many - few))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--build", type=Path, default=TOP / "build")
    parser.add_argument("libraries", nargs="*", type=Path, metavar="LIBRARY")
    options = parser.parse_args()
    libraries = options.libraries or [options.build / ".libs" / "libpymem.so"]
    worker = options.build.resolve() / "bench-pairs"
    for library in libraries:
        print(library)
        for kind in PAIRS:
            print(f"  {kind:24}{of_a_pair(worker, library.resolve(), kind):6}")


if __name__ == "__main__":
    main()
