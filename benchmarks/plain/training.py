"""A training step with loops over points, segments and parameters (method.md §5, §6)."""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.plain.network import plain_forward
from libs.core.config import Config, TaskSpec, TaskTrainConfig
from libs.core.types import Batch, Prediction, Targets
from libs.modeling.losses import Losses
from libs.modeling.uniav import UniAV
from libs.training.optimizer import build_optimizer


class PlainTraining:
    """The training state of a network in training mode, prompts set. `ema` holds the averaged weights by name."""

    def __init__(self, model: UniAV, config: Config):
        self.model, self.config = model, config
        self.base_lr = min(task.learning_rate for task in model.tasks.values())
        self.optimizer = build_optimizer(model, config.opt, self.base_lr)
        for group in self.optimizer.param_groups:
            group |= {"lr": group["base_lr"], "foreach": False, "fused": False}
        self.ema = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        self.normalizer = {key: task.train_cfg.init_loss_norm for key, task in model.tasks.items()}

    def compute_losses(self, task: TaskSpec, batch: Batch) -> Losses:
        prediction = plain_forward(self.model, batch, task.key)
        spec = task.dataset
        targets = plain_targets(prediction.points.tolist(), batch, spec.num_classes, spec.class_aware)
        positive = (targets.classes.sum(dim=2) > 0) & prediction.mask
        momentum, count = self.config.opt.loss_normalizer_momentum, max(int(positive.sum()), 1)
        self.normalizer[task.key] = momentum * self.normalizer[task.key] + (1 - momentum) * count
        return plain_losses(prediction, targets, task.train_cfg, self.normalizer[task.key])

    def backward(self, task: TaskSpec, losses: Losses) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        (losses.total * (task.learning_rate / self.base_lr)).backward()

    def update(self) -> Tensor:
        """Clip gradients, step the optimizer and the EMA. Returns the gradient's norm before clipping."""
        parameters, limit = dict(self.model.named_parameters()), self.config.opt.clip_grad_norm or torch.inf
        norm = torch.nn.utils.clip_grad_norm_(parameters.values(), limit, foreach=False)
        self.optimizer.step()
        decay = self.config.opt.ema_decay
        for name, parameter in parameters.items():
            self.ema[name].copy_(decay * self.ema[name] + (1 - decay) * parameter.detach())
        return norm


class PlainTargets(NamedTuple):
    """classes (B, P, C) in {0, 1}; offsets (B, P, K, 2) in units of the level's stride, zero at negatives."""

    classes: Tensor
    offsets: Tensor


def dense_offsets(targets: Targets, pairs: int) -> Tensor:
    """Expand targets to the network's K pairs of offsets (B, P, K, 2), zero at negatives."""
    dense = targets.offsets.new_zeros(*targets.regressor.shape[:2], pairs, 2)
    clip, point, segment = (targets.regressor >= 0).nonzero(as_tuple=True)
    dense[clip, point, targets.regressor[clip, point, segment]] = targets.offsets[clip, point, segment]
    return dense


def plain_targets(points: list[list[float]], batch: Batch, num_classes: int, class_aware: bool) -> PlainTargets:
    """Compute a batch's targets clip by clip; the empty segments that pad a clip contain no point."""
    events = zip(batch.segments.tolist(), batch.labels.tolist(), strict=True)
    columns = zip(*(point_targets(points, *event, num_classes, class_aware) for event in events), strict=True)
    return PlainTargets(*(torch.from_numpy(np.stack(column)).float().to(batch.mask.device) for column in columns))


def point_targets(points: list, segments: list, labels: list, num_classes: int, class_aware: bool) -> list[np.ndarray]:
    """Compute one clip's classes (P, C) and offsets (P, K, 2), point by point."""
    classes = np.zeros((len(points), num_classes))
    offsets = np.zeros((len(points), num_classes if class_aware else 1, 2))
    for p, (time, low, high, stride) in enumerate(points):
        matches = []
        for (start, end), label in zip(segments, labels, strict=True):
            left, right = time - start, end - time
            if min(left, right) > 0 and low <= max(left, right) <= high:
                matches.append((end - start, label, (left / stride, right / stride)))
        if class_aware:
            for _, label, sides in matches:
                classes[p, label], offsets[p, label] = 1, sides
        elif matches:
            shortest = min(matches, key=lambda match: match[0])
            offsets[p, 0] = shortest[2]
            for length, label, _ in matches:
                if length <= shortest[0] + 1e-3:
                    classes[p, label] = 1
    return [classes, offsets]


def plain_losses(prediction: Prediction, targets: PlainTargets, config: TaskTrainConfig, normalizer: float) -> Losses:
    """Compute the focal and distance-IoU losses of the valid points (method.md §5)."""
    logits, classes = prediction.logits[prediction.mask], targets.classes[prediction.mask]  # (points, classes)
    smooth = classes * (1 - config.label_smoothing) + config.label_smoothing / (classes.shape[1] + 1)
    p = torch.sigmoid(logits)
    entropy = F.binary_cross_entropy_with_logits(logits, smooth, reduction="none")
    p_t = p * smooth + (1 - p) * (1 - smooth)
    cls = ((0.25 * smooth + 0.75 * (1 - smooth)) * (1 - p_t) ** 2 * entropy).sum() / normalizer

    offsets, target_offsets = prediction.offsets[prediction.mask], targets.offsets[prediction.mask]  # (points, K, 2)
    class_aware = target_offsets.shape[1] == classes.shape[1]
    positive = classes > 0 if class_aware else classes.amax(dim=1, keepdim=True) > 0
    (left, right), (left_t, right_t) = offsets[positive].unbind(1), target_offsets[positive].unbind(1)
    intersection = torch.minimum(left, left_t) + torch.minimum(right, right_t)
    union = left + right + left_t + right_t - intersection
    enclosing = torch.maximum(left, left_t) + torch.maximum(right, right_t)
    rho = (right - left - right_t + left_t) / 2
    reg = (1 - intersection / union.clamp(min=1e-8) + (rho / enclosing.clamp(min=1e-8)) ** 2).sum() / normalizer
    weight = config.loss_weight if config.loss_weight > 0 else float(cls.detach() / reg.detach().clamp(min=0.01))
    return Losses(cls, reg, cls + weight * reg)
