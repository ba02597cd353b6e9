"""Modules/hashes/_opensslhashes.c and _blake2.c: the five modules of hash functions.

They are for the archives of CPython 3.14 and 3.15 that lack functions.  Here they are
compiled as extension modules for the Python that runs the tests, and compared with
this Python's own modules.
"""

import array
import ctypes
import gc
import importlib
import importlib.machinery
import importlib.util
import inspect
import itertools
import os
import pickle
import random
import shlex
import shutil
import subprocess
import sys
import sysconfig
import threading
import time
import warnings
from pathlib import Path

import pytest

from conftest import TOP, run

VERSION = sys.version_info[:2]
MODULES = ["_md5", "_sha1", "_sha2", "_sha3", "_blake2"]
SOURCES = ["_hashes.c", "_opensslhashes.c", "_blake2.c"]
CONSTRUCTORS = {
    "_md5": ["md5"], "_sha1": ["sha1"],
    "_sha2": ["sha224", "sha256", "sha384", "sha512"],
    "_sha3": ["sha3_224", "sha3_256", "sha3_384", "sha3_512", "shake_128", "shake_256"],
    "_blake2": ["blake2b", "blake2s"]}
NAMES = [(module, name) for module in MODULES for name in CONSTRUCTORS[module]]
INCLUDE = Path(sysconfig.get_path("include"))
COMPILER = shlex.split(sysconfig.get_config_var("CC") or "cc")[0]


def reason_to_skip():
    if VERSION not in [(3, 14), (3, 15)]:
        return "these modules are for CPython 3.14 and 3.15"
    if not (INCLUDE / "Python.h").exists():
        return f"the headers of this Python are not in {INCLUDE}"
    if shutil.which(COMPILER) is None:
        return f"there is no compiler {COMPILER}"
    for library in ("libcrypto.so.3", "libb2.so.1"):
        try:
            ctypes.CDLL(library)
        except OSError:
            return f"there is no {library}"
    return None


if reason_to_skip() is not None:
    pytest.skip(reason_to_skip(), allow_module_level=True)


def compile_library(output, *sources):
    result = run(COMPILER, "-O2", "-g", "-fPIC", "-fvisibility=hidden", "-shared",
                 "-Wall", "-Wextra", "-Wshadow", "-Wstrict-prototypes", "-Werror",
                 f"-I{INCLUDE}", *sources, "-o", output)
    assert result.returncode == 0, result.stderr
    return output


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    return compile_library(tmp_path_factory.mktemp("hashes") / "hashes.so",
                           *(TOP / "Modules" / "hashes" / source for source in SOURCES))


def load(name, path):
    """The module from an extension of any file name."""
    loader = importlib.machinery.ExtensionFileLoader(name, path)
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


# For other processes and interpreters.
LOAD = "import importlib.machinery, importlib.util\n" + inspect.getsource(load)


class Pair:
    """A constructor of ours, and the one of this Python."""

    def __init__(self, ours, stock, name):
        self.ours, self.stock = getattr(ours, name), getattr(stock, name)
        self.name = name
        self.length = (24,) if name.startswith("shake") else ()

    def same(self, args, kwargs):
        assert (outcome(lambda: self.ours(*args, **kwargs))
                == outcome(lambda: self.stock(*args, **kwargs)))


@pytest.fixture(params=NAMES, ids=[name for _, name in NAMES])
def pair(request, library):
    module, name = request.param
    return Pair(load(module, str(library)), importlib.import_module(module), name)


@pytest.fixture(params=["blake2b", "blake2s"])
def blake2(request, library):
    return Pair(load("_blake2", str(library)), importlib.import_module("_blake2"),
                request.param)


@pytest.fixture(params=["shake_128", "shake_256"])
def shake(request, library):
    return Pair(load("_sha3", str(library)), importlib.import_module("_sha3"),
                request.param)


