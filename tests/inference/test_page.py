"""The page in a real browser: Debian's chromium, or the one that CHROMIUM names, driven by Playwright.

SHOTS=FOLDER keeps screenshots there.
"""

import os
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from libs.core.types import Event
from libs.inference.outputs import write_outputs
from libs.inference.result import VideoResult
from tests.inference.browser import DURATION_S, FLAGS, SHOTS, Visit, make_peaks, write_clip
from tests.media.clips import write_clip as write_sound

pytest.importorskip("av", reason="needs PyAV: pip install -e .[media]")
playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright: pip install -e .[test]")

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium: apt-get install chromium, or CHROMIUM=PATH")
TASKS = {"TASK1": "TAL", "TASK2": "AVEL", "TASK3": "SED"}
EVENTS = [
    Event("TASK1", "TAL", "high jump", 1.0, 3.5, 0.91),
    Event("TASK1", "TAL", "high jump", 7.25, 9.0, 0.42),
    Event("TASK1", "TAL", "running", 0.0, 2.0, 0.66),
    Event("TASK2", "AVEL", "people clapping", 3.4, 6.1, 0.83),
    Event("TASK2", "AVEL", "church bell", 9.5, 12.0, 0.12),
    Event("TASK3", "SED", "dog barking", 4.3, 5.1, 0.87),
    Event("TASK3", "SED", "dog barking", 6.2, 6.8, 0.55),
    Event("TASK3", "SED", "dog barking", 4.1, 5.6, 0.31),
    Event("TASK3", "SED", "speech", 5.5, 11.0, 0.74),
]
HOSTILE = (
    "<script>window.hacked = 1</script>",
    "<img src=x onerror='window.hacked = 1'>",
    "</script><script>window.hacked = 1</script>",
    '" onfocus="window.hacked = 1" autofocus \'',
    "javascript:window.hacked=1",
    "{{data}}\n--> \u202e reversed 👩‍🚒",
)


@pytest.fixture(scope="module")
def webm(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("media") / "a clip, #1 – ünï.webm"
    write_clip(path)
    return path


@pytest.fixture(scope="module")
def chromium() -> Iterator:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium, webm, tmp_path):
    """Write a page and open it; afterwards check that it requested nothing else and logged no error."""
    visits, videos = [], []

    def open_page(events=EVENTS, duration=DURATION_S, path=webm, peaks=None, notes=(), **context) -> Visit:
        peaks = make_peaks(duration) if peaks is None else peaks
        paths = write_outputs(tmp_path / "out", VideoResult("clip", path, events, duration, peaks, notes), TASKS)
        videos.extend(path.as_uri() for path in [path] if path)
        visits.append(Visit(chromium, paths[-1].as_uri(), **context))
        return visits[-1]

    yield open_page
    allowed = ((tmp_path / "out" / "clip.html").as_uri(), *videos, "data:,")
    for one in visits:
        others = [url for url in one.requests if url.partition("#")[0] not in allowed]
        one.context.close()
        assert others == [] and one.errors == []


def test_page_opened_shows_the_video_and_a_bar_for_each_event(visit):
    page = visit()
    page.wait("player.readyState >= 2")
    assert page.player("duration") == pytest.approx(DURATION_S, abs=0.1) and page.player("videoWidth") == 320
    assert page.bars().count() == len(EVENTS) and page.lanes().count() == 6
    assert page.page.locator("#count").inner_text() == "9 of 9 events shown"
    assert page.page.locator(".task h2 .name").all_inner_texts() == [
        "TAL · seen",
        "AVEL · seen and heard",
        "SED · heard",
    ]
    assert page.page.get_by_role("button", name="dog barking, 4.3–5.1 s, score 0.87").count() == 1
    box, track = page.bars().first.bounding_box(), page.page.locator(".track").first.bounding_box()
    assert box["x"] == pytest.approx(track["x"] + track["width"] * 1.0 / DURATION_S, abs=1)
    assert box["width"] == pytest.approx(track["width"] * 2.5 / DURATION_S, abs=1)


def test_threshold_raised_hides_bars_and_lanes(visit):
    page = visit()
    page.set("threshold", 0.5)
    assert page.bars().count() == 6 and page.lanes().count() == 5
    assert page.page.locator("#count").inner_text() == "6 of 9 events shown"
    page.set("threshold", 0.95)
    assert page.bars().count() == 0 and page.lanes().count() == 0
    assert page.page.locator("#empty").inner_text() == "No events above 0.95"
    page.set("threshold", 0)
    assert page.bars().count() == 9 and page.page.locator("#empty").is_hidden()


