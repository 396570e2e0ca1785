"""The page in a real Chromium: layout, the same frame everywhere, coming back by itself, and other sites."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from sdk import Purifier, open_source
from sdk.bundle import Bundle
from sdk.sinks.preview import Preview, gate, server
from sdk.sinks.preview.sink import TOKEN_VARIABLE
from sdk.sources import SourceEvent, SourceState
from tests.sdk.conftest import make_frame, make_result
from tests.sdk.sinks.preview.browser import MISSING, Browser, OtherSite

pytestmark = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))

CLIP = Path(__file__).parents[4] / "samples" / "clips" / "clean.avi"
COLORS = {"red": (0, 0, 255), "blue": (255, 0, 0)}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@contextmanager
def fed(
    preview: Preview, size: tuple[int, int] = (480, 640), sources: tuple[str, ...] = ("camera 0",)
) -> Iterator[None]:
    """Frames without end, red and blue in turn, each with its colour as label."""
    stop = threading.Event()

    def loop() -> None:
        index = 0
        while not stop.wait(0.01):
            label = ("red", "blue")[index % 2]
            for source in sources:
                frame = replace(make_frame(index, size, time_s=index / 25), source=source)
                frame.image[:] = COLORS[label]
                preview.write(frame, make_result(label, score=0.9))
            index += 1

    writer = threading.Thread(target=loop)
    writer.start()
    try:
        yield
    finally:
        stop.set()
        writer.join()


LIVE = (
    "document.getElementById('state').className === 'good'"
    " && Number(document.getElementById('rate').textContent) > 0"
)
BOXES = """
    const parts = document.querySelectorAll("section, #live, #label, #latency tr:last-child, #uptime");
    return [...parts].map((part) => {
      const box = part.getBoundingClientRect();
      return [part.id || part.tagName, box.left, box.top, box.right, box.bottom];
    });"""


@pytest.mark.parametrize(
    ("size", "sources"),
    [
        ((720, 1280), ("camera 0",)),
        ((64, 64), ("camera 0",)),
        ((1280, 720), ("camera 0",)),
        ((480, 640), tuple(f"rtsp://camera-{number}.example" for number in range(4))),
    ],
)
def test_nothing_is_below_the_fold(
    browser: Browser, preview: Preview, size: tuple[int, int], sources: tuple[str, ...]
) -> None:
    browser.resize(1280, 900)
    with fed(preview, size, sources):
        browser.visit(preview.url)
        browser.wait_for(LIVE)
        boxes = browser.run(BOXES)
        height = browser.run("return document.documentElement.scrollHeight")
    assert len(boxes) >= 8
    for name, left, top, right, bottom in boxes:
        assert 0 <= left < right <= 1280, name
        assert 0 <= top < bottom <= 900, name
    assert height <= 900


def test_picture_and_decision_are_of_the_same_frame(browser: Browser, preview: Preview) -> None:
    browser.resize(1280, 900)
    look = """
        const canvas = document.getElementById("live"), label = document.getElementById("label");
        const [red, green, blue] = canvas.getContext("2d").getImageData(5, 5, 1, 1).data;
        return [red > blue ? "red" : "blue", label.textContent, canvas.dataset.frame, label.dataset.frame];"""
    with fed(preview):
        browser.visit(preview.url)
        browser.wait_for(LIVE)
        seen = [browser.run(look) for _ in range(60)]
    assert {label for _, label, _, _ in seen} == {"red", "blue"}, "it goes on"
    for color, label, picture, decision in seen:
        assert color == label
        assert picture == decision


def test_phone_shows_legible_text_and_nothing_beside_the_screen(browser: Browser, preview: Preview) -> None:
    browser.resize(390, 844)
    sizes = """
        const texts = [...document.querySelectorAll("body *")].filter((part) => part.offsetParent !== null
          && [...part.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim()));
        return texts.map((part) => parseFloat(getComputedStyle(part).fontSize));"""
    with fed(preview, (720, 1280)):
        browser.visit(preview.url)
        browser.wait_for(LIVE)
        found = browser.run(sizes)
        width = browser.run("return document.documentElement.scrollWidth")
        canvas = browser.run("return document.getElementById('live').getBoundingClientRect().width")
    assert len(found) > 20
    assert min(found) >= 16
    assert width <= 390
    assert canvas > 300


def test_one_unit_for_every_score(browser: Browser, preview: Preview) -> None:
    preview.write(make_frame(), replace(make_result(score=0.75), suspicion=0.125))
    browser.visit(preview.url)
    browser.wait_for("document.getElementById('suspicion').textContent.includes('%')")
    shown = browser.run("return document.getElementById('decision-section').innerText")
    assert "75.0 %" in shown
    assert "suspicion 12.5 %" in shown
    assert "0.75" not in shown


def test_unsure_and_failed_frames_are_no_decision(browser: Browser, preview: Preview) -> None:
    browser.visit(preview.url)
    preview.write(make_frame(), replace(make_result(score=0.3), label="unsure", accepted=False))
    browser.wait_for("document.getElementById('label').className === 'unsure'")
    assert browser.run("return document.getElementById('label').textContent") == "unsure"
    preview.write(make_frame(1), make_result(label=None))
    browser.wait_for("document.getElementById('label').className === 'missing'")
    assert "engine purifier-00: failed" in browser.run("return document.body.innerText")


# --- alive, or not


def test_page_comes_back_after_the_browser_was_stopped(
    browser: Browser, preview: Preview, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped for longer than every time-out of the server, which drops the connection meanwhile."""
    for module, name in ((gate, "IDLE_S"), (server, "PATIENCE_S"), (server, "LONG_POLL_S")):
        monkeypatch.setattr(module, name, 0.5)
    with fed(preview):
        browser.visit(preview.url)
        browser.wait_for(LIVE)
        before = browser.run("return Number(document.getElementById('live').dataset.number)")
        browser.stop()
        try:
            time.sleep(3)
        finally:
            browser.go_on()
        browser.wait_for(f"Number(document.getElementById('live').dataset.number) > {before + 150}")
        browser.wait_for(LIVE)