def outcome(function, *args):
    """What a call gives, without the identity of objects, and its warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result = function(*args)
        except BaseException as error:
            result = type(error), str(error)
    if hasattr(result, "hexdigest"):
        length = (24,) if result.digest_size == 0 else ()
        result = result.name, result.digest_size, result.hexdigest(*length)
    return result, [(w.category, str(w.message)) for w in caught]


# -- digests ------------------------------------------------------------------------

def sizes(block):
    around = [n * block + d for n in (1, 2, 3, 16) for d in (-1, 0, 1)]
    return [0, 1, 2, 55, 56, *around, 2047, 2048, 2049, 70_001]


def test_digests_are_the_same(pair):
    numbers = random.Random(1)
    for size in sizes(pair.stock().block_size):
        data = numbers.randbytes(size)
        ours, stock = pair.ours(data), pair.stock(data)
        for _ in range(2):      # the first leaves the object as it was
            assert ours.digest(*pair.length) == stock.digest(*pair.length)
            assert ours.hexdigest(*pair.length) == stock.hexdigest(*pair.length)


def test_updates_in_any_pieces(pair):
    numbers = random.Random(2)
    for _ in range(50):
        ours, stock = pair.ours(), pair.stock()
        for _ in range(numbers.randrange(12)):
            data = numbers.randbytes(int(numbers.expovariate(0.002)))
            assert ours.update(data) is None
            stock.update(data)
            if numbers.random() < 0.3:
                assert ours.digest(*pair.length) == stock.digest(*pair.length)
        assert ours.hexdigest(*pair.length) == stock.hexdigest(*pair.length)


def test_copies_go_their_own_way(pair):
    first = pair.ours(b"a" * 100)
    second = first.copy()
    assert type(second) is type(first) and second is not first
    before = first.digest(*pair.length)
    second.update(b"b" * 3000)
    assert first.digest(*pair.length) == before
    first.update(b"c")
    assert first.digest(*pair.length) == pair.stock(
        b"a" * 100 + b"c").digest(*pair.length)
    del first
    third = second.copy()
    assert third.digest(*pair.length) == pair.stock(
        b"a" * 100 + b"b" * 3000).digest(*pair.length)


@pytest.mark.parametrize("make", [bytearray, memoryview,
                                  lambda data: array.array("H", data),
                                  lambda data: memoryview(data).cast("B", (4, 25))])
def test_data_of_each_kind(pair, make):
    data = bytes(range(100))
    pair.same([make(data)], {})
    ours = pair.ours()
    ours.update(make(data))
    assert ours.digest(*pair.length) == pair.stock(data).digest(*pair.length)


def test_data_are_given_back(pair):
    data = bytearray(5000)
    ours = pair.ours(data)
    ours.update(data)
    outcome(lambda: pair.ours(data, string=data))
    data.append(1)              # BufferError if they were held


def test_data_of_many_bytes(pair):
    data = random.Random(3).randbytes(1 << 22)
    pair.same([data + b"1"], {})


# -- arguments ----------------------------------------------------------------------

class Untrue:
    def __bool__(self):
        raise KeyError("untrue")


class Index:
    def __init__(self, value):
        self.value = value

    def __index__(self):
        return self.value


class Text(str):
    pass


UNTRUE = Untrue()
CALLS = [
    ((), {}), ((b"x",), {}), ((), {"data": b"x"}), ((), {"string": b"x"}),
    ((None,), {}), ((), {"data": None}), ((), {"string": None}),
    ((b"x",), {"string": None}), ((), {"data": None, "string": None}),
    (("x",), {}), ((Text("x"),), {}), ((1,), {}), ((1.5,), {}), (([],), {}),
    ((), {"string": "x"}), ((), {"string": 3}),
    ((b"x", b"y"), {}), ((b"x", b"y", b"z"), {}), ((b"",) * 15, {}),
    ((b"x",), {"data": b"y"}), ((b"x",), {"string": b"y"}),
    ((), {"data": b"x", "string": b"y"}),
    ((b"x",), {"usedforsecurity": False}), ((b"x",), {"usedforsecurity": []}),
    ((b"x",), {"usedforsecurity": UNTRUE}), ((1,), {"usedforsecurity": UNTRUE}),
    ((b"x",), {"string": b"y", "usedforsecurity": UNTRUE}),
    ((b"x",), {"_": 1}), ((), {"_": 1}), ((b"x",), {"data": b"y", "_": 1}),
    ((), {"data": b"x", "string": b"y", "_": 1}), ((), {"dat": b"x"}),
    ((), {"usedforSecurity": True}), ((), {Text("data"): b"x"}),
    ((), {"d\udc80": b"x"}), ((), {"": b"x"}), ((), {1: 2}),
    ((b"x",), dict.fromkeys("abcdefghijklmn")), ((), dict.fromkeys("abcdefghijklmno")),
    ((b"x", b"y"), {"_": 1}), ((b"x", b"y"), {"data": b"x"}),
    ((memoryview(bytes(16))[::2],), {}), (((ctypes.c_int * 2 * 2)(),), {}),
]


@pytest.mark.parametrize("args, kwargs", CALLS)
def test_calls_are_understood_the_same(pair, args, kwargs):
    pair.same(args, kwargs)


@pytest.mark.parametrize("args", [(), (b"x",), (None,), ("x",), (1,), (b"x", b"y"),
                                  (memoryview(bytes(16))[::2],),
                                  ((ctypes.c_int * 2 * 2)(),)])
def test_update_takes_the_same(pair, args):
    assert outcome(pair.ours().update, *args) == outcome(pair.stock().update, *args)


@pytest.mark.parametrize("method", ["copy", "digest", "hexdigest", "update"])
@pytest.mark.parametrize("args, kwargs", [
    ((), {}), ((3,), {}), ((1, 2), {}), ((1, 2, 3), {}), ((), {"x": 1}),
    ((), {"length": 3}), ((), {"data": b""}), ((3,), {"length": 3}), ((3,), {"x": 1}),
    ((), {"length": 3, "x": 3})])
def test_methods_take_the_same(pair, method, args, kwargs):
    ours, stock = (getattr(make(b"x"), method) for make in (pair.ours, pair.stock))
    assert (outcome(lambda: ours(*args, **kwargs))
            == outcome(lambda: stock(*args, **kwargs)))


LENGTHS = [0, 1, 167, 168, 169, 5000, -1, -2**31, -2**63, -2**63 - 1, -2**70, 2**29,
           2**31, 2**32, 2**32 + 10, 2**63 - 1, 2**63, 2**64 - 10, 2**64, 2**70, 1.5,
           "1", None, True, Index(4), Index(-4), Index(2**70), Index("x")]


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("method", ["digest", "hexdigest"])
def test_shake_lengths(shake, method, length):
    assert (outcome(getattr(shake.ours(b"x"), method), length)
            == outcome(getattr(shake.stock(b"x"), method), length))


# -- parameters of blake2 -----------------------------------------------------------

WHOLE = ["digest_size", "fanout", "depth", "leaf_size", "node_offset", "node_depth",
         "inner_size"]
NUMBERS = [-1, 0, 1, 2, 8, 9, 16, 17, 31, 32, 33, 63, 64, 65, 255, 256, 2**31 - 1,
           2**31, 2**32 - 1, 2**32, 2**48 - 1, 2**48, 2**64 - 1, 2**64, 2**70, -2**31,
           -2**63, -2**70, 1.0, "1", None, True, Index(1), Index(-1), Index("x")]
TEXTS = [b"", b"a", b"a" * 8, b"a" * 9, b"a" * 16, b"a" * 17, b"a" * 32, b"a" * 33,
         b"a" * 64, b"a" * 65, "s", 1, None, bytearray(b"q"),
         memoryview(b"ab" * 4)[::2], memoryview(b"abcdefgh").cast("B", (2, 4))]


@pytest.mark.parametrize("name", WHOLE)
def test_each_whole_parameter(blake2, name):
    for value in NUMBERS:
        blake2.same([b"abc"], {name: value})


@pytest.mark.parametrize("name", ["key", "salt", "person"])
def test_each_parameter_of_bytes(blake2, name):
    for value in TEXTS:
        blake2.same([b"abc"], {name: value})


@pytest.mark.parametrize("name", ["last_node", "usedforsecurity"])
def test_each_truth(blake2, name):
    for value in [0, 1, 2, "", None, [], UNTRUE]:
        blake2.same([b"abc"], {name: value})


def random_parameters(numbers, large):
    size = 64 if large else 32
    choices = {
        "digest_size": lambda: numbers.randint(1, size),
        "key": lambda: numbers.randbytes(numbers.randint(0, size)),
        "salt": lambda: numbers.randbytes(numbers.randint(0, size // 4)),
        "person": lambda: numbers.randbytes(numbers.randint(0, size // 4)),
        "fanout": lambda: numbers.randint(0, 255),
        "depth": lambda: numbers.randint(1, 255),
        "leaf_size": lambda: numbers.getrandbits(32),
        "node_offset": lambda: numbers.getrandbits(64 if large else 48),
        "node_depth": lambda: numbers.randint(0, 255),
        "inner_size": lambda: numbers.randint(0, size),
        "last_node": lambda: numbers.random() < 0.5}
    return {name: choose() for name, choose in choices.items()
            if numbers.random() < 0.6}


def test_all_parameters_together(blake2):
    numbers = random.Random(4)
    for _ in range(500):
        parameters = random_parameters(numbers, blake2.name == "blake2b")
        data = numbers.randbytes(int(numbers.expovariate(0.005)))
        blake2.same([data], parameters)
        ours, stock = blake2.ours(**parameters), blake2.stock(**parameters)
        for piece in (data[:7], data[7:]):
            ours, stock = ours.copy(), stock.copy()
            ours.update(piece)
            stock.update(piece)
        assert ours.digest() == stock.digest()


BAD = [("digest_size", 0), ("digest_size", "a"), ("key", b"a" * 99), ("key", 1),
       ("salt", b"a" * 99), ("salt", 1.5), ("person", b"a" * 99), ("person", "a"),
       ("fanout", -1), ("fanout", 2**40), ("depth", 0), ("depth", "a"),
       ("leaf_size", -1), ("leaf_size", 2**33), ("leaf_size", 2**70),
       ("node_offset", -1), ("node_offset", 2**50), ("node_offset", 2**70),
       ("node_depth", 300), ("inner_size", 99), ("inner_size", None),
       ("last_node", UNTRUE), ("usedforsecurity", UNTRUE), ("data", 1), ("data", "a"),
       ("string", 1), ("string", b"")]


def test_two_faults_tell_of_the_same_one(blake2):
    for pair in itertools.combinations(BAD, 2):
        blake2.same([], dict(pair))


def test_faults_give_buffers_back(blake2):
    buffer = bytearray(4)
    for fault in BAD:
        if fault[0] not in ("key", "salt", "person"):
            outcome(lambda: blake2.ours(key=buffer, salt=buffer, person=buffer,
                                        **dict([fault])))
    outcome(lambda: blake2.ours(key=buffer, salt=buffer, person="a"))
    buffer.append(1)            # BufferError if one were held


# -- types and modules --------------------------------------------------------------

def flags(type_):
    return type_.__flags__ & ~(1 << 19)         # whether it has a version tag


def test_types_are_alike(pair):
    ours, stock = type(pair.ours()), type(pair.stock())
    for name in ("__name__", "__qualname__", "__module__", "__base__",
                 "__text_signature__", "__dictoffset__", "__weakrefoffset__"):
        assert getattr(ours, name) == getattr(stock, name)
    assert flags(ours) == flags(stock)
    assert list(vars(ours)) == list(vars(stock))
    for name, attribute in vars(stock).items():
        assert type(vars(ours)[name]) is type(attribute)
        assert (getattr(vars(ours)[name], "__text_signature__", None)
                == getattr(attribute, "__text_signature__", None))
        if isinstance(attribute, int):
            assert vars(ours)[name] == attribute
        elif inspect.isgetsetdescriptor(attribute):
            assert getattr(pair.ours(), name) == getattr(pair.stock(), name)


@pytest.mark.parametrize("act", [
    lambda h: type(h)(), lambda h: type(h)(1), lambda h: type(h).__new__(type(h)),
    lambda h: type(h).__new__(int), lambda h: object.__new__(type(h)),
    lambda h: setattr(h, "foo", 1), lambda h: setattr(h, "name", 1),
    lambda h: delattr(h, "name"), lambda h: setattr(type(h), "foo", 1),
    lambda h: type("Sub", (type(h),), {}), lambda h: pickle.dumps(h),
    lambda h: h == h.copy(), lambda h: h.__init__(1), lambda h: type(h).update(1, b""),
    lambda h: type(h).copy(), lambda h: type(h).copy(1),
    lambda h: type(h).name.__get__(1), lambda h: type(h).digest.__get__(1)],
    ids=itertools.count())
def test_objects_refuse_the_same(pair, act):
    assert outcome(act, pair.ours()) == outcome(act, pair.stock())


def signature(constructor):
    try:
        return str(inspect.signature(constructor))
    except ValueError as error:
        return str(error)


def test_constructors_are_alike(pair):
    assert signature(pair.ours) == signature(pair.stock)
    for name in ("__name__", "__qualname__", "__module__", "__text_signature__"):
        assert getattr(pair.ours, name) == getattr(pair.stock, name)


@pytest.mark.parametrize("name", MODULES)
def test_modules_have_the_same(library, name):
    ours, stock = load(name, str(library)), importlib.import_module(name)
    names = [set(vars(module)) - {"__file__", "__cached__", "__builtins__"}
             for module in (ours, stock)]
    assert names[0] == names[1]
    for attribute, value in vars(stock).items():
        if isinstance(value, int):
            assert getattr(ours, attribute) == value


def test_modules_say_who_hashes(library):
    assert load("_sha3", str(library)).implementation == "OpenSSL"


def test_types_have_docs(pair):
    for name in ("copy", "digest", "hexdigest", "update"):
        assert getattr(type(pair.ours()), name).__doc__
    assert pair.ours.__doc__


# -- threads and interpreters -------------------------------------------------------

def in_threads(*functions):
    threads = [threading.Thread(target=function) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_threads_update_one_object(pair):
    """Each piece is the same, so that their order does not matter.  An update takes so
    long that a digest which did not wait for its end would show the middle."""
    piece = bytes(range(256)) * 1024
    ours = pair.ours()
    digests = []

    def update():
        for _ in range(20):
            ours.update(piece)

    def look():
        for _ in range(40):
            digests.append(ours.copy().digest(*pair.length))
            digests.append(ours.digest(*pair.length))

    in_threads(update, look, update, update)
    stock = pair.stock()
    right = {stock.digest(*pair.length)}
    for _ in range(60):
        stock.update(piece)
        right.add(stock.digest(*pair.length))
    assert ours.digest(*pair.length) == stock.digest(*pair.length)
    assert set(digests) <= right


def longest_wait(function):
    """How long this thread did not run while another one called the function, as a
    part of the call."""
    thread_times = []

    def call():
        start = time.perf_counter()
        function()
        thread_times.append(time.perf_counter() - start)

    thread = threading.Thread(target=call)
    longest = 0
    now = time.perf_counter()
    thread.start()
    while thread.is_alive():
        before, now = now, time.perf_counter()
        longest = max(longest, now - before)
    thread.join()
    return longest / thread_times[0]


def test_other_threads_run_while_much_is_hashed(pair):
    data = bytes(64 << 20)
    ours = pair.ours()
    for act in (lambda: pair.ours(data), lambda: ours.update(data)):
        assert any(longest_wait(act) < 0.5 for _ in range(5))


def test_interpreters_with_their_own_gil(pair, library):
    interpreters = pytest.importorskip("_interpreters")
    module = pair.stock.__module__
    code = LOAD + f"""
