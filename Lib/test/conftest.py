"""What the tests share: the implementations, children, and where things are.

The build is taken from PYMEM_BUILD, or build/ at the top.
"""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parent.parent.parent
BUILD = Path(os.environ.get("PYMEM_BUILD", TOP / "build")).resolve()
sys.path.insert(0, str(BUILD))

IMPLEMENTATIONS = {"ours": "_testpymem", "cpython": "_testcpython"}

RAW, MEM, OBJ = range(3)
DOMAINS = [RAW, MEM, OBJ]
LETTERS = "rmo"
SSIZE_MAX = sys.maxsize


def clean_environment(**variables):
    """The environment without what would change an allocator."""
    environment = {name: value for name, value in os.environ.items()
                   if not name.startswith("PYTHON")}
    environment.update(variables)
    return environment


def run(*command, environment=None, **options):
    return subprocess.run([str(word) for word in command], text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          errors="replace", timeout=60,
                          env=environment or clean_environment(), **options)


@pytest.fixture(params=list(IMPLEMENTATIONS), scope="session")
def implementation(request):
    """"ours" or "cpython"."""
    return request.param


@pytest.fixture
def api(implementation):
    """The module that drives one implementation; hooks are taken off after."""
    module = importlib.import_module(IMPLEMENTATIONS[implementation])
    module.take_calls()
    yield module
    for domain in DOMAINS:
        module.unhook(domain)


class Child:
    """Runs code on an implementation in a process of its own."""

    def __init__(self, implementation):
        self.implementation = implementation

    def run(self, code, **variables):
        name = IMPLEMENTATIONS[self.implementation]
        code = f"import sys, {name} as api\n{code}"
        return run(sys.executable, "-c", code, environment=clean_environment(
            PYTHONPATH=str(BUILD), **variables))

    def fatal(self, code, **variables):
        """What was written to stderr, up to the fatal error, addresses
        masked.  What a host adds of its own after that is not compared."""
        result = self.run(code, **variables)
        assert result.returncode == -6, (result.returncode, result.stderr)
        text = re.sub(r"0x[0-9a-f]{6,}", "0x...", result.stderr)
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
