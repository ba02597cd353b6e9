"""What python -m pymem attach lets another process run: its text is executed there.

A thread of that process traces for so long, and writes what it found:

    begin(options)      folder: a private folder of whoever attaches, in which are
                            ticket      whoever takes it away runs; nobody: it is too late
                            alive       a FIFO, at its end when no result is wanted any more
                            result      lines of literals, which end with ("end", ...)
                        tracer: the file of _pymemtracer
                        frames, sample_bytes, seconds
                        window: seconds from one moment to the next; None: only the end
                        collect: garbage, before some of the moments
                        objects: None, "types", or "referrers" (pymem.kinds)

For each moment it writes ("moment", seconds since the start), and then the stacks whose
blocks changed, a line each: (stack, its whole depth), {(domain, size): blocks}.  Where a stack
comes again its number stands for it: how many others were written before it.  Before the
end come ("kinds", what pymem.kinds found), where objects are asked for.

Nothing of pymem needs to be on that process's sys.path.  What is imported is in the
interpreter: each file would be several waits for the GIL, of 5 ms each where another thread
is busy.  Functions that gevent and others replace, as time.sleep(), are not used.  No
exception leaves this.
"""

import _frozen_importlib
import _imp
import _signal
import atexit
import gc
import os
import sys
from time import monotonic

PAUSE = 0.05                            # seconds between looks at the FIFO
LINES = 1000                            # written at once: after each write the GIL is waited for
LOOKS = 64                              # with the same pause, before it is doubled
COLLECTED = 8                           # the first look that garbage is collected before


class Refused(Exception):
    """Why nothing is traced, in a line."""


def load_tracer(path):
    """The module _pymemtracer, or the interpreter's own where that is pymem's."""
    import _tracemalloc
    if _tracemalloc.is_tracing():
        raise Refused("tracemalloc is tracing there already; one tracer at a time")
    if hasattr(_tracemalloc, "get_sample_bytes"):
        return _tracemalloc
    tracer = sys.modules.get("_pymemtracer")
    if tracer is None:
        spec = _frozen_importlib.ModuleSpec("_pymemtracer", None, origin=path)
        tracer = _imp.create_dynamic(spec)
        _imp.exec_dynamic(tracer)
        sys.modules["_pymemtracer"] = tracer
    if tracer.is_tracing():
        raise Refused("pymem.tracemalloc is tracing there already; one tracer at a time")
    return tracer


def traces_of(tracer):
    """All; of a tracer of pymem frames are (file, line, function), of others (file, line)."""
    return getattr(tracer, "_get_named_traces", tracer._get_traces)()


def stacks_of(traces):
    """{(stack, its whole depth): {(domain, size): blocks}}, without what this file keeps.
    Equal traces are nearly always one object, which is looked at once."""
    own, objects, counts, stacks = stacks_of.__code__.co_filename, {}, {}, {}
    for trace in traces:
        identity = id(trace)
        objects[identity], counts[identity] = trace, counts.get(identity, 0) + 1
    for identity, (domain, size, stack, *depth) in objects.items():
        if stack[0][0] != own:
            blocks = stacks.setdefault((stack, *depth), {})
            blocks[domain, size] = blocks.get((domain, size), 0) + counts[identity]
    return stacks


