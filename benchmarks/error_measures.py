"""How far two results differ, as one number; 0 for equal results."""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from libs.core.types import Detections

SAME_SEGMENT_S = 1e-2


def relative_error(expected: Iterable[Tensor], found: Iterable[Tensor]) -> float:
    """Compute the norm of the difference relative to the expected norm, of all tensors as one long vector.

    Returns inf if shapes differ.
    """
    difference, size = 0.0, 0.0
    for x, y in zip(expected, found, strict=True):
        if x.shape != y.shape:
            return float("inf")
        difference += float((x.detach() - y.detach().to(x.device)).double().square().sum())
        size += float(x.detach().double().square().sum())
    return (difference / max(size, 1e-300)) ** 0.5


def score_error(expected: Detections, found: Detections) -> float:
    """Compute the largest difference of scores, ranked within each video; inf if numbers of detections differ."""
    if not np.array_equal(expected.video, found.video):
        return float("inf")
    return float(np.abs(expected.scores - found.scores).max(initial=0))


def detection_error(expected: Detections, found: Detections) -> float:
    """Compute `score_error`, or the share of found detections without an equal expected one if that is larger.

    Where scores are closer than rounding errors, NMS may keep another detection.
    """
    unmatched = 0
    for video in range(len(expected.video_ids)):
        own, others = (np.flatnonzero(table.video == video) for table in (expected, found))
        distance = np.abs(found.segments[others, None] - expected.segments[own]).max(axis=2)
        same = (distance < SAME_SEGMENT_S) & (found.labels[others, None] == expected.labels[own])
        unmatched += int((~same.any(axis=1)).sum())
    return max(score_error(expected, found), unmatched / max(len(found.scores), 1))


def nms_error(expected: tuple[Tensor, ...], found: tuple[Tensor, ...]) -> float:
    """Compare (rows, scores, counts) of nms_1d: the largest difference of scores, or the share of other rows."""
    rows, scores, counts = (x.cpu() for x in found)
    if not torch.equal(counts, expected[2].cpu()):
        return float("inf")
    others = (rows != expected[0].cpu()).double().mean()
    return max(float(others), float((scores - expected[1].cpu()).abs().max()))
