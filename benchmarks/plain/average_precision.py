"""Average precision of one class, one detection at a time, as in the official evaluation."""

import math
from collections.abc import Sequence


def average_precision(predictions: list[tuple], truth: list[tuple], tious: Sequence[float]) -> list[float]:
    """Compute the AP of one class at each tIoU.

    Args:
        predictions: (video, start, end, score) in the order of the file.
        truth: (video, start, end).
    """
    order = sorted(range(len(predictions)), key=lambda i: (-predictions[i][3], -i))
    indices_by_video = {}
    for j, (video, *_) in enumerate(truth):
        indices_by_video.setdefault(video, []).append(j)
    result = []
    for tiou in tious:
        matched, hits = set(), []
        for i in order:
            video, start, end, _ = predictions[i]
            overlaps = [(temporal_iou((start, end), truth[j][1:]), j) for j in indices_by_video.get(video, [])]
            candidates = [(overlap, j) for overlap, j in overlaps if j not in matched and overlap >= tiou]
            hits.append(bool(candidates))
            if candidates:
                matched.add(max(candidates)[1])  # the last one of equal overlap
        result.append(precision_recall_area(hits, len(truth)))
    return result


def temporal_iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Compute the IoU of two segments; inf where both are empty, which the official evaluation counts as a match."""
    intersection = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
    union = (a[1] - a[0]) + (b[1] - b[0]) - intersection
    return math.inf if union == 0 else intersection / union


def precision_recall_area(hits: list[bool], positives: int) -> float:
    """Compute the area under the interpolated precision-recall curve of hits and misses, best score first."""
    count, area, highest = sum(hits), 0.0, 0.0
    for i in reversed(range(len(hits))):
        highest = max(highest, count / (i + 1))
        area += hits[i] * highest / positives
        count -= hits[i]
    return area
