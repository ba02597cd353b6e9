"""pymem.quantities: sizes and times of options and marks."""

import sys

import pytest

from conftest import BUILD, IS_64_BITS, clean_environment, run
from pymem.quantities import seconds_of, size_of


@pytest.mark.parametrize("text, nbytes", [
    ("0", 0), ("4096", 4096), ("64K", 64 << 10), ("64k", 64 << 10), ("64 KiB", 64 << 10),
    ("64kib", 64 << 10), ("64 kB", 64_000), ("1.5M", 3 << 19), (".5G", 1 << 29), ("1g", 1 << 30),
    pytest.param("2g", 2 << 30, marks=pytest.mark.skipif(
        not IS_64_BITS, reason="no size of 32 bits")),
    ("7B", 7), (str(sys.maxsize), sys.maxsize)])
def test_sizes(text, nbytes):
    assert size_of(text) == nbytes


@pytest.mark.parametrize("text", ["", "K", "-1", "1e6", "64 Q", "64KK", "0x10", "1,5M", "inf",
                                  str(sys.maxsize + 1), "10000000000G"])
def test_sizes_that_are_none(text):
    with pytest.raises(ValueError, match="is no size, as "):
        size_of(text)


@pytest.mark.parametrize("text, seconds", [
    ("60", 60), ("60s", 60), ("0.5", 0.5), ("200ms", 0.2), ("5m", 300), ("1.5 h", 5400)])
def test_times(text, seconds):
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "0ms", "-1", "s", "5d", "infm", "nan", "9" * 12])
def test_times_that_are_none(text):
    with pytest.raises(ValueError, match="is no time over 0, as "):
        seconds_of(text)


@pytest.mark.parametrize("text, nbytes", [("64K", 65536), ("1m", 1 << 20), ("4096", 4096)])
def test_the_environments_sample_has_the_same_units(python, text, nbytes):
    result = run(python, "-c", "import _tracemalloc; print(_tracemalloc.get_sample_bytes())",
                 environment=clean_environment(PYTHONTRACEMALLOC="1",
                                               PYTHONTRACEMALLOC_SAMPLE=text))
    assert (result.stdout, result.stderr) == (f"{nbytes}\n", "")


def test_pymem_runs_interval_has_the_same_units():
    for text, status in (("90s", 0), ("1h", 0), ("0.5", 0), ("1x", 125), ("m", 125)):
        result = run(BUILD / "pymem-run", f"--trim-interval={text}", "python3", "-c", "pass")
        assert result.returncode == status, result.stderr
