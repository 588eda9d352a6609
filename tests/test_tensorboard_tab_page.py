"""What a person sees of the tab: in TensorBoard, and in a report from the disk."""

import base64
import dataclasses
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request

import cv2
import numpy as np
import pytest
from werkzeug.serving import make_server

from keras_embcam import tab_format
from keras_embcam.drawing import COLORMAPS, overlay_heatmap
from keras_embcam.tensorboard.plugin import STATIC
from keras_embcam.tensorboard.report import write_report

playwright = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed (pip install -e .[dev])"
)
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="chromium is not installed (apt-get install chromium)"
)
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync"
)
PATIENCE = 60_000  # milliseconds
HOSTILE = "<img src=x onerror=alert(1)>"
LABELS = ["circle", "square", HOSTILE]
NUM_EXAMPLES = 60
NUM_EPOCHS = 6


@pytest.fixture(scope="module")
def made(tab_logs, tmp_path_factory):
    """Two runs over the same scenes: runs, and their updates."""
    folder = tmp_path_factory.mktemp("logs")
    options = {"labels": LABELS, "size": 96}
    runs = {
        "honest": tab_logs.Run(NUM_EXAMPLES, NUM_EPOCHS, **options),
        "shortcut": tab_logs.Run(NUM_EXAMPLES, NUM_EPOCHS, 0.2, seed=1, **options),
    }
    updates = {name: run.write(folder / name) for name, run in runs.items()}
    return folder, runs, updates


def wait_for_runs(address, log_dir):
    """Wait until all runs of a folder have been read."""
    num_runs = len({file.parent for file in log_dir.rglob("*tfevents*")})
    for _ in range(240):
        try:
            url = f"{address}/data/plugin/embcam/runs"
            answer = json.loads(urllib.request.urlopen(url, timeout=5).read())
            if len(answer["runs"]) == num_runs:
                return
        except OSError:
            pass
        time.sleep(0.5)
    raise AssertionError(f"{log_dir} was not read")


