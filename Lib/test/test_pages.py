"""The pages of heapmap, flame and leaks in a browser: stepped, clicked, and looked at."""

import io
import itertools
import json
import re
import struct
from base64 import b64decode

import pytest

from conftest import BUILD, chromium, clean_environment, need_module, needs_chromium, run
from pymem import flame, size_text
from test_report import COMPARED, write_versions

pytestmark = needs_chromium
need_module("selenium.webdriver", "python3-selenium")
Image = need_module("PIL.Image", "python3-pil")

SCRIPT = """
import ctypes, time, colorsys
kept = [bytes(360) for _ in range(20_000)]
time.sleep(0.25)
del kept[::2]
junk = [bytes(430) for _ in range(20_000)]
time.sleep(0.25)
del junk
ctypes.pythonapi.PyMem_Trim()
"""
LEAK = """
import time
kept, until = {}, time.monotonic() + 2.5
def remember(number):
    kept[number] = bytes(4000)
while time.monotonic() < until:
    remember(len(kept))
    time.sleep(0.005)
"""
PAGES = "heapmap.html", "flame.html", "native.html", "leaks.html", "changes.html"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("chromium")) as driver:
        yield driver


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    (folder / "app.py").write_text(SCRIPT)
    (folder / "leak.py").write_text(LEAK)
    write_versions(folder)
    compared = run(BUILD / "python", "-m", "pymem", "report", *COMPARED, "-o", "changes.html",
                   cwd=folder, environment=clean_environment(PYTHONPATH=str(BUILD)))
    assert compared.returncode == 0, compared.stderr
    for page, command, script in (
            ("heapmap", ["heapmap", "--every", "0.1"], "app.py"), ("flame", ["flame"], "app.py"),
            ("native", ["flame", "--native"], "app.py"),
            ("leaks", ["leaks", "--window", "0.1", "--samples", "0"], "leak.py")):
        result = run(BUILD / "python", "-m", "pymem", *command, "-o",
                     folder / f"{page}.html", folder / script, "an argument",
                     environment=clean_environment(PYTHONPATH=str(BUILD)))
        assert result.returncode == 0, result.stderr
    return folder


def data_of(path):
    return json.loads(re.search(r'application/json">(.*?)</script>', path.read_text())[1])


@pytest.fixture
def heapmap(browser, folder):
    browser.get(f"file://{folder / 'heapmap.html'}")
    return data_of(folder / "heapmap.html")


def text(browser, selector):
    return browser.find_element("css selector", selector).text


def screenshot(browser):
    return Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("RGB")


def rgb(color):
    return tuple(int(color[i:i + 2], 16) for i in (1, 3, 5))


def counts_shown(browser):
    words = text(browser, "#counts").replace(",", "")
    return [int(n) for n in re.findall(r"(\d+) (?:arenas|full|partly|empty|free|blocks)",
                                       words)]


def test_it_is_one_file(folder):
    for page in PAGES:
        assert not re.search(r"""(src|href)=|@import|url\((?!#)|https?://(?!www\.w3\.org)""",
                             (folder / page).read_text())


def test_stepping_through_time(browser, heapmap):
    """Each moment's counts are those of its pools, by buttons, slider and keys."""
    frames = heapmap["frames"]
    assert len(frames) >= 6
    assert sum(arena["returned"] for arena in frames[-2]["arenas"]) > 5
    for number, frame in enumerate(frames):
        pools = [heapmap["pools"][n] for arena in frame["arenas"] for n in arena["pools"]]
        states = [sum(1 for _, size, blocks, _, used, *_ in pools
                      if size and test(used, blocks))
                  for test in (lambda used, blocks: used == blocks,
                               lambda used, blocks: 0 < used < blocks,
                               lambda used, blocks: used == 0)]
        free = sum(1 for pool in pools if pool[1] == 0)
        here = sum(not arena["returned"] for arena in frame["arenas"])
        assert counts_shown(browser) == [
            here, *states, free, sum(pool[4] for pool in pools),
            len(frame["arenas"]) - here]
        assert text(browser, "#label") == f"{number + 1} of {len(frames)}: {frame['label']}"
        assert browser.execute_script(
            "return document.querySelectorAll('#map rect.pool').length") == len(pools)
        browser.find_element("css selector", "#forward").click()
    browser.find_element("css selector", "#back").click()
    assert text(browser, "#label").startswith(f"{len(frames) - 1} of ")
    from selenium.webdriver.common.keys import Keys
    browser.find_element("css selector", "body").send_keys(Keys.ARROW_LEFT)
    assert text(browser, "#label").startswith(f"{len(frames) - 2} of ")
    browser.execute_script("const t = document.getElementById('time'); t.value = 0;"
                           "t.dispatchEvent(new Event('input'));")
    assert text(browser, "#label").endswith(": before")


