"""Recall@kx and ActivityNet's average recall (AR@AN), with what they need of each video.

Shapes: N detections, G annotations, V videos, R resamples, K tIoU thresholds.
"""

from dataclasses import dataclass

import numpy as np

from libs.core.types import Detections
from libs.evaluation.bootstrap import safe_divide
from libs.evaluation.metrics.average_precision import GroundTruth, lookup_indices, segment_iou

NOT_FOUND = np.iinfo(np.int64).max  # rank of an annotation that no detection finds
MAX_PROPOSALS = 100  # per video, on average


def find_equal_pairs(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find all (i, j) with a[i] == b[j] of integers (N,) and (M,), sorted by i."""
    order = np.argsort(b, kind="stable")
    found = b[order]
    first = np.searchsorted(found, a, side="left")
    count = np.searchsorted(found, a, side="right") - first
    i = np.repeat(np.arange(len(a)), count)
    return i, order[np.arange(len(i)) - np.repeat(np.cumsum(count) - count - first, count)]


def rank_within_group(group: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Rank detections (N,) in their group by falling score, from 0; of equal scores the last is first, as in AP."""
    order = np.lexsort((-np.arange(len(scores)), -scores, group))
    found = group[order]
    rank = np.empty(len(group), np.int64)
    rank[order] = np.arange(len(group)) - np.searchsorted(found, found)
    return rank


def find_first_ranks(
    detections: Detections, group: np.ndarray, truth: GroundTruth, gt_group: np.ndarray, tious: tuple[float, ...]
) -> np.ndarray:
    """Find the rank of the best detection that overlaps each annotation enough, within its group.

    One detection may find several annotations, as in the published code of both metrics.

    Args:
        group: (N,) group of each detection, -1 for none.
        gt_group: (G,) group of each annotation.

    Returns:
        (G, K) ranks from 0, NOT_FOUND if no detection finds the annotation.
    """
    rank = rank_within_group(group, detections.scores)
    i, j = find_equal_pairs(group, gt_group)
    iou = segment_iou(detections.segments[i], truth.segments[j])
    first = np.full((len(truth.labels), len(tious)), NOT_FOUND)
    for k, tiou in enumerate(tious):
        enough = iou >= tiou
        np.minimum.at(first[:, k], j[enough], rank[i[enough]])
    return first


def sum_by_group(group: np.ndarray, values: np.ndarray, groups: int) -> np.ndarray:
    """Sum the rows of `values` (N, K) that share a group: (groups, K)."""
    return np.stack([np.bincount(group, column, groups) for column in np.asarray(values, float).T], axis=1)


@dataclass(frozen=True)
class RecallAtKx:
    """Recall@kx, as Ego4D's moments have it.

    In a video with x annotations of a class, the k·x best detections of the class are used. An annotation is recalled
    if one of them overlaps it by the tIoU or more.

    Attributes:
        recalled: (G, K) bool.
    """

    k: int
    tious: tuple[float, ...]
    truth: GroundTruth
    recalled: np.ndarray

    @classmethod
    def compute(
        cls, k: int, detections: Detections, video: np.ndarray, truth: GroundTruth, tious: tuple[float, ...]
    ) -> "RecallAtKx":
        """Compute which annotations are recalled; video (N,) of each detection is -1 if it is not annotated."""
        labels, gt_label = np.unique(truth.labels, return_inverse=True)
        key = truth.video * len(labels) + gt_label
        groups, gt_group, count = np.unique(key, return_inverse=True, return_counts=True)
        column = lookup_indices(labels, detections.labels)
        known = (video >= 0) & (column >= 0)
        group = lookup_indices(groups, np.where(known, video * len(labels) + column, -1))
        first = find_first_ranks(detections, group, truth, gt_group, tious)
        return cls(k, tious, truth, first < (k * count[gt_group])[:, None])

    def resample(self, weights: np.ndarray) -> np.ndarray:
        """Compute recall over all annotations (R, K) in each resample (R, V + 1)."""
        weights, videos = weights[:, :-1], weights.shape[1] - 1
        found = weights @ sum_by_group(self.truth.video, self.recalled, videos)
        total = weights @ np.bincount(self.truth.video, minlength=videos)
        return safe_divide(found, total[:, None], 0.0)

    def mean_over_classes(self) -> np.ndarray:
        """Compute the mean of the classes' recalls (K,)."""
        labels, column = np.unique(self.truth.labels, return_inverse=True)
        if len(labels) == 0:
            return np.zeros(len(self.tious))
        return (sum_by_group(column, self.recalled, len(labels)) / np.bincount(column)[:, None]).mean(axis=0)


@dataclass(frozen=True)
class ProposalRecall:
    """Average recall against the average number of proposals per video, as in ActivityNet's proposal task.

    Labels are ignored. docs/evaluation.md has the definition.

    Attributes:
        groups: number n of a video's proposals -> (videos (v,), number of annotations found by the first 0 … n of
            them (v, n + 1), averaged over tIoUs).
        positives: (V,) annotations per video.
    """

    groups: dict[int, tuple[np.ndarray, np.ndarray]]
    positives: np.ndarray

    @classmethod
    def compute(
        cls, detections: Detections, video: np.ndarray, truth: GroundTruth, tious: tuple[float, ...], videos: int
    ) -> "ProposalRecall":
        """Count what proposals find; those with a video (N,) of -1, which is not annotated, are left out."""
        first = find_first_ranks(detections, video, truth, truth.video, tious)
        counts = np.bincount(video[video >= 0], minlength=videos)
        groups = {}
        for n in np.unique(counts).tolist():
            members = np.flatnonzero(counts == n)
            place = np.full(videos, -1)
            place[members] = np.arange(len(members))
            annotations = np.flatnonzero(place[truth.video] >= 0)
            rank = first[annotations]
            row = np.broadcast_to(place[truth.video[annotations]][:, None], rank.shape)
            found = np.zeros((len(members), n + 1))
            np.add.at(found, (row[rank < NOT_FOUND], rank[rank < NOT_FOUND] + 1), 1 / len(tious))
            groups[n] = (members, found.cumsum(axis=1))
        return cls(groups, np.bincount(truth.video, minlength=videos))

    def resample(self, weights: np.ndarray) -> np.ndarray:
        """Compute AR at 1 … 100 proposals per video (R, 100) in each resample (R, V + 1)."""
        weights = weights[:, :-1].astype(float)
        copies = {n: weights[:, members].sum(axis=1) for n, (members, _) in self.groups.items()}
        videos = weights.sum(axis=1)
        ratio = safe_divide(MAX_PROPOSALS * videos, np.array(sum(n * c for n, c in copies.items())), 0.0)
        kept = {n: np.minimum(np.floor(n * ratio), n) for n in copies}  # (R,) per video
        total_kept = np.array(sum(kept[n] * c for n, c in copies.items()))
        # In the official code's order of operations, so that products just below an integer round down in both.
        shares = np.arange(1, MAX_PROPOSALS + 1) / MAX_PROPOSALS
        shares = shares * safe_divide(MAX_PROPOSALS * videos, total_kept, 0.0)[:, None]  # (R, 100)
        found = np.zeros(shares.shape)
        for n, (members, table) in self.groups.items():
            used = np.minimum(np.floor(kept[n][:, None] * shares), kept[n][:, None]).astype(np.int64)
            found += np.take_along_axis(weights[:, members] @ table, used, axis=1)
        return safe_divide(found, (weights @ self.positives)[:, None], 0.0)


def compute_auc(recall: np.ndarray) -> np.ndarray:
    """Compute the area under AR (…, 100) at 1 … 100 proposals, divided by 100."""
    return ((recall[..., 1:] + recall[..., :-1]) / 2).sum(axis=-1) / MAX_PROPOSALS