@pytest.fixture(scope="module")
def serve(tab_logs):
    """Return what serves the page alone, which TensorBoard's frame shows."""
    servers = []

    def serve(log_dir):
        app, board = tab_logs.make_application(log_dir)
        server = make_server("127.0.0.1", 0, app, threaded=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append((server, board))
        address = f"http://127.0.0.1:{server.port}"
        wait_for_runs(address, log_dir)
        return f"{address}/data/plugin_entry.html?name=embcam"

    yield serve
    for server, _ in servers:
        server.shutdown()


@pytest.fixture(scope="module")
def tensorboard(made):
    """The address of a whole TensorBoard."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(made[0])]
    command += ["--host", "127.0.0.1", "--port", str(port), "--reload_interval", "1"]
    server = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_for_runs(f"http://127.0.0.1:{port}", made[0])
        yield f"http://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


@pytest.fixture(scope="module", params=["page", "report"])
def address(request, made, serve, tmp_path_factory):
    if request.param == "page":
        return serve(made[0])
    out = tmp_path_factory.mktemp("report") / "report.html"
    write_report(made[0], out)
    return out.as_uri()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with playwright.sync_playwright() as driver:
        context = driver.chromium.launch_persistent_context(
            str(tmp_path_factory.mktemp("profile")),
            executable_path=CHROMIUM,
            args=FLAGS.split(),
            viewport={"width": 1280, "height": 800},
        )
        yield context
        context.close()


class Tab:
    """The page, in TensorBoard's frame or alone, and what went wrong in it."""

    def __init__(self, browser, address):
        self.page = browser.new_page()
        self.address = address
        self.is_framed = address.endswith(("/", "=true", "=false"))
        self.troubles = []
        self.requests = []
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.troubles.append(str(error)))
        self.page.on("dialog", lambda x: (self.troubles.append(x.message), x.dismiss()))
        self.page.on("request", lambda request: self.requests.append(request.url))

    def _hear(self, message):
        # Which a browser asks for by itself where the page is not framed.
        is_icon = message.location["url"].endswith("/favicon.ico")
        if message.type == "error" and not is_icon:
            self.troubles.append(message.text)

    def open(self, view=""):
        self.page.goto("about:blank")
        if self.is_framed:
            view = "embcam&p.embcam.view=" + urllib.parse.quote(view, safe="")
        self.page.goto(f"{self.address}#{view}")
        self.root.locator(".app").wait_for(timeout=PATIENCE)
        return self

    @property
    def root(self):
        return self.page.frame_locator("iframe") if self.is_framed else self.page

    @property
    def frame(self):
        return self.page.frames[-1]

    def locate(self, selector, **options):
        return self.root.locator(selector, **options)

    def wait_for_cards(self):
        self.locate(".card canvas").first.wait_for(timeout=PATIENCE)
        self.settle()

    def settle(self):
        """Wait until what was asked for is drawn."""
        self.frame.evaluate(
            "() => new Promise(done => requestAnimationFrame(() => "
            "requestAnimationFrame(() => setTimeout(done, 30))))"
        )
        self.locate(".app[aria-busy=false]").wait_for(timeout=PATIENCE)

    def button(self, name):
        return self.root.get_by_role("button", name=name, exact=True)

    def choose(self, name, value):
        self.locate(f"select[aria-label='{name}']").select_option(value)
        self.settle()

    def names(self):
        """All cards in order, found by scrolling through the page."""
        return self.frame.evaluate(
            """async () => {
              const grid = document.querySelector('.grid');
              const found = new Map();
              for (let y = 0; ; y += grid.clientHeight) {
                grid.scrollTop = y;
                grid.dispatchEvent(new Event('scroll'));
                for (const card of grid.querySelectorAll('.card')) {
                  found.set(Number(card.dataset.place), card.dataset.name);
                }
                if (y > grid.scrollHeight) break;
              }
              grid.scrollTop = 0;
              return [...found].sort((a, b) => a[0] - b[0]).map(x => x[1]);
            }"""
        )

    def pixels(self, selector):
        """The pixels of the first canvas, (h, w, 4)."""
        width, height, data = self.frame.evaluate(
            """(selector) => {
              const canvas = document.querySelector(selector);
              const { width, height } = canvas;
              const pixels = canvas.getContext('2d').getImageData(0, 0, width, height);
              let text = '';
              for (const value of pixels.data) text += String.fromCharCode(value);
              return [width, height, btoa(text)];
            }""",
            selector,
        )
        array = np.frombuffer(base64.b64decode(data), "uint8")
        return array.reshape(height, width, 4)

    def keep(self, name):
        """Write a screenshot where the environment asks for it, to be looked at."""
        folder = os.environ.get("KERAS_EMBCAM_SCREENSHOTS")
        if folder:
            kind = re.search("^file|plugin_entry|^http", self.address)[0]
            self.page.screenshot(path=os.path.join(folder, f"{kind}-{name}.png"))


def watch(browser, address):
    """Yield a tab; at the end nothing went wrong and nothing came from outside."""
    tab = Tab(browser, address)
    yield tab
    tab.page.close()
    assert tab.troubles == []
    own = (
        "file:"
        if address.startswith("file:")
        else re.match("http://[^/]+/", address)[0]
    )
    for url in tab.requests:
        assert url.startswith((own, "blob:", "data:", "about:")), url


@pytest.fixture
def tab(browser, address):
    yield from watch(browser, address)


@pytest.fixture(params=["false", "true"], ids=["light", "dark"])
def framed(request, browser, tensorboard):
    yield from watch(browser, f"{tensorboard}/?darkMode={request.param}")


def kept(update):
    """The ratios as they are kept, in 16 bits."""
    figures = tab_format.unpack(update.to_blobs()[0]).arrays
    return tab_format.from_shares(figures["ratios"])


def names_in_order(run, ranks):
    return [run.examples.names[i] for i in np.argsort(ranks, kind="stable")]


