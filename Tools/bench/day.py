"""A day of a web worker, in a minute or two.

    python day.py [--steps=N] [--seed=N] [--seconds=S]

A step is a minute of a day: requests come, more at noon than at night; sessions begin and
live from a minute to hours; a cache fills, loses its oldest pages and is emptied; now
and then a report is built from everything.  The same seed makes the same day in every
process.  A step begins when its time has come, if S seconds are given for all of them: a
worker waits for requests.

Printed is a line of JSON for each step: the bytes of all that lives (as sys.getsizeof()
sees it), the resident bytes that came since before the day, without what the kernel may
take, and the seconds of processor time.  Before them is a line about the allocator that
serves.  Only the standard library is used.
"""

import argparse
import heapq
import json
import math
import random
import sys
import time
from collections import OrderedDict

from whoserves import allocator

STEPS_IN_DAY = 1440
REQUESTS_AT_NOON = 60           # in a step
WORDS = [f"word{i:x}" for i in range(5000)]
CACHE_BYTES = 40_000_000


def size_of(thing):
    """Of an object and all in it; nothing is in two of them."""
    size = sys.getsizeof(thing)
    if isinstance(thing, dict):
        return size + sum(size_of(key) + size_of(value) for key, value in thing.items())
    if isinstance(thing, (list, tuple)):
        return size + sum(map(size_of, thing))
    return size


def resident_bytes():
    """Without LazyFree, which is the kernel's to take."""
    fields = {}
    with open("/proc/self/smaps_rollup") as file:
        for line in file:
            name, *values = line.split()
            if name in ("Rss:", "LazyFree:"):
                fields[name] = int(values[0]) * 1024
    return fields["Rss:"] - fields["LazyFree:"]


class Day:
    def __init__(self, seed):
        self.random = random.Random(seed)
        self.sessions = []              # a heap: (end, number, session, size)
        self.cache = OrderedDict()      # name: (page, size)
        self.cache_bytes = self.session_bytes = 0
        self.nsessions = 0

    def record(self):
        """What a query brings: a dict of strings, numbers and lists."""
        rand = self.random
        return {f"id{rand.getrandbits(30)}": rand.getrandbits(40),
                "name": " ".join(rand.choices(WORDS, k=3)) + str(rand.random()),
                "price": rand.random() * 100,
                "tags": [word + "!" for word in rand.choices(WORDS, k=rand.randrange(6))]}

    def begin_session(self, step):
        rand = self.random
        minutes = min(rand.lognormvariate(3.2, 1.4), 900)
        session = {"user": f"user {rand.getrandbits(40)}",
                   "cart": [self.record() for _ in range(1 + int(rand.expovariate(0.06)))],
                   "history": [f"/page/{rand.getrandbits(30)}"
                               for _ in range(int(rand.expovariate(0.05)))],
                   "token": bytes(rand.randrange(64, 4000))}
        size = size_of(session)
        self.nsessions += 1
        heapq.heappush(self.sessions,
                       (step + minutes, self.nsessions, session, size))
        self.session_bytes += size

    def end_sessions(self, step):
        while self.sessions and self.sessions[0][0] < step:
            self.session_bytes -= heapq.heappop(self.sessions)[3]

    def page(self):
        """From the cache, or rendered; popular ones are asked for more often."""
        rand = self.random
        name = int(rand.paretovariate(0.6)) % 200_000
        if name in self.cache:
            self.cache.move_to_end(name)
            return
        rows = [self.record() for _ in range(rand.randrange(2, 25))]
        page = "\n".join(json.dumps(row) for row in rows) * rand.randrange(1, 4)
        size = size_of(page)
        self.cache[name] = page, size
        self.cache_bytes += size
        while self.cache_bytes > CACHE_BYTES:
            self.cache_bytes -= self.cache.popitem(last=False)[1][1]

    def request(self):
        """Answered from some records, which are gone afterwards."""
        records = [self.record() for _ in range(self.random.randrange(5, 60))]
        answer = json.dumps(sorted(records, key=lambda record: record["price"]))
        return len(json.loads(answer))

    def report(self):
        """Everything in one table, which is gone afterwards."""
        table = [(session["user"], len(session["cart"]), str(end))
                 for end, _, session, _ in self.sessions]
        table += [self.record() for _ in range(20_000)]
        return len(json.dumps(table))

    def step(self, step):
        noon = (1 - math.cos(2 * math.pi * step / STEPS_IN_DAY)) / 2
        for _ in range(5 + int(REQUESTS_AT_NOON * noon)):
            self.request()
            self.page()
            if self.random.random() < 0.8:
                self.begin_session(step)
        self.end_sessions(step)
        if step % 240 == 239:           # a new version of the pages
            self.cache.clear()
            self.cache_bytes = 0
        if step % 120 == 60:
            self.report()


def main():
    parser = argparse.ArgumentParser(description="One day of a web worker.")
    parser.add_argument("--steps", type=int, default=STEPS_IN_DAY)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=0, help="0: without a pause")
    options = parser.parse_args()
    print(allocator(), flush=True)
    day, before, start = Day(options.seed), resident_bytes(), time.monotonic()
    for step in range(options.steps):
        begins = start + step * options.seconds / options.steps
        time.sleep(max(0, begins - time.monotonic()))
        day.step(step)
        print(json.dumps({"live": day.session_bytes + day.cache_bytes,
                          "held": resident_bytes() - before,
                          "seconds": round(time.process_time(), 3)}), flush=True)


if __name__ == "__main__":
    main()
