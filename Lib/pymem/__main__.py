"""python -m pymem: see a heap."""

import argparse
import ast
import builtins
import gc
import json
import os
import sys
import time
from pathlib import Path
from typing import NamedTuple

from pymem import quantities, running
from pymem.attached import traces_of
from pymem.heap import NO_MODULE, Heap, HeapError


class Parser(argparse.ArgumentParser):
    def error(self, message):
        self.exit(2, f"{self.prog}: {message} (see --help)\n")


def frames_ticker(frames, seconds):
    from pymem.heapmap import Frame
    return running.Ticker(
        lambda: frames.append(Frame(f"moment {len(frames)}", Heap.take())), seconds)


def take_heap(pid):
    if pid is None:
        return Heap.take()
    from pymem.remote import Process
    return Process(pid).heap()


# stats

def statistics_text(statistics):
    yield f"{'size':>6} {'pools':>8} {'blocks':>12} {'free':>12}"
    for row in statistics["classes"] + statistics["medium"]["classes"]:
        yield f"{row['size']:6,} {row['pools']:8,} {row['blocks']:12,} " \
              f"{row['free_blocks']:12,}"
    yield ""
    for kind, arenas in (("", statistics["arenas"]),
                         ("medium ", statistics["medium"]["arenas"])):
        yield f"{kind}arenas: {arenas['current']:,} now, {arenas['highwater']:,} at the " \
              f"most, {arenas['allocated']:,} bought, {arenas['reclaimed']:,} returned"
    for heap in statistics["heaps"]:
        yield f"{heap['owner']}: {heap['arenas']:,} arenas of {heap['bytes']:,} bytes, " \
              f"{heap['blocks']:,} blocks"
    for name, nbytes in statistics["bytes"].items():
        yield f"{name.replace('_', ' '):18} {nbytes:16,} bytes"


def stats(options):
    if options.pid is not None and options.program:
        raise HeapError("stats takes a script or --pid, not both")
    results = []

    def write():
        statistics = results[0].statistics()
        text = (json.dumps(statistics, indent=1) if options.json
                else "\n".join(statistics_text(statistics)))
        if options.output:
            running.write_result(options.output, lambda path: Path(path).write_text(text + "\n"))
        else:
            print(text)

    if options.program:
        return running.run_program(options.program, lambda: results.append(Heap.take()), write)
    results.append(take_heap(options.pid))
    return write()


# heapmap

FORMATS = {".svg": "svg", ".html": "html", ".htm": "html", ".png": "png"}


def format_of(options, default):
    if options.format:
        return options.format
    return FORMATS.get(Path(options.output).suffix, default) if options.output else default


def write_heapmap(frames, form, output, facts):
    from pymem import heapmap
    if form == "term":
        lines = heapmap.terminal_lines(frames, sys.stdout.isatty() and not output)
        text = "\n".join(lines) + "\n"
        if output:
            running.write_result(
                output, lambda path: Path(path).write_text(text, encoding="utf-8"))
        else:
            sys.stdout.write(text)
        return
    path = running.write_result(output or f"heapmap.{form}",
                                lambda path: heapmap.write(frames, path, form, facts))
    print(f"{path}: {len(frames)} moment{'s' * (len(frames) > 1)}", file=sys.stderr)


def heapmap(options):
    from pymem import about
    from pymem.heapmap import Frame
    form = format_of(options, "term")
    if options.pid is not None:
        if options.program:
            raise HeapError("heapmap takes a script or --pid, not both")
        frames = [Frame(f"process {options.pid}", take_heap(options.pid))]
        write_heapmap(frames, form, options.output, about.of_process(options.pid))
        return 0
    if not options.program:
        raise HeapError("heapmap takes a script or --pid PID")
    frames = [Frame("before", Heap.take())]
    ticker = None
    if options.every:
        ticker = frames_ticker(frames, options.every)
        ticker.start()

    def at_end():
        if ticker:
            ticker.stop()
        frames.append(Frame("at the end", Heap.take()))

    def dropped():
        gc.collect()
        frames.append(Frame("after, all dropped", Heap.take()))

    def write():
        write_heapmap(frames, form, options.output,
                      about.of_run(options.program, frames[0].heap.time))

    return running.run_program(options.program, at_end, write, dropped)


# watch