def test_all_examples_stand_in_order_of_their_ratio(tab, made):
    _, runs, updates = made
    tab.open().wait_for_cards()
    assert tab.names() == names_in_order(runs["honest"], kept(updates["honest"][-1]))
    assert tab.locate(".count").inner_text() == "60 examples"
    tab.keep("first")


def test_the_worst_of_epoch_3_is_the_first_after_moving_the_slider(tab, made):
    _, runs, updates = made
    tab.open().wait_for_cards()
    slider = tab.root.get_by_role("slider", name="Epoch")
    slider.fill("3")
    tab.settle()
    assert tab.locate(".step b").inner_text() == "3"
    ratios = kept(updates["honest"][3])
    assert tab.names() == names_in_order(runs["honest"], ratios)
    figures = tab.locate(".card[data-place='0'] .figures b").all_inner_texts()
    assert figures[0] == f"{np.nanmin(ratios):.2f}"


@pytest.mark.parametrize("sort", ["high", "fall", "since", "similarity", "difference"])
def test_orders_are_those_of_numpy(tab, made, sort):
    _, runs, updates = made
    honest, shortcut = updates["honest"], updates["shortcut"]
    run, epoch = runs["honest"], 4
    tab.open(f"step={epoch}").wait_for_cards()
    tab.choose("Order", "fall" if sort == "since" else sort)
    if sort == "since":
        tab.choose("Fall since", "1")
    figures = tab_format.unpack(honest[epoch].to_blobs()[0]).arrays
    cosines = figures["similarities"][:, 0] / 32767
    wrong = run.kinds[figures["neighbors"][:, 0]] != run.kinds
    ranks = {
        "high": -kept(honest[epoch]),
        "fall": kept(honest[epoch]) - kept(honest[epoch - 1]),
        "since": kept(honest[epoch]) - kept(honest[1]),
        "similarity": np.where(wrong, -cosines, np.nan),
        "difference": -np.abs(kept(honest[epoch]) - kept(shortcut[epoch])),
    }[sort]
    assert tab.names() == names_in_order(run, ranks)


def test_filters_keep_what_they_say(tab, made):
    _, runs, updates = made
    run, update = runs["honest"], updates["honest"][0]
    ratios = kept(update)
    tab.open("step=0&sort=name").wait_for_cards()
    wrong = run.kinds[update.neighbors[:, 0]] != run.kinds
    for name, keep in [
        ("first match wrong", wrong),
        ("heat outside the box", ratios < 0.5),
        ("empty", update.empty),
    ]:
        tab.button(name).click()
        tab.settle()
        expected = [x for x, y in zip(run.examples.names, keep, strict=True) if y]
        assert tab.names() == expected
        tab.button(name).click()
    tab.choose("Class", "square")
    expected = [x for x, k in zip(run.examples.names, run.kinds, strict=True) if k == 1]
    assert tab.names() == expected
    assert tab.locate(".count").inner_text() == "20 of 60 examples"
    tab.locate("input[type=search]").fill("0004")
    tab.settle()
    assert tab.names() == ["scene 0004"]
    tab.locate("input[type=search]").fill("nothing like it")
    tab.locate("text=No example passes the filters").wait_for()


@pytest.mark.parametrize("colors", ["turbo", "viridis", "inferno", "jet", "hot"])
def test_heat_is_what_overlay_heatmap_draws(tab, made, colors):
    _, _, updates = made
    view = f"step=2&sort=name&truth=false&found=false&run=honest&colors={colors}"
    tab.open(f"{view}&heat=0&size=3").wait_for_cards()
    base = tab.pixels(".card[data-place='7'] canvas")[..., :3]
    tab.open(f"{view}&size=3").wait_for_cards()
    drawn = tab.pixels(".card[data-place='7'] canvas")[..., :3]
    heat = tab_format.to_bytes(updates["honest"][2].maps)[7] / 255
    expected = overlay_heatmap(base, heat, colormap=colors, opacity=0.7)
    assert np.abs(expected.astype(int) - base).max() > 50  # there is heat to see
    assert np.abs(expected.astype(int) - drawn).max() <= 2


