"""Compute the features of one file in bounded memory: decode, cut into windows, encode, one modality at a time."""

from collections.abc import Callable, Iterator
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
    audio = np.zeros((count, encoder.audio_dim), np.float32)
    num_samples = round(media.duration * SAMPLE_RATE_HZ) if media.audio is not None else 0
    peaks = np.zeros((min(MAX_PEAKS, num_samples), 2), np.float32)
    if media.video is not None:
        needed = span(count, WINDOW_FRAMES, stride)
        with closing(decode_frames(media, needed, encoder.short_side, notes, threads)) as pictures:
            _fill(visual, encoder.encode_frames, (picture[None] for picture in pictures), WINDOW_FRAMES, stride)
    if media.audio is not None:
        hop = stride * SAMPLES_A_FRAME
        needed = max(num_samples, span(count, WINDOW_SAMPLES, hop))  # the peaks go beyond the last window
        with closing(decode_sound(media, needed, notes)) as sound:
            blocks = _update_peaks(peaks, num_samples, sound)
            _fill(audio, encoder.encode_audio, blocks, WINDOW_SAMPLES, hop)
            for _ in blocks:  # the rest of the sound updates the peaks only
                pass
    notes = list(dict.fromkeys(notes))  # both passes may note the same
    return ExtractedFeatures(visual, audio, media.duration, notes, peaks)


def _fill(table: np.ndarray, encode: Callable, blocks: Iterator[np.ndarray], length: int, hop: int) -> None:
    """Encode the windows of a stream, one row of the table each."""
    done = 0
    for batch in batches(blocks, len(table), length, hop):
        table[done : done + len(batch)] = encode(batch)
        done += len(batch)


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
