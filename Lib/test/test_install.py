"""make install, and a program outside the tree; options of configure."""

import json
import re
import shutil
import sys

import pytest

from conftest import BUILD, TOP, VERSION, clean_environment, run

PROGRAM = """
#include <Python.h>
int main(void)
{
    char *text = PyMem_New(char, 6);
    int *numbers = PyObject_Calloc(10, sizeof(int));
    if (text == NULL || numbers == NULL || numbers[9] != 0) {
        return 1;
    }
    strcpy(text, "works");
    PyMem_Resize(text, char, 1000);
    puts(text);
    PyMem_Free(text);
    PyObject_Free(numbers);
    return 0;
}
"""


@pytest.fixture(scope="session")
def prefix(tmp_path_factory):
    directory = tmp_path_factory.mktemp("prefix")
    result = run("make", "-s", "-C", BUILD, "install", f"prefix={directory}")
    assert result.returncode == 0, result.stderr
    return directory


def pkg_config(prefix, *options, package="pymem"):
    result = run("pkg-config", *options, package, environment=clean_environment(
        PKG_CONFIG_PATH=str(prefix / "lib" / "pkgconfig")))
    assert result.returncode == 0, result.stderr
    # configure's own prefix is in the file; installed elsewhere for the test
    return result.stdout.replace("/usr/local", str(prefix)).split()


def compile_program(prefix, tmp_path, source, *flags, compiler="cc"):
    path = tmp_path / ("prog.c" if compiler == "cc" else "prog.cc")
    path.write_text(source)
    program = tmp_path / "prog"
    result = run(compiler, "-Wall", "-Werror", path, "-o", program, *flags)
    assert result.returncode == 0, result.stderr
    return run(program, environment=clean_environment(
        LD_LIBRARY_PATH=str(prefix / "lib")))


def test_shared(prefix, tmp_path):
    flags = pkg_config(prefix, "--cflags", "--libs")
    assert compile_program(prefix, tmp_path, PROGRAM, *flags).stdout == "works\n"
    needed = run("readelf", "-d", tmp_path / "prog").stdout
    assert "libpymem.so.0" in needed


def test_static(prefix, tmp_path):
    flags = pkg_config(prefix, "--cflags", "--libs", "--static")
    result = compile_program(prefix, tmp_path, PROGRAM, "-static", *flags)
    assert result.stdout == "works\n"


def test_cplusplus(prefix, tmp_path):
    source = PROGRAM.replace("PyObject_Calloc(10, sizeof(int))",
                             "(int *)PyObject_Calloc(10, sizeof(int))")
    flags = pkg_config(prefix, "--cflags", "--libs")
    result = compile_program(prefix, tmp_path, source, *flags, compiler="c++")
    assert result.stdout == "works\n"


def test_containers_of_cplusplus(prefix, tmp_path):
    """Doc/examples/containers.cc: a memory resource and an allocator."""
    flags = pkg_config(prefix, "--cflags", "--libs")
    source = (TOP / "Doc" / "examples" / "containers.cc").read_text()
    result = compile_program(prefix, tmp_path, source, "-std=c++17", "-Wextra",
                             "-Wno-missing-field-initializers", *flags, compiler="c++")
    assert (result.returncode, result.stdout) == (0, "works\n")


@pytest.fixture(scope="module")
def pkg_config_environment(prefix, tmp_path_factory):
    """As after configure --prefix=PREFIX."""
    folder = tmp_path_factory.mktemp("pkgconfig")
    text = (prefix / "lib" / "pkgconfig" / "pymem.pc").read_text()
    (folder / "pymem.pc").write_text(text.replace("/usr/local", str(prefix)))
    return clean_environment(PKG_CONFIG_PATH=str(folder),
                             LD_LIBRARY_PATH=str(prefix / "lib"))