def test_colormaps_are_those_of_opencv():
    text = (STATIC / "colormaps.js").read_text()
    levels = np.arange(256, dtype="uint8")[:, None]
    found = re.findall(r"  (\w+):\s+((?:\"\w+\"(?: \+\s+)?)+)", text)
    assert len(found) == 5
    for name, digits in found:
        colors = cv2.applyColorMap(levels, COLORMAPS[name])[:, 0, ::-1]
        assert bytes.fromhex(re.sub(r"[^0-9a-f]", "", digits)) == colors.tobytes()


def test_boxes_are_drawn_where_they_are(tab, made):
    _, runs, _ = made
    view = "run=honest&sort=name&heat=0&size=3&found=false"
    tab.open(view).wait_for_cards()
    drawn = tab.pixels(".card[data-place='5'] canvas")
    green = (drawn[..., 1] == 255) & (drawn[..., 0] == 0) & (drawn[..., 2] == 0)
    rows, columns = np.nonzero(green)
    height, width = green.shape
    x1, y1, x2, y2 = runs["honest"].boxes[5]
    expected = [x1 * width, y1 * height, x2 * width, y2 * height]
    edges = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    np.testing.assert_allclose(edges, expected, atol=1.01)


def test_two_runs_stand_side_by_side_with_their_difference(tab, made):
    _, runs, updates = made
    tab.open("sort=name").wait_for_cards()
    card = tab.locate(".card[data-place='2']")
    assert card.locator("canvas").count() == 2
    ratios = [kept(updates[name][-1])[2] for name in ("honest", "shortcut")]
    assert card.locator("b").all_inner_texts() == [f"{x:.2f}" for x in ratios]
    sign = "+" if ratios[1] > ratios[0] else "\u2212"
    expected = f"{sign}{abs(ratios[1] - ratios[0]):.2f}"
    assert card.locator(".delta").inner_text() == expected
    tab.button("shortcut").click()
    tab.settle()
    assert tab.locate(".card[data-place='2'] canvas").count() == 1


def test_runs_are_matched_by_names_whatever_their_order(open_page, tab_logs, tmp_path):
    runs = [tab_logs.Run(4, 1), tab_logs.Run(4, 1, 0.2, seed=1)]
    names = ["<img src=x onerror=alert(2)>", "birds/b.jpg", "c", "d"]
    ratios = []
    for run, own in zip(runs, [names, names[:0:-1] + ["e"]], strict=True):
        examples = dataclasses.replace(run.examples, names=own)
        update = dataclasses.replace(run.make_update(0), examples_key=examples.key)
        writer = tab_logs.EventFileWriter(str(tmp_path / f"run{len(ratios)}"))
        for tag, written in zip(tab_format.PARTS, [examples, update], strict=True):
            tab_logs.write_blobs(writer, tag, 0, written.to_blobs())
        writer.close()
        ratios.append(dict(zip(own, kept(update), strict=True)))
    tab = open_page(tmp_path).open("sort=name")
    tab.wait_for_cards()
    assert tab.names() == [*names, "e"]
    for place, name in enumerate(tab.names()):
        found = tab.locate(f".card[data-place='{place}'] b").all_inner_texts()
        shares = [own.get(name, np.nan) for own in ratios]
        assert found == [f"{x:.2f}" for x in shares if np.isfinite(x)]
    tab.locate(".card").first.click()
    tab.locate(".detail h2").wait_for()
    assert tab.locate(".detail h2").inner_text() == names[0]
    tab.settle()


