"""python -m pymem track and report: files of what a program holds, and what they tell.

The programs wait until what they hold is in their file, as nothing else tells them.
"""

import gzip
import json
import math
import os
import pickle
import re
import signal
import subprocess
import sys
import textwrap
import time
from xml.etree import ElementTree

import pytest

from conftest import BUILD, TOP, clean_environment, need_module, run
from histories import new_history
from pymem import flame, history, size_text
from pymem.heap import HeapError
from test_flame import decode, varints

EVERY = ["--samples", "0", "--every", "0.1s"]
# What the programs begin with.
WAITS = """
import os, signal, sys, time
from pymem.heap import HeapError
from pymem.history import read
def wait_until_written(path, is_there):
    until = time.monotonic() + 120
    while time.monotonic() < until:
        try:
            if is_there(read(path)):
                return
        except (HeapError, OSError):
            pass
        time.sleep(0.02)
    os._exit(99)
"""
APP = WAITS + """
import base64
from pymem import tracemalloc
kept, texts = [], []
def remember(count):
    for _ in range(count):
        kept.append(bytes(1000))
def encode(count):
    for _ in range(count):
        texts.append(base64.b64encode(bytes(30_000)))
def main():
    remember(3000)
    encode(200)
main()
snapshot = tracemalloc.take_snapshot()
snapshot.dump(sys.argv[1])
del snapshot
"""


def pymem(*arguments, **options):
    return run(BUILD / "python", "-W", "ignore::DeprecationWarning", "-m", "pymem", *arguments,
               environment=clean_environment(PYTHONPATH=str(BUILD)), **options)


def tracked(folder, code, *arguments, output="app.pymem", options=EVERY, status=0):
    (folder / "app.py").write_text(code)
    result = pymem("track", *options, "-o", output, "app.py", *arguments, cwd=folder)
    assert result.returncode == status, result.stderr
    return result


def report(*arguments, status=0, **options):
    result = pymem("report", *arguments, **options)
    assert result.returncode == status, result.stderr
    return result.stdout


def with_frames(text):
    """JSON of a report, in which each stack has its frames, and not only their numbers."""
    record = json.loads(text)
    for stack in record["stacks"]:
        stack["stack"] = [record["frames"][number] for number in stack["frames"]]
    return record


def report_json(*arguments, **options):
    return with_frames(report("--format", "json", *arguments, **options))


def of_functions(record, *names):
    """{lines in the file app.py: [bytes, blocks]} of the stacks with such a function; what a
    def statement asks for is not the function's."""
    found = {}
    for stack in record["stacks"]:
        lines = tuple(frame["line"] for frame in stack["stack"]
                      if os.path.basename(frame["file"]) == "app.py")
        if len(lines) > 1 and {frame["function"] for frame in stack["stack"]} & set(names):
            counts = found.setdefault(lines, [0, 0])
            counts[:] = counts[0] + stack["bytes"], counts[1] + stack["blocks"]
    return found


def line_of(code, text):
    return next(number for number, line in enumerate(code.splitlines(), 1) if text in line)


# Exactly what the tracer says.

