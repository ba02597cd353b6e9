"""python -m pymem conformance: its options, and what is done with them."""

import os
import sys
import tempfile

from pymem import check_writable
from pymem.conformance import report, subjects
from pymem.conformance.promises import all_promises
from pymem.conformance.runner import BROKEN, KEPT, run

DESCRIPTION = """Ask an allocator under Python for each promise that it must keep: the running
interpreter, another (CPython 3.8 and later, PyPy), or a shared object that exports malloc,
calloc, realloc and free, or the PyMem functions. Ends with 0 where all are kept, 1 where one
is broken, 2 where it can't be tested."""


def add_options(parser, number, seconds):
    parser.add_argument("--list", action="store_true", help="the promises, and no test")
    parser.add_argument("-k", metavar="PATTERN", dest="pattern", default="",
                        help="only promises whose name contains it; words with commas")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--junit", metavar="FILE", help="JUnit's XML, for CI")
    parser.add_argument("--timeout", type=seconds, default="60s", metavar="TIME",
                        help="for one promise in one domain (60s)")
    parser.add_argument("--jobs", type=number, default=min(4, os.cpu_count() or 1),
                        metavar="N", help="promises at once")
    parser.add_argument("--prefix", metavar="NAME",
                        help="what the names malloc, calloc, ... of a library begin with")
    parser.add_argument("subject", nargs="?", metavar="LIB.so|PYTHON")


def chosen_promises(pattern):
    wanted = [word for word in pattern.split(",") if word]
    chosen = [promise for promise in all_promises()
              if not wanted or any(word in promise.name for word in wanted)]
    if not chosen:
        raise subjects.CannotTest(f"no promise has {pattern!r} in its name (see --list)")
    return chosen


def show_list(promises):
    for promise in promises:
        print(f"{promise.name}\n{report.paragraph('rule', promise.rule)}\n"
              f"{report.paragraph('since', report.since_text(promise))}\n"
              f"{report.paragraph('where', promise.where)}")


def show(subject, promises, options):
    print(subject.title)
    if subject.request["driver"] is None:
        print("No C compiler is here (CC): hooks, arenas, threads and limits are not tested.")
    results = run(subject, promises, options.timeout, options.jobs,
                  lambda result: print(report.row(result), flush=True))
    for result in results:
        if result.outcome == BROKEN:
            print("\n" + report.explanation(result))
    print("\n" + report.summary(results))
    if options.json:
        report.write_json(options.json, subject, results)
    if options.junit:
        report.write_junit(options.junit, subject, results)
    return results


def conformance(options):
    try:
        promises = chosen_promises(options.pattern)
        if options.list:
            show_list(promises)
            return 0
        check_writable(options.json, options.junit)
        with tempfile.TemporaryDirectory(prefix="pymem-") as folder:
            driver = subjects.build_driver(folder)
            subject = subjects.find_subject(options.subject, driver, options.prefix)
            results = show(subject, promises, options)
    except BrokenPipeError:
        raise
    except (subjects.CannotTest, OSError) as error:
        text = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else error
        print(f"pymem: {text}", file=sys.stderr)
        return 2
    outcomes = {result.outcome for result in results}
    if BROKEN in outcomes:
        return 1
    if KEPT not in outcomes:
        print("pymem: none of these promises can be asked of it", file=sys.stderr)
        return 2
    return 0
