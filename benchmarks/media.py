"""Your own videos: speed of feature extraction, and how time and memory grow with the length of a video.

Videos repeat the packets of a short one. Each long one is localized in its own process, by the demo's network with
random weights.
"""

import time
from collections.abc import Callable
from functools import cache, partial
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.case import BenchmarkCase, BenchmarkSettings, Variant, measure_peak_gb, relative_error, run_in_process
from benchmarks.network import build_model
from benchmarks.report import ROOT
from libs.core.configfile import load_config
from libs.features.windows import FRAME_RATE_HZ, STRIDES, WindowBatch
from libs.inference.localizer import Localizer
from libs.media.container import import_av
from libs.media.encoders.builtin import BuiltinEncoder
from libs.media.extract import extract_features
from libs.media.probe import probe
from libs.media.writing import RATE_HZ, write_media

CONFIG = ROOT / "configs/demo_video.yaml"
SOURCE_S, SOURCE_FPS = 10, 25
QUANTITIES = {"time": ("time", "s"), "memory": ("peak memory", "GB")}


def write_video(path: Path, size: tuple[int, int], seconds: float) -> None:
    """Write moving colours and a beep every second in H.264 and AAC, by repeating the packets of SOURCE_S seconds."""
    (width, height), av = size, import_av()
    blocks = np.random.default_rng(0).integers(256, size=(18, 32, 3), dtype=np.uint8)
    picture = blocks[np.arange(height) * 18 // height][:, np.arange(width) * 32 // width]
    pictures = (np.roll(picture, 4 * i, axis=1) for i in range(SOURCE_S * SOURCE_FPS))
    time_s = np.arange(SOURCE_S * RATE_HZ) / RATE_HZ
    sound = 0.5 * np.sin(2 * np.pi * 440 * time_s) * np.exp(-6 * (time_s % 1))
    source, playlist = path.with_name("source.mp4"), path.with_suffix(".ffconcat")
    write_media(source, pictures, size, SOURCE_FPS, sound.astype(np.float32))
    part_s = SOURCE_S + 0.1  # encoders start before 0
    repeats = max(1, round(seconds / part_s))
    playlist.write_text("ffconcat version 1.0\n" + f"file {source.name}\nduration {part_s}\n" * repeats)
    with av.open(str(playlist)) as parts, av.open(str(path), "w") as out:
        streams = [out.add_stream_from_template(stream) for stream in parts.streams]
        for packet in parts.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                out.mux(packet)


class WindowByWindowEncoder(BuiltinEncoder):
    """The plain baseline: an encoder that computes each of the overlapping windows by itself."""

    def encode_frames(self, batch: WindowBatch) -> np.ndarray:
        return _encode_each(super().encode_frames, batch)

    def encode_audio(self, batch: WindowBatch) -> np.ndarray:
        return _encode_each(super().encode_audio, batch)


def _encode_each(encode: Callable[[WindowBatch], np.ndarray], batch: WindowBatch) -> np.ndarray:
    return np.concatenate([encode(WindowBatch(window, batch.length, batch.hop)) for window in batch.windows])


def build_speed_case(settings: BenchmarkSettings) -> BenchmarkCase:
    video, (width, height) = settings.folder / "video.mp4", settings.media_size
    write_video(video, settings.media_size, settings.media_seconds)
    get = attrgetter("visual", "audio")
    fast = partial(extract_features, video, BuiltinEncoder(), STRIDES[0])
    return BenchmarkCase(
        f"builtin features of H.264/AAC, {width}x{height}, decoding included",
        "x real time",
        partial(extract_features, video, WindowByWindowEncoder(), STRIDES[0]),
        [Variant("builtin", fast, lambda a, b: relative_error(get(a), get(b)), 1e-3)],
        items=probe(video).duration,
        more_is_better=True,
    )


def list_long_cases(settings: BenchmarkSettings) -> dict[str, Callable[[], BenchmarkCase]]:
    """List the cases of long videos against the shortest one, scaled by length.

    Time grows with the length, memory hardly grows; both come from the same run.
    """
    localize_once = cache(lambda minutes: run_in_process(localize_long_video, settings, minutes))
    shortest, *others = settings.long_minutes

    def compute_error(short: dict[str, Any], long: dict[str, Any]) -> float:
        """Compare the features of the beginnings, without the windows that see past the short video's end."""
        a, b = short["features"], long["features"]
        common = len(a) - FRAME_RATE_HZ
        return relative_error([a[:common]], [b[:common]])

    def build_case(quantity: str, minutes: float) -> BenchmarkCase:
        (name, unit), factor = QUANTITIES[quantity], minutes / shortest
        size = "x".join(map(str, settings.long_size))
        title = f"localizing {minutes:g} minutes, {size}: {name} (plain: {factor:g} x that of {shortest:g})"
        plain, fast = (partial(localize_once, length) for length in (shortest, minutes))
        variants, measure = [Variant("measured", fast, compute_error, 0.0)], itemgetter(quantity)
        return BenchmarkCase(title, unit, plain, variants, plain_factor=factor, measure=measure)

    keys = [(quantity, minutes) for quantity in QUANTITIES for minutes in others]
    return {f"media-{quantity}-{minutes:g}": partial(build_case, quantity, minutes) for quantity, minutes in keys}


def localize_long_video(settings: BenchmarkSettings, minutes: float) -> dict[str, Any]:
    """Localize events in a new video. Returns seconds, peak memory and the visual features (T, D)."""
    video, config, encoder = settings.folder / f"long-{minutes:g}.mp4", load_config(CONFIG), BuiltinEncoder()
    write_video(video, settings.long_size, minutes * 60)
    model, tasks = build_model(config, settings.device).eval(), list(config.tasks.values())
    names = {task.key: [f"class {i}" for i in range(task.dataset.num_classes)] for task in tasks}
    start = time.perf_counter()
    localizer = Localizer(model, tasks, encoder, names)
    media = extract_features(video, encoder, localizer.stride)
    localizer.localize_features(media.visual, media.audio, localizer.stride, media.duration, 0.0)
    seconds = time.perf_counter() - start
    return {"time": seconds, "memory": measure_peak_gb(torch.device("cpu")), "features": media.visual}
