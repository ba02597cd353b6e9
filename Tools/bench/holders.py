"""Programs that hold memory in a function that is known: compare-memray looks for it.

    python holders.py NAME          runs one; only the standard library is used

As a WSGI application (gunicorn holders:leaky) each request leaves some 2 KB in remember().
"""

import collections
import json
import re
import sqlite3
import sys

kept = []
cache = {}


def load_records():
    """Much is there at the end."""
    text = json.dumps([{"id": i, "name": f"item {i}", "values": [i * 1.1, i * 2.2]}
                       for i in range(40_000)])
    for _ in range(5):
        kept[:] = [json.loads(text)]


class Node:
    def __init__(self, number, before):
        self.number, self.before, self.name = number, before, f"node {number}"


def build_graph():
    """Much is there at the peak only."""
    for _ in range(5):
        node = None
        for i in range(150_000):
            node = Node(i, node)
        while node is not None:
            node = node.before


def count_words():
    """Little is there, and much comes and goes."""
    import typing
    with open(typing.__file__) as file:
        text = file.read()
    counts = collections.Counter()
    for _ in range(30):
        counts.update(word.lower() for word in re.findall(r"[A-Za-z_]+", text))
    kept.append(counts)


def remember(key):
    cache[key] = f"{key:010}" * 200
    return cache[key]


def handle(number):
    for i in range(50):
        json.dumps({"number": number, "text": "x" * 100})
    return remember(number)


def serve_requests():
    """A cache that is never emptied, behind calls."""
    for number in range(8_000):
        handle(number)


def fill_table():
    """A library of C has it, from malloc."""
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE items (number INTEGER, text TEXT)")
    connection.executemany("INSERT INTO items VALUES (?, ?)",
                           ((i, "x" * 60) for i in range(500_000)))
    kept.append(connection)


def leaky(environ, start_response):
    body = handle(len(cache)).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]


# {program: the function that has its memory}
PROGRAMS = {"load_records": "load_records", "build_graph": "build_graph",
            "count_words": "count_words", "serve_requests": "remember",
            "fill_table": "fill_table"}

if __name__ == "__main__":
    globals()[sys.argv[1]]()
