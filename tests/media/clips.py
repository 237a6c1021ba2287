"""Small clips with real codecs: a dark picture that flashes, and a silence in which a tone sounds."""

from fractions import Fraction
from pathlib import Path

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


def write_clip(
    path: Path,
    seconds: float = 4.0,
    fps: float = 25,
    size: tuple[int, int] = (64, 48),
    flash: tuple[float, float] | None = (2.0, 2.5),
    beep: tuple[float, float] | None = (2.0, 2.5),
    start: float = 0.0,
    sound_start: float = 0.0,
    times: list[float] | None = None,
    aspect: Fraction | None = None,
    rotation: int = 0,
    picture: bool = True,
    sound: bool = True,
    painted: np.ndarray | None = None,
    ramp: bool = False,
    noise: bool = False,
    gap: tuple[float, float] | None = None,
    sound_until: float | None = None,
    faststart: bool = False,
) -> Path:
    """Write H.264/AAC or VP9/Opus, by the path's ending; all times in seconds.

    start: added to all time stamps, sound_start: to the sound's alone. times: of the frames, where their rate varies.
    aspect: of a pixel. rotation: of the display matrix, degrees counterclockwise. painted: (H, W, 3) shown all along.
    ramp: frame i has the grey 6·i. noise: in the picture. gap: cut out of the sound.
    faststart: an mp4 with its tables first.
    """
    import av

    _, video_codec, audio_codec = CODECS[path.suffix]
    times = np.arange(round(seconds * fps)) / fps if times is None else times
    with av.open(str(path), "w", options={"movflags": "faststart"} if faststart else {}) as out:
        streams = []
        if picture:
            video = out.add_stream(video_codec, rate=Fraction(fps).limit_denominator(1001))
            video.width, video.height, video.pix_fmt = *size, "yuv420p"
            video.codec_context.time_base = Fraction(1, 1000 if path.suffix == ".webm" else 90_000)
            video.options = FAST_OPTIONS[video_codec]
            if aspect is not None:
                video.codec_context.sample_aspect_ratio = aspect
            if rotation:
                video.set_display_rotation(rotation)
            pictures = _pictures(times, size, flash, painted, ramp, noise)
            streams.append((video, _frames(times, pictures, start, video.codec_context.time_base)))
        if sound:
            audio = out.add_stream(audio_codec, rate=RATE_HZ, layout="mono")
            audio.bit_rate = 64_000
            streams.append((audio, _sounds(sound_until or seconds, beep, start + sound_start, gap)))
        encode_streams(out, streams)
    return path


def _pictures(times, size, flash, painted, ramp, noise):
    random = np.random.default_rng(0)
    for i, at in enumerate(times):
        if noise:
            yield random.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        elif painted is not None:
            yield painted
        else:
            value = 6 * i if ramp else BRIGHT if flash and flash[0] <= at < flash[1] else DARK
            yield np.full((size[1], size[0], 3), value, np.uint8)


def _frames(times, pictures, start, base):
    for at, pixels in zip(times, pictures, strict=True):
        yield at + start, build_video_frame(pixels, round((at + start) / base), base)


def _sounds(seconds, beep, start, gap):
    for first in range(0, round(seconds * RATE_HZ), BLOCK):
        at = np.arange(first, min(first + BLOCK, round(seconds * RATE_HZ))) / RATE_HZ
        if gap and gap[0] <= at[0] < gap[1]:
            continue
        tone = 0.5 * np.sin(2 * np.pi * TONE_HZ * at)
        samples = tone * ((at >= beep[0]) & (at < beep[1])) if beep else 0 * tone
        yield start + first / RATE_HZ, build_audio_frame(samples, first + round(start * RATE_HZ))
