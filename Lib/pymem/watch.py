"""A live view of a heap: of another process, or of this one while a script runs.

A look at a heap of 1 GiB takes some milliseconds.  The view is renewed twice a second,
or less often where that would be more than its share of the time (COST).

Of this process also the allocation rate is known: now and then requests are counted for
some milliseconds, by hooks that are taken off again.  Of another one, in which nothing
is run, only what changed: blocks and arenas.  It goes on while it is read, so that sums
are off by what it did meanwhile; Process.heap() is exact.
"""

import os
import sys
import threading
import time

from pymem.heap import HeapError, Usage
from pymem.remote import Process, Torn

PERIOD = 0.5            # seconds from one look to the next
COST = 0.015            # of a processor, at the most, on average
COUNTED = 0.004         # seconds in which requests are counted, each time;
AVERAGED = 8            # the rate is of so many times


def size_text(nbytes):
    return f"{nbytes / 2**20:,.1f} MiB" if nbytes >= 2**20 else f"{nbytes / 1024:,.1f} KiB"


class Look:
    """A Usage, when it was seen, and rates since the one before."""

    def __init__(self, usage, before=None, requests=None):
        self.usage, self.time, self.requests = usage, time.monotonic(), requests
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

    def largest_classes(self, count=8):
        """(bytes in a block, pools, blocks) of the sizes that take most."""
        sizes = sorted(self.usage.sizes.items(), key=lambda item: -item[0] * item[1][1])
        return [(size, *counts) for size, counts in sizes[:count]]


class Lines:
    """Where there is no terminal, or no rich: a line a look."""

    def __init__(self, name):
        self.name = name

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def show(self, look, cost):
        text = "; ".join(f"{name} {fact}" for name, fact in look.facts())
        print(f"{self.name}: {text}; own cost {cost:.1%}", file=sys.stderr, flush=True)


class Screen:
    """With rich, in place."""

    def __init__(self, name):
        from rich.console import Console
        from rich.live import Live
        self.name = name
        self.live = Live(console=Console(stderr=True), auto_refresh=False)

    def __enter__(self):
        self.live.__enter__()
        return self

    def __exit__(self, *error):
        self.live.__exit__(*error)

    def show(self, look, cost):
        from rich.table import Table
        table = Table.grid(padding=(0, 2))
        table.add_row(f"[bold]{self.name}", f"[dim]own cost {cost:.1%}")
        for fact in look.facts():
            table.add_row(*fact)
        most = look.usage.used_bytes or 1
        for size, _, nblocks in look.largest_classes():
            share = size * nblocks / most
            table.add_row(f"[dim]{size:,} bytes", f"{'█' * round(30 * share):30} "
                          f"{nblocks:,} blocks, {share:.0%}")
        self.live.update(table, refresh=True)


def view(name):
    """A Screen on a terminal, where python3-rich is there; else Lines."""
    if not sys.stderr.isatty():
        return Lines(name)
    try:
        return Screen(name)
    except ImportError:
        print("pymem watch: lines only, as python3-rich is not there", file=sys.stderr)
        return Lines(name)


class Watch:
    """Looks, shown, with pauses that keep the cost within its share."""

    def __init__(self, name, look, pause):
        self.name, self.look, self.pause = name, look, pause
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
        with view(self.name) as shown:
            # What came before, loading rich above all, is over.
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
    watch = Watch(f"process {pid}", look, pause)
    try:
        watch.run()
    except KeyboardInterrupt:
        pass
    return watch


class OwnWatch:
    """Of this process, by a thread: start() and stop()."""

    def __init__(self):
        self.over = threading.Event()
        self.watch = Watch(f"process {os.getpid()}", self._look, self.over.wait)
        self.counted = []                   # (requests, bytes, seconds), the last ones
        self.thread = threading.Thread(target=self.watch.run, daemon=True,
                                       name="pymem watch")

    def _look(self, before):
        return Look(Usage.now(), before, self._count_requests())

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

    def start(self):
        Usage.now()             # whether it can be seen at all
        self.thread.start()

    def stop(self):
        self.over.set()
        self.thread.join()
