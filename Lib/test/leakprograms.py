"""Programs for test_leaks.py: ten that leak, and ten with a cache that fills and then stays.

    leakprograms.py NAME FOLDER

Each takes its steps for some seconds.  A program that leaks says how many bytes are kept; the
line that asks for most of them is the one with "# leaks: NAME".
"""

import time
started = time.monotonic()

import asyncio
import builtins
import collections
import ctypes
import functools
import gc
import importlib
import io
import linecache
import os
import queue
import re
import socket
import sys
import threading

SECONDS, STEPS, PAUSE = 2.5, 300, 0.004     # at least
SIZE = 4000
kept = []


def numbers():
    """As long as it is not over.  On a busy machine imports take seconds, and steps longer."""
    start = time.monotonic()
    until, number = start + max(SECONDS, 3 * (start - started)), 0
    while time.monotonic() < until or number < STEPS:
        yield number
        number += 1


def steps():
    for number in numbers():
        yield number
        time.sleep(PAUSE)


# Leaks.  Each returns how many bytes it has kept.

def dictionary(folder):
    answers = {}
    for number in steps():
        answers[number] = bytes(SIZE)                   # leaks: dictionary
    kept.append(answers)
    return len(answers) * SIZE


def unbounded_cache(folder):
    @functools.lru_cache(maxsize=None)
    def page(number):
        return "x" * SIZE                               # leaks: unbounded_cache
    for number in steps():
        page(number)
    kept.append(page)
    return page.cache_info().currsize * SIZE


class Job:
    """A cycle by its closure; its __del__ keeps it."""
    unfinished = []

    def __init__(self):
        self.data = bytes(SIZE)                         # leaks: finalizers
        self.again = lambda: self

    def __del__(self):
        Job.unfinished.append(self)


def finalizers(folder):
    for number in steps():
        Job()
    gc.collect()
    return len(Job.unfinished) * SIZE


def references(folder):
    """As an extension in C that forgets Py_DECREF()."""
    for number in steps():
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(bytes(SIZE)))   # leaks: references
    return (number + 1) * SIZE


def thread_local(folder):
    local, over = threading.local(), queue.Queue()

    def work():
        local.seen = []
        for number in steps():
            local.seen.append(bytes(SIZE))              # leaks: thread_local
        over.put(len(local.seen))
        threading.Event().wait()                        # with the thread it would go
    threading.Thread(target=work, daemon=True).start()
    return over.get() * SIZE


def tasks(folder):
    async def wait_for(event, data):
        await event.wait()

    async def main():
        event, waiting = asyncio.Event(), []
        kept.append(waiting)
        for number in numbers():
            waiting.append(asyncio.create_task(wait_for(event, bytes(SIZE))))  # leaks: tasks
            await asyncio.sleep(PAUSE)
    loop = asyncio.new_event_loop()         # run() would end all tasks
    loop.set_exception_handler(lambda loop, context: None)
    loop.run_until_complete(main())
    kept.append(loop)
    return len(kept[0]) * SIZE


def reloads(folder):
    """Each time a module is run again, it registers once more what it makes."""
    with open(os.path.join(folder, "plugin.py"), "w") as file:
        file.write("import builtins\ntable = bytes(%d)\nbuiltins.registry.append(table)\n"
                   % SIZE)
    builtins.registry = kept
    sys.path.insert(0, folder)
    plugin = importlib.import_module("plugin")
    for number in steps():
        importlib.reload(plugin)
    return len(kept) * SIZE


def exceptions(folder):
    def fail():
        data = bytes(SIZE)                              # leaks: exceptions
        raise ValueError(len(data))
    for number in steps():
        try:
            fail()
        except ValueError as error:
            kept.append(error)
    return len(kept) * SIZE


def buffers(folder):
    for number in steps():
        kept.append(ctypes.create_string_buffer(SIZE))  # leaks: buffers
    return len(kept) * SIZE


def arrays(folder):
    import numpy
    for number in steps():
        kept.append(numpy.zeros(SIZE, "u1"))            # leaks: arrays
    return len(kept) * SIZE


LEAKS = [dictionary, unbounded_cache, finalizers, references, thread_local, tasks, reloads,
         exceptions, buffers, arrays]


# What fills and then stays.

def bounded_cache(folder):
    @functools.lru_cache(maxsize=20)
    def page(number):
        return "x" * SIZE
    for number in steps():
        page(number)


def last_ones(folder):
    last = collections.deque(maxlen=20)
    for number in steps():
        last.append(bytes(SIZE))


def patterns(folder):
    """The module re keeps 512."""
    for number in steps():
        for i in range(40 if number < 15 else 1):
            re.compile(f"a{40 * number + i}")


def interned(folder):
    for number in steps():
        number %= 20
        kept[number:number + 1] = [sys.intern(f"{number:02}" * (SIZE // 2))]


def connections(folder):
    pool = queue.LifoQueue()
    for number in steps():
        if number < 20:
            pool.put((socket.socketpair(), bytearray(SIZE)))
        ends, data = pool.get()
        ends[0].send(b"x" * 100)
        data[:] = ends[1].recv(SIZE)
        pool.put((ends, bytearray(SIZE)))


def memo(folder):
    answers = {}
    for number in steps():
        answers[number] = bytes(SIZE)
        if len(answers) > 20:
            del answers[next(iter(answers))]


def source_lines(folder):
    names = [os.path.join(folder, f"{i}.py") for i in range(20)]
    for name in names:
        with open(name, "w") as file:
            file.write("pass\n" * 100)
    for number in steps():
        linecache.getlines(names[number % 20])
        linecache.checkcache()


def formats(folder):
    text = io.StringIO()
    for number in steps():
        text.write(f"{number:0{SIZE}}")
        if number % 20 == 19:
            text.seek(0)
            text.truncate()


def one_buffer(folder):
    buffer = bytearray()
    for number in steps():
        if len(buffer) < 20 * SIZE:
            buffer += bytes(SIZE)


def cycles(folder):
    for number in steps():
        for _ in range(4):
            cycle = [bytes(SIZE)]
            cycle.append(cycle)


CACHES = [bounded_cache, last_ones, patterns, interned, connections, memo, source_lines,
          formats, one_buffer, cycles]


if __name__ == "__main__":
    found = {program.__name__: program for program in LEAKS + CACHES}[sys.argv[1]](sys.argv[2])
    print(found)
