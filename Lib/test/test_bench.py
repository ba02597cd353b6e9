"""The recorder, the player and bench.py."""

import json
import platform
import re
import runpy
import shutil
import sys

import pytest

from conftest import BUILD, TOP, clean_environment, need_module, run

BENCH = TOP / "Tools" / "bench" / "bench.py"
sys.path.insert(0, str(BENCH.parent))
import bench  # noqa: E402
import bench_instructions  # noqa: E402
from pymem.allocators import LIBPYTHON, find_library  # noqa: E402

LIBRARY = BUILD / ".libs" / "libpymem.so"


@pytest.fixture(scope="session", autouse=True)
def built():
    result = run("make", "-s", "-C", BUILD, "bench-worker", "bench-pairs", "record.so")
    assert result.returncode == 0, result.stderr


def record(trace, *command):
    return run(*command, environment=clean_environment(
        LD_PRELOAD=str(BUILD / "record.so"), PYMEM_TRACE=str(trace)))


def calls_of(trace):
    """[(what, slot, size)] of a trace, from its description in record.c."""
    data = trace.read_bytes()
    assert data[:8] == b"pymemtr1"
    numbers, number, shift = [], 0, 0
    for byte in data[8:]:
        number |= (byte & 127) << shift
        shift += 7
        if not byte & 128:
            numbers.append(number)
            number = shift = 0
    calls = []
    stream = iter(numbers)
    for number in stream:
        what = ("malloc", "free", "realloc", "calloc")[number % 4]
        calls.append((what, number // 4,
                      0 if what == "free" else next(stream)))
    return calls


def test_a_trace_is_what_the_program_asked_for(tmp_path):
    trace = tmp_path / "t"
    result = record(trace, sys.executable, "-c",
                    "kept = [bytes(5000 + i) for i in range(700)]; del kept")
    assert result.returncode == 0 and result.stderr == ""
    live = set()
    asked = []
    for what, slot, size in calls_of(trace):
        if what in ("malloc", "calloc"):
            assert slot not in live
            live.add(slot)
            asked.append(size)
        else:
            assert slot in live
            if what == "free":
                live.remove(slot)
    first = sys.getsizeof(bytes(5000))
    assert set(range(first, first + 700)) <= set(asked)


def test_a_trace_is_played(tmp_path):
    trace = tmp_path / "t"
    record(trace, sys.executable, "-c", "import json, re; re.compile('a|b*')")
    played = run(BUILD / "bench-worker", LIBRARY, "PyObject_", "trace", trace)
    assert played.returncode == 0, played.stderr
    figures = json.loads(played.stdout)
    assert figures["operations"] == len(calls_of(trace))
    assert figures["ns"] > 0 and figures["rss_kib"] > 1000


def test_a_child_records_into_a_file_of_its_own(tmp_path):
    trace = tmp_path / "t"
    record(trace, sys.executable, "-c", "import subprocess, sys\n"
           "subprocess.run([sys.executable, '-c', 'pass'])")
    files = sorted(path.name for path in tmp_path.iterdir())
    assert len(files) == 2 and files[0] == "t" and files[1].startswith("t.")
    for name in files:
        assert calls_of(tmp_path / name)


def test_other_programs_are_left_alone(tmp_path):
    assert record(tmp_path / "t", "/bin/echo", "fine").stdout == "fine\n"
    assert not (tmp_path / "t").exists()


@pytest.mark.once
def test_bench_compares(tmp_path):
    result = run(BENCH, f"--build={BUILD}", "--rounds=1",
                 f"--json={tmp_path / 'j'}", "pairs")
    assert result.returncode == 0, result.stderr
    assert "speed, CPython's own = 1" in result.stdout
    assert re.search(r"^processor +\S.*^system +Linux .*^pymem +libpymem\.so", result.stdout,
                     re.M | re.S)
    assert re.search(r"^noise, two processes of ours: pairs \d+ %$", result.stdout, re.M)
    figures = json.loads((tmp_path / "j").read_text())["pairs"]
    assert {"pymem", "CPython", "glibc"} <= set(figures)


@pytest.mark.once
def test_ours_is_measured_with_more_or_less_kept(tmp_path):
    result = run(BENCH, f"--build={BUILD}", "--rounds=1", "--keep=0",
                 f"--json={tmp_path / 'j'}", "build 100,000")
    assert result.returncode == 0, result.stderr
    figures = json.loads((tmp_path / "j").read_text())["build 100,000"]
    assert figures["keep=0"]["faults"] > 2 * figures["pymem"]["faults"]
    result = run(BENCH, f"--build={BUILD}", "--rounds=1", "--keep=much", "pairs")
    assert result.returncode == 1
    assert "PYMEM_KEEP is a number of bytes" in result.stderr


