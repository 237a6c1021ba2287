"""Error diagnosis after DETAD (Alwassel et al., Diagnosing Error in Temporal Action Detectors, 2018).

At one tIoU α every detection has exactly one kind: true positive, if it is a hit of AP, or one of five errors, by its
overlap with the annotation of its video that it overlaps most (of equal overlaps, one of its own class). The table is
in docs/evaluation.md. Detections in videos without annotations are background.

Shapes: N detections, G annotations, V videos, R resamples, C classes, H hits.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from libs.core.types import Detections, Video
from libs.evaluation.bootstrap import map_chunks, safe_divide
from libs.evaluation.metrics.average_precision import Matches, find_video_indices, match_detections, segment_iou
from libs.evaluation.metrics.recall import find_equal_pairs
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
SIZES = ("XS", "S", "M", "L", "XL")
COVERAGE_ENDS = (0.2, 0.4, 0.6, 0.8)  # share of the video, ends included
COUNT_ENDS = (1, 4, 8)


class AnnotationGroup(NamedTuple):
    """Annotations of one size: its name, its range in words, and the annotations (G,) bool."""

    size: str
    range: str
    chosen: np.ndarray


@dataclass(frozen=True)
class Diagnosis:
    """The kind of each detection at one tIoU.

    Attributes:
        kind: (N,) index in KINDS.
        nearest: (N,) the annotation it overlaps most, -1 if none by MIN_OVERLAP.
    """

    videos: list[Video]
    detections: Detections
    matches: Matches
    kind: np.ndarray
    nearest: np.ndarray

    @classmethod
    def compute(cls, detections: Detections, videos: list[Video], tiou: float) -> "Diagnosis":
        matches = match_detections(detections, videos, (tiou,))
        truth, count = matches.truth, len(detections.scores)
        i, j = find_equal_pairs(find_video_indices(detections, videos), truth.video)
        iou = segment_iou(detections.segments[i], truth.segments[j])
        own = detections.labels[i] == truth.labels[j]
        order = np.lexsort((own, iou, i))  # the best pair of a detection is its last
        best = order[np.flatnonzero(np.diff(i[order], append=-1))]
        overlap, is_own, nearest = np.zeros(count), np.zeros(count, bool), np.full(count, -1)
        overlap[i[best]], is_own[i[best]], nearest[i[best]] = iou[best], own[best], j[best]
        ranges = [overlap >= tiou, overlap >= MIN_OVERLAP]
        kind = np.where(
            is_own,
            np.select(ranges, [DOUBLE, LOCALIZATION], BACKGROUND),
            np.select(ranges, [WRONG_LABEL, CONFUSION], BACKGROUND),
        )
        kind[matches.rows[matches.hit]] = TRUE
        return cls(videos, detections, matches, kind, np.where(overlap >= MIN_OVERLAP, nearest, -1))

    @property
    def tiou(self) -> float:
        return self.matches.tious[0]

    @cached_property
    def found(self) -> np.ndarray:
        """(G,) bool: annotations with a true positive; the others are missed."""
        found = np.zeros(len(self.matches.truth.labels), bool)
        found[self.matches.taken] = True
        return found

    def counts(self) -> dict[str, int]:
        return dict(zip(KINDS, np.bincount(self.kind, minlength=len(KINDS)).tolist(), strict=True))

    def resample_shares(self, weights: np.ndarray) -> np.ndarray:
        """Compute each kind's share of all detections (R, kinds) in each resample (R, V + 1)."""
        table = np.zeros((len(self.videos) + 1, len(KINDS)))  # the last row: videos without annotations
        np.add.at(table, (find_video_indices(self.detections, self.videos), self.kind), 1)
        counts = weights @ table
        return safe_divide(counts, counts.sum(axis=1, keepdims=True), 0.0)

    def resample_recall(self, weights: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        """Compute the share of the chosen (G,) annotations that is found: (R,)."""
        video = self.matches.truth.video[chosen]
        counts = count_by_group(weights, video, self.found[chosen].astype(np.int64), 2)
        return safe_divide(counts[:, 1], counts.sum(axis=1), np.nan)

    def map_without_error(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Compute mAP (R,) at α without each kind of error.

        False positives are removed. For missed annotations ("missed") a correct detection with a score above all others
        is added.

        Returns:
            "as_is", each of ERRORS, "missed", and "all" (without any error: 1).
        """
        matches, classes = self.matches, len(self.matches.labels)
        kind, column, starts = self.kind[matches.rows], matches.column[matches.hit], matches.class_starts
        cells = SegmentedCumsum(column, classes)
        # Detections are counted by kind between marks (ends of hits, starts of classes), then summed up to each mark.
        marks = np.unique(np.concatenate([matches.hit + 1, starts]))
        code = np.searchsorted(marks, np.arange(len(kind)), side="right") * len(KINDS) + kind
        order = np.argsort(code, kind="stable")
        bounds = np.searchsorted(code[order], np.arange((len(marks) + 1) * len(KINDS) + 1))
        end, start = np.searchsorted(marks, matches.hit + 1), np.searchsorted(marks, starts[column])
        video, missed_video = matches.video[order], matches.truth.video[~self.found]
        missed_class = matches.gt_class[~self.found]

        def compute(rows: np.ndarray) -> np.ndarray:
            weight = rows[:, matches.video[matches.hit]]
            found = cells.accumulate(weight)
            counts = np.diff(cumulate_weights(rows, video)[:, bounds], axis=1)
            table = counts.reshape(len(rows), -1, len(KINDS)).cumsum(axis=1)
            by_kind = table[:, end] - table[:, start]  # (R, H, kinds)
            total = by_kind.sum(axis=2)
            missed = count_by_group(rows, missed_video, missed_class, classes)
            more = missed[:, column]
            # Of the copies of a hit the last still has the highest precision, also after added detections.
            areas = [cells.compute_area(weight, found, total)]
            areas += [cells.compute_area(weight, found, total - by_kind[:, :, error]) for error in range(1, len(KINDS))]
            areas += [missed + cells.compute_area(weight, found + more, total + more)]
            areas += [missed + cells.compute_area(weight, found, found)]
            ap = safe_divide(np.stack(areas, axis=2), count_positives(matches, rows)[:, :, None], np.nan)
            return mean_over_classes(ap)

        values = map_chunks(compute, weights, 8 * max(len(kind), len(KINDS) * len(marks)))
        return dict(zip(("as_is", *ERRORS, "missed", "all"), values.T, strict=True))

    def profile(self) -> np.ndarray:
        """Count kinds by rank: (SLICES, kinds).

        Slice s holds the detections ranked s·G … (s + 1)·G - 1 of each class with G annotations.
        """
        rank, positives = self._rank_in_class()
        slices = rank // positives
        kept = slices < SLICES
        code = slices[kept] * len(KINDS) + self.kind[self.matches.rows[kept]]
        return np.bincount(code, minlength=SLICES * len(KINDS)).reshape(SLICES, len(KINDS))

    def _rank_in_class(self) -> tuple[np.ndarray, np.ndarray]:
        """Rank each of matches.rows in its class, and count the annotations of the class."""
        column = self.matches.column
        return np.arange(len(column)) - self.matches.class_starts[column], self.matches.positives[column]

    def confusions(self) -> list[tuple[int, int, int]]:
        """Count pairs of classes that are taken for each other, the most frequent first.

        Only the best 10·G detections of each class with G annotations count, as in profile().

        Returns:
            (label of the detection, label of the annotation it overlaps, count).
        """
        rank, positives = self._rank_in_class()
        rows = self.matches.rows[rank < SLICES * positives]
        rows = rows[np.isin(self.kind[rows], (WRONG_LABEL, CONFUSION))]
        labels = np.stack([self.detections.labels[rows], self.matches.truth.labels[self.nearest[rows]]], axis=1)
        pairs, counts = np.unique(labels.reshape(-1, 2), axis=0, return_counts=True)
        order = np.argsort(-counts, kind="stable")
        return [(*pairs[i].tolist(), int(counts[i])) for i in order]

    def compute_normalized_map(self, chosen: np.ndarray) -> float:
        """Compute mAP_N at α over the chosen (G,) annotations; NaN if there are none.

        Other annotations and their hits are left out. Precision is computed as if every class had N annotations, the
        mean over classes, so that groups of any size can be compared: recall·N / (recall·N + false positives).
        """
        matches, classes = self.matches, len(self.matches.labels)
        positives = np.bincount(matches.gt_class[chosen], minlength=classes)
        column = matches.column[matches.hit]
        cells = SegmentedCumsum(column, classes)
        weight = chosen[matches.taken].astype(np.int64)[None]
        false = matches.hit + 1 - matches.class_starts[column] - cells.accumulate(np.ones_like(weight))
        mean = len(matches.gt_class) / max(classes, 1)
        found = cells.accumulate(weight) * mean / np.maximum(positives[column], 1)
        ap = safe_divide(cells.compute_area(weight, found, found + false), positives, np.nan)
        return float(mean_over_classes(ap)[0]) if positives.any() else float("nan")

    def group_annotations(self) -> dict[str, list[AnnotationGroup]]:
        """Group annotations by three characteristics, as in DETAD.

        Coverage: length over the video's duration, in fifths. Length: in seconds, at its quintiles. Instances: number
        of annotations of the class in the video.
        """
        truth = self.matches.truth
        length = truth.segments[:, 1] - truth.segments[:, 0]
        duration = np.array([video.duration for video in self.videos])[truth.video]
        keys = np.stack([truth.video, truth.labels])
        _, group, count = np.unique(keys, axis=1, return_inverse=True, return_counts=True)
        quintiles = np.quantile(length, [0.2, 0.4, 0.6, 0.8]).tolist() if len(length) else [0.0] * 4
        return {
            "coverage": _bin(length / duration, COVERAGE_ENDS, SIZES, "{:.0%}"),
            "length": _bin(length, quintiles, SIZES, "{:.1f} s"),
            "instances": _bin(count[group.reshape(-1)], COUNT_ENDS, SIZES[:4], "{:.0f}"),
        }


def _bin(values: np.ndarray, ends: Sequence[float], names: tuple[str, ...], text: str) -> list[AnnotationGroup]:
    """Group values up to and including each end, and above the last."""
    place = np.searchsorted(np.asarray(ends), values, side="left")
    formatted = [text.format(end) for end in ends]
    ranges = [*(f"≤ {end}" for end in formatted), f"> {formatted[-1]}"]
    return [AnnotationGroup(name, words, place == i) for i, (name, words) in enumerate(zip(names, ranges, strict=True))]
