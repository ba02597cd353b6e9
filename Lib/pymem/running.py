"""Run a person's script in this process, as the interpreter would."""

import os
import runpy
import sys
import threading
import traceback


def tracer():
    """The module pymem.tracemalloc; the interpreter's own where there is none for it."""
    try:
        from pymem import tracemalloc
    except ImportError:
        import tracemalloc
    return tracemalloc


class Ticker(threading.Thread):
    """Calls function() every so many seconds until it is stopped."""

    def __init__(self, function, seconds):
        super().__init__(daemon=True, name="pymem")
        self.function, self.seconds = function, seconds
        self.is_over = threading.Event()

    def run(self):
        while not self.is_over.wait(self.seconds):
            self.function()

    def stop(self):
        self.is_over.set()
        self.join()


def run_script(path, arguments, at_end=lambda: None):
    """Its exit status.  What it prints goes where it would go; at_end() is called while
    what it made is still there."""
    sys.argv = [path, *arguments]
    sys.path[0] = os.path.dirname(os.path.abspath(path))
    try:
        names = runpy.run_path(path, run_name="__main__")
        status = 0
    except SystemExit as end:
        names = end.__traceback__
        if end.code is None or isinstance(end.code, int):
            status = end.code or 0
        else:
            print(end.code, file=sys.stderr)
            status = 1
    except BaseException as error:
        names = error.__traceback__
        own = (os.path.dirname(__file__), "<frozen runpy>", runpy.__file__)
        frame = error.__traceback__
        while frame is not None and frame.tb_frame.f_code.co_filename.startswith(own):
            frame = frame.tb_next
        traceback.print_exception(type(error), error, frame)
        status = 1
    at_end()
    del names
    sys.stdout.flush()
    return status & 0xff
