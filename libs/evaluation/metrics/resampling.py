"""AP in bootstrap resamples.

Matching happens within a video, so it is done once for all resamples. The copies of a detection have one score and
follow each other directly; other equal scores keep their order.

Shapes: R resamples, V videos, N detections, H hits, C classes, K tIoU thresholds.
"""

import numpy as np

from libs.evaluation.bootstrap import map_chunks, safe_divide
from libs.evaluation.metrics.average_precision import Matches


def mean_over_classes(values: np.ndarray) -> np.ndarray:
    """Average (R, C, …) over the classes that are not NaN; 0 if all are.

    A class without annotations in a resample has no AP.
    """
    known = ~np.isnan(values)
    return np.where(known, values, 0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)


def resample_ap(matches: Matches, weights: np.ndarray) -> np.ndarray:
    """Compute AP (R, C, K) in each resample (R, V + 1); NaN for classes without annotations in it."""
    shape = (len(matches.truth.classes), len(matches.tious))
    hits_per_cell = np.diff(matches.cell_starts)
    cells = SegmentedCumsum(np.repeat(np.arange(len(hits_per_cell)), hits_per_cell), len(hits_per_cell))
    video, first = matches.video[matches.rows], matches.class_starts[matches.column[matches.hit]]

    def compute(rows: np.ndarray) -> np.ndarray:
        before = cumulate_weights(rows, video)
        weight = rows[:, video[matches.hit]]
        area = cells.compute_area(weight, cells.accumulate(weight), before[:, matches.hit + 1] - before[:, first])
        return safe_divide(area.reshape(len(rows), *shape), count_positives(matches, rows)[:, :, None], np.nan)

    return map_chunks(compute, weights, 4 * max(len(matches.rows), 2 * len(matches.hit)))


def cumulate_weights(weights: np.ndarray, video: np.ndarray) -> np.ndarray:
    """Sum the weights of the videos (N,) before each position: (R, N + 1)."""
    before = np.zeros((len(weights), len(video) + 1), np.int32)
    for total, row in zip(before, weights, strict=True):
        np.cumsum(row[video], out=total[1:])
    return before


def count_positives(matches: Matches, weights: np.ndarray) -> np.ndarray:
    """Count the annotations of each class in each resample: (R, C)."""
    return count_by_group(weights, matches.truth.video, matches.truth.column, len(matches.truth.classes))


def count_by_group(weights: np.ndarray, video: np.ndarray, group: np.ndarray, groups: int) -> np.ndarray:
    """Count items (M,) by group in each resample, given each item's video and group: (R, groups) int."""
    order = np.argsort(group, kind="stable")
    starts = np.searchsorted(group[order], np.arange(groups + 1))
    return np.diff(cumulate_weights(weights, video[order])[:, starts], axis=1)


class SegmentedCumsum:
    """Cumulative sums and areas of hits (H,) per cell; hits are sorted by cell, then by falling score."""

    def __init__(self, cell: np.ndarray, count: int):
        self.count = count
        self.used, self.starts = np.unique(cell, return_index=True)
        self.place = np.searchsorted(self.used, cell)  # (H,) index in `used`

    def accumulate(self, weight: np.ndarray) -> np.ndarray:
        """Sum weights (R, H) from the start of the cell up to and including each hit."""
        total = np.cumsum(weight, axis=1, dtype=np.int32)
        return total - (total[:, self.starts] - weight[:, self.starts])[:, self.place]

    def compute_area(self, weight: np.ndarray, found: np.ndarray, predictions: np.ndarray) -> np.ndarray:
        """Compute (R, count): AP before it is divided by the number of positives.

        Args:
            weight: (R, H) copies of each hit.
            found, predictions: (R, H) hits and all detections up to and including each hit. Of the copies of a hit the
                last has the highest precision, so one value per hit is enough.
        """
        area = np.zeros((len(weight), self.count))
        if len(self.starts) == 0:
            return area
        # Maxima from the right over all cells at once: an offset keeps the values of a cell, at most 1, above those of
        # the cells after it.
        offset = len(self.used) - 1.0 - self.place
        precision = safe_divide(found, predictions, 0.0) + offset
        best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1] - offset
        area[:, self.used] = np.add.reduceat(weight * best, self.starts, axis=1)
        return area