def watch(options):
    from pymem import watch as watching
    program = options.program
    if program is None:
        raise HeapError("watch takes a PID or a program: SCRIPT, -m MODULE, -c CODE")
    if program.is_process("watch"):
        watching.watch_process(int(program.what), options.looks)
        return 0
    from pymem.sites import Sites
    watcher = watching.OwnWatch(
        None if options.no_sites else Sites(options.samples, options.frames))
    watcher.start()
    return running.run_program(program, watcher.stop)


# explain

def address_of(text):
    try:
        value = ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return None
    return value if isinstance(value, int) and value >= 4096 else None


def explain(options):
    from pymem import explain as explaining
    address = address_of(options.what)
    if options.pid is not None:
        if address is None:
            raise HeapError("of another process an address can be explained, as 0x7f...")
        from pymem.remote import Process
        process = Process(options.pid)
        print(explaining.explain_address(address, process.heap(), process))
        return 0
    if address is not None and not options.setup:
        print(explaining.explain_address(address))
        return 0
    names = {"__builtins__": builtins}
    if "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        if options.frames:
            import tracemalloc
            tracemalloc.start(options.frames)
        exec(compile(options.setup or "", "<setup>", "exec"), names)
        value = eval(compile(options.what, "<expression>", "eval"), names)
    except Exception as error:
        raise HeapError(f"{options.what!r} can't be evaluated: "
                        f"{type(error).__name__}: {error}") from None
    print(explaining.explain(value))
    return 0


# replay

def replay(options):
    from pymem import replay as replaying
    geometries = {name: replaying.geometry_of(name)
                  for name in options.geometry or replaying.GEOMETRIES}
    allocators = None
    if options.allocators is not None:
        allocators = [] if options.allocators == "none" else options.allocators.split(",")
    curves = replaying.replay(options.trace, geometries, allocators)
    print("\n".join(replaying.table(curves)))
    if options.output:
        replaying.draw(curves).write(options.output, format_of(options, "svg"),
                                     "replay of a trace")
    return 0


# flame

NATIVE_SAMPLES = 16 << 10       # bytes: a stack of C functions takes microseconds


def flame(options):
    from pymem import flame as flaming
    from pymem import stackfile
    form = options.format or flaming.SUFFIXES.get(Path(options.output or "").suffix, "svg")
    output = options.output or {"svg": "flame.svg", "html": "flame.html",
                                "pprof": "flame.pb.gz", "collapsed": "flame.txt"}[form]
    program = options.program
    if program is None:
        raise HeapError("flame takes a program or a file: SCRIPT, -m MODULE, -c CODE, FILE of "
                        "track, attach, leaks or Snapshot.dump()")
    before = stackfile.load_earlier(options.compare) if options.compare else None
    stacks = stackfile.load(program.what) if program.kind == "script" else None
    if stacks is not None and options.native:
        raise HeapError("a file has no native stacks; --native takes a program")
    if stacks is not None and program.arguments:
        raise HeapError(f"a file takes no arguments ({program.arguments[0]}): options come "
                        "before its name")

    def write(stacks, write_file):
        told = []
        write_file(output, lambda path: told.append(
            flaming.write_compared(stacks, before, True, path, form)))
        print(told[0], end="", file=sys.stderr)

    if stacks is None:
        return flame_traced(options, lambda stacks: write(stacks, running.write_result))
    write(stacks, running.write_over)
    return 0


class Peak:
    """The traces of the most memory, or of nine tenths of it: they are taken again where the
    program has a tenth more than at the last time."""

    def __init__(self):
        self.traces, self.highest, self.own = None, 0, 0

    def look(self):
        tracemalloc = running.tracer()
        current = tracemalloc.get_traced_memory()[0] - self.own
        if current > 1.1 * self.highest:
            self.highest, self.traces = current, None
            before = tracemalloc.get_traced_memory()[0]
            self.traces = traces_of(tracemalloc)
            self.own = tracemalloc.get_traced_memory()[0] - before


