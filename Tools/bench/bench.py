#!/usr/bin/python3
"""Time allocators side by side on what Python programs ask for.

    bench.py [--quick | --growth] [--rounds=N] [--json=FILE] [--picture=FILE]
             [--traces=DIR] [--keep=SIZE] [WORKLOAD...]

A workload is one of the list below or the file of a trace that record.so made
of any Python program:

    LD_PRELOAD=build/record.so PYMEM_TRACE=app.trace python3 app.py
    bench.py app.trace

--growth replaces blocks in heaps of 1 MiB to 4 GiB.  --picture needs matplotlib
(Debian: python3-matplotlib).  --traces records some of programs.py into DIR, where they are
not there yet, and plays them as well.  --keep measures ours with PYMEM_KEEP=SIZE, too: other
allocators keep what is free.

Every round runs each workload once on each allocator, in a separate process
and in an order that changes, so that what else the machine does hits all of
them equally.  Printed are medians: nanoseconds an operation, the ratio to
CPython's own allocator (over 1 is faster), peak memory and page faults.  Ours
runs twice in each round: how much the two differ is the noise, and a ratio that
is no further from 1 has a mark.
"""

import argparse
import json
import os
import subprocess
import sys
from math import exp, log
from pathlib import Path
from statistics import median

import machine

TOP = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(TOP / "Lib"))
from pymem.allocators import (LIBPYTHON, OURS, STOCK, WorkerFailed,  # noqa: E402
                              find_allocators, run_worker)
from pymem.recording import record  # noqa: E402

AGAIN = "the same again"        # ours, to see the noise
NAME_WIDTH = 24                 # of workloads

# name: (workload of worker.c, its number, in --quick)
WORKLOADS = {
    "replace 1,000": ("replace", 1_000, True),
    "replace 100,000": ("replace", 100_000, True),
    "replace 2,000,000": ("replace", 2_000_000, False),
    "batch 1,000": ("batch", 1_000, True),
    "build 100,000": ("build", 100_000, True),
    "build 3,000,000": ("build", 3_000_000, False),
    "pairs": ("pairs", 1_000, True),
    "grow to 100,000": ("grow", 100_000, True),
    "grow to 2,000,000": ("grow", 2_000_000, False),
    "a hundred to 100,000": ("grow_many", 100_000, True),
    "a hundred to 2,000,000": ("grow_many", 2_000_000, False),
    "append to 100,000": ("append", 100_000, True),
    "append to 2,000,000": ("append", 2_000_000, False),
    "large to 4,000": ("large", 4_000, True),
}

# Heaps by their size: the blocks of "replace" take 61 bytes on average.
GROWTH = {f"heap of {mib:,} MiB": ("replace", (mib << 20) // 64)
          for mib in (1, 16, 256, 1024, 4096)}


def progress(text):
    """One line that changes, where a person looks on."""
    if sys.stderr.isatty():
        print(f"\r{text:72}\r", end="", file=sys.stderr, flush=True)


def geometric_mean(values):
    values = list(values)
    return exp(sum(map(log, values)) / len(values))


def noise_of(runs, again):
    """How much two runs of the same differ, as a part of them: the median of the rounds."""
    return median(abs(a["ns"] - b["ns"]) / min(a["ns"], b["ns"])
                  for a, b in zip(runs, again))


def measure(worker, allocators, workloads, rounds):
    """({workload: {allocator: {figure: median}}}, {workload: noise})"""
    allocators = {**allocators, AGAIN: allocators[OURS]}
    samples = {name: {allocator: [] for allocator in allocators}
               for name in workloads}
    names = list(allocators)
    for turn in range(rounds):
        for number, name in enumerate(workloads):
            progress(f"round {turn + 1} of {rounds}, workload {number + 1} of "
                     f"{len(workloads)}: {name}")
            start = (turn + number) % len(names)
            for allocator in names[start:] + names[:start]:
                samples[name][allocator] += run_worker(
                    worker, allocators[allocator], *workloads[name])
    progress("")
    noise = {name: noise_of(by_allocator[OURS], by_allocator.pop(AGAIN))
             for name, by_allocator in samples.items()}
    return {name: {allocator: {figure: median(run[figure] for run in runs)
                               for figure in ("ns", "rss_kib", "faults")}
                   for allocator, runs in by_allocator.items()}
            for name, by_allocator in samples.items()}, noise


def print_table(title, results, allocators, cell):
    print(title)
    print(" " * NAME_WIDTH + "".join(f"{name:>12}" for name in allocators))
    for name, figures in results.items():
        print(f"{name:{NAME_WIDTH}}" + "".join(
            f"{cell(figures, allocator):>12}" for allocator in allocators))


def print_machine(allocators):
    for what, value in machine.describe():
        print(f"{what:18}{value}")
    for name, allocator in allocators.items():
        library = allocator.preloaded or allocator.library
        print(f"{name:18}{'the C library' if library == '-' else machine.version_of(library)}")
    print()


def report(results, noise, allocators):
    def ratio(figures, allocator, figure="ns"):
        return figures[STOCK][figure] / figures[allocator][figure]

    def marked(name, allocator):
        value = ratio(results[name], allocator)
        is_lost = allocator != STOCK and abs(value - 1) <= noise[name]
        return f"{value:.2f}{'~' if is_lost else ' '}"

    print_table("nanoseconds an operation", results, allocators,
                lambda f, a: f"{f[a]['ns']:.2f}")
    print_table(f"\nspeed, {STOCK}'s own = 1; ~: 1 within the noise",
                {name: name for name in results}, allocators, marked)
    print(f"{'geometric mean':{NAME_WIDTH}}" + "".join(
        f"{geometric_mean(ratio(f, a) for f in results.values()):12.2f}"
        for a in allocators))
    print("\nnoise, two processes of ours: "
          + ", ".join(f"{name} {100 * noise[name]:.0f} %" for name in results))
    print_table("\npeak memory, MiB", results, allocators,
                lambda f, a: f"{f[a]['rss_kib'] / 1024:.1f}")
    print_table("\npage faults", results, allocators,
                lambda f, a: f"{f[a]['faults']:,.0f}")


def draw(results, allocators, path):
    """Speed relative to CPython's, a group of bars for each workload."""
    import matplotlib
    matplotlib.use("svg" if path.suffix == ".svg" else "agg")
    matplotlib.rcParams["svg.hashsalt"] = "pymem"   # the same names each time
    from matplotlib import pyplot
    shown = [name for name in allocators if name != STOCK]
    figure, axes = pyplot.subplots(figsize=(9, 0.62 * len(results) + 1))
    height = 0.8 / len(shown)
    for i, name in enumerate(shown):
        axes.barh([y + (i - (len(shown) - 1) / 2) * height
                   for y in range(len(results))],
                  [f[STOCK]["ns"] / f[name]["ns"] - 1
                   for f in results.values()],
                  height, left=1, label=name)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log", base=2)
    axes.set_xlim(1 / 4, 8)
    axes.set_xticks([1 / 4, 1 / 2, 1, 2, 4, 8])
    axes.set_xticklabels(["1/4", "1/2", "1", "2", "4", "8"])
    axes.set_yticks(range(len(results)))
    axes.set_yticklabels(list(results))
    axes.set_ylim(len(results) - 0.5, -0.5)
    axes.set_xlabel(f"speed, {STOCK}'s own = 1")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncol=len(shown))
    figure.tight_layout()
    pyplot.savefig(path, metadata={"Date": None} if path.suffix == ".svg"
                   else None)


