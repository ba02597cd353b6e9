"""What came with CPython 3.14: scripts that are sent to a process (PEP 768), and the JIT;
and what 3.14 broke.

The first two run on the linked python and under pymem-run, and must give
what stock gives.
"""

import re
import subprocess
import sys

import pytest

from conftest import BUILD, clean_environment, relinkable, run

MESSAGES = {     # what a python without them is skipped with
    "remote_exec": "CPython has sys.remote_exec since 3.14",
    "_jit": "CPython has sys._jit since 3.14"}


def needs(python, name):
    """Skip where the version of a python lacks sys.NAME."""
    if run(python, "-c", f"import sys; sys.{name}").returncode != 0:
        pytest.skip(MESSAGES[name])


@pytest.fixture(params=["linked", "pymem-run"])
def ours(request, products):
    """(command of a Python with pymem, command of the same without)"""
    if request.param == "linked":
        return [products / "python"], [products / "python-stock"]
    python = (sys.executable if products == BUILD
              else relinkable()[products.name.removeprefix("cpython-")])
    return [BUILD / "pymem-run", python], [python]


# PEP 768.

TARGET = """
import sys, time
assert not hasattr(sys, "told")
print("ready", flush=True)
end = time.monotonic() + 40
while not hasattr(sys, "told") and time.monotonic() < end:
    sum(range(1000))            # where a script may come in
print(sys.told)
kept = [bytes(300) for _ in range(20_000)]
print(len(kept), len(sys.kept))
"""
SCRIPT = """
import sys, tracemalloc
tracemalloc.start(3)
sys.kept = [bytes(100 + i % 400) for i in range(50_000)]
name = sys._getframe().f_code.co_filename
here = tracemalloc.Filter(True, name, lineno=4)
mine = tracemalloc.take_snapshot().filter_traces([here]).traces
sizes = [trace.size for trace in mine if 133 <= trace.size <= 532]
tracemalloc.stop()
sys.told = (len(sizes), sum(sizes), name)
"""
SENDER = "import sys; sys.remote_exec(int(sys.argv[1]), sys.argv[2])"
# PermissionError where ptrace is not allowed; RuntimeError where a process can't be read.
REFUSED = re.compile(r"^(PermissionError|RuntimeError|OSError)\b.*", re.MULTILINE)


def remote_exec(sender, target, script, **variables):
    """(what the target printed on both streams and ended with, or why it can't be)"""
    process = subprocess.Popen(
        [*map(str, target), "-c", TARGET], stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, env=clean_environment(**variables))
    try:
        assert process.stdout.readline() == "ready\n"
        sent = run(*sender, "-c", SENDER, process.pid, script)
        if sent.returncode != 0:
            reason = REFUSED.search(sent.stderr)
            assert reason, sent.stderr
            return None, reason[0]
        output, _ = process.communicate(timeout=50)
        return (output, process.returncode), None
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("variables", [{}, {"PYTHONTRACEMALLOC": "5"}])
def test_a_script_that_is_sent_allocates_and_traces(ours, tmp_path, variables):
    with_pymem, without = ours
    needs(without[0], "remote_exec")
    script = tmp_path / "sent.py"
    script.write_text(SCRIPT)
    expected, reason = remote_exec(without, without, script, **variables)
    if expected is None:
        pytest.skip(f"no script can be sent to a process here: {reason}")
    got, reason = remote_exec(without, with_pymem, script, **variables)
    assert reason is None
    assert got == expected
    assert got[0].startswith("(50000, ") and got[1] == 0


def test_a_script_is_sent_from_a_python_with_pymem(ours, tmp_path):
    with_pymem, without = ours
    needs(without[0], "remote_exec")
    script = tmp_path / "sent.py"
    script.write_text(SCRIPT)
    expected, reason = remote_exec(without, without, script)
    if expected is None:
        pytest.skip(f"no script can be sent to a process here: {reason}")
    assert remote_exec(with_pymem, with_pymem, script)[0] == expected


# The tracer: its names of files must not be objects of an interpreter.

ENDED = """
import tracemalloc
import _interpreters
tracemalloc.start(5)
for _ in range(20):
    interpreter = _interpreters.create("isolated")
    _interpreters.run_string(interpreter, '''if True:
        import collections, json
        left = [str(i) for i in range(1000)]
    ''')
    _interpreters.destroy(interpreter)
for _ in range(3):
    snapshot = tracemalloc.take_snapshot()
    assert snapshot.statistics("traceback")
print("fine")
"""


def test_traces_of_interpreters_that_have_ended(products):
    """Here CPython 3.14 crashes."""
    if run(products / "python", "-c", "import _interpreters").returncode != 0:
        pytest.skip("CPython has _interpreters since 3.13")
    result = run(products / "python", "-c", ENDED)
    assert (result.returncode, result.stdout, result.stderr) == (0, "fine\n", "")


# The JIT: its code allocates and frees by the functions that it was compiled with.

LOOPS = """
import sys, tracemalloc

def work(n):
    compiled, kept, longest = False, [], 0
    for i in range(n):
        pair = (i * 1.5, str(i), [i])
        kept.append(pair)
        longest = max(longest, len(pair[1]))
        if len(kept) == 1000:
            kept = kept[500:]
        compiled = compiled or sys._jit.is_active()
    return compiled, len(kept), longest, sum(pair[0] for pair in kept)

print(sys._jit.is_enabled(), work(100_000))
blocks = sys.getallocatedblocks()
print(work(100_000), sys.getallocatedblocks() - blocks < 300)
if not tracemalloc.is_tracing():
    tracemalloc.start(2)
kept = []
for i in range(30_000):
    kept.append(bytes(1000 + i % 9))
lines = [stat for stat in tracemalloc.take_snapshot().statistics("lineno")
         if stat.size > 1_000_000]
print([(stat.traceback[0].lineno, stat.count, stat.size) for stat in lines])
"""


@pytest.mark.parametrize("jit", ["1", "0"])
@pytest.mark.parametrize("variables", [
    {}, {"PYTHONTRACEMALLOC": "3"}, {"PYTHONMALLOC": "debug"}])
def test_compiled_loops(ours, tmp_path, variables, jit):
    with_pymem, without = ours
    needs(without[0], "_jit")
    if run(*without, "-c", "import sys; print(sys._jit.is_available())"
           ).stdout != "True\n":
        pytest.skip("this CPython was built without its JIT")
    script = tmp_path / "loops.py"
    script.write_text(LOOPS)
    stock = run(*without, script,
                environment=clean_environment(PYTHON_JIT=jit, **variables))
    if "PYTHONMALLOC" in variables and len(with_pymem) == 2:     # pymem-run refuses it
        with_pymem, variables = [with_pymem[0], "--debug", with_pymem[1]], {}
    got = run(*with_pymem, script,
              environment=clean_environment(PYTHON_JIT=jit, **variables))
    assert (stock.returncode, stock.stderr) == (0, "")
    is_on = str(jit == "1")
    assert stock.stdout.startswith(f"{is_on} ({is_on}, ")
    assert (got.returncode, got.stderr) == (0, "")
    assert got.stdout == stock.stdout
