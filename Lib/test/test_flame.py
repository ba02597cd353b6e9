"""python -m pymem flame: stacks with what they hold, as text, pictures and pprof."""

import gzip
import json
import re
import shutil
import subprocess
import sys
import time
from xml.etree import ElementTree

import pytest

from conftest import BUILD, run
from test_see import LIST_OF_TWO, SCRIPT, lines_of, see
from test_see import runner, script     # noqa: F401: fixtures


def test_flame_collapsed(runner, script, tmp_path):
    out = tmp_path / "flame.txt"
    result = see("flame", "-o", out, script, runner=runner)
    assert lines_of(result) == ["ran with []"]
    stacks = dict(line.rsplit(" ", 1) for line in out.read_text().splitlines())
    init = [stack for stack in stacks if re.match(
        r"<module> \(app.py:8\);build \(app.py:7\);.*Node.__init__ \(app.py:5\)$", stack)]
    assert len(init) == 1
    # A list of two, and numbers of which the first 257 are there already.
    assert 20_000 * LIST_OF_TWO < int(stacks[init[0]]) < 20_000 * 200
    assert not any("pymem" in stack for stack in stacks)
    assert re.match(rf"{out}: [\d,]+ bytes in {len(stacks):,} stacks\n", result.stderr)


def test_flame_at_the_peak(script, tmp_path):
    end, peak = (tmp_path / name for name in ("end.txt", "peak.txt"))
    slow = tmp_path / "slow.py"
    slow.write_text(SCRIPT.replace("6_000", "60_000").replace(
        "del junk", "import time; time.sleep(.1)\ndel junk\ntime.sleep(.1)"))
    lines_of(see("flame", "-o", end, slow))
    lines_of(see("flame", "--peak", "-o", peak, slow))

    def total(path):
        return sum(int(line.rsplit(" ", 1)[1]) for line in path.read_text().splitlines())
    assert total(peak) > 3 * total(end)


def test_flame_as_svg_and_html(script, tmp_path):
    svg, html = tmp_path / "flame.svg", tmp_path / "flame.html"
    lines_of(see("flame", "-o", svg, script))
    titles = [title.text for title in ElementTree.fromstring(svg.read_text()).iter(
        "{http://www.w3.org/2000/svg}title")]
    assert any(re.match(r"build \(app.py:7\): [\d,]+ bytes, \d+\.\d%, [\d,]+ blocks", title)
               for title in titles)
    lines_of(see("flame", "-o", html, script))
    data = json.loads(re.search(r'json">(.*)</script>', html.read_text())[1])
    names = [[data["frames"][number][0] for number in numbers]
             for numbers, _, _ in data["stacks"]]
    asked = max(stack[1:] for stack, of_stack in zip(data["stacks"], names)
                if of_stack[-1] == "Node.__init__")
    assert 20_000 * LIST_OF_TWO < asked[0] < 20_000 * 200 and 20_000 <= asked[1] <= 60_000


def varint(message, at):
    """(number, where it ends)"""
    number = shift = 0
    while True:
        byte = message[at]
        at += 1
        number |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return number, at


def varints(message):
    numbers, at = [], 0
    while at < len(message):
        number, at = varint(message, at)
        numbers.append(number)
    return numbers


def decode(message):
    """A protocol buffer as [(field, value)]."""
    at, found = 0, []
    while at < len(message):
        key, at = varint(message, at)
        value, at = varint(message, at)
        if key & 7 == 2:
            at += value
            value = message[at - value:at]
        found.append((key >> 3, value))
    return found


