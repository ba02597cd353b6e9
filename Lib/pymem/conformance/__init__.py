"""Promises that an allocator under Python must keep, asked of any.

    command.py    python -m pymem conformance: what to test, which promises
    subjects.py   a shared object, a CPython, PyPy: how a child of it is started
    runner.py     one child for each promise; what became of it
    report.py     the table, JSON, JUnit
    child.py      in the child, of any Python since 3.8
    api.py        the functions of the subject, and the driver (driver.c, load.c)
    promises.py   what a promise is; the list of all of them
    contract.py, hooks.py, arenas.py, debug.py, statistics.py, threads.py,
    nomemory.py   the promises

The tests of this project ask the same promises of its own library.
"""