def test_one_example_shows_all_epochs_and_its_matches(tab, made):
    _, runs, updates = made
    run, update = runs["honest"], updates["honest"][0]
    wrong = run.kinds[update.neighbors[:, 0]] != run.kinds
    number = int(np.flatnonzero(wrong)[0])
    tab.open("step=0&sort=name&run=honest").wait_for_cards()
    tab.locate(f".card[data-place='{number}']").click()
    tab.locate(".detail h2").wait_for()
    assert tab.locate(".detail h2").inner_text() == run.examples.names[number]
    cells = tab.locate(".strip .cell")
    assert cells.count() == NUM_EPOCHS
    assert cells.nth(0).get_attribute("aria-current") == "step"
    texts = tab.locate(".match .label").all_inner_texts()
    assert texts == [run.examples.labels[i] for i in update.neighbors[number]]
    frames = [x.get_attribute("class") for x in tab.locate(".match").all()]
    right = run.kinds[update.neighbors[number]] == run.kinds[number]
    assert frames == ["match right" if x else "match wrong" for x in right]
    tab.locate(".pair canvas").nth(1).wait_for()
    assert tab.locate(".pair canvas").count() == 2
    assert not tab.locate("text=Heat of the pair is logged for").count()
    tab.keep("detail")
    cells.nth(2).click()
    tab.settle()
    assert tab.locate(".step b").inner_text() == "2"
    tab.locate(".match").first.click()
    tab.settle()
    first = run.examples.names[updates["honest"][2].neighbors[number, 0]]
    assert tab.locate(".detail h2").inner_text() == first
    tab.button("Back to all examples (Esc)").click()
    tab.settle()
    assert not tab.locate(".detail").is_visible()


def test_where_the_log_has_no_heat_of_a_pair_it_is_said(open_page, tab_logs, tmp_path):
    run = tab_logs.Run(20, 1)
    update = run.make_update(0)
    kept, left_out = update.pair_examples[:2]
    few = {"pair_examples": [kept], "pair_maps": update.pair_maps[:, :1]}
    writer = tab_logs.EventFileWriter(str(tmp_path))
    for tag, written in [
        (tab_format.EXAMPLES_TAG, run.examples),
        (tab_format.UPDATES_TAG, dataclasses.replace(update, **few)),
    ]:
        tab_logs.write_blobs(writer, tag, 0, written.to_blobs())
    writer.close()
    tab = open_page(tmp_path)
    name = urllib.parse.quote(run.examples.names[left_out])
    tab.open(f"example={name}").locate("text=Heat of the pair is logged for").wait_for()
    assert tab.locate(".pair").count() == 0
    name = urllib.parse.quote(run.examples.names[kept])
    tab.open(f"example={name}").locate(".pair canvas").nth(1).wait_for()


def test_the_table_of_classes_is_that_of_numpy(tab, made):
    _, runs, updates = made
    run, update = runs["honest"], updates["honest"][-1]
    tab.open("classes=true&run=honest").wait_for_cards()
    rows = tab.locate(".classes tbody tr")
    found = {}
    for row in rows.all():
        label = row.locator("th").inner_text()
        found[label] = row.locator("td").all_inner_texts()[:3]
    right = run.kinds[update.neighbors[:, 0]] == run.kinds
    for kind, label in enumerate(LABELS):
        members = run.kinds == kind
        mean = np.nanmean(kept(update)[members])
        recall = right[members].mean()
        assert found[label] == ["20", f"{mean:.2f}", f"{recall:.2f}"]
    worst = rows.first.locator(".worst").first.get_attribute("title")
    label = rows.first.locator("th").inner_text()
    members = np.flatnonzero(run.kinds == LABELS.index(label))
    number = members[np.nanargmin(kept(update)[members])]
    assert worst.startswith(run.examples.names[number])
    tab.keep("classes")


def test_labels_are_text(tab):
    tab.open("classes=true&sort=name").wait_for_cards()
    assert tab.locate(".card[data-place='2'] .label").inner_text() == HOSTILE
    tab.locate(".card[data-place='2']").click()
    tab.locate(".detail h2").wait_for()
    assert tab.locate(".detail button.link").first.inner_text() == HOSTILE
    assert tab.locate("img").count() == 0


