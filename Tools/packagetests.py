"""The own tests of packages that Debian has, a file at a time, for Tools/regrtest.

PACKAGES says where each package's tests are and how they are run: by pytest, or as a suite
of unittest that a function of the file makes.  As a program it runs such a suite, in the
interpreter that is tested.  Calls apt-get for tests that Debian does not install.
"""

import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
import unittest
import xml.etree.ElementTree as ElementTree
from pathlib import Path

# name: the folder of its source with tests that are not installed, suites of unittest; None:
# they are installed, and pytest runs them
PACKAGES = {"numpy": None, "pandas": None, "lxml": "src/lxml"}
LISTS = Path("/etc/apt")


class Unavailable(Exception):
    pass


def output_of(*command, **options):
    try:
        return subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, **options).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        printed = getattr(error, "stdout", None) or str(error)
        raise Unavailable(f"{command[0]} failed: {printed.strip().splitlines()[-1]}") from error


def write_source_lists(folder):
    """What apt reads of this system, but for sources only."""
    for path in [LISTS / "sources.list", *(LISTS / "sources.list.d").glob("*")]:
        if path.suffix == ".sources":
            text = re.sub(r"^Types:.*", "Types: deb-src", path.read_text(), flags=re.MULTILINE)
        elif path.suffix == ".list" and path.exists():
            text = "".join(f"deb-src {line}\n" for line in re.findall(
                r"^deb (.*)", path.read_text(), re.MULTILINE))
        else:
            continue
        (folder / path.name).write_text(text)


def fetch_source(package, folder):
    """The source that an installed package was built from, in folder."""
    name, version = output_of("dpkg-query", "-W", "-f", "${source:Package} ${source:Version}",
                              package).split()
    kept = folder / f"{name}-{version}"
    if not kept.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            lists = Path(scratch) / "lists"
            (lists / "partial").mkdir(parents=True)
            write_source_lists(Path(scratch))
            apt = ["apt-get", "-q", "-o", "Dir::Etc::sourcelist=/dev/null",
                   "-o", f"Dir::Etc::sourceparts={scratch}", "-o", f"Dir::State::lists={lists}"]
            output_of(*apt, "update")
            output_of(*apt, "source", "--only-source", f"{name}={version}", cwd=scratch)
            next(path for path in Path(scratch).glob(f"{name}-*") if path.is_dir()).rename(kept)
    return kept


def junit_cases(path, with_class=False):
    """(test, how it ended), for each in a file of JUnit's format."""
    try:
        cases = ElementTree.parse(path).iter("testcase")
    except (OSError, ElementTree.ParseError):
        return []
    return [((case.get("classname", "") + "." if with_class else "")
             + case.get("name", "without name"),
             "skipped" if case.find("skipped") is not None
             else "failed" if case.find("failure") is not None
             or case.find("error") is not None else "passed") for case in cases]


class PackageTests:
    """The own tests of one package.  seconds: for one file."""

    seconds = 1800

    def __init__(self, package, python, folder, whole):
        part = PACKAGES[package]
        self.runner = "unittest" if part else "pytest"
        self.package = package
        self.title = f"{package}'s own tests"
        self.marks = [] if whole else ["-m", "not slow"]
        if part:
            self.source = fetch_source(f"python3-{package}", folder)
            self.top = self.source / part
        else:
            self.top = Path(output_of(
                *python, "-c", f"import {package}; print({package}.__path__[0])").strip())
        self.paths = {".".join(path.relative_to(self.top).with_suffix("").parts): path
                      for path in sorted(self.top.rglob("test_*.py"))
                      if "tests" in path.relative_to(self.top).parts}

    def names(self):
        return list(self.paths)

    def arguments(self, name, scratch):
        if self.runner == "unittest":
            return [__file__, self.source, self.top, f"{self.package}.{name}",
                    f"{scratch}/results.json"]
        Path(scratch, "pytest.ini").write_text("[pytest]\n")
        return ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", f"{scratch}/pytest.ini",
                *self.marks, f"--junit-xml={scratch}/junit.xml", self.paths[name]]

    def environment(self):
        return {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}

    def cases(self, scratch):
        """(test, how it ended), for each."""
        if self.runner == "pytest":
            return junit_cases(f"{scratch}/junit.xml", with_class=True)
        results = Path(scratch, "results.json")
        return json.loads(results.read_text()) if results.exists() else []

    def state(self, output, returncode, tests):
        """What became of a file: pytest ends with 2 to 4 where it can't be read, with 5
        where no test is in it."""
        if returncode in (1, 2, 3, 4):
            return "failed"
        if returncode not in (0, 5):
            return "timed out" if returncode == -9 else "crashed"
        return "passed" if any(state == "passed" for _, state, _ in tests) else "skipped"


class Noting(unittest.TextTestResult):
    """Each test's name and how it ended."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.ended = {}

    def stopTest(self, test):
        super().stopTest(test)
        self.ended.setdefault(test.id(), "passed")

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        self.ended[test.id()] = "skipped"

    def addFailure(self, test, error):
        super().addFailure(test, error)
        self.ended[test.id()] = "failed"

    def addError(self, test, error):
        super().addError(test, error)
        self.ended[test.id()] = "failed"


def run_suite(source, top, name, results):
    """The suite of a file, as a module of the installed package, whose folder has all but
    the tests; these start in the top folder of the source."""
    os.chdir(source)
    *parents, _, _ = name.split(".")
    for depth in range(len(parents)):
        package = importlib.import_module(".".join(parents[:depth + 1]))
        package.__path__.append(str(Path(top, *parents[1:depth + 1])))
    suite = importlib.import_module(name).test_suite()
    result = unittest.TextTestRunner(verbosity=2, resultclass=Noting).run(suite)
    Path(results).write_text(json.dumps(list(result.ended.items())))
    return 0 if result.wasSuccessful() else 1


if __name__ == "__main__":
    sys.exit(run_suite(*sys.argv[1:]))
