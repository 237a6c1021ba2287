"""Data types shared by all packages: videos, features, clips, batches, predictions, detections.

Shapes: B clips, T windows (grid points of level 0), P points of all pyramid levels, C classes, N segments,
K = C (class-aware regression) or 1. A grid unit is a window after any resizing; seconds are seconds of the video.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:  # tools that only score results need not wait for torch to load
    import torch

MODALITIES = ("visual", "audio")
PACK_SUFFIXES = (".h5", ".hdf5")  # of files with the features of many videos
VIDEO_SUFFIXES = ".3gp .avi .flv .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .ogv .ts .webm .wmv"
SOUND_SUFFIXES = ".aac .flac .m4a .mka .mp3 .oga .ogg .opus .wav .wma"
MEDIA_SUFFIXES = frozenset(f"{VIDEO_SUFFIXES} {SOUND_SUFFIXES}".split())
REPEAT_TOLERANCE_S = 1e-3  # of both ends


@dataclass(frozen=True)
class Video:
    """An annotated video: segments (N, 2) float64 in seconds, labels (N,) int64."""

    video_id: str
    subset: str
    duration: float
    fps: float | None
    segments: np.ndarray
    labels: np.ndarray

    def find_repeats(self) -> list[int]:
        """Find annotations that equal an earlier one: same label, both ends within 1e-3 s (method.md §2)."""
        # Plain numbers are faster than arrays here: thousands of videos have a few annotations each.
        rows = [(label, *segment) for label, segment in zip(self.labels.tolist(), self.segments.tolist(), strict=True)]
        kept, repeated = [], []
        for i, row in enumerate(rows):
            (repeated if any(_is_repeat(rows[j], row) for j in kept) else kept).append(i)
        return repeated

    def remove_repeats(self) -> Video:
        repeated = self.find_repeats()
        if not repeated:
            return self
        segments, labels = (np.delete(values, repeated, axis=0) for values in (self.segments, self.labels))
        return replace(self, segments=segments, labels=labels)


def _is_repeat(a: tuple, b: tuple) -> bool:
    """Whether two annotations (label, start, end) are the same."""
    return a[0] == b[0] and abs(a[1] - b[1]) <= REPEAT_TOLERANCE_S and abs(a[2] - b[2]) <= REPEAT_TOLERANCE_S


class Features(NamedTuple):
    """Features of a video: visual (T, Dv) and audio (T, Da).

    float16 if they are stored so, which takes half the memory, else float32. An unused modality has width 0.
    """

    visual: np.ndarray
    audio: np.ndarray

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray], length: int) -> Features:
        """Build from the arrays (length, D) of the modalities that are used."""
        unused = np.empty((length, 0), np.float16)
        found = [arrays.get(modality, unused) for modality in MODALITIES]
        return cls(*(x if x.dtype == np.float16 else x.astype(np.float32, copy=False) for x in found))


@dataclass(frozen=True)
class Clip:
    """The ground truth and time base of a network input.

    segments (N, 2) float32 in grid units of the (resized and cropped) input, labels (N,) int64; feat_stride and
    num_frames in frames, so that seconds = (grid·feat_stride + num_frames/2)/fps.
    """

    video_id: str
    duration: float
    fps: float
    feat_stride: float
    num_frames: float
    segments: torch.Tensor
    labels: torch.Tensor


@dataclass(frozen=True)
class Batch:
    """Padded clips.

    visual (B, T, Dv) and audio (B, T, Da), float16 or float32, are zero where mask (B, T) is False. segments (B, N, 2)
    and labels (B, N) are those of the clips, padded to N >= 1 with empty segments of label -1.
    """

    visual: torch.Tensor
    audio: torch.Tensor
    mask: torch.Tensor
    segments: torch.Tensor
    labels: torch.Tensor
    clips: tuple[Clip, ...]

    def _tensors(self) -> tuple[torch.Tensor, ...]:
        return self.visual, self.audio, self.mask, self.segments, self.labels

    def to(self, device: torch.device) -> Batch:
        return Batch(*(tensor.to(device, non_blocking=True) for tensor in self._tensors()), clips=self.clips)

    def pin_memory(self) -> Batch:
        return Batch(*(tensor.pin_memory() for tensor in self._tensors()), clips=self.clips)

    def record_stream(self, stream: torch.cuda.Stream) -> None:
        """Keep the tensors' memory until the work queued on the stream so far is done."""
        for tensor in self._tensors():
            tensor.record_stream(stream)


@dataclass(frozen=True)
class Prediction:
    """The network's output on all levels, concatenated from the finest to the coarsest.

    logits (B, P, C); offsets (B, P, K, 2) left and right in units of the level's stride; mask (B, P) bool;
    points (P, 4): time, lower and upper regression range, stride, in grid units; level_sizes sum to P.
    """

    logits: torch.Tensor
    offsets: torch.Tensor
    mask: torch.Tensor
    points: torch.Tensor
    level_sizes: tuple[int, ...]


@dataclass(frozen=True)
class Targets:
    """Training targets: classes (B, P, C) in {0, 1}, and S pairs of offsets for each point.

    offsets (B, P, S, 2) in units of the level's stride. regressor (B, P, S) int64 is the index of the network's K pairs
    that should predict them: a class (class-aware regression) or 0, and -1 for pairs without a loss. S is the number of
    segments (class-aware) or 1, which is far less memory than a pair for each class.
    """

    classes: torch.Tensor
    offsets: torch.Tensor
    regressor: torch.Tensor


@dataclass(frozen=True)
class Detections:
    """Detections of several videos as one table.

    video (N,) int64 indexes video_ids; segments (N, 2) float64 in seconds, scores (N,) float64, labels (N,) int64.
    The detections of a video are sorted by descending score.
    """

    video_ids: tuple[str, ...]
    video: np.ndarray
    segments: np.ndarray
    scores: np.ndarray
    labels: np.ndarray

    @staticmethod
    def concat(parts: list[Detections]) -> Detections:
        starts = np.cumsum([0, *(len(p.video_ids) for p in parts)])
        return Detections(
            tuple(video_id for p in parts for video_id in p.video_ids),
            np.concatenate([np.empty(0, np.int64), *(p.video + s for p, s in zip(parts, starts, strict=False))]),
            np.concatenate([np.empty((0, 2)), *(p.segments for p in parts)]),
            np.concatenate([np.empty(0), *(p.scores for p in parts)]),
            np.concatenate([np.empty(0, np.int64), *(p.labels for p in parts)]),
        )

    def reorder_videos(self, video_ids: list[str]) -> Detections:
        """Return the same detections with the videos in the given order."""
        place = {video_id: i for i, video_id in enumerate(video_ids)}
        video = np.array([place[v] for v in self.video_ids], np.int64)[self.video]
        order = np.argsort(video, kind="stable")
        rows = (self.segments[order], self.scores[order], self.labels[order])
        return Detections(tuple(video_ids), video[order], *rows)


class Event(NamedTuple):
    """A detected event in readable form: start and end in seconds, score in [0, 1]."""

    task: str  # the task's key, TASK1, …
    task_type: str  # TAL, AVEL, SED, …
    label: str
    start: float
    end: float
    score: float
