"""Tools/bench/compare-memray: its programs hold memory where it says, and what it prints.

memray itself is not in each system that these tests run in.
"""

import importlib.machinery
import importlib.util
import json
import sys

import pytest

from conftest import BUILD, TOP, clean_environment, run

PROGRAM = TOP / "Tools" / "bench" / "compare-memray"
sys.path.insert(0, str(PROGRAM.parent))
loader = importlib.machinery.SourceFileLoader("compare_memray", str(PROGRAM))
compare = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
loader.exec_module(compare)

pytestmark = pytest.mark.once


@pytest.mark.parametrize("name", ["serve_requests", "build_graph"])
def test_the_answer_of_pymem_is_found(name, tmp_path):
    """As the comparison looks for it: of the file that track wrote."""
    environment = clean_environment(PYTHONPATH=str(BUILD))
    result = run(BUILD / "python", "-m", "pymem", "track", "-o", "found",
                 PROGRAM.parent / "holders.py", name, cwd=tmp_path, environment=environment)
    assert result.returncode == 0, result.stderr
    text = run(BUILD / "python", "-m", "pymem", "report", "--peak", "found", cwd=tmp_path,
               environment=environment).stdout
    assert compare.row_of(compare.PROGRAMS[name], text.splitlines()[6:]) == 1, text


def test_the_application_leaks_what_it_says():
    code = ("import sys; sys.path.insert(0, sys.argv[1])\nimport holders\n"
            "bodies = [holders.leaky({}, print)[0] for _ in range(5)]\n"
            "print(len(holders.cache), {len(body) for body in bodies})")
    result = run(sys.executable, "-c", code, PROGRAM.parent)
    assert result.stdout.splitlines()[-1] == "5 {2000}"


def test_a_row_is_found_by_the_whole_name():
    rows = ["│ load_records_of at x │", "│ load_records at /a.py │"]
    assert compare.row_of("load_records", rows) == 2
    assert compare.row_of("records", rows) is None


def test_what_is_printed_is_of_the_medians():
    plain = {"seconds": 2.0, "memory": 100 << 20}
    runs = [{"seconds": seconds, "memory": 130 << 20, "file": 2048, "seen": 3 << 20,
             "row": row, "page seconds": 1.0, "page memory": 50 << 20, "page": 1024}
            for seconds, row in ((9.0, None), (3.0, 1), (4.0, 2))]
    lines = list(compare.report({"app": {"as it is": compare.medians([plain]),
                                         "pymem track": compare.medians(runs)}}))
    assert lines[1] == "app: 2.00 s, 100.0 MiB"
    assert lines[2].split() == ["pymem", "track", "2.00", "30.0", "2", "3.0", "2", "1.0", "50", "1"]
    assert json.dumps(compare.medians([{"row": None}])) == f'{{"row": {compare.ROWS + 1}}}'


def test_a_system_without_memray_is_told_how():
    for words, said in ((["--only=nothing"], "no program has that in its name"),
                        (["--python=/bin/false"], "compare-memray: /bin/false has no memray")):
        result = run(sys.executable, PROGRAM, *words)
        assert result.returncode != 0 and said in result.stderr, result.stderr
    text = run(sys.executable, PROGRAM, "--help").stdout
    assert "Tools/in-debian trixie" in text
