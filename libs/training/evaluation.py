"""Run the network over a task's evaluation split, on one rank or many."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from tqdm import tqdm

from libs.core.config import Config, TaskSpec
from libs.core.errors import DataError
from libs.core.types import Batch, Detections, Video
from libs.datasets.loaders import EvalBatches
from libs.datasets.task_data import TaskData
from libs.evaluation.metrics.average_precision import DetectionScores, score_detections
from libs.modeling.postprocess import ExternalScores, decode_predictions, load_external_scores
from libs.training.distributed import DistributedContext


@dataclass(frozen=True)
class EvalSet:
    """A task's validation or test split in batches, to be evaluated again and again."""

    data: TaskData
    splits: tuple[str, ...]
    videos: list[Video]
    batches: EvalBatches
    external: ExternalScores | None

    @classmethod
    def build(cls, data: TaskData, role: Literal["val", "test"], config: Config, ctx: DistributedContext) -> "EvalSet":
        """Batch a split's clips for this rank and load its video-level scores, if the task has some."""
        clips, splits = (data.val, data.task.val_split) if role == "val" else (data.test, data.task.test_split)
        batches = EvalBatches(clips, config, ctx.rank, ctx.world_size)
        return cls(data, splits, clips.videos, batches, load_external_scores(data.task, clips.videos))

    @property
    def task(self) -> TaskSpec:
        return self.data.task

    @property
    def name(self) -> str:
        return f"{self.task.task_type} {self.task.dataset_name} {'+'.join(self.splits)}"

    def score(self, detections: Detections) -> DetectionScores:
        """Score detections of these videos at the task's tIoU thresholds."""
        return score_detections(detections, self.videos, self.task.tious)


@torch.inference_mode()
def run_inference(model: nn.Module, eval_set: EvalSet, ctx: DistributedContext, interval: int = 1) -> Detections:
    """Detect events in all videos of a split; each rank computes its batches.

    Args:
        model: in evaluation mode.
        interval: batches between two updates of the progress bar.

    Returns:
        the detections of all ranks, on every rank, in the order of the split's videos.
    """
    hidden = None if ctx.is_first else True  # None: shown on a terminal
    title = f"evaluating {eval_set.name}"
    progress = tqdm(eval_set.batches, title, leave=False, miniters=interval, disable=hidden)
    parts = ctx.run_on_all(lambda: [_detect_batch(model, batch.to(ctx.device), eval_set, ctx) for batch in progress])
    detections = Detections.concat([part for parts in ctx.all_gather(parts) for part in parts])
    video_ids = [video.video_id for video in eval_set.videos]
    assert sorted(detections.video_ids) == sorted(video_ids), "a video was evaluated twice or not at all"
    return detections.reorder_videos(video_ids)


def _detect_batch(model: nn.Module, batch: Batch, eval_set: EvalSet, ctx: DistributedContext) -> Detections:
    """Detect the events of a batch; raises DataError on output that is not finite, which would give no events."""
    with ctx.autocast():
        prediction = model(batch, eval_set.task.key)
    finite = prediction.logits.isfinite().all(-1) & prediction.offsets.isfinite().all(-1).all(-1)  # (B, P)
    finite = (finite | ~prediction.mask).all(-1).tolist()  # (B,)
    if ids := ", ".join(clip.video_id for clip, good in zip(batch.clips, finite, strict=True) if not good):
        problem = f"the network's output is not finite for {ids}"
        raise DataError(f"{eval_set.name}: {problem}; look for NaN in their features (tools/verify_data.py)")
    return decode_predictions(prediction, batch.clips, eval_set.task, eval_set.external)
