"""Compile and link what the wheel has, for the Python that runs this.

Owns the command lines; which sources there are, projectfiles.py knows.
"""

import os
import platform
import shlex
import shutil
import struct
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from projectfiles import TOP, compiler_flags, configured, make_list, version

OLDEST, NEWEST = (3, 8), (3, 15)
PYTHON = "%d.%d" % sys.version_info[:2]


class BuildError(Exception):
    """What is missing, and how to get it, in a line."""


def say(text):
    print(f"pymem: {text}", file=sys.stderr, flush=True)


def check_python():
    """Is it one that the sources know?"""
    name = f"{sys.implementation.name} {PYTHON}"
    if not sys.platform.startswith("linux"):
        raise BuildError(f"pymem is for Linux, and this is {sys.platform}")
    if sys.implementation.name != "cpython" or not OLDEST <= sys.version_info[:2] <= NEWEST:
        raise BuildError("pymem knows CPython %d.%d to %d.%d, and this is %s"
                         % (*OLDEST, *NEWEST, name))
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        raise BuildError(f"this CPython {PYTHON} is free-threaded; pymem needs one with "
                         "the GIL")


def include_folder():
    """Where the headers of this Python are; the tracer needs the internal ones."""
    folder = Path(sysconfig.get_path("include"))
    for name in ("Python.h", "internal/pycore_pystate.h"):
        if not (folder / name).exists():
            raise BuildError(
                f"{folder / name} is missing: the headers of CPython {PYTHON} (Debian, "
                f"Ubuntu: apt-get install libpython{PYTHON}-dev; Fedora: dnf install "
                f"python{PYTHON}-devel)")
    return folder


def find_compiler():
    command = shlex.split(os.environ.get("CC") or "cc")
    if shutil.which(command[0]) is None:
        raise BuildError(f"there is no C compiler {command[0]} (Debian, Ubuntu: apt-get "
                         "install gcc libc6-dev; or CC=...)")
    return command


