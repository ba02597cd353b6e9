#!/usr/bin/python3
"""What attacks on an allocator get: CPython's own, ours, and other mallocs.

    bench_attacks.py [--build=DIR] [--runs=N] [--allocators=NAME,...] [--domain=LETTER]
                     [--json=FILE]

Each attack of Lib/test/misuse/attacks.c runs so many times under each allocator, each time
in a separate process, with blocks of one size.  Printed is how many of 100 runs got what
the attack wants; the others were stopped, crashed, or came to nothing (--json has each).
What is marked with * must not succeed in the hardened mode of pymem.
"""

import argparse
import json
import shutil
import sys
import tempfile

from bench import TOP, progress

sys.path.insert(0, str(TOP / "Lib" / "test"))
from misuse.attacktable import ATTACKS  # noqa: E402
from misuse.subjects import (PYTHON, SubjectFailed, build_module,  # noqa: E402
                             choose_subjects, run_attacks)


def measure(subjects, runs, domain):
    """{allocator: {(attack, size): {what became of it: runs}}}"""
    results = {}
    with tempfile.TemporaryDirectory(prefix="pymem-attacks-") as folder:
        build_module(folder)
        for name, subject in subjects.items():
            progress(f"{runs} runs of each attack: {name}")
            results[name] = run_attacks(subject, PYTHON, folder, ATTACKS, runs, domain)
    progress("")
    return results


def of_100(part, whole):
    """What is neither none nor all must not look so."""
    percent = 100 * part / whole
    if 0 < percent < 1:
        return "<1"
    return ">99" if 99 < percent < 100 else f"{percent:.0f}"


def share(ends):
    return of_100(ends["got it"], sum(ends.values()))


def headings(names, width):
    """Columns by their names; by letters with a list before, where those are too wide."""
    if sum(len(name) + 2 for name in names) <= width:
        return [f"{name:>{len(name) + 2}}" for name in names]
    letters = [chr(ord("A") + i) for i in range(len(names))]
    for letter, name in zip(letters, names):
        print(f"{letter}: {name}")
    return [f"{letter:>5}" for letter in letters]


def report(results):
    columns = headings(list(results), shutil.get_terminal_size().columns - 36)
    print(f"{'of 100 runs':30}{'bytes':>6}" + "".join(columns))
    wants = None
    for attack in ATTACKS:
        if attack.wants != wants:
            wants = attack.wants
            print(wants)
        for size in attack.sizes:
            mark = "*" if attack.never else " "
            cells = [f"{share(of_one[attack, size]):>{len(column)}}"
                     for of_one, column in zip(results.values(), columns)]
            print(f" {mark}{attack.name.replace('_', ' '):27}{size:>7}" + "".join(cells))


def parse_options():
    parser = argparse.ArgumentParser(
        prog="bench_attacks.py", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default=str(TOP / "build"))
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--allocators", metavar="NAME,...")
    parser.add_argument("--domain", choices="rmo", default="o",
                        help="r: raw, m: mem, o: object")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    if options.runs < 1:
        parser.error("--runs is at least 1")
    options.subjects = {
        name: subject for name, subject in choose_subjects(
            parser, options.build, options.allocators).items()
        if not subject.is_checker or options.allocators}
    return options


def main():
    options = parse_options()
    try:
        results = measure(options.subjects, options.runs, options.domain)
    except (SubjectFailed, OSError) as error:
        sys.exit(f"bench: {error}")
    report(results)
    if options.json:
        with open(options.json, "w") as file:
            json.dump({name: {f"{attack.name} {size}": ends for (attack, size), ends
                              in of_one.items()} for name, of_one in results.items()},
                      file, indent=1)


if __name__ == "__main__":
    main()
