"""Programs that misuse memory end as the table says, and attacks get nothing.

misuse/table.py and misuse/attacktable.py are the tables; the programs are C, and each case
is a separate process.
"""

import re
import runpy
import sys
from collections import Counter

import pytest

from conftest import BUILD, IS_64_BITS, TOP, run
from misuse.attacktable import ATTACKS
from misuse.subjects import (FOLDER, Subject, build_module, end_of, find_subjects, judge,
                             run_attacks, run_programs)
from misuse.table import GROUPS, LEGAL, PROGRAMS, WRITTEN_BEHIND

sys.path.insert(0, str(TOP / "Tools" / "bench"))
import bench_attacks  # noqa: E402

pytestmark = pytest.mark.skipif(not IS_64_BITS, reason="the programs know the records and the "
                                "addresses of 64 bits")
SUBJECTS = find_subjects(BUILD)
HARDENED = Subject("hardened", "pymem-preload.so", (str(BUILD / "pymem-run"), "--hardened"))
LINKED = Subject("linked", "", (), (("PYTHONMALLOC", "hardened"),))
GOES_ON = ("goes on", "reads nothing old")
RUNS = 20


@pytest.fixture(scope="module")
def module(tmp_path_factory):
    folder = tmp_path_factory.mktemp("misuse")
    build_module(folder)
    return folder


@pytest.fixture(scope="module")
def hardened(module):
    """{program: its ends}, of all cases."""
    return run_programs(HARDENED, sys.executable, module, PROGRAMS)


@pytest.fixture(scope="module")
def linked(module, python):
    """The same of a few cases."""
    return run_programs(LINKED, python, module, PROGRAMS, few=True)


def wrong_ends(program, cases, ends):
    """{case: how it ended}, of those that ended otherwise."""
    expected = "goes on" if program.end in GOES_ON else program.end
    assert len(cases) == len(ends) > 0
    return {" ".join(map(str, case)): (status, written) for case, (status, written)
            in zip(cases, ends) if end_of(status, written) != expected}


def names(programs):
    return [program.name for program in programs]


@pytest.mark.parametrize("program", PROGRAMS, ids=names(PROGRAMS))
def test_hardened(hardened, program):
    assert wrong_ends(program, program.cases(), hardened[program]) == {}


@pytest.mark.parametrize("program", PROGRAMS, ids=names(PROGRAMS))
def test_hardened_and_linked(linked, program):
    assert wrong_ends(program, program.few_cases(), linked[program]) == {}


@pytest.mark.parametrize("name", ["CPython", "glibc", "pymem"])
def test_what_is_legal_goes_on_everywhere(module, name):
    """Else the table would call something legal that is not."""
    results = run_programs(SUBJECTS[name], sys.executable, module, LEGAL, few=True)
    for program, ends in results.items():
        assert wrong_ends(program, program.few_cases(), ends) == {}


def test_debug_hooks_see_the_writes(module):
    """The programs write where they say they do."""
    programs = [program for program in WRITTEN_BEHIND
                if not program.name.endswith(("_before", "_pages"))]
    results = run_programs(SUBJECTS["debug hooks"], sys.executable, module, programs, few=True)
    for program, ends in results.items():
        for status, written in ends:
            assert judge(program, status, written) == "stopped", program.name
            assert "bad trailing pad byte" in written, program.name


def test_each_program_is_in_the_table():
    assert len(set(names(PROGRAMS))) == len(PROGRAMS) > 100
    in_c = [name for file in ("frees.c", "writes.c", "legal.c") for name in re.findall(
        r'^    \{"(\w+)", \w+\},$', (FOLDER / file).read_text(), re.M)]
    assert sorted(in_c) == sorted(names(PROGRAMS))


def test_each_attack_is_in_the_table():
    in_c = re.findall(r'^    \{"(\w+)", \w+\},$', (FOLDER / "attacks.c").read_text(), re.M)
    assert sorted(in_c) == sorted(names(ATTACKS)) and len(in_c) >= 22


def test_the_build_may_be_this_folder(monkeypatch):
    """As make says it: a program without a folder is looked for elsewhere."""
    monkeypatch.chdir(BUILD)
    assert find_subjects(".")["hardened"].command[0] == str(BUILD.resolve() / "pymem-run")


