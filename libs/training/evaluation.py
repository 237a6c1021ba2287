"""Run the network over a task's videos and score what it finds, on one rank or many."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from libs.core.config import Config, TaskSpec
from libs.core.errors import DataError
from libs.core.types import Batch, Detections, Prediction, Video
from libs.datasets.annotations import Annotations
from libs.datasets.loaders import EvalBatches, build_dataset
from libs.evaluation.metrics.average_precision import DetectionScores, score_detections
from libs.modeling.postprocess import decode_predictions, load_external_scores
from libs.training.distributed import DistributedContext


@dataclass(frozen=True)
class EvalSet:
    """A task's videos of some splits, ready to be evaluated again and again."""

    task: TaskSpec
    annotations: Annotations
    splits: tuple[str, ...]
    videos: list[Video]
    batches: EvalBatches
    external: dict | None
    seen: list[int] | None  # label_ids trained on; None: all

    @classmethod
    def open(
        cls, task: TaskSpec, annotations: Annotations, splits: tuple[str, ...], config: Config, ctx: DistributedContext
    ) -> "EvalSet":
        """Raises DataError if a split selects nothing or features are missing."""
        videos = annotations.select_splits(splits, task.dataset.max_videos)
        batches = EvalBatches(build_dataset(videos, task, config), config, ctx.rank, ctx.world_size)
        external, seen = load_external_scores(task, videos), seen_classes(task, annotations)
        return cls(task, annotations, splits, videos, batches, external, seen)

    @property
    def class_names(self) -> list[str]:
        """By label_id."""
        return [self.annotations.class_name(label) for label in range(self.task.dataset.num_classes)]

    @property
    def name(self) -> str:
        return f"{self.task.task_type} {self.task.dataset_name} {'+'.join(self.splits)}"


def seen_classes(task: TaskSpec, annotations: Annotations) -> list[int] | None:
    """The label_ids that a task is trained on; None if none are held out. Raises DataError on an unknown class."""
    chosen = task.dataset.train_classes
    return None if chosen is None else annotations.find_class_ids(chosen, task.dataset.num_classes)


def without_unseen(
    videos: list[Video], seen: list[int] | None, annotations: Annotations, task: TaskSpec
) -> tuple[list[Video], str]:
    """The training videos in which no class shows that is held out, and a sentence about them for people, or "".

    Raises DataError where a class that is to be trained has no example left.
    """
    if seen is None:
        return videos, ""
    kept = [video for video in videos if np.isin(video.labels, seen).all()]
    shown = np.unique(np.concatenate([np.empty(0, np.int64), *(video.labels for video in kept)]))
    if lost := [annotations.class_name(label) for label in seen if label not in shown]:
        raise DataError(
            f"{annotations.path}: no training video shows {lost[0]}{' and others' if lost[1:] else ''} without a class "
            f"that {task.key}.dataset.train_classes holds out; hold others out, or it too"
        )
    of_videos = f"the {len(kept)} of {len(videos)} videos that show no other"
    return kept, f"{task.key}: trains on {len(seen)} of {task.dataset.num_classes} classes, and on {of_videos}"


@torch.inference_mode()
def run_inference(model: nn.Module, data: EvalSet, ctx: DistributedContext, print_freq: int = 1) -> Detections:
    """The detections of all videos of `data`, in its order, on every rank; each rank computes its batches.

    model: in evaluation mode. The progress bar moves every print_freq batches.
    """
    hidden = None if ctx.is_first else True  # None: shown on a terminal
    progress = tqdm(data.batches, f"evaluating {data.name}", leave=False, miniters=print_freq, disable=hidden)
    parts = ctx.run_on_all(lambda: [_detect_batch(model, batch.to(ctx.device), data, ctx) for batch in progress])
    found = Detections.concat([part for parts in ctx.all_gather(parts) for part in parts])
    assert sorted(found.video_ids) == sorted(v.video_id for v in data.videos), "a video evaluated twice or never"
    return found.reorder_videos([video.video_id for video in data.videos])


def _detect_batch(model: nn.Module, batch: Batch, data: EvalSet, ctx: DistributedContext) -> Detections:
    with ctx.autocast():
        prediction = model(batch, data.task.key)
    check_finite(prediction, batch, data)
    return decode_predictions(prediction, batch.clips, data.task, data.external)


def check_finite(prediction: Prediction, batch: Batch, data: EvalSet) -> None:
    """Raise DataError naming the videos whose output holds NaN or Inf: they would silently be left without events."""
    finite = prediction.logits.isfinite().all(-1) & prediction.offsets.isfinite().all(-1).all(-1)  # (B, P)
    finite = (finite | ~prediction.mask).all(-1)  # (B,)
    if not finite.all():
        ids = ", ".join(clip.video_id for clip, good in zip(batch.clips, finite.tolist(), strict=True) if not good)
        raise DataError(
            f"{data.name}: the network's output is not finite for {ids}; look for NaN in their features "
            "(tools/verify_data.py)"
        )


def score(detections: Detections, data: EvalSet) -> DetectionScores:
    return score_detections(detections, data.videos, data.task.tious)
