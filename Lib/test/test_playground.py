"""The playground of the documentation: the library as WebAssembly, in a browser.

What it shows is compared with the same sources, compiled for this machine."""

import json
import random
import re
import shutil
import subprocess
import sys
from functools import lru_cache

import pytest

from conftest import (BUILD, TOP, chromium, clean_environment, has_wasm, make_playground,
                      need_module, needs_chromium, run)

pytestmark = [pytest.mark.once, needs_chromium, pytest.mark.skipif(
    shutil.which("sphinx-build") is None or not has_wasm(),
    reason="needs a compiler for WebAssembly (Debian: clang lld wasi-libc "
           "libclang-rt-dev-wasm32) and sphinx-build (python3-sphinx)")]
need_module("selenium.webdriver", "python3-selenium")
DOC = TOP / "Doc"
MOST_BYTES = 400 * 1024
MODULES = [f"{geometry}-{rule}" for geometry in ("default", "classic")
           for rule in ("ours", "cpython")]


@pytest.fixture(scope="module")
def html(tmp_path_factory):
    """The page of the documentation, without the others."""
    make_playground()
    folder = tmp_path_factory.mktemp("playground")
    source = folder / "source"
    source.mkdir()
    (source / "conf.py").write_text(
        f"import sys\nsys.path.insert(0, {str(DOC)!r})\nextensions = ['playgroundpage']\n"
        f"master_doc = 'playground'\nhtml_theme = 'basic'\n"
        f"html_static_path = [{str(DOC / 'static')!r}]\nhtml_css_files = ['pymem.css']\n")
    text = (DOC / "playground.rst").read_text().replace(":doc:", "")
    (source / "playground.rst").write_text(text)
    built = run("sphinx-build", "-q", "-W", "-b", "html", source, folder / "html",
                environment=clean_environment(PYMEM_BUILD=str(BUILD)))
    assert (built.returncode, built.stdout + built.stderr) == (0, "")
    return folder / "html"


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("chromium"),
                  loggingPrefs={"browser": "ALL", "performance": "ALL"}) as driver:
        driver.set_script_timeout(120)
        yield driver


class Page:
    def __init__(self, driver, address):
        self.driver = driver
        driver.get("about:blank")
        driver.get(address)
        self.wait("return document.querySelector('.playground[data-ready]') !== null")

    def wait(self, script):
        from selenium.webdriver.support.ui import WebDriverWait
        WebDriverWait(self.driver, 120).until(lambda driver: driver.execute_script(script))

    def find(self, selector):
        return self.driver.find_element("css selector", f".playground {selector}")

    def all(self, selector):
        return self.driver.find_elements("css selector", f".playground {selector}")

    def label(self):
        return self.find(".label").text

    def happened(self):
        return [line.text for line in self.all(".happened li")]

    def press(self, name):
        self.find(f'.bar button[aria-label="{name}"]').click()

    def type(self, program):
        """As if it was typed; the calls are there when the last one was made."""
        self.driver.execute_script(
            "const editor = document.querySelector('.playground .program');"
            "editor.value = arguments[0]; editor.dispatchEvent(new Event('input'));", program)
        self.settle()

    def settle(self):
        """A module may have to be loaded first."""
        self.driver.execute_async_script(
            "const done = arguments[0]; const view = "
            "document.querySelector('.playground').playground; view.start().then(done);")

    def state(self):
        return self.driver.execute_script(
            "return document.querySelector('.playground').playground.state.text")

    def set(self, name, value):
        self.driver.execute_script(
            "const select = document.querySelector(`[data-setting=${arguments[0]}]`);"
            "select.value = arguments[1]; select.dispatchEvent(new Event('change'));",
            name, value)
        self.settle()


@pytest.fixture
def page(driver, html):
    return Page(driver, f"file://{html / 'playground.html'}")