for _ in range(20):
    h = load({module!r}, {str(library)!r}).{pair.name}(b"x")
    for _ in range(100):
        h.update(b"x" * 10000)
        h = h.copy()
    assert h.hexdigest{pair.length} == {{!r}}
"""
    expected = pair.stock(b"x" + b"x" * 1000000).hexdigest(*pair.length)
    code = code.replace("{!r}", repr(expected)).replace("(24,)", "(24)")
    names = [interpreters.create("isolated") for _ in range(3)]
    failures = []

    def execute(name):
        failed = interpreters.exec(name, code)
        if failed is not None:
            failures.append(failed.formatted)

    in_threads(*(lambda name=name: execute(name) for name in names))
    for name in names:
        interpreters.destroy(name)
    assert failures == []


def test_types_do_not_leak(pair):
    type_ = type(pair.ours())
    before = sys.getrefcount(type_)
    for _ in range(100):
        pair.ours(b"x").copy().hexdigest(*pair.length)
        outcome(pair.ours, "x")
        outcome(lambda: pair.ours(b"x", _=1))
    assert abs(sys.getrefcount(type_) - before) < 50


def fails_with_each_allocation(hooks, act):
    """The act with its first allocation failing, with its second, and so on.

    CPython says AttributeError where the dict of a type cannot take an attribute."""
    gc.disable()                # its callbacks would fail instead
    try:
        for start in range(1000):
            hooks.set_nomemory(start, start + 1)
            try:
                result = act()
            except (MemoryError, AttributeError):
                continue
            finally:
                hooks.remove_mem_hooks()
            return start, result
    finally:
        gc.enable()
    assert False, "fails always"


def fails_with_each_allocation_of_import(hooks, library, name):
    loader = importlib.machinery.ExtensionFileLoader(name, str(library))
    spec = importlib.util.spec_from_file_location(name, str(library), loader=loader)

    def execute():
        module = importlib.util.module_from_spec(spec)
        loader.exec_module(module)
        return module

    return fails_with_each_allocation(hooks, execute)


def test_each_allocation_may_fail(pair):
    hooks = pytest.importorskip("_testcapi")
    ours, right = pair.ours(b"x"), pair.stock(b"x")
    count, result = fails_with_each_allocation(
        hooks, lambda: pair.ours(b"x", usedforsecurity=False))
    assert count > 0 and result.digest(*pair.length) == right.digest(*pair.length)
    for name in ("digest", "hexdigest"):
        count, result = fails_with_each_allocation(
            hooks, lambda: getattr(ours, name)(*pair.length))
        assert count > 0 and result == getattr(right, name)(*pair.length)
    count, result = fails_with_each_allocation(hooks, ours.copy)
    assert count > 0 and result.digest(*pair.length) == right.digest(*pair.length)


@pytest.mark.parametrize("name", MODULES)
def test_each_allocation_of_an_import_may_fail(library, name):
    hooks = pytest.importorskip("_testcapi")
    count, module = fails_with_each_allocation_of_import(hooks, library, name)
    assert count > 10 and getattr(module, CONSTRUCTORS[name][0])()


# -- libraries ----------------------------------------------------------------------

def run_code(library, code, **variables):
    environment = {name: value for name, value in os.environ.items()
                   if not name.startswith("PYTHON")}
    result = subprocess.run(
        [sys.executable, "-I", "-c",
         LOAD + f"md5, sha2, sha3, blake2 = (load(name, {str(library)!r}) for name in"
         " ('_md5', '_sha2', '_sha3', '_blake2'))\n" + code], text=True,
        capture_output=True, env=environment | variables, timeout=60)
    assert result.returncode == 0, result.stderr
    return result.stdout


IS_LOADED = """
import ctypes, os
def is_loaded(name):
    try:
        ctypes.CDLL(name, mode=os.RTLD_NOLOAD | os.RTLD_NOW)
    except OSError:
        return False
    return True