@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With the file of a program, and its own snapshot at its end."""
    folder = tmp_path_factory.mktemp("report")
    tracked(folder, APP, "snapshot", "first", output="app.pymem")
    return folder


@pytest.fixture(scope="module")
def snapshot(folder):
    """{labels of frames: (blocks, bytes)} of the snapshot, of what main() asked for."""
    with open(folder / "snapshot", "rb") as file:
        stacks = flame.of_snapshot(pickle.load(file))
    return main_only({tuple(relabelled(frame, folder) for frame in of_program(frames)):
                      tuple(counts) for frames, counts in stacks.counts.items()})


def of_program(frames):
    """Without those of the tools, which this process may have from another folder."""
    files = [os.path.basename(frame.file) for frame in frames]
    return frames[files.index("app.py"):] if "app.py" in files else frames


def relabelled(frame, folder):
    """As a report that is made in its folder names it."""
    return flame.frame_at(str(folder / frame.file) if frame.file == "app.py" else frame.file,
                          frame.line).label


def main_only(stacks):
    """Of blocks of some size: those of free lists may have been used again meanwhile."""
    found = {labels: counts for labels, counts in stacks.items()
             if any(label.startswith("main (") for label in labels)
             and labels[-1].split()[0] in ("b64encode", "remember")
             and counts[1] > 500 * counts[0]}
    assert len(found) == 2
    return found


def reported(folder, form, *arguments):
    path = folder / f"out.{form}"
    report("--format", form, "-o", path, *arguments, "app.pymem", cwd=folder)
    return path


def test_json_is_the_snapshot(folder, snapshot):
    record = with_frames(reported(folder, "json").read_text())
    assert main_only({tuple(f"{frame['function']} ({os.path.basename(frame['file'])}:"
                            f"{frame['line']})" for frame in stack["stack"]):
                      (stack["blocks"], stack["bytes"])
                      for stack in record["stacks"]}) == snapshot
    assert record["bytes"] == sum(stack["bytes"] for stack in record["stacks"]) \
        == record["processes"][0]["bytes"][-1]


def test_collapsed_is_the_snapshot(folder, snapshot):
    lines = reported(folder, "collapsed").read_text().splitlines()
    assert report("--format", "collapsed", "app.pymem", cwd=folder).splitlines() == lines
    found = {tuple(stack.split(";")): int(nbytes)
             for stack, nbytes in (line.rsplit(" ", 1) for line in lines)}
    assert {labels: found[labels] for labels in snapshot} == {
        labels: nbytes for labels, (_, nbytes) in snapshot.items()}


def test_pprof_is_the_snapshot(folder, snapshot):
    profile = decode(gzip.decompress(reported(folder, "pprof").read_bytes()))
    samples = [dict(decode(value)) for field, value in profile if field == 2]
    values = [tuple(varints(sample[2])) for sample in samples]
    assert set(snapshot.values()) <= set(values)
    assert sum(nbytes for _, nbytes in values) == report_json(
        "app.pymem", cwd=folder)["bytes"]


def label_of(frame):
    return flame.Frame(*frame[:3]).label


def test_pages_and_pictures_are_the_snapshot(folder, snapshot):
    wanted = {labels[-1]: counts for labels, counts in snapshot.items()}
    page = reported(folder, "html").read_text()
    data = json.loads(re.search(r'json">(.*)</script>', page)[1])
    found = {tuple(label_of(data["frames"][number]) for number in numbers): (blocks, nbytes)
             for numbers, nbytes, blocks in data["stacks"]}
    assert {labels: found[labels] for labels in snapshot} == snapshot
    titles = [title.text for title in ElementTree.parse(reported(folder, "svg")).iter(
        "{http://www.w3.org/2000/svg}title")]
    for label, (blocks, nbytes) in wanted.items():
        [title] = [title for title in titles if title.startswith(label + ": ")]
        assert re.match(rf".*: {nbytes:,} bytes, [\d.]+%, {blocks:,} blocks$", title)


def cells(line):
    return re.split(r"\s{2,}", line.strip())


def test_tables_are_the_snapshot(folder):
    name, process, at_end, peak, empty, titles, *rows = report(
        "app.pymem", cwd=folder).splitlines()
    assert (name, empty) == ("app.py snapshot first", "")
    assert re.match(r"Process \d+, CPython 3\.\d+\.\d+, \d+\.\d s$", process)
    assert re.match(r"At the end: [\d.]+ MiB in [\d,]+ blocks$", at_end)
    assert re.match(r"Peak: [\d.]+ MiB at \d\.\d\d s; traced: every block, 25 frames$", peak)
    assert cells(titles) == ["size", "share", "blocks", "where"]
    record = report_json("app.pymem", cwd=folder)       # which is the snapshot
    # What a line asks a library for is its own.
    for row, name, calls in zip(rows, ("encode", "remember"), ("b64encode(", "bytes(1000)")):
        size, _, blocks, place = cells(row)
        assert place == f"app.py:{line_of(APP, calls)} {name}"
        asked = [counts for lines, counts in of_functions(record, name).items()
                 if lines[-1] == line_of(APP, calls)]
        assert size == size_text(sum(nbytes for nbytes, _ in asked))
        assert blocks == f"{sum(count for _, count in asked):,}"
    summary = [cells(row) for row in report("--format", "summary", "--top", "1000",
                                            "app.pymem", cwd=folder).splitlines()[6:]]
    [row] = [row for row in summary if row[-1] == "app.py main"]
    asked = [stack for stack in record["stacks"] if ("main", str(folder / "app.py")) in
             [(frame["function"], frame["file"]) for frame in stack["stack"]]]
    assert row[0] == size_text(sum(stack["bytes"] for stack in asked))
    assert row[1] == size_text(sum(stack["bytes"] for stack in asked
                                   if stack["stack"][-1]["function"] == "main"))
    assert int(row[2].replace(",", "")) == sum(stack["blocks"] for stack in asked)
    # A function that holds all of its caller's is in one entry with it.
    tree = report("--format", "tree", "app.pymem", cwd=folder)
    for name in ("encode", "remember"):
        caller = line_of(APP, f"    {name}(")
        nbytes = sum(counts[0] for lines, counts in of_functions(record, "main").items()
                     if caller in lines)
        assert re.search(rf"^ +{size_text(nbytes)} [\d.]+% main \(app.py:{caller}\)\n"
                         rf" +{name} \(", tree, re.M)
    assert re.search(r"^ +b64encode \(base64.py:\d+\)$", tree, re.M)


def test_the_document_tells_how_to_read_it(folder):
    """The program in Doc/history.rst knows only what stands there."""
    page = (TOP / "Doc" / "history.rst").read_text()
    program = textwrap.dedent(re.search(r"code-block:: python\n\n((?:   .*\n|\n)+)", page)[1])
    names = {"__name__": "reader"}
    exec(program, names)
    held = names["read"](folder / "app.pymem")
    record = report_json("app.pymem", cwd=folder)
    assert sum(held.values()) == record["bytes"]
    assert sorted(filter(None, held.values())) == sorted(
        stack["bytes"] for stack in record["stacks"])


def test_nothing_of_the_tool_is_in_it(folder, tmp_path):
    """Nor with one frame, where only the innermost line is known."""
    tracked(tmp_path, "kept = [bytes(1000) for _ in range(1000)]\nimport time\n"
            "time.sleep(0.3)\n", options=[*EVERY, "--frames", "1"])
    for record in (report_json("app.pymem", cwd=folder),
                   report_json("app.pymem", cwd=tmp_path)):
        files = {frame["file"] for stack in record["stacks"] for frame in stack["stack"]}
        assert any(file.endswith("/app.py") for file in files)
        assert not any(re.search(r"/pymem/|/(threading|platform|runpy|pkgutil)\.py$", file)
                       for file in files)


def test_samples_are_estimates(tmp_path):
    tracked(tmp_path, "kept = [bytes(1000) for _ in range(20_000)]\n",
            options=["--samples", "16K"])
    record = report_json("app.pymem", cwd=tmp_path)
    nbytes = sum(stack["bytes"] for stack in record["stacks"]
                 if stack["stack"][0]["file"].endswith("/app.py"))
    blocks = sum(stack["blocks"] for stack in record["stacks"]
                 if stack["stack"][0]["file"].endswith("/app.py"))
    # Six standard errors; the list itself counts once.
    error = 6 * (16384 / 20_000_000) ** 0.5
    assert nbytes == pytest.approx(20_000 * 1041, rel=error)
    assert blocks == pytest.approx(20_000, rel=error)
    assert "in about " in report("app.pymem", cwd=tmp_path)


# Moments.

PHASES = WAITS + """
path = "app.pymem"
def take(size):
    return bytes(size)