def test_size_and_network(driver, html):
    """Less than 400 KiB, all files from the folder, and interactive at once."""
    folder = html / "_static" / "playground"
    sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    assert {f"{name}.js" for name in MODULES} < set(sizes)
    assert sum(sizes.values()) < MOST_BYTES
    driver.get_log("performance")
    page = Page(driver, f"file://{html / 'playground.html'}")
    page.find("select option[value^='A Python program']").click()
    page.settle()
    page.set("geometry", "classic")
    asked = [message["params"]["request"]["url"] for entry in driver.get_log("performance")
             for message in [json.loads(entry["message"])["message"]]
             if message["method"] == "Network.requestWillBeSent"]
    assert any(url.endswith("/classic-ours.js") for url in asked)
    assert [url for url in asked if not url.startswith((f"file://{html}/", "about:"))] == []
    assert [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"] == []
    # Not a matter of how busy the machine is: no timer, no second request stands between.
    milliseconds = driver.execute_script(
        "return performance.getEntriesByName('playground')[0].duration")
    print(f"interactive after {milliseconds:.0f} ms")
    assert milliseconds < 60_000


def test_stepping(page):
    """Forward and back, by buttons and keys: the same states both ways."""
    from selenium.webdriver.common.keys import Keys
    page.type("p = malloc(37)\nq = malloc(500)\nfree(p)\nr = malloc(60)\np = realloc(q, 600)\n")
    assert page.label() == "5 of 5 calls"
    backwards = [page.state()]
    for _ in range(5):
        page.press("one call back")
        backwards.append(page.state())
    assert page.label() == "0 of 5 calls"
    assert page.find(".arenas-part").text == "No arena has been bought yet."
    forwards = [page.state()]
    for n in range(1, 6):
        page.find('.bar button[aria-label="one call forward"]').send_keys(Keys.ARROW_RIGHT)
        assert page.label() == f"{n} of 5 calls"
        forwards.append(page.state())
    assert forwards == backwards[::-1] and len(set(forwards)) == 6
    page.press("to the beginning")
    page.press("one call forward")
    first = page.happened()
    assert re.fullmatch(r"p = malloc\(37\): block 0 of pool 0\.0, 48 bytes, at 0x\w+0030\.",
                        first[0])
    assert first[1] == "Arena 0 was bought: 1 MiB."
    assert page.find(".lines .now").text == "1"


def test_it_runs_by_itself(page):
    page.type("for i in range(60): malloc(20)\n")
    page.press("to the beginning")
    page.find(".bar select option[value='250']").click()
    page.press("run, or stop")
    page.wait("return document.querySelector('.label').textContent === '60 of 60 calls'")
    page.wait("return document.querySelector('.run').textContent === '▶ run'")


def random_calls(n):
    """(what, slot, size) of a program that needs several arenas and gives some back."""
    numbers, live, calls, nblocks = random.Random(4), [], [], 0
    for i in range(n):
        if not live or numbers.random() < (0.85 if i < n * 57 // 100 else 0.02):
            size = numbers.choice([numbers.randint(1, 512)] * 16 + [0, 700, 5000, 100_000])
            calls.append((numbers.choice("mmmc"), nblocks, size))
            live.append(nblocks)
            nblocks += 1
        elif numbers.random() < 0.1:
            calls.append(("r", numbers.choice(live), numbers.randint(0, 700)))
        else:                           # most often one of the newest, so that arenas go back
            last = len(live) if numbers.random() < 0.02 else min(len(live), 20)
            calls.append(("f", live.pop(-1 - numbers.randrange(last)), 0))
    return calls


@lru_cache
def native(folder, module):
    geometry, rule = module.split("-")
    sources = re.search(r"^PLAYGROUND_SOURCES = (.*)$", (BUILD / "Makefile").read_text()
                        .replace("\\\n", ""), re.M)[1]
    core = re.findall(r"Objects/\w+\.c", " ".join(re.findall(
        r"^libpymemcore_la_SOURCES \+?= (.*)$",
        (TOP / "Makefile.am").read_text().replace("\\\n", ""), re.M)))
    made = run("python3", DOC / "playground" / "build.py", "--cc=cc", "--native",
               folder / module, f"--geometry={geometry}", f"--rule={rule}", *core,
               *re.findall(r"\S+\.c", sources))
    assert made.returncode == 0, made.stderr
    return folder / module


ASK = """
const [module, calls, hooks, done] = arguments, play = globalThis.pymemPlay;
const view = document.querySelector('.playground').playground;
const [geometry, rule] = module.split('-');
Object.assign(view.chosen, {geometry, rule});
view.start().then(() => {
    const machine = new play.Machine(view.module, hooks);
    machine.go(calls.map(([what, slot, size]) => ({what, slot, size, value: 0})), calls.length);
    const places = machine.addresses.map(address => machine.place(address));
    const state = machine.look(), lists = [];
    for (const arena of state.arenas) {
        for (const pool of arena.pools.values()) {
            lists.push([arena.number, pool.offset, machine.free_list(pool)]);
        }
    }
    done({places, text: state.text, lists, table: machine.table(), said: machine.said});
});
"""


@pytest.mark.parametrize("module, hooks", [("default-ours", False), ("default-ours", True),
                                           ("classic-cpython", False)])
def test_the_same_as_the_library_itself(page, html, module, hooks):
    """After 10,000 calls, to the byte: where each block lies in its arena, pools, lists of
    free blocks, rings and the table."""
    calls = random_calls(10_000)
    shown = page.driver.execute_async_script(ASK, module, calls, hooks)
    assert shown["said"] == ""
    lines = "".join(f"{what} {slot} {size} 0\n" for what, slot, size in calls)
    result = subprocess.run(
        [native(html.parent, module), *(["hooks"] if hooks else [])], input=lines,
        stdout=subprocess.PIPE, text=True, check=True, env=clean_environment())
    output = result.stdout.splitlines(keepends=True)
    places = ["{} {}\n".format(*(place or (-1, 0))) for place in shown["places"]]
    assert places == output[:10_000]
    assert {"-1", "0", "1"} <= {place.split()[0] for place in places}
    told = "".join(output[10_000:])
    assert told.startswith(shown["text"])
    table = told.index("Small block threshold") if not hooks else told.index("Small block")
    lists = [[int(word) for word in line.split()[1:]] for line in told[:table].splitlines()
             if line.startswith("free ")]
    known = {(arena, offset): blocks for arena, offset, blocks in shown["lists"] if blocks}
    assert {(arena, offset): blocks for arena, offset, *blocks in lists} == known
    # The map has records of another size where pointers have 32 bits.
    assert told[table:].split("arena map")[0] == shown["table"].split("arena map")[0]
    went_back = re.search(r"# arenas reclaimed +=  +([\d,]+)\n", told)
    assert module != "classic-cpython" or int(went_back[1]) > 0


# CPython's own pymalloc: blocks in six pools that are full, freed and asked for at random.
IN_CPYTHON = """
import ctypes, json, random
api = ctypes.pythonapi
api.PyObject_Malloc.restype = ctypes.c_void_p
api.PyObject_Malloc.argtypes = [ctypes.c_size_t]
api.PyObject_Free.argtypes = [ctypes.c_void_p]
pools, numbers, calls = {}, random.Random(3), []
for _ in range(400):
    p = api.PyObject_Malloc(490)
    pools.setdefault(p >> 14, []).append(p)
full = [blocks for blocks in pools.values() if len(blocks) == 32]
number_of = {blocks[0] >> 14: i for i, blocks in enumerate(full)}
addresses = {32 * i + j: full[i][j] for i in range(6) for j in range(32)}
live = list(addresses)
for slot in range(400, 700):
    if live and numbers.random() < 0.62:
        old = live.pop(numbers.randrange(len(live)))
        api.PyObject_Free(addresses[old])
        calls.append(["f", old, None])
    else:
        p = addresses[slot] = api.PyObject_Malloc(490)
        live.append(slot)
        calls.append(["m", slot, [number_of.get(p >> 14, -1), p % 16384]])
print(json.dumps(calls))
"""


@pytest.mark.skipif(sys.version_info < (3, 10), reason="pools of 4 KiB before CPython 3.10")
def test_cpythons_rule_is_cpythons(page):
    """The same blocks in the same order as this interpreter's own allocator gives."""
    result = run(sys.executable, "-c", IN_CPYTHON)
    assert result.returncode == 0, result.stderr
    told = json.loads(result.stdout)
    calls = [("m", slot, 490) for slot in range(400)]
    calls += [(what, slot, 490 if what == "m" else 0) for what, slot, _ in told]
    given = {}
    for rule in "cpython", "ours":
        places = page.driver.execute_async_script(ASK, f"default-{rule}", calls, False)["places"]
        # The first pools hold 32 blocks each, and all that they have.
        given[rule] = [[where // 16384, where % 16384] if arena == 0 and where < 12 * 16384
                       else [-1, where % 16384] for arena, where in places[400:]]
    wanted = [(i, place) for i, (what, _, place) in enumerate(told)
              if what == "m" and place[0] != -1]
    assert len(wanted) > 90
    assert [(i, given["cpython"][i]) for i, _ in wanted] == wanted
    assert [(i, given["ours"][i]) for i, _ in wanted] != wanted


def test_an_overflow_by_a_click(page):
    """The byte behind the block is written; free() finds it, and says so in its own words."""
    page.set("debug", "on")
    page.type("p = malloc(5)\nfree(p)\n")
    page.press("one call back")
    colors = [byte.get_attribute("class").split()[1] for byte in page.all("button.byte")]
    assert colors == (["size"] * 8 + ["domain"] + ["forbidden"] * 7 + ["clean"] * 5
                      + ["forbidden"] * 8)
    page.find('.byte[data-offset="5"]').click()
    broken = page.find('.byte[data-offset="5"]')
    assert broken.text == "41" and "broken" in broken.get_attribute("class")
    assert page.label() == "2 of 3 calls"
    assert "write(p, 5, 0x41)" in page.happened()[0]
    page.press("one call forward")
    said = page.find(".said").text
    assert "at tail+0: 0x41 *** OUCH" in said
    assert said.endswith("Fatal Python error: _PyMem_DebugRawFree: bad trailing pad byte")
    page.press("one call back")
    assert not page.find(".said").is_displayed()


def test_a_freed_block_is_dead(page):
    page.set("debug", "on")
    page.type("p = malloc(5)\nfree(p)\n")
    assert {byte.text for byte in page.all("button.byte")} == {"dd"}


def test_a_pool_is_chosen(page):
    """Its blocks, its list in order, by arrows; and blocks by the keyboard."""
    from selenium.webdriver.common.keys import Keys
    page.type("a = [malloc(500) for i in range(40)]\nfor p in a[1:9:3]: free(p)\n")
    page.find('.arenas-part [data-pool="0.1"]').click()
    assert page.find(".pool-part p").text.startswith(
        "pool 0.1: blocks of 512 bytes, 9 of 31 used, 16 cut.")
    page.find('.rings-part [data-pool="0.0"]').click()
    assert "7 → 4 → 1" in page.find(".pool-part p").text
    kinds = [block.get_attribute("class").split()[1] for block in page.all(".block")]
    assert [i for i, kind in enumerate(kinds) if kind == "free"] == [1, 4, 7]
    assert len(page.all("path.link")) == 2
    picture = page.find("svg.blocks")
    picture.send_keys(Keys.ARROW_RIGHT)
    page.find("svg.blocks").send_keys(Keys.ARROW_RIGHT)
    assert page.find("svg.blocks").get_attribute("aria-label").endswith("block 1: free")
    assert page.label() == "43 of 43 calls"
    page.press("to the beginning")                      # where that block is in no pool
    assert page.happened() == []
    assert page.find(".bytes-part").text == "Choose a block: a click on it in its pool."


def test_rules_differ(page):
    """A full pool had blocks freed: CPython takes it at once, ours the one that is at hand."""
    page.type("a = [malloc(512) for i in range(95)]\nfor p in a[:3]: free(p)\n"
              "q = malloc(512)\nq = malloc(512)\n")
    ours = page.happened()[0]
    page.set("rule", "cpython")
    assert "of pool 0.3," in ours and "of pool 0.0," in page.happened()[0]


def test_a_permalink_holds_all(page, driver):
    page.set("geometry", "classic")
    page.set("debug", "on")
    page.type("p = malloc(37)  # “so”\nfree(p)\n")
    page.press("one call back")
    page.find('.byte[data-offset="-1"]').click()
    state, link = page.state(), page.find("a.permalink").get_attribute("href")
    again = Page(driver, link)
    assert again.find(".program").get_attribute("value") == "p = malloc(37)  # “so”\nfree(p)\n"
    assert again.label() == "2 of 3 calls" and again.state() == state
    assert again.find('.byte[data-offset="-1"]').text == "41"
    assert "4096" in state


@pytest.mark.parametrize("program, fault", [
    ("p = maloc(3)", "line 1: there is no function maloc(); there are malloc, "),
    ("\nfree(p)", "line 2: p is not known yet"),
    ("for i in range(3)\n  malloc(3)", 'line 1: ":" is missing at the end'),
    ("malloc(1, 2)", "line 1: malloc() takes 1 argument"),
    ("for i in range(30000): malloc(1)", "line 1: a program has 20,000 blocks at most"),
    ("x = 3 $ 4", 'line 1: "$ 4" is not understood')])
def test_a_fault_of_a_program(page, program, fault):
    page.type(program)
    assert page.find(".fault").text.startswith(fault)
    assert page.label() == "0 of 0 calls"


def playgrounds():
    """(chapter, options, program) of each in the chapters."""
    found = []
    for chapter in sorted((DOC / "how-it-works").glob("*.rst")):
        for head, body in re.findall(
                r"^\.\. playground::\n((?:   :.*\n)*)\n((?:   .*\n)+)", chapter.read_text(),
                re.M):
            options = dict(re.findall(r":(\w+): ?(.*)", head))
            found.append((chapter.stem, options, re.sub("^   ", "", body, flags=re.M)))
    return found


def test_programs_of_the_chapters(page):
    """Each has the moment that it begins at, and the picture that it stands for."""
    found = playgrounds()
    assert len(found) > 15
    for chapter, options, program in found:
        ncalls = page.driver.execute_script(
            "return globalThis.pymemPlay.calls_of(arguments[0]).length", program)
        assert int(options.get("at", 0)) <= ncalls and ncalls > 0
        text = (DOC / "how-it-works" / f"{chapter}.rst").read_text()
        if "replaces" in options:
            assert f".. heap-diagram:: {options['replaces']}\n" in text


JUDGE = """
const [name, program, hooks, typed, done] = arguments, play = globalThis.pymemPlay;
const view = document.querySelector('.playground').playground;
Object.assign(view.chosen, {program, debug: hooks, pokes: [], at: null,
                            geometry: 'default', rule: 'ours'});
Object.assign(view.options, {program});
view.start().then(() => done(play.judge(play.EXERCISES[name], view, typed)));
"""
FULL = "a = [malloc(500) for i in range(64 * 31 * 4)]\n"
# The answers that the chapters give; and others.
ANSWERS = {
    "header": [("", "48", True), ("", "64", False), ("", "many", False)],
    "table": [("", "3 500 520, 1 10 21", True), ("", "3 500 520 1 10 22", False)],
    "follow": [(None, "0 1 6 8", True), (None, "4 0 1 6", False)],
    "worst": [("", "1", True), ("", "17", False)],
    "moves": [("", "113 96", True), ("", "113", False)],
    "arenas": [("", "11", True), ("", "10", False)],
    "pattern": [("", "2", True), ("", "1", False)],
    "hookcost": [("", "13,600 and 10,200", True), ("", "10200 13600", False)],
    "survivor": [(FULL + "for p in a[1:]: free(p)\n", "", True),
                 (FULL + "for p in a[64:]: free(p)\n", "", False), ("malloc(1)\n", "", False)],
    "high": [(FULL + "for i in range(7936):\n    if i % 100: free(a[i])\n", "", True),
             (FULL + "for p in a[80:]: free(p)\n", "", False)],
    "caught": [("p = malloc(7)\nwrite(p, 7, 0)\nfree(p)\n", "", True),
               ("p = malloc(7)\nwrite(p, 7, 0)\n", "", False),
               ("p = malloc(7)\nwrite(p, -1, 0)\nfree(p)\n", "", False)],
}


@pytest.mark.parametrize("name", ANSWERS)
def test_an_exercise_knows_the_answer(page, name):
    programs = {options["exercise"]: program for _, options, program in playgrounds()
                if "exercise" in options}
    assert set(programs) == set(ANSWERS)
    for program, typed, is_right in ANSWERS[name]:
        judged = page.driver.execute_async_script(
            JUDGE, name, programs[name] if program is None else program, name == "caught",
            typed)
        assert judged["is_right"] == is_right, judged


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone(page, driver, scheme):
    """Nothing is wider than the screen, what is touched is large enough, and text can be
    read on what it stands on."""
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
        "width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True})
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [
        {"name": "prefers-color-scheme", "value": scheme}]})
    try:
        page = Page(driver, driver.current_url.split("#")[0])
        page.wait("return document.documentElement.scrollWidth === 390")    # drawers move out
        sizes = driver.execute_script(
            "return [...document.querySelectorAll('.playground .bar button')].map("
            "b => [b.getBoundingClientRect().width, b.getBoundingClientRect().height])")
        assert all(min(size) >= 40 for size in sizes)
        ink, paper = driver.execute_script(
            "const style = getComputedStyle(document.querySelector('.playground'));"
            "return [style.color, style.backgroundColor]")
        dark, light = (sum(map(int, re.findall(r"\d+", color)[:3])) for color in (ink, paper))
        assert (light - dark > 400) if scheme == "light" else (dark - light > 400)
    finally:
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_without_javascript_nothing_is_there(page, driver, html):
    """No empty box, no sentence about it."""
    part = driver.find_element("css selector", ".playground-part")
    assert part.is_displayed()
    driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        driver.get(f"file://{html / 'playground.html'}")
        assert not driver.find_element("css selector", ".playground-part").is_displayed()
        assert driver.find_element("css selector", "h1").is_displayed()
    finally:
        driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_each_control_has_a_name(page):
    """For who hears the page."""
    nameless = page.driver.execute_script(
        "return [...document.querySelectorAll('.playground :is(button, input, select, "
        "textarea)')].filter(e => !(e.getAttribute('aria-label') || e.textContent.trim() "
        "|| e.closest('label'))).map(e => e.outerHTML)")
    assert nameless == []
    assert page.find(".happened").get_attribute("aria-live") == "polite"
