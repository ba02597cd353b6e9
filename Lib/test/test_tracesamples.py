"""The tracer with samples: what they stand for, when they are taken, and how they are
asked for.
"""

import pytest

from conftest import clean_environment, run
from test_tracemalloc import check, python, version  # noqa: F401


def test_samples_add_up(python, tmp_path):
    """1 GiB in blocks of many sizes, 512 KiB between samples: within three
    standard errors, as a sample stands for 512 KiB or its own size."""
    out = check(python, """
import tracemalloc, _tracemalloc
_tracemalloc.start(1, 512 * 1024, 42)
assert _tracemalloc.get_sample_bytes() == 512 * 1024
kept, total = [], 0
sizes = [100, 600, 5000, 50, 70000, 33, 1000, 9000, 250, 2000000]
while total < 1 << 30:
    for size in sizes:
        kept.append(bytes(size))
        total += size + 33
traces = _tracemalloc._get_traces()
estimate = sum(size for domain, size, stack, n in traces)
current, peak = tracemalloc.get_traced_memory()
print(total, estimate, len(traces), current)
del kept
print(tracemalloc.get_traced_memory()[0])
""", tmp_path)
    total, estimate, ntraces, current, after = map(int, out.split())
    assert current == estimate
    assert abs(estimate / total - 1) < 3 * (512 * 1024 / total) ** 0.5
    assert ntraces < 3 * total / (512 * 1024)
    assert after < 0.05 * total


def test_samples_by_environment(python, tmp_path):
    """From 3.12 on the tracer is not asked unless PYTHONTRACEMALLOC is set."""
    script = """
import tracemalloc, _tracemalloc
print(tracemalloc.is_tracing(), tracemalloc.get_traceback_limit(),
      _tracemalloc.get_sample_bytes())
"""
    expected = "True 1 4096\n" if version(python) < (3, 12) else "False 1 0\n"
    assert check(python, script, tmp_path, PYTHONTRACEMALLOC_SAMPLE="4096"
                 ) == expected
    assert check(python, script, tmp_path, "-X", "tracemalloc=7",
                 PYTHONTRACEMALLOC_SAMPLE="4096") == "True 7 4096\n"
    assert check(python, script, tmp_path) == "False 1 0\n"


@pytest.mark.parametrize("options", ["-E", "-I", "-sE"])
def test_samples_by_an_environment_that_is_ignored(python, options):
    script = """
import tracemalloc, _tracemalloc
print(tracemalloc.is_tracing(), _tracemalloc.get_sample_bytes())
"""
    variables = {"PYTHONTRACEMALLOC": "3", "PYTHONTRACEMALLOC_SAMPLE": "4096"}
    for more, expected in ((), "False 0\n"), (("-X", "tracemalloc=7"), "True 0\n"):
        result = run(python, options, *more, "-c", script,
                     environment=clean_environment(**variables))
        assert (result.stdout, result.stderr) == (expected, "")


@pytest.mark.parametrize("value", ["x", "-1", "1q", "K", "99999999999999999999999"])
def test_a_bad_sample_size_is_named(python, value):
    result = run(python, "-c", "pass", environment=clean_environment(
        PYTHONTRACEMALLOC="1", PYTHONTRACEMALLOC_SAMPLE=value))
    assert result.returncode != 0
    assert (f'PYTHONTRACEMALLOC_SAMPLE takes a number of bytes, perhaps with K, M or G '
            f'behind it, not "{value}"'
            in result.stderr) or "failed to initialize tracemalloc" in result.stderr


def test_a_seed_gives_the_same_samples(python, tmp_path):
    script = """
import _tracemalloc, sys
_tracemalloc.start(1, 10000, int(sys.argv[1]))
kept = [bytearray(100) for i in range(20000)]
print(sorted(size for _, size, _, _ in _tracemalloc._get_traces())[:1],
      len(_tracemalloc._get_traces()))
"""
    path = tmp_path / "s.py"
    path.write_text(script)
    counts = [run(python, path, seed).stdout for seed in (1, 1, 2, 3, 4)]
    assert counts[0] == counts[1] != ""
    assert len(set(counts)) > 1


def test_a_negative_sample_size(python):
    result = run(python, "-c", "import _tracemalloc as t; t.start(1, -5)")
    assert result.stderr.splitlines()[-1] == (
        "ValueError: sample_bytes is a number of bytes between samples, 0 to "
        "trace all; not -5")


def test_a_request_of_any_size_is_sampled_at_once(python, tmp_path):
    check(python, """
import _testcapi, sys, time, tracemalloc, _tracemalloc
begin, most = time.monotonic(), sys.maxsize
for sample_bytes in (1, 512, 524288, most // 2 + 1, most):
    _tracemalloc.start(1, sample_bytes, 1)
    try:
        bytes(most // 2 + 1 if most > 2**32 else most - 100)
    except MemoryError:
        pass
    for size in (0, 1, most // 2 + 1, most):
        _testcapi.tracemalloc_track(5, 64 + size % 7, size)
    del _tracemalloc
    import _tracemalloc
    tracemalloc.get_traced_memory()
    tracemalloc.stop()
_tracemalloc.start(1, 2)
large = bytearray(1 << 28)
assert time.monotonic() - begin < 5
""", tmp_path)


def test_a_thread_from_before_is_sampled_as_the_others(python, tmp_path):
    check(python, """
import _tracemalloc, threading
steps = threading.Barrier(2)
kept = []
def work():
    kept.append(bytes(100))
    steps.wait(); steps.wait()
    for i in range(2000): kept.append(bytes(20000))
    steps.wait(); steps.wait()
thread = threading.Thread(target=work)
_tracemalloc.start(1, 1 << 30)
thread.start()
steps.wait()
_tracemalloc.stop()
_tracemalloc.start(1, 4096)
steps.wait(); steps.wait()
found = sum(1 for trace in _tracemalloc._get_traces() if trace[1] > 15000)
assert found > 1900, found
steps.wait()
thread.join()
""", tmp_path)