@pytest.mark.parametrize("record_in", [
    lambda build, folder: bench.record_traces(build, folder)[0].read_bytes()[:8] == b"pymemtr1",
    lambda build, _: runpy.run_path(str(TOP / "Doc/playground/build.py"))["record_calls"](
        build / "record.so", sys.executable)], ids=["bench", "playground"])
def test_a_program_is_recorded_from_any_folder(tmp_path, monkeypatch, record_in):
    build = tmp_path / "it's here"
    build.mkdir()
    shutil.copy(BUILD / "record.so", build)
    monkeypatch.setattr(bench, "TRACED", ["json_documents"])
    assert record_in(build, tmp_path / "traces")


@pytest.mark.parametrize("way", [[BUILD / "python"], [BUILD / "pymem-run", sys.executable]],
                         ids=["linked", "pymem-run"])
def test_each_program_runs(way):
    """Heaps of up to a hundred MiB that grow, shrink and change at random."""
    for function in runpy.run_path(str(BENCH.parent / "programs.py"))["PROGRAMS"]:
        result = run(*way, BENCH.parent / "programs.py", function.__name__)
        assert result.returncode == 0, (function.__name__, result.stderr)


def test_a_ratio_within_the_noise_has_a_mark(capsys):
    figures = {"rss_kib": 1024, "faults": 1}
    results = {"pairs": {"CPython": {"ns": 10.4, **figures}, "pymem": {"ns": 10, **figures}}}
    for noise, mark in ((0.05, "1.04~"), (0.03, "1.04 ")):
        bench.report(results, {"pairs": noise}, ["pymem", "CPython"])
        assert mark in capsys.readouterr().out


def test_the_noise_is_what_two_runs_of_the_same_differ_by():
    runs, again = [{"ns": 10}, {"ns": 20}, {"ns": 30}], [{"ns": 11}, {"ns": 20}, {"ns": 60}]
    assert bench.noise_of(runs, again) == pytest.approx(0.1)


def test_no_more_stays_than_with_cpython():
    """After 99 of 100 blocks were freed at random."""
    stock = find_library(LIBPYTHON)
    left = {}
    for library in (LIBRARY, stock):
        result = run(BUILD / "bench-worker", library, "PyObject_", "sparse",
                     1_000_000)
        assert result.returncode == 0, result.stderr
        left[library] = json.loads(result.stdout)["end_rss_kib"]
    assert left[LIBRARY] <= left[stock]


@pytest.mark.once
def test_a_picture(tmp_path):
    need_module("matplotlib.pyplot", "python3-matplotlib")
    picture = tmp_path / "p.svg"
    result = run(BENCH, f"--build={BUILD}", "--rounds=1",
                 f"--picture={picture}", "pairs")
    assert result.returncode == 0, result.stderr
    assert "pairs" in picture.read_text()


def test_bad_input_is_one_clear_line(tmp_path):
    result = run(BENCH, f"--build={BUILD}", "nothing")
    assert result.returncode == 2
    assert "unknown workload 'nothing'" in result.stderr
    (tmp_path / "x").write_text("something else")
    result = run(BUILD / "bench-worker", LIBRARY, "PyObject_", "trace",
                 tmp_path / "x")
    assert result.returncode == 2
    assert "is no trace of record.so" in result.stderr
    result = run(BUILD / "bench-worker", "/nonexistent.so", "x", "pairs", "1000")
    assert result.returncode == 2


# What a pair took when there was one heap for all; since then small ones have become
# shorter: 14 for malloc and 18 for free, and the loop.
MOST_INSTRUCTIONS = {"small": 40, "small, alone": 81, "medium": 102, "medium, alone": 116,
                     "raw": 150}


@pytest.mark.skipif(shutil.which("valgrind") is None, reason="needs Valgrind")
@pytest.mark.skipif(platform.machine() != "x86_64", reason="counted for x86-64")
@pytest.mark.parametrize("kind", MOST_INSTRUCTIONS)
def test_instructions_of_a_pair(kind):
    counted = bench_instructions.of_a_pair(BUILD / "bench-pairs", LIBRARY, kind)
    assert counted <= MOST_INSTRUCTIONS[kind]
