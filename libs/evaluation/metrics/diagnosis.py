"""What kind of errors cost how much, after DETAD (Alwassel et al., Diagnosing Error in Temporal Action Detectors,
2018).

At one tIoU α every detection is of exactly one kind. A true positive is what AP counts as a hit. Every other one is
judged by the annotation of its video, of whatever class, that it overlaps most (of equals one of its own class): by α
or more, it is a double detection (own class: a better scored one has it) or has the wrong label; by 0.1 or more, it
is a localization error (own class) or confusion; else background. Detections in videos that are not annotated are
background.

Shapes: N detections, G annotations, V videos, R resamples, C classes, H hits.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from libs.core.types import Detections, Video
from libs.evaluation.metrics.average_precision import Matches, find_video_indices, match_detections, segment_iou
from libs.evaluation.metrics.bootstrap import (
    SegmentedCumsum,
    class_means,
    divided,
    grouped,
    in_chunks,
    positives_of,
    sums_before,
)
from libs.evaluation.metrics.recall import pairs

LEAST_OVERLAP = 0.1
KINDS = ("true_positive", "double_detection", "wrong_label", "localization", "confusion", "background")
TRUE, DOUBLE, WRONG_LABEL, LOCALIZATION, CONFUSION, BACKGROUND = range(len(KINDS))
ERRORS = KINDS[1:]
SLICES = 10  # of a class's best scored detections, each as many as it has annotations
SIZES = ("XS", "S", "M", "L", "XL")
COVERAGE_ENDS = (0.2, 0.4, 0.6, 0.8)  # of the video, up to and including
COUNT_ENDS = (1, 4, 8)


@dataclass(frozen=True)
class Diagnosis:
    """kind (N,): index in KINDS; rival (N,): the annotation it overlaps most, -1 where none by 0.1."""

    videos: list[Video]
    detections: Detections
    matches: Matches
    kind: np.ndarray
    rival: np.ndarray

    @classmethod
    def compute(cls, detections: Detections, videos: list[Video], tiou: float) -> "Diagnosis":
        matches = match_detections(detections, videos, (tiou,))
        truth, count = matches.truth, len(detections.scores)
        video = find_video_indices(detections, videos)[detections.video]
        i, j = pairs(video, truth.video)
        iou = segment_iou(detections.segments[i], truth.segments[j])
        own = detections.labels[i] == truth.labels[j]
        last = np.lexsort((own, iou, i))  # the best pair of a detection is its last
        last = last[np.append(i[last][1:] != i[last][:-1], True)] if len(last) else last
        overlap, is_own, rival = np.zeros(count), np.zeros(count, bool), np.full(count, -1)
        overlap[i[last]], is_own[i[last]], rival[i[last]] = iou[last], own[last], j[last]
        choices = [overlap >= tiou, overlap >= LEAST_OVERLAP]
        kind = np.where(
            is_own,
            np.select(choices, [DOUBLE, LOCALIZATION], BACKGROUND),
            np.select(choices, [WRONG_LABEL, CONFUSION], BACKGROUND),
        )
        kind[matches.rows[matches.hit]] = TRUE
        return cls(videos, detections, matches, kind, np.where(overlap >= LEAST_OVERLAP, rival, -1))

    @property
    def tiou(self) -> float:
        return self.matches.tious[0]

    @cached_property
    def found(self) -> np.ndarray:
        """(G,) bool: annotations that a true positive hit; the others are missed."""
        found = np.zeros(len(self.matches.truth.labels), bool)
        found[self.matches.taken] = True
        return found

    def counts(self) -> dict[str, int]:
        return dict(zip(KINDS, np.bincount(self.kind, minlength=len(KINDS)).tolist(), strict=True))

    def shares(self, weights: np.ndarray) -> np.ndarray:
        """(R, kinds): of all detections, in each resample (R, V + 1)."""
        table = np.zeros((len(self.videos) + 1, len(KINDS)))  # the last row: videos that are not annotated
        np.add.at(table, (find_video_indices(self.detections, self.videos)[self.detections.video], self.kind), 1)
        counts = weights @ table
        return divided(counts, counts.sum(axis=1, keepdims=True), 0.0)

    def recall(self, weights: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        """(R,): share of the chosen (G,) annotations that is found."""
        video = self.matches.truth.video[chosen]
        counts = grouped(weights, video, self.found[chosen].astype(np.int64), 2)
        return divided(counts[:, 1], counts.sum(axis=1), np.nan)

    def map_without_error(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """mAP at α (R,) as it is ("as_is"), when all errors of a kind are mended, and when all are ("all": 1).

        False positives are mended by leaving them out. Missed annotations ("missed") are mended by a detection each
        that fits and is scored above all others.
        """
        matches, classes = self.matches, len(self.matches.labels)
        kind, column = self.kind[matches.rows], matches.column[matches.hit]
        cells = SegmentedCumsum(column, classes)
        # What lies between two marks (hits, beginnings of classes) is counted by kind, and summed up to each mark.
        marks = np.unique(np.concatenate([matches.hit + 1, matches.first]))
        code = np.searchsorted(marks, np.arange(len(kind)), side="right") * len(KINDS) + kind
        order = np.argsort(code, kind="stable")
        cuts = np.searchsorted(code[order], np.arange((len(marks) + 1) * len(KINDS) + 1))
        at, begin = np.searchsorted(marks, matches.hit + 1), np.searchsorted(marks, matches.first[column])
        video, missed_video = matches.video[order], matches.truth.video[~self.found]
        missed_class = matches.gt_class[~self.found]

        def of_rows(rows: np.ndarray) -> np.ndarray:
            weight = rows[:, matches.video[matches.hit]]
            found = cells.cumulative(weight)
            table = np.diff(sums_before(rows, video)[:, cuts], axis=1).reshape(len(rows), -1, len(KINDS)).cumsum(axis=1)
            by_kind = table[:, at] - table[:, begin]  # (R, H, kinds)
            total = by_kind.sum(axis=2)
            missed = grouped(rows, missed_video, missed_class, classes)
            more = missed[:, column]
            # Copies of a hit that follow added ones still have their highest precision at the end of the block.
            areas = [cells.area(weight, found, total)]
            areas += [cells.area(weight, found, total - by_kind[:, :, error]) for error in range(1, len(KINDS))]
            areas += [
                missed + cells.area(weight, found + more, total + more),
                missed + cells.area(weight, found, found),
            ]
            ap = divided(np.stack(areas, axis=2), positives_of(matches, rows)[:, :, None], np.nan)
            return class_means(ap)

        numbers = in_chunks(of_rows, weights, 8 * max(len(kind), len(KINDS) * len(marks)))
        return dict(zip(("as_is", *ERRORS, "missed", "all"), numbers.T, strict=True))

    def profile(self) -> np.ndarray:
        """(10, kinds): of each class with G annotations, the kinds of its best scored detections 1 … G, G + 1 … 2G, …,
        all classes together. Needs a class to have annotations."""
        rank, positives = self._rank_in_class()
        slices = rank // np.maximum(positives, 1)
        kept = (slices < SLICES) & (positives > 0)
        code = slices[kept] * len(KINDS) + self.kind[self.matches.rows[kept]]
        return np.bincount(code, minlength=SLICES * len(KINDS)).reshape(SLICES, len(KINDS))

    def _rank_in_class(self) -> tuple[np.ndarray, np.ndarray]:
        """For each of matches.rows its place in its class and how many annotations this has."""
        matches = self.matches
        return np.arange(len(matches.rows)) - matches.first[matches.column], matches.positives[matches.column]

    def confusions(self) -> list[tuple[int, int, int]]:
        """(label of the detection, label of the annotation that it overlaps, how often), the most frequent first: wrong
        labels and confusion errors among the best scored 10·G detections of each class, as in profile()."""
        rank, positives = self._rank_in_class()
        rows = self.matches.rows[rank < SLICES * positives]
        rows = rows[np.isin(self.kind[rows], (WRONG_LABEL, CONFUSION))]
        both = np.stack([self.detections.labels[rows], self.matches.truth.labels[self.rival[rows]]], axis=1)
        couples, counts = np.unique(both.reshape(-1, 2), axis=0, return_counts=True)
        order = np.argsort(-counts, kind="stable")
        return [(*couples[i].tolist(), int(counts[i])) for i in order]

    def normalized_map(self, chosen: np.ndarray) -> float:
        """mAP_N at α over the chosen (G,) annotations: others, and what hits them, are left out; precision is computed
        as though each class had N of them, the mean over the classes, so that groups of any size can be compared:
        recall·N / (recall·N + false positives). NaN where none is chosen."""
        matches, classes = self.matches, len(self.matches.labels)
        positives = np.bincount(matches.gt_class[chosen], minlength=classes)
        column = matches.column[matches.hit]
        cells = SegmentedCumsum(column, classes)
        weight = chosen[matches.taken].astype(np.int64)[None]
        false = matches.hit + 1 - matches.first[column] - cells.cumulative(np.ones_like(weight))
        mean = len(matches.gt_class) / max(classes, 1)
        found = cells.cumulative(weight) * mean / np.maximum(positives[column], 1)
        ap = divided(cells.area(weight, found, found + false), positives, np.nan)
        return float(class_means(ap)[0]) if positives.any() else float("nan")

    def characteristics(self) -> dict[str, list[tuple[str, str, np.ndarray]]]:
        """Groups of annotations by what they are like: {characteristic: [(size, range in words, (G,) bool)]}.

        Coverage: length over the video's duration, in fifths. Length: in seconds, at its quintiles. Instances: of the
        class in the video, as DETAD has them.
        """
        truth = self.matches.truth
        length = truth.segments[:, 1] - truth.segments[:, 0]
        duration = np.array([video.duration for video in self.videos])[truth.video]
        _, group, count = np.unique(
            np.stack([truth.video, truth.labels]), axis=1, return_inverse=True, return_counts=True
        )
        quintiles = np.quantile(length, [0.2, 0.4, 0.6, 0.8]) if len(length) else np.zeros(4)
        return {
            "coverage": _binned(length / duration, COVERAGE_ENDS, SIZES, "{:.0%}"),
            "length": _binned(length, quintiles, SIZES, "{:.1f} s"),
            "instances": _binned(count[group.reshape(-1)], COUNT_ENDS, SIZES[:4], "{:.0f}"),
        }


def _binned(values: np.ndarray, ends: tuple, names: tuple[str, ...], text: str) -> list[tuple[str, str, np.ndarray]]:
    """Groups of values up to and including each end, and above the last."""
    place = np.searchsorted(np.asarray(ends), values, side="left")
    shown = [text.format(end) for end in ends]
    ranges = [*(f"≤ {end}" for end in shown), f"> {shown[-1]}"]
    return [(name, words, place == i) for i, (name, words) in enumerate(zip(names, ranges, strict=True))]
