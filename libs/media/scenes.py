"""Scenes of the video demo: short clips in which synthetic events of three tasks are drawn and played at known times.

TAL's classes are seen, SED's are heard, and AVEL's are seen and heard at once. Distractors are AVEL's classes in one
modality only. All happens in front of a moving gradient and a noise.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from libs.media.writing import RATE_HZ, write_media

DURATION_S = (8.0, 14.0)
EVENT_S = (1.5, 4.5)
EVENTS_PER_TASK = (0.25, 0.5, 0.25)  # probabilities of zero, one and two events of a task in each SPAN_S
SPAN_S = 11.0
PLACING_TRIES = 20
SIZES = ((160, 96), (128, 96), (96, 128))
RATES = (20, 24, 25)  # frames/s
WEBM_SHARE = 0.3
TAU = 2 * np.pi


class Style(NamedTuple):
    """How one event looks and sounds: colour (3,) in [0, 1], centre in picture heights, the rest are factors."""

    colour: np.ndarray
    x: float
    y: float
    size: float
    pace: float
    pitch: float


class SceneEvent(NamedTuple):
    """An event or a distractor, with start and end in seconds."""

    label: str
    start: float
    end: float
    seen: bool
    heard: bool
    style: Style


class Scene(NamedTuple):
    """A clip: what happens in it, and how it is written."""

    name: str
    suffix: str
    duration: float
    size: tuple[int, int]
    fps: int
    events: list[SceneEvent]


class Canvas(NamedTuple):
    """A picture (H, W, 3) float32 and the coordinates (H, W) of its pixels in picture heights."""

    picture: np.ndarray
    x: np.ndarray
    y: np.ndarray

    def fill_disc(self, x: float, y: float, radius: float, colour) -> None:
        self.picture[(self.x - x) ** 2 + (self.y - y) ** 2 < radius**2] = colour

    def fill_box(self, x: float, y: float, half_width: float, half_height: float, colour) -> None:
        self.picture[(np.abs(self.x - x) < half_width) & (np.abs(self.y - y) < half_height)] = colour


# What is seen, t seconds after the event's start.


def draw_ball_bouncing(canvas: Canvas, t: float, style: Style) -> None:
    height = 0.85 - 0.6 * abs(np.sin(np.pi * 1.2 * style.pace * t))
    canvas.fill_disc(style.x, height, 0.12 * style.size, style.colour)


def draw_bar_sweeping(canvas: Canvas, t: float, style: Style) -> None:
    width = canvas.x[0, -1]
    canvas.fill_box((0.5 * style.pace * t * width + style.x) % width, 0.5, 0.07 * style.size, 0.5, style.colour)


def draw_square_growing(canvas: Canvas, t: float, style: Style) -> None:
    half = 0.08 + 0.22 * style.size * ((0.8 * style.pace * t) % 1)
    canvas.fill_box(style.x, style.y, half, half, style.colour)


def draw_light_flickering(canvas: Canvas, t: float, style: Style) -> None:
    canvas.picture[:] *= 1.0 if (2.5 * style.pace * t) % 1 < 0.5 else 0.35


def draw_stripes_scrolling(canvas: Canvas, t: float, style: Style) -> None:
    inside = np.abs(canvas.x - style.x) < 0.3 * style.size
    canvas.picture[inside & ((6 * (canvas.y - 0.5 * style.pace * t)) % 1 < 0.5)] = style.colour


def draw_bell(canvas: Canvas, t: float, style: Style) -> None:
    canvas.fill_disc(style.x + 0.15 * np.sin(TAU * style.pace * t), style.y, 0.13 * style.size, (0.95, 0.85, 0.1))


def draw_siren(canvas: Canvas, t: float, style: Style) -> None:
    colour = (0.9, 0.1, 0.1) if (1.5 * style.pace * t) % 1 < 0.5 else (0.1, 0.2, 0.95)
    canvas.fill_disc(style.x, style.y, 0.15 * style.size, colour)


def draw_drum(canvas: Canvas, t: float, style: Style) -> None:
    if (3 * style.pace * t) % 1 < 0.4:
        canvas.fill_box(style.x, style.y, 0.2 * style.size, 0.12 * style.size, (1.0, 1.0, 1.0))


def draw_engine(canvas: Canvas, t: float, style: Style) -> None:
    shake = 0.03 * np.sin(TAU * 5 * style.pace * t)
    canvas.fill_box(style.x + shake, style.y, 0.25 * style.size, 0.1 * style.size, (0.1, 0.6, 0.25))


# What is heard: (S,) in [-1, 1] at the times t (S,) in seconds after the event's start.


def play_beeping(t: np.ndarray, style: Style, rng: np.random.Generator) -> np.ndarray:
    return np.sin(TAU * 1000 * style.pitch * t) * ((4 * style.pace * t) % 1 < 0.5)


def play_chirping(t: np.ndarray, style: Style, rng: np.random.Generator) -> np.ndarray:
    phase = (5 * style.pace * t) % 1
    return np.sin(TAU * (2500 * phase + 600 * phase**2) * style.pitch / (5 * style.pace))


def play_hissing(t: np.ndarray, style: Style, rng: np.random.Generator) -> np.ndarray:
    return np.diff(rng.uniform(-0.5, 0.5, len(t) + 1))


def play_clicking(t: np.ndarray, style: Style, rng: np.random.Generator) -> np.ndarray:
    phase = (7 * style.pace * t) % 1 / (7 * style.pace)
    return np.exp(-phase * 400) * np.sin(TAU * 3000 * style.pitch * phase)


def play_humming(t: np.ndarray, style: Style, rng: np.random.Generator) -> np.ndarray:
    tone = sum(np.sin(TAU * 180 * style.pitch * k * t) / k for k in (1, 2, 3))
    return 0.5 * tone * (0.7 + 0.3 * np.sin(TAU * 6 * style.pace * t))


def play_bell(t: np.ndarray, style: Style, rng: np.random.Generator) -> np.ndarray:
    phase = (2 * style.pace * t) % 1 / (2 * style.pace)
    partials = sum(np.sin(TAU * 700 * style.pitch * ratio * phase) for ratio in (1, 2.76, 5.4))
    return 0.33 * np.exp(-4 * phase) * partials


def play_siren(t: np.ndarray, style: Style, rng: np.random.Generator) -> np.ndarray:
    return np.sin(TAU * style.pitch * (650 * t - 60 / style.pace * np.cos(TAU * 0.75 * style.pace * t)))


def play_drum(t: np.ndarray, style: Style, rng: np.random.Generator) -> np.ndarray:
    phase = (3 * style.pace * t) % 1 / (3 * style.pace)
    return np.exp(-15 * phase) * (np.sin(TAU * 90 * style.pitch * phase) + 0.3 * rng.uniform(-1, 1, len(t)))


def play_engine(t: np.ndarray, style: Style, rng: np.random.Generator) -> np.ndarray:
    return 2 * ((75 * style.pitch * (t + 0.002 * np.sin(TAU * 5 * style.pace * t))) % 1) - 1


def _name_by_label(*functions: Callable) -> dict[str, Callable]:
    return {function.__name__.partition("_")[2].replace("_", " "): function for function in functions}


SEEN = _name_by_label(
    draw_ball_bouncing, draw_bar_sweeping, draw_square_growing, draw_light_flickering, draw_stripes_scrolling,
    draw_bell, draw_siren, draw_drum, draw_engine,
)  # fmt: skip
HEARD = _name_by_label(
    play_beeping, play_chirping, play_hissing, play_clicking, play_humming,
    play_bell, play_siren, play_drum, play_engine,
)  # fmt: skip
LABELS = {  # by task type, in the order of label_id
    "TAL": [label for label in SEEN if label not in HEARD],
    "AVEL": [label for label in SEEN if label in HEARD],
    "SED": [label for label in HEARD if label not in SEEN],
}


def build_scene(name: str, rng: np.random.Generator, duration: float | None = None) -> Scene:
    """Draw a random scene; the duration in seconds is random by default."""
    duration = duration or round(float(rng.uniform(*DURATION_S)), 2)
    size = SIZES[rng.integers(len(SIZES))]
    events: list[SceneEvent] = []
    for task_type, labels in LABELS.items():
        own: list[SceneEvent] = []  # events of one task do not overlap
        for _ in range(round(duration / SPAN_S)):
            for seen, heard in [(task_type != "SED", task_type != "TAL")] * rng.choice(3, p=EVENTS_PER_TASK):
                own += _place_event(labels, seen, heard, own, duration, size, rng)
            if task_type == "AVEL":
                seen = bool(rng.random() < 0.5)
                own += _place_event(labels, seen, not seen, own, duration, size, rng)
        events += own
    suffix = ".webm" if rng.random() < WEBM_SHARE else ".mp4"
    return Scene(name, suffix, duration, size, int(rng.choice(RATES)), events)


def _place_event(labels, seen, heard, others, duration, size, rng) -> list[SceneEvent]:
    """Return one event of a random label where no other event of its task happens, or none if no place is found."""
    for _ in range(PLACING_TRIES):
        length = rng.uniform(*EVENT_S)
        start = rng.uniform(0, duration - length)
        if all(other.end + 0.3 < start or other.start > start + length + 0.3 for other in others):
            colour = rng.uniform(0, 1, 3)
            x = rng.uniform(0.25, 0.75) * (size[0] / size[1])
            style = Style(colour / colour.max(), x, *rng.uniform((0.25, 0.8, 0.85, 0.85), (0.75, 1.3, 1.15, 1.15)))
            label = labels[rng.integers(len(labels))]
            return [SceneEvent(label, round(start, 3), round(start + length, 3), seen, heard, style)]
    return []


def draw_scene(scene: Scene, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Draw the pictures of a scene, (H, W, 3) uint8: its events in front of a drifting gradient, with noise."""
    width, height = scene.size
    y, x = np.mgrid[:height, :width].astype(np.float32) / height
    dark, bright = rng.uniform(0.05, 0.3, 3), rng.uniform(0.3, 0.65, 3)
    angle, pace, grain = rng.uniform(0, TAU), rng.uniform(0.1, 0.5), rng.uniform(0.0, 0.02)
    noise = rng.standard_normal((8, height, width, 1)).astype(np.float32)
    slope = 2 * (np.cos(angle) * x + np.sin(angle) * y)
    for i in range(round(scene.duration * scene.fps)):
        time = i / scene.fps
        shade = (0.5 + 0.5 * np.sin(slope + pace * time))[..., None]
        picture = (dark + (bright - dark) * shade).astype(np.float32)
        for event in scene.events:
            if event.seen and event.start <= time < event.end:
                SEEN[event.label](Canvas(picture, x, y), time - event.start, event.style)
        picture += grain * noise[i % len(noise)]
        yield (255 * picture.clip(0, 1)).astype(np.uint8)


