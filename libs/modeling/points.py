"""Points of the pyramid and what each should predict (method.md §3.4, §3.6).

Shapes: B clips, P points of all levels, N segments of a clip, C classes.
"""

import torch
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
    """What every point of every clip should predict, on the points' device.

    points (P, 4); segments (B, N, 2) in grid units and labels (B, N), as in a Batch: rows of label -1 are padding.
    """
    time, low, high, stride = points.unbind(-1)  # (P,) each
    # (B, N, P): the points last, in long contiguous rows.
    left, right = time - segments[..., :1], segments[..., 1:] - time
    farther = torch.maximum(left, right)
    claims = (torch.minimum(left, right) > 0) & (farther >= low) & (farther <= high) & (labels >= 0)[..., None]
    offsets = torch.stack([left / stride, right / stride], dim=-1)  # (B, N, P, 2)
    if class_aware:
        # Of the claims of one class on a point the latest counts.
        later = torch.ones(labels.shape[1], labels.shape[1], dtype=torch.bool, device=labels.device).triu(1)  # (N, N)
        rivals = (labels[:, :, None] == labels[:, None]) & later  # (B, N, N): is the second a later one of that class?
        beaten = (rivals.to(time.dtype) @ claims.to(time.dtype)) > 0
        regressor = labels[..., None].masked_fill(~claims | beaten, -1)
    else:
        # The shortest counts; those of its length set their classes too.
        lengths = (segments[..., 1:] - segments[..., :1]).masked_fill(~claims, torch.inf)
        shortest, which = lengths.min(dim=1, keepdim=True)  # (B, 1, P)
        regressor = claims.any(dim=1, keepdim=True).long() - 1
        offsets = offsets.gather(1, which[..., None].expand(-1, -1, -1, 2))
        claims = claims & (lengths <= shortest + SAME_LENGTH_TOLERANCE)
    classes = points.new_zeros(len(labels), len(points), num_classes)
    column = labels.clamp(min=0)[:, None].expand(-1, len(points), -1)  # (B, P, N)
    classes.scatter_reduce_(2, column, claims.mT.to(points.dtype), "amax")
    return Targets(classes, offsets.transpose(1, 2), regressor.mT)
