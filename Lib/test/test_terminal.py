"""What people see in a terminal of 80 and of 200 columns: tmux is one, and tells its screen."""

import os
import re
import shutil
import tempfile
import time
from pathlib import Path

import pytest

from conftest import BUILD, clean_environment, run

pytestmark = pytest.mark.skipif(shutil.which("tmux") is None,
                                reason="needs tmux (Debian: apt-get install tmux)")
WIDTHS = [80, 200]
HEIGHT = 50
FOLDER = "a_folder_with_a_long_name_as_people_have_them"
APP = """
import time
class Repository:
    def remember_what_was_asked_for_and_by_whom_and_when_under_its_name(self, n):
        return [bytes(1000) for _ in range(n)]
def handle_request(repository):
    return repository.remember_what_was_asked_for_and_by_whom_and_when_under_its_name(2000)
def other(): return bytearray(300_000)
kept = [handle_request(Repository()), other()]
"""
LEAKS = APP + """
for _ in range(60):
    kept.append(handle_request(Repository())[:200])
    time.sleep(0.03)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With programs in it, and a file of track."""
    top = tmp_path_factory.mktemp("terminal")
    (top / FOLDER).mkdir()
    (top / FOLDER / "app.py").write_text(APP)
    (top / FOLDER / "leaks.py").write_text(LEAKS)
    result = run(BUILD / "python", "-m", "pymem", "track", "--samples", "0", "-o", "app.pymem",
                 f"{FOLDER}/app.py", cwd=top,
                 environment=clean_environment(PYTHONPATH=str(BUILD)))
    assert result.returncode == 0, result.stderr
    return top


class Terminal:
    """A separate server, with one window."""

    def __init__(self, folder, width):
        self.folder, self.width = folder, width
        self.socket = Path(tempfile.mkdtemp(prefix="tmux-", dir=folder)) / "socket"

    def tmux(self, *words):
        """COLUMNS and LINES would be those of whoever runs the tests."""
        environment = clean_environment(PYTHONPATH=str(BUILD), LANG="C.UTF-8",
                                        TERM="xterm-256color")
        for name in "COLUMNS", "LINES":
            environment.pop(name, None)
        return run("tmux", "-S", self.socket, "-f", os.devnull, *words, cwd=self.folder,
                   environment=environment)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.tmux("kill-server")

    def screen(self):
        return self.tmux("capture-pane", "-p").stdout.splitlines()

    def show(self, *words, until):
        """The screen, once a line of it is as wanted."""
        command = " ".join([str(BUILD / "python"), "-m", "pymem", *words])
        started = self.tmux("new-session", "-d", "-x", str(self.width), "-y", str(HEIGHT),
                            f"{command}; echo status $?; exec sleep 300")
        assert started.returncode == 0, started.stderr
        end = time.monotonic() + 120
        while time.monotonic() < end:
            lines = self.screen()
            if any(re.search(until, line) for line in lines):
                return lines
            time.sleep(0.1)
        pytest.fail("\n".join(lines))


@pytest.fixture(params=WIDTHS)
def terminal(request, folder):
    with Terminal(folder, request.param) as made:
        yield made


def rows_of(lines, heading):
    at = next(i for i, line in enumerate(lines) if re.match(heading, line))
    end = next((i for i in range(at, len(lines)) if not lines[i]), len(lines))
    return [line for line in lines[at + 1:end] if not line.startswith("status ")]


@pytest.mark.parametrize("form, heading", [
    ("table", r" +size +share +blocks +where$"),
    ("summary", r" *with callees +alone +blocks +function$")])
def test_tables_fit(terminal, form, heading):
    """A row is a line: size, what it is, and the function, if need be with less of its path."""
    lines = terminal.show("report", "--format", form, "app.pymem", until="^status 0")
    rows = rows_of(lines, heading)
    assert len(rows) >= 3
    assert all(re.match(r" *[\d.,]+ (B|KiB|MiB) ", row) for row in rows), rows
    whole = "remember_what_was_asked_for_and_by_whom_and_when_under_its_name"
    first = next(row for row in rows if "under_its_n" in row)
    assert "app.py" in first and (whole in first) == (terminal.width == 200), first
    shares = [row.split()[2] for row in rows if form == "table"]
    assert all(re.fullmatch(r"[\d.]+%", share) for share in shares), rows


def test_a_tree_fits(terminal):
    lines = terminal.show("report", "--format", "tree", "app.pymem", until="^status 0")
    at = next(i for i, line in enumerate(lines) if "100.0% " in line)
    tree = lines[at:next(i for i, line in enumerate(lines) if line.startswith("What is below"))]
    assert any("handle_request" in line for line in tree)
    assert all(re.search(r"[├└│─]|%|^ +\S", line) for line in tree), tree


def test_leaks_fit(terminal):
    lines = terminal.show("leaks", "--window", "0.05s", "--samples", "0", f"{FOLDER}/leaks.py",
                          until="^status 0")
    start = next(i for i, line in enumerate(lines) if line.startswith("Memory grows by "))
    first, second = lines[start + 1:start + 3]
    assert first.startswith("+") and "leaks.py:5 " in first
    assert second.startswith("    holds ")


def test_watch_is_drawn_in_place(terminal):
    """Its lines are cut, and none is left from before."""
    lines = terminal.show("watch", "--samples", "0", f"{FOLDER}/leaks.py",
                          until=r"leaks\.py:5 ")
    head = next(line for line in lines if re.search(r"site holds +last look +since start", line))
    assert sum(head.split() == line.split() for line in lines) == 1
    row = next(line for line in lines if "leaks.py:5 " in line)
    assert re.match(r" *[\d.,]+ [KM]iB +[+-]", row)
    callers = row.count(" < ")
    assert callers >= 1 if terminal.width == 200 else callers <= 1, row


def test_a_map_fits(terminal):
    lines = terminal.show("heapmap", f"{FOLDER}/app.py", until="^status 0")
    rows = [line for line in lines if re.match(r" *0x[0-9a-f]+ ", line)]
    assert rows and all(len(row) <= 90 for row in rows)


def test_help_fits(terminal):
    lines = terminal.show("leaks", "--help", until="^status 0")
    assert any("--limit" in line for line in lines)
    assert all(len(line) <= terminal.width for line in lines)
