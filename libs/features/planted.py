"""Planted features: data whose truth is known, at any scale, from annotations and prompts alone.

A feature is temporally correlated noise of variance 1. While an event lasts, a fixed random projection of its
class's prompt embedding is added in the modalities in which the task says that its events show. Distractors look
the same but must not be found: events of the task's classes in a modality in which the task's don't show, or, for
a task that shows in both, in one modality only.

Everything follows from (seed, video id, annotation). Shapes: T windows, D feature width, N events, C classes.
"""

import zlib
from typing import NamedTuple

import numpy as np

from libs.core.config import TaskSpec
from libs.core.types import MODALITIES, Features, Video
from libs.features.windows import expected_windows, feature_fps

GAIN_RANGE = (0.7, 1.3)  # an event's signal relative to the configured one
PLACING_TRIES = 20  # places tried for a distractor that must not overlap its own class


class Planted(NamedTuple):
    """An event (or distractor) as it is planted: start and end in seconds, label, gain in each modality."""

    start: float
    end: float
    label: int
    visual: float
    audio: float


class PlantedSource:
    """A feature source that needs no files. `signals` is the truth: (C, D) a modality, what an event adds."""

    def __init__(self, task: TaskSpec, prompts: np.ndarray, dims: tuple[int, int]):
        """prompts (C, text_dim); dims the widths of visual and audio features."""
        self.config, self.dataset, self.shows_in = task.dataset.planted, task.dataset, task.shows_in
        self.dims = dict(zip(MODALITIES, dims, strict=True))
        self.signals = {}
        for i, modality in enumerate(MODALITIES):
            projection = np.random.default_rng([self.config.seed, i]).standard_normal(
                (prompts.shape[1], self.dims[modality]), dtype=np.float32
            )
            self.signals[modality] = self.config.signal * (prompts @ projection)

    def lengths(self, videos: list[Video]) -> list[int]:
        return [expected_windows(video, self.dataset) for video in videos]

    def load(self, video: Video) -> Features:
        rng = np.random.default_rng([self.config.seed, zlib.crc32(video.video_id.encode())])
        planted = self.plan(video, rng)
        length, fps = expected_windows(video, self.dataset), feature_fps(video, self.dataset)
        starts = np.arange(length)[:, None] * self.dataset.feat_stride / fps  # (T, 1), seconds
        span = self.dataset.num_frames / fps
        begins, ends = (np.array([getattr(p, side) for p in planted]) for side in ("start", "end"))
        covered = np.minimum(starts + span, ends) - np.maximum(starts, begins)
        covered = np.clip(covered / span, 0, 1).astype(np.float32)  # (T, N), the part of a window in an event
        labels = np.array([p.label for p in planted], np.int64)
        streams = []
        for modality in MODALITIES:
            gains = np.array([getattr(p, modality) for p in planted], np.float32)
            noise = self._noise(rng, length, self.dims[modality])
            streams.append(noise + (covered * gains) @ self.signals[modality][labels])
        return Features(*streams)

    def plan(self, video: Video, rng: np.random.Generator) -> list[Planted]:
        """The video's events, then its distractors."""
        shown = {m: m in self.shows_in for m in MODALITIES}
        planted = []
        for (start, end), label in zip(video.segments, video.labels, strict=True):
            gain = rng.uniform(*GAIN_RANGE)
            planted.append(Planted(start, end, int(label), gain * shown["visual"], gain * shown["audio"]))
        num_classes = len(self.signals["visual"])
        for _ in range(rng.poisson(self.config.distractors)):
            lengths = video.segments[:, 1] - video.segments[:, 0]
            length = rng.choice(lengths) if len(lengths) else video.duration * rng.uniform(0.1, 0.4)
            length = min(length, video.duration)
            hidden = [m for m in MODALITIES if not shown[m]] or list(MODALITIES)
            modality, gain = rng.choice(hidden), rng.uniform(*GAIN_RANGE)
            for _ in range(PLACING_TRIES):
                label, start = int(rng.integers(num_classes)), rng.uniform(0, video.duration - length)
                if all(p.label != label or p.end < start or p.start > start + length for p in planted):
                    gains = {m: gain if m == modality else 0.0 for m in MODALITIES}
                    planted.append(Planted(start, start + length, label, **gains))
                    break
        return planted

    def _noise(self, rng: np.random.Generator, length: int, dim: int) -> np.ndarray:
        """(T, D) of variance 1, each window correlated with the one before."""
        rho = self.config.correlation
        noise = rng.standard_normal((length, dim), dtype=np.float32)
        noise[1:] *= np.sqrt(1 - rho**2)
        for t in range(1, length):
            noise[t] += rho * noise[t - 1]
        return noise