def test_frozen_picture_is_never_green(browser: Browser, preview: Preview) -> None:
    with fed(preview):
        browser.visit(preview.url)
        browser.wait_for(LIVE)
    preview.source_changed(SourceEvent("camera 0", SourceState.STALLED, "no frame for 10 s"))
    browser.wait_for("document.getElementById('state').className === 'bad'")
    browser.wait_for("/no new picture for \\d+ s: stalled, no frame for 10 s/.test(document.body.innerText)")
    assert browser.run("return document.getElementById('stage').className") == "stale"
    with fed(preview):
        browser.wait_for(LIVE)
    assert browser.run("return document.getElementById('stage').className") == ""


def test_page_says_that_the_program_ended_and_comes_back_with_it(
    browser: Browser, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, "the same for both")
    with Preview("0", bundle) as first, fed(first):
        browser.visit(first.url)
        browser.wait_for(LIVE)
    browser.wait_for("document.getElementById('state').textContent.includes('has edge-purify ended?')")
    with Preview(str(first.address.port), bundle) as second, fed(second):
        browser.wait_for(LIVE)


def test_page_says_that_there_are_too_many_connections(
    browser: Browser, preview: Preview, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fed(preview):
        browser.visit(preview.url)
        browser.wait_for(LIVE)
    monkeypatch.setattr(gate, "MAX_CONNECTIONS", 0)
    monkeypatch.setattr(gate, "IDLE_S", 0.1)  # drops the page's own connections
    browser.wait_for("document.getElementById('notice').textContent.startsWith('too many connections')")
    monkeypatch.setattr(gate, "MAX_CONNECTIONS", 64)
    with fed(preview):
        browser.wait_for(LIVE)


# --- other sites


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_other_site_gets_nothing_though_it_knows_the_token(
    browser: Browser, preview: Preview, host: str
) -> None:
    """``127.0.0.1`` on another port is same-site for a browser, and refused, too."""
    preview.write(make_frame(), make_result())
    address, query = preview.url.split("?")
    events = """onload="loaded.push('it')" onerror="failed.push('it')\""""
    page = f"""<!doctype html><script>window.loaded = []; window.failed = [];</script>
        <img src="{address}live.mjpg?{query}" {events}>
        <img src="{address}pair.png?{query}" {events}>
        <script src="{address}page.js" {events}></script>
        <link rel="stylesheet" href="{address}page.css" {events}>
        <iframe id="frame" src="{address}?{query}"></iframe>
        <script>
          fetch("{address}status?{query}", {{ mode: "no-cors" }})
            .then(() => loaded.push("fetch"), () => failed.push("fetch"));
        </script>"""
    with OtherSite(page) as site:
        browser.visit(site.url(host))
        browser.wait_for("window.failed.length + window.loaded.length === 5")
        assert browser.run("return window.loaded") == []
        frame = "document.getElementById('frame')"
        inside = f"try {{ return {frame}.contentDocument?.title ?? null }} catch {{ return null }}"
        assert browser.run(inside) in (None, "")
        browser.visit("about:blank")


def test_nothing_inline_runs_in_the_page(browser: Browser, preview: Preview) -> None:
    browser.visit(preview.url)
    add = """
        window.hit = 0;
        try {
          const script = document.createElement("script");
          script.textContent = "window.hit = 1";
          document.body.append(script);
        } catch {}
        const image = "<img src=x onerror='window.hit = 2'>";
        try { document.body.insertAdjacentHTML("beforeend", image); } catch {}
        return window.hit;"""
    assert browser.run(add) == 0
    assert browser.run("return document.querySelectorAll('img').length") == 0


def test_label_is_text_never_markup(browser: Browser, preview: Preview) -> None:
    hostile = "<img src=x onerror=alert(1)>"
    preview.write(make_frame(), replace(make_result(), label=hostile))
    browser.visit(preview.url)
    browser.wait_for("document.getElementById('label').textContent.startsWith('<img')")
    assert browser.run("return document.getElementById('label').textContent") == hostile
    assert np.asarray(browser.run("return document.querySelectorAll('img').length")) == 0


# --- pictures for the documentation


def test_screenshots(browser: Browser, tmp_path: Path) -> None:
    """The page with the default bundle and a clip; into ``$EDGE_PURIFY_SCREENSHOTS`` if that is set."""
    folder = Path(os.environ.get("EDGE_PURIFY_SCREENSHOTS", tmp_path))
    with (
        Purifier.load(backend="onnxruntime", keep_purified=True, seed=0) as purifier,
        Preview("0", purifier.bundle) as opened,
        open_source(CLIP) as source,
    ):
        for number, frame in enumerate(source):
            result = purifier(frame.image, frame_index=frame.index, source=frame.source)
            opened.write(replace(frame, source="camera 0"), replace(result, seeded=False))
            if number == 60:
                break
        for width, height, name in ((1280, 900, "page.png"), (390, 844, "page-phone.png")):
            browser.resize(width, height)
            browser.visit(opened.url)
            browser.wait_for(LIVE)
            browser.wait_for("document.getElementById('latency').children.length === 5")
            browser.screenshot(folder / name)
            picture = cv2.imread(str(folder / name))
            assert picture.shape == (height, width, 3)
            assert picture.std() > 20, "not blank"
