"""python -m pymem leaks: what grows is found, and what fills and stays is not.

The programs of leakprograms.py run side by side, some at once.
"""

import json
import math
import random
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate

import pytest

from conftest import BUILD, TOP, clean_environment, run
from leakprograms import CACHES, LEAKS
from pymem import running
from pymem.__main__ import limit_of
from pymem.attached import Moments
from pymem.growth import Level, Survey, Timeline, chance, growth_that_goes_on
from test_attach import LEAK, needs_debugger, script

PROGRAMS = TOP / "Lib" / "test" / "leakprograms.py"
AT_ONCE = 8
WINDOWS = ["--window", "0.1s", "--samples", "4K"]


LEAKS_ON = """
import time
kept = []
def leak():
    kept.append(bytearray(5000))
def run():
    while True:
        leak()
        time.sleep(0.004)
"""
# {name: what becomes of a program that would go on, and the status}
ENDS = {
    "by Ctrl-C": ("run()", 0),
    "without Ctrl-C": ("import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\nrun()", 0),
    "own status": ("try:\n    run()\nexcept KeyboardInterrupt:\n    raise SystemExit(7)", 7)}
LIMITS = {"10M/h": 3, "1G/m": 0}


def leaks(*arguments):
    return run(BUILD / "python", "-m", "pymem", "leaks", *arguments,
               environment=clean_environment(PYTHONPATH=str(BUILD)))


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """{name: (what leaks printed, its JSON)}"""
    folder = tmp_path_factory.mktemp("leaks")
    runs = {program.__name__: [PROGRAMS, program.__name__, folder]
            for program in LEAKS + CACHES}
    for name, (code, _) in ENDS.items():
        runs[name] = ["--for", "4s", "-c", LEAKS_ON + code]
    for limit in LIMITS:
        runs[limit] = ["--limit", limit, "--for", "4s", "-c", LEAKS_ON + "run()"]

    def watched(name):
        file = folder / f"{name.replace('/', ' ')}.json"
        result = leaks(*WINDOWS, "-o", file, *runs[name])
        # One that was refused has no file: its own test says why.
        return name, (result, json.loads(file.read_text()) if file.exists() else None)
    with ThreadPoolExecutor(AT_ONCE) as executor:
        return dict(executor.map(watched, runs))


def line_of(name):
    lines = PROGRAMS.read_text().splitlines()
    return next((f"leakprograms.py:{number}" for number, line in enumerate(lines, 1)
                 if line.endswith(f"# leaks: {name}")), "plugin.py:2")


