"""The standard module tracemalloc with pymem's tracer under it.

    import pymem.tracemalloc as tracemalloc

The functions and classes are those of the standard module, and snapshots are the standard
ones.  start() also takes sample_bytes, and keep_peak() keeps who had the memory at the peak.
In a CPython that is linked with pymem it is the
interpreter's own tracer, which is pymem's; in any other an extension module that was
built with that version's headers, and hooks the allocators that the process has.
"""

import _imp
import tracemalloc as _standard
import _tracemalloc as _tracer
from tracemalloc import (BaseFilter, DomainFilter, Filter, Frame, Snapshot, Statistic,
                         StatisticDiff, Trace, Traceback)

__all__ = ["BaseFilter", "DomainFilter", "Filter", "Frame", "Snapshot", "Statistic",
           "StatisticDiff", "Trace", "Traceback", "clear_traces", "get_object_traceback",
           "get_sample_bytes", "get_traceback_limit", "get_traced_memory",
           "get_tracemalloc_memory", "is_tracing", "keep_peak", "reset_peak", "start", "stop",
           "take_peak_snapshot", "take_snapshot"]

if not hasattr(_tracer, "get_sample_bytes"):
    try:
        import _pymemtracer as _tracer
    except ModuleNotFoundError as error:
        import sys
        raise ImportError(
            "pymem has no tracer for this CPython %d.%d here: pip install it with this "
            "Python, or link the interpreter with pymem (Tools/relink)"
            % sys.version_info[:2], name="_pymemtracer") from error

_get_object_traceback = _tracer._get_object_traceback
_get_traces = _tracer._get_traces
_get_named_traces = _tracer._get_named_traces
clear_traces = _tracer.clear_traces
get_sample_bytes = _tracer.get_sample_bytes
get_traceback_limit = _tracer.get_traceback_limit
get_traced_memory = _tracer.get_traced_memory
get_tracemalloc_memory = _tracer.get_tracemalloc_memory
is_tracing = _tracer.is_tracing
reset_peak = _tracer.reset_peak
_get_peak_traces = _tracer._get_peak_traces
_get_named_peak_traces = _tracer._get_named_peak_traces


def _refuse(nframe=1):
    raise RuntimeError("pymem.tracemalloc is tracing; one of the two at a time: "
                       "pymem.tracemalloc.stop() first")


_standard_start = _standard.start
_load_module = _imp.create_dynamic


def _load_and_link(*arguments):
    module = _load_module(*arguments)
    _tracer._link_others()
    return module


def _take_over(on):
    """What is in the place of others' functions while the module's tracer is on."""
    _standard.start = _refuse if on else _standard_start
    _imp.create_dynamic = _load_and_link if on else _load_module


def start(nframe=1, sample_bytes=0, *, seed=0, native=False):
    """Trace what is allocated from now on, with nframe frames at most.

    sample_bytes: trace only a sample for each so many bytes on average, and give estimates
    for sizes.  seed: a number that makes the same samples again.  native: also the C
    functions that were called; pymem flame --native shows them.
    """
    if native:
        from pymem.native import cold_loop
        _tracer.start(nframe, sample_bytes, seed, True, *cold_loop())
    else:
        _tracer.start(nframe, sample_bytes, seed)
    if _tracer.__name__ == "_pymemtracer":
        _take_over(True)


def stop():
    """Trace no more, and forget every trace.

    Where somebody has set another allocator over the tracer's, it stays below that one and
    only passes on.
    """
    _tracer.stop()
    if _tracer.__name__ == "_pymemtracer":
        _take_over(False)


def _snapshot_of(get_traces):
    if not is_tracing():
        raise RuntimeError("the tracemalloc module must be tracing memory allocations to "
                           "take a snapshot")
    return Snapshot(get_traces(), get_traceback_limit())


def take_snapshot():
    """A tracemalloc.Snapshot of all traces now; RuntimeError while nothing is traced."""
    return _snapshot_of(_get_traces)


def keep_peak(from_bytes=0):
    """Let the peak begin anew, and keep what take_peak_snapshot() gives.

    From so many traced bytes on all traces are copied each time that there is a sixteenth
    more than at the last copy.  reset_peak() drops the copy, and stop() ends this.
    """
    if from_bytes < 0:
        raise ValueError(f"keep_peak() takes a number of bytes, not {from_bytes}")
    _tracer._keep_peak(from_bytes)


def take_peak_snapshot():
    """A tracemalloc.Snapshot of the moment with most memory, or with at most a sixteenth
    less; empty where the peak is below what keep_peak() was told."""
    return _snapshot_of(_get_peak_traces)


def get_object_traceback(obj):
    """The Traceback of where an object was allocated; None where that is not known."""
    frames = _get_object_traceback(obj)
    return Traceback(frames) if frames is not None else None
