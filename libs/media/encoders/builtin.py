"""The builtin encoder: statistics of pictures and sound that need no weights, enough for simple events.

Visual features describe colour, edges and motion over a grid of cells, audio features the spectrum and its changes.
Every number is a fixed function of its own window, scaled by constants to a spread of about 1. F frames, N windows.
"""

import numpy as np

from libs.core.errors import UserError
from libs.features.windows import SAMPLE_RATE_HZ, WindowBatch, sliding

GRID = 4  # cells per side
CELLS = GRID * GRID
BINS = 8  # of the histograms of luminance and hue
FFT, HOP = 512, 160  # samples: 32 ms every 10 ms
BANDS, LOW_HZ, HIGH_HZ = 64, 50.0, 8000.0
SILENCE_POWER = 1e-10  # relative to full scale; everything below -100 dB counts as silence


class BuiltinEncoder:
    """Statistics of pictures and sound; embeds no text."""

    name = "builtin"
    visual_dim = 15 * CELLS + 2 * BINS
    audio_dim = 3 * BANDS + BANDS // 2 + 2 * 8
    text_dim = 0
    short_side = 64

    def encode_frames(self, batch: WindowBatch) -> np.ndarray:
        """Pool statistics of pictures over each window: means, trends, amount and direction of motion."""
        count, half = len(batch), batch.length // 2
        appearance, histograms, motion = _compute_picture_statistics(batch.data)
        appearance = sliding(appearance, batch.length, batch.hop)[:count]  # (N, 16, 6, CELLS)
        motion = sliding(motion, batch.length - 1, batch.hop)[:count]
        histograms = sliding(histograms, batch.length, batch.hop)[:count].mean(1)
        trend = 2 * (appearance[:, half:, :4].mean(1) - appearance[:, :half, :4].mean(1))
        most, unrest = motion[:, :, :1].max(1), 4 * appearance[:, :, :1].std(1)
        cells = np.concatenate((appearance.mean(1), trend, motion.mean(1), most, unrest), 1)  # (N, 15, CELLS)
        return np.concatenate((cells.reshape(count, -1), histograms), 1, dtype=np.float32)

    def encode_audio(self, batch: WindowBatch) -> np.ndarray:
        """Pool statistics of sound over each window: mean, spread, peak and trend of the spectra and their shape."""
        count, length, hop = len(batch), (batch.length - FFT) // HOP + 1, batch.hop // HOP
        level, shape = _compute_sound_statistics(batch.data)
        flux = 6 * np.abs(np.diff(level, axis=0)).mean(1, keepdims=True) - 1
        flux = sliding(flux, length - 1, hop)[:count]
        level = sliding(level, length, hop)[:count]  # (N, 97, BANDS)
        shape = sliding(shape, length, hop)[:count]
        trend = level[:, -(length // 2) :].mean(1) - level[:, : length // 2].mean(1)
        trend = trend.reshape(count, BANDS // 2, 2).mean(2)
        spectra = (level.mean(1), 2 * level.std(1) - 1, level.max(1) - 1, trend)
        shapes = (shape.mean(1), flux.mean(1), 2 * shape.std(1) - 0.5, 2 * flux.std(1) - 0.5)
        return np.concatenate((*spectra, *shapes), 1, dtype=np.float32)

    def encode_text(self, sentences: list[str]) -> np.ndarray:
        raise UserError("the builtin encoder embeds no text; use the checkpoint's classes, or an encoder with text")


def _pool(values: np.ndarray) -> np.ndarray:
    """Average (F, H, W) over a grid of cells to (F, CELLS)."""
    for axis, shape in ((1, (GRID, 1)), (2, (GRID,))):
        # If a picture has fewer rows than cells, reduceat returns the single row at the start of an empty range.
        starts = np.arange(GRID) * values.shape[axis] // GRID
        counts = np.maximum(1, np.diff(starts, append=values.shape[axis])).astype(np.float32)
        values = np.add.reduceat(values, starts, axis=axis) / counts.reshape(shape)
    return values.reshape(len(values), CELLS)


def _compute_picture_statistics(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compute statistics of frames (F, H, W, 3) uint8.

    Returns:
        Appearance (F, 6, CELLS) and histograms (F, 2·BINS) of each frame, motion (F-1, 3, CELLS) between neighbours.
    """
    rgb = frames.astype(np.float32) / 255
    red, green, blue = np.ascontiguousarray(np.moveaxis(rgb, -1, 0))
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    down, across = np.zeros_like(luma), np.zeros_like(luma)
    down[:, 1:-1], across[:, :, 1:-1] = luma[:, 2:] - luma[:, :-2], luma[:, :, 2:] - luma[:, :, :-2]
    change = np.diff(luma, axis=0)
    mean = _pool(luma)
    spread = np.sqrt(np.maximum(0, _pool(luma * luma) - mean * mean))
    edges = [np.log1p(20 * _pool(np.abs(edge))) for edge in (down, across)]
    colours = [6 * _pool(colour - luma) for colour in (red, blue)]
    appearance = [4 * mean - 2, 8 * spread - 1, *colours, *(2 * edge - 1 for edge in edges)]
    # The direction of motion: the shift of each cell along either axis that best keeps the brightness constant.
    flow = [-6 * np.tanh(_pool(edge[1:] * change) / (_pool(edge[1:] ** 2) + 1e-3)) for edge in (down, across)]
    motion = [2 * np.log1p(30 * _pool(np.abs(change))), *flow]
    return np.stack(appearance, 1), _compute_histograms(red, green, blue, luma), np.stack(motion, 1)


def _compute_histograms(red: np.ndarray, green: np.ndarray, blue: np.ndarray, luma: np.ndarray) -> np.ndarray:
    """Compute histograms of luminance and, weighted by saturation, of hue, (F, 2·BINS)."""
    saturation = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
    hue = np.arctan2((green - blue) * np.float32(3**0.5 / 2), red - (green + blue) / 2) / np.float32(2 * np.pi) + 0.5
    frame = np.arange(len(luma))[:, None, None] * BINS
    shares = [
        np.bincount((frame + np.minimum(BINS - 1, values * BINS).astype(np.int64)).ravel(), weights, frame.size * BINS)
        for values, weights in ((luma, None), (hue, saturation.ravel()))
    ]
    luminances, hues = (share.reshape(-1, BINS) / luma[0].size for share in shares)
    return np.concatenate((4 * luminances - 0.5, 10 * hues - 0.5), 1).astype(np.float32)


def _build_mel_bands() -> np.ndarray:
    """Build triangular filters (FFT bins, BANDS) on the mel scale, each with weights that sum to 1."""
    low, high = (2595 * np.log10(1 + hz / 700) for hz in (LOW_HZ, HIGH_HZ))
    mel = np.linspace(low, high, BANDS + 2)
    edges = 700 * (10 ** (mel / 2595) - 1)
    bins = np.arange(FFT // 2 + 1)[:, None] * SAMPLE_RATE_HZ / FFT
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    bands = np.maximum(0, np.minimum(rising, falling))
    # The lowest bands are narrower than a bin, so they use the bin nearest to their centre.
    nearest = np.abs(bins - edges[1:-1]).argmin(0)
    bands[nearest, np.arange(BANDS)] = np.maximum(bands[nearest, np.arange(BANDS)], 1e-3)
    return bands / bands.sum(0)


def _compute_sound_statistics(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute log-mel spectra (F, BANDS) and spectral shapes (F, 7) every 10 ms, float32."""
    pieces = sliding(samples, FFT, HOP)
    window = np.hanning(FFT + 1)[:-1]
    power = np.abs(np.fft.rfft(pieces * window, axis=1)) ** 2 / (window.sum() / 2) ** 2  # full-scale sine: 1
    level = np.log10(power @ _build_mel_bands() + SILENCE_POWER)  # float64: the order of summation does not matter
    hz = np.arange(power.shape[1]) * SAMPLE_RATE_HZ / FFT
    part = (power + SILENCE_POWER) / (power + SILENCE_POWER).sum(1, keepdims=True)
    centroid = part @ hz
    width = np.sqrt(np.maximum(0, part @ hz**2 - centroid**2))
    rolloff = (np.cumsum(part, 1) < 0.85).sum(1) * SAMPLE_RATE_HZ / FFT
    flatness = np.log10(power + SILENCE_POWER).mean(1) - np.log10((power + SILENCE_POWER).mean(1))
    loudness = np.log10((pieces.astype(np.float64) ** 2).mean(1) + SILENCE_POWER)
    crossings = (np.diff(np.signbit(pieces).astype(np.int8), axis=1) != 0).mean(1)
    peak = np.log10(part.max(1))
    shape = (
        (centroid - 2000) / 1500, (width - 1500) / 1000, (rolloff - 3000) / 2000, flatness + 1.5,
        (loudness + 4) / 1.5, 8 * crossings - 1, 2 * peak + 2,
    )  # fmt: skip
    return ((level + 6) / 1.5).astype(np.float32), np.stack(shape, 1).astype(np.float32)
