"""make install, and a program outside the tree; options of configure."""

import shutil

import pytest

from conftest import BUILD, TOP, clean_environment, run

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


def test_soname_and_exports(prefix):
    library = prefix / "lib" / "libpymem.so"
    assert "SONAME" in run("readelf", "-d", library).stdout
    exported = {line.split()[-1].split("@")[0] for line in
                run("nm", "-D", "--defined-only", library).stdout.splitlines()}
    exported.discard("PYMEM_3.14")
    assert {"PyMem_RawMalloc", "PyObject_Free", "_Py_GetAllocatedBlocks",
            "PyTraceMalloc_Track"} <= exported
    assert all(name.startswith(("Py", "_Py")) for name in exported)
    assert not {"_PyObject_Malloc", "_PyMem_Allocators"} & exported


def test_each_public_header_compiles_alone(prefix, tmp_path):
    include = prefix / "include" / "pymem"
    headers = [path.relative_to(include) for path in include.rglob("*.h")]
    assert len(headers) == 11
    for header in headers:
        source = tmp_path / "one.c"
        source.write_text(f"#include <{header}>\nint x;\n")
        result = run("cc", "-std=c11", "-Wall", "-Wextra", "-Werror", "-c",
                     f"-I{include}", source, "-o", tmp_path / "one.o")
        assert result.returncode == 0, (header, result.stderr)


def test_uninstall_leaves_no_file(tmp_path):
    for target in ("install", "uninstall"):
        result = run("make", "-s", "-C", BUILD, target, f"prefix={tmp_path}")
        assert result.returncode == 0, result.stderr
    assert [path for path in tmp_path.rglob("*") if not path.is_dir()] == []
    assert not (tmp_path / "include" / "pymem").exists()


@pytest.mark.parametrize("options, words", [
    (["--with-pool-bits=11"], "--with-pool-bits takes 12 to 15"),
    (["--with-arena-bits=30"], '--with-arena-bits takes 14 to 20, not "30"'),
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


def test_configure_ends_with_a_summary(tmp_path):
    result = run(TOP / "configure", "--with-arena-bits=18",
                 "--with-pool-bits=12", "--enable-pystats", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    summary = result.stdout[-1000:]
    assert "arenas, pools             2**18, 2**12 bytes" in summary
    assert "pystats                   yes" in summary
    shutil.rmtree(tmp_path, ignore_errors=True)


def test_pymem_run_from_its_prefix(prefix):
    result = run(prefix / "bin" / "pymem-run", "--stats", "/usr/bin/python3", "-c",
                 "print('works')")
    assert result.stdout == "works\n"
    assert result.stderr.startswith("Small block threshold = 512")
    assert (prefix / "share" / "man" / "man1" / "pymem-run.1").exists()


def test_a_program_that_embeds(prefix, tmp_path):
    flags = pkg_config(prefix, "--cflags", "--libs", package="pymeminstall")
    python = run("pkg-config", "--cflags", "--libs", "python-3.11-embed").stdout.split()
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
