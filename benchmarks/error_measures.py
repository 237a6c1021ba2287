"""How far results lie apart, as one number, 0 for equal ones."""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from libs.core.types import Detections

SAME_SEGMENT_S = 1e-2


def relative_error(expected: Iterable[Tensor], found: Iterable[Tensor]) -> float:
    """Norm of the difference relative to the expected norm, of all tensors as one long vector; infinite if their
    shapes differ."""
    difference, size = 0.0, 0.0
    for x, y in zip(expected, found, strict=True):
        if x.shape != y.shape:
            return float("inf")
        difference += float((x.detach() - y.detach().to(x.device)).double().square().sum())
        size += float(x.detach().double().square().sum())
    return (difference / max(size, 1e-300)) ** 0.5


def score_error(expected: Detections, found: Detections) -> float:
    """The largest difference of scores, video by video, the best with the best; infinite if their numbers differ."""
    if not np.array_equal(expected.video, found.video):
        return float("inf")
    return float(np.abs(expected.scores - found.scores).max(initial=0))


def detection_error(expected: Detections, found: Detections) -> float:
    """`score_error`, or the share of the found detections without an equal expected one if that is larger: where
    scores lie closer together than rounding errors, another one may be kept."""
    strangers = 0
    for video in range(len(expected.video_ids)):
        own, others = (np.flatnonzero(table.video == video) for table in (expected, found))
        apart = np.abs(found.segments[others, None] - expected.segments[own]).max(axis=2)
        same = (apart < SAME_SEGMENT_S) & (found.labels[others, None] == expected.labels[own])
        strangers += int((~same.any(axis=1)).sum())
    return max(score_error(expected, found), strangers / max(len(found.scores), 1))


def nms_error(expected: tuple[Tensor, ...], found: tuple[Tensor, ...]) -> float:
    """Of (rows, scores, counts) as nms_1d returns them: the largest difference of scores or the share of other rows."""
    rows, scores, counts = (x.cpu() for x in found)
    if not torch.equal(counts, expected[2].cpu()):
        return float("inf")
    others = (rows != expected[0].cpu()).double().mean()
    return max(float(others), float((scores - expected[1].cpu()).abs().max()))
