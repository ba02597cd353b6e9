"""Doc/examples: cores of extensions, as extension modules and without Python."""

import json
import re
import struct
import sys

import pytest

from conftest import BUILD, TOP, clean_environment, pythons, run

EXAMPLES = TOP / "Doc" / "examples"
CORES = [EXAMPLES / f"{name}.c"
         for name in ("growable", "boxed", "parser", "queue", "buffers")]
# Of pymem.faults; the interpreter's headers are not wanted here.
TABLES = [TOP / "Python" / "tracer" / "tracetables.c",
          TOP / "Modules" / "pymem" / "tablememory.c"]
NAMES = [path.stem for path in CORES]
WARNINGS = ["-Wall", "-Wextra", "-Werror", "-Wno-missing-field-initializers"]
WRONG = [("mem-as-object", "mo"), ("object-as-mem", "om"), ("mem-as-raw", "mr")]
QUESTION = ("import json, sysconfig; print(json.dumps([sysconfig.get_paths()['include'],"
            " sysconfig.get_config_var('EXT_SUFFIX')]))")


@pytest.fixture(scope="module", params=pythons(3, 8))
def extension(request, tmp_path_factory):
    """A function that runs code of an interpreter that has the module examples."""
    folder = tmp_path_factory.mktemp("extension")
    include, suffix = json.loads(run(request.param, "-c", QUESTION).stdout)
    for source in TABLES:
        result = run("cc", "-O1", "-fPIC", "-c", source, f"-I{BUILD}",
                     f"-I{TOP / 'Include'}", f"-I{TOP / 'Include/internal'}",
                     "-o", folder / f"{source.stem}.o")
        assert result.returncode == 0, result.stderr
    result = run("cc", "-O1", "-fPIC", "-shared", "-pthread", *WARNINGS,
                 "-Wno-unused-parameter", "-DPYMEMFAULTS_IN_CPYTHON",
                 "-isystem", include, f"-I{TOP / 'Include/internal'}",
                 "-idirafter", TOP / "Include", EXAMPLES / "module.c", *CORES,
                 TOP / "Modules" / "pymem" / "_pymemfaults.c", TOP / "Python" / "memfaults.c",
                 *(folder / f"{source.stem}.o" for source in TABLES), "-o", folder / f"examples{suffix}")
    assert result.returncode == 0, result.stderr

    def execute(code, **variables):
        return run(request.param, "-c", code, environment=clean_environment(
            PYTHONPATH=str(folder), **variables))
    return execute


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    path = tmp_path_factory.mktemp("program") / "examples"
    result = run("cc", "-O1", *WARNINGS, f"-I{TOP / 'Include'}", f"-I{BUILD}",
                 EXAMPLES / "main.c", *CORES, f"-L{BUILD / '.libs'}", "-lpymem",
                 f"-Wl,-rpath,{BUILD / '.libs'}", "-o", path)
    assert result.returncode == 0, result.stderr
    return path


@pytest.mark.parametrize("malloc", ["default", "debug", "malloc"])
def test_as_an_extension(extension, malloc):
    code = "import examples\n" + "".join(f"examples.{name}()\n" for name in NAMES)
    result = extension(code, PYTHONMALLOC=malloc)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("malloc", ["default", "debug", "malloc"])
def test_as_a_program(program, malloc):
    result = run(program, environment=clean_environment(PYTHONMALLOC=malloc))
    assert result.stdout == "".join(f"{name}: ok\n" for name in NAMES)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("what, letters", WRONG)
def test_a_wrong_free_of_an_extension_is_named(extension, what, letters):
    result = extension(f"import examples; examples.free_wrongly('{what}')",
                       PYTHONMALLOC="debug")
    assert result.returncode == -6
    assert (f"bad ID: Allocated using API '{letters[0]}', verified using API "
            f"'{letters[1]}'" in result.stderr)


@pytest.mark.parametrize("what, letters", WRONG)
def test_a_wrong_free_of_a_program_is_named(program, what, letters):
    result = run(program, what, environment=clean_environment(PYTHONMALLOC="debug"))
    assert result.returncode == -6
    assert (f"bad ID: Allocated using API '{letters[0]}', verified using API "
            f"'{letters[1]}'" in result.stderr)


def test_a_free_that_the_c_library_does_not_survive(program):
    result = run(program, "mem-as-malloc",
                 environment=clean_environment(PYTHONMALLOC="debug"))
    assert result.returncode in (-6, -11)


# Lib/pymem/faults.py

@pytest.fixture
def faults():
    sys.path.insert(0, str(TOP / "Lib"))
    try:
        import pymem.faults
        return pymem.faults
    finally:
        del sys.path[0]


def test_a_call_with_the_nth_request_failing(faults):
    outcome = faults.call(lambda: [bytes(1000 + i) for i in range(10)], "object",
                          fail_from=5)
    assert type(outcome.exception) is MemoryError and outcome.result is None
    assert outcome.counts["failed"] >= 1
    outcome = faults.call(lambda: [bytes(1000 + i) for i in range(10)], "object")
    assert outcome.exception is None and len(outcome.result) == 10
    assert outcome.counts["failed"] == 0
    sizes = [size for address, size, traceback in outcome.blocks]
    assert all(sys.getsizeof(made) in sizes for made in outcome.result)


@pytest.mark.parametrize("domain", ["mem", "object"])
def test_each_request_of_a_call_fails_once(faults, domain):
    def work():
        numbers = {str(i): [i] * 5 for i in range(40)}
        return sorted(numbers.items())
    outcomes = list(faults.sweep(work, domain))
    assert len(outcomes) > 5
    assert all(type(outcome.exception) in (MemoryError, type(None))
               for outcome in outcomes)
    assert any(type(outcome.exception) is MemoryError for outcome in outcomes)
    assert outcomes[-1].result == work()


