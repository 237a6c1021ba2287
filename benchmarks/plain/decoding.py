"""Decoding with soft-NMS video by video, level by level and class by class (method.md §7)."""

import numpy as np
import torch
from torch import Tensor

from libs.core.config import TaskSpec, TaskTestConfig
from libs.core.types import Clip, Detections, Prediction

MIN_LENGTH = 1e-6  # added to lengths by the published NMS


def plain_nms(
    segments: Tensor, scores: Tensor, labels: Tensor, *, sigma: float, min_score: float, max_seg_num: int
) -> tuple[Tensor, Tensor]:
    """Run soft-NMS on each class of one video. Returns rows and decayed scores, best first."""
    kept, decayed = [labels.new_zeros(0)], [scores.new_zeros(0)]
    for label in labels.unique():
        rows = (labels == label).nonzero()[:, 0]
        current = scores[rows]
        for _ in range(max_seg_num):
            if len(rows) == 0:
                break
            best = current.argmax()
            kept.append(rows[best, None])
            decayed.append(current[best, None])
            (start, end), (starts, ends) = segments[rows[best]], segments[rows].unbind(1)
            intersection = (torch.minimum(end, ends) - torch.maximum(start, starts)).clamp(min=0)
            overlap = intersection / ((end - start + MIN_LENGTH) + (ends - starts + MIN_LENGTH) - intersection)
            current = current * torch.exp(-overlap * overlap / sigma)
            alive = current >= min_score
            alive[best] = False
            rows, current = rows[alive], current[alive]
    scores, order = torch.cat(decayed).sort(descending=True, stable=True)
    return torch.cat(kept)[order][:max_seg_num], scores[:max_seg_num]


def plain_decode(prediction: Prediction, clips: tuple[Clip, ...], spec: TaskSpec) -> Detections:
    """Decode the predictions of a batch."""
    config = spec.test_cfg
    assert (config.nms_method, config.multiclass_nms) == ("soft", True), "only soft-NMS of each class is written here"
    options = {"sigma": config.nms_sigma, "min_score": config.min_score, "max_seg_num": config.max_seg_num}
    results = []
    for row, clip in enumerate(clips):
        ends = np.cumsum(prediction.level_sizes).tolist()
        levels = [slice(end - size, end) for end, size in zip(ends, prediction.level_sizes, strict=True)]
        candidates = [_select_candidates(prediction, row, level, config) for level in levels]
        segments, scores, labels = (torch.cat(column).cpu() for column in zip(*candidates, strict=True))
        rows, scores = plain_nms(segments, scores, labels, **options)
        seconds = (segments[rows].double().numpy() * clip.feat_stride + 0.5 * clip.num_frames) / clip.fps
        columns = seconds.clip(0, clip.duration), scores.double().numpy(), labels[rows].numpy()
        results.append(Detections((clip.video_id,), np.zeros(len(rows), np.int64), *columns))
    return Detections.concat(results)


def _select_candidates(prediction: Prediction, row: int, level: slice, config: TaskTestConfig) -> list[Tensor]:
    """Select segments (N, 2), scores and labels (N,) on one level of a clip."""
    p = torch.sigmoid(prediction.logits[row, level]) * prediction.mask[row, level, None]  # (points, C)
    offsets, points = prediction.offsets[row, level].expand(-1, p.shape[1], -1), prediction.points[level]
    point, label = (p > config.pre_nms_thresh).nonzero(as_tuple=True)
    scores, order = p[point, label].sort(descending=True, stable=True)
    order = order[: config.pre_nms_topk]
    scores, point, label = scores[: config.pre_nms_topk], point[order], label[order]
    (left, right), (time, _, _, stride) = offsets[point, label].unbind(1), points[point].unbind(1)
    segments = torch.stack([time - left * stride, time + right * stride], dim=1)
    kept = segments[:, 1] - segments[:, 0] > config.duration_thresh
    return [segments[kept], scores[kept], label[kept]]
