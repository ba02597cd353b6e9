#!/usr/bin/python3
"""Interpreters with a GIL each, one, two and four at once: stock, linked, pymem-run.

    bench_interpreters.py [--build=DIR] [--rounds=N] [--json=FILE] [PYTHON...]

PYTHON is a CPython 3.12 or later, as it is; without one those of pyenv are taken.  Where
BUILD/cpython-3.N/python is there (Tools/relink --products), that is measured as linked.
All run in turn, in separate processes.  Printed are medians: the seconds of wall
time of one interpreter; how much of its work two and four do in that time; and the speed
relative to stock in the same round, over 1 is faster.  Other load on the machine lowers
the second; then the last figures are better, by processor time: that of two for the work
of one, and the speed of two and four relative to stock.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from statistics import median

from bench import TOP, progress

SCRIPT = Path(__file__).resolve().parent / "interpreters.py"
COUNTS = (1, 2, 4)


def version_of(python):
    result = subprocess.run([python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
                            text=True, stdout=subprocess.PIPE)
    if result.returncode != 0:
        sys.exit(f"bench: {python} does not run")
    return result.stdout.strip()


def found_pythons():
    pythons = (Path.home() / ".pyenv" / "versions").glob("3.*/bin/python3")
    return sorted(str(path) for path in pythons
                  if int(path.parts[-3].split(".")[1]) >= 12)


def run(command, count):
    result = subprocess.run([*map(str, command), str(SCRIPT), str(count)], text=True,
                            stdout=subprocess.PIPE)
    if result.returncode != 0:
        sys.exit(f"bench: {' '.join(map(str, command))} failed")
    return tuple(map(float, result.stdout.split()))


def measure(commands, rounds):
    """{(name, interpreters): [(wall, processor time)]}"""
    times = {(name, count): [] for name in commands for count in COUNTS}
    for turn in range(rounds):
        for count in COUNTS:
            for name in list(commands)[::1 if turn % 2 else -1]:
                progress(f"round {turn + 1} of {rounds}: {name}, {count}")
                times[name, count].append(run(commands[name], count))
    progress("")
    return times


def summary(times, name):
    def of(which, count, kind):
        return [seconds[kind] for seconds in times[which, count]]

    def ratio(above, below):
        return median(a / b for a, b in zip(above, below))
    figures = {"one": median(of(name, 1, 0))}
    for count in COUNTS[1:]:
        figures[f"scaling{count}"] = count * ratio(of(name, 1, 0), of(name, count, 0))
        figures[f"speed{count}"] = ratio(of("stock", count, 0), of(name, count, 0))
        figures[f"work{count}"] = ratio(of("stock", count, 1), of(name, count, 1))
    figures["processor2"] = ratio(of(name, 2, 1), of(name, 1, 1)) / 2
    return figures


def report(version, results):
    print(f"{version:10}{'one, s':>8}{'two do':>8}{'four do':>8}"
          f"{'two/stock':>11}{'four/stock':>11}{'by processor time':>20}"
          f"{'two/stock':>11}{'four/stock':>11}")
    for name, figures in results.items():
        print(f"  {name:8}{figures['one']:8.2f}{figures['scaling2']:8.2f}"
              f"{figures['scaling4']:8.2f}{figures['speed2']:11.2f}"
              f"{figures['speed4']:11.2f}{figures['processor2']:20.2f}"
              f"{figures['work2']:11.2f}{figures['work4']:11.2f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--build", type=Path, default=TOP / "build")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("pythons", nargs="*", metavar="PYTHON")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("--rounds is at least 1")
    options.build = options.build.resolve()
    pythons = options.pythons or found_pythons()
    if not pythons:
        sys.exit("bench: no CPython 3.12 or later here; name one")
    everything = {}
    for python in pythons:
        version = version_of(python)
        commands = {"stock": [python]}
        linked = options.build / f"cpython-{version}" / "python"
        if linked.exists():
            commands["linked"] = [linked]
        commands["run"] = [options.build / "pymem-run", python]
        times = measure(commands, options.rounds)
        everything[version] = {name: summary(times, name) for name in commands}
        report(version, everything[version])
    if options.json:
        options.json.write_text(json.dumps(everything, indent=1) + "\n")


if __name__ == "__main__":
    main()
