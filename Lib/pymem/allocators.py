"""The allocators of this machine, and the program that plays requests on one of them.

Its source is Tools/bench/worker.c: each run is a separate process.
"""

import ctypes.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple, Optional

OURS, STOCK = "pymem", "CPython"
LIBPYTHON = "libpython%d.%d.so.1.0" % sys.version_info[:2]


class Allocator(NamedTuple):
    library: str                # "-": of the process
    prefix: str                 # of Malloc, Realloc, Free; "-": malloc and so on
    preloaded: Optional[str] = None
    environment: tuple = ()     # pairs


def find_library(*names):
    """A shared library as the dynamic linker finds it, or None."""
    for name in names:
        for directory in ("/usr/lib/x86_64-linux-gnu", "/usr/lib",
                          "/usr/lib/aarch64-linux-gnu"):
            path = Path(directory) / name
            if path.exists():
                return str(path)
        found = ctypes.util.find_library(name.split(".so")[0][3:])
        if found:
            return found
    return None


def find_allocators(build):
    """{name: Allocator}, those that are here; STOCK is that of this Python's shared
    library."""
    allocators = {}
    for folder in (build / ".libs", build.parent.parent):
        if (folder / "libpymem.so").exists():
            allocators[OURS] = Allocator(str(folder / "libpymem.so"), "PyObject_")
            break
    python = find_library(LIBPYTHON)
    if python is not None:
        allocators[STOCK] = Allocator(python, "PyObject_")
    allocators["glibc"] = Allocator("-", "-")
    for name, libraries in {
            "mimalloc": ("libmimalloc.so.2", "libmimalloc.so.2.0", "libmimalloc.so.3"),
            "jemalloc": ("libjemalloc.so.2",),
            "tcmalloc": ("libtcmalloc_minimal.so.4",)}.items():
        library = find_library(*libraries)
        if library is not None:
            allocators[name] = Allocator("-", "-", library)
    return allocators


class WorkerFailed(Exception):
    """What it said."""


def run_worker(worker, allocator, *arguments):
    """What it prints, an object a line."""
    environment = {"PATH": os.environ.get("PATH", ""), **dict(allocator.environment)}
    if allocator.preloaded:
        environment["LD_PRELOAD"] = allocator.preloaded
    result = subprocess.run([str(worker), allocator.library, allocator.prefix,
                             *map(str, arguments)], env=environment,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            universal_newlines=True)
    if result.returncode != 0:
        raise WorkerFailed(f"{' '.join(map(str, arguments))} on {allocator.library} "
                           f"failed: {result.stderr.strip()}")
    return [json.loads(line) for line in result.stdout.splitlines()]
