"""Points of the pyramid and the targets of each (method.md §3.4, §3.6).

Shapes: B clips, P points of all levels, N segments of a clip, C classes.
"""

import torch
from torch import Tensor, nn

from libs.core.config import ModelConfig
from libs.core.types import Targets

SAME_LENGTH_TOLERANCE = 1e-3  # grid units; segments at most this much longer than the shortest set their class too


def make_points(config: ModelConfig, length: int) -> tuple[Tensor, tuple[int, ...]]:
    """Make the points of a padded length.

    Returns:
        points (P, 4): time, regression range low and high, stride, in grid units; and the number of points per level.
    """
    levels = []
    for level, (low, high) in enumerate(config.regression_range):
        stride = config.scale_factor**level
        times = torch.arange(0, length, stride, dtype=torch.float32)
        levels.append(torch.stack([times, *(torch.full_like(times, x) for x in (low, high, stride))], dim=1))
    return torch.cat(levels), tuple(len(level) for level in levels)


class PointGenerator(nn.Module):
    """Points by padded length, kept on the device: copying them in every step might wait for the GPU."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self._cache: dict[tuple[int, torch.device], tuple[Tensor, tuple[int, ...]]] = {}

    def forward(self, length: int, device: torch.device) -> tuple[Tensor, tuple[int, ...]]:
        """Return make_points(config, length) on a device."""
        key = (length, device)
        if key not in self._cache:
            with torch.inference_mode(False):  # training may use points that evaluation made
                points, sizes = make_points(self.config, length)
                self._cache[key] = points.to(device), sizes
        return self._cache[key]


def make_targets(points: Tensor, segments: Tensor, labels: Tensor, num_classes: int, class_aware: bool) -> Targets:
    """Compute what every point of every clip should predict, on the points' device.

    Args:
        points: (P, 4), as make_points returns.
        segments, labels: (B, N, 2) in grid units and (B, N), as in a Batch: rows of label -1 are empty segments.
    """
    time, low, high, stride = points.unbind(-1)  # (P,) each
    # (B, N, P), points last: long contiguous rows are fast.
    left, right = time - segments[..., :1], segments[..., 1:] - time
    nearer, farther = torch.minimum(left, right), torch.maximum(left, right)
    claims = (nearer > 0) & (farther.clamp(low, high) == farther)
    offsets = torch.stack([left, right], dim=2) / stride  # (B, N, 2, P)
    if class_aware:
        # Of several claims of one class on a point the last one counts. The product is the number of later claims of
        # the class, minus one for the claim itself: negative only for the last claim.
        same = (labels[:, :, None] == labels[:, None]).to(time.dtype)  # (B, N, N)
        itself = torch.eye(labels.shape[1], dtype=time.dtype, device=time.device)
        outcome = (same.triu(1) - itself) @ claims.to(time.dtype)  # (B, N, P)
        regressor = labels[..., None].masked_fill(outcome >= 0, -1)
    else:
        # The shortest claim counts; claims of the same length set their classes too.
        lengths = (segments[..., 1:] - segments[..., :1]).masked_fill(~claims, torch.inf)
        shortest, which = lengths.min(dim=1, keepdim=True)  # (B, 1, P)
        regressor = claims.any(dim=1, keepdim=True).long() - 1
        offsets = offsets.gather(1, which[:, :, None].expand(-1, -1, 2, -1))
        claims = claims & (lengths <= shortest + SAME_LENGTH_TOLERANCE)
    classes = points.new_zeros(len(labels), len(points), num_classes)
    column = labels.clamp(min=0)[:, None].expand(-1, len(points), -1)  # (B, P, N)
    classes.scatter_reduce_(2, column, claims.to(points.dtype).mT, "amax")
    return Targets(classes, offsets.permute(0, 3, 1, 2), regressor.mT)
