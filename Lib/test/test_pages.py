"""The pages of heapmap, flame and leaks in a browser: stepped, clicked, and looked at."""

import io
import json
import re
import shutil
import struct
from base64 import b64decode

import pytest

from conftest import BUILD, clean_environment, need_module, run

pytestmark = pytest.mark.skipif(
    shutil.which("chromium") is None or shutil.which("chromedriver") is None,
    reason="needs a browser (Debian: chromium chromium-driver)")
webdriver = need_module("selenium.webdriver", "python3-selenium")
Image = need_module("PIL.Image", "python3-pil")

SCRIPT = """
import ctypes, time
kept = [bytes(400) for _ in range(20_000)]
time.sleep(0.25)
del kept[::2]
junk = [bytes(450) for _ in range(20_000)]
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
PAGES = "heapmap.html", "flame.html", "leaks.html"
OFFLINE = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
           "--no-first-run", "--disable-background-networking",
           "--disable-component-update", "--disable-sync", "--window-size=1400,1000",
           "--force-device-scale-factor=1"]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for argument in [*OFFLINE, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"]:
        options.add_argument(argument)
    from selenium.webdriver.chrome.service import Service
    driver = webdriver.Chrome(service=Service(shutil.which("chromedriver")),
                              options=options)
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    (folder / "app.py").write_text(SCRIPT)
    (folder / "leak.py").write_text(LEAK)
    for command, script in ((["heapmap", "--every", "0.1"], "app.py"), (["flame"], "app.py"),
                            (["leaks", "--window", "0.1", "--samples", "0"], "leak.py")):
        result = run(BUILD / "python", "-m", "pymem", *command, "-o",
                     folder / f"{command[0]}.html", folder / script,
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
        assert not re.search(r"""(src|href)=|@import|url\(|https?://(?!www\.w3\.org)""",
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
        cells = browser.find_elements("css selector", "#map rect.pool")
        assert len(cells) == len(pools)
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
    last = len(heapmap["frames"]) - 2          # at the end: half of the 400s are free
    for _ in range(last):
        browser.find_element("css selector", "#forward").click()
    wanted = next(pool for arena in heapmap["frames"][last]["arenas"]
                  for pool in [heapmap["pools"][n] for n in arena["pools"]]
                  if pool[1] == 448 and 5 < pool[4] < pool[2] and pool[3] == pool[2])
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
    """On a screenshot: each pool in its colour, filled as far as its blocks are used."""
    for _ in range(len(heapmap["frames"]) - 2):
        browser.find_element("css selector", "#forward").click()
    picture = screenshot(browser)
    assert len(picture.getcolors(maxcolors=1 << 24)) > 20
    boxes = browser.execute_script(
        "return [...document.querySelectorAll('#map rect.pool')].map(cell => {"
        " const box = cell.getBoundingClientRect();"
        " return [Number(cell.dataset.number), box.x, box.y, box.width, box.height]; })")
    nfull = nfree = 0
    for number, x, y, width, height in boxes:
        _, size, nblocks, _, nused, *_ = heapmap["pools"][number]
        if y + height > picture.height - 4:
            continue
        def pixel(share):
            return picture.getpixel((int(x + width / 2), int(y + height * share)))
        if not size:
            assert pixel(.5) == (255, 255, 255)
            nfree += 1
        elif nused == nblocks:
            assert pixel(.25) == pixel(.75) == rgb(heapmap["colors"][str(size)][0])
            nfull += 1
        elif .4 < nused / nblocks < .6:
            assert pixel(.75) == rgb(heapmap["colors"][str(size)][0])
            assert pixel(.25) == rgb(heapmap["colors"][str(size)][1])
    assert nfull > 100 and nfree > 10


def test_a_flame_graph_is_clicked(browser, folder):
    browser.get(f"file://{folder / 'flame.html'}")
    root = data_of(folder / "flame.html")
    boxes = browser.find_elements("css selector", "#graph div")
    assert boxes[0].text == "all" and len(boxes) >= 3
    assert text(browser, "#told").startswith(f"all: {root[2]:,} bytes, 100.0%")
    line = next(box for box in boxes if box.text == "<module> (app.py:3)")
    share = next(child[2] for child in root[5] if child[0] == line.text) / root[2]
    graph = browser.find_element("css selector", "#graph")
    assert abs(line.size["width"] / graph.size["width"] - share) < 0.01
    line.click()
    assert text(browser, "#told").startswith("<module> (app.py:3): ")
    shown = browser.find_elements("css selector", "#graph div")
    assert {box.size["width"] for box in shown} == {graph.size["width"]}
    browser.find_element("css selector", "#find").send_keys("APP.PY:3")
    assert len(browser.find_elements("css selector", "#graph div.found")) >= 1
    browser.find_element("css selector", "#all").click()
    assert len(browser.find_elements("css selector", "#graph div")) == len(boxes)


def test_growth_between_two_moments(browser, folder):
    browser.get(f"file://{folder / 'leaks.html'}")
    data = data_of(folder / "leaks.html")
    site, last = data["sites"][0], len(data["times"]) - 1
    row = browser.find_element("css selector", "#sites tbody tr")
    assert "leak.py:5 remember" in row.text
    row.click()
    assert browser.find_element("css selector", "#find").get_attribute("value") == "leak.py:5"
    found, = browser.find_elements("css selector", "#graph div.found")
    assert found.text == "remember (leak.py:5)"

    def between(start, end):
        """What grew, as the root of the graph says it."""
        for name, value in ("from", start), ("to", end):
            browser.execute_script(
                "const t = document.getElementById(arguments[0]); t.value = arguments[1];"
                "t.dispatchEvent(new Event('input'));", name, value)
        assert text(browser, "#between").startswith(
            f"From {data['times'][min(start, end)]:.1f} s to ")
        return int(re.match(r"grown: ([\d,]+) bytes", text(browser, "#told"))[1]
                   .replace(",", ""))
    for start, end in (0, last), (last // 2, last), (last, 0):
        first, after = sorted((start, end))
        grown = sum(max(stack["levels"][after][0] - stack["levels"][first][0], 0)
                    for stack in data["stacks"])
        assert between(start, end) == grown > 0
    assert between(3, 3) == 0
    assert site["levels"][last][0] <= data["levels"][last][0]


@pytest.mark.parametrize("page", PAGES[1:])
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_page_fits_and_can_be_read(browser, folder, page, width, scheme):
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
        "width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [
        {"name": "prefers-color-scheme", "value": scheme}]})
    try:
        browser.get(f"file://{folder / page}")
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
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
    browser.execute_script("root = null; shown = []; dispatchEvent(new Event('resize'));")
    assert browser.get_log("browser") == []


def test_nothing_went_wrong_in_the_pages(browser, folder):
    for page in PAGES:
        browser.get(f"file://{folder / page}")
        assert [entry for entry in browser.get_log("browser")
                if entry["level"] == "SEVERE"] == []
