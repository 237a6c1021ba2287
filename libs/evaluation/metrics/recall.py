"""Recall@kx and ActivityNet's AR@AN, with what they need of each video.

Shapes: N detections, G annotations, V videos, R resamples, K tIoU thresholds.
"""

from dataclasses import dataclass

import numpy as np

from libs.core.types import Detections
from libs.evaluation.metrics.average_precision import GroundTruth, argsort_descending, index_in, segment_iou
from libs.evaluation.metrics.bootstrap import divided

NEVER = np.iinfo(np.int64).max  # the rank of what no detection finds
MOST_PROPOSALS = 100  # a video, on average


def pairs(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All (i, j) with a[i] == b[j], of integers (N,) and (M,): i rises."""
    order = np.argsort(b, kind="stable")
    found = b[order]
    first = np.searchsorted(found, a, side="left")
    count = np.searchsorted(found, a, side="right") - first
    i = np.repeat(np.arange(len(a)), count)
    return i, order[np.arange(len(i)) - np.repeat(np.cumsum(count) - count - first, count)]


def rank_within_group(group: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """(N,): place of each detection, from 0, among those of its group in falling score; of equals the last is first, as
    in AP."""
    order = np.arange(len(scores))[::-1]
    order = order[argsort_descending(scores[order])]
    order = order[np.argsort(group[order], kind="stable")]
    found = group[order]
    rank = np.empty(len(group), np.int64)
    rank[order] = np.arange(len(group)) - np.searchsorted(found, found)
    return rank


def first_finds(
    detections: Detections, group: np.ndarray, truth: GroundTruth, gt_group: np.ndarray, tious: tuple[float, ...]
) -> np.ndarray:
    """(G, K): rank within its group of the best scored detection that overlaps the annotation enough, NEVER if none
    does.

    group (N,) of the detections, -1 for none, and gt_group (G,), 0 or above. One detection may find several
    annotations, as in both fields' code.
    """
    rank = rank_within_group(group, detections.scores)
    i, j = pairs(group, gt_group)
    iou = segment_iou(detections.segments[i], truth.segments[j])
    first = np.full((len(truth.labels), len(tious)), NEVER)
    for k, tiou in enumerate(tious):
        enough = iou >= tiou
        np.minimum.at(first[:, k], j[enough], rank[i[enough]])
    return first


@dataclass(frozen=True)
class RecallAtKx:
    """Recall@kx (Ego4D's moments, DETAD's follow-ups): of a video with x annotations of a class, the k·x best scored
    detections of this class are looked at; an annotation is recalled if one of them overlaps it by the tIoU or more.

    recalled (G, K) bool. The number is the share of all annotations; class_mean() is the mean of the classes' shares.
    """

    k: int
    tious: tuple[float, ...]
    truth: GroundTruth
    recalled: np.ndarray

    @classmethod
    def compute(
        cls, k: int, detections: Detections, video: np.ndarray, truth: GroundTruth, tious: tuple[float, ...]
    ) -> "RecallAtKx":
        """video (N,): the index of each detection's video, -1 where it is not annotated."""
        labels, gt_label = np.unique(truth.labels, return_inverse=True)
        key = truth.video * len(labels) + gt_label
        groups, gt_group, count = np.unique(key, return_inverse=True, return_counts=True)
        column = index_in(labels, detections.labels)
        known = (video >= 0) & (column >= 0)
        group = index_in(groups, np.where(known, video * len(labels) + column, -1))
        first = first_finds(detections, group, truth, gt_group, tious)
        return cls(k, tious, truth, first < (k * count[gt_group])[:, None])

    def resampled(self, weights: np.ndarray) -> np.ndarray:
        """(R, K): recall in each resample (R, V + 1)."""
        videos = weights.shape[1] - 1
        return divided(
            weights[:, :-1] @ sums(self.truth.video, self.recalled, videos),
            weights[:, :-1] @ sums(self.truth.video, np.ones((len(self.recalled), 1)), videos),
            0.0,
        )

    def class_mean(self) -> np.ndarray:
        """(K,)"""
        labels, column = np.unique(self.truth.labels, return_inverse=True)
        if len(labels) == 0:
            return np.zeros(len(self.tious))
        return (sums(column, self.recalled, len(labels)) / np.bincount(column)[:, None]).mean(axis=0)


def sums(group: np.ndarray, values: np.ndarray, groups: int) -> np.ndarray:
    """(groups, K): sums of the rows of values (N, K) that share a group."""
    return np.stack([np.bincount(group, column, groups) for column in np.asarray(values, float).T], axis=1)


@dataclass(frozen=True)
class ProposalRecall:
    """Average recall against the average number of proposals a video, as ActivityNet's proposal task defines it.

    Labels are left aside. With M proposals in V videos and q = 100·V/M, a video with n keeps its best ⌊q·n⌋ (n at
    most); M' are kept in all. At an average number of j = 1 … 100 a video with n' kept gives its best ⌊n'·j·V/M'⌋.
    Recall is the share of annotations that one of these overlaps by the tIoU or more; its mean over the tIoUs is AR,
    and AUC the area under AR from j = 1 to 100 (trapezoids) over 100. In a resample M and V are counted anew. The
    official code takes the mean over .5:.05:.95.

    groups: for each n that occurs, its videos (v,) and (v, n + 1): annotations found by the first 0 … n proposals, the
    mean over tIoUs. positives (V,): annotations a video.
    """

    groups: dict[int, tuple[np.ndarray, np.ndarray]]
    positives: np.ndarray

    @classmethod
    def compute(
        cls, detections: Detections, video: np.ndarray, truth: GroundTruth, tious: tuple[float, ...], videos: int
    ) -> "ProposalRecall":
        """video (N,): the index of each detection's video, -1 where it is not annotated: such proposals are left
        out."""
        first = first_finds(detections, video, truth, truth.video, tious)
        counts = np.bincount(video[video >= 0], minlength=videos)
        groups = {}
        for n in np.unique(counts).tolist():
            members = np.flatnonzero(counts == n)
            place = np.full(videos, -1)
            place[members] = np.arange(len(members))
            of_these = np.flatnonzero(place[truth.video] >= 0)
            rank = first[of_these]
            row = np.broadcast_to(place[truth.video[of_these]][:, None], rank.shape)
            new = np.zeros((len(members), n + 1))
            np.add.at(new, (row[rank < NEVER], rank[rank < NEVER] + 1), 1 / len(tious))
            groups[n] = (members, new.cumsum(axis=1))
        return cls(groups, np.bincount(truth.video, minlength=videos))

    def resampled(self, weights: np.ndarray) -> np.ndarray:
        """(R, 100): AR at 1 … 100 proposals a video, in each resample (R, V + 1)."""
        weights = weights[:, :-1].astype(float)
        drawn = {n: weights[:, members].sum(axis=1) for n, (members, _) in self.groups.items()}
        videos = weights.sum(axis=1)
        total = sum(n * count for n, count in drawn.items())
        ratio = ratio_of(videos, total)
        kept = {n: np.minimum(np.floor(n * ratio), n) for n in drawn}  # (R,) a video
        total_kept = sum(kept[n] * count for n, count in drawn.items())
        # As the official code computes it, so that a product just below an integer is rounded down there and here.
        shares = np.arange(1, MOST_PROPOSALS + 1) / MOST_PROPOSALS * ratio_of(videos, total_kept)[:, None]  # (R, 100)
        found = np.zeros(shares.shape)
        for n, (members, table) in self.groups.items():
            at = np.minimum(np.floor(kept[n][:, None] * shares), kept[n][:, None]).astype(np.int64)
            found += np.take_along_axis(weights[:, members] @ table, at, axis=1)
        return divided(found, (weights @ self.positives)[:, None], 0.0)


def ratio_of(videos: np.ndarray, proposals: np.ndarray) -> np.ndarray:
    """100·V/M (R,): what share of a video's proposals makes 100 a video on average."""
    return divided(MOST_PROPOSALS * videos, proposals, 0.0)


def auc(recall: np.ndarray) -> np.ndarray:
    """(…,): area under AR (…, 100) at 1 … 100 proposals, over 100: 1 would be full recall from none on."""
    return ((recall[..., 1:] + recall[..., :-1]) / 2).sum(axis=-1) / MOST_PROPOSALS
