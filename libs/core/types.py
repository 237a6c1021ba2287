"""What the parts hand to each other: videos, clips, batches, predictions, detections.

Shapes: B clips, T windows (grid points of level 0), P points of all pyramid levels, C classes, N segments,
K = C (class-aware regression) or 1. Grid units are windows after any resizing; seconds are seconds of the video.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:  # tools that only score results do without torch's import time
    import torch

MODALITIES = ("visual", "audio")
PACK_SUFFIXES = (".h5", ".hdf5")  # of files that hold many videos' features
VIDEO_SUFFIXES = ".3gp .avi .flv .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .ogv .ts .webm .wmv"
SOUND_SUFFIXES = ".aac .flac .m4a .mka .mp3 .oga .ogg .opus .wav .wma"
MEDIA_SUFFIXES = frozenset(f"{VIDEO_SUFFIXES} {SOUND_SUFFIXES}".split())  # of files that are videos or sounds
REPEAT_TOLERANCE_S = 1e-3


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
        """The annotations that equal an earlier one: same label, both ends within 1e-3 s (method.md §2)."""
        # Plain numbers: an evaluation asks this of thousands of videos, each with a few annotations.
        rows = [(label, *segment) for label, segment in zip(self.labels.tolist(), self.segments.tolist(), strict=True)]
        kept: list[int] = []
        repeated: list[int] = []
        for i, row in enumerate(rows):
            (repeated if any(_is_repeat(rows[j], row) for j in kept) else kept).append(i)
        return repeated

    def remove_repeats(self) -> Video:
        repeated = self.find_repeats()
        if not repeated:
            return self
        segments, labels = (np.delete(values, repeated, axis=0) for values in (self.segments, self.labels))
        return replace(self, segments=segments, labels=labels)


def _is_repeat(a: tuple[int, float, float], b: tuple[int, float, float]) -> bool:
    """Whether two annotations (label, start, end) are one."""
    return a[0] == b[0] and abs(a[1] - b[1]) <= REPEAT_TOLERANCE_S and abs(a[2] - b[2]) <= REPEAT_TOLERANCE_S


class Features(NamedTuple):
    """visual (T, Dv) and audio (T, Da): float16 if they lie so on disk, half the memory, else float32. One that is not
    wanted has width 0."""

    visual: np.ndarray
    audio: np.ndarray

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray], length: int) -> Features:
        """Of the wanted modalities' arrays (length, D)."""
        nothing = np.empty((length, 0), np.float16)
        visual, audio = (_floats(arrays.get(modality, nothing)) for modality in MODALITIES)
        return cls(visual, audio)


def _floats(features: np.ndarray) -> np.ndarray:
    return features if features.dtype == np.float16 else features.astype(np.float32, copy=False)


@dataclass(frozen=True)
class Clip:
    """What is known of a network input besides its features.

    segments (N, 2) float32 in grid units of the (possibly resized and cropped) input; feat_stride and num_frames in
    frames, so that seconds = (grid·feat_stride + num_frames/2)/fps.
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
    """visual (B, T, Dv), audio (B, T, Da), float16 or float32, zero where mask (B, T) is False; one Clip a row.

    segments (B, N, 2) and labels (B, N) are the clips', padded to the most of one clip (N >= 1) with empty segments of
    label -1.
    """

    visual: torch.Tensor
    audio: torch.Tensor
    mask: torch.Tensor
    segments: torch.Tensor
    labels: torch.Tensor
    clips: tuple[Clip, ...]

    def _map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
        tensors = ("visual", "audio", "mask", "segments", "labels")
        return replace(self, **{name: change(getattr(self, name)) for name in tensors})

    def to(self, device: torch.device) -> Batch:
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        return self._map(lambda tensor: tensor.pin_memory())

    def record_stream(self, stream: torch.cuda.Stream) -> None:
        """Keep the tensors' memory until what the stream has queued so far is done."""
        for tensor in (self.visual, self.audio, self.mask, self.segments, self.labels):
            tensor.record_stream(stream)


@dataclass(frozen=True)
class Prediction:
    """The network's output on all levels together, the finest first.

    logits (B, P, C); offsets (B, P, K, 2) left and right in units of the level's stride; mask (B, P) bool;
    points (P, 4): time, regression range low and high, stride, in grid units; level_sizes sum to P.
    """

    logits: torch.Tensor
    offsets: torch.Tensor
    mask: torch.Tensor
    points: torch.Tensor
    level_sizes: tuple[int, ...]


@dataclass(frozen=True)
class Targets:
    """What a network should predict: classes (B, P, C) in {0, 1}, and of each point S pairs of offsets.

    offsets (B, P, S, 2) in units of the level's stride; regressor (B, P, S) int64 says which of the network's K pairs
    should predict each: a class (class-aware regression) or 0, and -1 where a pair counts for nothing. S is the number
    of segments (class-aware) or 1: far fewer than one a class.
    """

    classes: torch.Tensor
    offsets: torch.Tensor
    regressor: torch.Tensor


@dataclass(frozen=True)
class Detections:
    """Detections of several videos as one table.

    video_ids names the videos; rows: video (N,) int64 index into it, segments (N, 2) float64 seconds,
    scores (N,) float64, labels (N,) int64. Within a video the best comes first.
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
        """The same detections, videos in the given order."""
        place = {video_id: i for i, video_id in enumerate(video_ids)}
        video = np.array([place[v] for v in self.video_ids], np.int64)[self.video]
        order = np.argsort(video, kind="stable")
        rows = (self.segments[order], self.scores[order], self.labels[order])
        return Detections(tuple(video_ids), video[order], *rows)


class Event(NamedTuple):
    """One detected event of one video, for people: start and end in seconds, score in [0, 1]."""

    task: str  # the task's key, TASK1, …
    task_type: str  # TAL, AVEL, SED, …
    label: str
    start: float
    end: float
    score: float
