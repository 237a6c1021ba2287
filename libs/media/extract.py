"""Compute the features of one file in bounded memory: decode, cut into windows, encode, one modality at a time."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from libs.features.windows import (
    SAMPLE_RATE_HZ,
    SAMPLES_A_FRAME,
    WINDOW_FRAMES,
    WINDOW_SAMPLES,
    batches,
    num_windows,
    span,
)
from libs.media.decode import decode_frames, decode_sound
from libs.media.encoders.base import Encoder
from libs.media.probe import probe

MAX_PEAKS = 2000


@dataclass(frozen=True)
class ExtractedFeatures:
    """The features of one file.

    Attributes:
        visual, audio: (T, Dv) and (T, Da) float32, zero if the file has no such stream.
        duration: seconds.
        notes: sentences for the user.
        waveform_peaks: (P, 2) float32, the minimum and maximum sample of P <= 2000 equal parts of the duration; P = 0
            without sound.
    """

    visual: np.ndarray
    audio: np.ndarray
    duration: float
    notes: list[str]
    waveform_peaks: np.ndarray
    has_visual: bool
    has_audio: bool


def extract_features(
    path: Path | str,
    encoder: Encoder,
    stride: int,
    video_stream: int | None = None,
    audio_stream: int | None = None,
    threads: int = 0,
) -> ExtractedFeatures:
    """Extract the features of a video or sound file (method.md §2).

    Args:
        stride: frames of 1/16 s between windows.
        video_stream, audio_stream: indices in the file; by default the container's best streams.
        threads: of the decoder; 0 for one per core.

    Raises:
        MediaError: the file cannot be read.
    """
    media = probe(path, video_stream, audio_stream)
    count, notes = int(num_windows(media.duration, stride)), list(media.notes)
    visual = np.zeros((count, encoder.visual_dim), np.float32)
    if media.video is not None:
        needed = span(count, WINDOW_FRAMES, stride)
        with closing(decode_frames(media, needed, encoder.short_side, notes, threads)) as pictures:
            blocks = (picture[None] for picture in pictures)
            _fill(visual, map(encoder.encode_frames, batches(blocks, count, WINDOW_FRAMES, stride)))
    audio = np.zeros((count, encoder.audio_dim), np.float32)
    peaks = _WaveformPeaks(round(media.duration * SAMPLE_RATE_HZ) if media.audio is not None else 0)
    if media.audio is not None:
        hop = stride * SAMPLES_A_FRAME
        needed = max(peaks.num_samples, span(count, WINDOW_SAMPLES, hop))  # the peaks go beyond the last window
        with closing(decode_sound(media, needed, notes)) as sound:
            blocks = peaks.update_from(sound)
            _fill(audio, map(encoder.encode_audio, batches(blocks, count, WINDOW_SAMPLES, hop)))
            for _ in blocks:  # the rest of the sound updates the peaks only
                pass
    notes = list(dict.fromkeys(notes))  # both passes may note the same
    return ExtractedFeatures(
        visual, audio, media.duration, notes, peaks.values, media.video is not None, media.audio is not None
    )


def _fill(table: np.ndarray, parts: Iterator[np.ndarray]) -> None:
    done = 0
    for rows in parts:
        table[done : done + len(rows)] = rows
        done += len(rows)


class _WaveformPeaks:
    """Minimum and maximum sample in equal parts of a sound of known length, updated block by block."""

    def __init__(self, num_samples: int):
        parts = min(MAX_PEAKS, num_samples)
        self.num_samples = num_samples
        self.starts = np.arange(parts) * num_samples // max(1, parts)  # (P,) first sample of each part
        self.values = np.zeros((parts, 2), np.float32)

    def update_from(self, blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        """Pass the blocks on after updating the peaks with them."""
        at = 0
        for block in blocks:
            inside = block[: max(0, self.num_samples - at)]
            if len(inside):
                first, last = np.searchsorted(self.starts, (at, at + len(inside) - 1), side="right") - 1
                cuts = np.maximum(self.starts[first : last + 1] - at, 0)
                part = self.values[first : last + 1]
                # The initial zeros need no mark: any sound crosses zero.
                part[:, 0] = np.minimum(part[:, 0], np.minimum.reduceat(inside, cuts))
                part[:, 1] = np.maximum(part[:, 1], np.maximum.reduceat(inside, cuts))
            at += len(block)
            yield block
