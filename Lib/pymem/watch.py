"""A live view of a heap: of another process, or of this one while a script runs.

A look at a heap of 1 GiB takes some milliseconds.  The view is renewed twice a second,
or less often where that would be more than its share of the time (COST).

Of this process also the allocation rate is known: now and then requests are counted for
some milliseconds, by hooks that are taken off again.  And the sites that hold its memory
(pymem.sites).  Of another one, in which nothing is run, only what changed: blocks and arenas.
It goes on while it is read, so that sums are off by what it did meanwhile; Process.heap() is
exact.
"""

import io
import os
import sys
import threading
import time

from pymem import size_text
from pymem.heap import HeapError, Usage
from pymem.remote import Process, Torn
from pymem.sites import site_rows

PERIOD = 0.5            # seconds from one look to the next
COST = 0.015            # of a processor, at the most, on average
COUNTED = 0.004         # seconds in which requests are counted, each time;
AVERAGED = 8            # the rate is of so many times
SITES, CLASSES = 10, 8  # shown at the most;
SITE_LINES = 5          # without a terminal
NARROW = 80             # columns where there is no terminal
# A terminal that knows these shows what is between at once, so that nothing flickers.
BEGIN_SHOWING, END_SHOWING = "\033[?2026h", "\033[?2026l"
NOTE = "lines that grow: pymem leaks {pid}; that hold memory: pymem attach {pid}"


class Look:
    """A Usage, when it was seen, rates since the one before, and sites where known."""

    def __init__(self, usage, before=None, requests=None, sites=()):
        self.usage, self.time, self.requests = usage, time.monotonic(), requests
        self.sites = sites
        self.block_rate = self.arena_rate = 0.0
        if before:
            seconds = max(self.time - before.time, 1e-6)
            self.block_rate = (usage.used_blocks - before.usage.used_blocks) / seconds
            self.arena_rate = (self.arenas_bought - before.arenas_bought) / seconds

    @property
    def arenas_bought(self):
        figures = self.usage.figures
        return figures["arenas_allocated"] + figures["medium_arenas_allocated"]

    @property
    def arenas(self):
        figures = self.usage.figures
        return figures["arenas_current"] + figures["medium_arenas_current"]

    def facts(self):
        free, empty, used, full = self.usage.pools
        facts = [
            ("arenas", f"{self.arenas:,} of {size_text(self.usage.held_bytes)}, "
             f"{self.arena_rate:+.1f} bought a second"),
            ("pools", f"{full:,} full, {used:,} partly used, {empty:,} empty, {free:,} free"),
            ("blocks", f"{self.usage.used_blocks:,} of {size_text(self.usage.used_bytes)}, "
             f"{self.block_rate:+,.0f} a second"),
            ("fragmentation", f"{self.usage.fragmentation:.1%}")]
        if self.requests is not None:
            facts.append(("allocation rate", f"{self.requests[0]:,.0f} requests of "
                          f"{size_text(self.requests[1])} a second"))
        return facts

    def largest_classes(self, count):
        """(bytes in a block, pools, blocks) of the sizes that take most."""
        sizes = sorted(self.usage.sizes.items(), key=lambda item: -item[0] * item[1][1])
        return [(size, *counts) for size, counts in sizes[:count]]


class Lines:
    """Where there is no terminal, or no rich: a line a look, and some for sites."""

    def __init__(self, name, note):
        self.name, self.note = name, note

    def __enter__(self):
        if self.note:
            print(self.note, file=sys.stderr, flush=True)
        return self

    def __exit__(self, *error):
        pass

    def show(self, look, cost):
        text = "; ".join(f"{name} {fact}" for name, fact in look.facts())
        lines = [f"{self.name}: {text}; own cost {cost:.1%}"]
        if look.sites:
            lines += ["    " + row for row in site_rows(look.sites[:SITE_LINES], NARROW - 4)]
        print("\n".join(lines), file=sys.stderr, flush=True)


