"""In gdb: a stopped process is made to load pymem-attach.so and to call pymem_attach().

The command (pymem.attach) has set REQUEST, a dict.  A function is called in a thread that has
been stopped only where that can neither wait for ever nor break anything: where the thread
holds no lock of the C library.  That is so

    in the interpreter's own code, if nobody's malloc is in there;
    in a function of the C library that waits for something, as poll().

A thread in a signal handler, or with little stack left, is not asked.  Where no thread is in
such a place all of them go on for a moment.  No breakpoint is set in the program, so that it
may fork meanwhile.  The last line that is printed is "called" or says what is wrong.
"""

import os
import re
import time

import gdb

PAUSE = 0.02
ROOM = 128 * 1024                       # bytes of stack that the calls may take
HANDLER_DEPTH = 64                      # frames that are searched for a signal handler
MAP_PRIVATE_ANONYMOUS, READ_WRITE, RTLD_NOW = 0x22, 3, 2
WAITS = set("""
    accept accept4 clock_nanosleep connect epoll_pwait epoll_pwait2 epoll_wait flock nanosleep
    pause poll ppoll pread pselect pthread_cond_clockwait pthread_cond_timedwait
    pthread_cond_wait pthread_join read recv recvfrom recvmsg select sem_clockwait
    sem_timedwait sem_wait send sendmsg sendto sigtimedwait sigwait sigwaitinfo usleep wait4
    waitid waitpid write""".split())
# Of the interpreter's, which do nothing else; what they call may have no name.
WAITERS = {"_PySemaphore_Wait", "_PySemaphore_PlatformWait", "_PyParkingLot_Park",
           "PyThread_acquire_lock_timed"}
# Of a function of the C library, without what debug information has before and behind it.
NAME = re.compile(r"_*(?:(?:GI|libc|new)_+)?(\w*?)(?:_slow)?(?:64|_time64)?(?:[.@].*)?$")
SETTINGS = ["confirm off", "pagination off", "width 0", "language c", "unwindonsignal off",
            "print thread-events off", "backtrace limit unlimited"]


class Maps:
    """What is where in the process, as long as it is stopped."""

    def __init__(self, pid):
        self.lines = []
        with open(f"/proc/{pid}/maps", errors="surrogateescape") as lines:
            for line in lines:
                addresses, _, _, _, _, *path = line.rstrip("\n").split(None, 5)
                start, end = (int(address, 16) for address in addresses.split("-"))
                self.lines.append((start, end, path[0] if path else ""))

    def at(self, address):
        return next((line for line in self.lines if line[0] <= address < line[1]),
                    (0, 0, ""))

    def path(self, frame):
        return self.at(frame.pc())[2]


def has_room(maps, frame):
    stack = int(frame.read_register("sp"))
    start, _, path = maps.at(stack)
    return path == "[stack]" or stack - start >= ROOM       # the main thread's grows


def is_in_signal_handler(frame):
    for _ in range(HANDLER_DEPTH):
        if frame is None:
            return False
        if frame.type() == gdb.SIGTRAMP_FRAME:
            return True
        frame = frame.older()
    return False


def waits(maps, frame):
    name = None
    if frame is not None and maps.path(frame) == "[vdso]":     # a system call of i386
        frame = frame.older()
    while frame is not None and maps.path(frame) in REQUEST["libc"]:
        name, frame = frame.name(), frame.older()
    if frame is None:
        return False
    path = maps.path(frame)
    caller = os.path.basename(path)
    if not caller or caller.startswith("ld") or "alloc" in caller or "pymem" in caller:
        return False
    return (path == REQUEST["python"] and frame.name() in WAITERS
            or name is not None and NAME.match(name)[1] in WAITS)


def is_safe(maps, thread):
    thread.switch()
    frame = gdb.newest_frame()
    if not has_room(maps, frame) or is_in_signal_handler(frame):
        return False
    if maps.path(frame) == REQUEST["python"]:
        return not REQUEST["python_has_malloc"]
    return waits(maps, frame)


def call(result, name, *arguments):
    types = ",".join(kind for kind, _ in arguments) or "void"
    values = ",".join(str(value) for _, value in arguments)
    address = REQUEST["functions"].get(name, name)
    return int(gdb.parse_and_eval(f"(({result} (*)({types})){address})({values})"))


def pointer(value):
    return "unsigned long", value


def text_at(address):
    return gdb.parse_and_eval(f"(char *){address}").string(errors="replace")


def load_and_call(inferior):
    """What is wrong, or None."""
    data, size = REQUEST["data"], REQUEST["size"]
    pages = call("unsigned long", "mmap", pointer(0), pointer(size), ("int", READ_WRITE),
                 ("int", MAP_PRIVATE_ANONYMOUS), ("int", -1), ("long", 0))
    if pages == 2**(8 * gdb.lookup_type("unsigned long").sizeof) - 1:      # MAP_FAILED
        return "it has no memory for a request"
    inferior.write_memory(pages, data)
    handle = call("unsigned long", "dlopen", pointer(pages + REQUEST["path_at"]),
                  ("int", RTLD_NOW))
    function = handle and call("unsigned long", "dlsym", pointer(handle),
                               pointer(pages + REQUEST["name_at"]))
    if not function:
        error = call("unsigned long", "dlerror")
        text = text_at(error) if error else "dlopen failed"
        call("int", "munmap", pointer(pages), pointer(size))
        return text
    error = call("int", function, pointer(pages))
    return f"it can't start a thread: {os.strerror(error)}" if error else None


def ask(inferior):
    """errno is the thread's own, and stays as it was."""
    place = call("unsigned long", "__errno_location")
    before = inferior.read_memory(place, 4).tobytes()
    try:
        return load_and_call(inferior)
    finally:
        inferior.write_memory(place, before)


def quietly(command):
    gdb.execute(command, to_string=True)


def attempt():
    """"called" or what is wrong; None: no thread was in a place where it can be asked."""
    quietly(f"attach {REQUEST['pid']}")
    try:
        inferior, maps = gdb.selected_inferior(), Maps(REQUEST["pid"])
        threads = sorted(inferior.threads(), key=lambda thread: thread.num)
        if not any(is_safe(maps, thread) for thread in threads):
            return None
        return ask(inferior) or "called"
    finally:
        quietly("detach")


def main():
    for setting in SETTINGS:
        quietly(f"set {setting}")
    quietly("handle all nostop noprint pass")
    until = time.monotonic() + REQUEST["seconds"]
    answer = None
    while answer is None and os.path.exists(REQUEST["ticket"]):
        if time.monotonic() > until:
            answer = "no thread of it was in a place where it can be asked"
            break
        try:
            answer = attempt()
        except gdb.error as error:
            answer = str(error).splitlines()[0].rstrip(".")
        time.sleep(PAUSE)
    print(answer or "called")           # by the main thread, which has the ticket


main()
