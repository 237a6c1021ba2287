"""ActivityNet's interpolated average precision, vectorised (method.md §8).

Shapes: N predictions, G ground-truth segments, K tIoU thresholds, C classes that occur in the ground truth.
"""

from dataclasses import dataclass

import numpy as np

from libs.core.types import Detections, Video

LARGEST_TABLE = 2**25  # entries of 8 bytes


@dataclass(frozen=True)
class DetectionScores:
    """ap (C, K): average precision of each class (label_ids `labels`, (C,)) at each of `tious` (K,)."""

    tious: tuple[float, ...]
    labels: np.ndarray
    ap: np.ndarray

    @property
    def map(self) -> np.ndarray:
        """(K,): mean over classes at each threshold."""
        return self.ap.mean(axis=0) if len(self.ap) else np.zeros(len(self.tious))

    @property
    def average(self) -> float:
        """The mean of `map` over thresholds, the number that is reported."""
        return float(self.map.mean())

    def select(self, labels: list[int], others: bool = False) -> "DetectionScores":
        """The scores of some classes, or of all others."""
        rows = np.isin(self.labels, labels, invert=others)
        return DetectionScores(self.tious, self.labels[rows], self.ap[rows])


@dataclass(frozen=True)
class GroundTruth:
    """All annotations of some videos as one table: video (G,) int64 index, segments (G, 2) seconds, labels (G,)."""

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

    labels (C,) and gt_class (G,), the index in it. rows (N,): the detections of these classes, a class after the
    other, each in falling score; their class column (N,) and video (N,), -1 where it is not annotated. hit (H,):
    places in `rows`; taken (H,): the annotation that each took; a class and threshold after the other (cell = class·K
    + threshold, hits cuts[cell] … cuts[cell + 1] - 1), in falling score.
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
    cuts: np.ndarray

    @property
    def first(self) -> np.ndarray:
        """(C + 1,): where each class begins in `rows`."""
        return np.searchsorted(self.column, np.arange(len(self.labels) + 1))

    @property
    def positives(self) -> np.ndarray:
        """(C,): annotations of each class."""
        return np.bincount(self.gt_class, minlength=len(self.labels))


def score_detections(
    detections: Detections, videos: list[Video], tious: tuple[float, ...], keep_repeats: bool = False
) -> DetectionScores:
    """mAP of detections against annotated videos; videos and classes that the ground truth lacks earn nothing.

    Within one score, rows are taken in reverse order, as the official code does. keep_repeats keeps annotations that
    equal an earlier one.
    """
    return score_matches(match_detections(detections, videos if keep_repeats else remove_repeats(videos), tious))


def remove_repeats(videos: list[Video]) -> list[Video]:
    return [video.remove_repeats() for video in videos]