def flame_traced(options, write):
    from pymem import about
    from pymem import flame as flaming
    samples = options.samples
    if samples is None:
        samples = NATIVE_SAMPLES if options.native else 0
    if options.native and not samples:
        print("pymem: --native --samples 0 follows the C stack of each block, which takes 60 to "
              "120 times as long; without --samples 0 it takes 2.4 to 3.6 times as long",
              file=sys.stderr)
    if samples or options.native:
        tracemalloc = running.start_tracer(options.frames, samples, options.native)
    else:
        tracemalloc = running.tracer()
        tracemalloc.start(options.frames)
    peak, found, started = Peak(), [], time.time()
    ticker = running.Ticker(peak.look, 0.01) if options.peak else None
    if ticker:
        ticker.start()

    def at_end():
        if ticker:
            ticker.stop()
            peak.look()
        highest = tracemalloc.get_traced_memory()[1]
        traces = peak.traces or traces_of(tracemalloc)
        sample_bytes = getattr(tracemalloc, "get_sample_bytes", int)()
        tracemalloc.stop()
        stacks = flaming.of_traces(traces, sample_bytes)
        stacks.facts.update(
            about.of_run(options.program, started), peak_bytes=highest,
            sample_bytes=sample_bytes, moment="near the peak" if options.peak else "at the end")
        found.append(stacks)
    return running.run_program(options.program, at_end, lambda: write(found[0]))


# attach

def attach(options):
    from pymem import attach as attaching
    return attaching.command(options)


# leaks

def leaks(options):
    from pymem import leaks as leaking
    return leaking.command(options)


# track, report

def track(options):
    from pymem import track as tracking
    return tracking.command(options)


def report(options):
    from pymem import report as reporting
    return reporting.command(options)


# conformance

def conformance(options):
    from pymem.conformance import command
    return command.conformance(options)


MOST_FRAMES = 65535


def positive(convert, what, most=sys.maxsize):
    def parse(text):
        try:
            value = convert(text)
        except ValueError:
            value = 0
        if not 0 < value <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is no {what}")
        return value
    return parse