@pytest.fixture(scope="module")
def attacked(module):
    return run_attacks(HARDENED, sys.executable, module, ATTACKS, RUNS)


CERTAIN = [attack for attack in ATTACKS if attack.never]


@pytest.mark.parametrize("attack", CERTAIN, ids=names(CERTAIN))
def test_attacks_get_nothing(attacked, attack):
    for size in attack.sizes:
        ends = attacked[attack, size]
        assert ends["got it"] == ends["hung"] == 0 and sum(ends.values()) == RUNS, (
            size, ends)


@pytest.mark.once
def test_each_attack_gets_what_it_wants_elsewhere(module):
    """One that never does would say nothing of the hardened mode.  A newer C library may stop
    what another one lets through."""
    results = [run_attacks(SUBJECTS[name], sys.executable, module, ATTACKS, 4)
               for name in ("CPython", "glibc")]
    for attack in ATTACKS:
        assert any(of_one[attack, size]["got it"] for of_one in results
                   for size in attack.sizes), attack.name


@pytest.mark.parametrize("end, status, written, judged", [
    ("freed twice", -6, "x\nFatal Python error: _PyMem_Hardened: freed twice\n", "stopped"),
    ("freed twice", -6, "free(): double free detected in tcache 2\n", "stopped"),
    ("freed twice", -11, "Debug memory block at address p=0x1: API 'o'\n", "stopped"),
    ("freed twice", -11, "", "crashed"), ("SIGSEGV", -11, "", "stopped"),
    ("freed twice", 0, "", "unnoticed"), ("goes on", 0, "", "as it should"),
    ("goes on", -11, "", "unnoticed"), ("goes on", 0, "==1== Invalid read", "unnoticed"),
    ("reads nothing old", 3, "misuse: old contents were read", "unnoticed"),
    ("reads nothing old", 3, "==1== Invalid read of size 1", "stopped"),
    ("freed twice", 0, "==12== Invalid free() / delete", "stopped")])
def test_how_ends_are_judged(end, status, written, judged):
    assert judge(PROGRAMS[0]._replace(end=end), status, written) == judged


@pytest.mark.parametrize("got, text", [(0, "0"), (1, "<1"), (500, "50"), (999, ">99"),
                                       (1000, "100")])
def test_a_share_never_looks_like_none_or_all(got, text):
    assert bench_attacks.share({"got it": got, "stopped": 1000 - got}) == text


def test_the_pages_have_each_program_and_attack():
    """Tools/misuse-table writes them: after a change of a table it must run again."""
    text = (TOP / "Doc" / "misuse-results.rst").read_text()
    for title in GROUPS:
        assert f"**{title}**" in text
    for line in [*(program.does for program in PROGRAMS), *(each.does for each in ATTACKS)]:
        assert f"\n{line}  " in text, line


@pytest.mark.once
def test_the_table_of_attacks():
    result = run(sys.executable, TOP / "Tools" / "bench" / "bench_attacks.py",
                 f"--build={BUILD}", "--runs=1", "--allocators=CPython,glibc")
    rows = [line.split() for line in result.stdout.splitlines()]
    assert (result.returncode, rows[0][-2:]) == (0, ["CPython", "glibc"]), result.stderr
    assert ["*second", "free", "at", "once", "48", "100", "0"] in rows


@pytest.mark.parametrize("tool", ["bench/bench_attacks.py", "misuse-table"])
@pytest.mark.parametrize("option, complaint", [
    ("--runs=0", "--runs is at least 1"),
    ("--allocators=none", "unknown allocator 'none'; there are here: CPython, debug hooks")])
def test_wrong_options(tool, option, complaint):
    result = run(TOP / "Tools" / tool, f"--build={BUILD}", option)
    assert result.returncode == 2 and complaint in result.stderr


@pytest.mark.parametrize("counts, word", [
    ({"stopped": 3}, "yes"), ({"as it should": 3}, "yes"), ({"crashed": 3}, "crash"),
    ({"stopped": 1, "crashed": 2}, "yes/crash"), ({"unnoticed": 3}, "no"),
    ({"stopped": 1, "crashed": 1, "unnoticed": 1}, "2 of 3")])
def test_what_a_table_says_of_a_program(counts, word):
    tool = runpy.run_path(str(TOP / "Tools" / "misuse-table"))
    assert tool["word_for"](Counter(counts)) == word
