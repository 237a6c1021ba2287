"""ActivityNet's interpolated average precision, vectorised (method.md §8).

Shapes: N predictions, G ground-truth segments, H hits, K tIoU thresholds, C classes that occur in the ground truth.
"""

from dataclasses import dataclass

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


@dataclass(frozen=True)
class GroundTruth:
    """All annotations of some videos as one table.

    Attributes:
        video: (G,) index of the video.
        segments: (G, 2) seconds.
        labels: (G,) label_ids.
    """

    video: np.ndarray
    segments: np.ndarray
    labels: np.ndarray

    @classmethod
    def from_videos(cls, videos: list[Video]) -> "GroundTruth":
        return cls(
            np.repeat(np.arange(len(videos)), [len(v.labels) for v in videos]),
            np.concatenate([np.empty((0, 2)), *(v.segments for v in videos)]),
            np.concatenate([np.empty(0, np.int64), *(v.labels for v in videos)]),
        )


@dataclass(frozen=True)
class Matches:
    """Which detections hit which annotations: all that AP depends on.

    Cell class·K + threshold is a class at a threshold.

    Attributes:
        labels, gt_class: (C,) label_ids, and (G,) the index in them.
        rows: (N,) detections of these classes, by class and falling score.
        column, video: (N,) class and video index of `rows`; video -1 if not annotated.
        hit, taken: (H,) positions in `rows` and the annotations they hit, by cell and falling score.
        cell_starts: (C·K + 1,) start of each cell in `hit`.
    """

    tious: tuple[float, ...]
    truth: GroundTruth
    labels: np.ndarray
    gt_class: np.ndarray
    rows: np.ndarray
    column: np.ndarray
    video: np.ndarray
    hit: np.ndarray
    taken: np.ndarray
    cell_starts: np.ndarray

    @property
    def class_starts(self) -> np.ndarray:
        """(C + 1,) where each class begins in `rows`."""
        return np.searchsorted(self.column, np.arange(len(self.labels) + 1))

    @property
    def positives(self) -> np.ndarray:
        """(C,) annotations of each class."""
        return np.bincount(self.gt_class, minlength=len(self.labels))


def score_detections(
    detections: Detections, videos: list[Video], tious: tuple[float, ...], keep_repeats: bool = False
) -> DetectionScores:
    """Compute the mAP of detections against annotated videos.

    Predictions of videos and classes that the ground truth lacks match nothing.

    Args:
        keep_repeats: keep annotations that repeat an earlier one.
    """
    matches = match_detections(detections, videos if keep_repeats else remove_repeats(videos), tious)
    class_starts, positives = matches.class_starts, matches.positives
    ap = np.zeros((len(matches.labels), len(tious)))
    for cell, (first, last) in enumerate(zip(matches.cell_starts[:-1], matches.cell_starts[1:], strict=True)):
        label, k = divmod(cell, len(tious))
        ap[label, k] = compute_interpolated_ap(matches.hit[first:last] - class_starts[label], positives[label])
    return DetectionScores(matches.tious, matches.labels, ap)


def remove_repeats(videos: list[Video]) -> list[Video]:
    return [video.remove_repeats() for video in videos]


def compute_interpolated_ap(positions: np.ndarray, positives: int) -> float:
    """Compute the area under the monotone precision-recall curve.

    Args:
        positions: (H,) positions of the hits among the predictions in falling score.
        positives: number of annotations.
    """
    # Recall rises at hits only, and the precision is highest there, so other predictions need no look.
    precision = np.arange(1, len(positions) + 1) / (positions + 1)
    return np.maximum.accumulate(precision[::-1]).sum() / positives


def match_detections(detections: Detections, videos: list[Video], tious: tuple[float, ...]) -> Matches:
    """Match detections with annotations at each threshold.

    In falling score (equal scores in reverse order, as in the official code), each detection takes the free annotation
    of its video and class with the highest tIoU, if that reaches the threshold. Repeated annotations are kept.
    """
    truth = GroundTruth.from_videos(videos)
    labels, gt_class = np.unique(truth.labels, return_inverse=True)

    column = lookup_indices(labels, detections.labels)
    rows = np.flatnonzero(column >= 0)[::-1]
    rows = rows[np.argsort(-detections.scores[rows], kind="stable")]
    # numpy sorts 16-bit integers by counting, several times faster.
    short = column[rows].astype(np.uint16 if len(labels) <= 2**16 else np.int64)
    rows = rows[np.argsort(short, kind="stable")]
    column = column[rows]

    # Detections and annotations of one video and class form a group; groups are independent.
    groups, gt_group = np.unique(truth.video * len(labels) + gt_class, return_inverse=True)
    video = find_video_indices(detections, videos)[rows]
    group = lookup_indices(groups, np.where(video < 0, -1, video * len(labels) + column))
    candidates = np.flatnonzero(group >= 0)  # all others can hit nothing
    segments = detections.segments[rows[candidates]]
    hit, k, taken = _match_groups(group[candidates], segments, gt_group, truth.segments, np.asarray(tious))
    hit = candidates[hit]

    cell = column[hit] * len(tious) + k
    order = np.lexsort((hit, cell))
    starts = np.searchsorted(cell[order], np.arange(len(labels) * len(tious) + 1))
    return Matches(tuple(tious), truth, labels, gt_class, rows, column, video, hit[order], taken[order], starts)


def find_video_indices(detections: Detections, videos: list[Video]) -> np.ndarray:
    """Find the index in `videos` of each detection's video: (N,), -1 if it is not there."""
    index = {video.video_id: i for i, video in enumerate(videos)}
    return np.array([index.get(v, -1) for v in detections.video_ids], np.int64)[detections.video]


def lookup_indices(known: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Find the index of each of `values` (N,) in the unique integers `known` (M,): (N,), -1 if it is not there."""
    return pd.Index(known).get_indexer(values)


def _match_groups(
    group: np.ndarray, segments: np.ndarray, gt_group: np.ndarray, gt_segments: np.ndarray, tious: np.ndarray
) -> np.ndarray:
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
    gt_order = np.argsort(gt_group, kind="stable")
    gt_count = np.bincount(gt_group)
    last_gt = np.cumsum(gt_count) - 1
    width = np.arange(gt_count.max())
    gt_table = np.where(width < gt_count[:, None], last_gt[:, None] - width, -1)
    gt_padded = gt_segments[gt_order][gt_table]  # (groups, width, 2)
    free = np.repeat((gt_table >= 0)[:, :, None], len(tious), axis=2)  # (groups, width, K)

    rank = np.arange(len(rows)) - np.searchsorted(own_group, own_group)  # of a prediction in its group
    by_rank = np.argsort(rank, kind="stable")
    starts = np.searchsorted(rank[by_rank], np.arange(rank.max() + 2))
    for first, last in zip(starts[:-1], starts[1:], strict=True):
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
