"""Calls of a test module for a test that runs in another Python.

    oracle_server.py FOLDER MODULE

Each line of the input is a function of the module and its arguments, each line of
the output an error's name or None, and its text or the result.  Any Python 3.
"""

import importlib
import os
import sys


def serve(module):
    for line in sys.stdin:
        function, args = eval(line)     # literal_eval() leaves cycles behind,
                                        # and blocks are counted
        try:
            answer = (None, getattr(module, function)(*args))
        except Exception as error:
            answer = (type(error).__name__, str(error))
        print(repr(answer), flush=True)


# A library that the module is linked with goes before this interpreter's own.
if hasattr(os, "RTLD_DEEPBIND"):
    sys.setdlopenflags(os.RTLD_NOW | os.RTLD_DEEPBIND)
sys.path.insert(0, sys.argv[1])
serve(importlib.import_module(sys.argv[2]))