@pytest.mark.parametrize("name", [program.__name__ for program in LEAKS])
def test_a_leak_is_found(results, name):
    result, found = results[name]
    if "No module named 'numpy'" in result.stderr:
        pytest.skip("needs NumPy (Debian: python3-numpy)")
    assert (result.returncode, result.stderr) == (0, "")
    kept, *report = result.stdout.splitlines()
    assert re.match(r"Memory grows by [\d,.]+ [KM]iB/min at ", report[0])
    assert line_of(name) + " " in report[1]
    assert all(len(line) <= 80 for line in report)
    site = found["sites"][0]
    minutes = (found["times"][-1] - found["times"][found["windows"] // 4]) / 60
    # Half for the objects around the data.
    error = (4096 / int(kept)) ** 0.5
    assert 1 - 4 * error < site["bytes"] / int(kept) < 1.5 + 4 * error
    assert site["bytes_per_minute"] * minutes < 1.01 * site["bytes"]
    assert site["confidence"] > 0.998


@pytest.mark.parametrize("name", [program.__name__ for program in CACHES])
def test_what_fills_and_stays_is_no_leak(results, name):
    result, found = results[name]
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines()[1].startswith("Nothing grows ("), result.stdout
    assert found["sites"] == [] and found["bytes_per_minute"] == 0
    assert found["windows"] >= 12 and found["levels"][-1][0] > 0


# How it ends.

@pytest.mark.parametrize("name", ENDS)
def test_a_program_that_would_go_on_ends_after_the_time(results, name):
    result, _ = results[name]
    assert (result.returncode, result.stderr) == (ENDS[name][1], "")
    assert re.search(r"^\+.*<string>:5 ", result.stdout.splitlines()[1])


def test_ctrl_c_gives_the_report():
    with subprocess.Popen(
            [BUILD / "python", "-m", "pymem", "leaks", *WINDOWS, "-c",
             LEAKS_ON + "print('ready', flush=True)\nrun()"], text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=clean_environment(PYTHONPATH=str(BUILD))) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            time.sleep(4)
            process.send_signal(signal.SIGINT)
            output, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, errors) == (0, "")
    assert " <string>:5 " in output.splitlines()[1]


def test_sigterm_has_a_report_and_stays_the_end(tmp_path):
    result = leaks("--window", "0.05s", "-o", tmp_path / "found.json", "-c", """
import os, signal, time
kept = []
for i in range(200):
    kept.append(bytes(50_000))
    time.sleep(0.01)
os.kill(os.getpid(), signal.SIGTERM)
print("not here")
""")
    assert (result.returncode, result.stderr) == (-signal.SIGTERM, "")
    assert " <string>:5" in result.stdout.splitlines()[1] and "not here" not in result.stdout
    assert json.loads((tmp_path / "found.json").read_text())["sites"][0]["line"] == 5


def test_what_a_child_of_a_fork_does_is_its_own():
    # The thread that looks is one, so that 3.12 and later warn of a fork.
    result = leaks("--window", "0.05s", "-c", """
import os, time, warnings
warnings.simplefilter("ignore", DeprecationWarning)
if os.fork() == 0:
    raise SystemExit(0)
os.wait()
time.sleep(2)
""")
    assert result.returncode == 0
    assert re.fullmatch(r"pymem: this is of process \d+ alone, and not of the children that it "
                        r"forked: pymem leaks PID looks at one, pymem leaks FILE at what pymem "
                        r"track wrote of one\n", result.stderr)
    assert result.stdout.count("Nothing grows") == 1


def test_too_few_windows_are_told():
    result = leaks("-c", "pass")
    assert result.returncode == 1
    assert re.fullmatch(r"pymem: leaks saw \d windows? of memory, and needs 12: let it run "
                        r"longer, or set a shorter --window \(as 0\.1s\)\n", result.stderr)


# Of another process.

@needs_debugger
def test_a_process_that_runs_already(tmp_path):
    with script(BUILD / "python", LEAK) as process:
        result = leaks(*WINDOWS, "--for", "4s", "--referrers", "-o", tmp_path / "found.html",
                       process.pid)
    assert result.returncode == 0, result.stderr
    report = result.stdout.splitlines()
    assert report[0].startswith("Memory grows by ") and " <string>:7" in report[1]
    assert any("types: bytearray " in line for line in report)
    assert any(re.match(r"    held by list of [\d,]+ \(__main__\.kept\)", line)
               for line in report)
    assert all(len(line) <= 80 for line in report)
    assert '"line":7' in (tmp_path / "found.html").read_text()


@needs_debugger
def test_a_process_that_ends_meanwhile_still_tells():
    """And what its functions held at the end counts."""
    code = """
import time, _tracemalloc
def work():
    mine = []
    while not _tracemalloc.is_tracing():
        time.sleep(0.01)
    for _ in range(600):
        mine.append(bytearray(5000))
        time.sleep(0.004)
print("ready", flush=True)
work()
"""
    with subprocess.Popen([BUILD / "python", "-c", code], stdout=subprocess.PIPE,
                          env=clean_environment()) as process:
        try:
            assert process.stdout.readline() == b"ready\n"
            result = leaks(*WINDOWS, "--for", "1m", process.pid)
            assert process.wait(60) == 0
        finally:
            process.kill()
    assert result.returncode == 0, result.stderr
    assert " <string>:8 " in result.stdout.splitlines()[1], result.stdout


# For machines.

@pytest.mark.parametrize("limit", LIMITS)
def test_a_limit_decides_the_exit_status(results, limit):
    result, found = results[limit]
    assert (result.returncode, result.stderr) == (LIMITS[limit], "")
    assert found["over_limit"] == (LIMITS[limit] == 3) and found["bytes_per_minute"] > 0
    said = f"This is over the limit of {limit}."
    assert (result.stdout.splitlines()[-1] == said) == found["over_limit"]


def test_units_of_a_limit():
    rates = [limit_of(text).rate for text in ("7/s", "60K/m", "3600/h", "0/h")]
    assert rates == [7, 1024, 1, 0]


def test_a_limit_is_kept_where_nothing_grows():
    result = leaks("--window", "0.05s", "--limit", "0/s", "--json", "-c",
                   "import time; time.sleep(2)")
    assert (result.returncode, result.stderr) == (0, "")
    found = json.loads(result.stdout)
    assert found["sites"] == [] and not found["over_limit"]
    assert found["command"] == ["-c", "import time; time.sleep(2)"]
    assert found["seconds"] > 1.5 and found["bytes"] <= found["peak_bytes"]


@pytest.mark.once
@pytest.mark.parametrize("arguments, status, said", [
    ([], 1, "pymem: leaks takes a PID, a file of track, or a program: SCRIPT, -m MODULE"),
    (["--limit", "10M", "x.py"], 2, "pymem leaks: argument --limit: '10M' is no growth, as "
                                    "10M/h, 512K/m or 0/s"),
    (["--limit", "10M/d", "x.py"], 2, "pymem leaks: argument --limit: '10M/d' is no growth"),
    (["--limit", "/h", "x.py"], 2, "pymem leaks: argument --limit: '/h' is no growth"),
    (["--limit", "fast/h", "x.py"], 2, "pymem leaks: argument --limit: 'fast/h' is no growth"),
    (["--for", "0", "x.py"], 2, "pymem leaks: argument --for: '0' is no time"),
    (["-o", "x.svg", "-c", "pass"], 1, "pymem: leaks writes a page or JSON: -o takes FILE.html "
                                       "or FILE.json, not x.svg"),
    (["-o", "/no/folder/x.html", "-c", "pass"], 1, "pymem: /no/folder/x.html: No such file"),
    (["4194305"], 1, "pymem: there is no process 4194305"),
    (["1", "x"], 1, "pymem: leaks takes one process, or a script and its arguments"),
    (["/no/file.py"], 1, "pymem: /no/file.py: no such file"),
], ids=str)
def test_errors_are_one_line(arguments, status, said):
    result = leaks(*arguments)
    assert result.returncode == status
    assert result.stderr.startswith(said) and result.stderr.count("\n") == 1, result.stderr


def test_a_python_without_the_tracer_is_told():
    """Debian's, which has pymem's files and no extension module of its version."""
    result = run(sys.executable, "-m", "pymem", "leaks", "-c", "pass", environment=
                 clean_environment(PYTHONPATH=str(BUILD)))
    assert result.returncode == 1
    assert re.match(r"pymem: pymem has no tracer for this CPython 3\.\d+ here: pip install it",
                    result.stderr) and result.stderr.count("\n") == 1


# The statistics.

def judged(samples, size, sample_bytes):
    """The growth of so many traces at moments of a second each; None: it is none."""
    levels = [Level.of({(0, size): number}, sample_bytes) for number in samples]
    return growth_that_goes_on(list(range(len(levels))), levels)


RNG = random.Random(21)
SHAPES = {          # name: (blocks at 49 moments, whether that is a leak)
    "each window one more": (range(49), True),
    "some windows more": (accumulate(RNG.choices((0, 1), k=49)), True),
    "uneven": ([i * i // 20 for i in range(49)], True),
    "a base that stays": ([10_000 + i for i in range(49)], True),
    "a sawtooth that leaks": ([i % 3 + 2 * i for i in range(49)], True),
    "nothing": ([0] * 49, False),
    "the same": ([500] * 49, False),
    "at the start": ([min(100 * i, 500) for i in range(49)], False),
    "full in the middle": ([min(20 * i, 480) for i in range(49)], False),
    "full late": ([min(20 * i, 800) for i in range(49)], False),
    "one step": ([0] * 30 + [900] * 19, False),
    "two steps": ([0] * 20 + [900] * 20 + [1800] * 9, False),
    "less and less": (range(49, 0, -1), False),
    "a sawtooth": ([10 * (i % 7) for i in range(49)], False),
    "one long tooth": ([10 * (i % 40) for i in range(49)], False),
    "noise": ([500 + RNG.randrange(50) for _ in range(49)], False),
    "too few windows": (range(12), False)}


@pytest.mark.once
@pytest.mark.parametrize("shape", SHAPES)
def test_which_shapes_grow(shape):
    values, grows = SHAPES[shape]
    assert (judged(values, 100, 0) is not None) == grows


@pytest.mark.once
def test_the_error_of_samples():
    """A trace of a small block stands for sample_bytes, so n samples have the error sqrt(n)."""
    grown = judged(range(0, 98, 2), 65536, 65536)
    assert grown.nbytes == 72 * 65536
    assert grown.error == pytest.approx(grown.nbytes / 72 ** 0.5, rel=0.01)
    assert judged([i // 6 for i in range(49)], 65536, 65536) is None     # six samples


@pytest.mark.once
@pytest.mark.parametrize("sample_bytes", [512, 65536, 1 << 20])
@pytest.mark.parametrize("size", [1, 48, 512, 5000, 65536, 1 << 20, 1 << 24])
def test_the_chance_of_a_block_is_that_of_the_tracer(size, sample_bytes):
    """From what the tracer writes, its size divided by the chance."""
    p = -math.expm1(-size / sample_bytes)
    assert chance(round(size / p), sample_bytes) == pytest.approx(p, rel=0.02, abs=2e-3)


@pytest.mark.once
def test_pauses_are_doubled_and_the_grid_is_even():
    moments = Moments(None, 0.5, False)
    timeline, seconds = Timeline(0), 0.0
    while seconds < 3600:
        timeline.add(seconds, {})
        moments.nlooks += 1
        seconds += moments.pause()
    assert 300 < len(timeline.times) < 500
    times = Survey(timeline).times
    steps = [after - before for before, after in zip(times, times[1:])]
    assert len(steps) == 48 and max(steps) < 4 * min(steps)


def surveyed(stacks):
    """Findings of {lines from the outermost on: numbers of blocks at each moment}."""
    timeline = Timeline(0)
    for i in range(49):
        timeline.add(i, {(lines[::-1],): {(0, 100): values[i]}
                         for lines, values in stacks.items()})
    return [[(frame.file, frame.line) for frame in finding.frames]
            for finding in Survey(timeline).findings]


def shared_out(total, count):
    """Numbers of blocks whose sums at each moment are total, each for a few of them."""
    rows = [[0] * len(total) for _ in range(count)]
    for i in range(1, len(total)):
        for row in rows:
            row[i] = row[i - 1]
        for _ in range(total[i] - total[i - 1]):
            RNG.choice(rows)[i] += 1
    return rows


MAIN, LIBRARY = ("/app/main.py", 1), ("/usr/lib/python3.11/json/decoder.py", 1)


@pytest.mark.once
def test_which_lines_are_a_site():
    grows = list(range(0, 490, 10))
    assert surveyed({(MAIN, ("/app/a.py", 7)): grows}) == [[MAIN, ("/app/a.py", 7)]]
    assert surveyed({(MAIN, LIBRARY): grows}) == [[MAIN]]
    assert surveyed({(LIBRARY, ("<frozen os>", 3)): grows}) == [[LIBRARY, ("<frozen os>", 3)]]
    assert surveyed({(MAIN, (running.OWN_FOLDER + "x.py", 3)): grows}) == []


@pytest.mark.once
def test_growth_in_many_stacks_of_little_each():
    rows = shared_out(range(49), 24)
    # Of one line that many call.
    assert surveyed({(("/app/b.py", i), MAIN): row for i, row in enumerate(rows)}) == [[MAIN]]
    # Of one line that calls many.
    assert surveyed({(MAIN, ("/app/b.py", i)): row for i, row in enumerate(rows)}) == [[MAIN]]


@pytest.mark.once
def test_many_stacks_that_only_change_are_no_growth():
    for _ in range(5):
        assert surveyed({(MAIN, ("/app/b.py", i)): [RNG.randrange(100) for _ in range(49)]
                         for i in range(50)}) == []
