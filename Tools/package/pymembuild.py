"""The backend that pip and build call (PEP 517): wheels and source distributions.

Needs nothing but the standard library and a C compiler, so that neither a network nor
setuptools is needed.
"""

import base64
import hashlib
import io
import sys
import sysconfig
import tarfile
import tempfile
import zipfile
from pathlib import Path

import compiling
from projectfiles import TOP, all_files, make_list, version

NAME = "pymem-cpython"
FOLDER = f"{NAME.replace('-', '_')}-{version()}"
ENTRY_POINTS = ("[console_scripts]\npymem = pymem.__main__:program\n\n"
                "[pytest11]\npymem = pymem.pytestplugin\n")


def metadata():
    readme = (TOP / "README.rst").read_text(encoding="utf-8")
    return (f"Metadata-Version: 2.1\nName: {NAME}\nVersion: {version()}\n"
            "Summary: CPython's memory subsystem written again: a cheap tracemalloc, an "
            "allocator, heap tools\n"
            "License: MIT\nRequires-Python: >=3.8\n"
            "Classifier: Framework :: Pytest\n"
            "Classifier: Operating System :: POSIX :: Linux\n"
            "Classifier: Programming Language :: Python :: Implementation :: CPython\n"
            f"Description-Content-Type: text/x-rst\n\n{readme}")


def tag():
    """For this Python, its ABI and this type of machine."""
    python = "cp%d%d" % sys.version_info[:2]
    debug = "d" if sysconfig.get_config_var("Py_DEBUG") else ""
    platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    return f"{python}-{python}{debug}-{platform}"


class Wheel:
    """A wheel that is being written, and what its RECORD will say."""

    def __init__(self, path):
        self.zip = zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED)
        self.record = []

    def add(self, name, data, mode=0o644):
        info = zipfile.ZipInfo(name)
        info.external_attr = (0o100000 | mode) << 16
        info.compress_type = zipfile.ZIP_DEFLATED
        self.zip.writestr(info, data)
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=")
        self.record.append(f"{name},sha256={digest.decode()},{len(data)}\n")

    def close(self, folder):
        name = f"{folder}/RECORD"
        self.record.append(f"{name},,\n")
        self.zip.writestr(name, "".join(self.record))
        self.zip.close()


def information():
    """{name in the folder .dist-info: bytes}"""
    wheel = ("Wheel-Version: 1.0\nGenerator: pymembuild\nRoot-Is-Purelib: false\n"
             f"Tag: {tag()}\n")
    return {"METADATA": metadata().encode(), "WHEEL": wheel.encode(),
            "entry_points.txt": ENTRY_POINTS.encode(),
            "licenses/LICENSE": (TOP / "LICENSE").read_bytes()}


def write_wheel(path, products, program):
    wheel, folder = Wheel(path), f"{FOLDER}.dist-info"
    for source in make_list("PACKAGE_SOURCES") + make_list("CONFORMANCE_SOURCES"):
        wheel.add(source[len("Lib/"):], (TOP / source).read_bytes())
    for name, product in products.items():
        wheel.add(name, product.read_bytes(), 0o755)
    wheel.add(f"{FOLDER}.data/scripts/pymem-run", program.read_bytes(), 0o755)
    for name, data in information().items():
        wheel.add(f"{folder}/{name}", data)
    wheel.close(folder)


# What pip and build call.

def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    name = f"{FOLDER}-{tag()}.whl"
    with tempfile.TemporaryDirectory(prefix="pymem-build-") as scratch:
        try:
            products, program = compiling.build(scratch)
        except compiling.BuildError as error:
            sys.exit(f"pymem: {error}")
        write_wheel(Path(wheel_directory) / name, products, program)
    return name


def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None):
    folder = Path(metadata_directory) / f"{FOLDER}.dist-info"
    for name, data in information().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder.name


def build_sdist(sdist_directory, config_settings=None):
    name = f"{FOLDER}.tar.gz"
    with tarfile.open(Path(sdist_directory) / name, "w:gz", format=tarfile.PAX_FORMAT) as tar:
        for path in all_files():
            tar.add(TOP / path, f"{FOLDER}/{path}", recursive=False)
        data = metadata().encode()
        info = tarfile.TarInfo(f"{FOLDER}/PKG-INFO")
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
    return name
