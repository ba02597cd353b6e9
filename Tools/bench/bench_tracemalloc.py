#!/usr/bin/python3
"""Time whole programs with tracemalloc on, on build/python and build/python-stock.

    bench_tracemalloc.py [--rounds=N] [--json=FILE] [PROGRAM...]
    bench_tracemalloc.py --package=PYTHON [--rounds=N] [--json=FILE] [PROGRAM...]

Each figure is relative to the same interpreter without tracing: processor time
with 1 frame, with 25 frames, and (ours alone) with samples of 512 KiB; peak
memory; and seconds for a snapshot of 1,000,000 traces.  Medians of rounds in
which all ways run in turn.  With --package it is one interpreter, which is not linked with
pymem and has the package that pip installed: pymem.tracemalloc in it, and its own tracer.
"""

import json
import subprocess
import sys
from pathlib import Path
from statistics import median

from bench import geometric_mean, progress
from bench_programs import parse_options

SCRIPT = Path(__file__).resolve().parent / "programs.py"
CHOSEN = ["json_documents", "ast_and_compile", "objects", "asyncio_tasks",
          "pickle_and_deepcopy", "generators"]
# way: (-X tracemalloc=, PYTHONTRACEMALLOC_SAMPLE)
WAYS = {"off": (0, None), "1 frame": (1, None), "25 frames": (25, None),
        "samples": (1, 512 * 1024)}
INTERPRETERS = {"pymem": "python", "CPython": "python-stock"}

SNAPSHOT = """
import gc, time
try: from pymem import tracemalloc
except ImportError: import tracemalloc
gc.disable()
tracemalloc.start(1)
blocks = []
for i in range(100):
    exec(compile("\\n" * i + "for _ in range(10_000): "
                 f"blocks.append(bytes({i} + _ % 50))", "a", "exec"))
start = time.process_time()
snapshot = tracemalloc.take_snapshot()
print(time.process_time() - start)
assert len(snapshot.traces._traces) >= 1_000_000
"""


def ways_of(interpreter):
    return [way for way in WAYS if interpreter == "pymem" or way != "samples"]


def command_line(python, name, way, is_package):
    """And the environment for it."""
    nframe, sample = WAYS[way]
    if nframe == 0:
        return [python, "-s", SCRIPT, name], {}
    if is_package:
        return [python, "-s", SCRIPT, name, str(nframe), str(sample or 0)], {}
    return ([python, "-s", "-X", f"tracemalloc={nframe}", SCRIPT, name],
            {} if sample is None else {"PYTHONTRACEMALLOC_SAMPLE": str(sample)})


def run_program(python, name, way, is_package=False):
    command, environment = command_line(python, name, way, is_package)
    result = subprocess.run(command, text=True, stdout=subprocess.PIPE, env=environment)
    if result.returncode != 0:
        sys.exit(f"bench: {name} on {python} failed")
    return json.loads(result.stdout)


def snapshot_seconds(python, without_package):
    hidden = "import sys; sys.modules['pymem'] = None\n" if without_package else ""
    return float(subprocess.run([python, "-I", "-c", hidden + SNAPSHOT], text=True,
                                check=True, stdout=subprocess.PIPE).stdout)


def measure(pythons, names, rounds, is_package):
    """pythons: {interpreter: path}"""
    samples = {(name, interpreter, way): []
               for name in names for interpreter in INTERPRETERS
               for way in ways_of(interpreter)}
    snapshots = {interpreter: [] for interpreter in INTERPRETERS}
    for turn in range(rounds):
        for key in list(samples)[::1 if turn % 2 else -1]:
            name, interpreter, way = key
            progress(f"round {turn + 1} of {rounds}: {name}, {interpreter}, "
                     f"{way}")
            samples[key].append(run_program(
                pythons[interpreter], name, way, is_package and interpreter == "pymem"))
        for interpreter, python in pythons.items():
            snapshots[interpreter].append(snapshot_seconds(
                python, is_package and interpreter == "CPython"))
    progress("")
    results = {}
    for (name, interpreter, way), runs in samples.items():
        off = samples[name, interpreter, "off"]
        results.setdefault(name, {})[f"{interpreter}, {way}"] = {
            "time": median(run["seconds"] / other["seconds"]
                           for run, other in zip(runs, off)),
            "memory": median(run["rss_kib"] / other["rss_kib"]
                             for run, other in zip(runs, off))}
    return results, {name: median(seconds)
                     for name, seconds in snapshots.items()}


def report(results, snapshots):
    columns = [f"{interpreter}, {way}" for interpreter in INTERPRETERS
               for way in ways_of(interpreter) if way != "off"]
    for figure in ("time", "memory"):
        print(f"{figure:22}" + "".join(f"{name:>20}" for name in columns))
        for name, figures in results.items():
            print(f"{name:22}" + "".join(
                f"{figures[column][figure]:20.2f}" for column in columns))
        print(f"{'geometric mean':22}" + "".join(
            f"{geometric_mean(f[column][figure] for f in results.values()):20.2f}"
            for column in columns) + "\n")
    print("snapshot of 1,000,000 traces: " + ", ".join(
        f"{name} {seconds:.2f} s" for name, seconds in snapshots.items()))


def main():
    options = parse_options("bench_tracemalloc.py", __doc__, 5,
                            values=[("--package", "PYTHON")])
    pythons = {interpreter: options.package or options.build / name
               for interpreter, name in INTERPRETERS.items()}
    results, snapshots = measure(pythons, options.programs or CHOSEN, options.rounds,
                                 bool(options.package))
    report(results, snapshots)
    if options.json:
        options.json.write_text(json.dumps([results, snapshots], indent=1))


if __name__ == "__main__":
    main()
