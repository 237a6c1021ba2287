"""Decode the network's output into detections in seconds (method.md §7).

Shapes: B clips, P points, C classes, K = C or 1, N candidate segments of the whole batch.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from libs.core.config import TaskSpec, TaskTestConfig
from libs.core.errors import DataError
from libs.core.files import read_json
from libs.core.types import Clip, Detections, Prediction, Video
from libs.ops.nms import nms_1d, vote_segments

ExternalScores = dict[str, np.ndarray]  # video id -> (num_classes,)


class Candidates(NamedTuple):
    """Segments (N, 2) in grid units, scores (N,), labels (N,)."""

    segments: Tensor
    scores: Tensor
    labels: Tensor


def decode_predictions(
    prediction: Prediction, clips: tuple[Clip, ...], spec: TaskSpec, external: ExternalScores | None = None
) -> Detections:
    """Decode a batch into detections, at most max_seg_num per video, best first.

    `external` are video-level class scores to fuse with.
    """
    config = spec.test_cfg
    candidates, splits = _select_candidates(prediction, config)
    named_alike = config.model_dump(include={"iou_threshold", "min_score", "max_seg_num"})
    options = {"method": config.nms_method, "multiclass": config.multiclass_nms, "sigma": config.nms_sigma}
    rows, scores, counts = nms_1d(*candidates, splits, **options, **named_alike)
    # Rows beyond a video's count are zeros, which index candidate 0 where there is one; they are cut off below.
    segments, labels = (
        x[rows] if len(x) else x.new_zeros(*rows.shape, *x.shape[1:]) for x in (candidates.segments, candidates.labels)
    )
    if not config.multiclass_nms and config.voting_thresh > 0:
        segments = vote_segments(segments, candidates.segments, candidates.scores, splits, config.voting_thresh)
    segments, scores, labels = segments.cpu(), scores.cpu(), labels.cpu()  # the only copies from the device
    results = []
    for i, (clip, count) in enumerate(zip(clips, counts.tolist(), strict=True)):
        kept = Candidates(segments[i, :count], scores[i, :count], labels[i, :count])
        if external is not None:
            kept = _fuse_video_scores(kept, external[clip.video_id], config)
        results.append(_to_seconds(kept, clip))
    return Detections.concat(results)


def _select_candidates(prediction: Prediction, config: TaskTestConfig) -> tuple[Candidates, Tensor]:
    """Select the best (point, class) pairs of each level for NMS.

    Returns:
        the candidates, one video after the other, and the rows (B + 1,) at which videos begin and end.
    """
    parts = []
    num_classes, num_offsets = prediction.logits.shape[2], prediction.offsets.shape[2]
    cuts = np.cumsum([0, *prediction.level_sizes]).tolist()
    for first, last in zip(cuts[:-1], cuts[1:], strict=True):
        logits = prediction.logits[:, first:last].masked_fill(~prediction.mask[:, first:last, None], -torch.inf)
        logits = logits.flatten(1)  # (B, points·C)
        best, pairs = logits.topk(min(config.pre_nms_topk, logits.shape[1]), dim=1)  # (B, k)
        point, label = pairs // num_classes + first, pairs % num_classes
        pair = point * num_offsets + (label if num_offsets > 1 else 0)
        offsets = prediction.offsets.flatten(1, 2).gather(1, pair[..., None].expand(-1, -1, 2))  # (B, k, 2)
        time, _, _, stride = prediction.points[point].unbind(-1)
        segments = torch.stack([time - offsets[..., 0] * stride, time + offsets[..., 1] * stride], dim=-1)
        parts.append((segments, best.sigmoid(), label))
    segments, scores, labels = (torch.cat(column, dim=1) for column in zip(*parts, strict=True))
    kept = (scores > config.pre_nms_thresh) & (segments[..., 1] - segments[..., 0] > config.duration_thresh)
    splits = torch.cat([kept.new_zeros(1, dtype=torch.int64), kept.sum(dim=1).cumsum(0)])
    rows = kept.flatten().nonzero()[:, 0]  # the only wait for a GPU: the number of candidates
    return Candidates(segments.flatten(0, 1)[rows], scores.flatten()[rows], labels.flatten()[rows]), splits


def _to_seconds(kept: Candidates, clip: Clip) -> Detections:
    seconds = (kept.segments.numpy().astype(np.float64) * clip.feat_stride + 0.5 * clip.num_frames) / clip.fps
    rows = np.zeros(len(seconds), np.int64)
    scores, labels = kept.scores.numpy().astype(np.float64), kept.labels.numpy()
    return Detections((clip.video_id,), rows, seconds.clip(0, clip.duration), scores, labels)


def _fuse_video_scores(kept: Candidates, video_scores: np.ndarray, config: TaskTestConfig) -> Candidates:
    """Score the best segments for each of the video's top classes: √(p_video·p_segment)."""
    classes = torch.from_numpy(video_scores).float()
    top_scores, top_labels = classes.topk(min(config.ext_top_classes, len(classes)))
    segments, scores = kept.segments[: config.ext_top_segments], kept.scores[: config.ext_top_segments]
    fused = (scores[:, None] * top_scores).sqrt().flatten()
    order = fused.argsort(descending=True, stable=True)
    repeated = segments.repeat_interleave(len(top_labels), dim=0)
    return Candidates(repeated[order], fused[order], top_labels.repeat(len(segments))[order])


def load_external_scores(spec: TaskSpec, videos: list[Video]) -> ExternalScores | None:
    """Load the task's ext_score_file, JSON {video_id: [score per class]} or the same under "results".

    Returns:
        None if the task has no such file.

    Raises:
        DataError: on a missing file, a wrong shape, scores outside [0, 1], or a video without scores.
    """
    if spec.test_cfg.ext_score_file is None:
        return None
    path, key = Path(spec.test_cfg.ext_score_file), f"{spec.key}.test_cfg.ext_score_file"
    tree = read_json(path, f"{{video_id: [score per class]}} ({key} names it)")
    results = tree.get("results", tree) if isinstance(tree, dict) else None
    if not isinstance(results, dict):
        raise DataError(f"{path}: expected a JSON object {{video_id: [score a class]}}")
    scores, num_classes = {}, spec.dataset.num_classes
    for video_id, row in results.items():
        try:
            scores[video_id] = values = np.asarray(row, np.float64)
            usable = values.shape == (num_classes,) and ((values >= 0) & (values <= 1)).all()
        except (TypeError, ValueError):
            usable = False
        if not usable:
            raise DataError(f"{path}: {video_id}: expected {num_classes} scores between 0 and 1, got {str(row)[:40]}")
    if missing := [video.video_id for video in videos if video.video_id not in scores]:
        some = f"{len(missing)} of {len(videos)} videos, {missing[0]} the first"
        raise DataError(f"{path}: no scores of {some}; add them or unset {key}")
    return scores
