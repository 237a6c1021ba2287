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
    num_samples = round(media.duration * SAMPLE_RATE_HZ) if media.audio is not None else 0
    peaks = np.zeros((min(MAX_PEAKS, num_samples), 2), np.float32)
    if media.audio is not None:
        hop = stride * SAMPLES_A_FRAME
        needed = max(num_samples, span(count, WINDOW_SAMPLES, hop))  # the peaks go beyond the last window
        with closing(decode_sound(media, needed, notes)) as sound:
            blocks = _update_peaks(peaks, num_samples, sound)
            _fill(audio, map(encoder.encode_audio, batches(blocks, count, WINDOW_SAMPLES, hop)))
            for _ in blocks:  # the rest of the sound updates the peaks only
                pass
    notes = list(dict.fromkeys(notes))  # both passes may note the same
    has_visual, has_audio = media.video is not None, media.audio is not None
    return ExtractedFeatures(visual, audio, media.duration, notes, peaks, has_visual, has_audio)


def _fill(table: np.ndarray, parts: Iterator[np.ndarray]) -> None:
    done = 0
    for rows in parts:
        table[done : done + len(rows)] = rows
        done += len(rows)


def _update_peaks(peaks: np.ndarray, num_samples: int, blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Pass blocks of sound on after updating the minimum and maximum (P, 2) of each P-th of `num_samples`."""
    at = 0
    for block in blocks:
        inside = block[: max(0, num_samples - at)]
        part = (np.arange(at + 1, at + 1 + len(inside)) * len(peaks) - 1) // num_samples
        # The initial zeros need no mark: any sound crosses zero.
        np.minimum.at(peaks[:, 0], part, inside)
        np.maximum.at(peaks[:, 1], part, inside)
        at += len(block)
        yield block