def test_flame_as_pprof(script, tmp_path):
    out = tmp_path / "flame.pb.gz"
    result = see("flame", "-o", out, script)
    said = re.match(rf"{out}: ([\d,]+) bytes in ([\d,]+) stacks\n", result.stderr)
    nbytes, nstacks = (int(number.replace(",", "")) for number in said.groups())
    profile = decode(gzip.decompress(out.read_bytes()))
    strings = [value.decode() for field, value in profile if field == 6]
    assert strings[0] == "" and len(set(strings)) == len(strings)
    types = [dict(decode(value)) for field, value in profile if field == 1]
    assert [(strings[t[1]], strings[t[2]]) for t in types] == [
        ("inuse_objects", "count"), ("inuse_space", "bytes")]
    functions = {dict(decode(value))[1]: strings[dict(decode(value))[2]]
                 for field, value in profile if field == 5}
    assert "Node.__init__" in functions.values()
    locations = {dict(decode(value))[1] for field, value in profile if field == 4}
    samples = [dict(decode(value)) for field, value in profile if field == 2]
    assert all(set(varints(sample[1])) <= locations for sample in samples)
    values = [varints(sample[2]) for sample in samples]
    assert len(values) == nstacks and sum(value[1] for value in values) == nbytes
    assert 20_000 * 2 < sum(value[0] for value in values) < nbytes / 16
    if shutil.which("protoc"):
        result = subprocess.run(["protoc", "--decode_raw"], stdout=subprocess.PIPE,
                                input=gzip.decompress(out.read_bytes()))
        assert result.returncode == 0


def test_flame_of_a_snapshot(tmp_path):
    dump, out = tmp_path / "dump", tmp_path / "flame.txt"
    (tmp_path / "app.py").write_text(
        "import tracemalloc\ntracemalloc.start(5)\ndef f():\n    return bytes(5000)\n"
        f"kept = [f(), f()]\ntracemalloc.take_snapshot().dump({str(dump)!r})\n")
    assert run(BUILD / "python", tmp_path / "app.py").returncode == 0
    lines_of(see("flame", "-o", out, dump))
    size = 2 * sys.getsizeof(bytes(5000))
    assert f"<module> (app.py:5);f (app.py:4) {size}" in out.read_text().splitlines()
    assert "a file has no native stacks" in see("flame", "--native", dump).stderr
    assert see("flame", dump, "--native").stderr == (
        "pymem: a file takes no arguments (--native): options come before its name\n")
    assert see("flame", "--compare", tmp_path / "app.py", dump).stderr.startswith(
        f"pymem: {tmp_path / 'app.py'} has no stacks; --compare takes a file of track, ")
    dump.write_bytes(b"\x80nothing")
    assert see("flame", dump).stderr == f"pymem: {dump} is no snapshot of tracemalloc\n"


@pytest.mark.once
def test_what_a_file_knows_of_a_program(tmp_path):
    """What it does not know, or no person can read, is left out."""
    frames = [{"function": "f", "file": "<x>&y.py", "line": 3}]
    facts = {"frames": frames, "stacks": [{"frames": [0], "bytes": 3 << 20, "blocks": 7}],
             "command": ["a b.py", "<i>"], "pid": 12, "started": 1e300, "seconds": 7384.2,
             "sample_bytes": 65536, "peak_bytes": 5 << 20}
    file, out = tmp_path / "found.json", tmp_path / "found.html"

    def header(**changes):
        file.write_text(json.dumps({**facts, **changes}))
        assert lines_of(see("flame", "-o", out, file)) == []
        return dict(re.findall("<dt>(.*?)</dt><dd>(.*?)</dd>", out.read_text()))
    assert header() == {
        "Command": "&#x27;a b.py&#x27; &#x27;&lt;i&gt;&#x27;", "PID": "12",
        "Duration": "2 h 3 min", "Peak": "5.0 MiB", "Total": "3.0 MiB in about 7 blocks",
        "Traced": "one sample in about 64.0 KiB; sizes and blocks are estimates"}
    assert header(seconds=125)["Duration"] == "2 min 5 s"
    assert header(command=None, pid=None, started=0.0, seconds=float("inf"), peak_bytes=None,
                  sample_bytes=0, python="3.9.1") == {
        "Python": "CPython 3.9.1", "Date": time.strftime("%Y-%m-%d %H:%M:%S %z",
                                                         time.localtime(0)),
        "Total": "3.0 MiB in 7 blocks", "Traced": "every allocation"}
    file.write_text(json.dumps({**facts, "command": 5}))
    assert see("flame", file).stderr == (
        f"pymem: {file} is no JSON that attach, leaks or report wrote\n")
