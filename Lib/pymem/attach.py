"""The tracer in a process that runs already, for so long; then it is as it was before.

    lines = lines_of(Target(pid), options)          those of the command
    snapshot = snapshot_of(lines, options.frames)

A thread of that process traces (pymem.attached).  It comes to be by sys.remote_exec(), where
that interpreter has it (3.14 and later), and its main thread gets to it; else by gdb, which
starts a thread that waits for the GIL (pymem.attachgdb, Programs/attach.c).

Both sides share a folder that nobody else can enter.  The process ends tracing early when
this one is gone, as then its FIFO is closed.
"""

import ast
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import tracemalloc
from contextlib import contextmanager
from pathlib import Path

from pymem import about, beside, check_writable, running, size_text
from pymem.elf import symbols
from pymem.heap import HeapError
from pymem.remote import Debuggee

HERE = Path(os.path.abspath(__file__)).parent
OWN_FILE = "<pymem>"                    # of frames of what is run there
OLDEST, NEWEST, REMOTE_EXEC = (3, 8), (3, 15), (3, 14)
REQUEST = struct.Struct("5P")           # struct request of Programs/attach.c
PAUSE = 0.05
TRIES = 3                               # of remote_exec, for which interpreters come and go
NUDGE = 1.0                             # seconds that a main thread has for remote_exec
FOLDERS = ["/tmp", "/var/tmp", "/dev/shm", "/run"]
API = ["Py_IsInitialized", "PyGILState_Ensure", "PyRun_SimpleString", "PyGILState_Release"]
LIBC = ["mmap", "munmap", "dlopen", "dlsym", "dlerror", "__errno_location"]


class Target(Debuggee):
    """A process with a CPython in which the tracer can run; HeapError: why it can't."""

    def __init__(self, pid):
        if pid == os.getpid():
            raise HeapError("attach takes another process; in this one "
                            "pymem.tracemalloc.start() does it")
        self.started = self.start_time(pid)
        super().__init__(pid)
        self.status = self._status()
        if self.status["State"][0] in "ZX":
            raise HeapError(f"there is no process {pid} any more")
        self.debugger = self.status["TracerPid"][0]
        if self.status["State"][0] in "Tt" and self.debugger != "0":
            raise HeapError(self.has_debugger())
        if self.status["State"][0] in "Tt":
            raise HeapError(f"process {pid} is stopped, and does nothing; let it go on "
                            f"first (kill -CONT {pid})")
        self._check_machine()
        self._find_python()
        self.name = f"process {pid}, CPython {self.version}"
        if "_Py_MergeZeroLocalRefcount" in self.symbols.addresses:
            raise HeapError(f"{self.name}, is free-threaded; the tracer needs the GIL")
        self.tracer = self._find_tracer()

    @staticmethod
    def start_time(pid):
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                return file.read().rpartition(b")")[2].split()[19]
        except OSError:
            return None

    def has_debugger(self):
        return f"process {self.pid}: another debugger has it (process {self.debugger})"

    def is_there(self):
        return self.start_time(self.pid) == self.started

    def _status(self):
        with open(f"/proc/{self.pid}/status", errors="replace") as lines:
            return {key: value.split() or [""] for key, _, value in
                    (line.partition(":") for line in lines)}

    def _check_machine(self):
        def machine(path):
            with open(path, "rb") as file:
                header = file.read(20)
            return header[4:6] + header[18:20]
        if machine(f"/proc/{self.pid}/exe") != machine("/proc/self/exe"):
            raise HeapError(f"process {self.pid} is a program for another type of machine "
                            "than this Python")

    def _objects(self):
        """Its files of code, those first that are called as Python is."""
        paths = dict.fromkeys(mapping.path for mapping in self.maps
                              if mapping.path.startswith("/") and "x" in mapping.access)
        return sorted(paths, key=lambda path: "python" not in os.path.basename(path))

    def _base(self, path, found):
        """What is added to an address in the file."""
        start = min(mapping.start - mapping.offset for mapping in self.maps
                    if mapping.path == path)
        return start - found.load_address

    def _find_python(self):
        for path in self._objects():
            if path.endswith(" (deleted)") and "python" in os.path.basename(path):
                raise HeapError(f"the Python of process {self.pid} was replaced on the disk "
                                "since it started; start it again first")
            found = symbols(self.file_of(path))
            if found is not None and set(API) <= set(found.addresses):
                break
        else:
            raise HeapError(f"process {self.pid} is no CPython that can be seen "
                            f"({os.readlink(f'/proc/{self.pid}/exe')})")
        self.python, self.symbols = path, found
        self.python_base = self._base(path, found)
        self.version = self._version()

    def _version(self):
        at = self.symbols.addresses.get("Py_Version")
        word = self.read(self.python_base + at, self.word_size) if at else None
        if word:
            number = int.from_bytes(word, sys.byteorder)
            return f"{number >> 24}.{number >> 16 & 255}"
        names = [os.path.realpath(self.file_of(self.python)),
                 *(mapping.path for mapping in self.maps)]
        found = re.search(r"python(3\.\d+)", "\n".join(names))
        if not found:
            raise HeapError(f"of process {self.pid} it can't be told which CPython it is")
        return found[1]

    @property
    def version_info(self):
        return tuple(map(int, self.version.split(".")))

    def _find_tracer(self):
        """The extension module for its version; "": it is linked with pymem."""
        if "_PyMem_HeapLayout" in self.symbols.addresses:
            return ""
        tag = "cpython-%d%d" % self.version_info
        found = sorted(HERE.parent.glob(f"_pymemtracer.{tag}-*.so"))
        if not found:
            raise HeapError(
                f"{self.name}, needs a tracer of its version, and {HERE.parent} has none: "
                f"python{self.version} -m pip install --no-deps --target {HERE.parent} "
                "PYMEM'S SOURCES" if OLDEST <= self.version_info <= NEWEST else
                f"{self.name}, is none that pymem knows: 3.{OLDEST[1]} to 3.{NEWEST[1]}")
        return str(found[0])

    def sees(self, path):
        """Is a file of that name the same there as here?"""
        try:
            here, there = os.stat(path), os.stat(self.file_of(path))
        except OSError:
            return False
        return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)

    def functions(self):
        """Of the C library, {name: address}, and the files that they are in."""
        found, paths = {}, []
        for path in self._objects():
            if re.match(r"(libc|libdl|libpthread|ld-musl)[-.]", os.path.basename(path)):
                paths.append(path)
                of_file = symbols(self.file_of(path))
                for name in LIBC if of_file is not None else ():
                    if name in of_file.addresses:
                        found.setdefault(name, self._base(path, of_file)
                                         + of_file.addresses[name])
        missing = set(LIBC) - set(found)
        if missing:
            raise HeapError(f"{self.name}, has a C library that can't be asked to load "
                            f"anything: {', '.join(sorted(missing))}")
        return found, paths


