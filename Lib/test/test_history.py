"""Files of python -m pymem track: what is read of them, cut off, damaged, or written later."""

import warnings
import zlib

import pytest

from histories import new_history, write_history
from pymem import history
from pymem.__main__ import parse, parser
from pymem.heap import HeapError
from test_report import pymem, report, report_json


def test_a_file_that_is_cut_off_anywhere(tmp_path, monkeypatch):
    """Each part of a file says what is in its whole moments, or in a line why it can't."""
    monkeypatch.chdir(tmp_path)
    write_history("small.pymem", 3)
    data = (tmp_path / "small.pymem").read_bytes()
    whole = history.read("small.pymem")
    assert len(whole.times) == 3 and whole.is_ended
    counts = []
    for size in range(len(data)):
        (tmp_path / "cut.pymem").write_bytes(data[:size])
        said, status = command("report", "cut.pymem")
        if status == 0:
            found = history.read("cut.pymem")
            assert found.totals == whole.totals[:len(found.totals)] and not found.is_ended
            counts.append(len(found.totals))
        else:
            assert said.startswith("cut.pymem ") and "\n" not in said
            counts.append(0)
    assert counts == sorted(counts) and set(counts) == {0, 1, 2, 3}


def test_a_file_that_is_damaged_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_history("small.pymem", 3)
    data = (tmp_path / "small.pymem").read_bytes()
    whole = history.read("small.pymem")
    for at in range(len(data)):
        (tmp_path / "bad.pymem").write_bytes(data[:at] + bytes([data[at] ^ 0x41])
                                             + data[at + 1:])
        said, status = command("report", "bad.pymem")
        assert status == 0 or said.startswith("bad.pymem ") and "\n" not in said
        if status == 0:
            found = history.read("bad.pymem")
            assert found.totals == whole.totals[:len(found.totals)] and found.cut


def command(*arguments):
    """What a command says, in this process, and its status: no traceback either."""
    options = parse(parser(), list(arguments))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return "", options.function(options)
    except HeapError as error:
        return str(error), 1


def test_numbers_of_any_size_come_back(tmp_path):
    write_history(tmp_path / "a.pymem", 3)
    found = history.read(tmp_path / "a.pymem")
    assert found.times == [0, 1, 2]
    assert found.held(3) == {
        (("app.py", 1),): {(0, 100): 6},
        (("app.py", 1), ("déjà.py", 300, "A.naïve")): {(0, 1 << 40): 0, (389047, 0): 198}}
    assert found.totals == [200 + (1 << 40), 400 + (1 << 40), 600]
    for form in ("json", "table", "summary", "collapsed", "tree"):
        text = report("--format", form, "--to", "1s", tmp_path / "a.pymem")
        assert ("A.naïve" in text) or "A.na\\u00efve" in text


def test_processes_that_are_gone(tmp_path):
    """They stay at their end, but not at the peak."""
    def written(name, started, totals):
        writer = new_history(tmp_path / name, started=started)
        for i, (before, total) in enumerate(zip([0, *totals], totals)):
            writer.add(i, [([(name, 1)], {(0, 1): total - before})])
        writer.close()
    written("first", 100.25, [100, 100])
    written("second", 102.25, [150, 50])

    def told(*options):
        record = report_json(*options, "second", "first", cwd=tmp_path)
        return record["highest"], {stack["stack"][0]["file"]: stack["bytes"]
                                   for stack in record["stacks"]}
    highest = {"seconds": 2.0, "bytes": 150}
    assert told("--peak") == (highest, {"second": 150})
    assert told() == (highest, {"first": 100, "second": 50})
    assert told("--to", "1s") == (highest, {"first": 100})
    assert told("--from", "1s") == (highest, {"second": 50})
    assert told("--from", "2s") == (highest, {"second": -100})
    assert told("--from", "1s", "--peak") == (highest, {"second": 150})


def test_kinds_of_later_writers_are_passed_over(tmp_path):
    path = tmp_path / "a.pymem"
    write_history(path, 2)
    data = path.read_bytes()
    path.write_bytes(data[:12] + history.record(b"Z", b"later") + data[12:])
    assert history.read(path).is_ended and history.read(path).cut is None


def bad_files(folder):
    write_history(folder / "good.pymem", 2)
    write_history(folder / "none.pymem", 0)
    data = (folder / "good.pymem").read_bytes()
    (folder / "empty").write_bytes(b"")
    (folder / "text").write_text("import os\n")
    (folder / "later").write_bytes(data[:8] + b"\2\0\0\0" + data[12:])
    (folder / "wrong").write_bytes(data[:12] + history.record(b"P", b"[]"))
    (folder / "stack").write_bytes(data + history.record(b"M", zlib.compress(bytes([0, 0, 0, 1,
                                                                                   99, 0]))))


@pytest.mark.once
@pytest.mark.parametrize("arguments, status, said", [
    (["empty"], 1, "pymem: empty is empty; pymem track writes what report reads"),
    (["text"], 1, "pymem: text is no history of a program, as pymem track writes it"),
    (["later"], 1, "pymem: later has version 2 of the format; this pymem reads version 1"),
    (["none.pymem"], 1, "pymem: none.pymem has no whole moment in it: the program ended "
                        "before, or the file was cut off"),
    (["wrong"], 1, "pymem: wrong can't be read: its record at byte 12 is not as pymem track"),
    (["stack"], 1, "pymem: stack can't be read: its record at byte "),
    (["nofile"], 1, "pymem: nofile: No such file or directory"),
    (["."], 1, "pymem: .: Is a directory"),
    (["--from", "5s", "good.pymem"], 1, "pymem: no moment between --from 5.00s and --to 1.00s"
                                        ": there are moments from 0.00s to 1.00s"),
    (["--from", "1s", "--to", "0.5s", "good.pymem"], 1, "pymem: no moment between --from "
                                                        "1.00s and --to 0.50s: there are"),
    (["--from", "soon", "good.pymem"], 2, "pymem report: argument --from: 'soon' is no time"),
    (["--peak", "--to", "1s", "good.pymem"], 1, "pymem: report takes --peak or --to, not "),
    (["--format", "png", "good.pymem"], 2, "pymem report: argument --format: invalid choice"),
    (["-o", "/no/folder/x.svg", "good.pymem"], 1, "pymem: /no/folder/x.svg: No such file"),
    (["--compare", "good.pymem", "--from", "0", "good.pymem"], 1, "pymem: report takes --compare "
                                                                   "or --from, not both"),
    (["--compare", "text", "good.pymem"], 1, "pymem: text is no history of a program"),
    ([], 2, "pymem report: the following arguments are required: FILE"),
], ids=str)
def test_errors_of_report_are_one_line(tmp_path, arguments, status, said):
    bad_files(tmp_path)
    result = pymem("report", *arguments, cwd=tmp_path)
    assert (result.returncode, result.stdout) == (status, "")
    assert result.stderr.startswith(said) and result.stderr.count("\n") == 1, result.stderr
