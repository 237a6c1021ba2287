"""A visit to a page in a browser, and a clip that every browser plays."""

import math
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from libs.media.writing import RATE_HZ, write_media

FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--autoplay-policy=no-user-gesture-required", "--mute-audio"),
]
SHOTS = os.environ.get("SHOTS")
DURATION_S = 12.0
FPS = 10


class Visit:
    """An open page, its requests, and its errors and log messages."""

    def __init__(self, browser, url: str, **context):
        self.context = browser.new_context(viewport={"width": 1280, "height": 800}, **context)
        self.page = self.context.new_page()
        self.requests: list[str] = []
        self.errors: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.errors.append(dialog.message), dialog.dismiss()))
        self.page.on("console", lambda message: self.errors.append(message.text))
        self.page.goto(url)

    def bars(self):
        return self.page.locator(".bar:visible")

    def lanes(self):
        return self.page.locator(".lane:visible")

    def set(self, slider: str, value: float) -> None:
        self.page.locator(f"#{slider}").fill(str(value))

    def player(self, what: str):
        return self.page.evaluate(f"document.getElementById('player').{what}")

    def wait(self, condition: str, timeout_s: float = 10) -> None:
        """Wait until a condition on the player holds."""
        script = f"() => {{ const player = document.getElementById('player'); return {condition}; }}"
        self.page.wait_for_function(script, timeout=1000 * timeout_s)

    def shot(self, name: str) -> None:
        if SHOTS:
            Path(SHOTS).mkdir(parents=True, exist_ok=True)
            self.page.screenshot(path=Path(SHOTS) / f"{name}.png")


def write_clip(path: Path) -> None:
    """Write moving colours and a beep every second."""
    time_s = np.arange(round(DURATION_S * RATE_HZ)) / RATE_HZ
    sound = 0.5 * np.sin(2 * np.pi * 440 * time_s) * np.exp(-6 * (time_s % 1))
    write_media(path, _pictures(), (320, 180), FPS, sound.astype(np.float32))


def _pictures() -> Iterator[np.ndarray]:
    y, x = np.mgrid[:180, :320]
    for i in range(round(DURATION_S * FPS)):
        disc = np.hypot(x - 160 - 100 * math.cos(i / 15), y - 90 - 50 * math.sin(i / 10)) < 28
        picture = np.stack([x * 0.5 + disc * 95, y * 0.8 + disc * 60, np.full(x.shape, 90 + i % 60)], axis=-1)
        yield picture.astype(np.uint8)


def make_peaks(duration_s: float, number: int = 1200) -> np.ndarray:
    time_s = np.arange(number) * duration_s / number
    return (0.1 + 0.4 * np.abs(np.sin(time_s * 0.7))) * np.exp(-3 * (time_s % 1))
