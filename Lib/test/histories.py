"""Files of python -m pymem track that are written here, moment by moment."""

import os

from pymem import history

FACTS = {"command": ["app.py"], "folder": "/nowhere", "pid": 1, "parent": None, "started": 0.0,
         "python": "3.11.2", "frames": 5, "sample_bytes": 0}


def new_history(path, **facts):
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
    return history.Writer(path, descriptor, {**FACTS, **facts})


def write_history(path, nmoments):
    writer = new_history(path)
    stack = (("app.py", 1), ("déjà.py", 300, "A.naïve"))
    for moment in range(nmoments):
        writer.add(moment, [(stack[:1], {(0, 100): 2}), (stack, {(0, 1 << 40): 1 - moment}),
                            (stack, {(389047, 0): -1 if moment else 200})])
    writer.end()
    writer.close()
