"""Planted features: synthetic features of known content, at any scale, from annotations and prompts alone.

A feature is temporally correlated noise of variance 1. During an event, a fixed random projection of its class's
prompt embedding is added in the modalities in which the task's events show. Distractors are added in the same way but
must not be detected: they show in the other modality, or, where the task's events show in both, in one only.

The features are a function of (seed, video id, annotation). Shapes: T windows, D feature width, N events, C classes.
"""

import zlib
from typing import NamedTuple

import numpy as np

from libs.core.config import TaskSpec
from libs.core.types import MODALITIES, Features, Video
from libs.features.windows import expected_windows, feature_fps

GAIN_RANGE = (0.7, 1.3)  # of an event's signal, relative to the configured one
PLACEMENT_TRIES = 20  # for a distractor, which must not overlap its own class


class PlantedEvent(NamedTuple):
    """An event or a distractor: start and end in seconds, label, gain in each modality."""

    start: float
    end: float
    label: int
    visual: float
    audio: float


class PlantedSource:
    """A feature source that needs no files.

    Attributes:
        signals: by modality, (C, D): what an event of each class adds to the noise.
    """

    def __init__(self, task: TaskSpec, prompts: np.ndarray, dims: tuple[int, int]):
        """Build the projections.

        Args:
            prompts: (C, text_dim).
            dims: widths of visual and audio features.
        """
        self.config, self.dataset, self.shows_in = task.dataset.planted, task.dataset, task.shows_in
        self.signals = {}
        for i, (modality, dim) in enumerate(zip(MODALITIES, dims, strict=True)):
            rng = np.random.default_rng([self.config.seed, i])
            projection = rng.standard_normal((prompts.shape[1], dim), dtype=np.float32)
            self.signals[modality] = self.config.signal * (prompts @ projection)

    def lengths(self, videos: list[Video]) -> list[int]:
        return [expected_windows(video, self.dataset) for video in videos]

    def load(self, video: Video) -> Features:
        rng = np.random.default_rng([self.config.seed, zlib.crc32(video.video_id.encode())])
        events = np.array(self.plan_events(video, rng)).reshape(-1, len(PlantedEvent._fields))
        starts, ends, labels, *gains = events.T
        length, fps = expected_windows(video, self.dataset), feature_fps(video, self.dataset)
        window_starts = np.arange(length)[:, None] * self.dataset.feat_stride / fps  # (T, 1), seconds
        window_s = self.dataset.num_frames / fps
        overlap = np.minimum(window_starts + window_s, ends) - np.maximum(window_starts, starts)
        overlap = np.clip(overlap / window_s, 0, 1).astype(np.float32)  # (T, N), share of the window
        streams = []
        for signal, gain in zip(self.signals.values(), gains, strict=True):
            noise = self._make_noise(rng, length, signal.shape[1])
            streams.append(noise + (overlap * gain.astype(np.float32)) @ signal[labels.astype(np.int64)])
        return Features(*streams)

    def plan_events(self, video: Video, rng: np.random.Generator) -> list[PlantedEvent]:
        """Return the video's events, then its distractors."""
        shows_visual, shows_audio = (modality in self.shows_in for modality in MODALITIES)
        planned = []
        for (start, end), label in zip(video.segments, video.labels, strict=True):
            gain = rng.uniform(*GAIN_RANGE)
            planned.append(PlantedEvent(start, end, int(label), gain * shows_visual, gain * shows_audio))
        num_classes = len(self.signals["visual"])
        for _ in range(rng.poisson(self.config.distractors)):
            lengths = video.segments[:, 1] - video.segments[:, 0]
            length = rng.choice(lengths) if len(lengths) else video.duration * rng.uniform(0.1, 0.4)
            length = min(length, video.duration)
            candidates = [m for m in MODALITIES if m not in self.shows_in] or list(MODALITIES)
            modality, gain = rng.choice(candidates), rng.uniform(*GAIN_RANGE)
            for _ in range(PLACEMENT_TRIES):
                label, start = int(rng.integers(num_classes)), rng.uniform(0, video.duration - length)
                if all(e.label != label or e.end < start or e.start > start + length for e in planned):
                    visual, audio = (gain * (m == modality) for m in MODALITIES)
                    planned.append(PlantedEvent(start, start + length, label, visual, audio))
                    break
        return planned

    def _make_noise(self, rng: np.random.Generator, length: int, dim: int) -> np.ndarray:
        """(T, D) of variance 1, each window correlated with the one before."""
        rho = self.config.correlation
        noise = rng.standard_normal((length, dim), dtype=np.float32)
        noise[1:] *= np.sqrt(1 - rho**2)
        for t in range(1, length):
            noise[t] += rho * noise[t - 1]
        return noise
