#!/usr/bin/python3
"""Time whole programs on build/python against build/python-stock.

    bench_programs.py [--rounds=N] [--json=FILE] [--run] [PROGRAM...]

The two run in turn, in separate processes; printed are the medians and, of
each pair, the median ratio: over 1 is faster, or less memory.  With --run it is
pymem-run python-stock, against the linked build/python.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from statistics import median

from bench import TOP, geometric_mean, progress
from programs import HEAVY, PROGRAMS

SCRIPT = Path(__file__).resolve().parent / "programs.py"


def run_program(command, name):
    result = subprocess.run([*command, "-I", SCRIPT, name], text=True,
                            stdout=subprocess.PIPE)
    if result.returncode != 0:
        sys.exit(f"bench: {name} on {command[-1]} failed")
    return json.loads(result.stdout)


def measure(pair, names, rounds):
    """The figures of ours and the other, commands by label."""
    pairs = {name: [] for name in names}
    for turn in range(rounds):
        for number, name in enumerate(names):
            progress(f"round {turn + 1} of {rounds}, program {number + 1} of "
                     f"{len(names)}: {name}")
            order = list(pair)[::1 if turn % 2 else -1]
            runs = {which: run_program(pair[which], name) for which in order}
            pairs[name].append(tuple(runs[which] for which in pair))
    progress("")
    return pairs


def summary(pairs):
    return {name: {
        "ours": median(ours["seconds"] for ours, _ in runs),
        "stock": median(stock["seconds"] for _, stock in runs),
        "speed": median(stock["seconds"] / ours["seconds"]
                        for ours, stock in runs),
        "memory": median(ours["rss_kib"] / stock["rss_kib"]
                         for ours, stock in runs),
    } for name, runs in pairs.items()}


def report(results, pair):
    print(f"{'':24}" + "".join(f"{label + ' s':>14}" for label in pair)
          + f"{'speed':>8}{'memory':>8}")
    for name, figures in results.items():
        print(f"{name:24}{figures['ours']:14.3f}{figures['stock']:14.3f}"
              f"{figures['speed']:8.2f}{figures['memory']:8.2f}")
    for label, chosen in (
            ("geometric mean", [n for n in results if n not in HEAVY]),
            ("of the heavy ones", [n for n in results if n in HEAVY])):
        if chosen:
            print(f"{label:52}" + "".join(
                f"{geometric_mean(results[n][figure] for n in chosen):8.2f}"
                for figure in ("speed", "memory")))


def parse_options(prog, description, rounds, flags=(), values=()):
    """The command line of a benchmark of whole programs; flags and values are its own."""
    parser = argparse.ArgumentParser(
        prog=prog, description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--build", type=Path, default=TOP / "build")
    for flag in flags:
        parser.add_argument(flag, action="store_true")
    for value, metavar in values:
        parser.add_argument(value, metavar=metavar)
    names = [function.__name__ for function in PROGRAMS]
    parser.add_argument("programs", nargs="*", metavar="PROGRAM",
                        help=", ".join(names))
    options = parser.parse_args()
    for name in options.programs:
        if name not in names:
            parser.error(f"unknown program {name!r}; there are: "
                         + ", ".join(names))
    options.build = options.build.resolve()
    return options


def main():
    options = parse_options("bench_programs.py", __doc__, 15, ["--run"])
    linked, stock = ([options.build / name] for name in ("python", "python-stock"))
    pair = {"pymem": linked, "CPython": stock}
    if options.run:
        pair = {"pymem-run": [options.build / "pymem-run", *stock], "linked": linked}
    results = summary(measure(
        pair,
        options.programs or [function.__name__ for function in PROGRAMS],
        options.rounds))
    report(results, pair)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
