"""Tools around CPython's memory subsystem; each module says what it is for."""
