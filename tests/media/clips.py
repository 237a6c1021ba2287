"""Small clips with real codecs: a dark picture that flashes, and a silence in which a tone sounds."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from libs.media.writing import (
    BLOCK,
    CODECS,
    FAST_OPTIONS,
    RATE_HZ,
    build_audio_frame,
    build_video_frame,
    encode_streams,
)

DARK, BRIGHT = 30, 220
TONE_HZ = 1000


@dataclass
class ClipOptions:
    """All times in seconds.

    Attributes:
        start, sound_start: added to all time stamps, and to the sound's only.
        times: of the frames, for a variable frame rate.
        aspect: of a pixel.
        rotation: of the display matrix, degrees counterclockwise.
        painted: (H, W, 3), shown throughout; ramp: frame i has the grey 6·i; noise: random pictures.
        gap: cut out of the sound.
        faststart: an mp4 with its tables first.
    """

    fps: float = 25
    size: tuple[int, int] = (64, 48)
    flash: tuple[float, float] | None = (2.0, 2.5)
    beep: tuple[float, float] | None = (2.0, 2.5)
    start: float = 0.0
    sound_start: float = 0.0
    times: list[float] | None = None
    aspect: Fraction | None = None
    rotation: int = 0
    picture: bool = True
    sound: bool = True
    painted: np.ndarray | None = None
    ramp: bool = False
    noise: bool = False
    gap: tuple[float, float] | None = None
    sound_until: float | None = None
    faststart: bool = False


def write_clip(path: Path, seconds: float = 4.0, **options: Any) -> Path:
    """Write H.264/AAC or VP9/Opus, by the path's ending; options are the fields of ClipOptions."""
    import av

    clip = ClipOptions(**options)
    _, video_codec, audio_codec = CODECS[path.suffix]
    with av.open(str(path), "w", options={"movflags": "faststart"} if clip.faststart else {}) as out:
        streams = []
        if clip.picture:
            video: Any = out.add_stream(video_codec, rate=Fraction(clip.fps).limit_denominator(1001))
            video.width, video.height, video.pix_fmt = *clip.size, "yuv420p"
            video.codec_context.time_base = Fraction(1, 1000 if path.suffix == ".webm" else 90_000)
            video.options = FAST_OPTIONS[video_codec]
            if clip.aspect is not None:
                video.codec_context.sample_aspect_ratio = clip.aspect
            if clip.rotation:
                video.set_display_rotation(clip.rotation)
            times = np.arange(round(seconds * clip.fps)) / clip.fps if clip.times is None else clip.times
            streams.append((video, _build_frames(times, clip, video.codec_context.time_base)))
        if clip.sound:
            audio: Any = out.add_stream(audio_codec, rate=RATE_HZ, layout="mono")
            audio.bit_rate = 64_000
            streams.append((audio, _build_sound(clip.sound_until or seconds, clip)))
        encode_streams(out, streams)
    return path


def _build_frames(times, clip: ClipOptions, time_base: Fraction):
    rng = np.random.default_rng(0)
    shape = (clip.size[1], clip.size[0], 3)
    for i, time in enumerate(times):
        if clip.noise:
            picture = rng.integers(0, 256, shape, dtype=np.uint8)
        elif clip.painted is not None:
            picture = clip.painted
        else:
            flashes = clip.flash and clip.flash[0] <= time < clip.flash[1]
            picture = np.full(shape, 6 * i if clip.ramp else BRIGHT if flashes else DARK, np.uint8)
        yield build_video_frame(picture, round((time + clip.start) / time_base), time_base)


def _build_sound(seconds: float, clip: ClipOptions):
    start = clip.start + clip.sound_start
    for first in range(0, round(seconds * RATE_HZ), BLOCK):
        at = np.arange(first, min(first + BLOCK, round(seconds * RATE_HZ))) / RATE_HZ
        if clip.gap and clip.gap[0] <= at[0] < clip.gap[1]:
            continue
        tone = 0.5 * np.sin(2 * np.pi * TONE_HZ * at)
        samples = tone * ((at >= clip.beep[0]) & (at < clip.beep[1])) if clip.beep else 0 * tone
        yield build_audio_frame(samples, first + round(start * RATE_HZ))
