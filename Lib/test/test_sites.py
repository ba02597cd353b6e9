"""python -m pymem watch: which sites hold memory and grow, in lines and on a terminal."""

import re
import sys

import pytest

from conftest import BUILD, clean_environment, need_module, run
from pymem.flame import Frame
from pymem.leaksreport import place
from test_heap import BUSY, Running, compile_program
from test_see import lines_of, see, watched

LEAKING = """
import time
kept, cache = [], [bytearray(1 << 16) for _ in range(100)]
def leak(n):
    kept.append(bytearray(n))
def work():
    end = time.time() + 2.5
    while time.time() < end:
        leak(50_000)
        time.sleep(0.005)
work()
print("done")
"""
SITE = re.compile(r" *([\d,.]+) ([KM]?i?B)  +([+-])([\d,.]+) [KM]?i?B  +\+([\d,.]+) ([KM]?i?B)"
                  r"  (\S+:\d+) (\S+)(.*)$")


def test_watch_shows_the_line_that_grows(tmp_path):
    """First the one that grew since the start, though another holds more."""
    path = tmp_path / "app.py"
    path.write_text(LEAKING)
    result = see("watch", "--samples", "4K", path, cwd=tmp_path)
    assert lines_of(result) == ["done"]
    *_, last = result.stderr.split("process ")
    head, first, *others = last.splitlines()[1:]
    assert head.split("  ")[-1] == "where" and len(others) >= 1
    assert SITE.match(first).group(7, 8) == ("app.py:5", "leak"), first
    assert " < app.py:9 work" in first
    assert any(" app.py:3 <module>" in line for line in others)
    assert all(len(line) <= 80 for line in [head, first, *others])
    looks = [SITE.match(line) for line in result.stderr.splitlines() if "app.py:5" in line]
    grown = [float(look[5].replace(",", "")) for look in looks if look[6] == "MiB"]
    assert len(grown) >= 2 and grown == sorted(grown)


def test_watch_may_trace_nothing(tmp_path):
    path = tmp_path / "app.py"
    path.write_text("import tracemalloc\nkept = bytearray(5 << 20)\n"
                    "print(tracemalloc.is_tracing())\n")
    result = see("watch", "--no-sites", path)
    assert lines_of(result) == ["False"]
    assert len(watched(result)) >= 1 and "app.py:" not in result.stderr
    assert lines_of(see("watch", path)) == ["True"]


def test_watch_without_a_tracer_says_how_to_have_one(tmp_path):
    path = tmp_path / "app.py"
    path.write_text("print('ran')\n")
    result = see("watch", path, runner=[BUILD / "pymem-run", sys.executable])
    assert lines_of(result) == ["ran"]
    assert re.match(r"which lines: pymem has no tracer for this CPython 3\.\d+ here: pip install "
                    "it", result.stderr)
    assert len(watched(result)) >= 1 and "app.py:" not in result.stderr


def test_sites_of_a_tracer_that_is_on_already(tmp_path):
    path = tmp_path / "app.py"
    path.write_text("import tracemalloc\nkept = bytearray(5 << 20)\n"
                    "print(tracemalloc.is_tracing())\n")
    result = see("watch", path, PYTHONTRACEMALLOC="3")
    assert lines_of(result) == ["True"] and "5.0 MiB" in result.stderr
    code = """
import tracemalloc
from pymem.sites import Sites
for was_on in (False, True):
    if was_on: tracemalloc.start()
    sites = Sites(4096, 5)
    sites.start()
    kept = [bytearray(100_000) for _ in range(20)]
    site, = [site for site in sites.look() if site.lines[-1][1] == 8]
    assert site.nbytes == site.last > 1_000_000 and site.grown == 0
    sites.look()
    del kept
    site, = [site for site in sites.look() if site.lines[-1][1] == 8]
    assert site.nbytes < 100_000 and site.last == site.grown < -1_000_000
    sites.stop()
    assert tracemalloc.is_tracing() == was_on
"""
    result = run(BUILD / "python", "-c", code,
                 environment=clean_environment(PYTHONPATH=str(BUILD)))
    assert result.returncode == 0, result.stderr


def test_a_program_that_ends_during_a_look_is_looked_at_again():
    """What it holds in the end is in no look that began before."""
    code = """
from pymem.watch import OwnWatch
class Sites:
    nlooks = 0
    def start(self): pass
    def stop(self): pass
    def look(self):
        self.nlooks += 1
        watch.over.set()
        return ()
watch = OwnWatch(Sites())
watch.start()
watch.stop()
assert watch.sites.nlooks == 2, watch.sites.nlooks
"""
    result = run(BUILD / "python", "-c", code,
                 environment=clean_environment(PYTHONPATH=str(BUILD)))
    assert result.returncode == 0, result.stderr


@pytest.mark.once
@pytest.mark.parametrize("room", [20, 30, 40, 60, 160])
def test_a_place_keeps_file_and_line(room):
    """Longest names and paths: first the path is cut, then the name, never the line."""
    for file in ("/srv/" + 9 * "folder/" + "views.py", "views.py"):
        for name in ("f", "Application.Handler." + 9 * "<locals>." + "answer"):
            text = place(Frame(name, file, 12345), room)
            assert re.search(r"(^|/|…)\S*views.py:12345 \S*$", text) and text[-1] == name[-1]
            assert len(text) <= room or room < 22
    text = place(Frame("get_data", "<frozen importlib._bootstrap_external>", 511), room)
    assert text.endswith("ternal>:511 get_data") and len(text) <= max(room, 21)


def screen(columns, path, **variables):
    """What it drew last, in a pseudo-terminal: its lines."""
    result = run("script", "-qec", f"stty cols {columns} rows 30; {BUILD / 'python'} -m pymem "
                 f"watch --samples 4K {path}", "/dev/null",
                 environment=clean_environment(PYTHONPATH=str(BUILD), TERM="xterm", **variables))
    frames = re.split(r"\x1b\[1A\x1b\[2K(?!\x1b\[1A)|\x1b\[\?25[lh]", result.stdout)
    drawn = [re.sub(r"\x1b\[[\d;?]*[A-Za-z]|\r", "", frame) for frame in frames]
    return [frame for frame in drawn if "fragmentation" in frame][-1].splitlines()


@pytest.mark.parametrize("columns", [80, 200])
def test_sites_on_a_terminal(tmp_path, columns):
    need_module("rich", "python3-rich")
    folder = tmp_path / ("a_folder_with_a_name/" * 6)
    folder.mkdir(parents=True)
    path = folder / "application.py"
    path.write_text(LEAKING)
    lines = screen(columns, path)
    assert all(len(line) < columns for line in lines)
    first = next(line for line in lines if SITE.match(line))
    assert re.search(r"[/…]application\.py:5 leak", first)
    assert (columns == 200) == (" < " in first and first.endswith("application.py:11 <module>"))


def test_of_a_process_it_says_which_command_has_lines(tmp_path):
    with Running(compile_program(tmp_path, BUSY)) as process:
        process.stdout.read(1)
        result = see("watch", "--looks", 1, process.pid)
    assert result.stderr.splitlines()[0] == (
        f"lines that grow: pymem leaks {process.pid}; that hold memory: pymem attach "
        f"{process.pid}")
