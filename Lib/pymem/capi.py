"""Functions of the C API, to be called from Python: for experiments and lessons.

    p = malloc(37)                  PyObject_Malloc(37), as an address
    write(p, b"...")
    free(p)

A wrong address does here what it does in C.
"""

import ctypes

DOMAINS = {"raw": "PyMem_Raw", "mem": "PyMem_", "object": "PyObject_"}


def _function(domain, name, result, *arguments):
    function = ctypes.pythonapi[DOMAINS[domain] + name]
    function.restype, function.argtypes = result, arguments
    return function


def malloc(size, domain="object"):
    """The address of a block, or None when there is no memory."""
    return _function(domain, "Malloc", ctypes.c_void_p, ctypes.c_size_t)(size)


def calloc(nelem, elsize, domain="object"):
    return _function(domain, "Calloc", ctypes.c_void_p, ctypes.c_size_t,
                     ctypes.c_size_t)(nelem, elsize)


def realloc(address, size, domain="object"):
    return _function(domain, "Realloc", ctypes.c_void_p, ctypes.c_void_p,
                     ctypes.c_size_t)(address, size)


def free(address, domain="object"):
    _function(domain, "Free", None, ctypes.c_void_p)(address)


def read(address, size):
    return ctypes.string_at(address, size)


def read_pointer(address):
    return ctypes.c_void_p.from_address(address).value or 0


def write(address, data):
    ctypes.memmove(address, bytes(data), len(data))
