"""A driver module of the tests, as the promises of pymem.conformance ask for it."""

import sys


class Asked:
    """What the module has, and what a promise must know of the Python that runs it.  A
    function that the module does not have, or that raises NotImplementedError, is one
    that the implementation does not provide."""
    free_threaded = debug_build = False
    version = sys.version_info[:2]

    def __init__(self, module):
        self.module = module

    def __getattr__(self, name):
        return getattr(self.module, name)

    def need_pymalloc(self):
        """It is always there, or its functions are missing."""

    def need_debug_hooks(self, domain):
        """The same."""
