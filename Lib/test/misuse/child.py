"""Runs programs or attacks of _misuse in the Python under test, and prints JSON.

    child.py FOLDER-OF-THE-MODULE programs|attacks [LOGS] < cases

Every program is a separate child; the parent has loaded all that is needed.  In the
folder LOGS a tool such as Valgrind writes what it finds, a file for each process.
"""

import json
import os
import resource
import signal
import sys
import tempfile

SECONDS = 20                    # of processor time
HUNG = 120                      # seconds in all: a machine may be busy


def run_program(module, case, stderr):
    for number in (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    signal.alarm(HUNG)
    os.dup2(stderr.fileno(), 2)
    os.dup2(stderr.fileno(), 1)
    module.run(*case)


def log_of(pid):
    if len(sys.argv) < 4:
        return ""
    with open(os.path.join(sys.argv[3], str(pid)), errors="replace") as log:
        return log.read(4000)


def program_in_child(module, case):
    """(status as that of subprocess, what was written)"""
    with tempfile.TemporaryFile() as stderr:
        child = os.fork()
        if child == 0:
            try:
                run_program(module, case, stderr)
                os._exit(0)
            except BaseException as error:
                os.write(2, f"{error!r}\n".encode())
            os._exit(4)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        stderr.seek(0)
        return status, stderr.read(4000).decode(errors="replace") + log_of(child)


def main():
    sys.path.insert(0, sys.argv[1])
    import _misuse
    with open("/proc/self/maps") as maps:
        libraries = sorted({os.path.basename(line.split()[-1]) for line in maps})
    print(json.dumps(libraries), flush=True)
    for case in json.load(sys.stdin):
        result = (_misuse.attack(*case) if sys.argv[2] == "attacks"
                  else program_in_child(_misuse, case))
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
