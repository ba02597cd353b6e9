"""PYTHON_PYMALLOC_HUGEPAGES: the same values mean the same as in CPython 3.15."""

import json
import sys
from pathlib import Path

import pytest

from conftest import BUILD, clean_environment, run

ON = ["1", "2", "-1", " 1", "1 ", "+1", "0x1", "0 ", "yes", "1.5", "9" * 20]
OFF = ["", "0", "00", "-0", " 0"]
PROGRAM = """
import json, re, sys
kept = [bytes(400) for _ in range(50_000)]
advised = "VmFlags:.* hg( |$)"
regions = open("/proc/self/smaps").read()
try:
    from _testinternalcapi import get_configs
    believed = get_configs()["config"].get("pymalloc_hugepages")
except ImportError:
    believed = None
print(json.dumps([bool(re.search(advised, regions, re.MULTILINE)), believed]))
"""


def huge_pages(python, *options, value):
    """(are there some, what the interpreter's configuration says or None)"""
    result = run(*python, *options, "-c", PROGRAM,
                 environment=clean_environment(PYTHON_PYMALLOC_HUGEPAGES=value))
    assert (result.returncode, result.stderr) == (0, "")
    return tuple(json.loads(result.stdout))


@pytest.fixture(autouse=True)
def a_kernel_that_has_them():
    path = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not path.exists():
        pytest.skip("this kernel has no transparent huge pages")


@pytest.mark.parametrize("value", ON + OFF)
def test_a_value_means_what_it_means_in_3_15(products, value):
    are_there, believed = huge_pages([products / "python"], value=value)
    assert are_there == (value in ON)
    assert believed in (None, are_there)    # None before 3.15


@pytest.mark.parametrize("option", ["-E", "-I"])
def test_the_variable_is_ignored_with_the_others(products, option):
    assert not huge_pages([products / "python"], option, value="1")[0]


@pytest.mark.parametrize("value, expected", [("1", True), ("yes", True), ("0", False)])
def test_under_pymem_run(value, expected):
    if sys.version_info >= (3, 15) and not expected:
        pytest.skip("3.15 asks for huge pages itself, for all that it maps")
    assert huge_pages([BUILD / "pymem-run", sys.executable],
                      value=value)[0] == expected
