"""Files that have stacks: JSON of attach, leaks and report, histories of track, and snapshots
of tracemalloc.

    stacks = load(path)                 pymem.flame.Stacks; None: the file is none of these
"""

import json
import pickle
import tracemalloc
from pathlib import Path

from pymem import flame, history
from pymem.heap import HeapError


def load_snapshot(path):
    try:
        snapshot = tracemalloc.Snapshot.load(path)
    except (pickle.UnpicklingError, EOFError, AttributeError, ImportError, IndexError,
            ValueError):
        snapshot = None
    if not isinstance(snapshot, tracemalloc.Snapshot):
        raise HeapError(f"{path} is no snapshot of tracemalloc")
    return flame.of_snapshot(snapshot)


def load_history(path):
    from pymem.report import Part, Program
    program = Program([history.read(path)])
    return Part(program, program.at()).stacks()


def load(path):
    with open(path, "rb") as file:
        start = file.read(1)
    if start == b"\x80":
        return load_snapshot(path)
    if start == history.MAGIC[:1]:
        return load_history(path)
    if start != b"{" and not path.endswith(".json"):
        return None
    try:
        return flame.of_record(json.loads(Path(path).read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        if path.endswith(".json"):
            raise HeapError(f"{path} is no JSON that attach, leaks or report wrote") from None
    return None


def load_earlier(path):
    """What --compare names."""
    stacks = load(path)
    if stacks is None:
        raise HeapError(f"{path} has no stacks; --compare takes a file of track, attach, leaks, "
                        "report --format json or Snapshot.dump()")
    return stacks
