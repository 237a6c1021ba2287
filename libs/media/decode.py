"""Pictures and sound of a media file as streams on one time line, in bounded memory.

Frame k is what a player shows k/16 s after the media's start, sample i what it plays i/16000 s after it. Time stamps
say where either belongs: variable frame rates, late streams, gaps and the priming of codecs need no special case.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from itertools import chain, repeat

import numpy as np

from libs.core.errors import MediaError
from libs.features.windows import FRAME_RATE_HZ, SAMPLE_RATE_HZ
from libs.media.container import decode_stream, format_path, import_av, open_container
from libs.media.probe import Media

MAX_ROUNDING = Fraction(1, 2000)  # s; containers with ticks of a millisecond round time stamps by this
GAP_S = 0.03  # sound this far from where it should go on starts anew; less is the rounding of time stamps
MISSING_S = 0.1  # of sound, in all, that a user should know of
SILENCE_BLOCK = SAMPLE_RATE_HZ


def frames(
    media: Media, count: int, short_side: int | None, notes: list[str], threads: int = 0
) -> Iterator[np.ndarray]:
    """`count` pictures at 16 frames/s, (H, W, 3) uint8 RGB of one size, upright and with square pixels.

    Picture k is the last one whose time is at most start + k/16 s; the first is also shown before its time, the last
    goes on to the end. short_side: pixels of the shorter side, to which larger pictures are scaled down. threads: of
    the decoder, 0 for as many as there are cores. Raises MediaError if nothing can be decoded.
    """
    with open_container(media.path) as container:
        stream = container.streams[media.video]
        stream.thread_type, stream.thread_count = "AUTO", threads
        rounding = min(MAX_ROUNDING, Fraction(stream.time_base) / 2)
        look, done, current = _Look(stream.sample_aspect_ratio, short_side), 0, None
        for at, frame in decode_stream(container, stream, notes):
            begins = min(count, math.ceil((at - media.start - rounding) * FRAME_RATE_HZ))
            current = frame if current is None else current
            if begins > done:
                picture = look(current)
                yield from repeat(picture, begins - done)
                done = begins
            if done == count:
                return
            current = frame
        if current is None:
            raise MediaError(f"{format_path(media.path)}: video stream {media.video} holds nothing that can be decoded")
        yield from repeat(look(current), count - done)


class _Look:
    """Decoded frames as a viewer sees them: scaled, upright, pixels square; all of the first one's size and turn."""

    def __init__(self, pixel_aspect: Fraction | None, short_side: int | None):
        self.pixel_aspect, self.short_side = pixel_aspect or Fraction(1), short_side
        self.scaler = import_av().video.reformatter.VideoReformatter()
        self.matrix: np.ndarray | None = None
        self.size = (0, 0)  # width and height before turning

    def __call__(self, frame) -> np.ndarray:
        if self.matrix is None:
            # Of the first frame only: PyAV's frames and their side data hold each other until the garbage collector
            # comes, which counts objects, not the megabytes of a frame.
            self.matrix = _display_matrix(frame)
            width, height = frame.width * self.pixel_aspect, Fraction(frame.height)
            scale = min(Fraction(1), (self.short_side or math.inf) / min(width, height))
            self.size = tuple(max(1, round(side * scale)) for side in (width, height))
        small = self.scaler.reformat(frame, *self.size, "rgb24", interpolation="AREA").to_ndarray()
        return _turn(small, self.matrix)


def _display_matrix(frame) -> np.ndarray:
    """(2, 2): the place (x, y) of a stored pixel times it is its place on the screen, up to a shift."""
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return np.eye(2)
    return np.frombuffer(bytes(data), np.int32).reshape(3, 3)[:2, :2] / 65536


def _turn(picture: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """One of the eight quarter turns and mirrorings; what lies between is rounded to them."""
    if abs(matrix[0, 1]) > abs(matrix[0, 0]):
        picture, right, down = picture.swapaxes(0, 1), matrix[1, 0], matrix[0, 1]
    else:
        right, down = matrix[0, 0], matrix[1, 1]
    picture = picture[:, ::-1] if right < 0 else picture
    picture = picture[::-1] if down < 0 else picture
    return np.ascontiguousarray(picture)


def sound(media: Media, count: int, notes: list[str]) -> Iterator[np.ndarray]:
    """`count` samples at 16 kHz in blocks (n,) float32 within [-1, 1], all channels mixed to one.

    Sound lies where its time stamps say; what no sound covers is silent.
    """
    done = missing = 0
    for first, block in _resampled(media, notes):
        silent = min(first, count) - done
        if silent > 0:
            missing += silent if done else 0  # what starts late misses nothing
            yield from _silence(silent)
            done += silent
        block = block[max(0, done - first) : max(0, count - first)]
        if len(block):
            yield block
        done += len(block)
        if done == count:
            break
    if missing > MISSING_S * SAMPLE_RATE_HZ:
        notes.append(f"{missing / SAMPLE_RATE_HZ:.1f} s of sound are missing in the middle: taken as silent")
    yield from _silence(count - done)


def _silence(samples: int) -> Iterator[np.ndarray]:
    for done in range(0, samples, SILENCE_BLOCK):
        yield np.zeros(min(SILENCE_BLOCK, samples - done), np.float32)


def _resampled(media: Media, notes: list[str]) -> Iterator[tuple[int, np.ndarray]]:
    """(index of the first sample, block) of the sound stream, in order, but for gaps and overlaps in the file.

    The mix is FFmpeg's for 16-bit integers (`ffmpeg -ac 1`), which keeps the level of what is on all channels,
    whatever the codec; its mix for floats does not.
    """
    av = import_av()
    kind, ends, first, resampler = None, Fraction(0), 0, None
    with open_container(media.path) as container:
        stream = container.streams[media.audio]
        for at, frame in chain(decode_stream(container, stream, notes), [(None, None)]):
            now = frame and (frame.format.name, frame.layout.name, frame.sample_rate)
            if resampler is not None and (now != kind or abs(at - ends) > GAP_S):
                for block in map(_floats, resampler.resample(None)):
                    yield first, block
                    first += len(block)
                resampler = None
            if frame is None:
                return
            if resampler is None:
                resampler = av.AudioResampler("s16", "mono", SAMPLE_RATE_HZ)
                kind, ends, first = now, at, round((at - media.start) * SAMPLE_RATE_HZ)
            frame.pts = None  # the run says where it belongs; rounded time stamps would only disturb the resampler
            for block in map(_floats, resampler.resample(frame)):
                yield first, block
                first += len(block)
            ends += Fraction(frame.samples, frame.sample_rate)


def _floats(frame) -> np.ndarray:
    return frame.to_ndarray().reshape(-1).astype(np.float32) / 32768