def loaded():
    return [is_loaded("libcrypto.so.3"), is_loaded("libb2.so.1")]
"""


def test_libraries_are_loaded_at_the_first_use(library):
    assert run_code(library, IS_LOADED + """
print(loaded())
for wrong in (lambda: md5.md5("x", "y"), lambda: blake2.blake2b(digest_size=0)):
    try:
        wrong()
    except (TypeError, ValueError):
        pass
print(loaded())
md5.md5()
print(loaded())
blake2.blake2s()
print(loaded())
""") == "[False, False]\n[False, False]\n[True, False]\n[True, True]\n"


ERRORS = """
for function in (md5.md5, sha2.sha512, sha3.shake_128, blake2.blake2b):
    for _ in range(2):
        try:
            function(b"x")
        except ImportError as error:
            print(error)
"""


def test_library_that_is_missing(library, tmp_path):
    for name in ("libcrypto.so.3", "libb2.so.1"):
        (tmp_path / name).write_bytes(b"")
    lines = run_code(library, ERRORS, LD_LIBRARY_PATH=str(tmp_path)).splitlines()
    starts = [f"this hash function needs {name}, which cannot be loaded (Debian: "
              f"apt-get install {package}): {tmp_path / name}: file too short"
              for name, package in [("libcrypto.so.3", "libssl3t64")] * 6
              + [("libb2.so.1", "libb2-1")] * 2]
    assert lines == starts


def test_library_that_lacks_functions(library, tmp_path):
    (tmp_path / "empty.c").write_text("int nothing;\n")
    compile_library(tmp_path / "libb2.so.1", tmp_path / "empty.c")
    lines = run_code(library, ERRORS, LD_LIBRARY_PATH=str(tmp_path)).splitlines()
    assert len(lines) == 2
    assert lines[0].endswith("undefined symbol: blake2b_init_param")


def test_library_that_is_too_old(library, tmp_path):
    (tmp_path / "old.c").write_text("".join(
        f"int blake2{letter}_{what}(void) {{ return 0; }}\n"
        for letter in "bs" for what in ("init_param", "update", "final")))
    result = run(COMPILER, "-shared", "-fPIC", tmp_path / "old.c", "-o",
                 tmp_path / "libb2.so.1")
    assert result.returncode == 0, result.stderr
    lines = run_code(library, ERRORS, LD_LIBRARY_PATH=str(tmp_path)).splitlines()
    assert lines == ["libb2.so.1 is older than version 0.98.1, and cannot be used"] * 2


def test_configuration_of_openssl_forbids_nothing(library, tmp_path):
    """CPython's own functions do not ask it either."""
    configuration = tmp_path / "openssl.cnf"
    configuration.write_text("openssl_conf = start\n[start]\nproviders = providers\n"
                             "[providers]\nnull = null\n[null]\nactivate = 1\n")
    assert run_code(library, """
try:
    import _hashlib
    _hashlib.new("md5")
    print("allowed")
except (ImportError, ValueError):
    print("forbidden")
print(md5.md5().hexdigest())
""", OPENSSL_CONF=str(configuration)) == (
        "forbidden\nd41d8cd98f00b204e9800998ecf8427e\n")