class Builder:
    """Objects and products in a folder."""

    def __init__(self, folder):
        check_python()
        self.folder = Path(folder)
        self.compiler = find_compiler()
        self.python_include = include_folder()
        given = shlex.split(os.environ.get("CFLAGS") or "-O2")
        self.flags = [*compiler_flags(), *self.hardening(given), "-fPIC", "-pthread", *given]
        # __has_include and similar tests differ by what was configured, never by the machine.
        (self.folder / "pyconfig.h").write_text(configured(struct.calcsize("P")))
        ours = [TOP / "Include" / "internal", TOP / "Include"]
        self.ours = [f"-I{self.folder}", *(f"-I{path}" for path in reversed(ours))]
        beside = TOP / "Include" / "internal" / "pycore_installnames.h"
        self.beside = [*self.ours, "-include", str(beside)]
        # CPython's Python.h, and of ours what it has not.
        self.theirs = ["-DPYMEMFAULTS_IN_CPYTHON", f"-I{self.python_include}",
                       f"-I{ours[0]}", "-idirafter", str(ours[1]), "-fvisibility=default",
                       f'-DPACKAGE_VERSION_TEXT="{version()}"']
        internal = self.python_include / "internal"
        self.tracer = ["-DTRACER_BESIDE", "-DTRACE_FRAME_BITS="
                       + ("12" if sys.version_info < (3, 10) else "14")]
        self.module = [*self.tracer, f"-I{self.python_include}", f"-I{internal}",
                       "-fvisibility=default"]
        self.jobs, self.done = [], 0

    def hardening(self, given):
        """As configure asks for it."""
        return self.run(["sh", TOP / "Tools" / "hardening-flags", *self.compiler,
                         *given]).split()

    def run(self, command):
        result = subprocess.run([str(word) for word in command], text=True, errors="replace",
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if result.returncode != 0:
            raise BuildError(f"{shlex.join(map(str, command))} failed:\n{result.stdout}")
        return result.stdout

    def add(self, kind, flags, sources):
        """Compiles sources later, with others. Returns the objects that there will be."""
        objects = []
        for source in sources:
            objects.append(self.folder / f"{kind}-{Path(source).stem}.o")
            self.jobs.append((source, [*self.compiler, *self.flags, *flags, "-c",
                                       TOP / source, "-o", objects[-1]]))
        return objects

    def compile_one(self, job):
        source, command = job
        self.run(command)
        self.done += 1
        say(f"compiled {self.done} of {len(self.jobs)}: {source}")

    def compile(self):
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            list(pool.map(self.compile_one, self.jobs))

    def link(self, name, objects, *flags, exports=None):
        """A shared object with an export list, or a program without."""
        path = self.folder / name
        options = ["-shared", "-Xlinker", f"--version-script={TOP / exports}"] if exports else []
        self.run([*self.compiler, "-pthread", *make_list("HARDENED_LINK"),
                  *shlex.split(os.environ.get("LDFLAGS") or ""), *options,
                  "-o", path, *objects, *flags])
        return path

    def link_near(self, name, objects, *flags, exports):
        """The same for a low address; {} where configure would have none either."""
        if platform.machine() != "x86_64" or struct.calcsize("P") != 8:
            return {}
        try:
            return {f"pymem/{name}": self.link(name, objects, *flags, *make_list("NEAR_LINK"),
                                               exports=exports)}
        except BuildError:
            return {}


def build(folder):
    """{path in site-packages: file}, and the program pymem-run."""
    b = Builder(folder)
    abi = f"Python/tracer/abi/cpython{PYTHON.replace('.', '')}.c"
    tables = b.add("tables", b.ours, make_list("TABLE_PARTS"))
    pymem = (b.add("pymem", b.theirs, make_list("PYMEM_MODULE"))
             + b.add("pymem", b.ours, make_list("PYMEM_MODULE_PARTS")))
    faults = b.add("faults", b.theirs, make_list("PYMEMFAULTS_MODULE")) + tables
    tracer = (b.add("tracer", b.module, [*make_list("TRACER_MODULE"), abi])
              + b.add("tracer", [*b.ours, *b.tracer], make_list("TRACER_MODULE_PARTS")))
    preload = b.add("preload", b.beside, make_list("libpymembeside_la_SOURCES")
                    + make_list("pymem_preload_la_SOURCES"))
    run = b.add("run", [*b.ours, f'-DPYTHON_VERSION="{PYTHON}"',
                        f'-DPACKAGE_VERSION_TEXT="{version()}"'],
                make_list("pymem_run_SOURCES"))
    worker = b.add("bench", b.ours, make_list("bench_worker_SOURCES"))
    record = b.add("bench", b.ours, make_list("RECORD_PARTS"))
    attach = b.add("attach", b.ours, make_list("ATTACH_PARTS"))
    driver = b.add("driver", ["-fvisibility=default"], make_list("CONFORMANCE_DRIVER"))
    b.compile()
    exports, suffix = "Modules/module.map", sysconfig.get_config_var("EXT_SUFFIX")
    products = {
        "_pymem.abi3.so": b.link("_pymem.so", pymem, "-ldl", exports=exports),
        f"_pymemfaults{suffix}": b.link("_pymemfaults.so", faults, exports=exports),
        f"_pymemtracer{suffix}": b.link("_pymemtracer.so", tracer, "-ldl", "-lm",
                                        exports=exports),
        "pymem/pymem-preload.so": b.link("pymem-preload.so", preload, "-ldl", "-lm",
                                         exports="Misc/libpymeminstall.map"),
        **b.link_near("pymem-preload-near.so", preload, "-ldl", "-lm",
                      exports="Misc/libpymeminstall.map"),
        "pymem/bench-worker": b.link("bench-worker", worker, "-ldl"),
        "pymem/pymem-attach.so": b.link("pymem-attach.so", attach, "-shared"),
        "pymem/_pymemconformance.so": b.link("_pymemconformance.so", driver, "-shared"),
        "pymem/record.so": b.link("record.so", record, "-shared", "-ldl")}
    return products, b.link("pymem-run", run)
