"""What a promise is, and the list of all.  For any Python since 3.8."""

import importlib
import os
import signal
import tempfile
from collections import namedtuple

RAW, MEM, OBJ = range(3)
EACH = (RAW, MEM, OBJ)
LETTERS = "rmo"

GROUPS = ["contract", "hooks", "arenas", "debug", "statistics", "threads", "nomemory"]

# The documentation of CPython; a fragment follows.
C_API = "docs.python.org/3/c-api/memory.html"
USING = "docs.python.org/3/using/cmdline.html"

# domains: which ones it is asked of, one child each; () for all at once.
# environment: of the child.  interpreter: no library can be asked.
# driver: it needs the compiled driver, also where this is not seen by a missing function.
Promise = namedtuple("Promise", "name function domains rule since where environment "
                                "interpreter driver")

_collected = {}


class Broken(AssertionError):
    """A promise is not kept; the text says what was seen."""


class NotProvided(NotImplementedError):
    """The subject has no such function."""


def expect(condition, text):
    if not condition:
        raise Broken(text)


def promise(rule, where, since=(3, 8), domains=EACH, environment=None, interpreter=False,
            driver=False):
    """Marks a function as a promise of its module.  since: before it the rule did not
    hold; all others are older than the oldest CPython that can be tested."""
    def mark(function):
        group = function.__module__.rsplit(".", 1)[-1]
        name = group + "." + function.__name__
        _collected[name] = Promise(name, function, domains, rule, since, where,
                                   environment or {}, interpreter, driver)
        return function
    return mark


def all_promises():
    for group in GROUPS:
        importlib.import_module("pymem.conformance." + group)
    order = {group: number for number, group in enumerate(GROUPS)}
    return sorted(_collected.values(), key=lambda each: order[each.name.split(".")[0]])


def first_difference(data, expected):
    """Where two strings of bytes differ, or None."""
    if data == expected:
        return None
    return next((i for i, (got, right) in enumerate(zip(data, expected)) if got != right),
                min(len(data), len(expected)))


def expect_bytes(api, address, expected, what):
    place = first_difference(api.read(address, len(expected)), expected)
    expect(place is None, "%s: byte %s of %d is another one" % (what, place, len(expected)))


def in_a_fork(action):
    """(status as waitpid() gives it, what was written to stderr) of an action that may
    end its process."""
    with tempfile.TemporaryFile() as file:
        pid = os.fork()
        if pid == 0:
            os.dup2(file.fileno(), 2)
            signal.alarm(10)
            status = 1
            try:
                action()
                status = 0
            finally:
                os._exit(status)
        status = os.waitpid(pid, 0)[1]
        file.seek(0)
        return status, file.read().decode("utf-8", "replace")