def test_video_with_h264_and_aac_plays(visit, tmp_path):
    path = tmp_path / "clip.mp4"
    write_clip(path)
    click_a_bar(visit(path=path))


def test_sound_file_plays_without_picture(visit, tmp_path):
    path = write_sound(tmp_path / "sound.mp4", DURATION_S, picture=False)
    page = visit(path=path)
    click_a_bar(page)
    assert page.player("videoWidth") == 0
    page.page.locator("#stage.sound").wait_for()
    page.shot("sound_alone")


def click_a_bar(page):
    """Click the bar of 4.3–5.1 s and check that the player goes there."""
    page.wait("player.readyState >= 2")
    assert page.player("duration") == pytest.approx(DURATION_S, abs=0.1)
    # The position at the end of seeking, before playing moves it.
    page.page.evaluate(
        "document.getElementById('player').addEventListener('seeked', () => { window.landed ??= player.currentTime; })"
    )
    page.page.get_by_role("button", name="dog barking, 4.3–5.1 s").click()
    page.wait("window.landed !== undefined")
    assert page.page.evaluate("window.landed") == pytest.approx(4.3, abs=0.1)


def test_page_address_with_a_time_opens_there(visit):
    page = visit()
    page.wait("player.readyState >= 2")
    page.page.goto(page.page.url + "#t=4.5")
    page.wait("Math.abs(player.currentTime - 4.5) < 0.1")
    page.page.reload()
    page.wait("player.readyState >= 2 && Math.abs(player.currentTime - 4.5) < 0.1")
    assert page.page.locator("#clock").inner_text() == "0:04.5"


def test_bar_clicked_seeks_plays_and_stops(visit):
    page = visit()
    click_a_bar(page)
    page.wait("player.currentTime > 4.4")
    assert "dog barking" in page.page.locator("#now").inner_text() and page.page.locator(".bar.now").count() == 3
    page.wait("player.paused")
    assert page.player("currentTime") == pytest.approx(5.1, abs=0.3)
    left = page.page.locator("#lanes .playhead").evaluate("head => parseFloat(head.style.left)")
    assert left == pytest.approx(100 * page.player("currentTime") / DURATION_S, abs=1)


def test_bar_clicked_and_position_changed_keeps_playing(visit):
    page = visit()
    page.wait("player.readyState >= 2")
    page.page.get_by_role("button", name="dog barking, 4.3–5.1 s").click()
    page.page.evaluate("document.getElementById('player').currentTime = 8")
    page.wait("player.currentTime > 8.5")
    assert not page.player("paused")


def test_waveform_or_lane_clicked_seeks(visit):
    page = visit()
    page.wait("player.readyState >= 2")
    for where, part in (("#scrub", 0.5), (".track >> nth=0", 0.9)):
        box = page.page.locator(where).bounding_box()
        page.page.mouse.click(box["x"] + part * box["width"], box["y"] + 0.5 * box["height"])
        assert page.player("currentTime") == pytest.approx(part * DURATION_S, abs=0.1)
        assert page.player("paused")


def test_keyboard_moves_between_bars_and_plays(visit):
    page = visit()
    page.wait("player.readyState >= 2")
    focused = "document.activeElement.getAttribute('aria-label')"
    page.page.get_by_role("button", name="high jump, 1.0–3.5 s").focus()
    page.page.keyboard.press("ArrowRight")
    assert page.page.evaluate(focused).startswith("high jump, 7.3–9.0 s")
    page.page.keyboard.press("Enter")
    assert 7.15 <= page.player("currentTime") < 9.0  # it plays on from the bar's start
    page.page.keyboard.press("ArrowDown")
    assert page.page.evaluate(focused).startswith("running")
    page.page.keyboard.press("Tab")
    assert page.page.evaluate(focused).startswith("people clapping")


def test_hostile_labels_run_no_script(visit):
    events = [Event("TASK3", "SED", label, i, i + 0.9, 0.5) for i, label in enumerate(HOSTILE)]
    page = visit(events, notes=HOSTILE[:2])
    page.wait("player.readyState >= 2")
    for i in range(len(HOSTILE)):
        page.bars().nth(i).click()
        page.page.wait_for_timeout(50)
    assert page.page.evaluate("window.hacked") is None and page.page.locator("img, #lanes script").count() == 0
    assert [name.get_attribute("title") for name in page.page.locator(".lane .name").all()] == list(HOSTILE)
    page.shot("hostile")


