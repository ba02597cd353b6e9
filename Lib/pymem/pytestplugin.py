"""The plugin of pytest: limits on memory in tests, memory that fails, debug hooks.

    @pytest.mark.pymem(limit="24 MiB", leaks="100 KiB")
    def test_parser(failing_memory):
        ...

pytest finds it by the entry point "pymem" of the package.  It changes nothing where none of
this is used: what measures is imported when a test asks for it.

Owns the hooks.  pytestmemory.py measures, pytestreport.py prints, pymem.faults lets requests
fail.  A test that has leaks= is run twice, and RUNS times where it seems to leak; its reports are
those of the first run.
"""

import gc
import os
import sys

import pytest
from _pytest.runner import CallInfo, runtestprotocol

MARK = "pymem(limit=SIZE, leaks=SIZE): fail the test where it has more than that at its peak, " \
       "or where each run leaves more; SIZE is as \"24 MiB\""
TELL_FROM = 64 * 1024   # bytes of a peak from which --pymem tells who has most of it
RUNS = 5                # bounded caches may need three until they are full
HOOKED = b"\xfd" * 3    # before each block of the debug hooks


def pytest_addoption(parser):
    group = parser.getgroup("pymem", "pymem: memory of tests")
    group.addoption("--pymem", action="store_true",
                    help="trace each test, and list those with most memory at their peak")
    group.addoption("--pymem-top", type=int, default=20, metavar="N",
                    help="tests that --pymem lists (20), 0 for all")
    group.addoption("--pymem-debug", action="store_true",
                    help="run with the debug hooks of Python's allocators, which end the "
                    "session at a write outside a block (PYTHONMALLOC=debug)")


# Debug hooks.

def debug_hooks_are_on():
    from pymem import capi
    address = capi.malloc(1)
    try:
        return capi.read(address - len(HOOKED), len(HOOKED)) == HOOKED
    finally:
        capi.free(address)


def environment_with_hooks(arguments):
    """Of a Python that is to do the same with hooks; UsageError: it could not."""
    allocator = os.environ.get("PYTHONMALLOC") or "default"
    if sys.flags.ignore_environment or allocator.endswith("debug"):
        raise pytest.UsageError("--pymem-debug sets PYTHONMALLOC=debug, and this Python does "
                                "not heed it (-E, -I): start it without that option")
    if list(arguments) != sys.argv[1:]:
        raise pytest.UsageError("--pymem-debug starts the program anew, and here it is not "
                                "pytest: set PYTHONMALLOC=debug before it starts")
    value = "debug" if allocator == "default" else f"{allocator}_debug"
    return {**os.environ, "PYTHONMALLOC": value}


def start_anew(environment):
    """As this process was started: -m, -X and all."""
    with open("/proc/self/cmdline", "rb") as file:
        words = file.read().split(b"\0")[1:-1]
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, [os.fsencode(sys.executable), *words], environment)


@pytest.hookimpl(hookwrapper=True, tryfirst=True)
def pytest_load_initial_conftests(early_config):
    """Before anything is captured.  What the hooks say goes to the file of stderr, and with
    it the process is over: so that file must not be a captured one."""
    options = early_config.known_args_namespace
    if options.pymem_debug:
        if not debug_hooks_are_on():
            start_anew(environment_with_hooks(early_config.invocation_params.args))
        if options.capture == "fd":
            options.capture = "sys"
    yield


# The session.

def pytest_configure(config):
    config.addinivalue_line("markers", MARK)
    if config.option.pymem_top < 0:
        raise pytest.UsageError("--pymem-top takes how many tests to list, or 0 for all, not "
                                f"{config.option.pymem_top}")
    if config.option.pymem:
        from pymem.pytestmemory import Unmeasurable, find_tracer
        try:
            find_tracer()
        except Unmeasurable as error:
            raise pytest.UsageError(f"--pymem: {error}") from None
    config.pluginmanager.register(Session(config), "pymem-session")


def pytest_report_header(config):
    return "pymem: debug hooks are on" if config.option.pymem_debug else None


