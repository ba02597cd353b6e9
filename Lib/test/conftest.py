"""What the tests share: the implementations, children, and where things are.

The build is taken from PYMEM_BUILD, or build/ at the top.  The tests run over our
library and over the CPython that runs them; Tools/check-oracle names others in
PYMEM_IMPLEMENTATIONS.

What depends on a version of CPython is tested with each that is found.  PYMEM_PYTHONS says
otherwise: "own", the one that runs the tests, and no other; "all", tests that are marked
few_pythons, too, which else run with that one and the newest; "older", those before 3.13, as
check.sh --systems has bare systems with the others.
"""

import ast
import fcntl
import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
from contextlib import contextmanager
from pathlib import Path

import pytest

from asked import Asked
from oracle_differences import reason_to_differ

TOP = Path(__file__).resolve().parent.parent.parent
BUILD = Path(os.environ.get("PYMEM_BUILD", TOP / "build")).resolve()
# Of the library, without what only one version of CPython needs.
C_SOURCES = [path for folder in ("Objects", "Python") for path in (TOP / folder).rglob("*.c")
             if path.parent.name != "abi"]
# Pools serve each size over 512 bytes from the first request on: what tests make is small.
os.environ.setdefault("PYMEM_MEDIUM", "pools")
sys.path.insert(0, str(BUILD))
sys.path.insert(1, str(TOP / "Lib"))
# A job in the background ignores Ctrl-C, and so would all programs that tests start.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

RAW, MEM, OBJ = range(3)
DOMAINS = [RAW, MEM, OBJ]
LETTERS = "rmo"
SSIZE_MAX = sys.maxsize
IS_64_BITS = SSIZE_MAX > 2**32
# CPython's geometry, which is another one where pointers have 32 bits.
ALIGNMENT, POOL_SIZE, POOL_OVERHEAD, ARENA_SIZE = (
    (16, 16 << 10, 48, 1 << 20) if IS_64_BITS else (8, 4 << 10, 32, 256 << 10))
SIZE_CLASSES = 512 // ALIGNMENT
# Of the Python that runs the tests, which is the one that build/ is linked from.
VERSION = "%d.%d" % sys.version_info[:2]
# Python code: name() is the name of the allocator; its module moved with 3.12.
ALLOCATOR_NAME = """
try:
    from _testcapi import pymem_getallocatorsname as name
except ImportError:
    from _testinternalcapi import pymem_getallocatorsname as name
"""


def clean_environment(**variables):
    """The environment without what would change an allocator.  PYTHON is no variable of
    an interpreter: it tells Tools/setup.sh which one the build is of, and without it
    try.sh would configure the build anew, for another, while tests use it."""
    environment = {name: value for name, value in os.environ.items()
                   if name == "PYTHON" or not name.startswith("PYTHON")}
    environment.update(variables)
    return environment


def run(*command, environment=None, **options):
    """The time-out is for what hangs: a busy machine may be many times slower."""
    return subprocess.run([str(word) for word in command], text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          errors="replace", timeout=300,
                          env=environment or clean_environment(), **options)


def compile_with_library(source, *options):
    """The program, beside its source."""
    program = source.with_suffix("")
    result = run("cc", *options, source, f"-I{TOP / 'Include'}", f"-I{BUILD}",
                 f"-L{BUILD / '.libs'}", "-lpymem", f"-Wl,-rpath,{BUILD / '.libs'}",
                 "-o", program)
    assert result.returncode == 0, result.stderr
    return program


def has_wasm():
    """A compiler for the playground."""
    return subprocess.run(["sh", "-c", "command -v wasm-ld clang && "
                           "test -e /usr/include/wasm32-wasi/stdio.h"],
                          stdout=subprocess.DEVNULL).returncode == 0


