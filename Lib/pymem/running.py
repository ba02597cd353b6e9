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
from contextlib import contextmanager, redirect_stdout
from typing import NamedTuple

from pymem import file_name, new_file
from pymem.heap import HeapError

OWN_FOLDER = os.path.dirname(__file__) + "/"
IMPORT_FOLDER = os.path.dirname(importlib.__file__) + "/"
CODE_FILE = "<string>"      # as the interpreter's -c
FIRST_PID, EXIT = os.getpid(), os._exit
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
    """(path, whether it is new): a result goes over no other one.  A child that the program
    forked leaves the name without a number to the first process."""
    wanted, is_first = file_name(pattern), os.getpid() == FIRST_PID
    if os.path.exists(wanted) and not os.path.isfile(wanted) or wanted.startswith("/dev/"):
        return wanted, False            # a device, a pipe, and /dev/stdout
    path, descriptor = new_file(pattern, 0 if is_first or "%p" in pattern else 1)
    os.close(descriptor)
    if is_first and path != wanted:
        print(f"pymem: {wanted} is there already; the result goes to {path}", file=sys.stderr)
    return path, True


def write_result(pattern, write):
    """write(path); the path.  Where that fails no part of a file is left."""
    path, is_new = result_file(pattern)
    try:
        write(path)
    except BaseException:
        if is_new:
            os.unlink(path)
        raise
    return path


def write_over(pattern, write):
    """The same of what can be made again."""
    path = file_name(pattern)
    write(path)
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


@contextmanager
def own_output():
    """What is printed goes there at once, past what the program has not flushed: of a child
    that is its parent's, and a signal may come in the middle of a print()."""
    try:
        stream = open(1, "w", encoding=getattr(sys.stdout, "encoding", None),
                      errors="backslashreplace", closefd=False)
    except OSError:
        stream = open(os.devnull, "w")          # the program has closed it
    with stream, redirect_stdout(stream):
        yield


class Endings:
    """Ends that a program comes to at once: os._exit(), by which many children of a fork end,
    and SIGTERM, where the program has left that as it was.  Before such an end comes finish(),
    once a process."""

    def __init__(self, finish):
        self.finish, self.exit, self.is_finishing, self.number = finish, os._exit, False, None

    def begin(self):
        os._exit = self.exit_at_once

    def begin_signals(self):
        if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
            signal.signal(signal.SIGTERM, self.terminate)

    def finish_now(self):
        if not self.is_finishing:
            self.is_finishing = True
            try:
                with own_output():
                    self.finish()
            except (HeapError, OSError, RuntimeError) as error:
                print(f"pymem: {error}", file=sys.stderr, flush=True)

    def exit_at_once(self, status):
        try:
            if isinstance(status, int):
                self.finish_now()
        finally:
            self.exit(status)

    def terminate(self, number, frame):
        """While a result is made, when that is done."""
        self.number = number
        if not self.is_finishing:
            self.finish_now()
            self.end()

    def end(self):
        os._exit = self.exit
        if signal.getsignal(signal.SIGTERM) == self.terminate:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if self.number is not None:
            signal.signal(self.number, signal.SIG_DFL)
            os.kill(os.getpid(), self.number)


def nothing():
    pass


def run_program(program, at_end=nothing, write=nothing, dropped=nothing, ends=()):
    """Its exit status.  What it prints goes where it would go; at_end() is called while
    what it made is still there, then dropped() when that is gone, and at last write(), which
    may give another status.  Where the program ends at once, at_end() and write() are called.
    ends: exceptions that are no error of it, but its end."""
    def at_once():
        at_end()
        write()

    def at_last():
        endings.is_finishing = True
        at_end()

    endings = Endings(at_once)
    endings.begin()
    endings.begin_signals()
    try:
        status = run_to_end(program, at_last, ends)
        dropped()
        status = write() or status
        sys.stdout.flush()
        return status
    finally:
        endings.end()


def run_to_end(program, at_end, ends=()):
    """Its exit status, where it ends by itself; without Endings."""
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
        status = 128 + signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    at_end()
    sys.modules["__main__"] = own_main
    del names
    if refusal:
        raise refusal
    sys.stdout.flush()
    return status & 0xff
