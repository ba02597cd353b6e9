"""Misc/pymemcompat.h: compiled and run with every CPython here, and our headers."""

import json

import pytest

from conftest import BUILD, TOP, pythons, run

QUESTION = ("import json, sysconfig; print(json.dumps([sysconfig.get_paths()['include'],"
            " sysconfig.get_config_var('Py_GIL_DISABLED')]))")
SOURCE = TOP / "Lib" / "test" / "pymemcompat_user.c"
FLAGS = ["-Wall", "-Wextra", "-Werror", "-Wno-missing-field-initializers",
         f"-I{TOP / 'Misc'}"]


@pytest.mark.parametrize("python", pythons(2, 3))
def test_with_a_cpython(python, tmp_path):
    include, free_threaded = json.loads(run(python, "-c", QUESTION).stdout)
    if free_threaded:
        pytest.skip("a free-threaded build has references of its own")
    library = tmp_path / "user.so"
    # -isystem: the headers themselves are not on trial.
    result = run("cc", "-shared", "-fPIC", *FLAGS, "-isystem", include, SOURCE,
                 "-o", library)
    assert result.returncode == 0, result.stderr
    result = run(python, "-c", "import ctypes, sys; "
                 "print(ctypes.PyDLL(sys.argv[1]).test_names())", library)
    assert result.stdout == "0\n", result.stderr


@pytest.mark.parametrize("compiler", ["cc", "c++"])
def test_with_our_headers(compiler, tmp_path):
    main = tmp_path / ("main.cc" if compiler == "c++" else "main.c")
    main.write_text(f'#include "{SOURCE}"\n#include <stdio.h>\n'
                    'int main(void) { printf("%d\\n", test_names()); return 0; }\n')
    result = run(compiler, *FLAGS, "-isystem", TOP / "Include", f"-I{BUILD}", main,
                 f"-L{BUILD / '.libs'}", "-lpymem", f"-Wl,-rpath,{BUILD / '.libs'}",
                 "-o", tmp_path / "main")
    assert result.returncode == 0, result.stderr
    assert run(tmp_path / "main").stdout == "0\n"
