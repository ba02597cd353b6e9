#!/usr/bin/python3
"""Time whole programs with tracemalloc on, on build/python and build/python-stock.

    bench_tracemalloc.py [--rounds=N] [--json=FILE] [PROGRAM...]
    bench_tracemalloc.py --package=PYTHON [--rounds=N] [--json=FILE] [PROGRAM...]

Time and memory are relative to the same interpreter without tracing: processor time with
1 frame, with 25 frames, and (ours alone) with samples of 512 KiB, and with a snapshot
dumped at the end; peak memory.  Then the size of that dump, and of a snapshot of 1,000,000
traces the seconds and the size.  Medians of rounds in which all ways run in turn.

With --package it is one interpreter, which is not linked with pymem and has the package
that pip installed: pymem.tracemalloc in it, and its own tracer.

Where the interpreter has memray (Debian: python3-memray), memray runs the same programs:
malloc and mmap alone, every block of Python's ("all"), and all in its short form
("sums").  What it writes it writes while the program runs; its start, and its
compression at the end, are not counted.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from bench import TOP, geometric_mean, progress
from bench_programs import parse_options

SCRIPT = Path(__file__).resolve().parent / "programs.py"
CHOSEN = ["json_documents", "ast_and_compile", "objects", "asyncio_tasks",
          "pickle_and_deepcopy", "generators"]
# tracer: {way: what programs.py gets, or memray}
WAYS = {
    "pymem": {"1 frame": ["pymem.tracemalloc", "1"],
              "25 frames": ["pymem.tracemalloc", "25"],
              "samples": ["pymem.tracemalloc", "1", str(512 * 1024)]},
    "CPython": {"1 frame": ["tracemalloc", "1"], "25 frames": ["tracemalloc", "25"]},
    "memray": {"malloc": [], "all": ["--trace-python-allocators"],
               "sums": ["--trace-python-allocators", "--aggregate"]},
}

A_MILLION = """
blocks = []
for i in range(100):
    exec(compile("\\n" * i + "for _ in range(10_000): "
                 f"blocks.append(bytes({i} + _ % 50))", "a", "exec"))
"""
SNAPSHOT = """
import gc, importlib, os, sys, time
tracemalloc = importlib.import_module(sys.argv[1])
gc.disable()
tracemalloc.start(1)
""" + A_MILLION + """
start = time.process_time()
snapshot = tracemalloc.take_snapshot()
seconds = time.process_time() - start
assert len(snapshot.traces._traces) >= 1_000_000
snapshot.dump(sys.argv[2])
print(seconds)
"""


class Interpreters:
    """{tracer: path} of those that are measured."""

    def __init__(self, options):
        linked, stock = ((options.package,) * 2 if options.package else
                         (options.build / "python", options.build / "python-stock"))
        self.environment = {} if options.package else {"PYTHONPATH": str(TOP / "Lib")}
        self.paths = {"pymem": linked, "CPython": stock}
        if self.call(stock, "-c", "import memray._memray",
                     stderr=subprocess.DEVNULL).returncode == 0:
            self.paths["memray"] = stock

    def call(self, python, *arguments, **options):
        return subprocess.run([python, "-s", *arguments], text=True, env=self.environment,
                              stdout=subprocess.PIPE, **options)

    def memray(self, file, *arguments):
        result = self.call(self.paths["memray"], "-m", "memray", "run", "-q", "-f", "-o",
                           file, *arguments, stderr=subprocess.PIPE)
        if result.returncode != 0:      # it warns of what it does, too
            print(result.stderr, file=sys.stderr)
        return result

    def run_program(self, name, tracer, way, file):
        """Its figures; without tracing if way is "off"."""
        if way == "off":
            result = self.call(self.paths[tracer], SCRIPT, name)
        elif tracer == "memray":
            result = self.memray(file, *WAYS[tracer][way], SCRIPT, name)
        else:
            result = self.call(self.paths[tracer], SCRIPT, name, *WAYS[tracer][way])
        if result.returncode != 0:
            sys.exit(f"bench: {name} failed: {tracer}, {way}, {self.paths[tracer]}")
        figures = json.loads(result.stdout)
        if tracer == "memray" and way != "off":
            figures["written"] = file.stat().st_size
        return figures

    def snapshot(self, tracer, file):
        """Seconds for a snapshot of a million traces, and the bytes written."""
        if tracer == "memray":
            result = self.memray(file, *WAYS[tracer]["all"], "-c", A_MILLION)
            seconds = 0.0           # it has no snapshots
        else:
            result = self.call(self.paths[tracer], "-c", SNAPSHOT,
                               WAYS[tracer]["1 frame"][0], file)
            seconds = float(result.stdout or 0)
        if result.returncode != 0:
            sys.exit(f"bench: a million traces failed: {tracer}, {self.paths[tracer]}")
        return seconds, file.stat().st_size


def measure(interpreters, names, rounds, file):
    samples = {(name, tracer, way): [] for name in names for tracer in interpreters.paths
               for way in ("off", *WAYS[tracer])}
    snapshots = {tracer: [] for tracer in interpreters.paths}
    for turn in range(rounds):
        for key in list(samples)[::1 if turn % 2 else -1]:
            progress(f"round {turn + 1} of {rounds}: " + ", ".join(key))
            samples[key].append(interpreters.run_program(*key, file))
        for tracer, figures in snapshots.items():
            figures.append(interpreters.snapshot(tracer, file))
    progress("")
    results = {}
    for (name, tracer, way), runs in samples.items():
        off = samples[name, tracer, "off"]
        results.setdefault(name, {})[f"{tracer}, {way}"] = {
            "time": median(run["seconds"] / other["seconds"]
                           for run, other in zip(runs, off)),
            "memory": median(run["rss_kib"] / other["rss_kib"]
                             for run, other in zip(runs, off)),
            "written, KiB": median(run["written"] / 1024 for run in runs)}
    return results, {tracer: [median(figure) for figure in zip(*figures)]
                     for tracer, figures in snapshots.items()}


def report(results, snapshots):
    columns = [f"{tracer}, {way}" for tracer in snapshots for way in WAYS[tracer]]
    for figure, digits in (("time", 2), ("memory", 2), ("written, KiB", 0)):
        def row(label, values):
            print(f"{label:20}" + "".join(
                f"{value:{len(column) + 2},.{digits}f}"
                for column, value in zip(columns, values)))
        print(f"{figure:20}" + "".join(f"  {column}" for column in columns))
        for name, figures in results.items():
            row(name, (figures[column][figure] for column in columns))
        row("geometric mean", (geometric_mean(f[column][figure] for f in results.values())
                               for column in columns))
        print()
    print("1,000,000 blocks:", "; ".join(
        (f"{tracer} snapshot {seconds:.2f} s, " if seconds else f"{tracer} ")
        + f"file {written / 2**20:.1f} MiB"
        for tracer, (seconds, written) in snapshots.items()))


def main():
    options = parse_options("bench_tracemalloc.py", __doc__, 5,
                            values=[("--package", "PYTHON")])
    with tempfile.TemporaryDirectory() as folder:
        results, snapshots = measure(Interpreters(options), options.programs or CHOSEN,
                                     options.rounds, Path(folder) / "written")
    report(results, snapshots)
    if options.json:
        options.json.write_text(json.dumps([results, snapshots], indent=1))


if __name__ == "__main__":
    main()