class Request:
    """What the process is asked for, in a folder that only both can enter."""

    def __init__(self, target, options):
        self.target = target
        if target.tracer:
            self.check_sight(target.tracer)
        self.folder = self._make_folder()
        self.ticket = self.folder / "ticket"
        self.ticket.touch()
        self.alive = self._fifo("alive")
        result = self.folder / "result"
        self.result = os.open(result, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC,
                              0o600)
        self.options = {
            "folder": str(self.folder), "tracer": target.tracer,
            "frames": options.frames, "sample_bytes": options.samples,
            "seconds": options.seconds, "window": options.window, "collect": options.collect,
            "objects": options.objects}
        self.script = self.folder / "script.py"
        self.script.write_text(self.code("begin_in_thread") + "\n", encoding="ascii")
        self._give_away()
        self.text, self.lines, self.by_remote_exec = b"", [], False

    def check_sight(self, path):
        if not self.target.sees(path):
            raise HeapError(f"{self.target.name}, does not see {path}: it has other files (a "
                            "container); install pymem there and attach from there")

    def _make_folder(self):
        for parent in [tempfile.gettempdir(), *FOLDERS]:
            try:
                folder = tempfile.mkdtemp(prefix="pymem-attach-", dir=parent)
            except OSError:
                continue
            if self.target.sees(folder):
                return Path(folder)
            os.rmdir(folder)
        raise HeapError(f"{self.target.name}, does not see the folders here for temporary "
                        "files: it has other files (a container); attach from there")

    def _fifo(self, name):
        os.mkfifo(self.folder / name, 0o600)
        return os.open(self.folder / name, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)

    def _give_away(self):
        """To the process's user, where root attaches: who writes nothing there afterwards,
        as that user may have put a link in its place."""
        user, group = int(self.target.status["Uid"][3]), int(self.target.status["Gid"][3])
        if os.geteuid() != user:
            for path in [*self.folder.iterdir(), self.folder]:
                os.chown(path, user, group)

    def code(self, function):
        """An expression, as it is run in that program's __main__; it leaves no name."""
        source = "".join((HERE / name).read_text(encoding="utf-8")
                         for name in ("kinds.py", "attached.py"))
        source += f"\n{function}({self.options!r})\n"
        return (f"(lambda b: b.exec(b.compile({ascii(source)}, '{OWN_FILE}', 'exec'), "
                f"{{'__name__': '{OWN_FILE}'}}))(__import__('builtins'))")

    # How it gets there.

    def remote_exec(self, path):
        target = self.target
        candidates = [sys.executable] if sys.version_info[:2] == target.version_info else []
        exe = os.path.realpath(f"/proc/{target.pid}/exe")
        if re.fullmatch(r"python3[\d.]*", os.path.basename(exe)) and target.sees(exe) \
                and os.stat(exe).st_uid in (0, os.geteuid()):
            candidates.append(exe)
        error = ""
        for python in candidates * TRIES:
            result = subprocess.run(
                [python, "-I", "-S", "-c", "import sys\n"
                 "sys.remote_exec(int(sys.argv[1]), sys.argv[2])", str(target.pid), path],
                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                errors="replace", start_new_session=True)
            if result.returncode == 0:
                return True
            error = result.stderr.lower()
        if "remote debugging is not enabled" in error:
            raise HeapError(f"{target.name}, was started with remote debugging disabled (-X "
                            "disable-remote-debug, PYTHON_DISABLE_REMOTE_DEBUG, or built "
                            "without)")
        return False

    def ask_main_thread(self):
        self.by_remote_exec = self.remote_exec(str(self.script))
        return self.by_remote_exec

    def start_gdb(self, seconds):
        """gdb, as a process that no Ctrl-C reaches: to end it would end the other one."""
        target, helper = self.target, beside("pymem-attach.so")
        if helper is None:
            raise HeapError(f"pymem-attach.so, which {target.name}, is to load, is not beside "
                            "pymem")
        self.check_sight(str(helper))
        functions, libc = target.functions()
        code = self.code("begin").encode("ascii") + b"\0"
        path_at = REQUEST.size + len(code)
        name_at = path_at + len(os.fsencode(helper)) + 1
        data = code + os.fsencode(helper) + b"\0pymem_attach\0"
        size = -(-(REQUEST.size + len(data)) // 4096) * 4096
        header = REQUEST.pack(size, *(target.python_base + target.symbols.addresses[name]
                                      for name in API))
        request = {"pid": target.pid, "ticket": str(self.ticket), "seconds": seconds,
                   "functions": functions, "libc": libc, "python": target.python,
                   "python_has_malloc": "malloc" in target.symbols.addresses,
                   "data": header + data, "size": size, "path_at": path_at,
                   "name_at": name_at}
        return subprocess.Popen(
            ["gdb", "-nx", "-nh", "-batch", "-iex", "set auto-load off", "-iex",
             "set debuginfod enabled off", "-ex", f"python REQUEST = {ascii(request)}", "-x",
             str(HERE / "attachgdb.py")], stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
            start_new_session=True)

    # What it says.

    def read(self):
        """Takes in what was written since."""
        while True:
            data = os.read(self.result, 1 << 20)
            if not data:
                break
            *lines, self.text = (self.text + data).split(b"\n")
            self.lines += lines

    def line(self, kind):
        """The line ("started", ...) or a similar one, if it is there."""
        self.read()
        for line in self.lines[:1] + self.lines[-1:]:
            value = literal(line)
            if value[0] == "error":
                raise HeapError(f"{self.target.name}: {value[1]}")
            if value[0] == kind:
                return value
        return None

    def end(self):
        """No result is wanted any more: the process ends tracing."""
        if self.alive is not None:
            os.close(self.alive)
            self.alive = None
        try:
            self.ticket.unlink()
        except OSError:
            pass

    def close(self):
        self.end()
        if self.by_remote_exec and self.target.is_there():
            self.remote_exec("/dev/null")       # should the script still be pending
        os.close(self.result)
        shutil.rmtree(self.folder, ignore_errors=True)


def literal(line):
    try:
        value = ast.literal_eval(line.decode("ascii"))
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        value = None
    if not isinstance(value, tuple) or not value:
        raise HeapError("what the process wrote can't be read")
    return value


class Attachment:
    """One look at a process, from the first question to the last line."""

    def __init__(self, target, options, say, interrupts):
        self.target, self.options, self.say, self.gdb = target, options, say, None
        self.interrupts, self.nbefore = interrupts, 0       # those that were answered
        self.request = Request(target, options)

    def wait(self, kind, seconds, every=lambda left: None):
        """The line of that kind; None after so many seconds."""
        until = time.monotonic() + seconds
        while True:
            line = self.request.line(kind)
            left = until - time.monotonic()
            if line is not None or left <= 0:
                return line
            if not self.target.is_there() and self.request.line(kind) is None:
                raise HeapError(f"{self.target.name}, ended before it wrote what it found")
            if len(self.interrupts) > self.nbefore:
                raise KeyboardInterrupt
            self.check_gdb()
            every(left)
            time.sleep(PAUSE)

    def check_gdb(self):
        if self.gdb is None or self.gdb.poll() is None:
            return
        output, self.gdb = self.gdb.stdout.read().strip().splitlines(), None
        answer = output[-1] if output else "it printed nothing"
        if answer != "called" and self.request.line("started") is None:
            raise HeapError(f"{self.target.name}: gdb could not do it: {answer}")

    def ask(self):
        target, request, seconds = self.target, self.request, self.options.timeout
        if target.version_info >= REMOTE_EXEC and request.ask_main_thread():
            self.say(f"{target.name}: asked its main thread")
            if self.wait("started", min(NUDGE, seconds / 2)):
                return
            # A wait of epoll ends when its thread has been stopped.
            with target.stopped():
                pass
            if self.wait("started", min(NUDGE, seconds / 4)):
                return
        self.ask_gdb(seconds)
        if not self.wait("started", seconds):
            raise HeapError(
                f"{target.name}, did not start it within {seconds:g} s: a thread of it keeps "
                "the GIL, or its main thread waits in C (--timeout allows more)")

    def ask_gdb(self, seconds):
        target, why = self.target, None
        if shutil.which("gdb") is None:
            why = f"{target.name}: gdb is needed, and not here (Debian: apt-get install gdb)"
        elif target.debugger != "0":
            why = target.has_debugger()
        if why is None:
            self.say(f"{target.name}: asking by gdb")
            self.gdb = self.request.start_gdb(0.8 * seconds)    # it says what is wrong
        elif not self.request.by_remote_exec:
            raise HeapError(why)

    def trace(self):
        """Until the time is over or Ctrl-C: True where nobody ended it early."""
        seconds, grace = self.options.seconds, self.options.timeout
        self.say(f"{self.target.name}: tracing for {seconds:g} s; Ctrl-C ends it earlier")

        def every(left):
            self.say(f"{self.target.name}: {max(left - grace, 0):3.0f} s to go", passing=True)
        return self.wait("end", seconds + grace, every) is not None

    def run(self):
        """Moments, and of each the (stack, depth), blocks that changed."""
        try:
            self.ask()
            is_ended = self.trace()
        except KeyboardInterrupt:
            self.nbefore = len(self.interrupts)
            self.request.end()
            if self.request.line("started") is None:
                raise
            self.say(f"{self.target.name}: ends tracing")
            is_ended = self.wait("end", self.options.timeout) is not None
        if not is_ended:
            raise HeapError(f"{self.target.name}, did not answer at the end; it ends tracing "
                            "when it gets to it")
        return [literal(line) for line in self.request.lines[1:-1]]

    def close(self):
        """gdb is waited for: it has the process in its hands."""
        self.request.end()
        if self.gdb is not None:
            self.gdb.communicate()
        self.request.close()


def lines_of(target, options, say=lambda text, passing=False: None, interrupts=()):
    """What it wrote (pymem.attached).  interrupts: it ends early when something is in there."""
    attachment = Attachment(target, options, say, interrupts)
    try:
        return attachment.run()
    finally:
        attachment.close()


def snapshot_of(lines, nframe):
    """Its frames have no names of functions."""
    traces = []
    try:
        for (stack, *depth), blocks in lines[1:]:
            stack = tuple((file, line) for file, line, *_ in stack)
            if sys.version_info >= (3, 9):
                depth = depth or [len(stack)]
            else:
                depth = []
            for (domain, size), count in blocks.items():
                traces += [(domain, size, stack, *depth)] * count
        return tracemalloc.Snapshot(tuple(traces), nframe)
    except (TypeError, ValueError, IndexError, AttributeError):
        raise HeapError("what the process wrote can't be read") from None


def stacks_of(lines, sample_bytes):
    """What flame draws, with estimates of bytes and blocks."""
    from pymem import flame
    from pymem.growth import Level
    return flame.of_levels((stack[::-1], Level.of(blocks, sample_bytes))
                           for (stack, *_), blocks in lines[1:])


# The command.

def functions_of(lines):
    """{(file, line): names}"""
    found = {}
    for (stack, *_), _ in lines[1:]:
        for file, line, *function in stack:
            names = found.setdefault((file, line), [])
            names += [name for name in function if name not in names]
    return {line: " or ".join(names) for line, names in found.items()}


def levels_of(lines, sample_bytes):
    """{(file, line): pymem.growth.Level}, of the innermost lines."""
    from pymem.growth import Level
    levels = {}
    for (stack, *_), blocks in lines[1:]:
        line = stack[0][:2]
        levels[line] = levels.get(line, Level()) + Level.of(blocks, sample_bytes)
    return levels


def table(lines, snapshot, options):
    levels, functions = levels_of(lines, options.samples), functions_of(lines)
    total, blocks = (sum(level[i] for level in levels.values()) for i in (0, 1))
    about = "about " if options.samples else ""
    yield f"{size_text(total)} allocated meanwhile and still there, in {about}" \
          f"{blocks:,.0f} blocks"
    if not total:
        return
    yield ""
    yield f"{'size':>12} {'share':>6} {'blocks':>9}  where"
    most_first = sorted(levels, key=lambda line: (-levels[line].nbytes, line))
    for file, line in most_first[:options.top]:
        level = levels[file, line]
        yield f"{size_text(level.nbytes):>12} {level.nbytes / total:6.1%} " \
              f"{level.blocks:9,.0f}  {file}:{line} {functions[file, line]}"
    if len(levels) > options.top:
        yield f"{len(levels) - options.top:29,}  lines more"
    if options.frames > 1:
        biggest = snapshot.statistics("traceback")[0]
        yield ""
        yield f"The stack of the most, {size_text(biggest.size)}, outermost call first:"
        yield from biggest.traceback.format()


class Reporter:
    """What is going on, on stderr; what passes only in a terminal, in one line."""

    def __init__(self):
        self.is_passing = False

    def __call__(self, text, passing=False):
        if passing and not sys.stderr.isatty():
            return
        start = "\r\033[K" if self.is_passing else ""
        print(f"{start}pymem: {text}", end="" if passing else "\n", file=sys.stderr,
              flush=True)
        self.is_passing = passing

    def close(self):
        if self.is_passing:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


def reported(target, options):
    """lines_of() as a command calls it: with what is going on, until Ctrl-C."""
    reporter = Reporter()
    with interruptions() as interrupts:
        try:
            return lines_of(target, options, reporter, interrupts)
        finally:
            reporter.close()


def command(options):
    target = Target(options.pid)
    check_writable(options.output)
    facts = {**about.of_process(target.pid), "python": target.version}
    lines = reported(target, options)
    snapshot = snapshot_of(lines, options.frames)
    path, what = write(options, facts, lines, snapshot) if options.output else (None, None)
    print("\n".join(table(lines, snapshot, options)))
    if path:
        print(f"{path}: {what}; pymem flame {path} draws it",
              file=sys.stderr)
    return 0


def write(options, facts, lines, snapshot):
    """(Where, what) it wrote."""
    if not options.output.endswith(".json"):
        return running.write_result(options.output, snapshot.dump), "a snapshot of tracemalloc"
    from pymem import flame
    stacks, seconds = stacks_of(lines, options.samples), lines[0][1]
    data = {**facts, "started": time.time() - seconds, "seconds": round(seconds, 3),
            "sample_bytes": options.samples, "bytes": round(stacks.total),
            "blocks": round(stacks.blocks), **flame.record(stacks)}
    text = json.dumps(data, indent=1) + "\n"
    path = running.write_result(
        options.output, lambda path: Path(path).write_text(text, encoding="utf-8"))
    return path, f"{len(data['stacks']):,} stacks"


@contextmanager
def interruptions():
    """Ctrl-C and SIGTERM only leave their number, to be looked at where that is safe."""
    numbers = []
    before = [(number, signal.signal(number, lambda number, frame: numbers.append(number)))
              for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        yield numbers
    finally:
        for number, handler in before:
            signal.signal(number, handler)
