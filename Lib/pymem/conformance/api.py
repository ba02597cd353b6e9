"""The functions of a subject as Python calls them: by ctypes, with the driver or without.

Calls what find() gives addresses of.  For any Python since 3.8, PyPy's too.
"""

import ctypes
import re
import sys
import sysconfig

from pymem.conformance.promises import NotProvided

PREFIXES = ["PyMem_Raw", "PyMem_", "PyObject_"]
FAMILY = ["Malloc", "Calloc", "Realloc", "Free"]
OTHERS = ["PyMem_GetAllocator", "PyMem_SetAllocator", "PyMem_SetupDebugHooks",
          "PyObject_GetArenaAllocator", "PyObject_SetArenaAllocator",
          "_PyMem_GetAllocatorName", "_PyMem_SetupAllocators",
          "_PyObject_DebugMallocStats", "_PyMem_GetCurrentAllocatorName",
          "PyTraceMalloc_Track", "PyTraceMalloc_Untrack"]
GIL = ["PyGILState_Ensure", "PyGILState_Release"]
WHAT = {b"m": "malloc", b"c": "calloc", b"r": "realloc", b"f": "free"}
IS_PYPY = sys.implementation.name == "pypy"
if IS_PYPY:     # its memmove of ctypes takes a second for 4 MB
    import _cffi_backend
    _byte = _cffi_backend.new_pointer_type(_cffi_backend.new_primitive_type("char"))

    def move(address, data, size):
        _cffi_backend.memmove(_cffi_backend.cast(_byte, address), data, size)
else:
    move = ctypes.memmove
# Holds the GIL in a call, as extensions do; PyPy's functions take it themselves.
Holding = getattr(ctypes, "PyDLL", ctypes.CDLL)
Prototype = getattr(ctypes, "PYFUNCTYPE", ctypes.CFUNCTYPE)


class Call(ctypes.Structure):
    _fields_ = [("domain", ctypes.c_int), ("what", ctypes.c_char), ("ptr", ctypes.c_void_p),
                ("size", ctypes.c_size_t), ("result", ctypes.c_void_p)]


class Arenas(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in ("nalloc", "nfree", "wrong")]


SIGNATURES = {      # result, arguments
    "Malloc": (ctypes.c_void_p, ctypes.c_size_t),
    "Calloc": (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t),
    "Realloc": (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t),
    "Free": (None, ctypes.c_void_p)}


class Interpreter:
    """Finds functions in the interpreter that runs this."""

    def __init__(self):
        if IS_PYPY:
            import cpyext       # noqa: F401  makes its C API ready
        self.library = getattr(ctypes, "pythonapi", None) or ctypes.CDLL(None)

    def find(self, name):
        if IS_PYPY:
            name = re.sub("^(_?)Py", r"\1PyPy", name)
        try:
            return ctypes.cast(self.library[name], ctypes.c_void_p).value
        except AttributeError:
            return None


class Dl_info(ctypes.Structure):
    _fields_ = [("file", ctypes.c_char_p), ("base", ctypes.c_void_p),
                ("symbol", ctypes.c_char_p), ("address", ctypes.c_void_p)]


class Library:
    """Finds functions in a shared object, and not in those that it is linked with."""

    def __init__(self, path, prefix):
        import os
        self.prefix = prefix
        self.path = os.path.realpath(path)
        self.library = ctypes.CDLL(path, mode=os.RTLD_NOW | os.RTLD_LOCAL
                                   | getattr(os, "RTLD_DEEPBIND", 0))

    def own(self, name):
        import os
        try:
            address = ctypes.cast(self.library[name], ctypes.c_void_p).value
        except AttributeError:
            return None
        info = Dl_info()
        found = ctypes.CDLL(None).dladdr(ctypes.c_void_p(address), ctypes.byref(info))
        is_own = found and os.path.realpath(os.fsdecode(info.file)) == self.path
        return address if is_own else None

    def find(self, name):
        """malloc and its kind are a raw domain."""
        address = self.own(name)
        if address is None and name.startswith("PyMem_Raw"):
            address = self.own(self.prefix + name[len("PyMem_Raw"):].lower())
        return address


