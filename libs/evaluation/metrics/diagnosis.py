"""Error diagnosis after DETAD (Alwassel et al., Diagnosing Error in Temporal Action Detectors, 2018).

At one tIoU α every detection has exactly one kind: true positive, if it is a hit of AP, or one of five errors, by its
overlap with the annotation of its video that it overlaps most (of equal overlaps, one of its own class). The table is
in docs/evaluation.md. Detections in videos without annotations are background.

Shapes: N detections, G annotations, V videos, R resamples, C classes, H hits.
"""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import pandas as pd

from libs.core.types import Detections, Video
from libs.evaluation.bootstrap import map_chunks, safe_divide
from libs.evaluation.metrics.average_precision import Matches, segment_iou
from libs.evaluation.metrics.recall import find_equal_pairs, resample_recall
from libs.evaluation.metrics.resampling import (
    SegmentedCumsum,
    count_by_group,
    count_positives,
    cumulate_weights,
    mean_over_classes,
)

MIN_OVERLAP = 0.1
KINDS = ("true_positive", "double_detection", "wrong_label", "localization", "confusion", "background")
TRUE, DOUBLE, WRONG_LABEL, LOCALIZATION, CONFUSION, BACKGROUND = range(len(KINDS))
ERRORS = KINDS[1:]
SLICES = 10  # of a class's best detections, each as many as the class has annotations
SIZES = ("XS", "S", "M", "L", "XL")  # the last only of five groups
COVERAGE_ENDS = (0.2, 0.4, 0.6, 0.8)  # share of the video, ends included
COUNT_ENDS = (1, 4, 8)


