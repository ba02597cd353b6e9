#!/usr/bin/python3
"""How much memory a day of a web worker takes: stock, ours, and with other mallocs.

    bench_day.py [--build=DIR] [--seconds=S] [--steps=N] [--seed=N] [--only=ALLOCATOR,...]
                 [--json=FILE] [--picture=FILE]

day.py plays a day in two minutes: sessions of mixed sizes come and go, caches fill and are
emptied.  It runs once under each allocator: as it is (stock), under pymem-run, linked
(build/python), and with PYTHONMALLOC=malloc on glibc, jemalloc, mimalloc 2 and mimalloc 3.
mimalloc 3 is looked for in the bare Debian testing that Tools/in-debian makes, too.  As
many run at once as there are processors.

Printed is what the day added to the process.  ratio: resident bytes to bytes that live,
the mean of all samples with at least 1 MB that lives, and the same of the last hour; MB of
a million bytes; seconds of processor time.  --picture draws the samples as an SVG.
"""

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean

from bench import TOP, progress
from pymem.allocators import find_library
from pymem.picture import INK, Picture, round_up
from servers import PYTHON, Allocator, choose_allocators, environment_of
from servers import find_allocators as find_preloaded

FOLDER = Path(__file__).resolve().parent
LAST_SAMPLES = 60               # an hour
SMALLEST_LIVE = 1_000_000       # of less a ratio says little
COLORS = {"stock": "#c07a1b", "pymem-run": "#3b6ea5", "linked": "#7fb0e0",
          "glibc": "#999999", "jemalloc": "#c0392b", "mimalloc 2": "#27864a",
          "mimalloc 3": "#8e44ad"}


class DayFailed(Exception):
    """What the process wrote."""


