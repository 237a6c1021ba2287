"""Clips: features and segments of a video as network input, resized and cropped (method.md §3)."""

import math
import warnings
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from libs.core.config import DatasetConfig, TaskSpec
from libs.core.errors import DataError
from libs.core.types import Clip, Video
from libs.features.sources import FeatureSource
from libs.features.windows import feature_fps, grid

CROP_TRIES = 200

Item = tuple[Clip, Tensor, Tensor]  # clip, visual (T, Dv), audio (T, Da)


class ClipDataset(Dataset):
    """The videos of one task as network inputs.

    dataset[i] is for evaluation, dataset[(cycle, i)] for training. The crop is random, but a function of
    (seed, cycle, i): it does not depend on loader processes or ranks, and a resumed run repeats it.
    """

    def __init__(self, videos: list[Video], source: FeatureSource, task: TaskSpec, seed: int = 0):
        """Raises DataError where features are missing or do not fit, or a video's fps is unknown."""
        self.videos = [video.remove_repeats() for video in videos] if task.drop_repeats else list(videos)
        self.source, self.task, self.seed = source, task, seed
        self.lengths = source.lengths(self.videos)  # in windows, before any resizing
        if task.dataset.default_fps is None and (unknown := [v.video_id for v in self.videos if v.fps is None]):
            remedy = f"give it one or set {task.key}.dataset.default_fps"
            raise DataError(f"{task.dataset.json_file}: video {unknown[0]} has no fps; {remedy}")

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, key: int | tuple[int, int]) -> Item:
        cycle, index = (None, key) if isinstance(key, int) else key
        video, config = self.videos[index], self.task.dataset
        features = self.source.load(video)
        visual, audio = torch.from_numpy(features.visual), torch.from_numpy(features.audio)
        fps = feature_fps(video, config)
        stride, frames = grid(config, len(visual))
        if config.force_upsampling:
            # In training, float16 stays float16, which halves the memory; evaluation keeps the interpolation exact.
            visual, audio = (
                resize(x, config.max_seq_len).to(torch.float32 if cycle is None else x.dtype) for x in (visual, audio)
            )
        segments = (torch.from_numpy(video.segments) * fps - 0.5 * frames) / stride
        labels = torch.from_numpy(video.labels)
        clip = Clip(video.video_id, video.duration, fps, stride, frames, segments.float(), labels)
        if cycle is None:
            return clip, visual, audio
        if config.force_upsampling:
            clip = drop_truncated(clip, len(visual), config.trunc_thresh)
        return crop((clip, visual, audio), config, np.random.default_rng([self.seed, cycle, index]))


def resize(features: Tensor, length: int) -> Tensor:
    """Interpolate features linearly over time, align_corners false: (T, D) -> (length, D), float32."""
    if features.shape[1] == 0:  # a modality that the network does not use
        return features.new_zeros(length, 0)
    return F.interpolate(features.float().t()[None], size=length, mode="linear", align_corners=False)[0].t()


def _cut_segments(clip: Clip, start: float, end: float, trunc_thresh: float) -> Clip:
    """Cut segments to a part of the clip and keep those of which trunc_thresh is left, and empty ones inside it."""
    cut = clip.segments.clamp(start, end)
    left, whole = cut[:, 1] - cut[:, 0], clip.segments[:, 1] - clip.segments[:, 0]
    unchanged = (cut == clip.segments).all(dim=1)
    kept = (left >= trunc_thresh * whole) & ((left > 0) | unchanged)
    return replace(clip, segments=cut[kept], labels=clip.labels[kept])


def drop_truncated(clip: Clip, length: int, trunc_thresh: float) -> Clip:
    """Drop segments that start at or after the grid's end or have less than trunc_thresh inside it; cut the others."""
    end = length + 0.5 * clip.num_frames / clip.feat_stride
    inside = _cut_segments(clip, -math.inf, end, trunc_thresh)
    before = inside.segments[:, 0] < end
    inside = replace(inside, segments=inside.segments[before], labels=inside.labels[before])
    if len(clip.labels) and not len(inside.labels):
        warnings.warn(f"video {clip.video_id}: all its segments lie beyond its end, none is used", stacklevel=2)
    return inside


def crop(item: Item, config: DatasetConfig, rng: np.random.Generator) -> Item:
    """Crop a training clip to a random window: of max_seq_len, or of a part within crop_ratio if it is shorter.

    Segments are cut to the window and kept if trunc_thresh of them is left. Windows are sampled until one keeps a
    segment.
    """
    clip, visual, audio = item
    length, window = len(visual), config.max_seq_len
    if length <= window:
        if config.crop_ratio is None:
            return item
        low, high = (max(1, round(ratio * length)) for ratio in config.crop_ratio)
        window = int(rng.integers(low, high, endpoint=True))
        if window == length:
            return item
    margin = 0.5 * clip.num_frames / clip.feat_stride
    for _ in range(CROP_TRIES):
        start = int(rng.integers(length - window + 1))
        inside = _cut_segments(clip, start - margin, start + window + margin, config.trunc_thresh)
        if len(inside.labels) or not len(clip.labels):
            rows = slice(start, start + window)
            return replace(inside, segments=inside.segments - start), visual[rows], audio[rows]
    warnings.warn(
        f"video {clip.video_id}: no window of {window} of its {length} windows keeps a segment; used uncropped",
        stacklevel=2,
    )
    return item
