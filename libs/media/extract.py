"""From a file to features: decode, cut into windows, encode, one modality after the other, in bounded memory."""

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
from libs.media.decode import frames, sound
from libs.media.encoders.base import Encoder
from libs.media.probe import probe

MAX_PEAKS = 2000


@dataclass(frozen=True)
class ExtractedFeatures:
    """visual (T, Dv), audio (T, Da) float32, zero where the file has no such stream; duration in seconds.

    notes: what a user should know, a sentence each. waveform_peaks (P, 2) float32, the least and the greatest sample in
    each of P <= 2000 equal parts of the duration, P = 0 without sound.
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
    """The features of one file, windows every `stride` frames of 1/16 s (method.md §2).

    Streams are the container's best unless an index chooses another. threads: of the decoder, 0 for as many as there
    are cores. Raises MediaError on what cannot be read.
    """
    media = probe(path, video_stream, audio_stream)
    count, notes = num_windows(media.duration, stride), list(media.notes)
    visual = np.zeros((count, encoder.visual_dim), np.float32)
    if media.video is not None:
        needed = span(count, WINDOW_FRAMES, stride)
        with closing(frames(media, needed, encoder.short_side, notes, threads)) as pictures:
            rows = map(encoder.encode_frames, batches((p[None] for p in pictures), count, WINDOW_FRAMES, stride))
            _fill(visual, rows)
    audio = np.zeros((count, encoder.audio_dim), np.float32)
    peaks = _Peaks(round(media.duration * SAMPLE_RATE_HZ) if media.audio is not None else 0)
    if media.audio is not None:
        hop = stride * SAMPLES_A_FRAME
        needed = max(peaks.samples, span(count, WINDOW_SAMPLES, hop))  # the peaks go on where windows end
        with closing(sound(media, needed, notes)) as blocks:
            watched = peaks.watch(blocks)
            _fill(audio, map(encoder.encode_audio, batches(watched, count, WINDOW_SAMPLES, hop)))
            for _ in watched:
                pass
    notes = list(dict.fromkeys(notes))  # what both passes say is said once
    return ExtractedFeatures(
        visual, audio, media.duration, notes, peaks.values, media.video is not None, media.audio is not None
    )


def _fill(table: np.ndarray, parts: Iterator[np.ndarray]) -> None:
    done = 0
    for rows in parts:
        table[done : done + len(rows)] = rows
        done += len(rows)


class _Peaks:
    """Least and greatest sample in equal parts of a sound of known length, gathered as it passes."""

    def __init__(self, samples: int):
        self.samples, parts = samples, min(MAX_PEAKS, samples)
        self.starts = np.arange(parts) * samples // max(1, parts)  # (P,) first sample of each part
        self.values = np.zeros((parts, 2), np.float32)

    def watch(self, blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        at = 0
        for block in blocks:
            inside = block[: max(0, self.samples - at)]
            if len(inside):
                first, last = np.searchsorted(self.starts, (at, at + len(inside) - 1), side="right") - 1
                cuts = np.maximum(self.starts[first : last + 1] - at, 0)
                part = self.values[first : last + 1]
                # Zero lies between the two of any sound, so an untouched pair needs no mark.
                part[:, 0] = np.minimum(part[:, 0], np.minimum.reduceat(inside, cuts))
                part[:, 1] = np.maximum(part[:, 1], np.maximum.reduceat(inside, cuts))
            at += len(block)
            yield block