def debian_testing():
    """The folder of Tools/in-debian's testing."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("PYMEM_DEBIAN") or Path(cache) / "pymem" / "debian") / "testing"


def loads(library):
    """Is the C library here new enough for it?"""
    return subprocess.run([PYTHON, "-c", "import ctypes, sys; ctypes.CDLL(sys.argv[1])",
                           library], stderr=subprocess.DEVNULL).returncode == 0


def find_mimalloc_3():
    found = find_library("libmimalloc.so.3")
    candidates = [found] if found and ".so.3" in found else []
    candidates += sorted(map(str, debian_testing().glob("usr/lib/*/libmimalloc.so.3")))
    return next(filter(loads, candidates), None)


def find_allocators(build):
    """{name: (Allocator, interpreter)}, those that are here."""
    preloaded = find_preloaded(build)
    found = {"stock": (preloaded["stock"], PYTHON),
             "pymem-run": (preloaded["pymem-run"], PYTHON)}
    if (build / "python").exists():
        found["linked"] = Allocator("linked", ""), str(build / "python")
    malloc = ("PYTHONMALLOC", "malloc"),
    found["glibc"] = Allocator("glibc", "", (), malloc), PYTHON
    if "jemalloc" in preloaded:
        found["jemalloc"] = preloaded["jemalloc"], PYTHON
    if ".so.2" in dict(preloaded.get("mimalloc", found["stock"][0]).environment).get(
            "LD_PRELOAD", ""):
        found["mimalloc 2"] = preloaded["mimalloc"], PYTHON
    newer = find_mimalloc_3()
    if newer is not None:
        found["mimalloc 3"] = Allocator("mimalloc 3", "libmimalloc", (), (
            *malloc, ("LD_PRELOAD", newer))), PYTHON
    return found


def check_allocator(name, allocator, told):
    """The one that was asked for serves: a figure of another would be false."""
    libraries = told["libraries"]
    own_serves = name in ("stock", "linked")
    if ((told["blocks"] > 1000) != own_serves
            or len(libraries) != (allocator.library != "")
            or not all(library.startswith(allocator.library) for library in libraries)):
        raise DayFailed(f"under {name} the interpreter's own allocator has "
                        f"{told['blocks']} blocks, and there is {libraries or 'no other'}")


def run_day(name, allocator, interpreter, options):
    """The samples of one day."""
    result = subprocess.run(
        [*allocator.command, interpreter, str(FOLDER / "day.py"), f"--steps={options.steps}",
         f"--seed={options.seed}", f"--seconds={options.seconds}"],
        env=environment_of(allocator), text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE)
    if result.returncode != 0:
        raise DayFailed(f"{name} ended with {result.returncode}: {result.stderr[-2000:]}")
    told, *samples = map(json.loads, result.stdout.splitlines())
    check_allocator(name, allocator, told)
    progress(f"{name}: done")
    return samples


def run_all(options):
    """{allocator: samples}"""
    progress(f"{', '.join(options.allocators)}: {options.seconds:g} seconds each")
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as executor:
        days = {name: executor.submit(run_day, name, *found, options)
                for name, found in options.allocators.items()}
        results = {name: day.result() for name, day in days.items()}
    progress("")
    return results


def figures(samples):
    """Each with the bytes that live: more than a little at some time."""
    counted = [sample for sample in samples if sample["live"] >= SMALLEST_LIVE]
    last = samples[-LAST_SAMPLES:]
    return {
        "ratio": mean(sample["held"] / sample["live"] for sample in counted),
        "last ratio": mean(sample["held"] / sample["live"] for sample in last),
        "mean": mean(sample["held"] for sample in samples) / 1e6,
        "last": mean(sample["held"] for sample in last) / 1e6,
        "peak": max(sample["held"] for sample in samples) / 1e6,
        "s": samples[-1]["seconds"]}


def report(results):
    live = [sample["live"] / 1e6 for sample in next(iter(results.values()))]
    print(f"a day of {len(live)} samples; what lives: {mean(live):.1f} MB on average, "
          f"{max(live):.1f} at most, {mean(live[-LAST_SAMPLES:]):.1f} in the last hour")
    print(f"{'':12}" + "".join(f"{title:>12}" for title in (
        "ratio", "last hour", "MB, mean", "last hour", "peak", "s")))
    for name, samples in results.items():
        of_day = figures(samples)
        print(f"{name:12}{of_day['ratio']:12.2f}{of_day['last ratio']:12.2f}"
              f"{of_day['mean']:12.1f}{of_day['last']:12.1f}{of_day['peak']:12.1f}"
              f"{of_day['s']:12.1f}")


def draw(results, path):
    """Resident bytes over the day, and what lives."""
    live = [sample["live"] for sample in next(iter(results.values()))]
    curves = {"what lives": live, **{name: [sample["held"] for sample in samples]
                                     for name, samples in results.items()}}
    most = round_up(max(map(max, curves.values())) / 1e6)
    picture = Picture(760)
    picture.grid(60, 66, 680, 300, most, "", "MB that the day added to the process")
    x = 60
    for name, values in curves.items():
        color = COLORS.get(name, INK)
        picture.rectangle(x, 18, 11, 10, color)
        picture.text(x + 15, 27, name, 11)
        x += 34 + 6.4 * len(name)
        last = max(len(values) - 1, 1)
        picture.line([(60 + 680 * i / last, 366 - 300 * value / 1e6 / most)
                      for i, value in list(enumerate(values))[::4]], color,
                     2.2 if name in ("what lives", "pymem-run") else 1.1)
    for hour in range(0, 25, 4):
        picture.text(60 + 680 * hour / 24, 382, f"{hour} h", 10, anchor="middle")
    picture.write(path, "svg", "resident memory over a day, by allocator")


def parse_options():
    parser = argparse.ArgumentParser(
        prog="bench_day.py", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=Path, default=TOP / "build")
    parser.add_argument("--seconds", type=float, default=120,
                        help="of a day; 0: as fast as it can be")
    parser.add_argument("--steps", type=int, default=1440)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", metavar="ALLOCATOR,...", help=", ".join(COLORS))
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--picture", type=Path, metavar="FILE")
    options = parser.parse_args()
    if options.steps < 1:
        parser.error("--steps is at least 1")
    if options.seconds < 0:
        parser.error("--seconds is at least 0")
    options.allocators = choose_allocators(
        parser, find_allocators(options.build.resolve()), options.only)
    return options


def main():
    options = parse_options()
    try:
        results = run_all(options)
    except (DayFailed, OSError) as error:
        sys.exit(f"bench: {error}")
    report(results)
    if options.json:
        options.json.write_text(json.dumps(results) + "\n")
    if options.picture:
        draw(results, options.picture)


if __name__ == "__main__":
    main()
