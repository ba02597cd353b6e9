"""python -m pymem: stats, heapmap, watch, explain, replay."""

import itertools
import json
import math
import os
import re
import subprocess
import sys
import time
from xml.etree import ElementTree

import pytest

from conftest import (ALIGNMENT, ARENA_SIZE, BUILD, IS_64_BITS, POOL_OVERHEAD, POOL_SIZE, TOP,
                      clean_environment, need_module, pythons, run)
from test_heap import BUSY, RUNNERS, Running, compile_program

LIST_OF_TWO = 70 if IS_64_BITS else 32      # bytes at least

sys.path.insert(0, str(TOP / "Lib"))
from pymem.picture import class_color, class_number     # noqa: E402

BUILD_PYTHON = RUNNERS["build"]
# The linked Python, this one, the oldest and the newest of the others.
OTHERS = sorted(list(RUNNERS)[2:], key=lambda name: list(map(int, name.split("."))))
SOME = [*list(RUNNERS)[:2], *dict.fromkeys(OTHERS[:1] + OTHERS[-1:])]
SCRIPT = """
import sys
class Node:
    def __init__(self, i):
        self.items = [i, None]
def build(n):
    return [Node(i) for i in range(n)]
kept = build(20_000)
junk = build(6_000)
del junk
print("ran with", sys.argv[1:])
"""


@pytest.fixture(params=SOME)
def runner(request):
    return RUNNERS[request.param]


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "app.py"
    path.write_text(SCRIPT)
    return path


def see(*arguments, runner=BUILD_PYTHON, cwd=None, **variables):
    return run(*runner, "-m", "pymem", *arguments, cwd=cwd,
               environment=clean_environment(PYTHONPATH=str(BUILD), **variables))


def lines_of(result, status=0):
    assert result.returncode == status, result.stderr
    return result.stdout.splitlines()


# stats

def test_stats_of_a_script(runner, script):
    result = see("stats", "--json", script, "a", "--b", runner=runner)
    first, *rest = lines_of(result)
    assert first == "ran with ['a', '--b']"
    statistics = json.loads("\n".join(rest))
    assert statistics["threshold"] == 512 and statistics["alignment"] == ALIGNMENT
    sizes = {row["size"]: row for row in statistics["classes"]}
    assert sum(row["blocks"] for row in sizes.values()) > 60_000
    assert sum(statistics["bytes"].values()) == statistics["arenas"]["bytes"]


def test_stats_as_text_and_into_a_file(script, tmp_path):
    text = lines_of(see("stats"))
    assert re.match(r" +size +pools +blocks +free$", text[0])
    assert any(re.match(r"arenas: \d+ now", line) for line in text)
    out = tmp_path / "out.json"
    assert lines_of(see("stats", "--json", "-o", out, script)) == ["ran with []"]
    assert json.loads(out.read_text())["arenas"]["current"] > 0


def test_a_scripts_exit_and_errors_are_its_own(tmp_path):
    path = tmp_path / "app.py"
    path.write_text("import sys\nprint(__name__, __file__ == sys.argv[0])\nsys.exit(7)\n")
    result = see("stats", "-o", os.devnull, path)
    assert (result.returncode, result.stdout) == (7, "__main__ True\n")
    path.write_text("def f():\n    raise ValueError('this one')\nf()\n")
    result = see("stats", "-o", os.devnull, path)
    assert result.returncode == 1
    assert result.stderr.splitlines()[0] == "Traceback (most recent call last):"
    assert [line for line in result.stderr.splitlines() if "File" in line] == [
        f'  File "{path}", line 3, in <module>', f'  File "{path}", line 2, in f']
    assert result.stderr.endswith("ValueError: this one\n")
    path.write_text("import sys\nsys.exit('a reason')\n")
    result = see("stats", "-o", os.devnull, path)
    assert (result.returncode, result.stderr) == (1, "a reason\n")


@pytest.fixture
def package(tmp_path):
    """A folder with a package that can be run, of two modules that can be, too."""
    folder = tmp_path / "app_of_test"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "__main__.py").write_text(
        "import sys\nprint(sys.argv[1:], __name__, __package__, __file__ == sys.argv[0])\n"
        "def build(): return [bytes(300) for _ in range(30_000)]\nkept = build()\n")
    (folder / "fails.py").write_text("def f():\n    raise ImportError('this one')\nf()\n")
    return tmp_path