class Screen:
    """With rich, in place."""

    def __init__(self, name, note):
        from rich.console import Console
        from rich.live import Live
        self.name, self.note, self.console = name, note, Console(stderr=True)
        # What a program prints into a file stays there.
        self.live = Live(console=self.console, auto_refresh=False,
                         redirect_stdout=sys.stdout.isatty())
        # It imports more once it draws; that is no site, and no part of the cost.
        with Live("", console=Console(file=io.StringIO(), force_terminal=True)) as live:
            live.update("", refresh=True)

    def __enter__(self):
        self.live.__enter__()
        return self

    def __exit__(self, *error):
        self.live.__exit__(*error)

    def facts(self, look, cost):
        yield self.name, f"own cost {cost:.1%}", "bold"
        for name, fact in look.facts():
            yield name, fact, ""

    def classes(self, look, count):
        most = look.usage.used_bytes or 1
        for size, _, nblocks in look.largest_classes(count):
            share = size * nblocks / most
            yield f"{size:,} bytes", f"{'█' * round(30 * share):30} {nblocks:,} blocks, " \
                                     f"{share:.0%}", "dim"

    def show(self, look, cost):
        from rich.console import Group
        from rich.text import Text
        width, height = self.console.size
        room = height - len(look.facts()) - 3 - -(-len(self.note) // width)
        sites = look.sites[:max(min(SITES, room - 2), 1)]
        pairs = [*self.facts(look, cost),
                 *self.classes(look, max(min(CLASSES, room - len(sites)), 0))]
        column = max(len(name) for name, _, _ in pairs) + 2
        text = Text(no_wrap=True, overflow="crop")
        for name, fact, style in pairs:
            text.append(name.ljust(column), style).append(f"{fact}\n")
        if sites:
            head, *rows = site_rows(sites, width - 1)
            text.append(f"{head}\n", "dim")
            for row in rows:
                text.append(f"{row}\n")
        text.rstrip()
        parts = [text, Text(self.note, "dim")] if self.note else [text]
        self.console.file.write(BEGIN_SHOWING)
        self.live.update(Group(*parts), refresh=True)
        self.console.file.write(END_SHOWING)
        self.console.file.flush()


def view(name, note):
    """A Screen on a terminal, where python3-rich is there; else Lines."""
    if not sys.stderr.isatty():
        return Lines(name, note)
    try:
        return Screen(name, note)
    except ImportError:
        print("pymem watch: lines only, as python3-rich is not there", file=sys.stderr)
        return Lines(name, note)


class Watch:
    """Looks, shown, with pauses that keep the cost within its share."""

    def __init__(self, shown, look, pause):
        self.shown, self.look, self.pause = shown, look, pause
        self.started = time.monotonic()
        self.spent = 0.0                    # seconds of processor time of this thread
        self.nlooks = 0

    @property
    def cost(self):
        """Share of a processor so far."""
        return self.spent / max(time.monotonic() - self.started, PERIOD)

    def run(self):
        """Until pause() or look() says that it is over."""
        before = None
        with self.shown as shown:
            # What came before is over.
            self.started = time.monotonic()
            while True:
                start = time.thread_time()
                before = self.look(before)
                if before is None:
                    return
                shown.show(before, self.cost)
                self.spent += time.thread_time() - start
                self.nlooks += 1
                behind = self.spent / COST - (time.monotonic() - self.started)
                if self.pause(max(PERIOD, behind)):
                    return


def watch_process(pid, looks=None):
    """Until it ends, or so many looks."""
    process = Process(pid)

    def look(before):
        for _ in range(5):
            try:
                return Look(process.usage(), before)
            except Torn:
                continue
            except HeapError:
                return None
        return before

    def pause(seconds):
        if watch.nlooks == looks:
            return True
        time.sleep(seconds)
        return not os.path.exists(f"/proc/{pid}/task")
    watch = Watch(view(f"process {pid}", NOTE.format(pid=pid)), look, pause)
    try:
        watch.run()
    except KeyboardInterrupt:
        pass
    return watch


class OwnWatch:
    """Of this process, by a thread: start() and stop().  sites: pymem.sites.Sites, or None."""

    def __init__(self, sites=None):
        self.over, self.sites = threading.Event(), sites
        self.is_last = False                # the look that is taken
        self.counted = []                   # (requests, bytes, seconds), the last ones

    def _look(self, before):
        self.is_last = self.over.is_set()
        return Look(Usage.now(), before, self._count_requests(),
                    self.sites.look() if self.sites else ())

    def _count_requests(self):
        """(requests, bytes) a second; None where others count."""
        import _pymem
        try:
            _pymem.count()
        except RuntimeError:
            return None
        start = time.perf_counter()
        time.sleep(COUNTED)
        requests, nbytes, _ = _pymem.stop()
        self.counted.append((requests, nbytes, time.perf_counter() - start))
        del self.counted[:-AVERAGED]
        requests, nbytes, seconds = map(sum, zip(*self.counted))
        return requests / seconds, nbytes / seconds

    def _pause(self, seconds):
        """Whether it is over: one look more, which begins when it is."""
        if not self.is_last:
            self.over.wait(seconds)
        return self.is_last

    def start(self):
        Usage.now()             # whether it can be seen at all
        shown = view(f"process {os.getpid()}", "")
        try:
            if self.sites:
                self.sites.start()
        except HeapError as error:
            self.sites, shown.note = None, f"which lines: {error}"
        self.watch = Watch(shown, self._look, self._pause)
        self.thread = threading.Thread(target=self.watch.run, daemon=True,
                                       name="pymem watch")
        self.thread.start()

    def stop(self):
        self.over.set()
        self.thread.join()
        if self.sites:
            self.sites.stop()
