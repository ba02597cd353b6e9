"""python -m pymem conformance: what it finds, what it says, and what it leaves alone."""

import json
import os
import shutil
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from conftest import BUILD, TOP, clean_environment, run

FAULTS_SOURCE = TOP / "Lib" / "test" / "conformance_faults.c"
# Debian's packages: libjemalloc2, libmimalloc2.0, libtcmalloc-minimal4.
LIBRARIES = ["libjemalloc.so.2", "libmimalloc.so.2", "libmimalloc.so.3",
             "libtcmalloc_minimal.so.4"]
FOLDERS = [Path("/usr/lib"), *Path("/usr/lib").glob("*-linux-gnu")]


def conformance(*arguments, **variables):
    return run(sys.executable, "-m", "pymem", "conformance", *arguments,
               environment=clean_environment(PYTHONPATH=str(BUILD), **variables))


def compiled(folder, fault, *options):
    path = folder / f"libfault{fault}.so"
    result = run("cc", "-O1", "-fno-builtin", "-w", "-shared", "-fPIC", "-pthread",
                 f"-DFAULT={fault}", *options, "-o", path, FAULTS_SOURCE, "-ldl")
    assert result.returncode == 0, result.stderr
    return path


def results_of(path, tmp_path, *arguments):
    """{promise: result} and the exit status."""
    file = tmp_path / "results.json"
    done = conformance("--json", file, *arguments, path)
    assert done.returncode in (0, 1), done.stderr
    results = json.loads(file.read_text())["results"]
    return {each["promise"]: each for each in results}, done.returncode


def broken(results):
    return {name for name, each in results.items() if each["result"] == "broken"}


# Which promise each planted fault breaks.
FAULTS = {
    1: "contract.realloc_zero_keeps_block",
    2: "contract.zero_bytes_are_distinct_blocks",
    3: "contract.zero_bytes_are_distinct_blocks",
    4: "contract.calloc_zeroes_used_memory",
    5: "contract.calloc_overflow_fails",
    6: "contract.realloc_null_is_malloc",
    7: "contract.free_null",
    8: "contract.malloc_is_aligned_and_writable",
    9: "contract.calloc_and_realloc_are_aligned",
    10: "contract.realloc_keeps_what_fits",
    11: "contract.failed_realloc_keeps_block",
    12: "contract.too_much_fails",
    13: "contract.too_much_fails",
    14: "contract.freed_memory_is_used_again",
    15: "contract.freed_memory_is_used_again",
    16: "contract.live_blocks_are_distinct",
    17: "contract.live_blocks_are_distinct",
    18: "threads.threads_share_blocks",
    19: "threads.fork_while_threads_allocate",
    20: "threads.blocks_of_an_ended_thread_stay",
    21: "nomemory.limit_of_the_system",
    22: "nomemory.limit_of_the_system",
    23: "nomemory.limit_of_the_system",
    24: "contract.realloc_keeps_what_fits",
}
FAULTS_OF_DOMAINS = {
    51: "hooks.hook_sees_calls_and_arguments",
    52: "hooks.what_is_set_can_be_got",
    53: "hooks.what_is_set_can_be_got",
    54: "hooks.too_much_asks_no_allocator",
    55: "hooks.hook_sees_calls_and_arguments",
    56: "hooks.hook_that_fails_the_kth_call",
    57: "hooks.hook_sees_calls_and_arguments",
    58: "hooks.the_largest_request_is_asked_for",
    59: "hooks.realloc_that_a_hook_fails_keeps_block",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(fault, tmp_path):
    results, status = results_of(compiled(tmp_path, fault), tmp_path,
                                 "-k", FAULTS[fault], "--timeout", "5")
    assert (broken(results), status) == ({FAULTS[fault]}, 1)


@pytest.mark.parametrize("fault", FAULTS_OF_DOMAINS)
def test_a_planted_fault_of_domains_is_found(fault, tmp_path):
    promise = FAULTS_OF_DOMAINS[fault]
    results, status = results_of(compiled(tmp_path, fault, "-DWITH_DOMAINS"), tmp_path,
                                 "-k", promise)
    assert (broken(results), status) == ({promise}, 1)
