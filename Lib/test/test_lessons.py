"""The documentation: sessions and commands do what is printed, and the pages are built.

A session (>>>) is run by the linked Python, a page at a time; commands ($) by a shell in
the top folder.  Files in /tmp are put into a folder of the test's own.
"""

import doctest
import io
import re
import shutil
import subprocess
import time
import zipfile
import zlib
from xml.etree import ElementTree

import pytest

from conftest import (BUILD, IS_64_BITS, TOP, VERSION, chromium, clean_environment, has_wasm,
                      make_playground, need_module, needs_chromium, run)

DOC = TOP / "Doc"
CHAPTERS = sorted((DOC / "how-it-works").glob("[0-9]*.rst"))
PAGES = sorted(DOC.rglob("*.rst"))
FOR_READERS = sorted((DOC / "begin").glob("*.rst"))
WITH_COMMANDS = [page for page in PAGES if "code-block:: console" in page.read_text()]
WITH_SESSIONS = [page for page in PAGES if ">>> " in page.read_text()]
needs_64_bits = pytest.mark.skipif(not IS_64_BITS,
                                   reason="the pages show a CPython of 64 bits")


def name(page):
    return str(page.relative_to(DOC))


def here(text, folder):
    """The text for this build and a folder instead of /tmp."""
    text = text.replace("/tmp/", f"{folder}/").replace("$PWD/build", str(BUILD))
    text = text.replace("python-3.11-embed", f"python-{VERSION}-embed")
    return re.sub(r"(?<![\w/$.-])(|-I|-L|PYTHONPATH=)build(?=[/ \n])", rf"\1{BUILD}", text)


def commands_of(text):
    """[(command, what is printed)] of the console blocks."""
    found = []
    for block in re.findall(r"^( *)\.\. code-block:: console\n\n((?:\1 +.*\n|\n)+)", text,
                            re.M):
        lines = block[1].rstrip("\n").split("\n")
        indent = min(len(line) - len(line.lstrip()) for line in lines if line.strip())
        for line in (line[indent:] for line in lines):
            if line.startswith("$ "):
                found.append([line[2:], ""])
            elif line.startswith("> ") and not found[-1][1]:
                found[-1][0] += "\n" + line[2:]
            else:
                found[-1][1] += line + "\n"
    return found


def run_commands(commands, folder):
    """What each printed on stdout, and after it on stderr."""
    script = "".join(f"{{\n{command}\n}} >{folder}/{i}.out 2>{folder}/{i}.err\n"
                     for i, (command, _) in enumerate(commands))
    result = subprocess.run(["bash", "-c", script], cwd=TOP, timeout=300,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                            env=clean_environment(PYTHONPATH=str(BUILD)))
    assert result.stdout == ""
    return [(folder / f"{i}.out").read_text() + (folder / f"{i}.err").read_text()
            for i in range(len(commands))]


@needs_64_bits
@pytest.mark.parametrize("page", WITH_COMMANDS, ids=name)
def test_commands_print_what_is_printed(page, tmp_path):
    commands = commands_of(here(page.read_text(), tmp_path))
    if page in FOR_READERS:
        del commands[0]                     # try.sh, which the first chapter runs
    assert commands
    checker = doctest.OutputChecker()
    for (command, expected), got in zip(commands, run_commands(commands, tmp_path)):
        if page.stem == "less-memory":      # test_memory_goes_back_as_the_page_says()
            expected, got = (re.sub(r"\d+ MiB", "N MiB", text) for text in (expected, got))
        assert checker.check_output(expected, got, doctest.ELLIPSIS), \
            f"$ {command}\n{got}\nand this is expected:\n{expected}"


@pytest.mark.parametrize("page", FOR_READERS, ids=name)
def test_a_reader_begins_with_three_commands(page):
    """Which are run, above; an export says only where the tools are."""
    commands = [command for command, _ in commands_of(page.read_text())
                if not command.startswith("export ")]
    assert len(commands) == 3
    assert commands[0] == "sh Tools/try.sh"
    assert f"   * - :doc:`begin/{page.stem}`\n" in (DOC / "index.rst").read_text()


def test_memory_goes_back_as_the_page_says():
    program = DOC / "examples" / "pages.py"
    left = {}
    for name, command in ("own", ["python3"]), ("pymem", [BUILD / "pymem-run", "python3"]):
        result = run(*command, program)
        left[name] = [int(n) for n in re.findall(r"(\d+) MiB", result.stdout)]
    assert left["own"][2] > left["own"][1] / 2          # else the page need not be read
    assert left["pymem"][2] < left["pymem"][1] / 2


