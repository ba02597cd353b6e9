"""Under a filter of system calls: where one is refused a program runs as on stock, and
where it would be killed for one it runs with nothing but mmap and munmap.
"""

import errno
import platform
import sys

import pytest

from conftest import BUILD, clean_environment, run

pytestmark = pytest.mark.few_pythons

KILL = 0x80000000
# What an interpreter's own memory takes no part in, by its number on x86-64.
CALLS = {"madvise": 28, "mincore": 27, "sched_yield": 24, "prctl": 157, "getrusage": 98,
         "getrlimit": 97, "prlimit64": 302, "gettid": 186}
# Of the C library too, for the stacks of threads.
MPROTECT = 10

SCRIPT = """
import ctypes, struct, sys, threading
action, numbers = int(sys.argv[1]), [int(number) for number in sys.argv[2:]]
libc = ctypes.CDLL(None)
rules = [(0x20, 0, 0, 0)]
for number in numbers:
    rules += [(0x15, 0, 1, number), (0x06, 0, 0, action)]
rules.append((0x06, 0, 0, 0x7fff0000))
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *rule) for rule in rules))
program = ctypes.create_string_buffer(
    struct.pack("H6xQ", len(rules), ctypes.addressof(code)))
zero = ctypes.c_ulong(0)
if (libc.prctl(38, ctypes.c_ulong(1), zero, zero, zero)
        or libc.prctl(22, ctypes.c_ulong(2), program, zero, zero)):
    print("no seccomp")
    raise SystemExit
for number in range(3):
    kept = [bytes(300) for _ in range(150_000)] + [bytearray(5000) for _ in range(2000)]
    del kept[::7]
    kept.clear()
threads = [threading.Thread(target=lambda: [bytes(300) for _ in range(20_000)])
           for _ in range(3)]
# The C library advises the system of the stacks of its threads.
if action != 0x80000000 and 10 not in numbers:
    for thread in threads: thread.start()
    for thread in threads: thread.join()
print("survived")
"""


def sandboxed(tmp_path, action, *command, calls=CALLS.values(), **variables):
    if platform.machine() != "x86_64":
        pytest.skip("the numbers of system calls here are x86-64's")
    (tmp_path / "script.py").write_text(SCRIPT)
    result = run(*command, tmp_path / "script.py", str(action),
                 *map(str, calls), environment=clean_environment(**variables))
    if result.stdout == "no seccomp\n":
        pytest.skip("this kernel has no seccomp")
    return result


@pytest.mark.parametrize("variables", [
    {}, {"PYTHONMALLOC": "debug"}, {"PYTHONTRACEMALLOC": "3"},
    {"PYTHON_PYMALLOC_HUGEPAGES": "1"}])
@pytest.mark.parametrize("error", [errno.EPERM, errno.ENOSYS, errno.EACCES])
def test_a_call_that_is_refused_is_done_without(products, tmp_path, error, variables):
    result = sandboxed(tmp_path, 0x50000 | error, products / "python", **variables)
    assert (result.returncode, result.stdout, result.stderr) == (0, "survived\n", "")


@pytest.mark.once
def test_each_call_is_refused_by_itself(products, tmp_path):
    for error in (errno.EPERM, errno.ENOSYS):
        for call in (*CALLS.values(), MPROTECT):
            result = sandboxed(tmp_path, 0x50000 | error, products / "python",
                               calls=[call], PYTHONTRACEMALLOC="3")
            assert (result.returncode, result.stdout, result.stderr) == (
                0, "survived\n", ""), (call, error)


def test_under_pymem_run(tmp_path):
    for error in (errno.EPERM, errno.ENOSYS):
        result = sandboxed(tmp_path, 0x50000 | error, BUILD / "pymem-run",
                           "--trim-interval=0.01", sys.executable)
        assert result.stdout == "survived\n"
    result = sandboxed(tmp_path, KILL, BUILD / "pymem-run", "--mmap-only",
                       sys.executable)
    assert result.stdout == "survived\n"


def test_stock_survives_where_it_is_killed_for_a_call(stock, tmp_path):
    """3.15's own allocator calls madvise; 3.14's and older do not."""
    calls = run(stock, "-c", "import sys; print(sys.version_info >= (3, 15))").stdout
    result = sandboxed(tmp_path, KILL, stock)
    assert (result.returncode, result.stdout) == (
        (-31, "") if calls == "True\n" else (0, "survived\n"))


@pytest.mark.parametrize("variables", [
    {}, {"PYTHONMALLOC": "debug"}, {"PYTHONTRACEMALLOC": "3"},
    {"PYTHON_PYMALLOC_HUGEPAGES": "1"}])
def test_where_a_call_is_deadly_a_variable_confines_us(products, tmp_path, variables):
    result = sandboxed(tmp_path, KILL, products / "python",
                       calls=[*CALLS.values(), MPROTECT],
                       PYTHON_PYMALLOC_MMAP_ONLY="1", **variables)
    assert (result.returncode, result.stdout, result.stderr) == (0, "survived\n", "")
    assert sandboxed(tmp_path, KILL, products / "python", **variables).returncode == -31


@pytest.mark.parametrize("options, value", [("-E", "1"), ("-I", "1"), ("-u", "0"),
                                            ("-u", ""), ("-u", " 00")])
def test_the_variable_is_read_as_the_interpreters_are(products, tmp_path, options, value):
    """Not where the environment is ignored, and not where it is the number 0."""
    assert sandboxed(tmp_path, KILL, products / "python", options,
                     PYTHON_PYMALLOC_MMAP_ONLY=value).returncode == -31


@pytest.mark.parametrize("option", [[], ["--trim-interval=1000"]])
@pytest.mark.parametrize("options, status", [("-E", -31), ("-I", -31), ("-u", 0)])
def test_the_variable_is_ignored_with_others_under_pymem_run(tmp_path, option, options,
                                                             status):
    """Also by what begins before the interpreter has read its options."""
    assert sandboxed(tmp_path, KILL, BUILD / "pymem-run", *option, sys.executable, options,
                     PYTHON_PYMALLOC_MMAP_ONLY="1").returncode == status


def test_a_text_that_is_no_number_is_on(products, tmp_path):
    assert sandboxed(tmp_path, KILL, products / "python",
                     PYTHON_PYMALLOC_MMAP_ONLY="yes").stdout == "survived\n"