@pytest.mark.parametrize("words", [["-m", "app_of_test"], ["-mapp_of_test"]], ids=" ".join)
def test_a_module_is_run_as_with_m(runner, package, words):
    """Whatever follows is the module's, as an option of the command or not."""
    result = see("stats", *words, "-o", "--", "-c", "b", "--f", runner=runner, cwd=package)
    first, second, *_ = lines_of(result)
    assert first == "['-o', '--', '-c', 'b', '--f'] __main__ app_of_test True"
    assert second.split() == ["size", "pools", "blocks", "free"]
    out = package / "out.txt"
    assert lines_of(see("flame", "-o", out, *words, runner=runner, cwd=package)) == [
        "[] __main__ app_of_test True"]
    largest = max(out.read_text().splitlines(), key=lambda line: int(line.split()[-1]))
    assert largest.startswith("<module> (__main__.py:4);build (__main__.py:3)")
    assert "importlib" not in out.read_text()


def test_code_is_run_as_with_c(runner, package):
    result = see("stats", "-c", "import sys\nprint(sys.argv, __name__, sys.path[0] == '',"
                 " __builtins__.open is open)", "-m", "x", "--", runner=runner)
    assert lines_of(result)[0] == "['-c', '-m', 'x', '--'] __main__ True True"
    out = package / "out.txt"
    code = "def build(): return [bytes(300) for _ in range(30_000)]\nkept = build()"
    assert lines_of(see("flame", "-o", out, "-c", code, runner=runner)) == []
    largest = max(out.read_text().splitlines(), key=lambda line: int(line.split()[-1]))
    # The tracer has names; of code there is no source.
    assert largest.startswith("<string>:2;<string>:1" if "pymem-run" in str(runner[0])
                              else "<module> (<string>:2);build (<string>:1)")


def test_what_code_made_is_dropped_before_the_last_map():
    code = "class Kept:\n    def __del__(self): print('gone')\nkept = Kept()"
    assert lines_of(see("heapmap", "-c", code))[0] == "gone"


def test_errors_of_modules_and_code_are_theirs(package):
    def errors(*words):
        result = see("stats", "-o", os.devnull, *words, cwd=package)
        assert result.returncode == 1 and result.stdout == ""
        return result.stderr.splitlines()
    lines = errors("-m", "app_of_test.fails")
    assert [line.split('"')[1] for line in lines if "File" in line] == [
        str(package / "app_of_test" / "fails.py")] * 2
    assert lines[-1] == "ImportError: this one"
    assert [line for line in errors("-c", "def f(): 1 / 0\nf()") if "File" in line] == [
        '  File "<string>", line 2, in <module>', '  File "<string>", line 1, in f']
    assert errors("-c", "x y")[-1] == "SyntaxError: invalid syntax"
    lines = errors("-c", "from pymem import watch\nwatch.size_text('x')")
    assert [line.split(",")[1] for line in lines if "File" in line][0] == " line 2"
    assert see("stats", "-o", os.devnull, "-c", "raise SystemExit(7)").returncode == 7


# Processes that fork, and ends that come at once.

FORKS = """
import os, signal, sys, time
kept = []
def keep(n): kept.append(bytes(n))
print("from the parent alone")          # not flushed before the forks
for sign in "ab":
    if os.fork() == 0:
        keep(3_000_000)
        if sign == "b":
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        os._exit(7)
    print(os.waitstatus_to_exitcode(os.wait()[1]))
"""


@pytest.mark.parametrize("command", [["stats"], ["heapmap", "--format", "html"],
                                     ["flame", "--format", "collapsed"]], ids=lambda words: words[0])
def test_children_that_end_at_once_have_a_result(command, tmp_path):
    """And what their parent printed is not printed again, nor their status another one."""
    (tmp_path / "app.py").write_text(FORKS)
    result = see(*command, "-o", tmp_path / "found", tmp_path / "app.py")
    assert lines_of(result) == ["from the parent alone", "7", "-15"]
    texts = [(tmp_path / name).read_text() for name in ("found", "found.1", "found.2")]
    assert len(set(texts)) == len(texts) and all(texts)
    if command[0] == "flame":
        assert ["keep" in text for text in texts] == [False, True, True]
    result = see(*command, "-o", tmp_path / "of.%p", tmp_path / "app.py")
    assert lines_of(result) == ["from the parent alone", "7", "-15"]
    assert len(list(tmp_path.glob("of.[0-9]*"))) == 3


def test_children_that_end_at_once_are_told_on_stdout(tmp_path):
    (tmp_path / "app.py").write_text(FORKS)
    lines = lines_of(see("stats", tmp_path / "app.py"))
    assert sum(line.startswith("arenas: ") for line in lines) == 3
    assert lines.count("from the parent alone") == 1