first = take(300_000)
wait_until_written(path, lambda history: history.totals[-1] > 300_000)
second, junk = take(500_000), take(4_000_000)
wait_until_written(path, lambda history: history.totals[-1] > 4_800_000)
first = junk = None
wait_until_written(path, lambda history: max(history.totals) > history.totals[-1] + 4_200_000)
"""


@pytest.fixture(scope="module")
def phases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phases")
    tracked(folder, PHASES)
    return folder


def test_workers_that_are_terminated_keep_what_they_had(tmp_path):
    """As those of a pool, before anyone has looked at them."""
    tracked(tmp_path, """
import os, signal, time
kept = []
for n in 1, 2:
    if os.fork() == 0:
        kept.append(bytes(n * 1_000_000))
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
    assert os.wait()[1] == signal.SIGTERM
""", output="app.%p.pymem", options=["--samples", "0", "--every", "1h"])
    totals = sorted(history.read(path).totals[-1] for path in tmp_path.glob("app.*.pymem"))
    assert len(totals) == 3 and totals[0] < 200_000
    assert 1_000_000 < totals[1] < 1_200_000 and 2_000_000 < totals[2] < 2_200_000


@pytest.mark.parametrize("samples", ["0", "8K"])
def test_a_peak_between_two_looks(tmp_path, samples):
    """That is over before anyone looks: the tracer keeps it."""
    tracked(tmp_path, """
