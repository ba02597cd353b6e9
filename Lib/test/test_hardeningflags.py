"""What is installed is hardened: by which flags, and what is seen of them in the files.

test_package.py looks at the files of the wheel.
"""

import platform
import re
import shutil

import pytest

from conftest import BUILD, C_SOURCES, TOP, run
from elffiles import checked_calls, is_bound_at_once, readelf

FLAGS = TOP / "Tools" / "hardening-flags"
FORTIFY, STACK = "-D_FORTIFY_SOURCE=3", "-fstack-protector-strong"
# What a distribution asks for, and the marks that each object has then.
MARKS = {"x86_64": ("-fcf-protection", "IBT, SHSTK"),
         "aarch64": ("-mbranch-protection=standard", "BTI, PAC")}

pytestmark = pytest.mark.skipif(shutil.which("readelf") is None, reason="needs readelf")


def flags_of(*compiler):
    result = run("sh", FLAGS, *compiler)
    assert result.returncode == 0, result.stderr
    return result.stdout.split()


def test_flags_that_the_compiler_knows():
    """A compiler that marks returns anyway, as Ubuntu's, is left as it is."""
    flags = flags_of("cc", "-O2")
    assert {FORTIFY, STACK} <= set(flags)
    assert "-fcf-protection=return" not in flags_of("cc", "-O2", *flags)


def test_no_flags_beside_a_sanitizer():
    assert flags_of("cc", "-O1", "-fsanitize=address") == []


def test_without_a_compiler_it_says_how():
    result = run("sh", FLAGS)
    assert result.returncode == 2
    assert "hardening-flags COMPILER" in result.stdout


@pytest.mark.parametrize("name", [".libs/libpymem.so", ".libs/libpymeminstall.so",
                                  ".libs/pymem-preload.so", ".libs/pymem-preload-near.so",
                                  "pymem-run"])
def test_the_files_of_the_build(name):
    path = BUILD / name
    has_pymalloc = "#define WITH_PYMALLOC" in (BUILD / "pyconfig.h").read_text()
    if not has_pymalloc and not path.exists():
        pytest.skip("this build has no pymalloc")
    if "near" in name and not path.exists():
        pytest.skip("not on this processor, or not with this linker")
    assert is_bound_at_once(path)
    makefile = (BUILD / "Makefile").read_text()
    if FORTIFY in makefile and not re.search(r"^CFLAGS = .*-O0", makefile, re.M):
        assert "__snprintf_chk" in checked_calls(path)
    if STACK in makefile:
        assert "__stack_chk_fail" in readelf("--dyn-syms", path)


@pytest.mark.skipif(platform.machine() not in MARKS, reason="no marks on this processor")
def test_no_source_takes_a_mark_away(tmp_path):
    """An assembler file would, and the linker's product has a mark that all objects have."""
    flag, marks = MARKS[platform.machine()]
    result = run("cc", "-c", "-w", "-O0", flag, "-std=gnu11", "-D_GNU_SOURCE",
                 '-DMIMALLOC_LIBRARY="x"', f"-I{BUILD}", f"-I{TOP / 'Include'}",
                 f"-I{TOP / 'Include' / 'internal'}", *C_SOURCES, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    objects = list(tmp_path.glob("*.o"))
    assert len(objects) == len(C_SOURCES)
    for path in objects:
        assert marks in readelf("-n", path), path.name
