"""Servers that are idle hold little more under pymem-run than as they are.

Each of Tools/bench/servers.py runs twice at once, stock and under pymem-run: loaded for
two seconds, idle for two, and with 140 small requests in the next two.  The packages are
Debian's, which Tools/check.sh installs.
"""

import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from conftest import BUILD, TOP

sys.path.insert(0, str(TOP / "Tools" / "bench"))
from servers import SERVERS, find_allocators, missing_packages, run_server  # noqa: E402

TESTED = "stock", "pymem-run"
LOAD_SECONDS, IDLE_SECONDS = 2, 2
# In MB of a million bytes, of a worker's resident memory.
IDLE_OVER_STOCK, LATER_OVER_STOCK = 10, 2


@pytest.fixture(scope="module")
def runs(request):
    """{(server, allocator): what becomes its figures}, of the servers that are tested.
    Two servers are measured at once: most of the time they wait."""
    names = dict.fromkeys(item.callspec.params["figures"] for item in request.session.items
                          if item.path == request.path)
    allocators = find_allocators(BUILD)
    with ThreadPoolExecutor(2 * len(TESTED)) as executor:
        yield {(name, allocator): executor.submit(
                   run_server, name, allocators[allocator], LOAD_SECONDS, IDLE_SECONDS)
               for name in names if not missing_packages(SERVERS[name])
               for allocator in TESTED}
        executor.shutdown(cancel_futures=True)


@pytest.fixture(scope="module", params=SERVERS)
def figures(request, runs):
    """Those of stock and of pymem-run."""
    missing = missing_packages(SERVERS[request.param])
    if missing:
        pytest.skip(f"not installed: apt-get install {' '.join(missing)}")
    return [runs[request.param, allocator].result() for allocator in TESTED]


def test_the_load_fills_a_heap(figures):
    """More than the bounds allow to stay: else the other tests could not fail."""
    for run in figures:
        assert run["peak"] > figures[0]["idle"]["rss"] + IDLE_OVER_STOCK


def test_idle_after_a_load(figures):
    stock, ours = (run["idle"]["rss"] for run in figures)
    assert ours <= stock + IDLE_OVER_STOCK


def test_later_after_small_requests(figures):
    assert all(run["fewest_small"] > 0 for run in figures)
    stock, ours = (run["later"]["rss"] for run in figures)
    assert ours <= stock + LATER_OVER_STOCK