def fail(text, item=None):
    """item: whose report tells the text in the summary, too."""
    if item is not None:
        item.pymem_record = {"error": text}
    raise pytest.fail.Exception(text, pytrace=False)


def demand_of(item):
    """A Demand, or None; or, as a str, what is wrong with a mark."""
    marks = list(item.iter_markers("pymem"))
    if not marks:
        return None
    from pymem.pytestmemory import BadMark, Demand
    try:
        return Demand.of(marks)
    except BadMark as error:
        return str(error)


def replace_outcome(outcome, error):
    """Of a hook; pluggy has force_exception() from 1.1 on."""
    if hasattr(outcome, "force_exception"):
        outcome.force_exception(error)
        return
    try:
        raise error
    except pytest.fail.Exception:
        outcome._excinfo = sys.exc_info()


class Measurement:
    """Of the call of a test.  record: as pytestreport.py has it."""

    def __init__(self, demand, tells_all):
        from pymem import pytestmemory, pytestreport    # before anything is traced
        self.memory, self.report = pytestmemory, pytestreport
        self.demand, self.tracing, self.record = demand, None, {}
        wanted = [] if demand is None or demand.limit is None else [demand.limit]
        self.tell_from = min(wanted + [TELL_FROM] * tells_all, default=sys.maxsize)

    def begin(self):
        if self.demand:
            gc.collect()                # else the peak tells how far the collector was
        try:
            self.tracing = self.memory.Tracing()
            self.tracing.begin_call(self.tell_from)
        except self.memory.Unmeasurable as reason:
            self.give_up(reason)

    def end(self, test_file):
        try:
            peak, held = self.tracing.end_call()
        except self.memory.Unmeasurable as reason:
            self.give_up(reason)
            return
        sites = self.memory.sites_of(held, test_file)
        limit = self.demand.limit if self.demand else None
        self.record = {"peak": peak, "limit": limit,
                       "sites": self.report.site_records(sites)}
        if limit is not None and peak > limit:
            self.record["fails"] = "peak"
            self.record["error"] = self.report.headline(self.record)

    def give_up(self, reason):
        self.record = {"reason": str(reason)}
        if self.demand:
            self.record["error"] = f"pymem: {reason}"

    @property
    def error(self):
        return self.record.get("error")

    def close(self):
        if self.tracing:
            self.tracing.close()


# Runs of a test that has leaks=.

class NotRepeatable(Exception):
    """What became of the other run."""


def run_again(item, nextitem):
    """As it would run for the first time; nobody else hears of it."""
    nsections = len(item._report_sections)
    reports = runtestprotocol(item, log=False, nextitem=nextitem)
    del item._report_sections[nsections:]
    for report in reports:
        if not report.passed:
            raise NotRepeatable(f"its {report.when} is {report.outcome}\n{report.longreprtext}")


def left_by_runs(item, nextitem, tracing, allowed):
    """{line: Site} of what each run leaves."""
    from pymem.pytestmemory import growth_of, least_of, total
    test_file = str(item.path)
    before, left = tracing.level(test_file), None
    for _ in range(RUNS - 1):
        run_again(item, nextitem)
        after = tracing.level(test_file)
        growth = growth_of(before, after)
        left = growth if left is None else least_of(left, growth)
        if total(left) <= allowed:
            break
        before = after
    return left


def judge_runs(item, nextitem, measurement):
    """After a first run that passed; the record tells what was found."""
    from pymem.pytestmemory import Unmeasurable, total
    from pymem.pytestreport import headline, site_records
    record, allowed = measurement.record, measurement.demand.leaks
    try:
        left = left_by_runs(item, nextitem, measurement.tracing, allowed)
    except Unmeasurable as reason:
        record["error"] = f"pymem: {reason}"
    except NotRepeatable as other:
        record["error"] = f"pymem: leaks= runs a test more than once, and the next time {other}"
    else:
        if total(left) > allowed:
            record.update(left=total(left), leaks=allowed, fails="left",
                          left_sites=site_records(left))
            record["error"] = headline(record)