@needs_64_bits
@pytest.mark.parametrize("page", WITH_SESSIONS, ids=name)
def test_sessions_print_what_is_printed(page, tmp_path):
    text = here(page.read_text(), tmp_path)
    if page.name == "10-history.rst":           # goes on with what a command made
        run_commands(commands_of(text), tmp_path)
    copy = tmp_path / page.name
    copy.write_text(text)
    result = run(BUILD / "python", "-m", "doctest", "-o", "ELLIPSIS", copy, cwd=TOP,
                 environment=clean_environment(PYTHONPATH=str(BUILD)))
    assert (result.returncode, result.stdout) == (0, ""), result.stdout + result.stderr


@pytest.mark.parametrize("page", CHAPTERS, ids=name)
def test_a_chapter_has_pictures_and_exercises_with_answers(page):
    text = page.read_text()
    assert ".. heap-diagram:: " in text
    body, exercises, answers = re.split(r"^(?:Exercises|Answers)\n-+\n", text, flags=re.M)
    assert ">>> " in body or "$ " in body
    assert re.findall(r"^(\d)\. ", exercises, re.M) == ["1", "2", "3"]
    numbered = re.split(r"^(\d)\. ", answers, flags=re.M)
    assert numbered[1::2] == ["1", "2", "3"]
    for answer in numbered[2::2]:
        assert ">>> " in answer or "$ " in answer, answer     # which is run, above


