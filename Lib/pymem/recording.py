"""Records the calls of a program with record.so, for replay.py, benchmarks and pictures."""

import os
import subprocess
from pathlib import Path


def record(library, trace, command, environment=os.environ, **options):
    """Runs a command as subprocess.run() does, in the folder of record.so: LD_PRELOAD ends at
    a space, and a folder may have one."""
    library = Path(library).resolve()
    return subprocess.run(command, cwd=library.parent, env={
        **environment, "LD_PRELOAD": f"./{library.name}",
        "PYMEM_TRACE": str(Path(trace).resolve())}, **options)
