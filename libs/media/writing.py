"""Write clips with real codecs, H.264/AAC or VP9/Opus by the path's ending: for the demo and for tests."""

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from libs.core.files import replacing
from libs.media.container import import_av

CODECS = {  # container, picture, sound
    ".mp4": ("mp4", "libx264", "aac"),
    ".ts": ("mpegts", "libx264", "aac"),
    ".mkv": ("matroska", "libx264", "aac"),
    ".webm": ("webm", "libvpx-vp9", "libopus"),
}
FAST = {  # small clips, written quickly
    "libx264": {"preset": "superfast", "crf": "26", "bf": "2"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8", "crf": "30", "b": "0"},
}
RATE_HZ = 48_000
BLOCK = 4_800  # samples

# A frame to encode: the second at which it is shown or heard, and what PyAV encodes.
Timed = tuple[float, Any]


def write_media(path: Path, pictures: Iterable[np.ndarray], size: tuple[int, int], fps: int, sound: np.ndarray) -> None:
    """Write pictures (H, W, 3) uint8 of a size (W, H), both even, and sound (S,) float32 at RATE_HZ, mono.

    Nothing half-written is left. Raises UserError where the path cannot be written, or PyAV is missing.
    """
    av = import_av()
    container, video_codec, audio_codec = CODECS[path.suffix]
    with replacing(path) as temporary, av.open(str(temporary), "w", format=container) as out:
        video = out.add_stream(video_codec, rate=fps, options=FAST[video_codec])
        video.width, video.height, video.pix_fmt = *size, "yuv420p"
        audio = out.add_stream(audio_codec, rate=RATE_HZ, layout="mono")
        audio.bit_rate = 64_000
        shown = ((i / fps, timed_picture(picture, i, Fraction(1, fps))) for i, picture in enumerate(pictures))
        firsts = range(0, len(sound), BLOCK)
        heard = ((first / RATE_HZ, timed_sound(sound[first : first + BLOCK], first)) for first in firsts)
        encode(out, [(video, shown), (audio, heard)])


def timed_picture(picture: np.ndarray, pts: int, base: Fraction):
    """A PyAV frame of (H, W, 3) uint8, shown at pts·base seconds."""
    frame = import_av().VideoFrame.from_ndarray(picture, format="rgb24")
    frame.pts, frame.time_base = pts, base
    return frame


def timed_sound(samples: np.ndarray, first: int):
    """A PyAV frame of (S,) float32, heard from first/RATE_HZ seconds on."""
    frame = import_av().AudioFrame.from_ndarray(samples[None].astype(np.float32), format="fltp", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = RATE_HZ, first, Fraction(1, RATE_HZ)
    return frame


def encode(out, streams: list[tuple[Any, Iterable[Timed]]]) -> None:
    """Encode and multiplex the frames of streams in the order of their times."""
    waiting = [(stream, iter(frames)) for stream, frames in streams]
    heads = [next(frames, None) for _, frames in waiting]
    while any(heads):
        i = min((i for i, head in enumerate(heads) if head), key=lambda i: heads[i][0])
        stream, frames = waiting[i]
        for packet in stream.encode(heads[i][1]):
            out.mux(packet)
        heads[i] = next(frames, None)
    for stream, _ in waiting:
        for packet in stream.encode(None):
            out.mux(packet)
