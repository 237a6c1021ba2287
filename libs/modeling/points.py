"""Points of the pyramid and what each should predict (method.md §3.4, §3.6).

Shapes: P points of all levels, N segments, C classes, K = C (class-aware) or 1.
"""

import torch
from torch import Tensor

from libs.core.config import ModelConfig
from libs.core.types import Clip, Targets

SAME_LENGTH_TOLERANCE = 1e-3  # grid units; segments this much longer than the shortest still set their class


def make_points(config: ModelConfig, length: int) -> tuple[Tensor, tuple[int, ...]]:
    """Points of a padded length: (P, 4) of time, regression range low and high, stride; and the levels' sizes."""
    levels = []
    for level, (low, high) in enumerate(config.regression_range):
        stride = config.scale_factor**level
        times = torch.arange(0, length, stride, dtype=torch.float32)
        levels.append(torch.stack([times, *(torch.full_like(times, x) for x in (low, high, stride))], dim=1))
    return torch.cat(levels), tuple(len(level) for level in levels)


def point_targets(points: Tensor, segments: Tensor, labels: Tensor, num_classes: int, class_aware: bool) -> Targets:
    """Targets of one clip, without a batch dimension: classes (P, C), offsets (P, K, 2).

    points (P, 4), segments (N, 2) in grid units, labels (N,). No segments: all zero.
    """
    classes = points.new_zeros(len(points), num_classes)
    offsets = points.new_zeros(len(points), num_classes if class_aware else 1, 2)
    if len(segments) == 0:
        return Targets(classes, offsets)
    time, low, high, stride = points[:, None].unbind(-1)  # (P, 1) each
    sides = torch.stack([time - segments[:, 0], segments[:, 1] - time], dim=-1)  # (P, N, 2)
    farther = sides.amax(-1)
    claims = (sides.amin(-1) > 0) & (farther >= low) & (farther <= high)  # (P, N)
    sides = sides / stride[..., None]
    if class_aware:
        for n, label in enumerate(labels.tolist()):  # in order: the later annotation of a class wins
            classes[claims[:, n], label] = 1
            offsets[claims[:, n], label] = sides[claims[:, n], n]
        return Targets(classes, offsets)
    lengths = (segments[:, 1] - segments[:, 0]).where(claims, torch.inf)  # (P, N)
    shortest, which = lengths.min(dim=1)
    tied = claims & (lengths <= shortest[:, None] + SAME_LENGTH_TOLERANCE)
    one_hot = torch.nn.functional.one_hot(labels, num_classes).to(classes)  # (N, C)
    classes = (tied.to(classes) @ one_hot).clamp(max=1)
    claimed = claims.any(dim=1)
    offsets[claimed, 0] = sides[claimed, which[claimed]]
    return Targets(classes, offsets)


def batch_targets(points: Tensor, clips: tuple[Clip, ...], num_classes: int, class_aware: bool) -> Targets:
    """Targets of a batch: classes (B, P, C), offsets (B, P, K, 2), on the points' device."""
    each = [
        point_targets(points, c.segments.to(points), c.labels.to(points.device), num_classes, class_aware)
        for c in clips
    ]
    return Targets(torch.stack([t.classes for t in each]), torch.stack([t.offsets for t in each]))