def report_failure(item, report, text):
    """In place of a report of a call that passed."""
    call = CallInfo.from_call(lambda: fail(text), when="call")
    failed = item.ihook.pytest_runtest_makereport(item=item, call=call)
    for name in ("duration", "start", "stop", "sections", "pymem"):
        if hasattr(report, name):
            setattr(failed, name, getattr(report, name))
    return failed


class Session:
    def __init__(self, config):
        self.config, self.records = config, []
        self.folder = str(config.rootpath) + os.sep
        self.in_runs = False            # of a test that has leaks=
        self.first_run = None           # its Measurement, which goes on

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item, nextitem):
        if getattr(demand_of(item), "leaks", None) is None:
            return None
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        self.in_runs = True
        try:
            reports = self.reports_of_runs(item, nextitem)
        finally:
            self.in_runs = False
            if self.first_run:
                self.first_run.close()
                self.first_run = None
        for report in reports:
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def reports_of_runs(self, item, nextitem):
        reports = runtestprotocol(item, log=False, nextitem=nextitem)
        if self.first_run and all(report.passed for report in reports):
            judge_runs(item, nextitem, self.first_run)
            error = self.first_run.error
            reports = [report_failure(item, report, error) if error and report.when == "call"
                       else report for report in reports]
        return reports

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item):
        wrong = demand_of(item)
        if isinstance(wrong, str):      # before anything is set up
            fail(wrong, item)

    @pytest.hookimpl(hookwrapper=True, trylast=True)
    def pytest_runtest_call(self, item):
        demand = demand_of(item)
        if self.first_run or (demand is None and not self.config.option.pymem):
            yield
            return
        if demand and demand.leaks is not None and not self.in_runs:
            fail("pymem: leaks= runs a test more than once, and here another plugin runs the "
                 "tests (pytest_runtest_protocol)", item)
        measurement = Measurement(demand, self.config.option.pymem)
        measurement.begin()
        if measurement.error:
            fail(measurement.error, item)
        outcome = yield
        try:
            if measurement.tracing:
                measurement.end(str(item.path))
        finally:
            if self.in_runs:
                self.first_run = measurement
            else:
                measurement.close()
        item.pymem_record = measurement.record
        if measurement.error and outcome.excinfo is None:
            replace_outcome(outcome, pytest.fail.Exception(measurement.error, pytrace=False))

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_makereport(self, item, call):
        report = (yield).get_result()
        record = item.__dict__.pop("pymem_record", None)
        if record is not None:
            report.pymem = record       # also what judge_runs() adds to it
        failing = (getattr(item, "funcargs", None) or {}).get("failing_memory")
        if call.when == "call" and report.failed and hasattr(failing, "add_to"):
            failing.add_to(report)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report):
        """Where the terminal is: of a worker of xdist that is another process."""
        record = getattr(report, "pymem", None)
        if record is None or hasattr(self.config, "workerinput"):
            return
        if self.config.option.pymem and ("peak" in record or "reason" in record):
            self.records.append((report.nodeid, record))
        if report.failed and "error" in record and hasattr(report.longrepr, "addsection"):
            from pymem.pytestreport import add_details
            add_details(report, record, self.width(), self.folder)

    def width(self):
        has_terminal = self.config.pluginmanager.has_plugin("terminalreporter")
        return self.config.get_terminal_writer().fullwidth if has_terminal else 80

    def pytest_terminal_summary(self, terminalreporter):
        if self.records:
            from pymem.pytestreport import summary_lines
            terminalreporter.section("pymem: tests with most memory")
            for line in summary_lines(self.records, self.config.option.pymem_top,
                                      self.width(), self.folder):
                terminalreporter.write_line(line)


# Memory that fails.

@pytest.fixture
def failing_memory():
    """Blocks of code in which requests for memory fail: the n-th one, each in turn, a share.

    for k in failing_memory.each():     # the first request, then the second, ...
        with k:                         # ... of this block
            parse("...")                # a MemoryError ends the block, and is no error
    """
    try:
        from pymem.pytestfaults import FailingMemory
    except ImportError as error:
        return fail("failing_memory: pymem was not built for this CPython %d.%d: pip install "
                    "it with this Python (%s)" % (*sys.version_info[:2], error))
    return FailingMemory()
