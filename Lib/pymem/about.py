"""What a page says first: of which program it is, when it ran, how much, and how it was traced.

    facts = of_run(program, started)    a dict, which JSON can hold
    rows(facts)                         [(name, text)] of what is known

Facts are command (a list of words), pid, python (its version), started (seconds since 1970),
seconds, moment (as "the peak"), bytes, blocks, peak_bytes and sample_bytes (0: every block is
traced).  The JSON of attach and leaks has them too.
"""

import os
import sys
import time

from pymem import size_text

NAMES = ("command", "pid", "python", "started", "seconds", "moment", "bytes", "blocks",
         "peak_bytes", "sample_bytes")
NUMBERS = "started", "seconds", "bytes", "blocks", "peak_bytes", "sample_bytes"
LONGEST = 400           # letters of a command line: -c may have a whole program


def of_run(program, started):
    """Of a program that was run in this process."""
    from pymem.track import KINDS
    return {"command": [*KINDS[program.kind], program.what, *program.arguments],
            "pid": os.getpid(), "python": sys.version.split()[0], "started": started,
            "seconds": time.time() - started}


def of_process(pid):
    """Of another process, while it is there."""
    try:
        with open(f"/proc/{pid}/cmdline", encoding="utf-8", errors="replace") as file:
            words = file.read().rstrip("\0").split("\0")
    except OSError:
        words = None
    return {"command": words, "pid": pid}


def of_record(data):
    """Of JSON that attach, leaks or report wrote; TypeError, ValueError: it is none."""
    processes = data.get("processes") or [{}]
    facts = {name: data[name] for name in NAMES if data.get(name) is not None}
    facts = {**{name: processes[0][name] for name in NAMES if name in processes[0]}, **facts}
    facts.update((name, float(facts[name])) for name in NUMBERS if name in facts)
    if "command" in facts:
        facts["command"] = list(map(str, facts["command"]))
    return facts


def seconds_text(seconds):
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes = round(seconds) // 60
    return f"{minutes} min {round(seconds) % 60} s" if minutes < 120 else \
        f"{minutes // 60} h {minutes % 60} min"


def amount_text(facts):
    text = size_text(facts["bytes"])
    if "blocks" in facts:
        about = "about " if facts.get("sample_bytes") else ""
        text += f" in {about}{facts['blocks']:,.0f} blocks"
    return text + (f", {facts['moment']}" if "moment" in facts else "")


def command_text(command):
    import shlex                        # not before a program runs: it imports what it needs
    text = " ".join(map(shlex.quote, command))
    return text if len(text) <= LONGEST else text[:LONGEST - 1] + "…"


def tracing_text(sample_bytes):
    return f"one sample in about {size_text(sample_bytes)}; sizes and blocks are estimates" \
        if sample_bytes else "every allocation"


def rows(facts, earlier=None):
    """earlier: those of an earlier moment or file, which are told where they differ."""
    texts = {
        "command": ("Command", command_text),
        "pid": ("PID", str),
        "python": ("Python", "CPython {}".format),
        "started": ("Date", lambda started: time.strftime(
            "%Y-%m-%d %H:%M:%S %z", time.localtime(started))),
        "seconds": ("Duration", seconds_text),
        "peak_bytes": ("Peak", size_text),
        "bytes": ("Total", None),
        "sample_bytes": ("Traced", tracing_text)}

    def text_of(facts, name):
        if facts is None or facts.get(name) is None:
            return None
        return amount_text(facts) if name == "bytes" else texts[name][1](facts[name])
    found = []
    for name, (title, _) in texts.items():
        text, before = text_of(facts, name), text_of(earlier, name)
        if text is not None or before is not None:
            found.append((title, text if before in (None, text) else
                          f"{text or 'not known'}; earlier: {before}"))
    return found
