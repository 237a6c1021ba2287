"""Focal loss, 1-D distance-IoU loss and the criterion that joins them (method.md §5)."""

from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from libs.core.config import TaskSpec
from libs.core.types import Prediction, Targets

FOCAL_ALPHA, FOCAL_GAMMA = 0.25, 2.0
DIOU_EPS = 1e-8


def focal_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Compute the sigmoid focal loss elementwise; targets in [0, 1]."""
    p = logits.sigmoid()
    ce = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    p_t = p * targets + (1 - p) * (1 - targets)
    alpha_t = FOCAL_ALPHA * targets + (1 - FOCAL_ALPHA) * (1 - targets)
    return alpha_t * (1 - p_t) ** FOCAL_GAMMA * ce


def diou_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Compute the 1-D distance-IoU loss of (left, right) distances from one point, (…, 2) -> (…)."""
    (left_p, right_p), (left, right) = predicted.unbind(-1), target.unbind(-1)
    inter = torch.minimum(left_p, left) + torch.minimum(right_p, right)
    union = (left_p + right_p) + (left + right) - inter
    enclosing = torch.maximum(left_p, left) + torch.maximum(right_p, right)
    rho = 0.5 * (right_p - left_p - right + left)
    return 1 - inter / union.clamp(min=DIOU_EPS) + (rho / enclosing.clamp(min=DIOU_EPS)) ** 2


def masked_sum(values: Tensor, mask: Tensor) -> Tensor:
    """Sum the values where the mask is on, without waiting for a GPU as values[mask] would."""
    return values.masked_fill(~mask, 0).sum()


class Losses(NamedTuple):
    """Scalar losses of a batch; `total` is the one to differentiate."""

    cls: Tensor
    reg: Tensor
    total: Tensor


class Criterion(nn.Module):
    """The losses of one task, with the task's loss normaliser N as a buffer (method.md §5).

    With R ranks, positives are counted over all ranks and each rank's loss is R·(its sum)/N, so that averaged
    gradients equal those of one process with the whole batch.
    """

    seen: Tensor | None
    normalizer: Tensor

    def __init__(self, task: TaskSpec, momentum: float, seen: list[int] | None = None):
        """Build a task's criterion; `seen` lists the label_ids that are trained, None for all."""
        super().__init__()
        # A buffer, so that it is on the losses' device; not in checkpoints, since the configuration has it.
        self.register_buffer("seen", None if seen is None else torch.tensor(seen), persistent=False)
        self.loss_weight = task.train_cfg.loss_weight
        self.label_smoothing = task.train_cfg.label_smoothing
        self.momentum = momentum
        self.register_buffer("normalizer", torch.tensor(task.train_cfg.init_loss_norm, dtype=torch.float64))

    def forward(self, prediction: Prediction, targets: Targets) -> Losses:
        """Compute the losses of a batch and update the normaliser; the caller checks that they are finite."""
        ranks = dist.get_world_size() if dist.is_initialized() else 1
        valid = prediction.mask
        pairs = (targets.regressor >= 0) & valid[..., None]  # (B, P, S)
        positive = pairs.any(dim=-1)  # (B, P)
        count = positive.sum().double()
        if ranks > 1:
            dist.all_reduce(count)
        self.normalizer.mul_(self.momentum).add_((1 - self.momentum) * count.clamp(min=1))
        share = (ranks / self.normalizer).to(prediction.logits.dtype)

        regressor = targets.regressor.clamp(min=0)[..., None].expand(targets.offsets.shape)
        reg = masked_sum(diou_loss(prediction.offsets.gather(2, regressor), targets.offsets), pairs) * share

        classes, logits = targets.classes, prediction.logits
        if self.seen is not None:
            classes, logits = (x.index_select(2, self.seen) for x in (classes, logits))
        if self.label_smoothing > 0:
            classes = classes * (1 - self.label_smoothing) + self.label_smoothing / (classes.shape[-1] + 1)
        cls = masked_sum(focal_loss(logits, classes), valid[..., None]) * share

        weight = self.loss_weight if self.loss_weight > 0 else self._balance(cls, reg, ranks)
        return Losses(cls, reg, cls + weight * reg)

    def _balance(self, cls: Tensor, reg: Tensor, ranks: int) -> Tensor:
        """Compute the weight that makes both losses equal, the same on all ranks."""
        both = torch.stack([cls, reg]).detach()
        if ranks > 1:
            dist.all_reduce(both)
            both = both / ranks
        return both[0] / both[1].clamp(min=0.01)