def make_playground():
    """In the build, for the pages; other workers of pytest want it, too."""
    with open(BUILD / "playground.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        made = run("make", "-s", "-C", BUILD, "playground")
        assert made.returncode == 0, made.stderr


def need_module(name, package):
    """Some modules of a distribution are for one of its Pythons only: there others find
    half of them, which pytest.importorskip() does not forgive."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        pytest.skip(f"needs {name} (Debian: {package}): {error}", allow_module_level=True)


needs_chromium = pytest.mark.skipif(
    shutil.which("chromium") is None or shutil.which("chromedriver") is None,
    reason="needs a browser (Debian: chromium chromium-driver)")


@contextmanager
def chromium(profile, **capabilities):
    """A driver of a browser that asks for nothing from elsewhere; profile is its folder."""
    webdriver = need_module("selenium.webdriver", "python3-selenium")
    from selenium.webdriver.chrome.service import Service
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for argument in ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
                     "--no-first-run", "--disable-background-networking",
                     "--disable-component-update", "--disable-sync",
                     "--window-size=1400,1000", "--force-device-scale-factor=1",
                     f"--user-data-dir={profile}"):
        options.add_argument(argument)
    for name, value in capabilities.items():
        options.set_capability(f"goog:{name}", value)
    driver = webdriver.Chrome(service=Service(shutil.which("chromedriver")), options=options)
    try:
        yield driver
    finally:
        driver.quit()


def masked(text):
    """What two interpreters print, without addresses and (3.14 and later) the name of
    the thread, which is the program's."""
    text = re.sub(r"0x[0-9a-f]{6,}", "0x...", text)
    return re.sub(r"(?<=hread 0x\.\.\.) \[[^]\n]*\]", "", text)


def embed_flags():
    """What a program that embeds this Python is compiled with."""
    return [f"-I{sysconfig.get_path('include')}", f"-lpython{VERSION}"]


def first_difference(data, expected):
    """Where they differ, or None.  (pytest explains why long bytes are not equal by
    lines of both, and takes minutes for it where the variable CI is set.)"""
    if data == expected:
        return None
    return next((i for i, (got, right) in enumerate(zip(data, expected))
                 if got != right), min(len(data), len(expected)))


class Implementation:
    """A module that drives one implementation, and the Python it is for."""

    def __init__(self, python, folder, module):
        self.python, self.folder, self.module = python, folder, module


# Others as {name: [python, folder, module]}.
IMPLEMENTATIONS = {
    "ours": Implementation(sys.executable, BUILD, "_testpymem"),
    "cpython": Implementation(sys.executable, BUILD, "_testcpython")}
if "PYMEM_IMPLEMENTATIONS" in os.environ:
    IMPLEMENTATIONS = {
        name: Implementation(*fields) for name, fields
        in json.loads(os.environ["PYMEM_IMPLEMENTATIONS"]).items()}


def pythons(*oldest):
    """This Python and others here, of a version on."""
    found = [sys.executable] if sys.version_info >= oldest else []
    for path in sorted((Path.home() / ".pyenv" / "versions").glob("*/bin/python")):
        version = re.match(r"(\d+)\.(\d+)\.", path.parts[-3])
        if version and tuple(map(int, version.groups())) >= oldest:
            found.append(str(path))
    return found


def relinkable():
    """{version: python} of the CPythons here that have a static archive."""
    return {archive.stem.removeprefix("libpython"):
            archive.parents[3] / "bin" / archive.stem.removeprefix("lib")
            for folder in (Path("/usr"), *(Path.home() / ".pyenv" / "versions").glob("3.*"))
            for archive in sorted(folder.glob(
                "lib/python3.1[0-5]/config-*/libpython3.1?.a"))}


@pytest.fixture(scope="session", params=[
    "build", *(version for version in sorted(relinkable()) if version != VERSION)])
def products(request):
    """The folder of a python with our objects and a python-stock, of each version
    that can be made here: build/, and those whose static archives are found."""
    if request.param == "build":
        if not (BUILD / "python-stock").exists():
            pytest.skip("build/python is not there: run Tools/relink")
        return BUILD
    folder = BUILD / f"cpython-{request.param}"
    result = run(TOP / "Tools" / "relink", f"--build={BUILD}", f"--products={folder}",
                 f"--with-python={relinkable()[request.param]}")
    assert result.returncode == 0, result.stderr
    return folder


@pytest.fixture
def stock(products):
    return products / "python-stock"


class Missing(Exception):
    """The implementation does not provide a function that a test asks for."""


def pytest_addoption(parser):
    parser.addoption("--results", metavar="FILE", help="write what became of each "
                     "test as JSON: {test: {implementation: {outcome: reasons}}}")


def tested_implementation(item):
    callspec = getattr(item, "callspec", None)
    return callspec and (callspec.params.get("implementation")
                         or callspec.params.get("oracle"))


results = {}


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    name = tested_implementation(item)
    if name and (report.when == "call" or report.outcome != "passed"):
        outcome, reason = report.outcome, getattr(report, "wasxfail", "")
        if reason:
            outcome = "xfailed"
        elif outcome == "skipped":
            reason = report.longrepr[2].removeprefix("Skipped: ")
        reasons = results.setdefault(item.originalname, {}).setdefault(
            name, {}).setdefault(outcome, [])
        if reason not in reasons:
            reasons.append(reason)


def pytest_sessionfinish(session):
    path = session.config.getoption("results")
    if path:
        Path(path).write_text(json.dumps(results))


VERSION_IN_NAME = re.compile(r"(?:^|[-/])(3\.\d+)(?:\.\d+)?(?:$|/)")


def other_version(item):
    """(3, 12), of the CPython that a test has as a parameter; None: this one."""
    for value in getattr(item, "callspec", None) and item.callspec.params.values() or ():
        found = VERSION_IN_NAME.search(value) if isinstance(value, str) else None
        if found and found[1] != VERSION:
            return tuple(map(int, found[1].split(".")))
    return None


def deselect_pythons(config, items):
    which = os.environ.get("PYMEM_PYTHONS", "few")
    if which not in ("own", "older", "few", "all"):
        raise pytest.UsageError(f"PYMEM_PYTHONS is own, older, few or all, not {which!r}")
    versions = [other_version(item) for item in items]
    newest = max(filter(None, versions), default=None)
    chosen, others = [], []
    for item, version in zip(items, versions):
        few = item.get_closest_marker("few_pythons") is not None
        is_chosen = (version is None or which == "all"
                     or which == "few" and (version == newest or not few)
                     or which == "older" and version < (3, 13) and not few)
        (chosen if is_chosen else others).append(item)
    config.hook.pytest_deselected(items=others)
    items[:] = chosen


def pytest_configure(config):
    config.addinivalue_line("markers", "once: says nothing about one more system or version "
                            "of CPython: check.sh --quick and --python leave it out")
    config.addinivalue_line("markers", "few_pythons: what the system does with memory, the "
                            "same in each version: see PYMEM_PYTHONS in conftest.py; "
                            "check.sh --python leaves it out")


def pytest_collection_modifyitems(config, items):
    """Where another implementation is known to differ it must, and is told why.  It
    may also wait for ever: PyPy, for its own lock."""
    deselect_pythons(config, items)
    for item in items:
        name = tested_implementation(item)
        reason = name and reason_to_differ(item.originalname, name,
                                           item.callspec.params)
        if reason:
            item.add_marker(pytest.mark.xfail(
                raises=(AssertionError, subprocess.TimeoutExpired), strict=True,
                reason=reason))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call(item):
    """A function that is missing is a reason to skip, not a fault."""
    outcome = yield
    if outcome.excinfo and issubclass(outcome.excinfo[0],
                                      (Missing, NotImplementedError)):
        try:
            pytest.skip(f"not provided: {outcome.excinfo[1]}")
        except pytest.skip.Exception as skipped:
            if hasattr(outcome, "force_exception"):     # pluggy 1.1 and later
                outcome.force_exception(skipped)
            else:
                outcome._excinfo = sys.exc_info()


class Remote:
    """The module of an implementation in a process of its own Python."""

    def __init__(self, implementation):
        self.implementation = implementation
        self.process = None

    def __getattr__(self, function):
        return lambda *args: self.call(function, args)

    def call(self, function, args):
        if self.process is None:
            self.process = subprocess.Popen(
                [self.implementation.python, Path(__file__).parent / "oracle_server.py",
                 self.implementation.folder, self.implementation.module],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                env=clean_environment())
        self.process.stdin.write(repr((function, args)) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            process, self.process = self.process, None
            raise AssertionError(f"{function}{args} ended the process with "
                                 f"{process.wait()}")
        error, result = ast.literal_eval(answer)
        if error == "NotImplementedError":
            raise Missing(result)
        if error:
            raise TypeError(f"{error}: {result}")
        return result


@pytest.fixture(params=list(IMPLEMENTATIONS), scope="session")
def implementation(request):
    """Its name: "ours", "cpython", or one that Tools/check-oracle found."""
    return request.param


@pytest.fixture(params=[name for name in IMPLEMENTATIONS if name != "ours"])
def oracle(request):
    """A child of another implementation, to compare ours with."""
    return Child(request.param)


@pytest.fixture(scope="session")
def driver(implementation):
    chosen = IMPLEMENTATIONS[implementation]
    if "PYMEM_IMPLEMENTATIONS" in os.environ:
        return Remote(chosen)
    return importlib.import_module(chosen.module)


@pytest.fixture
def api(driver):
    """The module that drives one implementation; hooks are taken off after."""
    driver.take_calls()
    yield Asked(driver)
    for domain in DOMAINS:
        driver.unhook(domain)


class Child:
    """Runs code on an implementation in a separate process."""

    def __init__(self, implementation):
        self.implementation = implementation

    def run(self, code, **variables):
        chosen = IMPLEMENTATIONS[self.implementation]
        code = f"import sys, {chosen.module} as api\n{code}"
        path = os.pathsep.join(map(str, [chosen.folder, TOP / "Lib", TOP / "Lib" / "test"]))
        result = run(chosen.python, "-c", code, environment=clean_environment(
            PYTHONPATH=path, **variables))
        missing = re.search(r"^NotImplementedError: (.*)", result.stderr, re.M)
        if missing:
            raise Missing(missing[1])
        return result

    def keeps(self, promise, *domain, **variables):
        """A promise of pymem.conformance, as "group.name"; it raises what is broken."""
        group, name = promise.split(".")
        result = self.run(f"from asked import Asked\nfrom pymem.conformance import {group}\n"
                          f"{group}.{name}({', '.join(map(str, ['Asked(api)', *domain]))})",
                          **variables)
        assert result.returncode == 0, result.stderr

    def fatal(self, code, **variables):
        """What was written to stderr, up to the fatal error, addresses
        masked.  What a host adds of its own after that is not compared."""
        result = self.run(code, **variables)
        assert result.returncode == -6, (result.returncode, result.stderr)
        text = masked(result.stderr)
        match = re.search(r"Fatal Python error: .*\n", text)
        assert match, text
        return text[:match.end()]


@pytest.fixture
def child(implementation):
    return Child(implementation)


@pytest.fixture(scope="session")
def python():
    """The Python that is linked with our memory subsystem."""
    path = BUILD / "python"
    assert path.exists(), f"{path} is missing: run Tools/relink"
    return path
