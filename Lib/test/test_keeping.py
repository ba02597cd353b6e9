"""What may be kept: pymem.trim(), PYMEM_KEEP and pymem-run --keep, linked and under
pymem-run.  Objects/keeping.c has its own tests in check_keeping.c."""

import sys

import pytest

from conftest import BUILD, clean_environment, pythons, run

pytestmark = pytest.mark.few_pythons

PYMEM_RUN = BUILD / "pymem-run"
SERVED = {"linked": [BUILD / "python"],
          **{f"run-{path.split('/')[-3]}": [PYMEM_RUN, path] for path in pythons(3, 8)}}

RESIDENT = """
import os
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20
"""


@pytest.fixture(params=SERVED)
def served(request):
    return SERVED[request.param]


def run_code(command, code, **variables):
    result = run(*command, "-c", RESIDENT + code,
                 environment=clean_environment(PYTHONPATH=str(BUILD), **variables))
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_trim(served):
    """Free pools of arenas in use, and pages between blocks: nothing else is left."""
    run_code(served, """
import pymem
pymem.trim()
before = resident()
kept = [(i, i) for i in range(600_000)]
peak = resident()
del kept[::100], kept[5::7]
few = kept[::1000]
del kept
nbytes = pymem.trim()
assert nbytes > 2**20, nbytes
assert peak - before > 40
assert resident() - before < (peak - before) * 0.5, (before, peak, resident())
assert all(pair == (pair[0], pair[0]) for pair in few)
assert pymem.trim() < 2**16
""")


def test_trim_where_pymem_does_not_serve():
    result = run(sys.executable, "-c", "import pymem; pymem.trim()",
                 environment=clean_environment(PYTHONPATH=str(BUILD)))
    assert result.returncode == 1
    assert "this Python's memory is not pymem's; run it as build/python" in result.stderr


PEAKS = """
before = resident()
for i in range(2):
    kept = [(i, i) for i in range(500_000)]
    del kept
print(resident() - before)
"""


@pytest.mark.parametrize("size, least, most", [
    ("0", -1, 8), ("64M", 20, 70), ("1g", 30, 80), (None, 2, 14)])
def test_how_much_is_kept(served, size, least, most):
    variables = {} if size is None else {"PYMEM_KEEP": size}
    assert least < float(run_code(served, PEAKS, **variables)) < most


def test_the_option():
    command = [PYMEM_RUN, "--keep=64M", sys.executable]
    assert 20 < float(run_code(command, PEAKS)) < 70
    command = [PYMEM_RUN, "--keep=0", sys.executable]
    assert float(run_code(command, PEAKS, PYMEM_KEEP="64M")) < 8


@pytest.mark.parametrize("size", ["", "much", "16MB", "-1", "99999999999G"])
def test_what_is_no_size(size):
    text = f'a number of bytes, perhaps with K, M or G behind it, not "{size}"\n'
    result = run(PYMEM_RUN, f"--keep={size}", sys.executable, "-c", "pass")
    assert (result.returncode, result.stderr) == (
        125, f"pymem-run: --keep takes {text}")
    if size == "":
        return                  # as if it were not set
    variables = clean_environment(PYMEM_KEEP=size)
    result = run(PYMEM_RUN, sys.executable, "-c", "pass", environment=variables)
    assert (result.returncode, result.stderr) == (
        126, f"pymem-run: PYMEM_KEEP is {text}")
    result = run(BUILD / "python", "-c", "pass", environment=variables)
    assert result.returncode == -6
    assert f"PYMEM_KEEP is {text}" in result.stderr


@pytest.mark.parametrize("size", [1000, 3000, 20_000])
@pytest.mark.parametrize("who", ["itself", "main", "another"])
def test_a_thread_that_waits_after_a_peak(served, who, size):
    """128 MiB of blocks over 512 bytes, which are the thread's that asked for them; they
    are freed, and from then on nothing is called."""
    run_code(served, f"""
import threading
who, size = {who!r}, {size}
blocks, may_free, are_free, end = [], *(threading.Event() for _ in range(3))
made = threading.Event()
def work():
    blocks.extend(bytes(size) for _ in range(2**27 // size))
    made.set()
    if who == "itself":
        may_free.wait()
        blocks.clear()
        are_free.set()
    end.wait()
before = resident()
thread = threading.Thread(target=work)
thread.start()
made.wait()
assert resident() - before > 120
may_free.set()
if who == "main":
    blocks.clear()
elif who == "another":
    another = threading.Thread(target=blocks.clear)
    another.start()
    another.join()
else:
    are_free.wait()
after = resident()
assert after - before < 16 + 0.05 * 128, (before, after)
end.set()
thread.join()
""")
