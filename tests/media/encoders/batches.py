"""Batches of windows with random pictures and sound."""

import numpy as np

from libs.features.windows import WINDOW_FRAMES, WINDOW_SAMPLES, WindowBatch

RANDOM = np.random.default_rng(0)


def make_pictures(count: int, stride: int = 4, size: tuple[int, int] = (36, 64)) -> WindowBatch:
    data = RANDOM.integers(0, 256, ((count - 1) * stride + WINDOW_FRAMES, *size, 3), dtype=np.uint8)
    return WindowBatch(data, WINDOW_FRAMES, stride)


def make_noise(count: int, stride: int = 4) -> WindowBatch:
    hop = stride * 1000
    data = (0.1 * RANDOM.standard_normal((count - 1) * hop + WINDOW_SAMPLES)).astype(np.float32)
    return WindowBatch(data, WINDOW_SAMPLES, hop)


def split_windows(batch: WindowBatch) -> list[WindowBatch]:
    return [WindowBatch(window, batch.length, batch.hop) for window in batch.windows]


def make_tone(hz: float) -> WindowBatch:
    sound = 0.3 * np.sin(2 * np.pi * hz * np.arange(WINDOW_SAMPLES) / 16000)
    return WindowBatch(sound.astype(np.float32), WINDOW_SAMPLES, WINDOW_SAMPLES)
