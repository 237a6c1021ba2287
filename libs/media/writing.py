"""Write clips with real codecs, for the demo and for tests."""

import heapq
from collections.abc import Iterable
from fractions import Fraction
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np

from libs.core.files import replacing
from libs.media.container import import_av

CODECS = {  # path ending: container, picture, sound
    ".mp4": ("mp4", "libx264", "aac"),
    ".ts": ("mpegts", "libx264", "aac"),
    ".mkv": ("matroska", "libx264", "aac"),
    ".webm": ("webm", "libvpx-vp9", "libopus"),
}
FAST_OPTIONS = {  # small clips, written quickly
    "libx264": {"preset": "superfast", "crf": "26", "bf": "2"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8", "crf": "30", "b": "0"},
}
RATE_HZ = 48_000
BLOCK = 4_800  # samples


def write_media(path: Path, pictures: Iterable[np.ndarray], size: tuple[int, int], fps: int, sound: np.ndarray) -> None:
    """Write a clip as H.264/AAC or VP9/Opus, by the path's ending; a half-written file is removed.

    Args:
        pictures: (H, W, 3) uint8 each.
        size: (W, H), both even.
        sound: (S,) float32 at RATE_HZ, mono.

    Raises:
        UserError: the path cannot be written, or PyAV is missing.
    """
    av = import_av()
    container, video_codec, audio_codec = CODECS[path.suffix]
    with replacing(path) as temporary, av.open(str(temporary), "w", format=container) as out:
        video = out.add_stream(video_codec, rate=fps, options=FAST_OPTIONS[video_codec])
        video.width, video.height, video.pix_fmt = *size, "yuv420p"
        audio = out.add_stream(audio_codec, rate=RATE_HZ, layout="mono")
        audio.bit_rate = 64_000
        frames = (build_video_frame(picture, i, Fraction(1, fps)) for i, picture in enumerate(pictures))
        blocks = (build_audio_frame(sound[first : first + BLOCK], first) for first in range(0, len(sound), BLOCK))
        encode_streams(out, [(video, frames), (audio, blocks)])


def build_video_frame(picture: np.ndarray, pts: int, time_base: Fraction) -> Any:
    """Build a PyAV frame of (H, W, 3) uint8, shown at pts * time_base seconds."""
    frame = import_av().VideoFrame.from_ndarray(picture, format="rgb24")
    frame.pts, frame.time_base = pts, time_base
    return frame


def build_audio_frame(samples: np.ndarray, first: int) -> Any:
    """Build a PyAV frame of (S,) float32, played from first / RATE_HZ seconds on."""
    frame = import_av().AudioFrame.from_ndarray(samples[None].astype(np.float32), format="fltp", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = RATE_HZ, first, Fraction(1, RATE_HZ)
    return frame


def encode_streams(out: Any, streams: list[tuple[Any, Iterable]]) -> None:
    """Encode and multiplex the PyAV frames of all streams in the order of their times."""
    sources = [zip(repeat(stream), frames) for stream, frames in streams]  # noqa: B905
    for stream, frame in heapq.merge(*sources, key=lambda item: item[1].pts * item[1].time_base):
        out.mux(stream.encode(frame))
    for stream, _ in streams:
        out.mux(stream.encode(None))
