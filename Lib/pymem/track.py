"""python -m pymem track: what a program holds, moment after moment, in a file that grows.

The tracer samples; now and then comes a look at what it traces (pymem.attached.Moments), and
what changed is appended to the file (pymem.history).  A process that is killed loses what came
after the last look.

A child of a fork goes on with a separate file, which has what the child itself asks for.
A fork waits for the end of a look, if it can be had: a child shares nothing with the thread
that looks but the tracer, whose own lock is safe.  os._exit(), by which many children end, and
SIGTERM, which the program leaves alone, first look once more.
"""

import atexit
import math
import os
import platform
import sys
import threading
import time
from _thread import RLock

from pymem import new_file, running
from pymem.attached import Moments, traces_of
from pymem.flame import lines_of_program
from pymem.heap import HeapError
from pymem.history import Writer

KINDS = {"script": [], "module": ["-m"], "code": ["-c"]}     # of a program, in a command line
TICK = 0.05             # seconds between looks at how much is traced
HIGHER = 1.1            # times what was traced at any look, and it is looked at at once;
LEAST = 1 << 20         # or so many bytes more.  The tracer keeps what there was at a peak
FALLEN = 17 / 16        # from which it has fallen meanwhile: how exact the tracer is
PATIENCE = 2.0          # seconds that a fork and an end wait for a look
REST = 9                # times the processor time of a look comes before the next one


def differences(before, after):
    """{(domain, size): more blocks}"""
    return {key: after.get(key, 0) - before.get(key, 0) for key in {**before, **after}
            if after.get(key, 0) != before.get(key, 0)}


class Process:
    """This one, until a fork makes another one of it: looks, and the file."""

    def __init__(self, tracker, parent):
        self.tracker, self.pid, self.parent = tracker, os.getpid(), parent
        self.tracer, self.lock = tracker.tracer, RLock()
        self.path = self.writer = None
        self.started, self.is_busy, self.is_over = time.time(), False, False
        self.moments = Moments(self.tracer, tracker.options.every, False)
        self.moments.doubled_after = math.inf
        self.highest, self.due, self.rested = 0, 0.0, 0.0
        self.tracer.keep_peak(LEAST)
        self.ticker = running.Ticker(self.tick, TICK)

    def open(self):
        self.path, descriptor = new_file(self.tracker.output)
        self.writer = Writer(self.path, descriptor, {
            "pid": self.pid, "parent": self.parent, "started": self.started,
            **self.tracker.facts})

    def tick(self):
        now = time.monotonic()
        if now < self.rested:
            return
        if now >= self.due or self.is_higher(self.tracer.get_traced_memory()[1]):
            before = time.thread_time()
            self.look()
            now, spent = time.monotonic(), time.thread_time() - before
            self.rested, self.due = now + REST * spent, now + self.moments.pause()

    def is_higher(self, peak):
        """Than at any look."""
        return peak > HIGHER * self.highest + LEAST

    def changes(self, before, changed):
        for key, blocks in changed.items():
            lines = lines_of_program(key[0])
            if lines:
                yield lines, differences(before.get(key, {}), blocks)

    def look(self):
        self.in_turn(self.look_and_write)

    def end(self):
        self.in_turn(self.write_end)

    def in_turn(self, function):
        """Not within another turn: code that the garbage collector or a signal starts in the
        middle of one may end the program, or fork.  Nor where such code waits for a lock of
        this thread."""
        if not self.lock.acquire(timeout=PATIENCE):
            return
        try:
            if not self.is_busy and not self.is_over and os.getpid() == self.pid:
                self.is_busy = True
                try:
                    function()
                except OSError as error:
                    self.give_up(error)
                finally:
                    self.is_busy = False
        finally:
            self.lock.release()

    def look_and_write(self):
        """First of a peak since the last look, if it was higher and is over.  The next one
        may come while this look goes on."""
        if self.writer is None:
            self.open()
        current, peak = self.tracer.get_traced_memory()
        is_over = self.is_higher(peak) and peak > FALLEN * current
        of_peak = self.tracer._get_named_peak_traces() if is_over else []
        traces = traces_of(self.tracer)
        self.highest = max(self.highest, peak)
        self.tracer.keep_peak(int(HIGHER * self.highest) + LEAST)
        if of_peak:
            self.write_moment(of_peak)
        self.write_moment(traces)

    def write_moment(self, traces):
        before = self.moments.stacks
        try:
            seconds, changed = self.moments.look(traces)
            self.writer.add(seconds, self.changes(before, changed))
        except MemoryError:
            self.moments.stacks = before        # the next look tells it

    def write_end(self):
        if self.writer is not None:
            self.writer.end()
        self.is_over = True

    def give_up(self, error):
        if not self.is_over:
            self.is_over = True
            name = self.tracker.shown(self.path or self.tracker.output)
            print(f"pymem: {name}: {error.strerror or error}; process {self.pid} is tracked "
                  "no more", file=sys.stderr, flush=True)

    def leave(self):
        """In a child: what is in the middle of a look there goes no further."""
        self.is_over = True
        if self.writer is not None:
            self.writer.close()


