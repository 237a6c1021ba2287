"""Decode the pictures and the sound of a media file on one time line, in bounded memory.

Frame k is what a player shows k/16 s after the media's start, sample i what it plays i/16000 s after it. Everything is
placed by its time stamp, so variable frame rates, late streams, gaps and codec priming need no special case.
"""

import math
from collections.abc import Callable, Generator, Iterator
from fractions import Fraction
from itertools import chain, repeat
from typing import Any

import numpy as np

from libs.core.errors import MediaError
from libs.features.windows import FRAME_RATE_HZ, SAMPLE_RATE_HZ
from libs.media.container import decode_stream, format_path, import_av, open_container
from libs.media.probe import MediaInfo

MAX_ROUNDING = Fraction(1, 2000)  # seconds; containers with millisecond ticks round time stamps by up to this
MIN_GAP_S = 0.03  # sound this far from its expected time is a gap or an overlap; less is the rounding of time stamps
MIN_NOTED_GAP_S = 0.1  # seconds of missing sound, in total, that are worth a note


def decode_frames(
    media: MediaInfo, count: int, short_side: int | None, notes: list[str], threads: int = 0
) -> Generator[np.ndarray, None, None]:
    """Decode pictures at 16 frames/s.

    Picture k is the last one with a time of at most start + k/16 s.

    Args:
        count: number of pictures.
        short_side: pixels of the shorter side to which larger pictures are scaled down.
        notes: gets sentences on damage.
        threads: of the decoder; 0 means one per core.

    Yields:
        (H, W, 3) uint8 RGB, all of one size, upright and with square pixels.

    Raises:
        MediaError: nothing can be decoded.
    """
    with open_container(media.path) as container:
        stream = container.streams[media.video]
        stream.thread_type, stream.thread_count = "AUTO", threads
        rounding = min(MAX_ROUNDING, Fraction(stream.time_base) / 2)
        done, current, convert = 0, None, None
        for time, frame in decode_stream(container, stream, notes):
            if convert is None:
                current, convert = frame, _build_converter(frame, stream.sample_aspect_ratio or Fraction(1), short_side)
            begins = min(count, math.ceil((time - media.start - rounding) * FRAME_RATE_HZ))
            if begins > done:
                yield from repeat(convert(current), begins - done)
                done = begins
            if done == count:
                return
            current = frame
        if convert is None:
            raise MediaError(f"{format_path(media.path)}: no frame of video stream {media.video} can be decoded")
        yield from repeat(convert(current), count - done)


def _build_converter(first, pixel_aspect: Fraction, short_side: int | None) -> Callable[[Any], np.ndarray]:
    """Build a function that scales frames, turns them upright and makes pixels square, all as the first one needs it.

    Side data are read from the first frame only: PyAV's frames and their side data reference each other, so reading
    them keeps each frame until the garbage collector runs, which is far too late for megabytes.
    """
    width, height = first.width * pixel_aspect, Fraction(first.height)
    scale = min(Fraction(1), (short_side or math.inf) / min(width, height))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    # The (2, 2) matrix that maps a stored pixel's (x, y) to its place on screen, up to a shift and a factor.
    data = first.side_data.get("DISPLAYMATRIX")
    matrix = np.eye(2) if data is None else np.frombuffer(bytes(data), np.int32).reshape(3, 3)[:2, :2]
    turned = abs(float(matrix[0, 1])) > abs(float(matrix[0, 0]))
    right, down = (1 if value >= 0 else -1 for value in (np.diag(matrix[::-1] if turned else matrix)))
    scaler = import_av().video.reformatter.VideoReformatter()

    def convert(frame) -> np.ndarray:
        picture = scaler.reformat(frame, *size, "rgb24", interpolation="AREA").to_ndarray()
        return np.ascontiguousarray((picture.swapaxes(0, 1) if turned else picture)[::down, ::right])

    return convert


def decode_sound(media: MediaInfo, count: int, notes: list[str]) -> Generator[np.ndarray, None, None]:
    """Decode sound at 16 kHz, all channels mixed to one; what the stream does not cover is silent.

    Args:
        count: number of samples.
        notes: gets sentences on damage and gaps.

    Yields:
        Blocks (n,) float32 in [-1, 1].
    """
    done = num_missing = 0
    for first, block in _resample(media, notes):
        num_silent = min(first, count) - done
        if num_silent > 0:
            num_missing += num_silent if done else 0  # a late start is no gap
            yield from _silence(num_silent)
            done += num_silent
        block = block[max(0, done - first) : max(0, count - first)]
        yield block
        done += len(block)
        if done == count:
            break
    if num_missing > MIN_NOTED_GAP_S * SAMPLE_RATE_HZ:
        notes.append(f"{num_missing / SAMPLE_RATE_HZ:.1f} s of sound are missing in the middle: taken as silent")
    yield from _silence(count - done)


def _silence(count: int) -> Iterator[np.ndarray]:
    for done in range(0, count, SAMPLE_RATE_HZ):
        yield np.zeros(min(SAMPLE_RATE_HZ, count - done), np.float32)


def _resample(media: MediaInfo, notes: list[str]) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (index of the first sample, block) in order, except for gaps and overlaps in the file.

    FFmpeg's mix of 16-bit integers (`ffmpeg -ac 1`) keeps the level of what is on all channels, whatever the codec; its
    mix of floats does not.
    """
    av = import_av()
    layout, end, first, resampler = None, Fraction(0), 0, None
    with open_container(media.path) as container:
        stream = container.streams[media.audio]
        for time, frame in chain(decode_stream(container, stream, notes), [(Fraction(0), None)]):
            new_layout = frame and (frame.format.name, frame.layout.name, frame.sample_rate)
            if resampler is not None and (new_layout != layout or abs(time - end) > MIN_GAP_S):
                yield first, _to_block(resampler.resample(None))
                resampler = None
            if frame is None:
                return
            if resampler is None:
                resampler = av.AudioResampler("s16", "mono", SAMPLE_RATE_HZ)
                layout, end, first = new_layout, time, round((time - media.start) * SAMPLE_RATE_HZ)
            frame.pts = None  # `first` places the blocks; rounded time stamps would make the resampler stretch them
            yield first, (block := _to_block(resampler.resample(frame)))
            first += len(block)
            end += Fraction(frame.samples, frame.sample_rate)


def _to_block(frames: list) -> np.ndarray:
    samples = [frame.to_ndarray().reshape(-1) for frame in frames]
    return np.concatenate([np.empty(0, np.float32), *samples], dtype=np.float32) / 32768
