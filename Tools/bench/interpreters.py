"""What interpreters with a GIL each do at once: run by bench_interpreters.py.

Prints the wall time and the processor time, in seconds, of N interpreters that each do
the same work in a separate thread.
"""

import sys
import threading
import time

try:
    import _interpreters

    def create():
        return _interpreters.create("isolated")
    execute = _interpreters.exec
except ImportError:
    import _xxsubinterpreters as _interpreters

    def create():
        return _interpreters.create(isolated=True)
    execute = _interpreters.run_string

WORK = """
for _ in range(12):
    rows = [(i, float(i), str(i)) for i in range(60_000)]
    table = {}
    for a, b, c in rows:
        table[c] = [a, b]
    del rows, table
"""


def main():
    interpreters = [create() for _ in range(int(sys.argv[1]))]
    threads = [threading.Thread(target=execute, args=(interpreter, WORK))
               for interpreter in interpreters]
    wall, processor = time.perf_counter(), time.process_time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(time.perf_counter() - wall, time.process_time() - processor)
    for interpreter in interpreters:
        _interpreters.destroy(interpreter)


main()