class Tracker:
    """Of a program that is run here, and of the children that it forks."""

    def __init__(self, options):
        self.options, program, self.folder = options, options.program, os.getcwd()
        self.facts = {
            "command": [*KINDS[program.kind], program.what, *program.arguments],
            "folder": self.folder, "executable": sys.executable,
            "python": platform.python_version(), "machine": platform.machine(),
            "frames": options.frames, "sample_bytes": options.samples}
        self.output = os.path.join(self.folder, options.output or default_output(program))
        self.tracer = running.start_tracer(options.frames, options.samples)
        self.process = self.first = Process(self, None)
        self.first.open()
        self.is_tracking = True
        self.endings = running.Endings(self.look_and_end)
        self.endings.begin()
        self.endings.begin_signals()
        os.register_at_fork(before=self.before_fork, after_in_parent=self.after_in_parent,
                            after_in_child=self.after_in_child)
        self.first.ticker.start()

    def shown(self, path):
        return path[len(self.folder) + 1:] if path.startswith(self.folder + os.sep) else path

    def look_and_end(self):
        self.process.look()
        self.process.end()

    def before_fork(self):
        if self.is_tracking:
            self.process.lock.acquire(timeout=PATIENCE)

    def after_in_parent(self):
        if self.is_tracking:
            try:
                self.process.lock.release()
            except RuntimeError:
                pass                    # it was not to be had

    def after_in_child(self):
        if not self.is_tracking:
            return
        before = self.process
        before.leave()
        self.tracer.clear_traces()
        self.process = Process(self, before.pid)
        try:
            self.process.ticker.start()
        except RuntimeError:
            pass                        # no thread: the end is all that is looked at

    def at_end(self):
        """Of the main thread.  The interpreter waits for others, which go on."""
        self.process.look()
        if any(not thread.daemon for thread in threading.enumerate()
               if thread is not threading.current_thread()):
            atexit.register(self.at_exit)
        else:
            self.finish()

    def at_exit(self):
        self.process.look()
        self.finish()

    def finish(self):
        self.process.ticker.stop()
        self.process.end()
        self.is_tracking = False
        self.endings.end()
        self.tracer.stop()
        if self.process is self.first:
            name, count = self.shown(self.first.path), self.first.writer.nmoments
            print(f"{name}: {count} moment{'s' * (count > 1)}; pymem report {name} reads this",
                  file=sys.stderr)


def default_output(program):
    name = {"script": os.path.basename(program.what), "module": program.what,
            "code": "code"}[program.kind]
    name = name[:-3] if name.endswith(".py") else name
    return name.replace("%", "%%") + ".%p.pymem"


def command(options):
    if options.program is None:
        raise HeapError("track takes a program: SCRIPT, -m MODULE, -c CODE")
    return running.run_to_end(options.program, Tracker(options).at_end)