@pytest.mark.parametrize("static", [False, True])
def test_a_program_built_with_cmake(pkg_config_environment, tmp_path, static):
    if shutil.which("cmake") is None:
        pytest.skip("needs cmake (Debian: cmake)")
    (tmp_path / "prog.c").write_text(PROGRAM)
    (tmp_path / "CMakeLists.txt").write_text(f"""
cmake_minimum_required(VERSION 3.16)
project(prog C)
find_package(PkgConfig REQUIRED)
pkg_check_modules(PYMEM REQUIRED IMPORTED_TARGET pymem)
add_executable(prog prog.c)
if({int(static)})
  target_include_directories(prog PRIVATE ${{PYMEM_STATIC_INCLUDE_DIRS}})
  target_link_libraries(prog PRIVATE -static ${{PYMEM_STATIC_LDFLAGS}})
else()
  target_link_libraries(prog PRIVATE PkgConfig::PYMEM)
endif()
""")
    for command in (["cmake", "-S", tmp_path, "-B", tmp_path / "out"],
                    ["cmake", "--build", tmp_path / "out"]):
        result = run(*command, environment=pkg_config_environment)
        assert result.returncode == 0, result.stdout + result.stderr
    result = run(tmp_path / "out" / "prog", environment=pkg_config_environment)
    assert result.stdout == "works\n"
    needed = run("readelf", "-d", tmp_path / "out" / "prog").stdout
    assert ("libpymem.so.0" in needed) == (not static)


def test_a_program_built_with_autotools(pkg_config_environment, tmp_path):
    (tmp_path / "prog.c").write_text(PROGRAM)
    (tmp_path / "configure.ac").write_text("""
AC_INIT([prog], [1])
AM_INIT_AUTOMAKE([foreign])
AC_PROG_CC
PKG_CHECK_MODULES([PYMEM], [pymem >= 1.0])
AC_CONFIG_FILES([Makefile])
AC_OUTPUT
""")
    (tmp_path / "Makefile.am").write_text("""
bin_PROGRAMS = prog
prog_SOURCES = prog.c
prog_CFLAGS = $(PYMEM_CFLAGS)
prog_LDADD = $(PYMEM_LIBS)
""")
    for command in (["autoreconf", "-i"], ["./configure", "-q"], ["make", "-s"]):
        result = run(*command, environment=pkg_config_environment, cwd=tmp_path)
        assert result.returncode == 0, result.stdout + result.stderr
    result = run(tmp_path / "prog", environment=pkg_config_environment)
    assert result.stdout == "works\n"


def test_the_faults_module_is_installed(prefix):
    folder = next((prefix / "lib").glob("*/python"))
    result = run(sys.executable, "-c", "import pymem.faults as faults; "
                 "print(type(faults.call(lambda: bytes(900), 'object', fail_from=1)"
                 ".exception).__name__)",
                 environment=clean_environment(PYTHONPATH=str(folder)))
    assert result.stdout == "MemoryError\n", result.stderr


def test_what_shows_the_heap_is_installed(prefix, tmp_path):
    """All of it: pymem-run, the package with its pages, the recorder and the player."""
    folder = next((prefix / "lib").glob("*/python"))
    (tmp_path / "app.py").write_text("kept = [str(i) for i in range(30_000)]\n")

    def see(*arguments, **variables):
        result = run(prefix / "bin" / "pymem-run", sys.executable, "-m", "pymem",
                     *arguments, environment=clean_environment(
                         PYTHONPATH=str(folder), **variables))
        assert result.returncode == 0, result.stderr
        return result.stdout
    assert json.loads(see("stats", "--json", tmp_path / "app.py"))["threshold"] == 512
    for command in ("heapmap", "flame"):
        see(command, "-o", tmp_path / f"{command}.html", tmp_path / "app.py")
        assert "</html>" in (tmp_path / f"{command}.html").read_text()
    result = run(sys.executable, tmp_path / "app.py", environment=clean_environment(
        LD_PRELOAD=str(folder / "record.so"), PYMEM_TRACE=str(tmp_path / "trace")))
    assert result.returncode == 0, result.stderr
    assert {"classic", "pymem", "glibc"} <= {
        line.split()[0] for line in see("replay", tmp_path / "trace").splitlines() if line}


def test_one_version(prefix):
    """The project's own, from configure.ac alone."""
    version = re.search(r"AC_INIT\(\[pymem\], \[(.*?)\]\)",
                        (TOP / "configure.ac").read_text())[1]
    assert run(prefix / "bin" / "pymem-run", "--version").stdout == f"pymem-run {version}\n"
    for package in ("pymem", "pymeminstall"):
        assert pkg_config(prefix, "--modversion", package=package) == [version]
    result = run(sys.executable, "-m", "pymem", "--version", environment=clean_environment(
        PYTHONPATH=str(next((prefix / "lib").glob("*/python")))))
    assert result.stdout == f"pymem {version}\n", result.stderr