def test_clicking_a_pool(browser, heapmap):
    """Its blocks, one square each, and its free list in order."""
    last = len(heapmap["frames"]) - 2          # at the end: half of one size are free
    for _ in range(last):
        browser.find_element("css selector", "#forward").click()
    wanted = next(pool for arena in heapmap["frames"][last]["arenas"]
                  for pool in [heapmap["pools"][n] for n in arena["pools"]]
                  if pool[1] == 400 and 5 < pool[4] < pool[2] and pool[3] == pool[2])
    address, size, nblocks, ncut, nused, free, first = wanted
    browser.find_element("css selector", f'rect.pool[data-address="{address}"]').click()
    assert text(browser, "#title") == f"pool {address}"
    numbers = text(browser, "#numbers").splitlines()
    assert numbers == [f"bytes in a block {size}", f"blocks {nblocks}", f"used {nused}",
                       f"free {ncut - nused}", f"never used {nblocks - ncut}",
                       f"first block {first}"]
    squares = [square.get_attribute("class")
               for square in browser.find_elements("css selector", "#blocks i")]
    assert len(squares) == nblocks and squares.count("u") == nused
    order = [int(n) for n in re.findall(r"\d+", text(browser, "#list"))]
    assert sorted(order) == [i for i, kind in enumerate(squares) if kind == "f"]
    assert order == [number for number, in struct.iter_unpack("<H", b64decode(free))]
    browser.find_element("css selector", "#back").click()
    assert address in text(browser, "#title")      # it stays chosen


def test_what_is_seen(browser, heapmap):
    """On a screenshot: each pool in its colour, filled as far as its blocks are used; of
    those whose colour has no pattern."""
    for _ in range(len(heapmap["frames"]) - 2):
        browser.find_element("css selector", "#forward").click()
    picture = screenshot(browser)
    assert len(picture.getcolors(maxcolors=1 << 24)) > 20
    boxes = browser.execute_script(
        "return [...document.querySelectorAll('#map rect.pool')].map(cell => {"
        " const box = cell.getBoundingClientRect();"
        " return [Number(cell.dataset.number), box.x, box.y, box.width, box.height]; })")
    nfull = nfree = nhalf = 0
    for number, x, y, width, height in boxes:
        _, size, nblocks, _, nused, *_ = heapmap["pools"][number]
        if y + height > picture.height - 4:
            continue
        def pixel(share):
            return picture.getpixel((int(x + width / 2), int(y + height * share)))
        if not size:
            assert pixel(.5) == (255, 255, 255)
            nfree += 1
            continue
        color, class_number = heapmap["colors"][str(size)]
        if class_number % 4 or class_number > 31:
            continue
        pale = pytest.approx([255 - (255 - part) / 4 for part in rgb(color)], abs=3)
        if nused == nblocks:
            assert pixel(.25) == pixel(.75) == rgb(color)
            nfull += 1
        elif .4 < nused / nblocks < .6:
            assert pixel(.75) == rgb(color) and list(pixel(.25)) == pale
            nhalf += 1
    assert nfull > 50 and nfree > 10 and nhalf > 50


def pool_sizes(heapmap, moment):
    return [heapmap["pools"][n][1] for arena in heapmap["frames"][moment]["arenas"]
            for n in arena["pools"]]


def test_a_legend_filters(browser, heapmap):
    """By click or key; what was chosen is in the address."""
    from selenium.webdriver.common.keys import Keys
    button = browser.find_element("css selector", '.legend button[value="400"]')
    button.send_keys(Keys.ENTER)
    assert button.get_attribute("aria-pressed") == "true"
    for moment in (0, 1):
        sizes = pool_sizes(heapmap, moment)
        shown = browser.execute_script(
            "return [...document.querySelectorAll('#map rect.pool[data-size]')].filter("
            "cell => getComputedStyle(cell).opacity === '1').map(cell => cell.dataset.size)")
        assert shown == ["400"] * sizes.count(400) and len(sizes) > len(shown)
        assert text(browser, '.legend button[value="400"]').split() == [
            "400", f"{sizes.count(400):,}"]
        assert text(browser, "#chosen").startswith(f"{sizes.count(400):,} pools, ")
        browser.find_element("css selector", "#forward").click()
    browser.find_element("css selector", '.legend button[value="64"]').click()
    from selenium.webdriver.support.ui import WebDriverWait
    WebDriverWait(browser, 60).until(lambda browser: browser.execute_script(
        "return location.hash") == "#time=2&sizes=400.64")
    browser.refresh()
    pressed = browser.find_elements("css selector", '.legend [aria-pressed="true"]')
    assert [button.get_attribute("value") for button in pressed] == ["64", "400"]
    browser.find_element("css selector", "#every").click()
    assert text(browser, "#chosen") == ""