def play_scene(scene: Scene, rng: np.random.Generator, recording: np.ndarray | None = None) -> np.ndarray:
    """Play a scene, (S,) float32 at RATE_HZ: its events in a noise and, if given, a recording (n,), repeated."""
    num_samples = round(scene.duration * RATE_HZ)
    sound = rng.uniform(0.002, 0.01) * rng.standard_normal(num_samples)
    if recording is not None:
        background = np.resize(recording, num_samples)
        sound += rng.uniform(0.01, 0.04) * background / max(float(np.sqrt((background**2).mean())), 1e-4)
    for event in scene.events:
        if event.heard:
            first, last = round(event.start * RATE_HZ), round(event.end * RATE_HZ)
            t = np.arange(last - first) / RATE_HZ
            fade = np.minimum(1, np.minimum(t, t[::-1]) / 0.01)
            sound[first:last] += rng.uniform(0.12, 0.3) * fade * HEARD[event.label](t, event.style, rng)
    return sound.clip(-1, 1).astype(np.float32)


def write_scene(scene: Scene, path: Path, seed: list[int], recording: np.ndarray | None = None) -> None:
    """Write a scene as a media file."""
    rng = np.random.default_rng(seed)
    sound = play_scene(scene, rng, recording)
    write_media(path, draw_scene(scene, rng), scene.size, scene.fps, sound)
