"""python -m pymem leaks: what grows, in a program that is run here, in another process, or in
a file that pymem track wrote.

The tracer samples; once a window comes a look at what it traces (pymem.attached.Moments), and
pymem.growth judges the sites.  A program that is run here ends by itself, by Ctrl-C, or after
--for as by Ctrl-C.  pymem.leaksreport says what was found.
"""

import os
import signal
import sys
import threading
import time

from pymem import about, check_writable, running
from pymem.attached import Moments
from pymem.growth import FEWEST, Survey, Timeline
from pymem.heap import HeapError
from pymem.history import add_blocks, is_history, read
from pymem.kinds import kinds_of

OVER_LIMIT = 3          # exit status
GRACE = 5.0             # seconds for a program to end by Ctrl-C


class OwnSampler:
    """Of a program that runs in this process, by a thread."""

    def __init__(self, options):
        self.options, self.kinds, self.has_forked = options, {}, False
        self.facts = about.of_run(options.program, time.time())
        self.pid, self.ended, self.survey = os.getpid(), threading.Event(), None
        self.tracer = running.start_tracer(options.frames, options.samples)
        self.timeline = Timeline(self.tracer.get_sample_bytes())
        self.moments = Moments(self.tracer, options.window, options.collect)
        self.ticker = running.Ticker(self.look, options.window)

    def look(self):
        seconds, changed = self.moments.look()
        self.timeline.add(seconds, changed)
        left = (self.options.seconds or float("inf")) - seconds
        self.ticker.seconds = max(min(self.moments.pause(), left), 0)
        if left <= 0:
            self.end_program()

    def end_program(self):
        """As Ctrl-C does; a program that goes on all the same is left behind."""
        self.ticker.end()
        self.judge()
        if signal.getsignal(signal.SIGINT) not in (signal.SIG_DFL, signal.SIG_IGN, None):
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            if self.ended.wait(GRACE):
                return
        try:
            status = report(self.options, self.survey, self.kinds, self.facts)
        except HeapError as error:
            print(f"pymem: {error}", file=sys.stderr)
            status = 1
        sys.stdout.flush()
        running.EXIT(status)

    def judge(self):
        """While what it made is still there."""
        if self.survey is None:
            self.survey = Survey(self.timeline)
            if self.survey.findings:
                self.kinds = kinds_of(self.tracer, self.options.objects == "referrers")

    def at_end(self):
        if os.getpid() == self.pid:     # not in a child of its
            self.ended.set()
            self.ticker.stop()
            self.judge()
            self.tracer.stop()

    def run(self, program):
        """The exit status; of the program 0 where Ctrl-C ended it."""
        self.look()
        self.ticker.start()
        os.register_at_fork(after_in_parent=self.after_fork)
        return running.run_program(program, self.at_end, self.write, ends=KeyboardInterrupt)

    def after_fork(self):
        self.has_forked = True

    def write(self):
        if os.getpid() != self.pid:
            return 0
        if self.has_forked:
            print(f"pymem: this is of process {self.pid} alone, and not of the children that it "
                  "forked: pymem leaks PID looks at one, pymem leaks FILE at what pymem track "
                  "wrote of one", file=sys.stderr)
        return report(self.options, self.survey, self.kinds, self.facts)


def of_process(options, pid):
    """(Survey, kinds, what pymem.about says) of another one."""
    from pymem import attach
    target = attach.Target(pid)
    facts = {**about.of_process(pid), "python": target.version, "started": time.time()}
    timeline, kinds = Timeline(options.samples), {}
    seconds, changed, stacks = None, {}, []
    try:
        for key, value in attach.reported(target, options):
            if key == "moment":
                if seconds is not None:
                    timeline.add(seconds, changed)
                seconds, changed = value, {}
            elif key == "kinds":
                kinds.update(value)
            else:
                if not isinstance(key, int):
                    stacks.append(key)
                changed[stacks[key] if isinstance(key, int) else key] = value
        if seconds is not None:
            timeline.add(seconds, changed)
        return Survey(timeline), kinds, facts
    except (TypeError, ValueError, IndexError, AttributeError):
        raise HeapError("what the process wrote can't be read") from None


def of_history(path):
    """(Survey, kinds, what pymem.about says) of a file of pymem track."""
    found, held = read(path), {}
    timeline = Timeline(found.sample_bytes)
    for seconds, changes in zip(found.times, found.changes):
        changed = {}
        for lines, more in changes:
            changed[lines[::-1],] = add_blocks(held.setdefault(lines, {}), more)
        timeline.add(seconds, changed)
    facts = {name: found.process[name] for name in about.NAMES if name in found.process}
    return Survey(timeline), {}, facts


def report(options, survey, kinds, facts):
    """The exit status."""
    if survey.windows < FEWEST:
        raise HeapError(f"leaks saw {survey.windows} windows of memory, and needs {FEWEST}: "
                        "let it run longer, or set a shorter --window (as 0.1s)")
    from pymem import leaksreport       # what it imports is not the program's
    is_over = []

    def write(path):
        options.output = path
        is_over.append(leaksreport.write(options, survey, kinds, facts))

    if options.output:
        running.write_result(options.output, write)
    else:
        write(None)
    return OVER_LIMIT if is_over[0] else 0


def command(options):
    program = options.program
    if program is None:
        raise HeapError("leaks takes a PID, a file of track, or a program: SCRIPT, -m MODULE, "
                        "-c CODE")
    if options.output and not options.output.endswith((".html", ".json")):
        raise HeapError(f"leaks writes a page or JSON: -o takes FILE.html or FILE.json, not "
                        f"{options.output}")
    check_writable(options.output)
    if program.is_process("leaks"):
        if options.seconds is None:
            options.seconds = 60.0
        return report(options, *of_process(options, int(program.what)))
    if program.kind == "script" and is_history(program.what):
        return report(options, *of_history(program.what))
    options.collect = True
    return OwnSampler(options).run(program)