def test_sigterm_comes_after_the_result(tmp_path):
    """Also a second one, and it stays the program's end; one that handles it goes on."""
    (tmp_path / "app.py").write_text("import os, signal\nkept = bytes(3_000_000)\n"
                                     "os.kill(os.getpid(), signal.SIGTERM)\nprint('not here')\n")
    for name in "flame.txt", "flame.1.txt":
        result = see("flame", "-o", tmp_path / "flame.txt", tmp_path / "app.py")
        assert (result.returncode, result.stdout) == (-15, ""), result.stderr
        assert "app.py:2" in (tmp_path / name).read_text()
    assert result.stderr.startswith(f"pymem: {tmp_path}/flame.txt is there already; the result "
                                    f"goes to {tmp_path}/flame.1.txt\n")
    result = see("flame", "-o", tmp_path / "handled.txt", "-c", "import os, signal\n"
                 "signal.signal(signal.SIGTERM, lambda *arguments: print('handled'))\n"
                 "os.kill(os.getpid(), signal.SIGTERM)\nprint('goes on')")
    assert lines_of(result) == ["handled", "goes on"]


def test_what_is_no_file_is_written_to():
    result = see("flame", "-o", "/dev/stdout", "--format", "collapsed", "-c",
                 "kept = bytes(5000)")
    size = sys.getsizeof(bytes(5000))
    assert re.search(rf"<string>:1\S* {size}$", "\n".join(lines_of(result)), re.M)


# heapmap

def test_heapmap_in_a_terminal(runner, script):
    text = lines_of(see("heapmap", script, runner=runner))
    headings = [line.split(":")[0] for line in text if " arenas of " in line]
    assert headings == ["before", "at the end", "after, all dropped"]
    counts = [int(re.search(r"; ([\d,]+) blocks", line)[1].replace(",", ""))
              for line in text if " arenas of " in line]
    assert counts[1] > counts[0] + 60_000 and counts[2] < counts[0] + 3_000
    rows = [line for line in text if re.match(r" *0x[0-9a-f]+ small  ", line)]
    assert all(len(row.split("small  ")[1]) in (63, 64) for row in rows)
    assert any("█" in row for row in rows)


def cells(svg):
    """The rectangles that say that they are pools."""
    root = ElementTree.fromstring(svg)
    space = "{http://www.w3.org/2000/svg}"
    return [rectangle for rectangle in root.iter(space + "rect")
            if rectangle.findtext(space + "title", "").startswith("pool ")]


def test_heapmap_as_svg(script, tmp_path):
    out = tmp_path / "map.svg"
    result = see("heapmap", "-o", out, script)
    assert result.stderr == f"{out}: 3 moments\n"
    titles = [cell[0].text for cell in cells(out.read_text())]
    full = (POOL_SIZE - POOL_OVERHEAD) // 64
    assert any(f"full, blocks of 64 bytes, {full} of {full} used" in title for title in titles)
    assert any(title.endswith(": free") for title in titles)


def test_a_page_has_all_of_the_heap(python):
    """Also each free list, in its order."""
    code = """
import struct
from base64 import b64decode
from pymem.heap import Heap
from pymem.heapmap import Frame, page_data
kept = [bytes(i % 480) for i in range(20000)]
del kept[::3]
heap = Heap.take()
data = page_data([Frame("once", heap), Frame("again", heap)])
assert len(data["frames"]) == 2
seen = 0
for shown, arena in zip(data["frames"][1]["arenas"], heap.arenas):
    assert int(shown["address"], 16) == arena.address
    for number, pool in zip(shown["pools"], arena.pools):
        address, size, blocks, cut, used, free, first = data["pools"][number]
        assert (int(address, 16), size, blocks, cut, used, int(first, 16)) == (
            pool.address, pool.blocksize, pool.nblocks, pool.ncut, pool.nused,
            pool.first_block)
        assert tuple(n for n, in struct.iter_unpack("<H", b64decode(free))) == pool.free
        seen += len(pool.free)
assert seen > 5000
assert len(data["pools"]) == sum(len(arena.pools) for arena in heap.arenas)
"""
    result = run(python, "-c", code, environment=clean_environment(PYTHONPATH=str(BUILD)))
    assert result.returncode == 0, result.stderr


# Of linear RGB, as those see it who have no cones for long waves, or for middle ones: Machado,
# Oliveira and Fernandes (2009), severity 1.
EYES = {"all cones": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
        "protanopia": ((.152286, 1.052583, -.204868), (.114503, .786281, .099216),
                       (-.003882, -.048116, 1.051998)),
        "deuteranopia": ((.367322, .860646, -.227968), (.280085, .672501, .047413),
                         (-.011820, .042940, .968881))}