class Moments:
    """What is traced, looked at again and again: in an hour some hundred times, as pauses are
    doubled after so many LOOKS.  No pause is like the one before: what comes and goes about
    as often as looks come would be seen to rise slowly.  Garbage is collected before the 8th
    look, the 16th, the 32nd: once in each half of the time, so that it is no growth."""

    def __init__(self, tracer, window, collect):
        self.tracer, self.window, self.collect = tracer, window, collect
        self.started, self.nlooks, self.stacks = monotonic(), 0, {}
        self.doubled_after = LOOKS

    def pause(self):
        """Seconds, half as many to one and a half times as many as those of a window."""
        share = 0.5 + os.urandom(1)[0] / 255
        return self.window * 2 ** (self.nlooks // self.doubled_after) * share

    def look(self, traces=None):
        """Seconds since the start, and of each stack that changed its blocks now."""
        self.nlooks += 1
        if self.collect and self.nlooks >= COLLECTED and not self.nlooks & self.nlooks - 1:
            gc.collect()
        seconds = monotonic() - self.started
        if traces is None:
            traces = traces_of(self.tracer)
        before, self.stacks = self.stacks, stacks_of(traces)
        changed = {key: {} for key in before if key not in self.stacks}
        changed.update((key, blocks) for key, blocks in self.stacks.items()
                       if before.get(key) != blocks)
        return seconds, changed


class Tracing:
    """From its start to its end; the end comes once, by whoever is first."""

    def __init__(self, options):
        self.options, self.turn, self.is_over = options, [True], False
        self.numbers = {}               # of the stacks that were written
        folder = options["folder"]
        self.result = os.open(folder + "/result", os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        self.alive = os.open(folder + "/alive", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)

    def write(self, *lines):
        data = "".join(ascii(line) + "\n" for line in lines).encode()
        while data:
            data = data[os.write(self.result, data):]

    def run(self):
        try:
            self.tracer = load_tracer(self.options["tracer"])
            self.moments = Moments(self.tracer, self.options["window"], self.options["collect"])
            self.tracer.start(self.options["frames"], self.options["sample_bytes"])
            try:
                self.begin_watch()
                self.write(("started", os.getpid()))
                self.wait()
            finally:
                self.finish()
        except BaseException as error:
            text = str(error) if isinstance(error, Refused) \
                else f"{type(error).__name__}: {error}"
            self.write(("error", text))
        finally:
            os.close(self.result)
            os.close(self.alive)

    def begin_watch(self):
        """The interpreter's end ends it, and a child of a fork is not traced."""
        atexit.register(self.finish, True)
        if not hasattr(self.tracer, "_attached"):
            tracer = self.tracer

            def stop_in_child():
                tracing, tracer._attached = tracer._attached, None
                if tracing is not None:
                    atexit.unregister(tracing.finish)
                    tracer.stop()
            os.register_at_fork(after_in_child=stop_in_child)
        self.tracer._attached = self

    def is_wanted(self):
        try:
            return os.read(self.alive, 1) != b""
        except BlockingIOError:
            return True

    def wait(self):
        until = monotonic() + self.options["seconds"]
        due = 0 if self.moments.window else float("inf")
        while not self.is_over and monotonic() < until and self.is_wanted():
            if monotonic() >= due:
                self.look()
                due = monotonic() + self.moments.pause()
            _signal.sigtimedwait((), min(PAUSE, max(due - monotonic(), 0)))

    def take_turn(self):
        """Whether it is this thread's to look and write; False: it is over."""
        while not self.is_over:
            try:
                return self.turn.pop()
            except IndexError:
                _signal.sigtimedwait((), PAUSE)
        return False

    def look(self):
        if self.take_turn():
            try:
                self.write_moment(self.moments.look())
            finally:
                self.turn.append(True)

    def finish(self, at_exit=False):
        """Where there are moments, none at exit: what functions held is gone."""
        if not self.take_turn():
            return
        try:
            atexit.unregister(self.finish)
            try:
                is_wanted = not (at_exit and self.moments.window)
                found = self.moments.look() if is_wanted else None
                kinds = self.options["objects"] and kinds_of(
                    self.tracer, self.options["objects"] == "referrers")
            finally:
                self.tracer.stop()
                self.tracer._attached = None
            if found:
                self.write_moment(found)
            for kind in (kinds or {}).items():
                self.write(("kinds", dict([kind])))
            self.write(("end",))
        finally:
            self.is_over = True

    def write_moment(self, found):
        seconds, changed = found
        lines = [("moment", seconds)]
        for key, blocks in changed.items():
            lines.append((self.numbers.get(key, key), blocks))
            self.numbers.setdefault(key, len(self.numbers))
        for i in range(0, len(lines), LINES):
            self.write(*lines[i:i + LINES])


def begin(options):
    try:
        os.unlink(options["folder"] + "/ticket")
        tracing = Tracing(options)
    except OSError:
        return                          # nobody waits any more
    tracing.run()


def begin_in_thread(options):
    """In the middle of any code of the main thread, or of another interpreter's."""
    import _interpreters
    import _thread
    if _interpreters.get_current() != _interpreters.get_main():
        return
    if not isinstance(_thread.start_new_thread, type(len)):
        return                          # gevent's: no thread
    before = _signal.pthread_sigmask(_signal.SIG_BLOCK, _signal.valid_signals())
    try:
        _thread.start_new_thread(begin, (options,))
    finally:
        _signal.pthread_sigmask(_signal.SIG_SETMASK, before)
