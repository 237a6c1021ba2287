"""Your own videos: speed of feature extraction, and how time and memory grow with the length of a video.

Long videos repeat the packets of a short one. Each is localized, by the demo's network with random weights, in its
own process: `python -m benchmarks.media VIDEO DEVICE`.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.case import BenchmarkCase, BenchmarkSettings, Builders, Measurement, Variant
from benchmarks.machine import ROOT
from benchmarks.memory import measure_peak_gb, run_in_process
from libs.core.configfile import load_config
from libs.features.windows import FRAME_RATE_HZ, STRIDES, WindowBatch
from libs.inference.localizer import Localizer
from libs.media.container import import_av
from libs.media.encoders.builtin import BuiltinEncoder
from libs.media.extract import ExtractedFeatures, extract_features
from libs.media.probe import probe
from libs.media.writing import RATE_HZ, write_media
from libs.modeling.uniav import UniAV

CONFIG = ROOT / "configs/demo_video.yaml"
SOURCE_S, SOURCE_FPS = 10.0, 25


def list_cases(settings: BenchmarkSettings) -> Builders:
    localize_once = cache(partial(localize_long_video, settings))  # time and memory come from the same run
    builders: Builders = {"media-speed": partial(build_speed_case, settings)}
    for name, quantity in (("time", "seconds"), ("memory", "gigabytes")):
        for minutes in settings.long_minutes[1:]:
            build = partial(build_long_case, settings, localize_once, minutes, quantity)
            builders[f"media-{name}-{minutes:g}"] = build
    return builders


def write_source(path: Path, size: tuple[int, int]) -> None:
    """Write SOURCE_S seconds of a moving disc and a beep every second, in H.264 and AAC."""
    width, height = size
    y, x = np.mgrid[:height, :width]

    def draw(frame: int) -> np.ndarray:
        time_s = frame / SOURCE_FPS
        distance = np.hypot(x - width * (0.5 + 0.3 * np.sin(time_s)), y - height * (0.5 + 0.3 * np.cos(time_s)))
        disc = distance < height / 6
        channels = x * 120 / width + disc * 95, y * 160 / height + disc * 60, np.full(x.shape, 90 + frame % 60)
        return np.stack(channels, axis=-1).astype(np.uint8)

    time_s = np.arange(round(SOURCE_S * RATE_HZ)) / RATE_HZ
    sound = 0.5 * np.sin(2 * np.pi * 440 * time_s) * np.exp(-6 * (time_s % 1))
    write_media(path, map(draw, range(round(SOURCE_S * SOURCE_FPS))), size, SOURCE_FPS, sound.astype(np.float32))


def repeat_video(source: Path, target: Path, seconds: float) -> None:
    """Copy a file's packets repeatedly to a file of about `seconds`."""
    av = import_av()

    def read_packets() -> Iterator:
        shown.seek(0)
        return (packet for packet in shown.demux() if packet.dts is not None)

    with av.open(str(source)) as shown, av.open(str(target), "w") as out:
        streams = {stream.index: out.add_stream_from_template(stream) for stream in shown.streams}
        times = [(p.dts * p.time_base, (max(p.pts, p.dts) + p.duration) * p.time_base) for p in read_packets()]
        length_s = max(end for _, end in times) - min(start for start, _ in times)  # encoders start before 0
        for i in range(max(1, round(seconds / length_s))):
            for packet in read_packets():
                shift = round(i * length_s / packet.time_base)
                packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                packet.stream = streams[packet.stream.index]
                out.mux(packet)


class WindowByWindowEncoder(BuiltinEncoder):
    """The plain baseline: an encoder that computes each of the overlapping windows by itself."""

    def encode_frames(self, batch: WindowBatch) -> np.ndarray:
        return np.concatenate([super(WindowByWindowEncoder, self).encode_frames(window) for window in _split(batch)])

    def encode_audio(self, batch: WindowBatch) -> np.ndarray:
        return np.concatenate([super(WindowByWindowEncoder, self).encode_audio(window) for window in _split(batch)])


