#!/usr/bin/python3
"""What web servers hold when they are idle: stock, under pymem-run, with other mallocs.

    bench_servers.py [--build=DIR] [--rounds=N] [--seconds=N] [--only=ALLOCATOR,...]
                     [--json=FILE] [SERVER...]

Every round starts each server once under each allocator, with two workers on a port of
the loopback interface: as it is (stock), under pymem-run, and with PYTHONMALLOC=malloc
and jemalloc or mimalloc in LD_PRELOAD.  It is loaded for some seconds with equal requests
that build and drop some 15 MiB of small objects, is idle for two seconds, and then gets
140 small requests within two seconds.

Printed are medians of the worker that holds most, in MB of a million bytes of resident
memory: the peak, when idle, and later, after the small requests; and the seconds of
processor time that the workers spend on 1,000 requests.  --json has also the
proportional (Pss) and private memory, and what of it the kernel may take (LazyFree).
"""

import argparse
import json
import sys
from pathlib import Path
from statistics import median

from bench import TOP, progress
from servers import (SERVERS, ServerFailed, choose_allocators, find_allocators,
                     missing_packages, run_server)

IDLE_SECONDS = 2


def measure(names, allocators, rounds, seconds):
    """{server: {allocator: [figures]}}"""
    runs = {name: {allocator: [] for allocator in allocators} for name in names}
    for turn in range(rounds):
        for name in names:
            for allocator in list(allocators)[::1 if turn % 2 else -1]:
                progress(f"round {turn + 1} of {rounds}: {name}, {allocator}")
                runs[name][allocator].append(run_server(
                    name, allocators[allocator], seconds, IDLE_SECONDS))
    progress("")
    return runs


def medians(runs):
    """The same figures, each the median."""
    if isinstance(runs[0], dict):
        return {name: medians([run[name] for run in runs]) for name in runs[0]}
    return median(runs)


def report(results):
    print(f"{'MB of a worker':24}{'peak':>8}{'idle':>8}{'later':>8}"
          f"{'s for 1,000 requests':>24}")
    for name, by_allocator in results.items():
        print(name)
        for allocator, figures in by_allocator.items():
            print(f"  {allocator:22}{figures['peak']:8.1f}{figures['idle']['rss']:8.1f}"
                  f"{figures['later']['rss']:8.1f}{figures['processor']:24.1f}")


def parse_options():
    parser = argparse.ArgumentParser(
        prog="bench_servers.py", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=Path, default=TOP / "build")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4, help="of load")
    parser.add_argument("--only", metavar="ALLOCATOR,...",
                        help="stock, pymem-run, jemalloc, mimalloc")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("servers", nargs="*", metavar="SERVER", help=", ".join(SERVERS))
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("--rounds is at least 1")
    if not options.seconds > 0:
        parser.error("--seconds is more than 0")
    for name in options.servers:
        if name not in SERVERS:
            parser.error(f"unknown server {name!r}; there are: " + ", ".join(SERVERS))
    options.allocators = choose_allocators(
        parser, find_allocators(options.build.resolve()), options.only)
    return options


def main():
    options = parse_options()
    names = []
    for name in options.servers or SERVERS:
        missing = missing_packages(SERVERS[name])
        if missing:
            print(f"bench: {name} left out: apt-get install {' '.join(missing)}",
                  file=sys.stderr)
        else:
            names.append(name)
    if not names:
        sys.exit("bench: none of the servers is here")
    try:
        runs = measure(names, options.allocators, options.rounds, options.seconds)
    except (ServerFailed, OSError) as error:
        sys.exit(f"bench: {error}")
    results = {name: {allocator: medians(figures) for allocator, figures
                      in by_allocator.items()} for name, by_allocator in runs.items()}
    report(results)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