def test_keys(tab):
    tab.open("step=1&run=honest").wait_for_cards()
    step = tab.locate(".step b")
    tab.locate(".grid").focus()
    for key, expected in [
        ("ArrowRight", "2"),
        ("ArrowLeft", "1"),
        ("End", "5"),
        ("Home", "0"),
    ]:
        tab.page.keyboard.press(key)
        tab.settle()
        assert step.inner_text() == expected
    tab.page.keyboard.press("j")
    tab.page.keyboard.press("j")
    tab.page.keyboard.press("Enter")
    tab.settle()
    names = [tab.locate(".detail h2").inner_text()]
    tab.page.keyboard.press("ArrowDown")
    tab.settle()
    names.append(tab.locate(".detail h2").inner_text())
    tab.page.keyboard.press("Escape")
    tab.settle()
    assert names == tab.names()[1:3]
    tab.page.keyboard.press("?")
    assert tab.locate("dialog.keys").is_visible()
    tab.page.keyboard.press("Escape")
    assert tab.locate("dialog.keys").count() == 0
    tab.page.keyboard.press("c")
    tab.settle()
    assert tab.locate(".classes").is_visible()


def test_play_goes_through_the_epochs_and_stops(tab):
    tab.open("step=3").wait_for_cards()
    tab.locate(".grid").focus()
    tab.page.keyboard.press("Space")
    button = tab.locate(".play")
    assert button.get_attribute("aria-label") == "Pause"
    tab.frame.wait_for_function(
        "() => document.querySelector('.step b').textContent === '5'"
    )
    tab.frame.wait_for_function(
        "() => document.querySelector('.play').ariaLabel === 'Play'"
    )


def bring_view_back(tab):
    """Choose much, load the page's address again, and find the same."""
    tab.open().wait_for_cards()
    tab.root.get_by_role("slider", name="Epoch").fill("2")
    tab.choose("Order", "fall")
    tab.choose("Class", HOSTILE)
    tab.choose("Colours of the heat", "viridis")
    tab.button("shortcut").click()
    tab.settle()
    names = tab.names()
    tab.locate(".card").first.click()
    # The address follows a little later.
    tab.page.wait_for_function(
        "() => decodeURIComponent(location.hash).includes('example=')",
        timeout=PATIENCE,
    )
    title = tab.locate(".detail h2").inner_text()
    address = tab.page.url
    tab.page.goto("about:blank")
    tab.page.goto(address)
    tab.locate(".detail h2").wait_for(timeout=PATIENCE)
    tab.settle()
    assert tab.locate(".detail h2").inner_text() == title
    tab.page.keyboard.press("Escape")
    tab.wait_for_cards()
    assert tab.locate(".step b").inner_text() == "2"
    assert tab.names() == names
    assert tab.locate(".card").first.locator("canvas").count() == 1


def test_the_address_brings_the_view_back(tab):
    bring_view_back(tab)


