"""try.sh and its neighbours: options, folders, what they say."""

import os
import time

import pytest

from conftest import BUILD, TOP, clean_environment, run

TOOLS = TOP / "Tools"


def test_try_runs_a_script_with_arguments(python, tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import sys; print(sys.argv[1:], sys.executable)")
    start = time.monotonic()
    result = run("sh", TOOLS / "try.sh", script, "one", "two words",
                 cwd=tmp_path)
    assert result.stdout == f"['one', 'two words'] {BUILD / 'python'}\n", (
        result.stderr)
    assert time.monotonic() - start < 60    # nothing was built anew


def test_try_passes_the_exit_code_on(python, tmp_path):
    script = tmp_path / "script.py"
    script.write_text("raise SystemExit(3)")
    assert run("sh", TOOLS / "try.sh", script).returncode == 3


def test_sample_shows_what_memory_did(python):
    result = run("sh", TOOLS / "try.sh", cwd="/")
    assert result.returncode == 0, result.stderr
    assert "blocks came back" in result.stdout
    assert "# arenas allocated current" in result.stderr


@pytest.mark.parametrize("script", ["try.sh", "check.sh"])
def test_unknown_options_are_refused(script):
    result = run("sh", TOOLS / script, "--frobnicate")
    assert result.returncode == 2
    assert "unknown option --frobnicate" in result.stderr
    assert f"usage: sh Tools/{script}" in result.stderr


@pytest.mark.parametrize("script", ["try.sh", "check.sh"])
def test_help(script):
    result = run("sh", TOOLS / script, "--help")
    assert result.returncode == 0
    assert f"sh Tools/{script}" in result.stdout


def fake_commands(directory, **commands):
    for name, body in commands.items():
        path = directory / name.replace("_", "-")
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
    return clean_environment(PATH=f"{directory}:/usr/bin:/bin")


@pytest.fixture
def bare_machine(tmp_path):
    """Run try.sh where commands are replaced: a machine that lacks packages."""
    tools, commands = tmp_path / "Tools", tmp_path / "commands"
    tools.mkdir()
    commands.mkdir()
    for name in ("try.sh", "setup.sh"):
        (tools / name).write_text((TOOLS / name).read_text())

    def run_try(**bodies):
        result = run("sh", tools / "try.sh", stdin=open(os.devnull),
                     environment=fake_commands(commands, id="echo 1000",
                                               **bodies))
        assert result.returncode == 1
        assert sorted(os.listdir(tools)) == ["setup.sh", "try.sh"]
        assert not (tmp_path / "build").exists()
        return result.stderr

    return run_try


def missing(packages):
    return f"case $4 in {packages}) exit 1;; *) printf installed;; esac"


def test_without_root_the_apt_line_is_printed(bare_machine):
    said = bare_machine(sudo="exit 1", dpkg_query=missing("libtool"))
    assert ("neither root nor sudo. Please run as root: apt-get install -y "
            "--no-install-recommends libtool") in said


def test_installing_is_announced_and_goes_through_sudo(bare_machine, tmp_path):
    log = tmp_path / "log"
    said = bare_machine(
        sudo=f'printf "%s\\n" "$*" >> {log}; [ "$1" = -n ]',
        dpkg_query=missing("libtool|gcc"))      # and this apt-get fails
    assert "installing with apt-get: gcc libtool" in said
    assert "apt-get failed. What was tried: apt-get install" in said
    assert log.read_text().splitlines()[:2] == ["-n true", "apt-get update"]


def test_regrtest_compares_and_finds_a_difference(python, tmp_path):
    """One small file on both; then with a stock Python that fails it."""
    result = run(TOOLS / "regrtest", f"--build={BUILD}", "test_bool")
    assert result.returncode == 0, result.stdout
    assert "1 files, 1 pass, 0 differ from stock" in result.stdout
    (tmp_path / "python").symlink_to(BUILD / "python")
    (tmp_path / "python-stock").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "python-stock").chmod(0o755)
    result = run(TOOLS / "regrtest", f"--build={tmp_path}", "test_bool")
    assert result.returncode == 1
    assert "test_bool: passed on ours, did not run on stock" in result.stdout


@pytest.mark.parametrize("tool", ["regrtest", "relink"])
def test_python_tools_refuse_unknown_options(tool):
    result = run(TOOLS / tool, "--frobnicate")
    assert result.returncode == 2
    assert f"usage: {tool}" in result.stderr