def test_soname_and_exports(prefix):
    library = prefix / "lib" / "libpymem.so"
    assert "SONAME" in run("readelf", "-d", library).stdout
    exported = {line.split()[-1].split("@")[0] for line in
                run("nm", "-D", "--defined-only", library).stdout.splitlines()}
    exported.discard("PYMEM_1.0")
    assert {"PyMem_RawMalloc", "PyObject_Free", "_Py_GetAllocatedBlocks",
            "PyTraceMalloc_Track"} <= exported
    assert all(name.startswith(("Py", "_Py")) for name in exported)
    assert not {"_PyObject_Malloc", "_PyMem_Allocators"} & exported


def test_each_public_header_compiles_alone(prefix, tmp_path):
    include = prefix / "include" / "pymem"
    headers = [path.relative_to(include) for path in include.rglob("*.h")]
    assert len(headers) == 15
    for header in headers:
        source = tmp_path / "one.c"
        # The one for other CPythons comes after their Python.h.
        first = "#include <Python.h>\n" if header.name == "pymemcompat.h" else ""
        source.write_text(f"{first}#include <{header}>\nint x;\n")
        result = run("cc", "-std=c11", "-Wall", "-Wextra", "-Werror", "-c",
                     f"-I{include}", source, "-o", tmp_path / "one.o")
        assert result.returncode == 0, (header, result.stderr)


def test_uninstall_leaves_no_file(tmp_path):
    for target in ("install", "uninstall"):
        result = run("make", "-s", "-C", BUILD, target, f"prefix={tmp_path}")
        assert result.returncode == 0, result.stderr
    assert [path for path in tmp_path.rglob("*") if not path.is_dir()] == []
    assert not (tmp_path / "include" / "pymem").exists()


@pytest.mark.once
@pytest.mark.parametrize("options, words", [
    (["--with-pool-bits=11"], "--with-pool-bits takes 12 to 15"),
    (["--with-arena-bits=30", "--with-pool-bits=14"],
     '--with-arena-bits takes 14 to 20, not "30"'),
    (["--with-arena-bits=20", "--with-pool-bits=12"],
     'an arena holds 1 to 64 pools: with pools of 2**12 bytes '
     '--with-arena-bits takes 12 to 18, not "20"'),
    (["--with-arena-bits=many"], 'not "many"'),
    (["--with-pydebug=perhaps"], '--with-pydebug takes yes or no, not "perhaps"'),
])
def test_configure_refuses(tmp_path, options, words):
    result = run(TOP / "configure", "-q", *options, cwd=tmp_path)
    assert result.returncode != 0
    assert words in result.stderr, result.stderr
    assert not (tmp_path / "Makefile").exists()


@pytest.mark.once
def test_configure_ends_with_a_summary(tmp_path):
    result = run(TOP / "configure", "--with-arena-bits=18",
                 "--with-pool-bits=12", "--enable-pystats", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    summary = result.stdout[-1000:]
    assert "arenas, pools             2**18, 2**12 bytes" in summary
    assert "pystats                   yes" in summary
    shutil.rmtree(tmp_path, ignore_errors=True)


def test_pymem_run_from_its_prefix(prefix):
    result = run(prefix / "bin" / "pymem-run", "--stats", sys.executable, "-c",
                 "print('works')")
    assert result.stdout == "works\n"
    assert result.stderr.startswith("Small block threshold = 512")
    assert (prefix / "share" / "man" / "man1" / "pymem-run.1").exists()


def test_a_program_that_embeds(prefix, tmp_path):
    flags = pkg_config(prefix, "--cflags", "--libs", package="pymeminstall")
    python = run("pkg-config", "--cflags", "--libs", f"python-{VERSION}-embed").stdout.split()
    source = (TOP / "Doc" / "examples" / "embed.c").read_text()
    result = compile_program(prefix, tmp_path, source, *flags, *python)
    assert "488890\n" in result.stdout


def test_what_is_installed_into_an_interpreter_is_shared_only(prefix):
    """An archive would bring our PyMem functions beside the interpreter's."""
    assert not list((prefix / "lib").glob("**/*install*.a"))
    assert not list((prefix / "lib").glob("**/*preload*.a"))
    symbols = run("nm", "-D", "--defined-only", prefix / "lib" / "libpymeminstall.so")
    assert "PyMem_Malloc" not in symbols.stdout
    assert "pymem_install" in symbols.stdout