@pytest.mark.parametrize("width", [1280, 2560])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_cut_at_any_width(tab, width, scheme):
    tab.page.set_viewport_size({"width": width, "height": width * 9 // 16})
    tab.page.emulate_media(color_scheme=scheme)
    tab.open().wait_for_cards()
    tab.keep(f"{width}-{scheme}")
    assert tab.frame.evaluate("document.documentElement.dataset.theme") == scheme
    assert tab.frame.evaluate(
        "document.documentElement.scrollWidth <= window.innerWidth"
    )
    overflowing = tab.frame.evaluate(
        "[...document.querySelectorAll('.toolbar *, .timeline *')].filter("
        "x => x.getBoundingClientRect().right > window.innerWidth + 1).length"
    )
    assert overflowing == 0


def test_in_tensorboard_the_view_is_in_its_address_and_the_theme_is_its_own(framed):
    bring_view_back(framed)
    assert "#embcam&p.embcam.view=" in framed.page.url
    theme = "dark" if "=true" in framed.address else "light"
    assert framed.frame.evaluate("document.documentElement.dataset.theme") == theme
    framed.keep(theme)


@pytest.fixture
def open_page(browser, serve):
    """Return what opens the page on a log of its own; at the end nothing is amiss."""
    tabs = []

    def open_page(log_dir):
        tabs.append(Tab(browser, serve(log_dir)))
        return tabs[-1]

    yield open_page
    for tab in tabs:
        tab.page.close()
        assert tab.troubles == []


def test_without_data_the_page_says_how_to_get_it(open_page, tmp_path):
    tab = open_page(tmp_path).open()
    tab.locate("text=No EmbeddingCAM data in these logs").wait_for()
    assert "EmbeddingCAMLogger" in tab.locate(".hint pre").inner_text()
    tab.keep("hint")


def test_damage_is_told_and_the_rest_is_shown(open_page, tab_logs, tmp_path):
    run = tab_logs.Run(6, 3)
    run.write(tmp_path / "good")
    writer = tab_logs.EventFileWriter(str(tmp_path / "bad"))
    tab_logs.write_blobs(writer, tab_format.EXAMPLES_TAG, 0, run.examples.to_blobs())
    good = run.make_update(0).to_blobs()
    newer = [x[:6] + (9).to_bytes(2, "little") + x[8:] for x in good]
    torn = [good[0][:-9], good[1], good[2]]
    for step, blobs in enumerate([good, newer, torn]):
        tab_logs.write_blobs(writer, tab_format.UPDATES_TAG, step, blobs)
    writer.close()
    tab = open_page(tmp_path).open()
    tab.wait_for_cards()
    message = tab.locate(".message").inner_text()
    assert "bad: update 1: Written in version 9 of the format" in message
    assert "bad: update 2: Damaged" in message
    assert tab.locate(".card").count() == 6
    assert tab.locate(".card[data-place='0'] canvas").count() == 2


def test_of_many_runs_some_are_chosen(open_page, tab_logs, tmp_path):
    for number in range(9):
        run = tab_logs.Run(4, 1, seed=number)
        run.write(tmp_path / f"run{number}" / "validation")
    tab = open_page(tmp_path).open()
    tab.wait_for_cards()
    assert tab.locate(".card[data-place='0'] canvas").count() == 2
    assert tab.locate("summary").inner_text() == "Runs: 2 of 9"
    tab.locate("summary").click()
    tab.locate(".menu button", has_text="run7").click()
    tab.locate(".card[data-place='0'] canvas").nth(2).wait_for(timeout=PATIENCE)
    tab.keep("many")


def test_of_a_thousand_examples_those_in_sight_are_drawn(open_page, tab_logs, tmp_path):
    tab_logs.Run(1000, 1, size=16).write(tmp_path)
    tab = open_page(tmp_path).open()
    tab.wait_for_cards()
    assert len(tab.names()) == 1000
    assert tab.locate(".card").count() < 100


# The last one: it writes beside the runs that the others look at.
def test_tensorboards_reload_brings_new_runs_and_epochs(
    browser, tensorboard, made, tab_logs
):
    tab = Tab(browser, f"{tensorboard}/")
    tab.open().wait_for_cards()
    run = tab_logs.Run(4, 3)
    for epochs, last in ([0], "0"), ([1, 2], "2"):
        run.write(made[0] / "z" / "growing", epochs, with_examples=epochs == [0])
        seen = tab.locate(".run", has_text="z/growing")
        if last != "0":
            seen = tab.locate(".step b", has_text=last)
        for _ in range(60):  # until TensorBoard has read what was written
            time.sleep(1)
            tab.page.locator("app-header-reload button").click()
            tab.locate(".app[aria-busy=false]").wait_for(timeout=PATIENCE)
            if seen.count():
                break
        if last == "0":
            for name in ("honest", "z/growing", "shortcut"):
                tab.button(name).click()
                tab.settle()
        tab.locate(".step b", has_text=last).wait_for(timeout=PATIENCE)
        tab.settle()
    assert tab.locate(".card").count() == 4
    tab.page.close()
    assert tab.troubles == []