def test_unplayable_video_shows_a_message(visit, tmp_path):
    broken = tmp_path / "broken.webm"
    broken.write_bytes(b"no video")
    page = visit(path=broken)
    page.page.wait_for_selector("#trouble:visible")
    page.bars().nth(3).click()
    assert page.page.locator("#clock").inner_text() == "0:03.4"
    page.requests = [url for url in page.requests if url != broken.as_uri()]


def test_page_without_video_hides_the_player(visit):
    page = visit(path=None, peaks=np.empty(0))
    assert page.page.locator("#player").is_hidden() and page.bars().count() == 9
    assert page.page.locator("#sound").inner_text() == ""
    page.bars().nth(3).click()
    assert page.page.locator("#clock").inner_text() == "0:03.4"


def test_hour_long_video_can_be_zoomed(visit):
    rng = np.random.default_rng(0)
    events = [
        Event("TASK3", "SED", f"sound {i % 60}", start, start + 2.5, score)
        for i, (start, score) in enumerate(zip(rng.uniform(0, 3590, 600), rng.uniform(0.05, 1, 600), strict=True))
    ]
    page = visit(events, duration=3600.0, path=None)  # the clip is shorter, and would stop the clock at its end
    assert page.lanes().count() == 60 and page.bars().count() == 600
    assert page.page.locator("#axis span").count() in range(6, 20)
    page.page.locator(".bar").first.click()
    page.shot("hour")
    narrow = page.page.locator(".bar").first.bounding_box()["width"]
    page.set("zoom", 8)
    bar, view = page.page.locator(".bar").first.bounding_box(), page.page.locator("#chart").bounding_box()
    assert bar["width"] > 10 * narrow and view["x"] < bar["x"] < view["x"] + view["width"]
    page.shot("hour_zoomed")


def test_page_served_over_http_loads_the_video(chromium, webm, tmp_path):
    shutil.copy(webm, tmp_path / "clip.webm")
    write_outputs(tmp_path, VideoResult("clip", tmp_path / "clip.webm", EVENTS, DURATION_S), TASKS)
    quiet = type("Quiet", (SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(quiet, directory=tmp_path))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    root = f"http://127.0.0.1:{server.server_port}"
    page = Visit(chromium, f"{root}/clip.html")
    try:
        page.wait("player.readyState >= 2")
        assert page.errors == [] and page.bars().count() == len(EVENTS)
        assert {url for url in page.requests if url != "data:,"} == {f"{root}/clip.html", f"{root}/clip.webm"}
    finally:
        page.context.close()
        server.shutdown()
        server.server_close()


@pytest.mark.skipif(not SHOTS, reason="only with SHOTS=FOLDER")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_screenshots(visit, scheme):
    page = visit(color_scheme=scheme, notes=("the sound begins 0.4 s after the picture",))
    page.wait("player.readyState >= 2")
    page.page.get_by_role("button", name="dog barking, 4.3–5.1 s").click()
    page.page.mouse.move(0, 0)
    page.wait("player.paused && player.currentTime > 4")
    page.set("threshold", 0.1)
    page.page.evaluate("seekTo(4.8)")
    page.page.wait_for_timeout(300)
    page.shot(scheme)
    page.page.set_viewport_size({"width": 390, "height": 844})
    page.page.wait_for_timeout(100)
    page.shot(f"{scheme}_phone")
    rng = np.random.default_rng(1)
    many = [
        Event(f"TASK{1 + i % 3}", "", f"{('playing', 'washing', 'cleaning')[i % 3]} thing number {i % 60}", s, s + d, p)
        for i, (s, d, p) in enumerate(rng.uniform((0, 1, 0.05), (280, 20, 1), (240, 3)).tolist())
    ]
    page = visit(many, duration=300.0, color_scheme=scheme)
    page.wait("player.readyState >= 2")
    page.shot(f"{scheme}_many")
    page = visit([], color_scheme=scheme, notes=("no sound stream: sounds cannot be found",), peaks=np.empty(0))
    page.wait("player.readyState >= 2")
    page.shot(f"{scheme}_empty")
