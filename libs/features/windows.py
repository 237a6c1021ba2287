"""Windows of the published features (method.md §2): what the encoders see, and how many a video has.

Visual window k covers frames [k·stride, k·stride + 16) at 16 frames/s. Audio window k covers the second of sound at
16 kHz that starts at the same moment, k·stride/16 s. Only whole windows count, in both modalities: the last part of a
video that fills no window (less than stride/16 s) is left out, as in the published features. A video shorter than a
window has one window, padded with its last frame and with silence.
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
STRIDES = (4, 8)  # frames: UnAV-100 and DESED; ActivityNet
WINDOWS_A_BATCH = 32
ROUNDING_S = 1e-3  # containers round times to a millisecond; a frame cut by less than this still counts


@dataclass(frozen=True)
class WindowBatch:
    """N overlapping windows over one piece of a stream; what they share is stored and computed once.

    Window n is data[n·hop : n·hop + length].

    Attributes:
        data: frames (L, H, W, 3) uint8 RGB at 16 frames/s, or sound (L,) float32 in [-1, 1] at 16 kHz.
        length: rows in a window.
        hop: rows between the starts of two windows.
    """

    data: np.ndarray
    length: int
    hop: int

    def __len__(self) -> int:
        return (len(self.data) - self.length) // self.hop + 1

    @property
    def windows(self) -> np.ndarray:
        """The windows (N, length, ...), a read-only view of data."""
        return sliding(self.data, self.length, self.hop)


def sliding(data: np.ndarray, length: int, hop: int) -> np.ndarray:
    """Cut data (L, ...) into windows (N, length, ...), `hop` rows apart, as a view."""
    windows = np.lib.stride_tricks.sliding_window_view(data, length, axis=0)[::hop]
    return np.moveaxis(windows, -1, 1)


def num_windows(
    duration_s: float | np.ndarray, stride: int, num_frames: int = WINDOW_FRAMES, fps: float = FRAME_RATE_HZ
) -> np.ndarray:
    """Count the whole windows of a video, at least one.

    Args:
        duration_s: seconds, a number or an array.
        stride: frames between the starts of two windows.
        num_frames: frames in a window.
        fps: frames/s of the features.

    Returns:
        int64 of the shape of duration_s.
    """
    frames = np.floor((np.asarray(duration_s, np.float64) + ROUNDING_S) * fps)
    return np.maximum(1, (frames - num_frames) // stride + 1).astype(np.int64)


def span(count: int, length: int, hop: int) -> int:
    """Return the number of frames or samples that `count` windows cover."""
    return (count - 1) * hop + length


def batches(
    blocks: Iterable[np.ndarray], count: int, length: int, hop: int, size: int = WINDOWS_A_BATCH
) -> Iterator[WindowBatch]:
    """Cut a stream into batches of windows, one batch in memory at a time.

    Args:
        blocks: the stream in pieces (n, ...), at least span(count, length, hop) rows in all.
        count: windows in all.
        length, hop: rows in a window and between the starts of two.
        size: windows in a batch, at most.
    """
    blocks, pending = iter(blocks), []
    for first in range(0, count, size):
        windows = min(size, count - first)
        needed = span(windows, length, hop)
        while sum(map(len, pending)) < needed:
            pending.append(next(blocks))
        data = np.concatenate(pending)
        yield WindowBatch(data[:needed], length, hop)
        pending = [data[windows * hop :].copy()]


def feature_fps(video: Video, config: DatasetConfig) -> float:
    """Return the frames/s of a video's features: of the configuration, else of the annotation, else 16."""
    return config.default_fps or video.fps or float(FRAME_RATE_HZ)


def expected_windows(video: Video, config: DatasetConfig) -> int:
    """Count the windows that follow from an annotated video's duration."""
    return int(num_windows(video.duration, config.feat_stride, config.num_frames, feature_fps(video, config)))


def grid(config: DatasetConfig, length: int) -> tuple[float, float]:
    """Return feat_stride and num_frames, in frames, of a video with T = length after any resizing (method.md §3)."""
    stride, frames = float(config.feat_stride), float(config.num_frames)
    if config.force_upsampling:
        stride = frames = ((length - 1) * stride + frames) / config.max_seq_len
    return stride, frames