kept = [bytes(1000) for _ in range(1000)]
def take(): return [bytes(1000) for _ in range(20_000)]
for _ in range(3): len(take())
""", options=["--samples", samples, "--every", "1h"])
    peak = report_json("--peak", "app.pymem", cwd=tmp_path)
    assert 19e6 < peak["bytes"] < 25e6 and peak["bytes"] == peak["highest"]["bytes"]
    assert report_json("app.pymem", cwd=tmp_path)["bytes"] < 5e6


def test_the_peak_and_two_moments(phases):
    first, both = (line_of(PHASES, f"{name} = take(") for name in ("first", "second, junk"))
    take = line_of(PHASES, "return bytes(size)")
    end, header = report_json("app.pymem", cwd=phases), sys.getsizeof(b"")
    assert of_functions(end, "take") == {(both, take): [500_000 + header, 1]}
    peak = report_json("--peak", "app.pymem", cwd=phases)
    assert of_functions(peak, "take") == {(first, take): [300_000 + header, 1],
                                          (both, take): [4_500_000 + 2 * header, 2]}
    assert peak["bytes"] == end["highest"]["bytes"] > 4_800_000
    times, totals = end["processes"][0]["times"], end["processes"][0]["bytes"]
    quiet = next(seconds for seconds, nbytes in zip(times, totals) if nbytes > 300_000)
    loud = times[totals.index(max(totals))]
    at_quiet = report_json("--to", f"{quiet + 1e-5}s", "app.pymem", cwd=phases)
    assert of_functions(at_quiet, "take") == {(first, take): [300_000 + header, 1]}
    grown = report_json("--from", f"{quiet + 1e-5}s", "app.pymem", cwd=phases)
    assert of_functions(grown, "take") == {(first, take): [-300_000 - header, -1],
                                           (both, take): [500_000 + header, 1]}
    assert grown["bytes"] == end["bytes"] - at_quiet["bytes"]
    less = report_json("--from", f"{loud + 1e-5}s", "app.pymem", cwd=phases)
    assert of_functions(less, "take") == {(first, take): [-300_000 - header, -1],
                                          (both, take): [-4_000_000 - header, -1]}


def test_what_became_less_is_told(phases):
    """A picture can't show it."""
    history_ = history.read(phases / "app.pymem")
    loud = history_.times[history_.totals.index(max(history_.totals))]
    result = pymem("report", "--from", f"{loud + 1e-5}s", "--format", "collapsed", "app.pymem",
                   cwd=phases)
    assert "take" not in result.stdout
    assert re.search(r"^pymem: what became less, 4,\d{3},\d{3} bytes, is not shown there; ",
                     result.stderr, re.M)
    table = report("--from", f"{loud + 1e-5}s", "app.pymem", cwd=phases)
    assert re.search(r"-4\.1 MiB +-2 +4\.6 MiB +488\.3 KiB  "
                     rf"app\.py:{line_of(PHASES, 'return bytes(size)')} take", table)
    assert re.search(r"^From \d\.\d+ s to the end: -4\.\d MiB in -\d+ blocks, "
                     r"from 4\.\d MiB to \d+\.\d KiB$", table, re.M)


# Two files.

