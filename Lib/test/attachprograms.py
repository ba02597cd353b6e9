"""Busy programs that are attached to: test_attach.py and Tools/stress-attach run them.

    attachprograms.py NAME [LIBRARY]        LIBRARY: attach_native.c, compiled

Prints "ready", does one kind of work until SIGTERM, looks whether its allocators are those of
the start, and prints "ok".
"""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
import warnings

FOLDER = os.path.dirname(os.path.abspath(__file__))
over = threading.Event()


def compile_native(folder):
    """The library of native(), in a folder."""
    library = os.path.join(folder, "native.so")
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-pthread", "-o", library,
                    os.path.join(FOLDER, "attach_native.c")], check=True)
    return library


def allocators():
    found = []
    for domain in range(3):
        allocator = (ctypes.c_void_p * 5)()
        ctypes.pythonapi.PyMem_GetAllocator(domain, allocator)
        found.append(list(allocator))
    return found


def work(n=300):
    kept = {i: (str(i), [float(i)] * (i % 50), bytearray(i)) for i in range(n)}
    text = "".join(kept[i][0] for i in kept)
    assert text.startswith("0123") and len(kept) == n
    return kept


def in_threads(n, function):
    def run():
        while not over.is_set():
            function()
    threads = [threading.Thread(target=run) for _ in range(n)]
    for thread in threads:
        thread.start()
    return threads


def compute():
    while not over.is_set():
        work()


def threads():
    for thread in in_threads(4, work):
        while thread.is_alive():
            thread.join(0.5)


def idle():
    over.wait()


def forks():
    """Children that go on without exec, and programs, while a thread is busy."""
    warnings.simplefilter("ignore")         # 3.12 and later warn of it
    others = in_threads(1, work)
    while not over.is_set():
        pid = os.fork()
        if pid == 0:
            work()
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        subprocess.run(["/bin/true"], check=True)
    others[0].join()


def interpreters():
    try:
        import _interpreters as module
    except ImportError:
        import _xxsubinterpreters as module
    run = getattr(module, "exec", None) or module.run_string

    def interpret():
        interpreter = module.create()
        try:
            run(interpreter, "kept = [(i, str(i), [i] * (i % 70)) for i in range(3000)]")
        finally:
            module.destroy(interpreter)
    # Before 3.12 they share the GIL, and some state that is not safe in two at once.
    for thread in in_threads(2 if sys.version_info >= (3, 13) else 1, interpret):
        thread.join()


def tasks():
    import asyncio

    async def echo(reader, writer):
        while data := await reader.readline():
            writer.write(data)
            await writer.drain()
        writer.close()

    async def talk(port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while not over.is_set():
            writer.write(b"x" * 1000 + b"\n")
            assert len(await reader.readline()) == 1001
            work(20)
            await asyncio.sleep(0.001)
        writer.close()

    async def main():
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        await asyncio.gather(*(talk(port) for _ in range(5)))
        server.close()
    asyncio.run(main())


def signals():
    """A handler that runs all the time."""
    seen = []
    signal.signal(signal.SIGALRM, lambda number, frame: seen.append(work(5)))
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    while not over.is_set():
        work()
        del seen[:]
        time.sleep(0.0005)
    signal.setitimer(signal.ITIMER_REAL, 0)


def native():
    library = ctypes.PyDLL(sys.argv[2])
    assert library.start_threads() == 0
    while not over.is_set():
        work()
    ctypes.CDLL(sys.argv[2]).end_threads()


PROGRAMS = [compute, threads, idle, forks, interpreters, tasks, signals, native]


def main():
    # Not set() at once: the thread that is interrupted may hold the lock of this event.
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=over.set).start())
    before = allocators()
    print("ready", flush=True)
    {program.__name__: program for program in PROGRAMS}[sys.argv[1]]()
    assert allocators() == before, (allocators(), before)
    print("ok", flush=True)


if __name__ == "__main__":
    main()
