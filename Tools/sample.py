"""Real work of several kinds, and what the memory subsystem did for it."""

import collections
import json
import re
import sys
import threading
import time


class Node:
    __slots__ = ("key", "left", "right")

    def __init__(self, key):
        self.key = key
        self.left = self.right = None


def insert(root, key):
    while True:
        side = "left" if key < root.key else "right"
        child = getattr(root, side)
        if child is None:
            setattr(root, side, Node(key))
            return
        root = child


def tree(n=10_000):
    root = Node(n // 2)
    key = 1
    for _ in range(n):
        key = key * 16807 % 2147483647
        insert(root, key % n)
    return root


def documents(n=2_000):
    records = [{"id": i, "name": f"item {i}", "tags": ["a", "b", str(i % 7)],
                "price": i * 1.25} for i in range(n)]
    return json.loads(json.dumps(records))


def words(text, n=40):
    counts = collections.Counter()
    for _ in range(n):
        counts.update(re.findall(r"[A-Za-z_]+", text))
    return counts


def in_threads(work, n=4):
    results = [None] * n

    def run(i):
        results[i] = work()

    threads = [threading.Thread(target=run, args=(i,)) for i in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def main():
    start = time.perf_counter()
    with open(__file__) as file:
        text = file.read()
    work = {
        "a tree of 10,000 objects": tree,
        "2,000 documents through json": documents,
        "words by regular expression": lambda: words(text),
        "lists built by 4 threads": lambda: in_threads(
            lambda: [(i, str(i)) for i in range(10_000)]),
    }
    kept = []
    for name, function in work.items():
        before = sys.getallocatedblocks()
        kept.append(function())
        grown = sys.getallocatedblocks() - before
        print(f"{name:32} {grown:>9,} blocks more are in use")
    used = sys.getallocatedblocks()
    kept.clear()
    print(f"{'all of it dropped':32} "
          f"{used - sys.getallocatedblocks():>9,} blocks came back")
    print(f"{time.perf_counter() - start:.2f} seconds. "
          "The memory subsystem now:\n")
    sys.stdout.flush()
    sys._debugmallocstats()


main()