def score_matches(matches: Matches) -> DetectionScores:
    classes, thresholds = len(matches.labels), len(matches.tious)
    cell = np.arange(classes * thresholds).repeat(np.diff(matches.cuts))
    places = matches.hit - matches.first[cell // max(thresholds, 1)]  # among the class's predictions
    positives = matches.positives.repeat(thresholds)
    cuts = zip(matches.cuts[:-1], matches.cuts[1:], positives, strict=True)
    ap = [interpolated_ap(places[i:j], total) for i, j, total in cuts]
    return DetectionScores(matches.tious, matches.labels, np.array(ap).reshape(classes, thresholds))


def match_detections(detections: Detections, videos: list[Video], tious: tuple[float, ...]) -> Matches:
    """At each threshold, every detection in falling score takes the annotation of its video and class that it overlaps
    most of those left, if enough. Repeated annotations are taken as they are."""
    truth = GroundTruth.from_videos(videos)
    labels, gt_class = np.unique(truth.labels, return_inverse=True)

    # Predictions of classes that the ground truth has, a class after the other, each in falling score.
    column = index_in(labels, detections.labels)
    rows = np.flatnonzero(column >= 0)[::-1]
    rows = rows[argsort_descending(detections.scores[rows])]
    # In 16 bits numpy sorts by counting, several times faster.
    short = column[rows].astype(np.uint16 if len(labels) <= 2**16 else np.int64)
    rows = rows[np.argsort(short, kind="stable")]
    column = column[rows]

    # Those of one video and class are a group and compete for its ground truth.
    groups, gt_group = np.unique(truth.video * len(labels) + gt_class, return_inverse=True)
    video = find_video_indices(detections, videos)[detections.video[rows]]
    group = index_in(groups, np.where(video < 0, -1, video * len(labels) + column))
    rivals = np.flatnonzero(group >= 0)  # the others can hit nothing
    segments = detections.segments[rows[rivals]]
    hit, k, taken = _match(group[rivals], segments, gt_group, truth.segments, np.asarray(tious))
    hit = rivals[hit]

    cell = column[hit] * len(tious) + k
    order = np.lexsort((hit, cell))
    cuts = np.searchsorted(cell[order], np.arange(len(labels) * len(tious) + 1))
    return Matches(tuple(tious), truth, labels, gt_class, rows, column, video, hit[order], taken[order], cuts)


def find_video_indices(detections: Detections, videos: list[Video]) -> np.ndarray:
    """For each of the detections' videos its index in `videos`, -1 where it is not there."""
    place = {video.video_id: i for i, video in enumerate(videos)}
    return np.array([place.get(v, -1) for v in detections.video_ids], np.int64)


def argsort_descending(scores: np.ndarray) -> np.ndarray:
    """argsort of -scores (N,), equal ones in their order: as numpy's stable sort has it, but by its faster unstable one
    where few are equal."""
    order = np.argsort(-scores)
    found = scores[order]
    new = np.append(True, found[1:] != found[:-1])
    tied = np.flatnonzero(~(new & np.append(new[1:], True)))
    if len(tied) > len(scores) // 4:
        return np.argsort(-scores, kind="stable")
    order[tied] = order[tied][np.lexsort((order[tied], np.cumsum(new)[tied]))]
    return order


def index_in(known: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Where each of values (N,) stands in the sorted unique integers known (M,): (N,) int64, -1 where it does not."""
    if len(known) == 0:
        return np.full(len(values), -1)
    span = int(known[-1] - known[0]) + 1
    if span > LARGEST_TABLE:
        at = np.searchsorted(known, values).clip(max=len(known) - 1)
        return np.where(known[at] == values, at, -1)
    # A table is several times faster than a search; its last place stands for all that lies outside.
    table = np.full(span + 1, -1)
    table[known - known[0]] = np.arange(len(known))
    at = values - known[0]
    return table[np.where((at >= 0) & (at < span), at, span)]


def _match(group: np.ndarray, segments: np.ndarray, gt_group: np.ndarray, gt_segments: np.ndarray, tious: np.ndarray):
    """Hits: which prediction (H,) at which threshold (H,) takes which ground truth (H,). Predictions (N,) of a group,
    best first, compete for its ground truth.

    Round r takes the r-th prediction of every group at once: the groups are independent of each other.
    """
    if len(group) == 0:
        return np.empty((3, 0), np.int64)
    rows = np.argsort(group, kind="stable")
    own_group, hits = group[rows], []

    # Ground truth of each group, padded with -1; the last first, since the official code takes the last of equals.
    # Padding overlaps with -1, 0/0 (two segments without length) with infinity: it counts as a match.
    gt_order = np.argsort(gt_group, kind="stable")
    gt_count = np.bincount(gt_group)
    last = np.cumsum(gt_count) - 1
    width = np.arange(gt_count.max())
    gt_table = np.where(width < gt_count[:, None], last[:, None] - width, -1)
    gt_padded = gt_segments[gt_order][gt_table]  # (groups, width, 2)
    free = np.repeat((gt_table >= 0)[:, :, None], len(tious), axis=2)  # (groups, width, K)

    rank = np.arange(len(rows)) - np.searchsorted(own_group, own_group)  # a prediction's place within its group
    by_rank = np.argsort(rank, kind="stable")
    cuts = np.searchsorted(rank[by_rank], np.arange(rank.max() + 2))
    for first, last in zip(cuts[:-1], cuts[1:], strict=True):
        now = by_rank[first:last]
        own = own_group[now]
        iou = segment_iou(segments[rows[now], None], gt_padded[own])  # (n, width)
        open_iou = np.where(free[own], iou[:, :, None], -1.0)  # (n, width, K)
        best = open_iou.argmax(axis=1)  # (n, K)
        hit = np.take_along_axis(open_iou, best[:, None], axis=1)[:, 0] >= tious
        n, k = np.nonzero(hit)
        free[own[n], best[n, k], k] = False
        hits.append((rows[now[n]], k, gt_order[gt_table[own[n], best[n, k]]]))
    return np.concatenate(hits, axis=1)


def segment_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """tIoU of segments (..., 2), broadcast; infinity where both have no length at all (0/0)."""
    inter = (np.minimum(a[..., 1], b[..., 1]) - np.maximum(a[..., 0], b[..., 0])).clip(min=0)
    union = (a[..., 1] - a[..., 0]) + (b[..., 1] - b[..., 0]) - inter
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(union == 0, np.inf, inter / union)


def interpolated_ap(places: np.ndarray, positives: int) -> float:
    """Area under the monotone precision-recall curve. places (H,): of the hits among predictions in falling score.

    Recall rises at hits alone, and precision is nowhere higher than at the next one: only they are looked at.
    """
    precision = np.arange(1, len(places) + 1) / (places + 1)
    return np.maximum.accumulate(precision[::-1]).sum() / positives
