"""Run a person's program in this process, as the interpreter would."""

import builtins
import importlib
import os
import pkgutil      # which runpy imports once it runs a script
import runpy
import signal
import sys
import textwrap
import traceback
import types
import warnings
from _thread import allocate_lock, start_new_thread
from typing import NamedTuple

from pymem import file_name, new_file
from pymem.heap import HeapError

OWN_FOLDER = os.path.dirname(__file__) + "/"
IMPORT_FOLDER = os.path.dirname(importlib.__file__) + "/"
CODE_FILE = "<string>"      # as the interpreter's -c
FIRST_PID = os.getpid()
RUNPY = {runpy.__file__, "<frozen runpy>"}
RUNNERS = {*RUNPY, pkgutil.__file__, "<frozen zipimport>"}


def tracer():
    """The module pymem.tracemalloc; the interpreter's own where there is none for it."""
    try:
        from pymem import tracemalloc
    except ImportError:
        import tracemalloc
    return tracemalloc


def result_file(pattern):
    """Where a result goes: a child that the program forked writes over no other's, and leaves
    the name without a number to the first process."""
    if os.getpid() == FIRST_PID:
        return file_name(pattern)
    path, descriptor = new_file(pattern, 0 if "%p" in pattern else 1)
    os.close(descriptor)
    return path


def start_tracer(frames, samples, native=False):
    """pymem.tracemalloc, which traces samples then."""
    try:
        from pymem import tracemalloc
        tracemalloc.start(frames, samples, native=native)
    except (ImportError, RuntimeError) as error:
        raise HeapError(str(error)) from None
    return tracemalloc


class ForkOfOneThread:
    """The text of a warning, as one of warnings.filters is asked whether it is meant: CPython
    3.12 and later warn of a fork with threads, also where a Ticker's is the only one more."""
    @staticmethod
    def match(text):
        return "is multi-threaded, use of fork" in text \
            and len(os.listdir("/proc/self/task")) == 2


NO_WARNING = "ignore", ForkOfOneThread, DeprecationWarning, None, 0


class Ticker:
    """Calls function() every so many seconds until it is stopped.

    By a thread that gets no signals, which a program may wait for, and that threading knows
    nothing of: in a child of a fork gevent may have put its own functions there."""

    def __init__(self, function, seconds):
        self.function, self.seconds, self.pid = function, seconds, os.getpid()
        self.going, self.running = allocate_lock(), allocate_lock()     # while they are held

    def start(self):
        self.going.acquire()
        self.running.acquire()
        if NO_WARNING not in warnings.filters:
            warnings.filters.insert(0, NO_WARNING)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            start_new_thread(self.run, ())
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def run(self):
        try:
            while not self.going.acquire(timeout=self.seconds):
                self.function()
        finally:
            self.running.release()

    def end(self):
        """Soon."""
        if self.going.locked():
            self.going.release()

    def stop(self):
        """Now.  A child of a fork has no such thread."""
        self.end()
        if os.getpid() == self.pid:
            with self.running:
                pass


class Program(NamedTuple):
    """What a person wants to run: a script, or as with the interpreter's -m and -c."""
    kind: str               # script, module, code
    what: str
    arguments: list

    def is_process(self, command):
        """Whether it is a PID, for a command that takes either."""
        if self.kind != "script" or not self.what.isdigit():
            return False
        if self.arguments:
            raise HeapError(f"{command} takes one process, or a script and its arguments")
        return True

    def run(self):
        """As __main__.  Its names, which keep alive what it made."""
        if self.kind == "script":
            sys.argv = [self.what, *self.arguments]
            sys.path[0] = os.path.dirname(os.path.abspath(self.what))
            return runpy.run_path(self.what, run_name="__main__")
        if self.kind == "module":
            sys.argv = [self.what, *self.arguments]
            sys.path[0] = os.getcwd()
            return runpy.run_module(self.what, run_name="__main__", alter_sys=True)
        sys.argv = ["-c", *self.arguments]
        sys.path[0] = ""
        code = textwrap.dedent(self.what) if sys.version_info >= (3, 14) else self.what
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        main.__builtins__ = builtins
        exec(compile(code, CODE_FILE, "exec"), main.__dict__)
        return main


def is_runner(file):
    """Between these tools and a program, only what found and ran it."""
    return file in RUNNERS or file.startswith(("<frozen importlib", IMPORT_FOLDER))


def begin_of_program(files):
    """The index of its outermost frame, of frames from the outermost on; None: it has none,
    they are the tools' own."""
    own = [i for i, file in enumerate(files) if file.startswith(OWN_FOLDER)]
    if not own:
        return 0
    first = begin = own[-1] + 1
    while begin < len(files) and is_runner(files[begin]):
        begin += 1
    is_code = files[own[-1]] == __file__ and files[first:first + 1] == [CODE_FILE]
    is_run = begin > first and files[first] in RUNPY    # else an import of these tools
    return begin if is_run or is_code else None


def frames_of_program(names):
    """Of the traceback of an error; None: the program had not begun."""
    while names is not None:
        file = names.tb_frame.f_code.co_filename
        if not file.startswith(OWN_FOLDER) and not is_runner(file):
            break
        names = names.tb_next
    return names


def run_program(program, at_end=lambda: None, ends=()):
    """Its exit status.  What it prints goes where it would go; at_end() is called while
    what it made is still there.  ends: exceptions that are no error of it, but its end."""
    own_main, refusal = sys.modules["__main__"], None
    try:
        names = program.run()
        status = 0
    except SystemExit as end:
        names = end.__traceback__
        if end.code is None or isinstance(end.code, int):
            status = end.code or 0
        else:
            print(end.code, file=sys.stderr)
            status = 1
    except ends as end:
        names = end.__traceback__
        status = 0
    except BaseException as error:
        names = error.__traceback__
        shown = frames_of_program(names)
        if shown is None and program.kind == "module" and isinstance(error, ImportError):
            refusal = HeapError(str(error))
        else:
            traceback.print_exception(type(error), error, shown)
        status = 1
    at_end()
    sys.modules["__main__"] = own_main
    del names
    if refusal:
        raise refusal
    sys.stdout.flush()
    return status & 0xff
