"""Recall@kx and ActivityNet's average recall (AR@AN), with what they need of each video.

Shapes: N detections, G annotations, V videos, R resamples, K tIoU thresholds.
"""

import numpy as np

from libs.evaluation.bootstrap import safe_divide
from libs.evaluation.metrics.average_precision import Matches, segment_iou

NOT_FOUND = np.iinfo(np.int64).max  # rank of an annotation that no detection finds
MAX_PROPOSALS = 100  # per video, on average


def find_equal_pairs(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find all (i, j) with a[i] == b[j] of integers (N,) and (M,), sorted by i."""
    order = np.argsort(b, kind="stable")
    first, last = (np.searchsorted(b[order], a, side=side) for side in ("left", "right"))
    count = last - first
    i = np.repeat(np.arange(len(a)), count)
    return i, order[np.arange(len(i)) + np.repeat(last - np.cumsum(count), count)]


def rank_within_group(group: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Rank detections (N,) in their group by falling score, from 0; of equal scores the last is first, as in AP."""
    order = np.lexsort((-np.arange(len(scores)), -scores, group))
    found = group[order]
    rank = np.empty(len(group), np.int64)
    rank[order] = np.arange(len(group)) - np.searchsorted(found, found)
    return rank


def find_first_ranks(matches: Matches, group: np.ndarray, gt_group: np.ndarray) -> np.ndarray:
    """Find the rank of the best detection that overlaps each annotation enough, within its group.

    One detection may find several annotations, as in the published code of both metrics.

    Args:
        group: (N,) group of each detection, -1 for none.
        gt_group: (G,) group of each annotation.

    Returns:
        (G, K) ranks from 0, NOT_FOUND if no detection finds the annotation.
    """
    rank = rank_within_group(group, matches.detections.scores)
    i, j = find_equal_pairs(group, gt_group)
    iou = segment_iou(matches.detections.segments[i], matches.truth.segments[j])
    first = np.full((len(gt_group), len(matches.tious)), NOT_FOUND)
    for k, tiou in enumerate(matches.tious):
        enough = iou >= tiou
        np.minimum.at(first[:, k], j[enough], rank[i[enough]])
    return first


def find_lowest_k(matches: Matches) -> np.ndarray:
    """Find the lowest k at which Recall@kx, as Ego4D's moments have it, recalls each annotation.

    In a video with x annotations of a class, the k·x best detections of the class are used. An annotation is recalled
    if one of them overlaps it by the tIoU or more.

    Returns:
        (G, K) of float, inf if no detection finds the annotation.
    """
    rank = find_first_ranks(matches, matches.group, matches.truth.group)
    count = np.bincount(matches.truth.group)[matches.truth.group]
    return np.where(rank < NOT_FOUND, rank // count[:, None] + 1.0, np.inf)


def sum_by_group(group: np.ndarray, values: np.ndarray, groups: int) -> np.ndarray:
    """Sum the rows of `values` (N, K) that share a group: (groups, K)."""
    return np.stack([np.bincount(group, column, groups) for column in values.T], axis=1)


def resample_recall(video: np.ndarray, recalled: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Compute the recalled share of annotations in each resample.

    Args:
        video, recalled: (M,) and (M, K) bool of each annotation.
        weights: (R, V + 1).

    Returns:
        (R, K), NaN in resamples without these annotations.
    """
    total = weights @ np.bincount(video, minlength=weights.shape[1])
    return safe_divide(weights @ sum_by_group(video, recalled, weights.shape[1]), total[:, None], np.nan)


def resample_average_recall(matches: Matches, weights: np.ndarray) -> np.ndarray:
    """Compute the average recall at 1 … 100 proposals per video, as in ActivityNet's proposal task.

    Labels are ignored. docs/evaluation.md has the definition.

    Args:
        weights: (R, V + 1).

    Returns:
        (R, 100), averaged over tIoUs.
    """
    truth, weights = matches.truth, weights[:, :-1].astype(float)
    rank = find_first_ranks(matches, matches.video, truth.video)
    proposals = np.bincount(matches.video[matches.video >= 0], minlength=weights.shape[1])  # of each video
    # Videos with the same number of proposals, a size, use the same number of them.
    sizes, size = np.unique(proposals, return_inverse=True)
    copies = weights @ np.eye(len(sizes))[size]  # (R, sizes) videos
    limit = MAX_PROPOSALS * weights.sum(axis=1)
    kept = np.minimum(np.floor(sizes * safe_divide(limit, copies @ sizes, 0.0)[:, None]), sizes)  # (R, sizes)
    # In the official code's order of operations, so that products just below an integer round down in both.
    shares = np.arange(1, MAX_PROPOSALS + 1) / MAX_PROPOSALS
    shares = shares * safe_divide(limit, (kept * copies).sum(axis=1), 0.0)[:, None]  # (R, 100)
    found = np.zeros(shares.shape)
    for s, n in enumerate(sizes):
        videos, annotations = np.flatnonzero(size == s), np.flatnonzero(size[truth.video] == s)
        a, k = np.nonzero(rank[annotations] < NOT_FOUND)
        table = np.zeros((len(videos), n + 1))  # annotations found by the first 0 … n proposals
        row = np.searchsorted(videos, truth.video[annotations[a]])
        np.add.at(table, (row, rank[annotations[a], k] + 1), 1 / len(matches.tious))
        used = np.minimum(np.floor(kept[:, [s]] * shares), kept[:, [s]]).astype(np.int64)
        found += np.take_along_axis(weights[:, videos] @ table.cumsum(axis=1), used, axis=1)
    positives = weights @ np.bincount(truth.video, minlength=weights.shape[1])
    return safe_divide(found, positives[:, None], 0.0)
