"""What can be tested: a shared object, or a Python.  Starts its children."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from pymem import beside

HERE = Path(__file__).resolve().parent
SOURCES = ["driver.c", "load.c"]
OLDEST = (3, 8)
PREFIXES = ["", "je_", "mi_", "tc_"]        # of malloc, calloc, realloc and free
DOMAIN_NAMES = ["raw", "mem", "object"]
# Libraries that keep data of threads in the table made at the start; glibc leaves room.
STATIC_TLS = "glibc.rtld.optional_static_tls=65536"


class CannotTest(Exception):
    """One line that says why, and what to do."""


def ready_driver():
    """The driver that was built with the package."""
    path = beside("_pymemconformance.so")
    # Of a source tree it may be older than what it is made of.
    is_old = path is not None and (HERE.parent.parent / "test").is_dir() and any(
        path.stat().st_mtime < (HERE / name).stat().st_mtime for name in SOURCES)
    return None if is_old else path


def build_driver(folder):
    """Its path, or None where there is neither a driver nor a C compiler."""
    ready = ready_driver()
    if ready is not None:
        return ready
    compiler = shlex.split(os.environ.get("CC", "cc"))
    if shutil.which(compiler[0]) is None:
        return None
    path = Path(folder) / "driver.so"
    command = [*compiler, "-O1", "-w", "-fPIC", "-shared", "-pthread", "-o", path,
               *(HERE / name for name in SOURCES)]
    done = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        lines = done.stdout.strip().splitlines() or ["without a reason"]
        raise CannotTest(f"the driver does not compile: {lines[-1]} (CC names the compiler)")
    return path


def clean_environment():
    """What would change an allocator is left out; a loader's paths stay, as an interpreter
    may need them, and so does what pymem-run sets."""
    environment = {name: value for name, value in os.environ.items()
                   if not name.startswith("PYTHON")}
    tunables = environment.get("GLIBC_TUNABLES")
    environment["GLIBC_TUNABLES"] = f"{tunables}:{STATIC_TLS}" if tunables else STATIC_TLS
    return environment


class Ended:
    """How a child ended: its answer, or none; its status; what it wrote."""

    def __init__(self, answer, status, text):
        self.answer, self.status, self.text = answer, status, text

    def reason(self):
        lines = [line for line in self.text.strip().splitlines() if line.strip()]
        last = f": {lines[-1].strip()[:200]}" if lines else ""
        if self.status is None:
            return "it did not end in time" + last
        if self.status < 0:
            name = signal.Signals(-self.status).name
            return f"the process ended by {name}{last}"
        return f"the process ended with status {self.status}{last}"


class Subject:
    """One that is tested.  request: what a child is told beside the promise."""

    def __init__(self, title, python, request, environment=None):
        self.title, self.python, self.request = title, python, request
        self.environment = environment or {}
        self.facts = {}

    def run(self, request, environment=None, seconds=60):
        """Ended, of a child that is asked."""
        read, write = os.pipe()
        with tempfile.TemporaryFile() as output, os.fdopen(read, "rb") as answers:
            variables = {**clean_environment(), **self.environment, **(environment or {})}
            try:
                process = subprocess.Popen(
                    [self.python, "-S", "-s", "-B", str(HERE / "child.py"), str(write),
                     json.dumps({**self.request, **request})], stdin=subprocess.DEVNULL,
                    stdout=output, stderr=output, pass_fds=[write], env=variables,
                    start_new_session=True, cwd="/")
            except OSError as error:
                raise CannotTest(f"{self.python}: {error.strerror}") from None
            finally:
                os.close(write)
            try:
                status = process.wait(seconds)
            except subprocess.TimeoutExpired:
                status = None
            # Also what the child started, and left.
            kill_session(process)
            output.seek(0)
            text = output.read().decode("utf-8", "replace")
            data = answers.read() if status is not None else b""
        return Ended(json.loads(data) if data else None, status, text)

    def ask_facts(self):
        ended = self.run({})
        answer = ended.answer
        if answer is None:
            raise CannotTest(f"{self.title}: {ended.reason()}")
        if answer.get("result") == "cannot":
            raise CannotTest(f"{self.title} can't be loaded: {answer['detail']}")
        self.facts = answer
        return answer


def kill_session(process):
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


class LibrarySubject(Subject):
    """Functions of a shared object, called from this Python."""
    is_library = True

    def __init__(self, path, driver, prefix=None):
        super().__init__(str(path), sys.executable, {
            "driver": driver and str(driver), "library": os.path.abspath(path)})
        for tried in PREFIXES if prefix is None else [prefix]:
            self.request["prefix"] = tried
            if self.load()["domains"]:
                break
        else:
            raise CannotTest(f"{path} exports neither malloc, calloc, realloc and free nor "
                             "those of PyMem_ (--prefix=NAME where theirs begins with one)")
        is_malloc = "PyMem_RawMalloc" not in exported_names(path)
        self.domain_names = [tried + "malloc" if is_malloc else "raw", *DOMAIN_NAMES[1:]]

    def load(self):
        """The facts; a library that can't come later is loaded before all others."""
        try:
            return self.ask_facts()
        except CannotTest as error:
            if "static TLS" not in str(error) or self.environment:
                raise
            self.environment["LD_PRELOAD"] = self.request["library"]
            return self.ask_facts()


def exported_names(path):
    from pymem.elf import symbols
    found = symbols(str(path))
    return found.addresses if found else {}


class PythonSubject(Subject):
    """An interpreter, in separate children."""
    is_library = False
    domain_names = DOMAIN_NAMES

    def __init__(self, python, driver):
        super().__init__(str(python), str(python), {"driver": driver and str(driver)})
        facts = self.ask_facts()
        if tuple(facts["version"]) < OLDEST:
            raise CannotTest(f"{python} is older than 3.8")
        self.title = f"{facts['implementation']} {facts['release']} ({python})"
        if facts["free_threaded"]:
            self.title += ", free-threaded"


def find_subject(what, driver, prefix=None):
    if what is None:
        return PythonSubject(sys.executable, driver)
    path = Path(what)
    if ".so" in path.name:
        if not path.exists():
            raise CannotTest(f"{what}: no such file")
        return LibrarySubject(path, driver, prefix)
    python = shutil.which(what)
    if python is None:
        raise CannotTest(f"{what} is neither a shared object nor a program that can be run")
    oldest = "import sys; print(sys.version_info >= (3, 8))"
    try:
        done = subprocess.run([python, "-S", "-c", oldest], stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL,
                              timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotTest(f"{what} can't be run: {error}") from None
    if done.stdout.strip() == b"False":
        raise CannotTest(f"{what} is older than 3.8")
    if done.stdout.strip() != b"True":
        raise CannotTest(f"{what} is no Python")
    # A child has another folder.  Links stay: a virtual environment is found by one.
    return PythonSubject(os.path.abspath(python), driver)