def write_versions(folder):
    """Of a program before and after its source was changed: lines and folders have moved."""
    for name, line, sizes in (("before", 7, {"kept": 1000, "gone": 700, "alike": 30}),
                              ("after", 9, {"kept": 3000, "new": 500, "alike": 30})):
        writer = new_history(folder / f"{name}.pymem", pid=line, started=1e9 + line)
        writer.add(1, [(((f"/{name}/app.py", 1, "<module>"),
                         (f"/{name}/app.py", line + number, function)), {(0, 10): size // 10})
                       for number, (function, size) in enumerate(sizes.items())])
        writer.end()
        writer.close()


@pytest.fixture(scope="module")
def versions(tmp_path_factory):
    folder = tmp_path_factory.mktemp("versions")
    write_versions(folder)
    return folder


COMPARED = ["--compare", "before.pymem", "after.pymem"]


def test_files_are_compared_by_function(versions):
    lines = report(*COMPARED, cwd=versions).splitlines()
    assert lines[:5] == [
        "app.py", "Process 9, CPython 3.11.2, 1.0 s", "Compared with: app.py",
        "Process 7, CPython 3.11.2, 1.0 s",
        "At the end: +1.8 KiB in +180 blocks, from 1.7 KiB to 3.4 KiB"]
    assert [cells(line) for line in lines[7:]] == [
        ["change", "blocks", "before", "now", "where"],
        ["+2.0 KiB", "+200", "1,000 B", "2.9 KiB", "/after/app.py:9 kept"],
        ["-700 B", "-70", "700 B", "0 B", "/after/app.py:8 gone"],
        ["+500 B", "+50", "0 B", "500 B", "/after/app.py:10 new"]]
    summary = report("--format", "summary", *COMPARED, cwd=versions).splitlines()
    assert [cells(line) for line in summary[8:]] == [
        ["+2.0 KiB", "+2.0 KiB", "+200", "/after/app.py kept"],
        ["+1.8 KiB", "+0 B", "+180", "/after/app.py <module>"],
        ["-700 B", "-700 B", "-70", "/after/app.py gone"],
        ["+500 B", "+500 B", "+50", "/after/app.py new"]]


def test_a_picture_of_differences_has_signs(versions):
    result = pymem("report", "-o", "out.svg", *COMPARED, cwd=versions)
    assert result.stderr == "out.svg: +1,800 bytes since 1.7 KiB\n"
    boxes = {box[0].text: box.get("fill") for box in ElementTree.parse(
        versions / "out.svg").iter("{http://www.w3.org/2000/svg}rect") if len(box)}
    assert list(boxes) == ["all: +1,800 bytes, +180 blocks",
                           "<module> (app.py:1): +1,800 bytes, +180 blocks",
                           "gone (app.py:8): -700 bytes, -70 blocks",
                           "kept (app.py:9): +2,000 bytes, +200 blocks",
                           "new (app.py:10): +500 bytes, +50 blocks"]
    mixed, _, shrank, grew, other = boxes.values()
    assert grew == other == flame.hsl(8, 85, 64) and shrank == flame.hsl(212, 85, 64)
    assert mixed == flame.hsl(8, 85, 90 - 26 * 1800 / 3200)
    text = (versions / "out.svg").read_text()
    assert ">+ kept (app.py:9)<" in text and ">- gone (app.py:8)<" in text


def test_other_formats_tell_what_grew(versions):
    result = pymem("report", "--format", "collapsed", *COMPARED, cwd=versions)
    assert result.stdout.splitlines() == ["<module> (app.py:1);kept (app.py:9) 2000",
                                          "<module> (app.py:1);new (app.py:10) 500"]
    assert result.stderr == ("pymem: what became less, 700 bytes, is not shown there; --format "
                             "html, svg, table and json have it\n")
    record = report_json(*COMPARED, cwd=versions)
    assert record["bytes"] == 1800 and record["compared_with"][0]["pid"] == 7
    assert "  500 B 20.0% new (app.py:10)" in report(
        "--format", "tree", *COMPARED, cwd=versions).splitlines()


def test_flame_compares_all_files_that_have_stacks(versions):
    """A history, JSON and a snapshot of tracemalloc, each with each."""
    for name in "before", "after":
        report("--format", "json", "-o", f"{name}.json", f"{name}.pymem", cwd=versions)
    for before in "before.pymem", "before.json":
        for after in "after.pymem", "after.json":
            result = pymem("flame", "--compare", before, "-o", "out.txt", after, cwd=versions)
            assert result.stderr.splitlines()[0] == "out.txt: +1,800 bytes since 1.7 KiB"
            assert (versions / "out.txt").read_text().splitlines() == [
                "<module> (app.py:1);kept (app.py:9) 2000",
                "<module> (app.py:1);new (app.py:10) 500"]
    (versions / "app.py").write_text("import os, tracemalloc\ntracemalloc.start(5)\n"
                                     "kept = bytes(9000)\ntracemalloc.take_snapshot().dump("
                                     "'snapshot')\n")
    assert run(BUILD / "python", "app.py", cwd=versions).returncode == 0
    assert pymem("flame", "--compare", "snapshot", "-o", "out.txt", "snapshot",
                 cwd=versions).stderr.startswith("out.txt: +0 bytes since ")


def test_samples_have_an_error(tmp_path):
    """A block of 400 bytes is in the sample with a chance of 2.4 %, and stands for 16,584
    bytes.  In one program a block that is still there is the same sample."""
    size, chance = 16_584, 1 - math.exp(-400 / 16_384)
    for name, more in ("before", [1]), ("after", [2]), ("both", [1, 1]):
        writer = new_history(tmp_path / name, sample_bytes=16_384)
        for moment, count in enumerate(more):
            writer.add(moment, [([("app.py", 3, "f")], {(0, size): count})])
        writer.close()

    def error(variances):
        return f"±{size_text(size * math.sqrt(variances * (1 - chance)))}"
    for words, variances in ((["--compare", "before", "after"], 3), (["--from", "0", "both"], 1)):
        row = cells(report(*words, cwd=tmp_path).splitlines()[-1])
        assert (row[0], row[1], row[-1]) == ("+16.2 KiB", error(variances), "app.py:3 f")


def test_leaks_of_a_file(tmp_path):
    """The line that grows, of a file with moments enough; too few are told."""
    def written(name, nmoments):
        writer = new_history(tmp_path / name)
        for moment in range(nmoments):
            writer.add(moment, [([("app.py", 1), ("app.py", 7)], {(0, 100): 60}),
                                ([("app.py", 1), ("app.py", 9)], {(0, 99): not moment})])
        writer.close()
        return pymem("leaks", "--limit", "1M/h", "-o", "found.html", name, cwd=tmp_path)
    result = written("long", 30)
    assert (result.returncode, result.stderr) == (3, "")
    first, second, *_ = result.stdout.splitlines()
    assert first.startswith("Memory grows by 351.6 KiB/min at one site (")
    assert " app.py:7 " in second
    assert '"app.py","line":7' in (tmp_path / "found.html").read_text()
    result = written("short", 5)
    assert result.returncode == 1
    assert result.stderr.startswith("pymem: leaks saw 4 windows of memory, and needs 12: ")


# Processes that fork.

CHILDREN = WAITS + """
kept = []
def remember(count):
    for _ in range(count):
        kept.append(bytes(1000))
def pattern(pid):
    return sys.argv[1].replace("%p", str(pid))
def exits():
    os._exit(0)
def is_killed():
    wait_until_written(pattern(os.getpid()), lambda history: history.totals[-1] > 200_000)
    os.kill(os.getpid(), signal.SIGKILL)
def falls_off():
    raise SystemExit(0)
remember(100)
for number, end in enumerate((exits, is_killed, falls_off), 2):
    if os.fork() == 0:
        os.chdir("/")
        remember(100 * number)
        end()
    os.wait()
print(os.getpid())
"""


def test_each_process_has_a_file(tmp_path):
    code = CHILDREN.replace('sys.argv[1]', repr(str(tmp_path / "app.%p.pymem")))
    result = tracked(tmp_path, code, output="app.%p.pymem")
    pid, names = int(result.stdout), sorted(os.listdir(tmp_path))
    assert re.fullmatch(rf"app\.{pid}\.pymem: \d+ moments?; pymem report app\.{pid}\.pymem "
                        "reads this\n", result.stderr)
    files = [name for name in names if name.endswith(".pymem")]
    assert len(files) == 4
    each = [report_json(name, cwd=tmp_path) for name in files]
    blocks = {}
    for name, record in zip(files, each):
        [process] = record["processes"]
        assert process["pid"] == int(name.split(".")[1])
        assert process["parent"] == (None if process["pid"] == pid else pid)
        blocks[sum(nblocks for nbytes, nblocks in of_functions(record, "remember").values()
                   if nbytes >= 1000 * nblocks)] = process["ended"]
    # A list of so many has a block, too.
    assert {count // 100: ended for count, ended in blocks.items()} == {
        1: True, 2: True, 3: False, 4: True}
    merged = report_json(*files, cwd=tmp_path)
    assert merged["bytes"] == sum(record["bytes"] for record in each)
    assert sum(nblocks for _, nblocks in of_functions(merged, "remember").values()) == sum(
        nblocks for record in each for _, nblocks in of_functions(record, "remember").values())
    heading = report(*files, cwd=tmp_path).splitlines()
    assert re.match(rf"Process {pid} and 3 more, .* s, 1 killed or running$", heading[1])
    assert heading[2].startswith("At the end of each process: ")


def test_nothing_is_written_over(tmp_path):
    (tmp_path / "app.1.pymem").write_text("somebody's")
    code = "import os\nkept = [bytes(1000) for _ in range(100)]\n" \
        "for _ in range(2):\n    if os.fork() == 0: raise SystemExit(0)\n    os.wait()\n"
    for first in ("app.pymem", "app.4.pymem"):
        result = tracked(tmp_path, code)
        assert f"{first}: " in result.stderr
    assert (tmp_path / "app.1.pymem").read_text() == "somebody's"
    pids = [history.read(tmp_path / f"app{number}.pymem").process["pid"]
            for number in ("", ".2", ".3", ".4", ".5", ".6")]
    assert len(set(pids)) == 6


def test_children_of_multiprocessing(tmp_path):
    code = """
import multiprocessing
kept = []
def work(number):
    kept.append(bytes(50_000 + number))
    return number
if __name__ == "__main__":
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(work, range(10), chunksize=1) == list(range(10))
        pool.close()
        pool.join()
"""
    tracked(tmp_path, code)
    files = [name for name in os.listdir(tmp_path) if name.endswith(".pymem")]
    assert len(files) == 3
    found = of_functions(report_json(*files, cwd=tmp_path), "work")
    [nbytes, blocks] = next(iter(found.values()))
    assert 10 <= blocks <= 14 and 0 < nbytes - 10 * 50_000 < 2000      # with the lists'


def test_threads_that_fork_while_it_looks(tmp_path):
    """It looks nearly all the time, and a child writes its file, too."""
    code = """
import os, threading
kept = []
def work():
    for _ in range(12):
        kept.append([bytes(100) for _ in range(300)])
        pid = os.fork()
        if pid == 0:
            kept.append(bytes(777_777))
            os._exit(7)
        assert os.waitpid(pid, 0)[1] >> 8 == 7
threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""
    tracked(tmp_path, code, options=["--samples", "0", "--every", "0.01s"])
    files = [name for name in os.listdir(tmp_path) if name.endswith(".pymem")]
    assert len(files) == 49
    for name in files:
        found = history.read(tmp_path / name)
        assert found.is_ended and found.cut is None
        assert found.process["parent"] is None or found.totals[-1] >= 777_777


@pytest.mark.parametrize("command, name", [
    ("flame", "out.txt"), ("heapmap", "out.html"), ("stats", "out.json")])
def test_other_results_of_a_child_are_not_written_over(tmp_path, command, name):
    code = "import os\nkept = [bytes(1000) for _ in range(100)]\n" \
        "if os.fork() == 0:\n    kept *= 2\n    raise SystemExit(0)\nos.wait()\n"
    (tmp_path / "app.py").write_text(code)
    for pattern in (name, f"%p.{name}"):
        before = set(os.listdir(tmp_path))
        result = pymem(command, "-o", pattern, "app.py", cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        made = {file for file in os.listdir(tmp_path)
                if file.endswith(name.rsplit(".", 1)[1])} - before
        assert len(made) == 2 and all((tmp_path / file).stat().st_size > 20 for file in made)
    assert (tmp_path / name.replace("out", "out.1")).exists() and (tmp_path / name).exists()


# What is in the way.

def test_a_process_that_is_killed(tmp_path):
    (tmp_path / "app.py").write_text(
        "kept = [bytes(1000) for _ in range(2000)]\nwhile True: pass\n")
    path = tmp_path / "app.pymem"
    with subprocess.Popen([BUILD / "python", "-m", "pymem", "track", *EVERY, "-o", path,
                           "app.py"], cwd=tmp_path, env=clean_environment(
                               PYTHONPATH=str(BUILD))) as process:
        try:
            wait_for_bytes(path, 2_000_000)
        finally:
            process.kill()
    assert process.returncode == -signal.SIGKILL
    _, process, _, _, _, _, row, *_ = report(path, cwd=tmp_path).splitlines()
    assert process.endswith(" s, killed or running")
    assert re.search(r" 2,0\d\d  app.py:1 <", row)


def wait_for_bytes(path, nbytes):
    until = time.monotonic() + 120
    while time.monotonic() < until:
        try:
            if history.read(path).totals[-1] >= nbytes:
                return
        except (HeapError, OSError):
            pass
        time.sleep(0.05)
    raise AssertionError("nothing was written")


def test_a_program_that_closes_all_files(tmp_path):
    """Its next files get the descriptors; nothing is written into them."""
    code = WAITS + """
files = []
def take(number):
    os.closerange(3, 100)
    files.extend(open(f"own.{number}.{i}", "w") for i in range(20))
    return bytes(3_000_000)
kept = []
for number in range(2):
    kept.append(take(number))
    wait_until_written("app.pymem", lambda history: history.totals[-1] > 3_000_000 * len(kept))
if sys.argv[1:]:
    os.remove("app.pymem")
    take(3)
"""
    result = tracked(tmp_path, code)
    assert re.match(r"app.pymem: \d+ moments; ", result.stderr)
    assert history.read(tmp_path / "app.pymem").is_ended
    result = tracked(tmp_path, code, "remove", output="app.pymem")
    assert not any((tmp_path / f"own.{i}.{j}").stat().st_size for i in range(2)
                   for j in range(20))


def test_no_room_for_more(tmp_path):
    """/dev/full, by a link in the place of the file that the child would open."""
    code = """
import os, resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
import string, textwrap, decimal, fractions, statistics, tokenize
print("done")
"""
    result = tracked(tmp_path, code)
    assert result.stdout == "done\n"
    assert re.match(r"pymem: app.pymem: File too large; process \d+ is tracked no more\n",
                    result.stderr)


@pytest.mark.once
@pytest.mark.parametrize("arguments, status, said", [
    ([], 1, "pymem: track takes a program: SCRIPT, -m MODULE, -c CODE"),
    (["/no/file.py"], 1, "pymem: /no/file.py: no such file"),
    (["-o", "/no/folder/x.pymem", "-c", "pass"], 1, "pymem: /no/folder/x.pymem: No such file"),
    (["--every", "0", "-c", "pass"], 2, "pymem track: argument --every: '0' is no time"),
], ids=str)
def test_errors_of_track_are_one_line(tmp_path, arguments, status, said):
    result = pymem("track", *arguments, cwd=tmp_path)
    assert (result.returncode, result.stdout) == (status, "")
    assert result.stderr.startswith(said) and result.stderr.count("\n") == 1, result.stderr
    assert os.listdir(tmp_path) == []


def test_the_program_is_as_without(tmp_path):
    """Its output, status and arguments; and its functions are its own again."""
    code = "import sys, threading\nprint(sys.argv[1:], threading.active_count())\n" \
        "sys.exit(5)\n"
    result = tracked(tmp_path, code, "-o", "x", status=5)
    assert result.stdout == "['-o', 'x'] 1\n"
    result = pymem("track", "-c", "1 / 0", cwd=tmp_path)
    assert result.returncode == 1 and result.stderr.splitlines()[-2] == \
        "ZeroDivisionError: division by zero"
    assert any(re.fullmatch(r"code\.\d+\.pymem", name) for name in os.listdir(tmp_path))


def test_threads_that_go_on_after_the_main_one(tmp_path):
    """The interpreter waits for them, and so does the last moment."""
    code = WAITS + """
import threading
kept = []
def work():
    threading.main_thread().join()
    wait_until_written("app.pymem", lambda history: len(history.times) > 1)
    kept.append(bytes(700_000))
threading.Thread(target=work).start()
"""
    tracked(tmp_path, code)
    assert report_json("app.pymem", cwd=tmp_path)["bytes"] > 700_000
    assert history.read(tmp_path / "app.pymem").is_ended


# In a terminal.

def test_a_python_without_rich_prints_lines(folder):
    """At 80 columns nothing is longer."""
    for form in ("table", "summary", "tree"):
        text = report("--format", form, "app.pymem", cwd=folder)
        assert max(map(len, text.splitlines())) <= 80 and "\x1b" not in text


@pytest.mark.parametrize("columns", [80, 200])
def test_in_a_terminal(folder, columns):
    need_module("rich", "python3-rich")
    for form in ("table", "summary", "tree"):
        result = run("script", "-qec", f"stty cols {columns}; {BUILD / 'python'} -m pymem "
                     f"report --format {form} app.pymem", "/dev/null", cwd=folder,
                     environment=clean_environment(PYTHONPATH=str(BUILD), TERM="xterm"))
        lines = re.sub(r"\x1b\[[\d;]*m", "", result.stdout).splitlines()
        assert "\x1b[" in result.stdout and max(map(len, lines)) <= columns
        assert any("remember" in line for line in lines)
