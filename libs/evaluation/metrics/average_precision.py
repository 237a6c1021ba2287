"""ActivityNet's interpolated average precision, vectorised (method.md §8).

Shapes: N predictions, G ground-truth segments, H hits, K tIoU thresholds, C classes that occur in the ground truth.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd

from libs.core.types import Detections, Video


@dataclass(frozen=True)
class DetectionScores:
    """Average precision per class and threshold.

    Attributes:
        tious: (K,) thresholds.
        labels: (C,) label_ids.
        ap: (C, K).
    """

    tious: tuple[float, ...]
    labels: np.ndarray
    ap: np.ndarray

    @property
    def map(self) -> np.ndarray:
        """(K,) mean over classes."""
        return self.ap.mean(axis=0) if len(self.ap) else np.zeros(len(self.tious))

    @property
    def average(self) -> float:
        """Mean of `map` over thresholds: the number that is reported."""
        return float(self.map.mean())

    def select(self, labels: list[int], others: bool = False) -> "DetectionScores":
        """Return the scores of some classes, or of all others."""
        rows = np.isin(self.labels, labels, invert=others)
        return DetectionScores(self.tious, self.labels[rows], self.ap[rows])


class GroundTruth:
    """All annotations of some videos as one table. Annotations of one video and class form a group.

    Attributes:
        durations: (V,) seconds.
        video: (G,) index of the video.
        segments: (G, 2) seconds.
        labels: (G,) label_ids.
        classes, positives: (C,) the different label_ids, and the number of annotations of each.
        column: (G,) index in `classes`.
        groups, group: sorted keys video·C + column, and the index (G,) in them.
    """

    def __init__(self, videos: list[Video]):
        self.durations = np.array([video.duration for video in videos])
        self.video = np.repeat(np.arange(len(videos)), [len(video.labels) for video in videos])
        self.segments = np.concatenate([np.empty((0, 2)), *(video.segments for video in videos)])
        self.labels = np.concatenate([np.empty(0, np.int64), *(video.labels for video in videos)])
        self.classes, self.column = np.unique(self.labels, return_inverse=True)
        self.positives = np.bincount(self.column, minlength=len(self.classes))
        self.groups, self.group = np.unique(self.video * len(self.classes) + self.column, return_inverse=True)


class Matches:
    """Which detections hit which annotations at each threshold: all that AP depends on.

    In falling score (equal scores in reverse order, as in the official code), each detection takes the free annotation
    of its video and class with the highest tIoU, if that reaches the threshold. Repeated annotations are kept.
    Cell class·K + threshold is a class at a threshold.

    Attributes:
        video, group: (N,) index of each detection's video and group in the ground truth, -1 if it is not there.
        rows, column: detections of annotated classes, by class and falling score, and the class index of each.
        class_starts: (C + 1,) start of each class in `rows`.
        hit, taken: (H,) positions in `rows` and the annotations they hit, by cell and falling score.
        cell_starts: (C·K + 1,) start of each cell in `hit`.
    """

    def __init__(self, detections: Detections, videos: list[Video], tious: tuple[float, ...]):
        self.detections, self.tious, self.truth = detections, tious, GroundTruth(videos)
        classes = self.truth.classes
        column = lookup_indices(classes, detections.labels)
        rows = np.flatnonzero(column >= 0)[::-1]
        rows = rows[np.argsort(-detections.scores[rows], kind="stable")]
        # numpy sorts 16-bit integers by counting, several times faster.
        short = column[rows].astype(np.uint16 if len(classes) <= 2**16 else np.int64)
        self.rows = rows[np.argsort(short, kind="stable")]
        self.column = column[self.rows]
        self.class_starts = np.searchsorted(self.column, np.arange(len(classes) + 1))

        self.video = find_video_indices(detections, videos)
        known = (self.video >= 0) & (column >= 0)
        self.group = lookup_indices(self.truth.groups, np.where(known, self.video * len(classes) + column, -1))
        candidates = np.flatnonzero(self.group[self.rows] >= 0)  # all others can hit nothing
        rows = self.rows[candidates]
        hit, k, taken = _match_groups(self.group[rows], detections.segments[rows], self.truth, np.asarray(tious))
        hit = candidates[hit]
        cell = self.column[hit] * len(tious) + k
        order = np.lexsort((hit, cell))
        self.hit, self.taken = hit[order], taken[order]
        self.cell_starts = np.searchsorted(cell[order], np.arange(len(classes) * len(tious) + 1))

    def interpolated_precision(self) -> Iterator[tuple[int, int, np.ndarray]]:
        """Yield class, threshold and the precision at its hits, interpolated: the highest at this or any later one.

        The last hit comes first. Other predictions need no look, since precision is highest and recall rises at hits.
        """
        for cell, (first, last) in enumerate(pairwise(self.cell_starts)):
            c, k = divmod(cell, len(self.tious))
            precision = np.arange(1, last - first + 1) / (self.hit[first:last] - self.class_starts[c] + 1)
            yield c, k, np.maximum.accumulate(precision[::-1])


def score_detections(
    detections: Detections, videos: list[Video], tious: tuple[float, ...], keep_repeats: bool = False
) -> DetectionScores:
    """Compute the mAP of detections against annotated videos.

    AP is the area under the monotone precision-recall curve. Predictions of videos and classes that the ground truth
    lacks match nothing.

    Args:
        keep_repeats: keep annotations that repeat an earlier one.
    """
    matches = Matches(detections, videos if keep_repeats else remove_repeats(videos), tious)
    truth = matches.truth
    ap = np.zeros((len(truth.classes), len(tious)))
    for c, k, precision in matches.interpolated_precision():
        ap[c, k] = precision.sum() / truth.positives[c]
    return DetectionScores(tious, truth.classes, ap)


def remove_repeats(videos: list[Video]) -> list[Video]:
    return [video.remove_repeats() for video in videos]


def find_video_indices(detections: Detections, videos: list[Video]) -> np.ndarray:
    """Find the index in `videos` of each detection's video: (N,), -1 if it is not there."""
    return lookup_indices([video.video_id for video in videos], list(detections.video_ids))[detections.video]