class Functions:
    """What can be called without the driver."""

    def __init__(self, subject):
        self.version = sys.version_info[:2]
        self.free_threaded = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
        self.debug_build = hasattr(sys, "gettotalrefcount")
        self.pymalloc = bool(sysconfig.get_config_var("WITH_PYMALLOC")) and not self.free_threaded
        self.mimalloc = bool(sysconfig.get_config_var("WITH_MIMALLOC"))
        self.addresses = {name: subject.find(name) for name in
                          [prefix + each for prefix in PREFIXES for each in FAMILY] + OTHERS}
        interpreter = Interpreter()
        for name in GIL:
            self.addresses[name] = interpreter.find(name)
        self.error_occurred = Prototype(ctypes.c_void_p)(interpreter.find("PyErr_Occurred"))
        self.error_clear = Prototype(None)(interpreter.find("PyErr_Clear"))
        self.functions = [[self.function(prefix + each, *SIGNATURES[each]) for each in FAMILY]
                          for prefix in PREFIXES]

    def function(self, name, result, *arguments):
        address = self.addresses[name]
        return address and Prototype(result, *arguments)(address)

    def domains(self):
        return [domain for domain, family in enumerate(self.functions) if all(family)]

    def need(self, name):
        if not self.addresses.get(name):
            raise NotProvided(name)

    def need_pymalloc(self):
        if not self.pymalloc:
            raise NotProvided("pymalloc")

    def need_gil(self):
        if self.free_threaded:
            raise NotProvided("GIL")

    def need_debug_hooks(self, domain):
        self.need("PyMem_SetupDebugHooks")

    def takes_exception(self):
        """Is an exception set?  None is, afterwards."""
        is_set = bool(self.error_occurred())
        if is_set:
            self.error_clear()
        return is_set

    def malloc(self, domain, size):
        return self.functions[domain][0](size)

    def calloc(self, domain, nelem, elsize):
        return self.functions[domain][1](nelem, elsize)

    def realloc(self, domain, block, size):
        return self.functions[domain][2](block, size)

    def free(self, domain, block):
        self.functions[domain][3](block)

    read = staticmethod(ctypes.string_at)

    @staticmethod
    def write(address, data):
        move(address, data, len(data))

    @staticmethod
    def allocated_blocks():
        return sys.getallocatedblocks()

    def __getattr__(self, name):
        raise NotProvided("C compiler, for " + name)


class Driver(Functions):
    """Calls through the driver, whose hooks see them."""

    def __init__(self, subject, path):
        super().__init__(subject)
        self.holding, self.free_running = Holding(path), ctypes.CDLL(path)
        for name, address in self.addresses.items():
            self.holding.testpymem_provide(name.encode(), ctypes.c_void_p(address))
        for number, each in enumerate(FAMILY):
            function = self.holding["testpymem_" + each.lower()]
            function.restype, *arguments = SIGNATURES[each]
            function.argtypes = [ctypes.c_int] + arguments
            setattr(self, each.lower(), function)
        self.holding.testpymem_take_missing.restype = ctypes.c_char_p

    def ask(self, name, *arguments, result=ctypes.c_int, of=None):
        function = (of or self.holding)["testpymem_" + name]
        function.restype = result
        value = function(*arguments)
        missing = self.holding.testpymem_take_missing()
        if missing:
            raise NotProvided(missing.decode())
        return value

    def hook(self, domain, fail_at=0, on=False):
        self.ask("hook", domain, ctypes.c_long(fail_at), int(on))

    def unhook(self, domain):
        self.ask("unhook", domain)

    def hook_is_set(self, domain):
        return self.ask("hook_is_set", domain) == 1

    def take_calls(self):
        room = (Call * 65536)()
        count = self.ask("take_calls", room, ctypes.c_size_t(65536), result=ctypes.c_size_t)
        return [(each.domain, WHAT[each.what], each.ptr, each.size, each.result)
                for each in room[:count]]

    def arena_hook(self, offset, fail_at=0, on=False):
        self.ask("arena_hook", ctypes.c_size_t(offset), ctypes.c_long(fail_at), int(on))

    def arena_hook_is_set(self):
        return self.ask("arena_hook_is_set") == 1

    def arenas(self):
        counts = self.ask("arenas", result=Arenas)
        return counts.nalloc, counts.nfree, counts.wrong

    def get_allocator(self, domain):
        fields = (ctypes.c_size_t * 5)()
        self.ask("get_allocator", domain, fields)
        return tuple(fields)

    def debug_hooks_around_hook(self, domain):
        self.ask("debug_hooks_around_hook", domain)

    def malloc_stats(self, path):
        return self.ask("malloc_stats", path.encode())

    def track(self, domain, address, size):
        return self.ask("track", domain, ctypes.c_size_t(address), ctypes.c_size_t(size))

    def untrack(self, domain, address):
        return self.ask("untrack", domain, ctypes.c_size_t(address))

    def malloc_without_gil(self, domain):
        self.ask("malloc_without_gil", domain, of=self.free_running)

    def load(self, name, *arguments):
        """None, or what is wrong.  The GIL is free in it where the domain needs none."""
        of = self.free_running if arguments[0] == 0 else self.holding
        if self.ask(name, *arguments, of=of) == 0:
            return None
        return ctypes.string_at(ctypes.addressof(
            ctypes.c_char.in_dll(self.holding, "testpymem_problem"))).decode()

    def threads(self, domain, count, rounds, forks):
        return self.load("threads", domain, count, rounds, forks)

    def blocks_of_an_ended_thread(self, domain):
        return self.load("blocks_of_an_ended_thread", domain)

    def exhaust(self, domain, size, extra):
        return self.load("exhaust", domain, ctypes.c_size_t(size), ctypes.c_size_t(extra))

    def churn(self, domain, size, grown, rounds, extra):
        return self.load("churn", domain, *map(ctypes.c_size_t, (size, grown, rounds, extra)))
