"""Bootstrap over videos: what numbers would be on other videos like these.

A resample draws as many videos as there are, with replacement. It is a row of multiplicities: a video drawn twice
counts as two videos, each with its annotations and its detections. Matching happens within a video, so it is done
once; only what is counted across videos is counted anew. Copies of one detection have one score and follow each other
directly; otherwise equal scores keep the order that they have in all videos.

Shapes: R resamples, V videos, N detections, H hits, C classes, K tIoU thresholds.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from joblib import cpu_count

from libs.evaluation.metrics.average_precision import Matches

CHUNK_BYTES = 2**24  # of a thread's largest array: what the caches hold is much faster
CONFIDENCE = 0.95


def resample_weights(videos: int, resamples: int, seed: int) -> np.ndarray:
    """Multiplicities (1 + resamples, videos + 1) int32. The first row is the videos as they are. The last column,
    always 1, stands for videos that are not annotated: an index of -1 finds it."""
    rng = np.random.default_rng(seed)
    weights = np.ones((1 + resamples, videos + 1), np.int32)
    for row in weights[1:]:
        row[:-1] = np.bincount(rng.integers(videos, size=videos), minlength=videos)
    return weights


def compute_interval(value: float, samples: np.ndarray) -> tuple[float, float]:
    """95 % interval of a number from its resamples (R,): their middle 95 %, moved so that their mean is the value.

    mAP rises in resamples, since copies of a hit follow each other (by 0.01 with 200 classes of 35 annotations): the
    plain percentile interval may not even hold the value. In simulation it covers 84 to 92 %, reversed about the
    value ("basic") 80 to 89 %, moved 94 to 96 % (tests/test_bootstrap.py). What is covered is the mean over other
    test sets of this size. Resamples that are NaN are left out; without any, both ends are NaN.
    """
    moved = _moved(value, samples)
    if len(moved) == 0:
        return float("nan"), float("nan")
    low, high = np.quantile(moved, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def compute_p_value(difference: float, samples: np.ndarray) -> float:
    """Two-sided p-value of no difference, from a difference and its resamples (R,): twice the share of resamples, moved
    as in interval(), on the other side of 0, the difference counted as one more. So it is below .05 where the interval
    does not hold 0, and 1 where there is no difference. (Rounding, in the 12th decimal, is none.)"""
    moved = _moved(difference, samples)
    below, above = (moved <= 1e-12).sum(), (moved >= -1e-12).sum()
    return min(1.0, float(2 * (1 + min(below, above)) / (1 + len(moved))))


def _moved(value: float, samples: np.ndarray) -> np.ndarray:
    samples = samples[~np.isnan(samples)]
    return samples + (value - samples.mean()) if len(samples) else samples


def in_chunks(function: Callable[[np.ndarray], np.ndarray], weights: np.ndarray, row_bytes: int) -> np.ndarray:
    """function(rows of weights) over all of them, in threads; row_bytes: what it needs for one."""
    size = max(1, CHUNK_BYTES // max(row_bytes, 1))
    chunks = [weights[i : i + size] for i in range(0, len(weights), size)]
    with ThreadPoolExecutor(min(len(chunks), cpu_count())) as threads:
        return np.concatenate(list(threads.map(function, chunks)))


def class_means(values: np.ndarray) -> np.ndarray:
    """Mean over classes (R, C, …) of those that are not NaN: a class without annotations in a resample has no AP. 0
    where none has."""
    known = ~np.isnan(values)
    return np.where(known, values, 0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)


def resampled_ap(matches: Matches, weights: np.ndarray) -> np.ndarray:
    """AP (R, C, K) in each resample (R, V + 1), NaN where a class has no annotation in it."""
    shape = (len(matches.labels), len(matches.tious))
    cells = SegmentedCumsum(np.repeat(np.arange(shape[0] * shape[1]), np.diff(matches.cuts)), shape[0] * shape[1])
    column, video = matches.column[matches.hit], matches.video[matches.hit]
    first = matches.first[column]

    def of_rows(rows: np.ndarray) -> np.ndarray:
        before = sums_before(rows, matches.video)
        predictions = before[:, matches.hit + 1] - before[:, first]
        weight = rows[:, video]
        area = cells.area(weight, cells.cumulative(weight), predictions)
        return divided(area.reshape(len(rows), *shape), positives_of(matches, rows)[:, :, None], np.nan)

    return in_chunks(of_rows, weights, 4 * max(len(matches.rows), 2 * len(matches.hit)))


def sums_before(weights: np.ndarray, video: np.ndarray) -> np.ndarray:
    """(R, N + 1): the weights of the videos (N,) before each place."""
    before = np.zeros((len(weights), len(video) + 1), np.int32)
    for total, row in zip(before, weights, strict=True):
        np.cumsum(row[video], out=total[1:])
    return before


def positives_of(matches: Matches, weights: np.ndarray) -> np.ndarray:
    """(R, C): annotations of each class in each resample."""
    return grouped(weights, matches.truth.video, matches.gt_class, len(matches.labels))


def grouped(weights: np.ndarray, video: np.ndarray, group: np.ndarray, groups: int) -> np.ndarray:
    """(R, groups) int: how many of the things (M,) with a video and a group each there are in each group."""
    order = np.argsort(group, kind="stable")
    cuts = np.searchsorted(group[order], np.arange(groups + 1))
    return np.diff(sums_before(weights, video[order])[:, cuts], axis=1)


def divided(a: np.ndarray, b: np.ndarray, otherwise: float) -> np.ndarray:
    """a / b, `otherwise` where b is 0."""
    b = np.broadcast_to(b, np.shape(a))
    return np.divide(a, b, out=np.full(np.shape(a), otherwise), where=b != 0)


class SegmentedCumsum:
    """Hits (H,) that lie in cells, a cell after the other, each in falling score: sums and areas a cell."""

    def __init__(self, cell: np.ndarray, count: int):
        self.count = count
        self.used, self.starts = np.unique(cell, return_index=True)
        self.place = np.searchsorted(self.used, cell)  # (H,): which of the used cells

    def cumulative(self, weight: np.ndarray) -> np.ndarray:
        """(R, H): weights of the hits of the cell up to each, itself included."""
        total = np.cumsum(weight, axis=1, dtype=np.int32)
        return total - (total[:, self.starts] - weight[:, self.starts])[:, self.place]

    def area(self, weight: np.ndarray, found: np.ndarray, predictions: np.ndarray) -> np.ndarray:
        """(R, count): the weights (R, H) times the interpolated precision: AP before it is divided by the positives.

        found and predictions (R, H): hits and all detections up to each hit, itself included. Of a hit's copies the
        last has the highest precision, so the block has that of its end, or a better one further on.
        """
        area = np.zeros((len(weight), self.count))
        if len(self.starts) == 0:
            return area
        # Maxima from the right, all cells in one go: a cell's values, at most 1, lie above those of the cells after it.
        rank = len(self.used) - 1.0 - self.place
        precision = divided(found, predictions, 0.0) + rank
        best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1] - rank
        area[:, self.used] = np.add.reduceat(weight * best, self.starts, axis=1)
        return area
