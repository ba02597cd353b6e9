"""bench_day.py: days are the same under each allocator, and figures are of the one asked for."""

import json
import sys
from xml.etree import ElementTree

import pytest

from conftest import BUILD, TOP, run

BENCH = TOP / "Tools" / "bench" / "bench_day.py"
sys.path.insert(0, str(BENCH.parent))
import bench_day  # noqa: E402
from servers import Allocator  # noqa: E402

pytestmark = pytest.mark.once
STEPS = 40


@pytest.fixture(scope="module")
def short_day(tmp_path_factory):
    folder = tmp_path_factory.mktemp("day")
    result = run(sys.executable, BENCH, f"--build={BUILD}", f"--steps={STEPS}", "--seconds=0",
                 "--only=stock,pymem-run,glibc", f"--json={folder / 'json'}",
                 f"--picture={folder / 'svg'}")
    assert result.returncode == 0, result.stderr
    return result.stdout, json.loads((folder / "json").read_text()), folder / "svg"


def test_the_same_lives_under_each_allocator(short_day):
    samples = short_day[1]
    assert list(samples) == ["stock", "pymem-run", "glibc"]
    live = [[sample["live"] for sample in of_one] for of_one in samples.values()]
    assert len(live[0]) == STEPS and live[0] == live[1] == live[2]
    assert live[0][-1] > bench_day.SMALLEST_LIVE


def test_what_lives_is_in_memory(short_day):
    for of_one in short_day[1].values():
        last = of_one[-1]
        assert 0.8 * last["live"] < last["held"] < 100e6 and last["seconds"] > 0


def test_the_table_and_the_picture(short_day):
    table, samples, picture = short_day
    rows = {line[:12].strip(): line[12:].split() for line in table.splitlines()[2:]}
    assert rows.keys() == samples.keys()
    for name, of_one in samples.items():
        assert [float(cell) for cell in rows[name]] == pytest.approx(
            list(bench_day.figures(of_one).values()), abs=0.051)
    words = [text.text for text in ElementTree.parse(picture).iter(
        "{http://www.w3.org/2000/svg}text")]
    assert {"what lives", "stock", "pymem-run", "glibc"} <= set(words)


@pytest.mark.parametrize("name, library, blocks, libraries", [
    ("stock", "", 0, []), ("stock", "", 5000, ["libjemalloc.so.2"]),
    ("pymem-run", "pymem-preload", 5000, []), ("glibc", "", 5000, []),
    ("mimalloc 3", "libmimalloc", 0, []), ("jemalloc", "libjemalloc", 0, ["libmimalloc.so"])])
def test_another_allocator_is_noticed(name, library, blocks, libraries):
    with pytest.raises(bench_day.DayFailed, match=name):
        bench_day.check_allocator(name, Allocator(name, library),
                                  {"blocks": blocks, "libraries": libraries})


@pytest.mark.parametrize("options, complaint", [
    (["--steps=0"], "--steps is at least 1"), (["--seconds=-1"], "--seconds is at least 0"),
    (["--only=none"], "unknown allocator 'none'")])
def test_wrong_options(options, complaint):
    result = run(sys.executable, BENCH, f"--build={BUILD}", *options)
    assert result.returncode == 2 and complaint in result.stderr