def test_an_exception_keeps_its_traceback(faults):
    def work():
        raise KeyError("mine")
    exception = faults.call(work, "mem").exception
    assert exception.args == ("mine",)
    assert exception.__traceback__.tb_frame.f_code is work.__code__


def test_a_quota(faults):
    outcome = faults.call(lambda: bytes(50_000), "object", quota=10_000)
    assert type(outcome.exception) is MemoryError
    outcome = faults.call(lambda: len(bytes(5_000)), "object", quota=10_000)
    assert outcome.result == 5_000
    assert 5_000 < outcome.counts["peak_bytes"] <= 10_000


@pytest.mark.parametrize("domain", ["mem", "object"])
def test_a_block_in_which_a_request_fails(faults, domain):
    """Each request in turn: the MemoryError ends the block and goes no further, and outside
    nothing fails."""
    number, hits, block = 0, 0, None
    while block is None or block.hit:
        number += 1
        with faults.Failing(domain, fail_from=number, fail_count=1) as block:
            made = {str(i): [i] * 5 for i in range(40)}
        if block.hit:
            assert block.counts["failed"] == 1
            hits += type(block.exception) is MemoryError
        assert len([bytes(5000) for _ in range(100)]) == 100
    assert block.exception is None and len(made) == 40
    assert number > 5 and 5 < hits < number


def test_another_error_leaves_the_block(faults):
    with pytest.raises(KeyError, match="mine"):
        with faults.Failing("mem", fail_from=1) as block:
            raise KeyError("mine")
    assert type(block.exception) is KeyError
    with pytest.raises(MemoryError):            # which is no failed request's
        with faults.Failing("mem") as block:
            raise MemoryError
    assert not block.hit


def test_blocks_are_one_at_a_time(faults):
    with pytest.raises(RuntimeError, match="one at a time"):
        with faults.Failing("mem"):
            with faults.Failing("object"):
                pass
    with faults.Failing("mem", quota=10_000) as block:
        [0] * 50_000
    assert block.hit
    for wrong in ("heap", {"fail_share": 2}), ("mem", {"fail_share": 2}):
        with pytest.raises(ValueError):
            with faults.Failing(wrong[0], **wrong[1]):
                pass


def test_a_share_and_its_seed(faults):
    def work():
        failed = []
        for i in range(2000):
            try:
                bytes(600)
            except MemoryError:
                failed.append(i)
        return failed
    results = [faults.call(work, "object", fail_share=0.02, seed=seed) for seed in (1, 1)]
    if all(outcome.exception is None for outcome in results):
        assert results[0].counts == results[1].counts
    assert all(outcome.counts["failed"] > 0 for outcome in results)


def test_leaks_and_where_they_were_allocated(faults):
    import tracemalloc
    kept = []
    tracemalloc.start(2)
    try:
        line = sys._getframe().f_lineno + 1
        outcome = faults.call(lambda: kept.append(bytes(12_345)), "object")
    finally:
        tracemalloc.stop()
    [(address, size, traceback)] = [block for block in outcome.blocks if block[1] > 12_345]
    assert address == id(kept[0])
    assert traceback[0] == (__file__, line)


def test_a_stretch_of_a_program(faults):
    faults.start("mem")
    try:
        before = faults.count("mem")
        kept = [i for i in range(100_000)]
        after = faults.count("mem")
        assert after["bytes"] - before["bytes"] >= struct.calcsize("P") * len(kept)
        assert max(size for _, size, _ in faults.blocks("mem")) >= struct.calcsize("P") * len(kept)
    finally:
        counts = faults.stop("mem")
    assert counts["failed"] == 0 and counts["requests"] > 0


@pytest.mark.parametrize("arguments, error, text", [
    (("lib",), ValueError, "a domain is 'raw', 'mem' or 'object', not 'lib'"),
    ((7,), ValueError, "a domain is 'raw', 'mem' or 'object', not 7"),
    (("mem", {"fail_share": 1.5}), ValueError, "a probability, from 0 to 1"),
    (("mem", {"fail_share": float("nan")}), ValueError, "a probability, from 0 to 1"),
    (("mem", {"fail_count": 2}), ValueError, "fail_count needs a fail_from"),
    (("mem", {"quota": -1}), OverflowError, "negative"),
    (("mem", {"fail": 1}), TypeError, "fail"),
])
def test_bad_arguments(faults, arguments, error, text):
    domain, options = arguments[0], arguments[1] if len(arguments) > 1 else {}
    for function in (faults.start, lambda *a, **k: faults.call(list, *a, **k)):
        with pytest.raises(error, match=re.escape(text)):
            function(domain, **options)
    for function in (faults.stop, faults.count, faults.blocks):
        with pytest.raises((RuntimeError, ValueError)):
            function(domain)


def test_starting_twice(faults):
    faults.start("raw")
    try:
        with pytest.raises(RuntimeError, match="raw domain are started already"):
            faults.start("raw")
    finally:
        faults.stop("raw")
    with pytest.raises(TypeError, match="the first argument is what to call"):
        faults.call(7, "raw")


def test_a_call_that_stops_them_itself(faults):
    """It is named, and is no lack of memory."""
    with pytest.raises(RuntimeError, match="faults of the mem domain were not started"):
        faults.call(lambda: faults.stop("mem"), "mem")
    assert faults.call(lambda: 7, "mem").result == 7


def test_an_allocator_set_over_it(faults):
    import tracemalloc
    faults.start("mem")
    try:
        tracemalloc.start()
        try:
            with pytest.raises(RuntimeError, match="remove that first"):
                faults.stop("mem")
        finally:
            tracemalloc.stop()
    finally:
        faults.stop("mem")