def lookup_indices(known: np.ndarray | list[str], values: np.ndarray | list[str]) -> np.ndarray:
    """Find the index of each of `values` (N,) in the unique `known` (M,): (N,), -1 if it is not there."""
    return pd.Index(known).get_indexer(values)


def _match_groups(group: np.ndarray, segments: np.ndarray, truth: GroundTruth, tious: np.ndarray) -> np.ndarray:
    """Match predictions (N,), the best first, with the ground truth of their group.

    Round r handles the r-th prediction of every group at once.

    Returns:
        (3, H): prediction, threshold and ground truth of each hit.
    """
    if len(group) == 0:
        return np.empty((3, 0), np.int64)
    rows = np.argsort(group, kind="stable")
    own_group, hits = group[rows], []

    # Ground truth of each group, padded to the same width; the last one first, since the official code takes the last
    # of equals. Padding gets an overlap of -1, because 0/0 (infinity) would count as a match.
    gt_order = np.argsort(truth.group, kind="stable")
    gt_count = np.bincount(truth.group)
    last_gt = np.cumsum(gt_count) - 1
    width = np.arange(gt_count.max())
    gt_table = np.where(width < gt_count[:, None], last_gt[:, None] - width, -1)
    gt_padded = truth.segments[gt_order][gt_table]  # (groups, width, 2)
    free = np.repeat((gt_table >= 0)[:, :, None], len(tious), axis=2)  # (groups, width, K)

    rank = np.arange(len(rows)) - np.searchsorted(own_group, own_group)  # of a prediction in its group
    by_rank = np.argsort(rank, kind="stable")
    starts = np.searchsorted(rank[by_rank], np.arange(rank.max() + 2))
    for first, last in pairwise(starts):
        now = by_rank[first:last]
        own = own_group[now]
        iou = segment_iou(segments[rows[now], None], gt_padded[own])  # (n, width)
        free_iou = np.where(free[own], iou[:, :, None], -1.0)  # (n, width, K)
        best = free_iou.argmax(axis=1)  # (n, K)
        hit = np.take_along_axis(free_iou, best[:, None], axis=1)[:, 0] >= tious
        n, k = np.nonzero(hit)
        free[own[n], best[n, k], k] = False
        hits.append((rows[now[n]], k, gt_order[gt_table[own[n], best[n, k]]]))
    return np.concatenate(hits, axis=1)


def segment_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Compute the temporal IoU of broadcast segments.

    Args:
        a, b: (..., 2) start and end in seconds.

    Returns:
        (...) IoU in [0, 1]; inf where both segments are empty, which the official evaluation counts as a match.
    """
    inter = (np.minimum(a[..., 1], b[..., 1]) - np.maximum(a[..., 0], b[..., 0])).clip(min=0)
    union = (a[..., 1] - a[..., 0]) + (b[..., 1] - b[..., 0]) - inter
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(union == 0, np.inf, inter / union)
