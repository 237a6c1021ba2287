"""Your own videos: how many times faster than real time features are made, and how time and memory grow with length.

The longer videos repeat the packets of a short one. Each is localized, by the demo's network with random weights, in a
process of its own: `python -m benchmarks.media VIDEO DEVICE`.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.case import BenchmarkCase, Measured, Setting, Variant
from benchmarks.memory import BYTES_PER_GB, ROOT, peak_bytes
from libs.core.configfile import load_config
from libs.features.windows import FRAME_RATE_HZ, STRIDES, WindowBatch
from libs.inference.localizer import Localizer
from libs.media.container import import_av
from libs.media.encoders.build import build_encoder
from libs.media.extract import extract_features
from libs.modeling.uniav import UniAV
from tools.make_demo_videos import make_scene, write_scene

CONFIG = ROOT / "configs/demo_video.yaml"
SOURCE_S = 10.0
SECONDS_A_MINUTE = 60


def cases(setting: Setting) -> dict[str, Callable[[], BenchmarkCase]]:
    long = LongVideos(setting)
    longer = setting.sizes.media_minutes[1:]
    return {
        "media-speed": partial(speed_case, setting),
        **{f"media-time-{minutes:g}": partial(long.case, minutes, "seconds") for minutes in longer},
        **{f"media-memory-{minutes:g}": partial(long.case, minutes, "gigabytes") for minutes in longer},
    }


def write_source(path: Path, size: tuple[int, int]) -> None:
    """SOURCE_S seconds of the video demo, H.264 and AAC."""
    scene = make_scene("source", np.random.default_rng(0), SOURCE_S)
    write_scene(scene._replace(size=size, fps=25), path, [0])


def repeat(source: Path, target: Path, seconds: float) -> None:
    """Write what a file shows again and again, by copying its packets, at least for so long."""
    av = import_av()
    with av.open(str(source)) as shown, av.open(str(target), "w") as out:
        streams = {stream.index: out.add_stream_from_template(stream) for stream in shown.streams}
        times = [(p.dts * p.time_base, (max(p.pts, p.dts) + p.duration) * p.time_base) for p in _packets(shown)]
        length_s = max(end for _, end in times) - min(start for start, _ in times)  # encoders begin before 0
        for i in range(max(1, round(seconds / length_s))):
            for packet in _packets(shown):
                shift = round(i * length_s / packet.time_base)
                packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                packet.stream = streams[packet.stream.index]
                out.mux(packet)


def _packets(container) -> Iterator:
    container.seek(0)
    return (packet for packet in container.demux() if packet.dts is not None)


class WindowByWindow:
    """The plain way: an encoder that shares nothing between overlapping windows."""

    def __init__(self, encoder):
        self.encoder, self.name, self.short_side = encoder, encoder.name, encoder.short_side
        self.visual_dim, self.audio_dim = encoder.visual_dim, encoder.audio_dim

    def encode_frames(self, batch: WindowBatch) -> np.ndarray:
        return np.concatenate([self.encoder.encode_frames(alone) for alone in _alone(batch)])

    def encode_audio(self, batch: WindowBatch) -> np.ndarray:
        return np.concatenate([self.encoder.encode_audio(alone) for alone in _alone(batch)])


def _alone(batch: WindowBatch) -> list[WindowBatch]:
    return [WindowBatch(window, batch.length, batch.hop) for window in batch.windows]


def speed_case(setting: Setting) -> BenchmarkCase:
    folder = tempfile.TemporaryDirectory()
    source, video = Path(folder.name) / "source.mp4", Path(folder.name) / "video.mp4"
    width, height = setting.sizes.media_size
    write_source(source, (width, height))
    repeat(source, video, setting.sizes.media_seconds)
    encoder = build_encoder("builtin")

    def features(encoder) -> Measured:
        began = time.perf_counter()
        found = extract_features(video, encoder, STRIDES[0])
        return Measured(found.duration / (time.perf_counter() - began), found)

    def error(expected, found) -> float:
        pairs = ((expected.visual, found.visual), (expected.audio, found.audio))
        return max(float(np.abs(a - b).max()) for a, b in pairs)

    return BenchmarkCase(
        f"builtin features of H.264/AAC, {width}x{height}, decoding included",
        "x real time",
        partial(features, WindowByWindow(encoder)),
        [Variant("builtin", partial(features, encoder), error, 1e-3)],
        more_is_better=True,
        close=folder.cleanup,
    )


class LongVideos:
    """Videos of the setting's minutes, each localized once, when a case first asks for it."""

    def __init__(self, setting: Setting):
        self.setting, self.done = setting, {}

    @cached_property
    def folder(self) -> tempfile.TemporaryDirectory:
        made = tempfile.TemporaryDirectory()
        write_source(Path(made.name) / "source.mp4", self.setting.sizes.long_size)
        return made

    def localized(self, minutes: float) -> dict:
        """In a process of its own: `localize`'s numbers, and visual features (T, D)."""
        if minutes not in self.done:
            folder = Path(self.folder.name)
            video = folder / "video.mp4"
            repeat(folder / "source.mp4", video, minutes * SECONDS_A_MINUTE)
            command = [sys.executable, "-m", "benchmarks.media", str(video), str(self.setting.device)]
            done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
            features = np.load(video.with_suffix(".npy"))
            self.done[minutes] = {**json.loads(done.stdout.splitlines()[-1]), "features": features}
        return self.done[minutes]

    def case(self, minutes: float, what: str) -> BenchmarkCase:
        """`minutes` beside what the shortest video leads one to expect: time grows with length, memory hardly."""
        shortest = self.setting.sizes.media_minutes[0]
        times = minutes / shortest

        def expected() -> Measured:
            found = self.localized(shortest)
            return Measured(found[what] * times, found["features"])

        def measured() -> Measured:
            return Measured(self.localized(minutes)[what], self.localized(minutes)["features"])

        def error(few: np.ndarray, many: np.ndarray) -> float:
            """The longer video begins as the shorter one does; where that ends, a window may still see more."""
            whole = len(few) - FRAME_RATE_HZ
            return float(np.abs(few[:whole] - many[:whole]).max()) if len(many) > len(few) else np.inf

        unit, what_of = {"seconds": ("s", "time"), "gigabytes": ("GB", "peak memory")}[what]
        width, height = self.setting.sizes.long_size
        title = f"localizing {minutes:g} minutes, {width}x{height}: {what_of} (plain: {times:g} x that of {shortest:g})"
        return BenchmarkCase(
            title, unit, expected, [Variant("measured", measured, error, 0.0)], once=("plain", "measured")
        )


def localize(video: Path, device: str) -> dict[str, float]:
    """Seconds, and the most memory that the process has used."""
    config, encoder = load_config(CONFIG), build_encoder("builtin")
    torch.manual_seed(0)
    model, tasks = UniAV.from_config(config).to(device).eval(), list(config.tasks.values())
    for task in tasks:
        model.set_prompts(task.key, torch.randn(task.dataset.num_classes, config.model.text_dim))
    names = {task.key: [f"class {i}" for i in range(task.dataset.num_classes)] for task in tasks}
    began = time.perf_counter()
    found = Localizer(model, tasks, encoder, names).localize_media(video, 0.0)
    seconds = time.perf_counter() - began
    np.save(video.with_suffix(".npy"), found.media.visual)
    return {"seconds": seconds, "gigabytes": peak_bytes(torch.device("cpu")) / BYTES_PER_GB}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("video", metavar="VIDEO", type=Path)
    parser.add_argument("device", metavar="DEVICE")
    args = parser.parse_args()
    print(json.dumps(localize(args.video, args.device)))


if __name__ == "__main__":
    main()
