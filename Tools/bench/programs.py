"""Programs as people write them, to time a whole interpreter with.

    python programs.py NAME [TRACER FRAMES [SAMPLE_BYTES]]

Runs one of them and prints a line of JSON: seconds of processor time and the peak
resident set.  TRACER is tracemalloc or pymem.tracemalloc: it traces the program with
FRAMES and then dumps a snapshot, of which the line gives the bytes.  Only the standard
library is used.
"""

import importlib
import json
import os
import sys
import tempfile
import time


def json_documents():
    import json
    documents = [{"id": i, "name": f"item {i}", "values": [i * 1.1, i * 2.2],
                  "tags": {"a": i, "b": str(i)}} for i in range(20_000)]
    text = json.dumps(documents)
    for _ in range(4):
        json.loads(text)


def ast_and_compile():
    import ast
    import typing
    with open(typing.__file__) as file:
        source = file.read()
    for _ in range(5):
        compile(ast.parse(source), "typing", "exec")


def words():
    import collections
    import re
    import typing
    with open(typing.__file__) as file:
        text = file.read()
    counts = collections.Counter()
    for _ in range(25):
        counts.update(word.lower() for word in re.findall(r"[A-Za-z_]+", text))


def objects():
    class Plain:
        def __init__(self, x):
            self.x, self.next = x, None

    class Slots:
        __slots__ = ("x", "next")

        def __init__(self, x):
            self.x, self.next = x, None

    for cls in (Plain, Slots):
        for _ in range(4):
            head = None
            for i in range(100_000):
                node = cls(i)
                node.next, head = head, node
            while head is not None:
                head = head.next


def asyncio_tasks():
    import asyncio

    async def child(i):
        await asyncio.sleep(0)
        return [i, str(i)]

    async def parent():
        for _ in range(4):
            await asyncio.gather(*(child(i) for i in range(4_000)))

    asyncio.run(parent())


def pickle_and_deepcopy():
    import copy
    import pickle
    data = {i: [(i, str(i), float(i)), {"k": i}] for i in range(12_000)}
    for _ in range(3):
        pickle.loads(pickle.dumps(data))
    copy.deepcopy(data)


def fractions_and_ints():
    from fractions import Fraction
    total = Fraction(0)
    for i in range(1, 1_500):
        total += Fraction(1, i)
    n = 1
    for i in range(1, 4_000):
        n *= i
    n.bit_count()


def changing_dict():
    import random
    generator = random.Random(1)
    cache = {}
    for i in range(500_000):
        cache[generator.randrange(80_000)] = (i, i + 0.5)
        if i % 3 == 0:
            cache.pop(generator.randrange(80_000), None)


def strings():
    pieces = []
    for i in range(250_000):
        pieces.append(f"line {i}: {i * 3:x}")
    text = "\n".join(pieces)
    for _ in range(4):
        [line.upper().split(":") for line in text.splitlines()]


def heaps_and_permutations():
    import heapq
    import itertools
    heap = []
    for i in range(150_000):
        heapq.heappush(heap, ((i * 7919) % 100_003, i))
    while heap:
        heapq.heappop(heap)
    sum(1 for _ in itertools.permutations(range(9)))


def generators():
    def numbers(n):
        for i in range(n):
            yield i * 1.5, str(i)

    def chosen(pairs):
        for number, text in pairs:
            if len(text) % 2:
                yield text + "x", number

    for _ in range(6):
        table = dict(pair for pair in chosen(numbers(60_000)))
        assert len(table) > 1_000


def tuples_of_fresh_values():
    for _ in range(8):
        [(i, float(i), str(i)) for i in range(200_000)]


def dict_of_lists():
    for _ in range(6):
        table = {i: [i, i * 1.5, str(i)] for i in range(150_000)}
        assert len(table) == 150_000


# The last two do little else than allocate.
HEAVY = ["tuples_of_fresh_values", "dict_of_lists"]
PROGRAMS = [json_documents, ast_and_compile, words, objects, asyncio_tasks,
            pickle_and_deepcopy, fractions_and_ints, changing_dict, strings,
            heaps_and_permutations, generators, tuples_of_fresh_values, dict_of_lists]


def peak_kib():
    with open("/proc/self/status") as file:
        for line in file:
            if line.startswith("VmHWM:"):
                return int(line.split()[1])
    return 0


def dumped_bytes(tracer):
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "snapshot")
        tracer.take_snapshot().dump(path)
        return os.path.getsize(path)


def main():
    programs = {function.__name__: function for function in PROGRAMS}
    if len(sys.argv) not in (2, 4, 5) or sys.argv[1] not in programs:
        sys.exit("usage: programs.py NAME [TRACER FRAMES [SAMPLE_BYTES]]; names: "
                 + ", ".join(programs))
    tracer = importlib.import_module(sys.argv[2]) if len(sys.argv) > 2 else None
    if tracer is not None:
        tracer.start(*map(int, sys.argv[3:]))
    start = time.process_time()
    programs[sys.argv[1]]()
    written = dumped_bytes(tracer) if tracer is not None else 0
    spent = time.process_time() - start
    print(json.dumps({"seconds": spent, "rss_kib": peak_kib(), "written": written}))


if __name__ == "__main__":
    main()