def lab(color, eyes):
    """CIELAB of #rrggbb."""
    parts = [int(color[i:i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4
              for part in parts]
    seen = [min(max(sum(a * b for a, b in zip(row, linear)), 0), 1) for row in eyes]
    x, y, z = (sum(a * b for a, b in zip(row, seen)) for row in (
        (.4339, .3762, .1899), (.2126, .7152, .0722), (.0177, .1095, .8728)))
    x, y, z = (part ** (1 / 3) if part > 0.008856 else 7.787 * part + 16 / 116
               for part in (x, y, z))
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


@pytest.mark.once
@pytest.mark.parametrize("eyes", EYES)
def test_32_classes_can_be_told_apart(eyes):
    """A difference of 2.3 is just seen; neighbours have larger ones."""
    colors = [lab(class_color(16 * number), EYES[eyes]) for number in range(1, 33)]
    assert min(math.dist(a, b) for a, b in itertools.combinations(colors, 2)) > 12
    assert min(map(math.dist, colors, colors[1:])) > 40
    # On white, and on the dark paper of the pages.
    assert all(20 < lightness < 85 for lightness, _, _ in colors)


@pytest.mark.once
def test_medium_classes_have_numbers_of_their_own():
    """Some that occur, and the largest one."""
    sizes = [512, 544, 576, 640, 704, 1024, 1088, 1216, 2112, 2368, 4160, 4672, 8256, 32832]
    numbers = list(map(class_number, sizes))
    assert numbers == sorted(set(numbers)) and numbers[0] == 31


def test_heapmap_as_png(script, tmp_path):
    need_module("matplotlib.pyplot", "python3-matplotlib")
    out = tmp_path / "map.png"
    lines_of(see("heapmap", "-o", out, script))
    assert out.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and out.stat().st_size > 20_000


def test_heapmap_shows_arenas_that_were_returned(tmp_path):
    path = tmp_path / "app.py"
    path.write_text("import time\nkept = [bytes(400) for _ in range(500_000)]\n"
                    "time.sleep(.3)\ndel kept\n"
                    "end = time.time() + 1\n"
                    "while time.time() < end: [bytes(300) for _ in range(100)]\n")
    text = lines_of(see("heapmap", "--every", "0.2", path))
    assert sum(" arenas of " in line for line in text) >= 5
    assert any(re.search("; [0-9]+ arenas returned", line) for line in text)
    assert sum(line.endswith("returned") and "0x" in line for line in text) > 50


# watch

def watched(result):
    """The lines that it printed: [{fact: text}]"""
    return [dict(re.match(r"(?:process \d+: )?(arenas|pools|blocks|fragmentation|"
                          "allocation rate|own cost) (.*)", part).groups()
                 for part in line.split("; "))
            for line in result.stderr.splitlines() if line.startswith("process ")]


def test_watch_of_a_script(runner, tmp_path):
    path = tmp_path / "app.py"
    path.write_text("import time\nend = time.time() + 3\nkept = []\n"
                    "while time.time() < end: kept.append([[1] for _ in range(100)])\n"
                    "print(len(kept) > 100)\n")
    result = see("watch", path, runner=runner)
    assert lines_of(result) == ["True"]
    looks = watched(result)
    assert len(looks) >= 3
    assert all(float(look["own cost"].rstrip("%")) < 2 for look in looks)
    rates = [int(re.match(r"([\d,]+) requests", look["allocation rate"])[1].replace(",", ""))
             for look in looks[1:]]
    assert max(rates) > 100_000
    blocks = [int(look["blocks"].split()[0].replace(",", "")) for look in looks]
    assert blocks == sorted(blocks) and blocks[-1] > blocks[0] + 10_000


def test_watch_of_another_process(tmp_path):
    with Running(compile_program(tmp_path, BUSY)) as process:
        process.stdout.read(1)
        start = time.monotonic()
        result = see("watch", "--looks", 4, process.pid)
        assert 1.4 < time.monotonic() - start < 10
    looks = watched(result)
    assert len(looks) == 4
    assert all(float(look["own cost"].rstrip("%")) < 2 for look in looks)
    # It goes on while it is read, at some million calls a second.
    assert all(10_000 < int(look["blocks"].split()[0].replace(",", "")) < 21_000
               for look in looks)
    assert result.returncode == 0


def test_watch_ends_with_the_process(tmp_path):
    with Running(compile_program(tmp_path, BUSY)) as process:
        process.stdout.read(1)
        watcher = subprocess.Popen([*BUILD_PYTHON, "-m", "pymem", "watch",
                                    str(process.pid)], stderr=subprocess.PIPE, text=True,
                                   env=clean_environment(PYTHONPATH=str(BUILD)))
        watcher.stderr.readline()
        process.kill()
        process.wait()
        assert watcher.wait(timeout=10) == 0


def test_watch_on_a_terminal(tmp_path):
    """The view of python3-rich, in a pseudo-terminal."""
    need_module("rich", "python3-rich")
    path = tmp_path / "app.py"
    path.write_text("import time\nkept = [[i] for i in range(100_000)]\ntime.sleep(1.2)\n")
    result = run("script", "-qec",
                 f"{BUILD / 'python'} -m pymem watch {path}", "/dev/null",
                 environment=clean_environment(PYTHONPATH=str(BUILD), TERM="xterm"))
    assert "fragmentation" in result.stdout and "█" in result.stdout
    assert re.search(r"own cost [01]\.\d%", result.stdout)


def test_watching_leaves_no_hook_behind(python):
    code = """
import ctypes, threading, time
class Allocator(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in "ctx malloc calloc realloc free".split()]
def allocators():
    found = []
    for domain in (1, 2):
        a = Allocator()
        ctypes.pythonapi.PyMem_GetAllocator(domain, ctypes.byref(a))
        found.append((a.ctx, a.malloc, a.free))
    return found
from pymem.watch import OwnWatch
before, watch = allocators(), OwnWatch()
watch.start()
for _ in range(30):
    kept = [[i] for i in range(20_000)]
watch.stop()
assert allocators() == before and watch.watch.nlooks >= 1
import _pymem
_pymem.count(); kept = [[i] for i in range(1000)]; during = allocators()
requests, nbytes, frees = _pymem.stop()
assert allocators() == before != during and requests >= 1000
# Hooks that came and went meanwhile.
import tracemalloc
tracemalloc.start(); _pymem.count(); tracemalloc.stop(); _pymem.stop()
assert allocators() == before
_pymem.count(); kept = [[i] for i in range(1000)]; requests, _, _ = _pymem.stop()
assert requests >= 1000
_pymem.count(); tracemalloc.start(); first = _pymem.stop()
_pymem.count(); kept = [[i] for i in range(1000)]; second = _pymem.stop()
tracemalloc.stop()
assert 1000 <= second[0] < 3000, second        # once each, and not twice
_pymem.count(); _pymem.stop()
try: _pymem.count(); _pymem.count()
except RuntimeError as error: assert "counted already" in str(error)
else: raise AssertionError
"""
    result = run(python, "-c", code, environment=clean_environment(PYTHONPATH=str(BUILD)))
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("python", pythons(3, 12))
def test_each_interpreter_counts_for_itself(python):
    """Others run at once, with a GIL each, and count as well if they share this one."""
    code = """
import sys, threading
import _pymem
try:
    import _interpreters as I
    new, isolated, execute = lambda: I.create("legacy"), lambda: I.create("isolated"), I.exec
except ImportError:
    import _xxsubinterpreters as I
    new, isolated, execute = lambda: I.create(isolated=False), I.create, I.run_string
WORK = "for _ in range(40): kept = [[i] for i in range(20_000)]"
busy = [isolated() for _ in range(2)]
other = new()
execute(other, f"import sys; sys.path[:] = {sys.path!r}")
threads = [threading.Thread(target=execute, args=(i, WORK)) for i in busy]
for thread in threads: thread.start()
for _ in range(20):
    _pymem.count()
    kept = [[i] for i in range(1000)]
    execute(other, "import _pymem; _pymem.count(); kept = [[i] for i in range(300)]; "
            "counts = _pymem.stop(); assert 300 <= counts[0] < 1000, counts")
    requests, _, _ = _pymem.stop()
    assert 1000 <= requests < 4000, requests
for thread in threads: thread.join()
"""
    result = run(BUILD / "pymem-run", python, "-c", code,
                 environment=clean_environment(PYTHONPATH=str(BUILD)))
    assert result.returncode == 0, result.stderr


# explain

def facts(result):
    assert result.returncode == 0, result.stderr
    found = {}
    for line in result.stdout.splitlines():
        if line[:11].strip():
            name = line[:11].strip()
            found[name] = line[11:]
        else:
            found[name] += "\n" + line[11:]
    return found


def test_explain_an_object(runner):
    found = facts(see("explain", "--setup", "class A: pass", "A()", runner=runner))
    assert found["object"].startswith("A, ")
    assert found["domain"] == "object"
    assert re.match(rf"small arena 0x\w+ of {ARENA_SIZE >> 10} KiB, \d+ of 6[34] pools used",
                    found["arena"])
    size = int(re.search(r"blocks of (\d+) bytes", found["pool"])[1])
    least = size - ALIGNMENT + 1
    assert found["class"] == f"{size // ALIGNMENT - 1}: requests of {least} to {size} bytes"
    assert re.match(r"number \d+ of \d+, 0x\w+ to 0x\w+, used; the address is its byte \d+",
                    found["block"])
    assert found["requested"] == f"not known: {least} to {size} bytes"
    assert "before it: " in found["neighbours"] and "behind it: " in found["neighbours"]


def test_explain_with_debug_hooks(runner):
    if "pymem-run" in str(runner[0]):
        runner = [runner[0], "--debug", *runner[1:]]
    found = facts(see("explain", "b'x' * 100", runner=runner,
                      **({} if len(runner) > 1 else {"PYTHONMALLOC": "debug"})))
    assert found["domain"] == "object (debug hooks)"
    assert found["requested"] == \
        f"{sys.getsizeof(bytes(100))} bytes, {ALIGNMENT} bytes into the block"


def test_explain_with_traceback(runner, tmp_path):
    (tmp_path / "mod.py").write_text("def make():\n    return bytes(bytearray(77))\n")
    found = facts(see("explain", "--frames", 2, "--setup",
                      f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import mod",
                      "mod.make()", runner=runner))
    assert found["allocated"] == f"{tmp_path / 'mod.py'}:2\n<expression>:1"
    if runner == BUILD_PYTHON:
        assert found["requested"] == f"{sys.getsizeof(bytes(77))} bytes"
    found = facts(see("explain", "--frames", 1, "bytes(bytearray(1_000_000))",
                      runner=runner))
    assert found["allocated"] == "<expression>:1"


def test_explain_what_is_no_block(runner):
    found = facts(see("explain", "None", runner=runner))
    assert "part of a file that is mapped" in found["block"]
    found = facts(see("explain", "0x10000", runner=runner))
    assert found["memory"] == "nothing is mapped there"
    result = see("explain", "--setup", "import no_such", "1", runner=runner)
    assert result.returncode == 1 and result.stderr == (
        "pymem: '1' can't be evaluated: ModuleNotFoundError: No module named 'no_such'\n")


def test_explain_in_every_state(python):
    """Free, never used, header, a free pool: from one heap."""
    code = """
from pymem.capi import free, malloc
from pymem.explain import explain_address
from pymem.heap import Heap
blocks = [malloc(500) for _ in range(40)]
free(blocks[20])
heap = Heap.take()
place = heap.find(blocks[20])
print(explain_address(blocks[20] + 3, heap)["block"])
last = next(pool for pool in heap.pools if pool.ncut < pool.nblocks)
print(explain_address(last.block_address(last.nblocks - 1), heap)["block"])
print(explain_address(place.pool.address + 3, heap)["block"])
unused = [pool for arena in heap.arenas for pool in arena.pools if not pool.blocksize][0]
there = explain_address(unused.address, heap)
print("block" in there, there["pool"])
print(explain_address(blocks[20], heap)["free list"])
"""
    result = run(python, "-c", code, environment=clean_environment(PYTHONPATH=str(BUILD)))
    assert result.returncode == 0, result.stderr
    free, never, header, unused, _, order = result.stdout.splitlines()
    nblocks = (POOL_SIZE - POOL_OVERHEAD) // (500 + -500 % ALIGNMENT)
    assert re.search(rf"^number \d+ of {nblocks}, 0x\w+ to 0x\w+, free; "
                     "the address is its byte 3$", free)
    assert " never used; " in never
    assert header.startswith("none: the header of the pool")
    assert re.match(r"False pool 0x\w+: free$", unused)
    assert re.match(r"0 of \d+ come before it$", order)


def test_explain_an_address_of_another_process(tmp_path):
    with Running(compile_program(
            tmp_path, "printf(\"%%p\\n\", blocks[19999]); fflush(stdout); "
            "for (;;) pause();")) as process:
        address = process.stdout.readline().strip()
        found = facts(see("explain", "--pid", process.pid, address))
        assert found["block"].endswith(", used; the address is its byte 0")
        assert found["address"] == address
        stats = lines_of(see("stats", "--pid", process.pid))
        assert any(line.startswith("arenas: ") for line in stats)
        out = tmp_path / "map.html"
        lines_of(see("heapmap", "-o", out, "--pid", process.pid))
        assert [name for name, _ in re.findall("<dt>(.*?)</dt><dd>(.*?)</dd>",
                                               out.read_text())] == [
            "Command", "PID", "Date", "Total"]
        text = lines_of(see("heapmap", "--pid", process.pid))
        assert text[0].startswith(f"process {process.pid}: ")
        result = see("explain", "--pid", process.pid, "x + 1")
        assert result.stderr == ("pymem: of another process an address can be explained, "
                                 "as 0x7f...\n")


# replay

@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trace")
    (folder / "app.py").write_text(SCRIPT)
    result = run(BUILD / "python", folder / "app.py", environment=clean_environment(
        LD_PRELOAD=str(BUILD / "record.so"), PYMEM_TRACE=str(folder / "app.trace")))
    assert result.returncode == 0, result.stderr
    return folder / "app.trace"


def replayed(result):
    """{name: (held at most, at the end)}"""
    return {name.strip(): (int(most.replace(",", "")), int(end.replace(",", "")))
            for name, most, end in re.findall(r"^(.{16}) +([\d,]+) +([\d,]+) +[\d.]+%",
                                              result.stdout, re.M)}


def test_replay_on_geometries_and_allocators(trace, tmp_path):
    out = tmp_path / "replay.svg"
    result = see("replay", "-o", out, trace)
    first = lines_of(result)[0]
    asked = int(re.search(r"asked for: ([\d,]+) at the most", first)[1].replace(",", ""))
    rows = replayed(result)
    assert {"CPython 3.10", "classic", "2.5", "pymem", "glibc"} <= rows.keys()
    for name, (most, _) in rows.items():
        # mimalloc 3 begins with more.
        assert asked < most < (2 if name != "mimalloc" else 4) * asked, name
    svg = out.read_text()
    ElementTree.fromstring(svg)
    assert svg.count("<polyline") > 20


def encode(*calls):
    """A trace of (what, slot[, size])."""
    out = bytearray(b"pymemtr1")

    def put(number):
        while number > 127:
            out.append(number & 127 | 128)
            number >>= 7
        out.append(number)
    for what, slot, *size in calls:
        put(slot * 4 + "mfrc".index(what))
        for number in size:
            put(number)
    return bytes(out)


def simulated(data, geometry, folder):
    path = folder / "x.trace"
    path.write_bytes(data)
    code = (f"import sys; from pymem.replay import *\n"
            f"curve = simulate(open({str(path)!r}, 'rb').read(), 'x', "
            f"geometry_of({geometry!r}))\n"
            "print([tuple(s) for s in curve.samples])")
    result = run(BUILD / "python", "-c", code,
                 environment=clean_environment(PYTHONPATH=str(BUILD)))
    assert result.returncode == 0, result.stderr
    return eval(result.stdout)


def test_a_model_of_pools_and_arenas_can_be_counted_by_hand(tmp_path):
    """31 blocks of 512 bytes are a pool; 64 of those an arena; one empty one is kept."""
    pool, arena = 31, 31 * 64
    fill = [("m", i, 500) for i in range(2 * arena)]
    drop = [("f", i) for i in range(2 * arena)]
    samples = simulated(encode(*fill), "20:14", tmp_path)
    call, live, held, arenas, pools, bought = samples[-1]
    assert (call, live, held) == (2 * arena, 2 * arena * 500, 2 * 2**20)
    assert (arenas, pools, bought) == (2, 128, 2)
    assert simulated(encode(*fill, ("m", 9999, 1)), "20:14", tmp_path)[-1][3:] == (3, 129, 3)
    assert simulated(encode(*fill, *drop), "20:14", tmp_path)[-1][1:] == (
        0, 2**20, 1, 0, 2)
    # Half of a pool's blocks freed, in each pool: nothing comes back.
    half = [("f", i) for i in range(2 * arena) if i % pool < 15]
    assert simulated(encode(*fill, *half), "20:14", tmp_path)[-1][3:5] == (2, 128)
    # A large block is no arena's.
    assert simulated(encode(("c", 0, 513), ("r", 0, 100_000)), "20:14", tmp_path)[-1] == (
        2, 100_000, 100_000, 0, 0, 0)
    # 4 KiB pools of 256 KiB arenas hold 7 such blocks.
    assert simulated(encode(*fill[:448]), "classic", tmp_path)[-1][3:5] == (1, 64)
    assert simulated(encode(*fill[:449]), "classic", tmp_path)[-1][3:5] == (2, 65)


def test_realloc_in_a_model(tmp_path):
    """In place down to three quarters; else it moves to another class."""
    def pools(*calls):
        return simulated(encode(*calls), "20:14", tmp_path)[-1][1], \
            simulated(encode(*calls), "20:14", tmp_path)[-1][4]
    assert pools(("m", 0, 512), ("r", 0, 385)) == (385, 1)
    keep = ("m", 1, 512)
    assert pools(keep, ("m", 0, 512), ("r", 0, 385)) == (897, 1)
    assert pools(keep, ("m", 0, 512), ("r", 0, 384)) == (896, 2)
    assert pools(keep, ("m", 0, 400), ("r", 0, 512)) == (1024, 1)


def test_replay_says_what_is_wrong(trace, tmp_path):
    (tmp_path / "bad").write_bytes(b"nothing")
    result = see("replay", tmp_path / "bad")
    assert result.stderr == "pymem: this is no trace of record.so\n"
    (tmp_path / "bad").write_bytes(encode(("f", 3)))
    result = see("replay", tmp_path / "bad")
    assert "frees or resizes a block that is not there" in result.stderr
    (tmp_path / "bad").write_bytes(encode())
    assert "has no call" in see("replay", tmp_path / "bad").stderr
    assert "'x' is no geometry: " in see("replay", "--geometry", "x", trace).stderr
    assert "no such geometry" in see("replay", "--geometry", "12:14", trace).stderr
    assert "there is no allocator 'x' here; there are pymem" in see(
        "replay", "--allocators=x", trace).stderr
    rows = replayed(see("replay", "--geometry", "21:15:16", "--allocators=glibc", trace))
    assert set(rows) == {"21:15:16", "glibc"}


# Errors: one line each, and a status.

def test_a_png_without_matplotlib(trace, script, tmp_path):
    (tmp_path / "matplotlib.py").write_text("raise ImportError('not here')\n")
    for arguments in (["heapmap", "-o", tmp_path / "x.png", script],
                      ["replay", "--allocators=none", "-o", tmp_path / "x.png", trace]):
        result = run(BUILD / "python", "-m", "pymem", *arguments,
                     environment=clean_environment(PYTHONPATH=f"{tmp_path}:{BUILD}"))
        assert (result.returncode, result.stderr) == (
            1, "pymem: a PNG needs matplotlib (Debian: python3-matplotlib)\n")


@pytest.mark.parametrize("arguments, status, said", [
    ([], 2, "pymem: a command is needed: stats, heapmap, watch, explain, replay, flame"),
    (["nothing"], 2, "pymem: argument COMMAND: invalid choice: 'nothing'"),
    (["stats", "/no/file.py"], 1, "pymem: /no/file.py: no such file"),
    (["stats", "--pid", "4194305"], 1, "pymem: there is no process 4194305"),
    (["stats", "--pid", "x"], 2, "pymem stats: argument --pid: 'x' is no number over 0"),
    (["stats", "--pid", "1", __file__], 1, "pymem: stats takes a script or --pid, not both"),
    (["heapmap"], 1, "pymem: heapmap takes a script or --pid PID"),
    (["heapmap", "--every", "0", __file__], 2, "pymem heapmap: argument --every: '0' is no "
                                               "time over 0, as 60s, 5m, 1h or 200ms"),
    (["heapmap", "--every", "infm", __file__], 2, "pymem heapmap: argument --every: 'infm' is"),
    (["watch"], 1, "pymem: watch takes a PID or a program: SCRIPT, -m MODULE, -c CODE"),
    (["flame"], 1, "pymem: flame takes a program or a file: SCRIPT, -m MODULE, -c CODE, FILE of "),
    (["flame", "--frames", "65536", __file__], 2, "pymem flame: argument --frames: '65536' is no "
                                                  "number of frames, 1 to 65535"),
    (["attach", "--samples", "9" * 20, "1"], 2, "pymem attach: argument --samples: '9999"),
    (["flame", "-m"], 1, "pymem: -m takes a module and its arguments"),
    (["stats", "-c"], 1, "pymem: -c takes code and its arguments"),
    (["stats", "-m", "no_such.thing"], 1, "pymem: Error while finding module specification for "
                                          "'no_such.thing' (ModuleNotFoundError: No module"),
    (["heapmap", "--every", "9999999999", __file__], 2, "pymem heapmap: argument --every: '99999"),
    (["stats", "-m", "email"], 1, "pymem: No module named email.__main__; 'email' is a package"),
    (["watch", "4194305"], 1, "pymem: there is no process 4194305"),
    (["explain", "x y"], 1, "pymem: 'x y' can't be evaluated: SyntaxError"),
    (["explain", hex(2**64)], 1, "pymem: 0x10000000000000000 is no address"),
    (["replay", "/no/trace"], 1, "pymem: /no/trace: no such file"),
    (["flame", "/no/file.py"], 1, "pymem: /no/file.py: no such file"),
    (["flame", "-o", "/no/folder/x.svg", os.devnull], 1, "pymem: /no/folder/x.svg: No such"),
], ids=str)
def test_errors_are_one_line(arguments, status, said):
    result = see(*arguments)
    assert result.returncode == status, result.stderr
    assert result.stderr.startswith(said), result.stderr
    assert result.stderr.count("\n") == 1, result.stderr


@pytest.mark.parametrize("command", [["stats"], ["heapmap", __file__], ["watch", __file__],
                                     ["explain", "None"]], ids=lambda words: words[0])
def test_with_another_allocator_it_says_so(command):
    for runner, said in (([sys.executable], "pymem: this Python's memory is not pymem's"),
                         ([BUILD / "python-stock"], "pymem: this Python's memory is not")):
        result = see(*command, runner=runner)
        assert result.returncode == 1
        assert result.stderr.startswith(said) and result.stderr.count("\n") == 1
