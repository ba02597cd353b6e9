"""Web servers of Debian's packages under an allocator: start, load, measure, stop.

A server runs two workers of serverapp.py on a port of the loopback interface.  It is
loaded with equal requests, then it idles, then it gets a few small requests.  Every
request is a separate connection, as a proxy makes them, so that each worker gets its
share.
"""

import http.client
import json
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from bench import TOP
from pymem.allocators import find_library

FOLDER = Path(__file__).resolve().parent
PYTHON = "/usr/bin/python3"     # that Debian's servers are for
WORKERS = 2
CONNECTIONS = 8
FEWEST_ANSWERS = 5              # of a worker: the heap of one request says little
SMALL_REQUESTS, SMALL_SECONDS = 140, 2.0
UWSGI_PLUGIN = Path("/usr/lib/uwsgi/plugins/python3_plugin.so")


class ServerFailed(Exception):
    """What happened, and what the server wrote."""


class Server(NamedTuple):
    packages: tuple             # Debian's
    arguments: tuple            # {port} is the port


def gunicorn(*arguments, package=None):
    return Server(("gunicorn",) + ((package,) if package else ()), (
        "gunicorn", f"--workers={WORKERS}", "--bind=127.0.0.1:{port}", *arguments,
        "serverapp:application"))


def uwsgi(*arguments):
    return Server(("uwsgi-core", "uwsgi-plugin-python3"), (
        "uwsgi-core", "--plugin=python3", "--http-socket=127.0.0.1:{port}", "--master",
        f"--processes={WORKERS}", "--die-on-term", "--need-app", "--disable-logging",
        *arguments, "--module=serverapp:application"))


# gunicorn forks its workers, with the application loaded (preload) or not; uwsgi forks
# with it loaded, but for --lazy-apps; uvicorn starts its workers anew.
SERVERS = {
    "gunicorn-sync": gunicorn(),
    "gunicorn-preload": gunicorn("--preload"),
    "gunicorn-threads": gunicorn("--worker-class=gthread", "--threads=4"),
    "gunicorn-gevent": gunicorn("--worker-class=gevent", package="python3-gevent"),
    "uvicorn": Server(("uvicorn",), (
        "uvicorn", f"--workers={WORKERS}", "--host=127.0.0.1", "--port={port}",
        "--lifespan=off", "--no-access-log", "serverapp:asgi")),
    "uwsgi": uwsgi(),
    "uwsgi-threads": uwsgi("--lazy-apps", "--threads=4"),
}


def is_there(package):
    if package == "python3-gevent":
        return subprocess.run([PYTHON, "-c", "import gevent"],
                              stderr=subprocess.DEVNULL).returncode == 0
    if package == "uwsgi-plugin-python3":
        return UWSGI_PLUGIN.exists()
    return shutil.which(package) is not None


def missing_packages(server):
    return [package for package in server.packages if not is_there(package)]


# Allocators: what is put before the command and into the environment.

class Allocator(NamedTuple):
    name: str
    library: str                # of its file name, which the process must have; or ""
    command: tuple = ()
    environment: tuple = ()     # pairs


def find_allocators(build):
    """{name: Allocator}, those that are here."""
    found = [Allocator("stock", ""),
             Allocator("pymem-run", "pymem-preload", (str(build / "pymem-run"),))]
    for name, *libraries in (("jemalloc", "libjemalloc.so.2"),
                             ("mimalloc", "libmimalloc.so.2", "libmimalloc.so.2.0")):
        path = find_library(*libraries)
        if path is not None:
            found.append(Allocator(name, "lib" + name, (), (
                ("PYTHONMALLOC", "malloc"), ("LD_PRELOAD", path))))
    return {allocator.name: allocator for allocator in found}


def choose_allocators(parser, found, only):
    """Of those found the ones that --only names; all where it names none."""
    chosen = only.split(",") if only else list(found)
    for name in chosen:
        if name not in found:
            parser.error(f"unknown allocator {name!r}; there are here: " + ", ".join(found))
    return {name: found[name] for name in chosen}


def libpython_of_uwsgi():
    """Of the plugin; uwsgi itself is not linked with it."""
    result = subprocess.run(["ldd", UWSGI_PLUGIN], text=True, stdout=subprocess.PIPE)
    for line in result.stdout.splitlines():
        words = line.split()
        if words and words[0].startswith("libpython3"):
            return words[2]
    raise ServerFailed(f"{UWSGI_PLUGIN} is not linked with a libpython3")


def embed_early(command, environment, folder):
    """uwsgi loads its libpython when it reads its options.  pymem-run wants an
    interpreter when the process begins: the same libpython is loaded before, and a
    script of the shell leads to uwsgi, as pymem-run refuses a program without one."""
    script = Path(folder) / "uwsgi-with-libpython"
    script.write_text('#!/bin/sh\nexec uwsgi-core "$@"\n')
    script.chmod(0o700)
    environment["LD_PRELOAD"] = libpython_of_uwsgi()
    return [str(script), *command[1:]]


def environment_of(allocator):
    """Without what would change an allocator or a server."""
    environment = {
        name: value for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "PYMEM", "LD_", "MALLOC_", "MIMALLOC_",
                                "GUNICORN_", "UWSGI_"))}
    environment.update(allocator.environment)
    return environment


# Requests.

