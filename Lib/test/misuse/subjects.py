"""The allocators that programs run under, the processes that run them, and how those end.

A subject is a command before the Python and an environment; check_subject() makes sure
that the allocator that was asked for is the one that served.
"""

import json
import os
import re
import shutil
import subprocess
import sysconfig
import tempfile
from pathlib import Path
from typing import NamedTuple, Optional

from pymem.allocators import find_library

FOLDER = Path(__file__).resolve().parent
SOURCES = ["places.c", "frees.c", "writes.c", "legal.c", "attacks.c", "module.c"]
PYTHON = "/usr/bin/python3"     # that the module is compiled for; pyenv's is a script
FLAGS = ["-O1", "-g", "-Wall", "-Wextra", "-shared", "-fPIC", "-pthread"]


class Subject(NamedTuple):
    name: str
    library: str                # of its file name, which the process must have; or ""
    command: tuple = ()
    environment: tuple = ()     # pairs
    package: Optional[str] = None       # of Debian, where no library tells it
    is_checker: bool = False    # slow, and reports where others stop


class SubjectFailed(Exception):
    """What was wrong, and what the process wrote."""


def build_module(folder):
    """_misuse for the Python that runs this."""
    flags = [*FLAGS, f"-I{sysconfig.get_path('include')}"]
    result = subprocess.run(
        ["cc", *flags, *[str(FOLDER / name) for name in SOURCES],
         "-o", str(Path(folder) / "_misuse.so")],
        text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if result.returncode != 0 or result.stdout:
        raise SubjectFailed(f"_misuse is not compiled: {result.stdout}")


MALLOCS = [                     # name, library
    ("mimalloc", ("libmimalloc.so.2", "libmimalloc.so.2.0", "libmimalloc.so.3")),
    ("jemalloc", ("libjemalloc.so.2",)),
    ("tcmalloc", ("libtcmalloc_minimal.so.4",)),
    ("hardened_malloc", ("libhardened_malloc.so",)),
]


def find_scudo():
    """The library of the newest clang, or None."""
    found = []
    for path in Path("/usr/lib").glob("llvm-*/lib/clang/*/lib/linux/"
                                      "libclang_rt.scudo_standalone-x86_64.so"):
        version = int(re.search(r"llvm-(\d+)", str(path))[1])
        found.append((version, str(path)))
    return max(found)[1] if found else None


def find_ours(run):
    """Of pymem-run, with the options that it has."""
    names = {"pymem": ("--raw",), "pymem debug": ("--raw", "--debug"),
             "hardened": ("--hardened",)}
    if not os.path.exists(run):
        return []
    usage = subprocess.run([run, "--help"], text=True, stdout=subprocess.PIPE).stdout
    return [Subject(name, "pymem-preload.so", (run, *options))
            for name, options in names.items() if options[-1] in usage]


def find_subjects(build):
    """{name: Subject}, those that are here; CPython's own first, pymem's last."""
    malloc = ("PYTHONMALLOC", "malloc")
    subjects = [Subject("CPython", ""), Subject("debug hooks", "", (), (
        ("PYTHONMALLOC", "debug"),)), Subject("glibc", "", (), (malloc,), "libc6")]
    libraries = [(name, find_library(*names)) for name, names in MALLOCS]
    libraries.append(("Scudo", find_scudo()))
    subjects += [Subject(name, os.path.basename(path), (), (malloc, ("LD_PRELOAD", path)))
                 for name, path in libraries if path]
    subjects += find_ours(str(Path(build).resolve() / "pymem-run"))
    if shutil.which("valgrind"):
        subjects.insert(3, Subject("Valgrind", "vgpreload_memcheck", (
            "valgrind", "-q", "--log-file={logs}/%p"), (malloc,), "valgrind", True))
    return {subject.name: subject for subject in subjects}


def choose_subjects(parser, build, names):
    """Those that are named, or all; the error of parser where one is not here."""
    found = find_subjects(build)
    chosen = names.split(",") if names else list(found)
    for name in chosen:
        if name not in found:
            parser.error(f"unknown allocator {name!r}; there are here: " + ", ".join(found))
    return {name: found[name] for name in chosen}


def clean_environment():
    return {name: value for name, value in os.environ.items()
            if not name.startswith(("PYTHON", "PYMEM", "LD_", "MALLOC_", "MIMALLOC_",
                                    "SCUDO_", "GLIBC_"))}


def run_cases(subject, python, module, kind, cases, **variables):
    """What became of each case, in its order."""
    environment = {**clean_environment(), **dict(subject.environment), **variables}
    with tempfile.TemporaryDirectory(prefix="pymem-misuse-") as logs:
        command = [word.format(logs=logs) for word in subject.command]
        result = subprocess.run(
            [*command, str(python), str(FOLDER / "child.py"), str(module), kind,
             *([logs] if subject.is_checker else [])],
            input=json.dumps(cases), text=True, env=environment, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE)
    lines = result.stdout.splitlines()
    if result.returncode != 0 or len(lines) != len(cases) + 1:
        raise SubjectFailed(f"under {subject.name} the Python ended with {result.returncode} "
                            f"after {len(lines) - 1} of {len(cases)} cases: "
                            f"{result.stderr[-2000:].strip()}")
    check_subject(subject, json.loads(lines[0]))
    return [json.loads(line) for line in lines[1:]]


def run_programs(subject, python, module, programs, few=False):
    """{program: [(status, written), ...]}, in the order of its cases."""
    few = few or subject.is_checker
    cases = {program: program.few_cases() if few else program.cases()
             for program in programs}
    results = {}
    for options in sorted({program.options for program in programs}):
        chosen = [program for program in programs if program.options == options]
        variables = {"PYMEM_HARDENED": options} if options else {}
        ends = iter(run_cases(subject, python, module, "programs", [
            case for program in chosen for case in cases[program]], **variables))
        results.update({program: [next(ends) for _ in cases[program]]
                        for program in chosen})
    return results


def run_attacks(subject, python, module, attacks, runs, domain="o"):
    """{(attack, size): {what became of it: runs}}"""
    chosen = [(attack, size) for attack in attacks for size in attack.sizes]
    return dict(zip(chosen, run_cases(subject, python, module, "attacks", [
        [attack.name, domain, size, runs] for attack, size in chosen])))


OTHERS = ("pymem-preload", "libjemalloc", "libmimalloc", "libtcmalloc", "libclang_rt",
          "libhardened", "vgpreload_memcheck")


def check_subject(subject, libraries):
    """The one that was asked for serves: what another one stops says nothing of it."""
    others = [name for name in libraries if name.startswith(OTHERS)]
    if len(others) != (subject.library != "") or not all(
            name.startswith(subject.library.split(".so")[0]) for name in others):
        raise SubjectFailed(f"under {subject.name} there is {others or 'no other allocator'}")


def end_of(status, written):
    """How a program ended, in the words of table.py, or others."""
    fatal = re.findall(r"^Fatal Python error: (?:_PyMem_Hardened: )?(.*)$", written, re.M)
    reported = re.search(r"^==\d+== (Invalid .*)", written, re.M)
    if status == -6 and fatal:
        return fatal[-1]
    if reported:
        return reported[1]
    if status == 0:
        return "goes on"
    if status == -11:
        return "SIGSEGV"
    first = written.strip().splitlines()[0] if written.strip() else ""
    return f"ended with {status}: {first}"


def judge(program, status, written):
    """"stopped" with a message, or by the processor where that is how it is to end;
    "crashed"; "unnoticed".  Of what must not be stopped: "as it should", or not."""
    end = end_of(status, written)
    if program.end in ("goes on", "reads nothing old") and end == "goes on":
        return "as it should"
    if end.startswith("Invalid "):
        return "unnoticed" if program.end == "goes on" else "stopped"
    if program.end in ("goes on", "reads nothing old"):
        return "unnoticed"
    if end == program.end or (status == -6 and written):
        return "stopped"
    if "Debug memory block at" in written:      # CPython's hooks may crash as they print it
        return "stopped"
    return "crashed" if status < 0 else "unnoticed"
