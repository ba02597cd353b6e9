"""Where other implementations are known to break a promise, and why.

A test in the list must fail there: if it passes, the entry is out of date.
"""

import re

OLD = r"CPython 3\.[89]\..*"
SMALL_ARENAS = "before 3.10 arenas have 256 KiB and pools 4 KiB"
PLAIN_FATAL = "before 3.9 a fatal error does not name the function"
PYPY_HOOKS = "PyPy has no debug hooks, and ignores PYTHONMALLOC"

# (tests, implementations, parameters or None, reason)
DIFFERENCES = [
    ("test_lines_add_up|"
     "test_rows_after_the_same_requests|test_form_is_cpythons", OLD, None,
     SMALL_ARENAS),
    ("test_long_overflow_text|test_without_gil|test_text_is_cpythons",
     r"CPython 3\.8\..*", None, PLAIN_FATAL),
    ("test_long_overflow_text|test_without_gil|test_text_is_cpythons|"
     "test_layout|test_a_request_without_room_for_the_marks_is_not_asked_for",
     "PyPy .*", None, PYPY_HOOKS),
    ("test_realloc_in_place", "PyPy .*", lambda domain, **rest: domain != 0,
     "PyPy asks malloc() for every block"),
    ("test_realloc_zero_keeps_block", "PyPy .*", lambda domain, **rest: domain == 2,
     "PyPy's PyObject_Realloc(p, 0) frees"),
    ("test_track_while_nothing_is_traced", "PyPy .*", None,
     "PyPy's PyTraceMalloc_Track tells its collector, and works always"),
]


def reason_to_differ(test, implementation, parameters):
    for names, implementations, wanted, reason in DIFFERENCES:
        if (re.fullmatch(names, test)
                and re.fullmatch(implementations, implementation)
                and (wanted is None or wanted(**parameters))):
            return reason
    return None
