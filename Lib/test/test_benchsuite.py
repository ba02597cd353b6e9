"""bench_suite.py, over a suite of two small programs in place of pyperformance and pyperf."""

import json
import os
import sys
import time

import pytest

from conftest import TOP, run

pytestmark = pytest.mark.once
BENCH_SUITE = TOP / "Tools" / "bench" / "bench_suite.py"

# Takes pyperf's options and writes what pyperf writes.  The clock is the one that the
# benchmark would see.
PROGRAM = """
import json, os, subprocess, sys, time
folder = os.path.dirname(os.path.abspath(__file__))
{before}
start = time.perf_counter()
time.sleep(0.2)
seconds = time.perf_counter() - start
result = {{"benchmarks": [{{"runs": [{{"values": [seconds + 1], "metadata": {{"loops": 1, "mem_max_rss": {peak}}}}}]}}]}}
json.dump(result, open(sys.argv[sys.argv.index("-o") + 1], "w"))
# runner.{function}("name", None)
"""
# A process of the benchmark's own, which tells its number.
HANGS = """
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
with open(folder + "/child", "w") as file:
    file.write(str(child.pid))
child.wait()
"""


@pytest.fixture
def suite(tmp_path):
    def add(name, function="bench_func", before="", peak="1000"):
        folder = tmp_path / "data-files" / "benchmarks" / f"bm_{name}"
        folder.mkdir(parents=True)
        (folder / "pyproject.toml").write_text(
            '[project]\nname = "x"\ndependencies = ["pyperf"]\n')
        (folder / f"bm_{name}.toml").write_text(
            f'[tool.pyperformance]\nname = "{name}"\n')
        (folder / "run_benchmark.py").write_text(
            PROGRAM.format(function=function, before=before, peak=peak))
        return folder
    add.folder = tmp_path
    return add


def bench(suite, *options):
    return run(BENCH_SUITE, f"--suite={suite.folder}", "--rounds=1", *options,
               f"here={sys.executable}", f"again={sys.executable}")


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_processor_time_is_not_the_clocks(suite):
    suite("sleeps")
    seconds = {}
    for options in ((), ("--cpu",)):
        out = suite.folder / "out.json"
        result = bench(suite, f"--json={out}", *options)
        assert result.returncode == 0, result.stderr
        turn, = json.loads(out.read_text())[0]["turns"]["sleeps"]
        seconds[options] = turn["here"][0] - 1
    assert seconds[()] >= 0.2
    assert seconds["--cpu",] < 0.1


def test_processor_time_leaves_out_what_times_another_process(suite):
    suite("counts")
    suite("starts", function="bench_command")
    result = bench(suite, "--cpu")
    assert result.returncode == 0, result.stderr
    assert "geometric mean of 1 " in result.stdout
    assert "left out: starts, which times another process" in result.stdout
    assert "geometric mean of 2 " in bench(suite).stdout


def test_a_peak_is_told_beside_the_speed(suite):
    suite("grows", peak="2000 if os.environ['PYTHONMALLOC'] == 'malloc' else 1000")
    result = run(BENCH_SUITE, f"--suite={suite.folder}", "--rounds=1",
                 f"small=env PYTHONMALLOC=pymalloc {sys.executable}",
                 f"large=env PYTHONMALLOC=malloc {sys.executable}")
    assert result.returncode == 0, result.stderr
    *_, mean = result.stdout.splitlines()
    assert mean.startswith("geometric mean of 1 ")
    assert mean.endswith("   2.000")


def test_build_names_two_pairs(suite, tmp_path):
    suite("counts")
    build = tmp_path / "build"
    build.mkdir()
    for name, words in (("python", "python3"), ("python-stock", "python3"), ("pymem-run", "")):
        (build / name).write_text(f'#!/bin/sh\nexec {words} "$@"\n')
        (build / name).chmod(0o755)
    result = run(BENCH_SUITE, f"--suite={suite.folder}", "--rounds=1", f"--build={build}")
    assert result.returncode == 0, result.stderr
    heads = [line.split() for line in result.stdout.splitlines() if " = 1" in line]
    assert heads == [["stock", "=", "1", "linked", "speed", "peak"],
                     ["python3", "=", "1", "pymem-run", "speed", "peak"]]
    assert result.stdout.count("counts ") == 2


def test_build_without_a_suite_says_so_and_is_no_error(tmp_path):
    result = run(sys.executable, "-S", BENCH_SUITE, f"--build={tmp_path}")
    assert result.returncode == 0
    assert "pyperformance is not installed: --suite=DIR names a checkout" in result.stderr


def test_build_and_commands_are_one_too_many(suite):
    result = bench(suite, "--build=build")
    assert result.returncode == 2
    assert "--build names what is compared, or LABEL=COMMAND do" in result.stderr


def test_nothing_but_another_process_is_an_error(suite):
    suite("starts", function="bench_command")
    result = bench(suite, "--cpu")
    assert result.returncode == 1
    assert "left out: starts, which times another process" in result.stderr


def test_a_benchmark_that_takes_too_long_leaves_no_process(suite):
    folder = suite("hangs", before=HANGS)
    suite("counts")
    result = bench(suite, "--timeout=3")
    child = int((folder / "child").read_text())
    try:
        assert "left out: hangs, which does not run on here" in result.stdout
        deadline = time.monotonic() + 5
        while is_alive(child) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not is_alive(child)
    finally:
        if is_alive(child):
            os.kill(child, 9)