@pytest.fixture(scope="module")
def html(tmp_path_factory):
    if shutil.which("sphinx-build") is None:
        pytest.skip("needs sphinx-build (Debian: python3-sphinx)")
    if has_wasm():
        make_playground()
    folder = tmp_path_factory.mktemp("html")
    result = subprocess.run(
        ["sphinx-build", "-q", "-W", "-b", "html", "-d", folder / "doctrees", DOC,
         folder / "html"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=clean_environment(PYMEM_BUILD=str(BUILD)))
    said = [line for line in result.stdout.splitlines() if "furo is not installed" not in line]
    assert (result.returncode, said) == (0, [])
    return folder / "html"


@pytest.mark.once
def test_pages_are_built_without_a_warning(html):
    for page in PAGES:
        if page.name != "oracle-table.rst":         # part of another page
            built = (html / page.relative_to(DOC)).with_suffix(".html")
            assert built.exists()
            # Nothing is fetched from elsewhere when it is read.
            assert not re.search(r'(?:src|href)="https?://[^"]*\.(?:js|css|png|svg)"',
                                 built.read_text())


@pytest.mark.once
def test_pictures_are_of_a_living_heap(html):
    """Drawn anew each time: addresses differ from one build to the next."""
    for page in CHAPTERS:
        text = page.read_text()
        built = (html / "how-it-works" / page.name).with_suffix(".html").read_text()
        assert len(re.findall('<figure class="heap-diagram" data-diagram="\\w+"><svg ', built)) \
            == text.count(".. heap-diagram:: ")
    addresses = set(re.findall(r"pool (0x[0-9a-f]+):", (
        html / "how-it-works" / "02-blocks.html").read_text()))
    assert len(addresses) > 50
    again = run(BUILD / "python", DOC / "diagrams.py", "arena",
                environment=clean_environment(PYTHONPATH=str(BUILD))).stdout
    assert not addresses & set(re.findall(r"pool (0x[0-9a-f]+):", again))


@pytest.mark.once
def test_every_public_function_has_its_entry(html):
    """By the inventory that Sphinx writes of what is documented."""
    data = (html / "objects.inv").read_bytes().split(b"\n", 4)[4]
    documented = {line.split(" ")[0] for line in zlib.decompress(data).decode().splitlines()}
    declared = set()
    headers = [*(TOP / "Include").glob("*.h"), *(TOP / "Include" / "cpython").glob("*.h")]
    for header in headers:
        declared |= set(re.findall(
            r"^PyAPI_(?:FUNC|DATA)\([^)]*\)(?: _Py_NO_RETURN)?\s+(\w+)",
            header.read_text(), re.M))
    assert len(declared) > 80
    assert declared - documented == set()


@pytest.mark.once
def test_answers_are_folded(html):
    for page in CHAPTERS:
        built = (html / "how-it-works" / page.name).with_suffix(".html").read_text()
        assert re.findall(r'<details class="answer"><summary>(.*?)</summary>', built) == [
            "Answer 1", "Answer 2", "Answer 3"]


@pytest.mark.once
def test_the_book_of_the_course(tmp_path):
    """Each chapter is XML that a reader takes, with its pictures; nothing is folded, and there
    is no playground, whose files are in no book."""
    if shutil.which("sphinx-build") is None:
        pytest.skip("needs sphinx-build (Debian: python3-sphinx)")
    if has_wasm():
        make_playground()
    result = run("sphinx-build", "-q", "-W", "-t", "course", "-b", "epub", "-d",
                 tmp_path / "doctrees", DOC, tmp_path / "epub",
                 environment=clean_environment(PYMEM_BUILD=str(BUILD)))
    assert (result.returncode, result.stdout + result.stderr) == (0, "")
    with zipfile.ZipFile(tmp_path / "epub" / "pymem-course.epub") as book:
        for page in CHAPTERS:
            chapter = ElementTree.fromstring(book.read(f"how-it-works/{page.stem}.xhtml"))
            tags = [element.tag.split("}")[-1] for element in chapter.iter()]
            assert tags.count("img") == page.read_text().count(".. heap-diagram:: ")
            assert "details" not in tags
            assert not [element for element in chapter.iter()
                        if "playground" in element.get("class", "")]
        assert not [name for name in book.namelist() if "c-api" in name]


@pytest.fixture
def browser(tmp_path):
    with chromium(tmp_path / "chromium") as driver:
        yield driver


def wait_for(condition):
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.mark.once
@needs_chromium
def test_a_reader_in_a_browser(html, browser):
    """The search finds functions, an answer opens, pages fit a telephone, the dark is dark, and
    a playground looks as it does in other themes."""
    browser.get(f"file://{html}/search.html?q=PyMem_RawCalloc")
    links = "[...document.querySelectorAll('#search-results a')].map(a => a.textContent)"
    wait_for(lambda: "PyMem_RawCalloc" in browser.execute_script(f"return {links}"))
    if "furo.css" not in (html / "index.html").read_text():
        pytest.skip("needs the theme furo (Debian: furo)")
    for width in (390, 1280):
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
            "width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500})
        for page in ("index", "begin/extension", "how-it-works/02-blocks", "misuse-table"):
            browser.get(f"file://{html}/{page}.html")
            assert browser.execute_script(
                "return document.documentElement.scrollWidth") <= width, page
    ground = "return getComputedStyle(document.body).backgroundColor"
    sums = []
    for scheme in ("light", "dark"):
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {
            "features": [{"name": "prefers-color-scheme", "value": scheme}]})
        sums.append(sum(map(int, re.findall(r"\d+", browser.execute_script(ground)))))
    assert sums[0] > 700 and sums[1] < 100
    browser.execute_script("document.querySelector('.content-icon-container .theme-toggle').click()")
    assert sum(map(int, re.findall(r"\d+", browser.execute_script(ground)))) > 700
    browser.get(f"file://{html}/how-it-works/02-blocks.html")
    assert browser.execute_script("""
        const answer = document.querySelector("details.answer");
        const before = answer.offsetHeight;
        answer.querySelector("summary").click();
        return answer.open && answer.offsetHeight > 2 * before""")
    if has_wasm():
        browser.execute_script("document.querySelector('.playground').scrollIntoView()")
        wait_for(lambda: browser.execute_script(
            "return document.querySelector('.playground[data-ready]') !== null"))
        assert browser.execute_script(
            "return getComputedStyle(document.querySelector('.pool-part p')).marginTop") == "4px"


@pytest.mark.once
@pytest.mark.parametrize("page", ["README.rst", "CONTRIBUTING.rst"])
def test_pages_outside_are_read_without_a_warning(page):
    core = need_module("docutils.core", "python3-docutils")
    messages = io.StringIO()
    core.publish_string((TOP / page).read_text(), writer_name="null",
                        settings_overrides={"warning_stream": messages})
    assert messages.getvalue() == ""
    for link in re.findall(r"(?:<|image:: |program: )(Doc/[\w./-]+)", (TOP / page).read_text()):
        assert (TOP / link).exists(), link
