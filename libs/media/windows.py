"""Windows of the published features (method.md §2): what the encoders get, and how many of them a video has.

Visual window k is frames [k·stride, k·stride + 16) at 16 frames/s, audio window k the second of sound at 16 kHz that
starts at the same moment, k·stride/16 s. Only whole windows count, in both modalities alike: the end that fills no
window (less than stride/16 s) is left out, as in the published features. What is shorter than a window has one, filled
up with its last picture and with silence.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

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


def num_windows(duration_s: float, stride: int) -> int:
    """Windows, of either modality, of a video that lasts so long."""
    frames = math.floor((duration_s + ROUNDING_S) * FRAME_RATE_HZ)
    return max(1, (frames - WINDOW_FRAMES) // stride + 1)


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
