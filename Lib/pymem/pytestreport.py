"""What pytestplugin.py prints: why a test failed, and the tests with most memory.

A record is a dict of what execnet can carry, as a report may come from a worker of xdist:

    peak, limit, sites          of the call of a test: bytes; bytes or None; at the peak
    left, leaks, left_sites     where each run leaves more than is allowed
    fails                       "peak" or "left": why the test fails, or nothing
    error                       what that is in a line; also of a mark that is wrong
    reason                      why it could not be measured
    site: [bytes, blocks, [[name, file, line] from the outermost on], how many down to it]
"""

import textwrap
from collections import Counter

from _pytest._code.code import ReprFileLocation

from pymem import size_text
from pymem.flame import Frame, frame_at
from pymem.leaksreport import place, shortened
from pymem.pytestmemory import SITES, most_first, total

CALLERS = 8             # shown of a stack
SIZE = 12               # columns of one


def site_records(sites):
    """Of those with most, and no less than a hundredth of all."""
    least = total(sites) / 100
    return [[site.nbytes, site.blocks, [list(frame_at(*line)) for line in site.lines],
             site.depth] for site in most_first(sites)[:SITES] if site.nbytes >= least]


def two_sizes(size, limit):
    """As texts that differ."""
    texts = size_text(size), size_text(limit)
    return texts if texts[0] != texts[1] else (f"{size:,} bytes", f"{limit:,} bytes")


def headline(record):
    if record["fails"] == "left":
        left, allowed = two_sizes(record["left"], record["leaks"])
        return f"pymem: each run leaves {left}, and {allowed} are allowed"
    peak, limit = two_sizes(record["peak"], record["limit"])
    return f"pymem: {peak} at the peak, and the limit is {limit}"


def blocks_text(blocks):
    return "1 block" if blocks == 1 else f"{blocks:,} blocks"


def site_lines(site, width, folder):
    nbytes, blocks, frames, depth = site
    frames = [Frame(*frame) for frame in frames]
    start = f"{size_text(nbytes)} in {blocks_text(blocks)}  "
    yield start + place(frames[depth - 1], width - len(start), folder)
    if depth < len(frames):
        yield f"    by {place(frames[-1], width - 7, folder)}"
    callers = frames[depth - 2::-1] if depth > 1 else []
    for frame in callers[:CALLERS]:
        yield f"    called by {place(frame, width - 14, folder)}"
    if len(callers) > CALLERS:
        yield f"    and {len(callers) - CALLERS} callers more"


def details(record, width, folder):
    """Of a failure: (title, text)."""
    is_left = record["fails"] == "left"
    sites = record["left_sites" if is_left else "sites"]
    title = "pymem: who holds what each run leaves" if is_left \
        else "pymem: who had the memory at the peak"
    return title, "\n".join(line for site in sites
                            for line in site_lines(site, width, folder))


def add_details(report, record, width, folder):
    """To a report of pytest, in the process that has the terminal: who had the memory, and
    what the list of failures says, which is nothing for an error without a traceback."""
    file, line, _ = report.location
    report.longrepr.reprcrash = ReprFileLocation(file, (line or 0) + 1, record["error"])
    if "fails" in record:
        report.longrepr.addsection(*details(record, width, folder))


# The table.

def rows(records, width, folder):
    with_limit = any(record["limit"] is not None for _, record in records)
    indent = SIZE + 2 + (SIZE + 2 if with_limit else 0)
    yield f"{'peak':>{SIZE}}  " + (f"{'limit':>{SIZE}}  " if with_limit else "") + "test"
    for name, record in records:
        limit = record["limit"]
        column = f"{'' if limit is None else size_text(limit):>{SIZE}}  " if with_limit else ""
        yield f"{size_text(record['peak']):>{SIZE}}  {column}" \
              f"{shortened(name, max(width - indent, 8))}"
        for nbytes, _, frames, depth in record["sites"][:1]:
            start = f"{' ' * indent}{size_text(nbytes)} by "
            yield start + place(Frame(*frames[depth - 1]), width - len(start), folder)


def summary_lines(records, top, width, folder):
    """records: [(name of a test, record)]; top: how many, 0 for all."""
    measured = sorted(((name, record) for name, record in records if "peak" in record),
                      key=lambda item: (-item[1]["peak"], item[0]))
    shown = measured[:top] if top else measured
    if shown:
        yield from rows(shown, width, folder)
    if len(measured) > len(shown):
        yield f"{len(measured) - len(shown)} tests more (--pymem-top)"
    reasons = Counter(record["reason"] for _, record in records if "reason" in record)
    for reason, count in reasons.items():
        tests = "1 test" if count == 1 else f"{count} tests"
        yield from textwrap.wrap(f"Not measured: {tests}, as {reason}.", width)