def test_keys_go_through_a_map(browser, heapmap):
    from selenium.webdriver.common.keys import Keys
    first = browser.find_element("css selector", '#map [tabindex="0"]')
    browser.execute_script("arguments[0].focus()", first)
    first.send_keys(Keys.ARROW_RIGHT)
    second = browser.switch_to.active_element
    assert second != first and second.get_attribute("aria-label").startswith("pool 0x")
    assert text(browser, "#label").startswith("1 of ")        # time stands still
    second.send_keys(Keys.ARROW_DOWN)
    browser.switch_to.active_element.send_keys(Keys.ARROW_UP)
    assert browser.switch_to.active_element == second
    second.send_keys(Keys.ENTER)
    assert text(browser, "#title") == f"pool {second.get_attribute('data-address')}"


def about(browser):
    """{name: text} of what stands first."""
    return dict(line.text.split("\n") if "\n" in line.text else line.text.split(" ", 1)
                for line in browser.find_elements("css selector", "#about div"))


@pytest.mark.parametrize("page", PAGES[:4])
def test_what_a_page_says_first(browser, folder, page):
    browser.get(f"file://{folder / page}")
    said, script = about(browser), "leak.py" if page == "leaks.html" else "app.py"
    assert said["Command"] == f"{folder / script} 'an argument'"
    assert re.fullmatch(r"\d+", said["PID"])
    assert re.fullmatch(r"CPython 3\.\d+\.\S+", said["Python"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{4}", said["Date"])
    assert re.fullmatch(r"\d+\.\d s", said["Duration"])
    about_ = "about " if page == "native.html" else ""
    size, = re.fullmatch(rf"([\d,.]+ [KM]iB) in {about_}[\d,]+ blocks, at the end",
                         said["Total"]).groups()
    assert re.fullmatch(r"[\d,.]+ [KM]iB", said["Peak"])
    assert said.get("Traced") == {
        "heapmap.html": None, "native.html": "one sample in about 16.0 KiB; sizes and blocks "
        "are estimates"}.get(page, "every allocation")
    if page in ("flame.html", "native.html"):
        data = data_of(folder / page)
        assert size == size_text(sum(stack[1] for stack in data["stacks"]))


class Views:
    """The graph and the table of a page."""

    def __init__(self, browser, page, fragment=""):
        self.browser, self.data = browser, data_of(page)
        if fragment:                    # another fragment alone would be no other page
            browser.get("about:blank")
        browser.get(f"file://{page}{fragment}")

    def find(self, selector):
        return self.browser.find_element("css selector", selector)

    def all(self, selector):
        return self.browser.find_elements("css selector", selector)

    def choose(self, name, value):
        self.find(f"input[name={name}][value={value}]").click()

    def box(self, label):
        return next(box for box in self.boxes() if box.text == label)

    def boxes(self):
        return self.all("#graph div")

    def search(self, words):
        self.find("#find").clear()
        self.find("#find").send_keys(words)
        return self.find("#matches").text

    def fragment(self, wanted):
        """It is written a moment after what was changed last."""
        from selenium.webdriver.support.ui import WebDriverWait
        WebDriverWait(self.browser, 60).until(lambda browser: browser.execute_script(
            "return location.hash") == wanted)

    def labels(self, stack):
        return [flame.Frame(*self.data["frames"][number][:3]).label for number in stack[0]]

    def total(self, *labels):
        """Bytes of stacks that begin so."""
        return sum(stack[1] for stack in self.data["stacks"]
                   if self.labels(stack)[:len(labels)] == list(labels))

    def rows(self):
        return [[cell.text for cell in row.find_elements("css selector", "td")]
                for row in self.all("#table tbody tr")]


@pytest.fixture
def views(browser, folder):
    return Views(browser, folder / "flame.html")


LINE = "<module> (app.py:3)"


def test_a_flame_graph_is_clicked(views):
    boxes, graph = views.boxes(), views.find("#graph")
    assert boxes[0].text == "all" and len(boxes) >= 3
    assert views.find("#told").text.startswith(f"all: {size_text(views.total())}, 100.0%, ")
    line, share = views.box(LINE), views.total(LINE) / views.total()
    assert abs(line.size["width"] / graph.size["width"] - share) < 0.01
    assert line.get_attribute("aria-label").startswith(
        f"{LINE}: {size_text(views.total(LINE))}, {share:.1%}, ")
    assert line.location["y"] < boxes[0].location["y"]      # the roots are below
    line.click()
    assert views.find("#told").text.startswith(f"{LINE}: ")
    number = next(stack[0][0] for stack in views.data["stacks"]
                  if views.labels(stack)[0] == LINE)
    views.fragment(f"#at={number}")
    assert {box.size["width"] for box in views.boxes()} == {graph.size["width"]}
    views.browser.back()
    assert len(views.boxes()) == len(boxes)
    views.browser.forward()
    assert len(views.boxes()) < len(boxes)
    views.find("#out").click()
    assert len(views.boxes()) == len(boxes) and not views.find("#out").is_enabled()


def test_an_icicle_has_its_roots_at_the_top(views):
    count = len(views.boxes())
    views.choose("view", "icicle")
    views.fragment("#view=icicle")
    boxes = views.boxes()
    assert len(boxes) == count and boxes[0].text == "all"
    assert all(box.location["y"] > boxes[0].location["y"] for box in boxes[1:])


def test_a_native_page_opens_where_its_roots_are(browser, folder):
    views = Views(browser, folder / "native.html")
    kinds = {frame[3] & flame.NATIVE for frame in views.data["frames"]}
    assert kinds == {0, flame.NATIVE}
    root, line = views.boxes()[0], views.box(LINE)
    assert root.text == "all"
    assert root.location["y"] + 18 == line.location["y"] < 400


def test_a_search_tells_how_much_matches(views):
    said = views.search(r"APP\.PY:[34]\)")
    part = sum(stack[1] for stack in views.data["stacks"]
               if re.search(r"app\.py:[34]\)", " ".join(views.labels(stack))))
    assert said == f"{part / views.total():.1%} matches, {size_text(part)}"
    assert {box.text for box in views.all("#graph div.found")} >= {LINE}
    views.fragment("#find=APP%5C.PY%3A%5B34%5D%5C%29")
    assert views.search("nothing is called so") == "0.0% matches, 0 B"
    assert views.search("(") == "This is no regular expression: Unterminated group"
    assert views.find("#find").get_attribute("aria-invalid") == "true"
    assert views.all("#graph div.found") == []


def test_import_frames_can_be_hidden(views):
    views.search("importlib")
    found = [box.text for box in views.all("#graph div.found")]
    assert any(text.startswith("_find_and_load ") for text in found)
    box = views.find("input[name=imports]")
    box.click()
    assert views.find("#matches").text == "0.0% matches, 0 B"
    assert views.find("#told").text.startswith(f"all: {size_text(views.total())}, 100.0%")
    views.fragment("#imports=0&find=importlib")


def test_c_functions_of_imports_are_hidden_with_them(browser, folder):
    """Not the one that asks for the memory, nor those of other calls."""
    views = Views(browser, folder / "native.html", "#imports=0&find=call")
    shown = browser.execute_script(
        "return [...graph.children].map(box => box.getAttribute('aria-label'))")
    assert not any("importlib" in label or label.startswith("PyImport_") for label in shown)
    nodes = browser.execute_script(
        "const found = [], walk = (node, path) => { for (const child of node.children.values())"
        " { found.push([...path, label(child.number)]);"
        " walk(child, [...path, label(child.number)]); } }; walk(root, []); return found;")
    imports = [path for path in nodes if path[0] == "<module> (app.py:2)"]
    assert any(len(path) > 2 for path in imports)
    assert not any("PyObject_CallMethod" in label for path in imports for label in path[:2])
    assert sum(stack[1] for stack in views.data["stacks"]) == browser.execute_script(
        "return root.now[0]")


def test_views_share_what_they_show(views):
    """Blocks in place of bytes, what is searched, and what is shown alone."""
    blocks = sum(stack[2] for stack in views.data["stacks"]
                 if views.labels(stack)[0] == LINE)
    count = sum(stack[2] for stack in views.data["stacks"])
    views.choose("by", "blocks")
    assert f", {blocks / count:.1%}, {blocks:,} blocks" in views.box(
        LINE).get_attribute("aria-label")
    views.box(LINE).click()
    views.choose("view", "table")
    [row] = views.rows()
    assert row == [size_text(views.total(LINE)), f"{blocks:,}", f"{blocks / count:.1%}",
                   "<module>", "app.py:3"] or row[3] == "<listcomp>"
    number = next(stack[0][0] for stack in views.data["stacks"]
                  if views.labels(stack)[0] == LINE)
    views.fragment(f"#view=table&by=blocks&at={number}")
    views.browser.refresh()
    assert views.rows() == [row]
    views.find("#all").click()
    assert len(views.rows()) > 1
    assert views.search(r"app\.py:3\)").startswith(f"{blocks / count:.1%} matches, {blocks:,} ")
    assert views.rows() == [row]


def test_a_table_is_sorted(views):
    views.choose("view", "table")
    assert views.rows()[0][3:] in (["<module>", "app.py:3"], ["<listcomp>", "app.py:3"])

    def column(number):
        return [row[number] for row in views.rows()]

    def sort(title):
        next(button for button in views.all("#table thead button")
             if button.text.startswith(title)).click()
        return [cell.get_attribute("aria-sort") for cell in views.all("#table th")]
    assert sort("Blocks") == ["none", "descending", "none", "none", "none"]
    blocks = [int(text.replace(",", "")) for text in column(1)]
    assert blocks == sorted(blocks, reverse=True)
    assert sort("Blocks")[1] == "ascending"
    assert [int(text.replace(",", "")) for text in column(1)] == blocks[::-1]
    assert sort("Where")[4] == "ascending"
    views.fragment("#view=table&sort=where")
    names = [re.sub(":.*", "", text).lower() for text in column(4)]
    assert names == sorted(names)
    sort("Size")
    views.find("#table tbody button").click()
    assert [box.text.split(" ")[1] for box in views.all("#graph div.found")] == ["(app.py:3)"]


def test_keys_go_through_a_graph(views):
    from selenium.webdriver.common.keys import Keys
    active = views.browser.switch_to
    views.find("#find").send_keys(Keys.TAB)
    while active.active_element.get_attribute("role") != "treeitem":
        active.active_element.send_keys(Keys.TAB)
    assert active.active_element.text == "all"
    active.active_element.send_keys(Keys.ARROW_UP)
    first = active.active_element
    assert first.get_attribute("aria-level") == "2"
    assert first.value_of_css_property("outline-style") == "solid"
    assert views.find("#told").text == first.get_attribute("aria-label")
    first.send_keys(Keys.ARROW_RIGHT)
    second = active.active_element
    assert second != first and second.get_attribute("aria-level") == "2"
    second.send_keys(Keys.ARROW_LEFT)
    assert active.active_element == first
    label = first.text
    first.send_keys(Keys.ENTER)
    assert active.active_element.text == label and len(active.active_element.text) > 1
    assert active.active_element.size["width"] == views.find("#graph").size["width"]
    active.active_element.send_keys(Keys.ARROW_DOWN)
    assert active.active_element.text == "all"
    active.active_element.send_keys(Keys.ESCAPE)
    assert views.box(label).size["width"] < views.find("#graph").size["width"]
    # All that is named is named for those who hear it.
    for control in views.all("input, button"):
        assert control.accessible_name or not control.is_displayed()


def test_growth_between_two_moments(browser, folder):
    browser.get(f"file://{folder / 'leaks.html'}")
    data = data_of(folder / "leaks.html")
    site, last = data["sites"][0], len(data["times"]) - 1
    row = browser.find_element("css selector", "#sites tbody tr")
    assert "leak.py:5 remember" in row.text
    row.click()
    assert browser.find_element("css selector", "#find").get_attribute("value") == \
        r"\bleak\.py:5\b"
    found, = browser.find_elements("css selector", "#graph div.found")
    assert found.text == "+ remember (leak.py:5)"

    def between(start, end):
        """What grew and what shrank, as the page says it, and the root of the graph."""
        for name, value in ("from", start), ("to", end):
            browser.execute_script(
                "const t = document.getElementById(arguments[0]); t.value = arguments[1];"
                "t.dispatchEvent(new Event('input'));", name, value)
        told = re.match(r"From ([\d.]+) s to [\d.]+ s: (.*) grown, (.*) given back; ",
                        text(browser, "#between"))
        assert told[1] == f"{data['times'][min(start, end)]:.1f}"
        return told[2], told[3], re.match(r"all: (\S+ \S+) ", text(browser, "#told"))[1]
    for start, end in (0, last), (last // 2, last), (last, 0), (3, 3):
        first, after = sorted((start, end))
        changes = [stack["levels"][after][0] - stack["levels"][first][0]
                   for stack in data["stacks"]]
        total = sum(changes)
        assert between(start, end) == (
            size_text(sum(change for change in changes if change > 0)),
            size_text(-sum(change for change in changes if change < 0)),
            ("+" if total > 0 else "−" if total else "±") + size_text(abs(total)))
    assert site["levels"][last][0] <= data["levels"][last][0]


def test_what_changed_is_red_and_blue(browser, folder):
    """And has a sign, and the same in the table."""
    views = Views(browser, folder / "changes.html")
    assert text(browser, "h1") == "What changed in live memory"
    assert about(browser)["PID"] == "9; earlier: 7"
    assert about(browser)["Total"] == ("3.4 KiB in 353 blocks, at the end; earlier: 1.7 KiB in "
                                       "173 blocks, at the end")
    boxes = {box.text: box for box in views.boxes()}
    assert list(boxes) == ["+ all", "+ <module> (app.py)", "− gone (app.py)",
                           "+ kept (app.py)", "+ new (app.py)"]
    assert boxes["− gone (app.py)"].get_attribute("aria-label").startswith(
        "gone (app.py): −700 B (from 700 B to 0 B), −70 blocks · /after/app.py")
    picture = screenshot(browser)

    def pixel(label):
        at = boxes[label].rect
        return picture.getpixel((int(at["x"] + at["width"] - 6), int(at["y"] + 4)))
    grown, shrunk, both = map(pixel, ("+ kept (app.py)", "− gone (app.py)", "+ all"))
    assert grown == pixel("+ new (app.py)") and grown[0] > grown[2] + 100
    assert shrunk[2] > shrunk[0] + 100 and both[0] > both[2] and min(both) > min(grown) + 50
    width = views.find("#graph").size["width"]
    assert abs(boxes["− gone (app.py)"].size["width"] - width * 700 / 3200) < 2
    views.choose("view", "table")
    assert views.rows() == [
        ["+2.0 KiB", "+200", "1,000 B", "2.9 KiB", "kept", "app.py:9"],
        ["−700 B", "−70", "700 B", "0 B", "gone", "app.py:8"],
        ["+500 B", "+50", "0 B", "500 B", "new", "app.py:10"]]
    assert [cell.get_attribute("class") for cell in views.all("#table td:first-child")] == [
        "number change up", "number change down", "number change up"]
    # By line the function that stayed is another one.
    views.find("input[name=lines]").click()
    assert [row[5] for row in views.rows()] == [
        "app.py:9", "app.py:7", "app.py:8", "app.py:10", "app.py:9", "app.py:11"]


@pytest.mark.parametrize("page", ["heapmap.html", "flame.html", "leaks.html", "changes.html"])
def test_a_page_fits_and_can_be_read(browser, folder, page):
    browser.get(f"file://{folder / page}")
    try:
        for width, scheme in itertools.product((390, 1280), ("light", "dark")):
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
                "width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500})
            browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [
                {"name": "prefers-color-scheme", "value": scheme}]})
            assert browser.execute_script("return innerWidth") == width
            assert browser.execute_script(
                "return document.documentElement.scrollWidth") <= width
            colors = browser.execute_script(
                "const style = getComputedStyle(document.body);"
                "return [style.color, style.backgroundColor]")
            ink, paper = (sum(map(int, re.findall(r"\d+", color)[:3])) / 3 for color in colors)
            assert abs(ink - paper) > 150 and (ink > paper) == (scheme == "dark")
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_a_window_may_change_before_the_graph_is_drawn(browser, folder):
    browser.get(f"file://{folder / 'leaks.html'}")
    browser.get_log("browser")
    browser.execute_script("root = null; dispatchEvent(new Event('resize'));")
    assert browser.get_log("browser") == []


def test_nothing_went_wrong_in_the_pages(browser, folder):
    for page in PAGES:
        browser.get(f"file://{folder / page}")
        assert [entry for entry in browser.get_log("browser")
                if entry["level"] == "SEVERE"] == []
