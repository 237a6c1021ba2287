"""Small clips with real codecs: a dark picture that flashes, and a silence in which a tone sounds."""

from fractions import Fraction
from pathlib import Path

import numpy as np

CODECS = {
    ".mp4": ("libx264", "aac"),
    ".ts": ("libx264", "aac"),
    ".mkv": ("libx264", "aac"),
    ".webm": ("libvpx-vp9", "libopus"),
}
DARK, BRIGHT = 30, 220
RATE_HZ = 48_000
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

    video_codec, audio_codec = CODECS[path.suffix]
    times = np.arange(round(seconds * fps)) / fps if times is None else times
    with av.open(str(path), "w", options={"movflags": "faststart"} if faststart else {}) as out:
        streams = []
        if picture:
            video = out.add_stream(video_codec, rate=Fraction(fps).limit_denominator(1001))
            video.width, video.height, video.pix_fmt = *size, "yuv420p"
            video.codec_context.time_base = Fraction(1, 1000 if path.suffix == ".webm" else 90_000)
            video.options = {"preset": "ultrafast", "crf": "20", "bf": "2"} if video_codec == "libx264" else _VP9
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
        _mux(out, streams)
    return path


_VP9 = {"deadline": "realtime", "cpu-used": "8", "crf": "30", "b": "0"}


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
    import av

    for at, pixels in zip(times, pictures, strict=True):
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        frame.pts, frame.time_base = round((at + start) / base), base
        yield at + start, frame


def _sounds(seconds, beep, start, gap, block=4800):
    import av

    for first in range(0, round(seconds * RATE_HZ), block):
        at = np.arange(first, min(first + block, round(seconds * RATE_HZ))) / RATE_HZ
        if gap and gap[0] <= at[0] < gap[1]:
            continue
        tone = 0.5 * np.sin(2 * np.pi * TONE_HZ * at)
        samples = tone * ((at >= beep[0]) & (at < beep[1])) if beep else 0 * tone
        frame = av.AudioFrame.from_ndarray(samples[None].astype(np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = RATE_HZ, first + round(start * RATE_HZ)
        frame.time_base = Fraction(1, RATE_HZ)
        yield start + first / RATE_HZ, frame


def _mux(out, streams) -> None:
    """Encode the streams' frames in the order of their times."""
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