def _split(batch: WindowBatch) -> list[WindowBatch]:
    return [WindowBatch(window, batch.length, batch.hop) for window in batch.windows]


def build_speed_case(settings: BenchmarkSettings) -> BenchmarkCase:
    folder = tempfile.TemporaryDirectory()
    source, video = Path(folder.name) / "source.mp4", Path(folder.name) / "video.mp4"
    width, height = settings.media_size
    write_source(source, (width, height))
    repeat_video(source, video, settings.media_seconds)
    encoder = BuiltinEncoder()

    def compute_error(expected: ExtractedFeatures, found: ExtractedFeatures) -> float:
        pairs = (expected.visual, found.visual), (expected.audio, found.audio)
        return max(float(np.abs(a - b).max()) for a, b in pairs)

    return BenchmarkCase(
        f"builtin features of H.264/AAC, {width}x{height}, decoding included",
        "x real time",
        partial(extract_features, video, WindowByWindowEncoder(), STRIDES[0]),
        [Variant("builtin", partial(extract_features, video, encoder, STRIDES[0]), compute_error, 1e-3)],
        items=probe(video).duration,
        more_is_better=True,
        close=folder.cleanup,
    )


def build_long_case(
    settings: BenchmarkSettings, localize_once: Callable[[float], dict[str, Any]], minutes: float, quantity: str
) -> BenchmarkCase:
    """Compare a long video with the shortest one, scaled by length: time grows with it, memory hardly grows."""
    shortest = settings.long_minutes[0]
    factor = minutes / shortest

    def measure(minutes: float, factor: float = 1) -> Measurement:
        found = localize_once(minutes)
        return Measurement(found[quantity] * factor, found["features"])

    def compute_error(short: np.ndarray, long: np.ndarray) -> float:
        """Compare the beginnings, without the windows that see past the short video's end."""
        common = len(short) - FRAME_RATE_HZ
        return float(np.abs(short[:common] - long[:common]).max()) if len(long) > len(short) else np.inf

    unit, name = {"seconds": ("s", "time"), "gigabytes": ("GB", "peak memory")}[quantity]
    size = "x".join(map(str, settings.long_size))
    title = f"localizing {minutes:g} minutes, {size}: {name} (plain: {factor:g} x that of {shortest:g})"
    variants = [Variant("measured", partial(measure, minutes), compute_error, 0.0)]
    return BenchmarkCase(title, unit, partial(measure, shortest, factor), variants, once=True)


def localize_long_video(settings: BenchmarkSettings, minutes: float) -> dict[str, Any]:
    """Write a long video and run `localize` on it in a new process. Returns its numbers and visual features (T, D)."""
    with tempfile.TemporaryDirectory() as folder:
        source, video = Path(folder) / "source.mp4", Path(folder) / "video.mp4"
        write_source(source, settings.long_size)
        repeat_video(source, video, minutes * 60)
        numbers = run_in_process("benchmarks.media", video, settings.device)
        return {**numbers, "features": np.load(video.with_suffix(".npy"))}


def localize(video: Path, device: str) -> dict[str, float]:
    """Localize events in a video and save its visual features. Returns seconds and peak memory."""
    config, encoder = load_config(CONFIG), BuiltinEncoder()
    torch.manual_seed(0)
    model, tasks = UniAV.from_config(config), list(config.tasks.values())
    for task in tasks:
        model.set_prompts(task.key, torch.randn(task.dataset.num_classes, config.model.text_dim))
    names = {task.key: [f"class {i}" for i in range(task.dataset.num_classes)] for task in tasks}
    start = time.perf_counter()
    localizer = Localizer(model.to(device).eval(), tasks, encoder, names)
    media = extract_features(video, encoder, localizer.stride)
    localizer.localize_features(media.visual, media.audio, localizer.stride, media.duration, 0.0)
    seconds = time.perf_counter() - start
    np.save(video.with_suffix(".npy"), media.visual)
    return {"seconds": seconds, "gigabytes": measure_peak_gb(torch.device("cpu"))}


if __name__ == "__main__":
    print(json.dumps(localize(Path(sys.argv[1]), sys.argv[2])))
