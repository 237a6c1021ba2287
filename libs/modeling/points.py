"""Points of the pyramid and what each should predict (method.md §3.4, §3.6).

Shapes: B clips, P points of all levels, N segments of a clip, C classes, K = C (class-aware) or 1.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from libs.core.config import ModelConfig
from libs.core.types import Targets

SAME_LENGTH_TOLERANCE = 1e-3  # grid units; segments this much longer than the shortest still set their class


def make_points(config: ModelConfig, length: int) -> tuple[Tensor, tuple[int, ...]]:
    """Points of a padded length: (P, 4) of time, regression range low and high, stride; and the levels' sizes."""
    levels = []
    for level, (low, high) in enumerate(config.regression_range):
        stride = config.scale_factor**level
        times = torch.arange(0, length, stride, dtype=torch.float32)
        levels.append(torch.stack([times, *(torch.full_like(times, x) for x in (low, high, stride))], dim=1))
    return torch.cat(levels), tuple(len(level) for level in levels)


def make_targets(points: Tensor, segments: Tensor, labels: Tensor, num_classes: int, class_aware: bool) -> Targets:
    """What every point of every clip should predict: classes (B, P, C), offsets (B, P, K, 2), on the points' device.

    points (P, 4); segments (B, N, 2) in grid units and labels (B, N), as in a Batch: rows of label -1 are padding.
    """
    time, low, high, stride = points[:, None].unbind(-1)  # (P, 1) each
    sides = torch.stack([time - segments[:, None, :, 0], segments[:, None, :, 1] - time], dim=-1)  # (B, P, N, 2)
    farther = sides.amax(-1)
    claims = (sides.amin(-1) > 0) & (farther >= low) & (farther <= high) & (labels >= 0)[:, None]  # (B, P, N)
    sides = sides / stride[..., None]
    if class_aware:
        # Of the claims of one class on a point the latest counts; the others go to a column of their own, cut off here.
        later = torch.ones(labels.shape[1], labels.shape[1], dtype=torch.bool, device=labels.device).triu(1)  # (N, N)
        rivals = (labels[:, :, None] == labels[:, None]) & later  # (B, N, N): is the second a later one of that class?
        beaten = (claims.to(sides.dtype) @ rivals.mT.to(sides.dtype)) > 0  # (B, P, N)
        column = labels[:, None].expand(claims.shape).masked_fill(~claims | beaten, num_classes)  # (B, P, N)
        classes = points.new_zeros(len(segments), len(points), num_classes + 1).scatter_(2, column, 1)
        offsets = points.new_zeros(*classes.shape, 2)
        offsets.scatter_(2, column[..., None].expand(-1, -1, -1, 2), sides)
        return Targets(classes[..., :-1], offsets[..., :-1, :])
    lengths = (segments[..., 1] - segments[..., 0])[:, None].expand(claims.shape)
    lengths = lengths.masked_fill(~claims, torch.inf)  # (B, P, N)
    shortest, which = lengths.min(dim=2, keepdim=True)
    tied = claims & (lengths <= shortest + SAME_LENGTH_TOLERANCE)
    one_hot = F.one_hot(labels.clamp(min=0), num_classes).to(points.dtype)  # (B, N, C)
    classes = (tied.to(points.dtype) @ one_hot).clamp(max=1)
    offsets = sides.gather(2, which[..., None].expand(-1, -1, -1, 2))  # (B, P, 1, 2)
    return Targets(classes, offsets * claims.any(dim=2)[..., None, None])
