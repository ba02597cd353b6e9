"""What pymem-run has a Python run for -m pymem: its own pymem, or else this one.

Of the folder that this pymem is in nothing but these tools is found: of what pip has put
beside them much may be of another version of Python.
"""

import os
import runpy
import sys
from importlib.machinery import PathFinder

HERE = os.path.dirname(os.path.abspath(__file__))
NAMES = {"pymem", "_pymem", "_pymemfaults", "_pymemtracer"}


class Finder:
    """After those that the interpreter has."""
    @staticmethod
    def find_spec(name, path=None, target=None):
        return PathFinder.find_spec(name, [os.path.dirname(HERE)]) if name in NAMES else None


if __name__ == "__main__":
    if sys.path and os.path.realpath(sys.path[0]) == os.path.realpath(HERE):
        sys.path[0] = os.getcwd()       # as with -m
    sys.meta_path.append(Finder)
    runpy.run_module("pymem", run_name="__main__", alter_sys=True)
