"""What a benchmark ran on, as far as the figures depend on it."""

import os
import platform
import re
from pathlib import Path


def read(path):
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def processor():
    cpuinfo = read("/proc/cpuinfo")
    found = re.search(r"^(?:model name|Model|cpu model|uarch)\s*: (.*)$", cpuinfo, re.M)
    return found[1] if found else platform.machine()


def is_virtual():
    return re.search(r"^flags.*\bhypervisor\b", read("/proc/cpuinfo"), re.M) is not None


def memory_gib():
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30


def governor():
    found = {read(path) for path in
             Path("/sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_governor")}
    return ", ".join(sorted(found)) or "not told"


def huge_pages():
    found = re.search(r"\[(\w+)\]", read("/sys/kernel/mm/transparent_hugepage/enabled"))
    return found[1] if found else "none"


def describe():
    """[(what, value)]"""
    return [
        ("processor", f"{processor()}, {os.cpu_count()} of them, {memory_gib():.0f} GiB"
                      + (", a virtual machine" if is_virtual() else "")),
        ("frequency", f"governor: {governor()}"),
        ("system", f"Linux {platform.release()}, {' '.join(platform.libc_ver())}, "
                   f"huge pages: {huge_pages()}"),
        ("load", f"{os.getloadavg()[0]:.2f}, average of the last minute"),
        ("Python", platform.python_version())]


def version_of(library):
    """The file that a name of a library leads to: it tells the version."""
    return os.path.basename(os.path.realpath(library))
