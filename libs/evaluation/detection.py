"""ActivityNet's interpolated average precision, vectorised (method.md §8).

Shapes: N predictions, G ground-truth segments, K tIoU thresholds, C classes that occur in the ground truth.
"""

from dataclasses import dataclass

import numpy as np

from libs.core.types import Detections, Video


@dataclass(frozen=True)
class DetectionScores:
    """ap (C, K): average precision of each class (label_ids `labels`, (C,)) at each of `tious` (K,)."""

    tious: tuple[float, ...]
    labels: np.ndarray
    ap: np.ndarray

    @property
    def map(self) -> np.ndarray:
        """(K,): mean over classes at each threshold."""
        return self.ap.mean(axis=0) if len(self.ap) else np.zeros(len(self.tious))

    @property
    def average(self) -> float:
        """The mean of `map` over thresholds, the number that is reported."""
        return float(self.map.mean())


def score_detections(
    detections: Detections, videos: list[Video], tious: tuple[float, ...], keep_repeats: bool = False
) -> DetectionScores:
    """mAP of detections against annotated videos; videos and classes that the ground truth lacks earn nothing.

    Within one score, rows are taken in reverse order, as the official code does. keep_repeats keeps annotations that
    equal an earlier one.
    """
    if not keep_repeats:
        videos = [video.without_repeats() for video in videos]
    place = {video.video_id: i for i, video in enumerate(videos)}
    gt_video = np.repeat(np.arange(len(videos)), [len(v.labels) for v in videos])
    gt_segments = np.concatenate([np.empty((0, 2)), *(v.segments for v in videos)])
    gt_labels = np.concatenate([np.empty(0, np.int64), *(v.labels for v in videos)])
    labels, gt_class = np.unique(gt_labels, return_inverse=True)

    # Predictions: those of known classes, a class after the other, each in falling score.
    video = np.array([place.get(v, -1) for v in detections.video_ids], np.int64)[detections.video]
    column = np.searchsorted(labels, detections.labels).clip(max=max(len(labels) - 1, 0))
    known = labels[column] == detections.labels if len(labels) else np.zeros(len(column), bool)
    rows = np.flatnonzero(known)[::-1]
    rows = rows[np.argsort(-detections.scores[rows], kind="stable")]
    # In 16 bits numpy sorts by counting, several times faster.
    short = column[rows].astype(np.uint16 if len(labels) <= 2**16 else np.int64)
    rows = rows[np.argsort(short, kind="stable")]

    hits = _match(
        video[rows] * len(labels) + column[rows],
        detections.segments[rows],
        gt_video * len(labels) + gt_class,
        gt_segments,
        np.asarray(tious),
    )
    # A video the ground truth lacks has index -1: its groups are negative, and so never a ground truth's.
    positives = np.bincount(gt_class, minlength=len(labels))
    cuts = np.searchsorted(column[rows], np.arange(len(labels) + 1))
    ap = [
        interpolated_ap(hits[first:last], total)
        for first, last, total in zip(cuts[:-1], cuts[1:], positives, strict=True)
    ]
    return DetectionScores(tuple(tious), labels, np.array(ap).reshape(len(labels), len(tious)))


def _match(group: np.ndarray, segments: np.ndarray, gt_group: np.ndarray, gt_segments: np.ndarray, tious: np.ndarray):
    """Which predictions hit, (N, K) bool. Predictions (N,) of a group, best first, compete for its ground truth.

    Round r takes the r-th prediction of every group at once: the groups are independent of each other.
    """
    hits = np.zeros((len(group), len(tious)), bool)
    gt_order = np.argsort(gt_group, kind="stable")
    groups, gt_first, gt_count = np.unique(gt_group[gt_order], return_index=True, return_counts=True)
    if len(groups) == 0:
        return hits
    slot = np.searchsorted(groups, group).clip(max=len(groups) - 1)
    rows = np.flatnonzero(groups[slot] == group)  # the others can hit nothing
    rows = rows[np.argsort(slot[rows], kind="stable")]
    slot = slot[rows]

    # Ground truth of each prediction's group, padded with -1; the last first, since the official code takes the last
    # of equals. Padding overlaps with -1, 0/0 (two segments without length) with infinity: it counts as a match.
    width = np.arange(gt_count.max())
    gt_table = np.where(width < gt_count[:, None], gt_first[:, None] + gt_count[:, None] - 1 - width, -1)
    gt_padded = gt_segments[gt_order][gt_table]  # (groups, width, 2)
    rank = np.arange(len(slot)) - np.searchsorted(slot, slot)  # a prediction's place within its group
    by_rank = np.argsort(rank, kind="stable")
    cuts = np.searchsorted(rank[by_rank], np.arange(rank.max(initial=-1) + 2))
    free = np.repeat((gt_table >= 0)[:, :, None], len(tious), axis=2)  # (groups, width, K)
    for first, last in zip(cuts[:-1], cuts[1:], strict=True):
        now = by_rank[first:last]
        own = slot[now]
        iou = segment_iou(segments[rows[now], None], gt_padded[own])  # (n, width)
        open_iou = np.where(free[own], iou[:, :, None], -1.0)  # (n, width, K)
        best = open_iou.argmax(axis=1)  # (n, K)
        hit = np.take_along_axis(open_iou, best[:, None], axis=1)[:, 0] >= tious
        n, k = np.nonzero(hit)
        free[own[n], best[n, k], k] = False
        hits[rows[now[n]], k] = True
    return hits


def segment_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """tIoU of segments (..., 2), broadcast; infinity where both have no length at all (0/0)."""
    inter = (np.minimum(a[..., 1], b[..., 1]) - np.maximum(a[..., 0], b[..., 0])).clip(min=0)
    union = (a[..., 1] - a[..., 0]) + (b[..., 1] - b[..., 0]) - inter
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(union == 0, np.inf, inter / union)


def interpolated_ap(hits: np.ndarray, positives: int) -> np.ndarray:
    """Area under the monotone precision-recall curve, (K,). hits (N, K) bool in falling score.

    Recall rises at hits alone, and precision is nowhere higher than at the next one: only they are looked at.
    """
    areas = np.zeros(hits.shape[1])
    for k in range(hits.shape[1]):
        places = np.flatnonzero(hits[:, k])
        precision = np.arange(1, len(places) + 1) / (places + 1)
        areas[k] = np.maximum.accumulate(precision[::-1]).sum() / positives
    return areas
