#!/usr/bin/python3
"""Time the benchmarks of pyperformance that need the standard library only.

    bench_suite.py [--suite=DIR] [--pyperf=DIR] [--rounds=N] [--json=FILE] [--cpu]
                   [--benchmarks=NAME,...] [--timeout=SECONDS]
                   LABEL=COMMAND LABEL=COMMAND...
    bench_suite.py [as above] --build=DIR

DIR is a checkout of the suite, and of the module pyperf; without it, what is installed.  With
--build it is no error that no suite is there.
A COMMAND starts a Python, which may be one under pymem-run ("run=pymem-run python3").
The first is the one that the others are compared with.  With --build these are two pairs of
that build: python-stock and python, and python3 without and with pymem-run.  Each round runs
every benchmark on each of them in turn, in a separate process with the number of loops
that the first one needs, and takes the best of three values.  A figure is the median over
the rounds of the ratio in a round: of speed, over 1 is faster; of the process's peak of
resident memory, under 1 is less.  A benchmark that does not run on each of them, or takes
longer than SECONDS (300) once, is named and left out.

--cpu counts the processor time of a benchmark's process, for a machine that does other
things meanwhile; the clock is better where nothing else runs.  Benchmarks that time
another process, as python_startup does, are left out then.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from statistics import median

from bench import geometric_mean, progress

# What a worker process of pyperf needs to be the same Python.
INHERITED = ["PYTHONPATH", "LD_PRELOAD", "LD_LIBRARY_PATH", "PYTHONMALLOC"]
# These measure sockets, processes or the disk.
LEFT_OUT = {"asyncio_tcp", "concurrent_imap", "sqlite_synth"}
# Found as sitecustomize by the benchmark's process, before pyperf asks for the clock.
PROCESSOR_CLOCK = "import time\ntime.perf_counter = time.process_time\n"
# pyperf's function for those that time another process, of which that clock knows nothing.
TIMES_A_PROCESS = b"bench_command("
# Sixteen ways through the same code.
VARIANTS = "async_tree_"


def benchmarks_in(suite):
    """{name: its script and options}: those that ask for no package but pyperf."""
    found = {}
    for path in sorted(suite.glob("**/data-files/benchmarks/bm_*/*.toml")):
        project = tomllib.loads((path.parent / "pyproject.toml").read_text())
        packages = {re.match(r"[\w.-]+", asked)[0]
                    for asked in project["project"].get("dependencies", [])}
        own = tomllib.loads(path.read_text()).get("tool", {}).get("pyperformance", {})
        name = own.get("name")
        base = path.parent.name.removeprefix("bm_")
        if (name and packages <= {"pyperf"} and base not in LEFT_OUT
                and not name.startswith(VARIANTS)):
            found[name] = [path.parent / "run_benchmark.py",
                           *own.get("extra_opts", [])]
    return found


def times_a_process(script):
    return TIMES_A_PROCESS in script[0].read_bytes()


def run_to_end(words, environment, folder, timeout):
    """Did it end well?  pyperf starts processes; none is left when not."""
    process = subprocess.Popen([str(word) for word in words], env=environment, cwd=folder,
                               stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        return process.wait(timeout) == 0
    except subprocess.TimeoutExpired:
        return False
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def run_once(command, script, environment, timeout, loops=None):
    """(seconds a loop, bytes of the peak, number of loops), or None when it does not run."""
    with tempfile.TemporaryDirectory() as scratch:
        result = Path(scratch) / "result.json"
        words = [*command, *script, "--quiet", "-p1", "-w1", "-n3", "-o", result,
                 "--inherit-environ", ",".join([*INHERITED, *(
                     name for name in os.environ if name.startswith("PYMEM"))])]
        if loops:
            words += ["-l", loops]
        if not run_to_end(words, environment, scratch, timeout) or not result.exists():
            return None
        found = json.loads(result.read_text())
        # What is the same for all of them stands once, above them.
        runs = [{**run, "metadata": {**found.get("metadata", {}),
                                     **benchmark.get("metadata", {}),
                                     **run.get("metadata", {})}}
                for benchmark in found["benchmarks"] for run in benchmark["runs"]
                if run.get("values")]
        peak = max(run["metadata"].get("command_max_rss") or run["metadata"]["mem_max_rss"]
                   for run in runs)
        return sum(min(run["values"]) for run in runs), peak, runs[-1]["metadata"].get("loops", 1)


def measure(commands, scripts, environment, options):
    """{name: [{label: (seconds, peak)} of each round]}, and {name: why} of those left out."""
    rounds, timeout = options.rounds, options.timeout
    loops, left_out = {}, {}
    results = {name: [] for name in scripts}
    first = next(iter(commands))
    for turn in range(rounds):
        for number, (name, script) in enumerate(scripts.items()):
            progress(f"round {turn + 1} of {rounds}, benchmark {number + 1} of "
                     f"{len(scripts)}: {name}")
            turns = {}
            for label in list(commands)[::-1 if turn % 2 else 1]:
                if name in left_out:
                    continue
                if name not in loops:
                    calibrated = run_once(commands[first], script, environment, timeout)
                    loops[name] = calibrated and calibrated[2]
                got = loops[name] and run_once(commands[label], script, environment,
                                               timeout, loops[name])
                if got:
                    turns[label] = got[:2]
                else:
                    left_out[name] = f"which does not run on {label}"
            if name not in left_out:
                results[name].append(turns)
    progress("")
    return {name: turns for name, turns in results.items()
            if turns and name not in left_out}, left_out


def ratios(results, commands):
    """{name: {label: (times the speed of the first, part of its peak)}}"""
    first, *others = commands
    return {name: {label: (median(turn[first][0] / turn[label][0] for turn in turns),
                           median(turn[label][1] / turn[first][1] for turn in turns))
                   for label in others} for name, turns in results.items()}


def report(figures, commands, left_out):
    first, *others = commands
    print(f"{first + ' = 1':32}"
          + "".join(f"{label + ' speed':>20}{'peak':>8}" for label in others))
    rows = dict(figures)
    rows[f"geometric mean of {len(figures)}"] = {label: [
        geometric_mean(row[label][which] for row in figures.values())
        for which in (0, 1)] for label in others}
    for name, row in rows.items():
        print(f"{name:32}" + "".join(f"{row[label][0]:20.3f}{row[label][1]:8.3f}"
                                     for label in others))
    for name, why in left_out.items():
        print(f"left out: {name}, {why}")


def commands_of(parser, texts):
    """{label: command} of LABEL=COMMAND."""
    commands = {}
    for text in texts:
        label, equals, command = text.partition("=")
        if not equals or not command:
            parser.error(f"{text!r} is not LABEL=COMMAND")
        commands[label] = [os.path.abspath(word) if "/" in word else word
                           for word in shlex.split(command)]
    if len(commands) < 2:
        parser.error("two different LABEL=COMMAND are needed to compare, or --build")
    return commands


def pairs_of(build):
    """Each [LABEL=COMMAND of a Python, LABEL=COMMAND of the same with pymem]."""
    python = shutil.which("python3")
    pairs = []
    if (build / "python").exists():
        pairs.append([f"stock={build}/python-stock", f"linked={build}/python"])
    else:
        print(f"bench_suite.py: no {build}/python, which configure --with-python makes",
              file=sys.stderr)
    pairs.append([f"python3={python}", f"pymem-run={build}/pymem-run {python}"])
    return pairs


def installed_suite():
    """The folder of the installed suite, or None."""
    module = importlib.util.find_spec("pyperformance")
    return module and Path(module.submodule_search_locations[0])


def scripts_of(parser, options):
    """({name: script} of those to run, {name: why} of those left out)"""
    scripts = benchmarks_in(options.suite)
    if not scripts:
        parser.error(f"{options.suite} holds no data-files/benchmarks/bm_*: it takes "
                     "a checkout of pyperformance")
    if options.benchmarks:
        wanted = options.benchmarks.split(",")
        unknown = [name for name in wanted if name not in scripts]
        if unknown:
            parser.error(f"unknown benchmark {unknown[0]!r}; there are: "
                         + ", ".join(scripts))
        scripts = {name: scripts[name] for name in wanted}
    left_out = {}
    if options.cpu:
        left_out = {name: "which times another process"
                    for name, script in scripts.items() if times_a_process(script)}
    return {name: script for name, script in scripts.items()
            if name not in left_out}, left_out


def main():
    parser = argparse.ArgumentParser(
        prog="bench_suite.py", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", type=Path, metavar="DIR")
    parser.add_argument("--pyperf", type=Path, metavar="DIR")
    parser.add_argument("--build", type=Path, metavar="DIR")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--benchmarks", metavar="NAME,...")
    parser.add_argument("--timeout", type=float, default=300, metavar="SECONDS")
    parser.add_argument("commands", nargs="*", metavar="LABEL=COMMAND")
    options = parser.parse_args()
    if options.build and options.commands:
        parser.error("--build names what is compared, or LABEL=COMMAND do")
    options.suite = options.suite or installed_suite()
    if not options.suite:
        print("bench_suite.py: pyperformance is not installed: --suite=DIR names a checkout",
              file=sys.stderr)
        sys.exit(0 if options.build else 1)
    pairs = [commands_of(parser, texts) for texts in
             (pairs_of(options.build) if options.build else [options.commands])]
    scripts, left_out = scripts_of(parser, options)
    environment = {name: value for name, value in os.environ.items()
                   if not name.startswith("PYTHON")}
    if options.pyperf:
        environment["PYTHONPATH"] = str(options.pyperf.resolve())
    written = []
    with tempfile.TemporaryDirectory() as clock:
        if options.cpu:
            (Path(clock) / "sitecustomize.py").write_text(PROCESSOR_CLOCK)
        environment["PYTHONPATH"] = os.pathsep.join(
            [clock, *filter(None, [environment.get("PYTHONPATH")])])
        for commands in pairs:
            results, failed = measure(commands, scripts, environment, options)
            if not results:
                sys.exit("bench_suite.py: no benchmark ran on each of them" + "".join(
                    f"\nleft out: {name}, {why}"
                    for name, why in (left_out | failed).items())
                    + "\nis pyperf installed, or named by --pyperf?")
            figures = ratios(results, commands)
            report(figures, commands, left_out | failed)
            written.append({"turns": results, "ratios": figures})
    if options.json:
        options.json.write_text(json.dumps(written, indent=1))


if __name__ == "__main__":
    main()