class Diagnosis:
    """The kind of each detection at one tIoU.

    Attributes:
        kind: (N,) index in KINDS.
        nearest: (N,) the annotation it overlaps most, -1 if it overlaps none.
        found: (G,) bool: annotations with a true positive; the others are missed.
    """

    def __init__(self, detections: Detections, videos: list[Video], tiou: float):
        self.tiou, self.matches = tiou, Matches(detections, videos, (tiou,))
        truth, count = self.matches.truth, len(detections.scores)
        i, j = find_equal_pairs(self.matches.video, truth.video)
        iou = segment_iou(detections.segments[i], truth.segments[j])
        own = detections.labels[i] == truth.labels[j]
        order = np.lexsort((own, iou, i))  # the best pair of a detection is its last
        best = order[np.flatnonzero(np.diff(i[order], append=-1))]
        overlap, is_own, self.nearest = np.zeros(count), np.zeros(count, bool), np.full(count, -1)
        overlap[i[best]], is_own[i[best]], self.nearest[i[best]] = iou[best], own[best], j[best]
        near = np.where(is_own, DOUBLE, WRONG_LABEL)
        far = np.where(is_own, LOCALIZATION, CONFUSION)
        self.kind = np.select([overlap >= tiou, overlap >= MIN_OVERLAP], [near, far], BACKGROUND)
        self.kind[self.matches.rows[self.matches.hit]] = TRUE
        self.found = np.isin(np.arange(len(truth.labels)), self.matches.taken)

    def counts(self) -> dict[str, int]:
        return dict(zip(KINDS, np.bincount(self.kind, minlength=len(KINDS)).tolist(), strict=True))

    def resample_shares(self, weights: np.ndarray) -> np.ndarray:
        """Compute each kind's share of all detections (R, kinds) in each resample (R, V + 1)."""
        table = np.zeros((weights.shape[1], len(KINDS)))  # the last row: videos without annotations
        np.add.at(table, (self.matches.video, self.kind), 1)
        counts = weights @ table
        return safe_divide(counts, counts.sum(axis=1, keepdims=True), 0.0)

    def resample_recall(self, weights: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        """Compute the share of the chosen (G,) annotations that is found: (R,), NaN if there are none."""
        return resample_recall(self.matches.truth.video[chosen], self.found[chosen, None], weights)[:, 0]

    def map_without_error(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Compute mAP (R,) at α without each kind of error.

        False positives are removed. For missed annotations ("missed") a correct detection with a score above all others
        is added.

        Returns:
            "as_is", each of ERRORS, "missed", and "all" (without any error: 1).
        """
        matches, hit, truth = self.matches, self.matches.hit, self.matches.truth
        video, kind, column = matches.video[matches.rows], self.kind[matches.rows], matches.column[hit]
        cells = SegmentedCumsum(column, len(truth.classes))
        # The detections of each kind: their videos, and how many of them are before a hit's class and up to the hit.
        places = [np.flatnonzero(kind == k) for k in range(len(KINDS))]
        starts = [np.searchsorted(place, matches.class_starts[column]) for place in places]
        ends = [np.searchsorted(place, hit, side="right") for place in places]

        def compute(rows: np.ndarray) -> np.ndarray:
            weight = rows[:, video[hit]]
            found = cells.accumulate(weight)
            before = [cumulate_weights(rows, video[place]) for place in places]
            by_kind = [b[:, end] - b[:, start] for b, end, start in zip(before, ends, starts, strict=True)]  # (R, H)
            total = np.sum(by_kind, axis=0)
            missed = count_by_group(rows, truth.video[~self.found], truth.column[~self.found], len(truth.classes))
            more = missed[:, column]
            # Of the copies of a hit the last still has the highest precision, also after added detections.
            areas = [cells.compute_area(weight, found, total)]
            areas += [cells.compute_area(weight, found, total - errors) for errors in by_kind[1:]]
            areas += [missed + cells.compute_area(weight, found + more, total + more)]
            areas += [missed + cells.compute_area(weight, found, found)]
            ap = safe_divide(np.stack(areas, axis=2), count_positives(matches, rows)[:, :, None], np.nan)
            return mean_over_classes(ap)

        values = map_chunks(compute, weights, 8 * max(len(kind), len(KINDS) * len(hit)))
        return dict(zip(("as_is", *ERRORS, "missed", "all"), values.T, strict=True))

    @cached_property
    def _slices(self) -> np.ndarray:
        """The slice of each of matches.rows: slice s has the ranks s·G … (s + 1)·G - 1 of a class of G annotations."""
        column = self.matches.column
        rank = np.arange(len(column)) - self.matches.class_starts[column]
        return rank // self.matches.truth.positives[column]

    def profile(self) -> np.ndarray:
        """Count the kinds in each slice: (SLICES, kinds)."""
        kept = self._slices < SLICES
        table = np.zeros((SLICES, len(KINDS)), np.int64)
        np.add.at(table, (self._slices[kept], self.kind[self.matches.rows[kept]]), 1)
        return table

    def confusions(self) -> list[tuple[int, int, int]]:
        """Count pairs of classes that are taken for each other in the slices, the most frequent first.

        Returns:
            (label of the detection, label of the annotation it overlaps, count).
        """
        rows = self.matches.rows[self._slices < SLICES]
        rows = rows[np.isin(self.kind[rows], (WRONG_LABEL, CONFUSION))]
        truth, detections = self.matches.truth, self.matches.detections
        pairs = pd.DataFrame({"detected": detections.labels[rows], "annotated": truth.labels[self.nearest[rows]]})
        counts = pairs.value_counts().sort_index().sort_values(ascending=False, kind="stable")
        return list(counts.reset_index().itertuples(index=False, name=None))

    def compute_normalized_map(self, chosen: np.ndarray) -> float:
        """Compute mAP_N at α over the chosen (G,) annotations; NaN if there are none.

        Other annotations and their hits are left out. Precision is computed as if every class had N annotations, the
        mean over classes, so that groups of any size can be compared: recall·N / (recall·N + false positives).
        """
        matches, truth = self.matches, self.matches.truth
        positives = np.bincount(truth.column[chosen], minlength=len(truth.classes))
        column = matches.column[matches.hit]
        cells = SegmentedCumsum(column, len(positives))
        weight = chosen[matches.taken].astype(np.int64)[None]
        false = matches.hit + 1 - matches.class_starts[column] - cells.accumulate(np.ones_like(weight))
        mean = len(truth.labels) / max(len(positives), 1)
        found = cells.accumulate(weight) * mean / np.maximum(positives[column], 1)
        ap = safe_divide(cells.compute_area(weight, found, found + false), positives, np.nan)
        return float(mean_over_classes(ap)[0]) if positives.any() else float("nan")

    def group_annotations(self) -> dict[str, list[tuple[str, str, np.ndarray]]]:
        """Group annotations by three characteristics, as in DETAD.

        Coverage: length over the video's duration, in fifths. Length: in seconds, at its quintiles. Instances: number
        of annotations of the class in the video.

        Returns:
            by characteristic, the size, the range in words and the annotations (G,) bool of each group.
        """
        truth = self.matches.truth
        length = truth.segments[:, 1] - truth.segments[:, 0]
        quintiles = np.quantile(length, [0.2, 0.4, 0.6, 0.8]) if len(length) else np.zeros(4)
        return {
            "coverage": _bin(length / truth.durations[truth.video], COVERAGE_ENDS, "{:.0%}"),
            "length": _bin(length, quintiles, "{:.1f} s"),
            "instances": _bin(np.bincount(truth.group)[truth.group], COUNT_ENDS, "{:.0f}"),
        }


def _bin(values: np.ndarray, ends: Sequence[float] | np.ndarray, text: str) -> list[tuple[str, str, np.ndarray]]:
    """Group values up to and including each end, and above the last."""
    place = np.searchsorted(ends, values, side="left")
    formatted = [text.format(end) for end in ends]
    ranges = [*(f"≤ {end}" for end in formatted), f"> {formatted[-1]}"]
    return [(size, words, place == i) for i, (size, words) in enumerate(zip(SIZES, ranges, strict=False))]