def argument(convert):
    """Of argparse, which tells nothing of a ValueError."""
    def parse(text):
        try:
            return convert(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
    return parse


bytes_of = argument(quantities.size_of)
seconds_of = argument(quantities.seconds_of)


def since_start(text):
    """0 and seconds_of()."""
    return 0.0 if text in ("0", "0s") else seconds_of(text)


class Limit(NamedTuple):
    """Of growth, in bytes a second."""
    text: str
    rate: float


def limit_of(text):
    """10M/h, 512K/m, 100/s."""
    amount, slash, unit = text.rpartition("/")
    try:
        return Limit(text, bytes_of(amount) / quantities.TIMES[unit or "-"])
    except (argparse.ArgumentTypeError, KeyError):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no growth, as 10M/h, 512K/m or 0/s") from None


def parser():
    main_parser = Parser(prog="pymem", description="Show the heap of a script that pymem "
                         "runs, or of a process.")
    main_parser.add_argument("--version", action="store_true")
    main_parser.with_program = {}       # command: its parser
    commands = main_parser.add_subparsers(dest="command", metavar="COMMAND")
    number = positive(int, "number over 0")
    frames = positive(int, f"number of frames, 1 to {MOST_FRAMES}", MOST_FRAMES)

    def command(function, summary):
        made = commands.add_parser(function.__name__, help=summary, description=summary,
                                   prog=f"pymem {function.__name__}")
        made.set_defaults(function=function)
        return made

    def add_tracer(made, samples):
        made.add_argument("--samples", type=bytes_of, default=samples, metavar="SIZE",
                          help=f"trace one block in so many bytes ({samples}); 0 traces "
                          "every block")
        made.add_argument("--frames", type=frames, default=25, metavar="N",
                          help="keep so many frames of each stack (25)")

    def add_program(made, metavar="SCRIPT"):
        """What parse() makes a Program of, which sees to -m and -c itself."""
        made.add_argument("-m", nargs=argparse.REMAINDER, metavar="MODULE",
                          help="run a module with its arguments, as the interpreter's -m")
        made.add_argument("-c", nargs=argparse.REMAINDER, metavar="CODE",
                          help="run code with its arguments, as the interpreter's -c")
        made.add_argument("script", nargs="?", metavar=metavar)
        made.add_argument("arguments", nargs=argparse.REMAINDER)
        main_parser.with_program[made.prog.split()[-1]] = made

    made = command(stats, "Show all statistics of pymalloc, as data.")
    made.add_argument("--json", action="store_true")
    made.add_argument("-o", "--output", metavar="FILE")
    made.add_argument("--pid", type=number, help="look at another process")
    add_program(made)
    made = command(heapmap, "Draw a map of arenas and pools, before a script and after it.")
    made.add_argument("--format", choices=["svg", "html", "term", "png"])
    made.add_argument("-o", "--output", metavar="FILE")
    made.add_argument("--every", type=seconds_of, metavar="TIME",
                      help="draw a map so often in between (0.5s, 1m)")
    made.add_argument("--pid", type=number, help="draw a map of another process, now")
    add_program(made)
    made = command(watch, "Show a live view of a process or of a script. For a script the view "
                   "has the lines that hold the memory.")
    made.add_argument("--looks", type=number, help="end after so many looks at a process")
    made.add_argument("--no-sites", action="store_true", help="trace nothing, and show only pools "
                      "and blocks")
    add_tracer(made, "64K")
    add_program(made, "PID|SCRIPT")
    made = command(explain, "Show where an address or the value of an expression lies.")
    made.add_argument("--setup", metavar="CODE", help="run this code before the expression")
    made.add_argument("--frames", type=frames, metavar="N",
                      help="trace with so many frames, for the traceback")
    made.add_argument("--pid", type=number, help="the address is of another process")
    made.add_argument("what", metavar="ADDRESS|EXPRESSION")
    made = command(replay, "Play the requests of a recorded program under each geometry "
                   "and allocator.")
    made.add_argument("--geometry", action="append", metavar="NAME|ARENA_BITS:POOL_BITS")
    made.add_argument("--allocators", metavar="NAMES",
                      help="names with commas between them, or none")
    made.add_argument("--format", choices=["svg", "png"])
    made.add_argument("-o", "--output", metavar="FILE", help="draw a picture over time")
    made.add_argument("trace")
    made = command(flame, "Draw a flame graph of the lines that asked for live memory.")
    made.add_argument("--format", choices=["svg", "html", "pprof", "collapsed"])
    made.add_argument("-o", "--output", metavar="FILE")
    made.add_argument("--native", action="store_true", help="show C functions, too")
    made.add_argument("--samples", type=bytes_of, metavar="SIZE", help="trace one block in so "
                      "many bytes (with --native 16K, else 0); 0 traces every block, which "
                      "with --native takes 60 to 120 times as long")
    made.add_argument("--peak", action="store_true", help="show the peak, not the end")
    made.add_argument("--frames", type=frames, default=25, metavar="N")
    made.add_argument("--compare", metavar="EARLIER", help="show what grew (red) and "
                      "shrank (blue) since this file was written")
    add_program(made, "SCRIPT|FILE")
    made = command(attach, "Trace a process that runs already for a while, and name the lines "
                   "that allocated the memory that is still there.")
    add_tracer(made, "512K")
    made.add_argument("--for", dest="seconds", type=seconds_of, default="60s",
                      metavar="TIME", help="trace so long: 60s, 5m, 1h (60s)")
    made.add_argument("--timeout", type=seconds_of, default="30s", metavar="TIME",
                      help="wait so long for the process to begin and to answer (30s)")
    made.add_argument("--top", type=number, default=10, metavar="N",
                      help="show so many lines (10)")
    made.add_argument("-o", "--output", metavar="FILE",
                      help="write .json, which flame draws, or else a snapshot of tracemalloc")
    made.add_argument("pid", type=number, metavar="PID")
    made.set_defaults(window=None, collect=False, objects=None)
    made = command(leaks, "Find the lines that hold more and more memory, in a process that runs "
                   "already, in a program that pymem runs, or in a file of track.")
    add_tracer(made, "64K")
    made.add_argument("--window", type=seconds_of, default="0.5s", metavar="TIME",
                      help="time from one look to the next (0.5s), doubled after 64 looks")
    made.add_argument("--for", dest="seconds", type=seconds_of, metavar="TIME",
                      help="look so long: 60s, 5m, 1h (a process 60s, a program to its end)")
    made.add_argument("--timeout", type=seconds_of, default="30s", metavar="TIME",
                      help="wait so long for a process to begin and to answer (30s)")
    made.add_argument("--top", type=number, default=10, metavar="N",
                      help="show so many sites (10)")
    made.add_argument("--limit", type=limit_of, metavar="SIZE/TIME",
                      help="end with status 3 where memory grows faster: 10M/h, 512K/m, 100/s")
    made.add_argument("--collect", action="store_true",
                      help="collect garbage in a process, too, before the 8th look, the 16th, "
                      "the 32nd...; in a program that pymem runs it is always collected")
    made.add_argument("--types", dest="objects", action="store_const", const="types",
                      help="look at the objects of a process, too; for a program that pymem "
                      "runs the types are always told")
    made.add_argument("--referrers", dest="objects", action="store_const",
                      const="referrers", help="tell the types, and what holds the objects; "
                      "this walks through all objects")
    made.add_argument("--json", action="store_true")
    made.add_argument("-o", "--output", metavar="FILE", help="write .html, a page with "
                      "a time line, or .json")
    add_program(made, "PID|SCRIPT|FILE")
    made = command(track, "Write down what a program holds, moment after moment, in a file that "
                   "report reads.")
    add_tracer(made, "64K")
    made.add_argument("--every", type=seconds_of, default="0.5s", metavar="TIME",
                      help="time from one moment to the next (0.5s)")
    made.add_argument("-o", "--output", metavar="FILE", help="a name with %%p, the PID, in "
                      "it (NAME.%%p.pymem); no file is written over")
    add_program(made)
    made = command(report, "Read files of track, and show the lines that hold the memory at the "
                   "end, at the peak, or since a moment.")
    made.add_argument("--format", choices=["table", "summary", "tree", "html", "svg",
                                           "collapsed", "pprof", "json"])
    made.add_argument("-o", "--output", metavar="FILE")
    made.add_argument("--peak", action="store_true", help="show the peak, not the end")
    made.add_argument("--from", dest="start", type=since_start, metavar="TIME",
                      help="show what was added since then: 0, 90s, 5m, 1h")
    made.add_argument("--to", dest="end", type=since_start, metavar="TIME",
                      help="show a moment so long after the start, not the end")
    made.add_argument("--compare", action="append", metavar="EARLIER",
                      help="show what grew and what shrank since this file of track; repeat it "
                      "for each of several processes")
    made.add_argument("--top", type=number, default=10, metavar="N",
                      help="show so many rows of table and summary (10)")
    made.add_argument("files", nargs="+", metavar="FILE",
                      help="files of the processes of a program")
    made = command(conformance, "Test each promise that Python needs, in an allocator.")
    from pymem.conformance.command import DESCRIPTION, add_options
    made.description = DESCRIPTION
    add_options(made, number, seconds_of)
    return main_parser


def need_file(path):
    if not path.isdigit() and not os.path.exists(path):
        raise HeapError(f"{path}: no such file")


def split_program(arguments, made):
    """A command's own arguments, and a Program where -m or -c begins one; the rest is its
    own, whatever it looks like."""
    with_value = {name for action in made._actions if action.nargs is None
                  for name in action.option_strings}
    i = 0
    while i < len(arguments) and arguments[i].startswith("-"):
        word = arguments[i]
        for option, kind, what in ("-m", "module", "a module"), ("-c", "code", "code"):
            if word.startswith(option):
                words = [word[2:]] * (len(word) > 2) + arguments[i + 1:]
                if not words:
                    raise HeapError(f"{option} takes {what} and its arguments")
                return arguments[:i], running.Program(kind, words[0], words[1:])
        i += 2 if word in with_value else 1
    return arguments, None


def parse(made, arguments):
    program = None
    if arguments and arguments[0] in made.with_program:
        own, program = split_program(arguments[1:], made.with_program[arguments[0]])
        arguments = [arguments[0], *own]
    options = made.parse_args(arguments)
    if program is None and getattr(options, "script", None) is not None:
        need_file(options.script)
        program = running.Program("script", options.script, options.arguments)
    options.program = program
    return options


def main():
    made = parser()
    options = parse(made, sys.argv[1:])
    if options.version:
        from _pymem import VERSION
        print(f"pymem {VERSION}")
        return 0
    if options.command is None:
        made.error("a command is needed: stats, heapmap, watch, explain, replay, flame, "
                   "attach, leaks, track, report, conformance")
    if options.command == "replay":
        need_file(options.trace)
    return options.function(options)


def program():
    """What the program pymem does, too."""
    try:
        sys.exit(main())
    except HeapError as error:
        sys.exit(f"pymem: {error}")
    except ImportError as error:
        if error.name == "_pymem":
            sys.exit(f"pymem: {NO_MODULE}")
        raise
    except BrokenPipeError:
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:
        sys.exit(f"pymem: {error.filename or error}: {error.strerror}")


if __name__ == "__main__":
    program()
