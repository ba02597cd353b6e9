"""Where the system puts memory: upwards from below, as with a stack that has no limit, or
downwards; at random or not; and whether it promises more memory than there is.

Arenas are asked for below each other, so upwards each of them is a second question.
"""

import resource
import subprocess
import sys

import pytest

from conftest import BUILD, clean_environment, run

pytestmark = pytest.mark.once

ADDR_NO_RANDOMIZE, ADDR_COMPAT_LAYOUT = 0x0040000, 0x0200000
LAYOUTS = {
    "not at random": (["setarch", "-R"], ADDR_NO_RANDOMIZE),
    "upwards": (["setarch", "-L"], ADDR_COMPAT_LAYOUT),
    "upwards, not at random": (["setarch", "-R", "-L"],
                               ADDR_NO_RANDOMIZE | ADDR_COMPAT_LAYOUT),
    "a stack without a limit": (["prlimit", "--stack=unlimited"], 0),
}

# Peaks of small, medium and large blocks, each with another pattern, here and in a thread.
SCRIPT = """
import resource, sys, threading
def peak():
    kept = [[bytes([i % 251]) * size for i in range(count)]
            for size, count in ((40, 150_000), (300, 20_000), (3000, 5_000), (1 << 20, 16))]
    for blocks in kept:
        assert all(block == bytes([i % 251]) * len(block) for i, block in enumerate(blocks))
for _ in range(3):
    peak()
thread = threading.Thread(target=peak)
thread.start()
thread.join()
print(int(open("/proc/self/personality").read(), 16),
      resource.getrlimit(resource.RLIMIT_STACK)[0])
"""


@pytest.fixture(params=LAYOUTS)
def layout(request):
    """A command before the program's, and the bits of personality(2) that it has then."""
    command, bits = LAYOUTS[request.param]
    if subprocess.run([*command, "true"], stderr=subprocess.DEVNULL).returncode != 0:
        pytest.skip(f"the system refuses it: {' '.join(command)}")
    return command, bits


def check_layout(output, bits):
    personality, stack = map(int, output.split())
    assert personality & (ADDR_NO_RANDOMIZE | ADDR_COMPAT_LAYOUT) == bits
    assert bits or stack == resource.RLIM_INFINITY


@pytest.mark.parametrize("python", [[BUILD / "python"], [BUILD / "pymem-run", sys.executable]],
                         ids=["linked", "pymem-run"])
def test_peaks_come_and_go_in_each_layout(layout, python):
    if not (BUILD / "python").exists():
        pytest.skip("build/python is not there: run Tools/relink")
    command, bits = layout
    result = run(*command, *python, "-c", SCRIPT)
    assert result.returncode == 0, result.stderr
    check_layout(result.stdout, bits)


@pytest.fixture(scope="module")
def contract():
    result = run("make", "-s", "-C", BUILD, "contract")
    assert result.returncode == 0, result.stderr
    return BUILD / "contract"


@pytest.mark.parametrize("allocator", ["default", "debug", "hardened"])
def test_the_contract_holds_in_each_layout(layout, allocator, contract):
    result = run(*layout[0], contract,
                 environment=clean_environment(PYTHONMALLOC=allocator))
    assert result.returncode == 0, result.stdout + result.stderr
