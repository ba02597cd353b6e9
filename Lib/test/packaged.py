"""What pip installs, for tests: the wheel of each CPython, and fresh environments.

A run of the tests builds the wheel of a version once, whichever file and worker of xdist asks
first: the others wait for it.
"""

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

from conftest import TOP, clean_environment, pythons

VERSION_OF = "import sys; print('%d.%d' % sys.version_info[:2])"
ODD_NAME = "it's, d\u00e9j\u00e0, here"         # of the sources, and of the environment


def call(*command, **options):
    return subprocess.run([str(word) for word in command], text=True, errors="replace",
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          **{"timeout": 300, "env": clean_environment(), **options})


def chosen():
    """{version: python}, of each version one that has headers: the oldest, the newest and the
    one that runs the tests; with PYMEM_PYTHONS=all each."""
    found = {}
    for python in pythons(3, 8):
        result = call(python, "-c", VERSION_OF + """
import os, sysconfig
print(os.path.exists(sysconfig.get_path('include') + '/Python.h'))""")
        version, has_headers = result.stdout.split()
        if has_headers == "True":
            found.setdefault(version, python)
    versions = sorted(found, key=lambda version: int(version[2:]))
    if os.environ.get("PYMEM_PYTHONS") != "all":
        running = "%d.%d" % sys.version_info[:2]
        versions = [v for v in versions if v in (versions[0], running, versions[-1])]
    return {version: found[version] for version in versions}


def backend(python, code, *arguments, **options):
    return call(python, "-c", "import sys; sys.path.insert(0, sys.argv[1])\n"
                "import pymembuild\n" + code, TOP / "Tools" / "package", *arguments,
                **options)


class Environment:
    def __init__(self, folder, version):
        self.folder, self.version = folder, version
        self.minor = int(version[2:])

    @classmethod
    def create(cls, version, python, folder):
        result = call(python, "-m", "venv", folder)
        assert result.returncode == 0, result.stdout + result.stderr
        return cls(folder, version)

    @property
    def packages(self):
        return self.folder / "lib" / f"python{self.version}" / "site-packages"

    def bin(self, name):
        return self.folder / "bin" / name

    def listing(self):
        return sorted(str(path.relative_to(self.folder)) for path in self.folder.rglob("*")
                      if "__pycache__" not in path.parts)

    def run(self, *command, **options):
        result = call(self.bin(command[0]), *command[1:], cwd=self.folder.parent, **options)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    def python(self, code, *arguments, **variables):
        return self.run("python", "-c", code, *arguments,
                        env=clean_environment(**variables))

    def install(self, factory):
        wheel = wheel_of(self, factory)
        self.run("python", "-m", "pip", "install", "--no-index", "--no-deps", wheel)


def unpacked_distribution(folder):
    """Of the sources, as the running Python makes it."""
    folder = folder / ODD_NAME
    folder.mkdir()
    result = backend(sys.executable, "print(pymembuild.build_sdist(sys.argv[2]))", folder)
    archive = folder / result.stdout.strip()
    assert archive.is_file(), result.stderr
    shutil.unpack_archive(archive, folder)
    return folder / archive.name[:-len(".tar.gz")]


def wheel_of(environment, factory):
    """As its pip builds it; the running version's from the source distribution."""
    folder = Path(factory.getbasetemp())
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent                          # all workers have it
    folder = folder / f"wheel-{environment.version}"
    folder.mkdir(exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not list(folder.glob("*.whl")):
            is_running = environment.version == "%d.%d" % sys.version_info[:2]
            source = unpacked_distribution(folder) if is_running else TOP
            environment.run("python", "-m", "pip", "wheel", "--no-index", "--no-deps", "-w",
                            folder, source)
    return next(folder.glob("*.whl"))