# Programs of programs.py that make good traces: not too long, not too similar.
TRACED = ["json_documents", "ast_and_compile", "objects", "asyncio_tasks",
          "pickle_and_deepcopy", "strings"]


def record_traces(build, directory):
    """Traces of TRACED; the names of the files."""
    directory.mkdir(parents=True, exist_ok=True)
    traces = []
    for name in TRACED:
        trace = directory / f"{name}.trace"
        traces.append(trace)
        if trace.exists():
            continue
        progress(f"recording {name}")
        unfinished = trace.with_suffix(".unfinished")
        unfinished.unlink(missing_ok=True)
        result = record(build / "record.so", unfinished,
                        [sys.executable, "-I", TOP / "Tools" / "bench" / "programs.py", name],
                        environment={}, stdout=subprocess.DEVNULL)
        if result.returncode != 0 or not unfinished.exists():
            sys.exit(f"bench: {name} could not be recorded")
        unfinished.rename(trace)
    return traces


def choose_workloads(options, build):
    """{name: (workload of the worker, its number or file)}"""
    if options.growth:
        return GROWTH
    traces = (record_traces(build, options.traces) if options.traces else [])
    chosen = options.workloads or [
        name for name, (_, _, quick) in WORKLOADS.items()
        if quick or not options.quick]
    workloads = {}
    for name in [*chosen, *traces]:
        if name in WORKLOADS:
            workloads[name] = WORKLOADS[name][:2]
        elif Path(name).is_file():
            workloads[Path(name).stem[:19]] = ("trace", name)
        else:
            raise ValueError(f"unknown workload {name!r}: no file of a trace, "
                             "nor one of " + ", ".join(WORKLOADS))
    return workloads


def main():
    parser = argparse.ArgumentParser(
        prog="bench.py", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true",
                        help="small workloads, five rounds")
    parser.add_argument("--growth", action="store_true",
                        help="heaps of 1 MiB to 4 GiB; takes 5 GiB of memory")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--picture", type=Path, metavar="FILE",
                        help="an SVG or PNG of the speeds")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--build", type=Path, default=TOP / "build")
    parser.add_argument("--traces", type=Path, metavar="DIR")
    parser.add_argument("--keep", metavar="SIZE")
    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD",
                        help=", ".join(WORKLOADS) + ", or a trace")
    options = parser.parse_args()
    build = options.build.resolve()
    try:
        workloads = choose_workloads(options, build)
    except ValueError as error:
        parser.error(str(error))
    allocators = find_allocators(build)
    if STOCK not in allocators:
        sys.exit(f"bench: {LIBPYTHON} is missing (Debian: {LIBPYTHON.split('.so')[0]}); "
                 "ratios are to its allocator")
    if options.keep:
        allocators[f"keep={options.keep}"] = allocators[OURS]._replace(
            environment=(("PYMEM_KEEP", options.keep),))
    try:
        results, noise = measure(build / "bench-worker", allocators, workloads,
                                 options.rounds or (5 if options.quick else 9))
    except WorkerFailed as error:
        sys.exit(f"bench: {error}")
    print_machine(allocators)
    report(results, noise, list(allocators))
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))
    if options.picture:
        draw(results, list(allocators), options.picture)


if __name__ == "__main__":
    main()
