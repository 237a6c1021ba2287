"""Windows of the published features (method.md §2): what the encoders get, and how many of them a video has.

Visual window k is frames [k·stride, k·stride + 16) at 16 frames/s, audio window k the second of sound at 16 kHz that
starts at the same moment, k·stride/16 s. Only whole windows count, in both modalities alike: the end that fills no
window (less than stride/16 s) is left out, as in the published features. What is shorter than a window has one, filled
up with its last picture and with silence.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from libs.core.config import DatasetConfig
from libs.core.types import Video

FRAME_RATE_HZ = 16
SAMPLE_RATE_HZ = 16_000
WINDOW_FRAMES = 16
WINDOW_SAMPLES = SAMPLE_RATE_HZ
SAMPLES_A_FRAME = SAMPLE_RATE_HZ // FRAME_RATE_HZ
STRIDES = (4, 8)  # frames; UnAV-100 and DESED, ActivityNet
WINDOWS_A_BATCH = 32
ROUNDING_S = 1e-3  # containers round times, some to a millisecond: a video this little short of a frame has it


@dataclass(frozen=True)
class WindowBatch:
    """N overlapping windows over one piece of a stream, so that what they share is stored, and computed, once.

    data (L, ...) is the piece: frames (L, H, W, 3) uint8 RGB at 16 frames/s, or sound (L,) float32 at 16 kHz within
    [-1, 1]. Window n is data[n·hop : n·hop + length].
    """

    data: np.ndarray
    length: int
    hop: int

    def __len__(self) -> int:
        return (len(self.data) - self.length) // self.hop + 1

    @property
    def windows(self) -> np.ndarray:
        """(N, length, ...), a view of data that must not be written to."""
        return sliding(self.data, self.length, self.hop)


def sliding(data: np.ndarray, length: int, hop: int) -> np.ndarray:
    """Windows of `length` rows of data (L, ...), each `hop` after the last, as a view (N, length, ...)."""
    windows = np.lib.stride_tricks.sliding_window_view(data, length, axis=0)[::hop]
    return np.moveaxis(windows, -1, 1)


def num_windows(
    duration_s: float | np.ndarray, stride: int, num_frames: int = WINDOW_FRAMES, fps: float = FRAME_RATE_HZ
) -> np.ndarray:
    """Count the windows of a video of `duration_s` seconds; the one formula for it.

    Args:
        duration_s: seconds, a number or an array.
        stride, num_frames: frames between two windows and in one.
        fps: frames/s of the features.

    Returns:
        int64 of the same shape: whole windows, but at least one.
    """
    frames = np.floor((np.asarray(duration_s, np.float64) + ROUNDING_S) * fps)
    return np.maximum(1, (frames - num_frames) // stride + 1).astype(np.int64)


def span(count: int, length: int, hop: int) -> int:
    """Frames or samples that `count` windows cover."""
    return (count - 1) * hop + length


def batches(
    blocks: Iterable[np.ndarray], count: int, length: int, hop: int, size: int = WINDOWS_A_BATCH
) -> Iterator[WindowBatch]:
    """`count` windows over a stream that comes in blocks (n, ...), at least span(count, length, hop) in all.

    Holds one batch of at most `size` windows at a time.
    """
    blocks, held = iter(blocks), []
    for first in range(0, count, size):
        windows = min(size, count - first)
        needed = span(windows, length, hop)
        while sum(map(len, held)) < needed:
            held.append(next(blocks))
        data = np.concatenate(held)
        yield WindowBatch(data[:needed], length, hop)
        held = [data[windows * hop :].copy()]


def feature_fps(video: Video, config: DatasetConfig) -> float:
    """Frames/s of a video's features; 16 where neither the configuration nor the annotation says."""
    return config.default_fps or video.fps or 16.0


def expected_windows(video: Video, config: DatasetConfig) -> int:
    """Count the windows that an annotated video's duration makes."""
    return int(num_windows(video.duration, config.feat_stride, config.num_frames, feature_fps(video, config)))


def grid(config: DatasetConfig, length: int) -> tuple[float, float]:
    """(feat_stride, num_frames) in frames of a video with T = length, after any resizing (method.md §3)."""
    stride, frames = float(config.feat_stride), float(config.num_frames)
    if config.force_upsampling:
        stride = frames = ((length - 1) * stride + frames) / config.max_seq_len
    return stride, frames
