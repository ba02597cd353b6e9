"""Frames have the names of the functions that ran: by the tracer, or by the source's code."""

import json
import re
import sys

import pytest

from conftest import BUILD, clean_environment, pythons, run
from test_see import lines_of, see

# At the end of a line: the function that asks for memory there, and others that may.
PROGRAM = """
import sys
kept = []
def plain():  # <module>
    kept.append(bytearray(3000))  # plain
def generator():  # <module>, generator
    yield bytearray(3000)  # generator
def decorator(size):  # <module>
    kept.append(bytearray(size))  # decorator
    def wrap(function):  # decorator
        kept.append(bytearray(3000))  # decorator.<locals>.wrap
        return function
    kept.append(wrap)
    return wrap
class Body:  # <module>, Body
    inside = bytearray(3000)  # Body
    def method(self):  # Body
        kept.append(bytearray(3000))  # Body.method
    def comprehension(self):  # Body
        kept.extend([bytearray(3000) for _ in range(2)])  # Body.comprehension, \
Body.comprehension.<locals>.<listcomp>
    @decorator(3000)  # Body
    def decorated(self):  # Body
        def nested(): kept.append(bytearray(3000))  # Body.decorated, \
Body.decorated.<locals>.nested
        kept.append(nested)
        return nested
def one(): return bytearray(3000)  # <module>, one
first, second = lambda: one(), lambda: [bytearray(3000), one()]  # <module>, <lambda>
kept.extend([first(), second(), *generator(), generator(), Body()])  # <module>
body = kept[-1]
plain()
body.method()
body.comprehension()
body.decorated()()
"""


def expected():
    """{line: [names]}"""
    return {number: line.split("  # ")[1].split(", ")
            for number, line in enumerate(PROGRAM.splitlines(), 1) if "  # " in line}


@pytest.fixture
def program(tmp_path):
    path = tmp_path / "app.py"
    path.write_text(PROGRAM)
    return path


def names_in(stacks):
    """{line: {names}} of the program's, in lines of stacks."""
    found = {}
    for name, line in re.findall(r"(?:^|;)([^;]*?) ?[(]?app[.]py:(\d+)[)]?", stacks, re.M):
        found.setdefault(int(line), set()).add(name)
    return found


def test_flame_names_what_ran(program, tmp_path):
    """A def is run by the code around it."""
    out = tmp_path / "flame.txt"
    assert lines_of(see("flame", "-o", out, program)) == []
    found = names_in(out.read_text())
    for line, names in expected().items():
        assert names[0] in found[line] and found[line] <= set(names), (line, names)
    stacks = out.read_text()
    assert re.search(r"^<module> [(]app.py:28[)];<lambda> [(]app.py:27[)];one [(]app.py:26[)] ",
                     stacks, re.M)
    assert re.search(r";Body [(]app.py:21[)];decorator [(]app.py:9[)] ", stacks)


def test_a_snapshot_is_named_by_its_source(program, tmp_path):
    """Where a line has several functions and the stack does not tell which, by them all."""
    out, dump = tmp_path / "flame.txt", tmp_path / "dump"
    program.write_text(PROGRAM.replace(
        "import sys", "import tracemalloc; tracemalloc.start(25)")
        + f"tracemalloc.take_snapshot().dump({str(dump)!r})\n")
    assert run(sys.executable, program).returncode == 0
    lines_of(see("flame", "-o", out, dump))
    found = names_in(out.read_text())
    for line, names in expected().items():
        told = {name for text in found[line] for name in text.split(" or ")}
        assert names[0] in told and told <= set(names), (line, names)
    assert "plain" not in found[4] and found[4] == {"<module>"}
    assert "<module> (app.py:28);one (app.py:26)" in out.read_text().replace(
        "<module> or <lambda> (app.py:27);", "").replace("<lambda> (app.py:27);", "")


SOURCE = """
def plain():
    return [1]
async def coroutine():
    await x
class A(
    object):
    x = 1
    def m(self):
        return 1
@plain(
    None)
def decorated():
    yield 1
def one(): return [1]
f = lambda: (lambda: [2])
def cell(a):
    def inner():
        return a
    return inner
"""
FUNCTIONS = {
    2: ["<module>"], 3: ["plain"], 4: ["<module>"], 5: ["coroutine"], 7: ["<module>"],
    8: ["A"], 9: ["A"], 10: ["A.m"], 11: ["<module>"], 13: ["<module>"], 14: ["decorated"],
    15: ["<module>", "one"],
    16: ["<module>", "<lambda>", "<lambda>.<locals>.<lambda>"],
    17: ["<module>"], 18: ["cell"], 19: ["cell.<locals>.inner"], 20: ["cell"], 99: [""]}


@pytest.mark.parametrize("python", pythons(3, 8))
def test_lines_belong_to_code_objects(python, tmp_path):
    path = tmp_path / "source.py"
    path.write_text(SOURCE)
    code = ("import json, sys; from pymem.functions import functions_at\n"
            f"print(json.dumps([functions_at({str(path)!r}, n) for n in {list(FUNCTIONS)}]))")
    result = run(python, "-c", code, environment=clean_environment(PYTHONPATH=str(BUILD)))
    assert result.returncode == 0, result.stderr
    assert dict(zip(FUNCTIONS, json.loads(result.stdout))) == FUNCTIONS


# Files of attach and leaks.

def test_flame_of_what_leaks_wrote(tmp_path):
    data, out = tmp_path / "leaks.json", tmp_path / "flame.txt"
    program = tmp_path / "app.py"
    program.write_text("""
import time
kept = []
def leak(): kept.append(bytearray(50_000))
for _ in range(60):
    leak()
    time.sleep(0.02)
""")
    result = see("leaks", "--window", "0.05s", "--samples", "0", "-o", data, program)
    assert result.returncode == 0, result.stderr
    lines_of(see("flame", "-o", out, data))
    nbytes, = [int(line.split()[-1]) for line in out.read_text().splitlines()
               if line.startswith("<module> (app.py:6);leak (app.py:4) ")]
    assert 40 * 50_000 < nbytes < 61 * 51_000      # at the last look
    record = json.loads(data.read_text())
    held = sum(stack["bytes"] for stack in record["stacks"])
    assert abs(held - record["levels"][-1][0]) <= len(record["stacks"])


@pytest.mark.once
def test_json_that_is_of_neither_is_told(tmp_path):
    path = tmp_path / "other.json"
    for text in ('{"frames": []}', "[1]", "{", '{"frames": [{}], "stacks": []}',
                 '{"frames": [], "stacks": [{"frames": [7], "bytes": 1, "blocks": 1}]}'):
        path.write_text(text)
        result = see("flame", path)
        assert (result.returncode, result.stderr) == (
            1, f"pymem: {path} is no JSON that attach, leaks or report wrote\n")


def test_a_script_may_begin_as_json_does(tmp_path):
    path, out = tmp_path / "app.py", tmp_path / "flame.txt"
    path.write_text("{print('ran')}\n")
    assert lines_of(see("flame", "-o", out, path)) == ["ran"]
