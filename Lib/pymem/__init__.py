"""Tools around CPython's memory subsystem; each module says what it is for.

    pymem.trim()                    give unused memory back now

PYTEST_DONT_REWRITE: else pytest, which looks through each package that has a plugin of it,
warns where one of these tools runs it.
"""


def beside(name):
    """The path of a file that belongs to this package and is no module of it: in it as pip
    installs it, or beside it in a build.  None: it is not there."""
    from os.path import abspath
    from pathlib import Path
    here = Path(abspath(__file__)).parent       # of a build it is a link to the sources
    return next((path for path in (here / name, here.parent / name) if path.is_file()), None)


def check_writable(*paths):
    """Before minutes of work whose results go there, and which may be refused: no file is
    left.  None: that one is not wanted."""
    import os
    for path in filter(None, paths):
        is_new = not os.path.exists(path)
        with open(path, "a", encoding="utf-8"):
            pass
        if is_new:
            os.unlink(path)


def file_name(pattern):
    """%p is the PID, %% a %."""
    import os
    import re
    return re.sub("%[p%]", lambda part: str(os.getpid()) if part[0] == "%p" else "%", pattern)


def new_file(pattern, number=0):
    """(path, descriptor) of a file that was not there yet.  A number over 0 is added to the
    name; the next one where there is such a file."""
    import os
    wanted = file_name(pattern)
    stem, suffix = os.path.splitext(wanted)
    while True:
        path = f"{stem}.{number}{suffix}" if number else wanted
        try:
            return path, os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL
                                 | os.O_CLOEXEC, 0o666)
        except FileExistsError:
            number += 1


def size_text(nbytes):
    for unit in ("B", "KiB", "MiB"):
        if nbytes < 1024 or unit == "MiB":
            return f"{nbytes:,.{0 if unit == 'B' else 1}f} {unit}"
        nbytes /= 1024


def signed_size(nbytes):
    return ("-" if nbytes < 0 else "+") + size_text(abs(nbytes))


def trim():
    """Give back to the system all memory that no block is in: empty arenas, free pools,
    pages between blocks.  Returns the number of bytes.  HeapError where pymem does not
    serve this process."""
    from pymem.heap import from_module
    return from_module("trim")