def ask(port, path):
    """(the worker that answered, the answer)"""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read()
        if response.status != 200:
            raise ServerFailed(f"{path} was answered with {response.status}")
        return int(response.headers["Worker"]), body
    finally:
        connection.close()


def load(port, seconds):
    """Counter of the answers of each worker."""
    answers, failures = Counter(), []
    end = time.monotonic() + seconds

    def ask_again():
        try:
            while time.monotonic() < end:
                answers[ask(port, "/")[0]] += 1     # under the GIL
        except Exception as error:
            failures.append(error)
    threads = [threading.Thread(target=ask_again) for _ in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise ServerFailed(f"a request failed: {failures[0]!r}")
    return answers


def ask_small_requests(port):
    """As many as SMALL_REQUESTS, spread over SMALL_SECONDS; Counter of the answers."""
    answers = Counter()
    start = time.monotonic()
    for number in range(1, SMALL_REQUESTS + 1):
        answers[ask(port, "/small")[0]] += 1
        time.sleep(max(0, start + number * SMALL_SECONDS / SMALL_REQUESTS
                       - time.monotonic()))
    return answers


# Figures of a process.

def memory_of(pid):
    """MB, of a million bytes.  LazyFree is in Rss, until the kernel wants it."""
    fields = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, kib = line.split()[:2]
        fields[name.rstrip(":")] = int(kib) * 1024 / 1e6
    return {"rss": fields["Rss"], "pss": fields["Pss"],
            "private": fields["Private_Clean"] + fields["Private_Dirty"],
            "lazy": fields["LazyFree"]}


def peak_of(pid):
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise ServerFailed(f"worker {pid} is gone")


def processor_time_of(pid):
    """Seconds; the fields 14 and 15 count behind the name, which may hold spaces."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# A run.

def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Running:
    """A server that runs, as a context.  A fault ends in ServerFailed."""

    def __init__(self, name, allocator):
        self.allocator = allocator
        self.folder = tempfile.TemporaryDirectory(prefix="pymem-servers-")
        self.port = free_port()
        self.workers = set()
        environment = environment_of(allocator)
        command = [word.format(port=self.port) for word in SERVERS[name].arguments]
        if command[0] == "uwsgi-core" and allocator.name == "pymem-run":
            command = embed_early(command, environment, self.folder.name)
        self.log = Path(self.folder.name) / "log"
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                [*allocator.command, *command], env=environment, cwd=FOLDER,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def __enter__(self):
        try:
            self.wait()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_):
        self.stop()

    def fail(self, what):
        raise ServerFailed(f"{what}; it wrote:\n{self.log.read_text()[-2000:]}")

    def wait(self):
        """Until every worker has answered."""
        end = time.monotonic() + 20
        while len(self.workers) < WORKERS:
            if self.process.poll() is not None:
                self.fail(f"the server ended with {self.process.returncode}")
            if time.monotonic() > end:
                self.fail(f"{len(self.workers)} of {WORKERS} workers answered in 20 s")
            try:
                ask(self.port, "/small")
            except ConnectionError:
                time.sleep(0.05)
                continue
            self.workers |= set(load(self.port, 0.1))

    def stop(self):
        """The server by its process; workers that outlive it by theirs."""
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            for pid in self.workers:
                try:
                    os.kill(pid, 9)
                except ProcessLookupError:
                    pass
        self.folder.cleanup()

    def load(self, seconds):
        """Counter of the answers; longer where one worker took all the work."""
        answers = load(self.port, seconds)
        end = time.monotonic() + 20
        while min(answers[pid] for pid in self.workers) < FEWEST_ANSWERS:
            if time.monotonic() > end:
                self.fail(f"a worker got no work in 20 s: {dict(answers)}")
            answers += load(self.port, 0.5)
        if set(answers) != self.workers:
            self.fail(f"a worker of {self.workers} was replaced: {dict(answers)}")
        return answers

    def processor_time(self):
        return sum(map(processor_time_of, self.workers))

    def memory(self):
        """Of the worker that holds most."""
        return max(map(memory_of, self.workers), key=lambda memory: memory["rss"])

    def check_allocator(self):
        """The one that was asked for serves: a figure of another would be false."""
        told = json.loads(ask(self.port, "/allocator")[1])
        libraries = told["libraries"]
        is_own = told["blocks"] > 1000
        if (is_own != (self.allocator.library == "")
                or len(libraries) != (not is_own)
                or not all(name.startswith(self.allocator.library) for name in libraries)):
            self.fail(f"under {self.allocator.name} the interpreter's own allocator has "
                      f"{told['blocks']} blocks, and there is {libraries or 'no other'}")


def run_server(name, allocator, load_seconds, idle_seconds):
    """The figures of one run, in MB of the worker that holds most, and seconds."""
    with Running(name, allocator) as server:
        before = server.processor_time()
        answers = server.load(load_seconds)
        spent = server.processor_time() - before
        time.sleep(idle_seconds)
        idle = server.memory()
        small = ask_small_requests(server.port)
        later = server.memory()
        peak = max(map(peak_of, server.workers))
        server.check_allocator()
    return {"peak": peak, "idle": idle, "later": later,
            "requests": answers.total(),
            "fewest_small": min(small[pid] for pid in server.workers),
            "processor": spent * 1000 / answers.total()}
