"""The network and a training step as one first writes them: eager float32, nothing fused or joined (method.md §4-§6).

What the tests compare the fast path with, and the plain baseline of `make bench`. Everything is channels-first.
Shapes: B clips, T windows or grid points, C channels, P points of all levels, K = number of classes or 1.
`p` is the network's parameters by name; mask (B, 1, T) bool.
"""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from libs.core.config import Config, ModelConfig, TaskSpec
from libs.core.types import Batch, Prediction, Targets
from libs.modeling.losses import Losses
from libs.modeling.points import make_points
from libs.modeling.uniav import UniAV
from libs.training.optimizer import build_optimizer
from tests.oracles import point_targets

Parameters = dict[str, Tensor]


def plain_forward(model: UniAV, batch: Batch, task: str) -> Prediction:
    """What `model(batch, task)` should be, in training (drop path) and in evaluation."""
    p, config, spec = dict(model.named_parameters()), model.config, model.tasks[task]
    assert config.dropout == 0, "the plain network has no dropout"
    drop_path = config.drop_path if model.training else 0.0
    visual, audio = batch.visual.float().transpose(1, 2), batch.audio.float().transpose(1, 2)
    mask = batch.mask[:, None]
    visual, audio = (embed(p, config, m, x, mask) for m, x in (("visual", visual), ("audio", audio)))
    if config.use_abs_pe:
        rows = max(other.dataset.max_seq_len for other in model.tasks.values())
        quirk = config.official_pos_embd and not model.training and mask.shape[2] >= spec.dataset.max_seq_len
        positions = position_encoding(rows, config.embd_dim, mask.shape[2], quirk, visual.device)
        visual, audio = visual + positions * mask, audio + positions * mask

    def run(name: str, own: Tensor, other: Tensor, mask: Tensor, stride: int) -> Tensor:
        return block(p, f"backbone.{name}", own, other, mask, spec.task_type, config.n_head, stride, drop_path)

    for i in range(config.backbone_arch[1] - 1):
        visual = run(f"stem.visual.{i}", visual, visual, mask, 1)
        audio = run(f"stem.audio.{i}", audio, audio, mask, 1)
    visual, audio = run("cross.visual", visual, audio, mask, 1), run("cross.audio", audio, visual, mask, 1)
    levels = [(visual, audio, mask)]
    for i in range(config.backbone_arch[2]):
        stride = config.scale_factor
        mask = mask[:, :, ::stride]
        names = f"pyramid.visual.{i}", f"pyramid.audio.{i}"
        visual, audio = run(names[0], visual, audio, mask, stride), run(names[1], audio, visual, mask, stride)
        levels.append((visual, audio, mask))

    prompts = model.get_buffer(f"prompts_{task}")
    logits, offsets, masks = [], [], []
    for level, (visual, audio, mask) in enumerate(levels):
        x = torch.cat([visual, audio], dim=1)  # (B, 2C, T)
        logits.append(class_logits(p, config, x, mask, prompts))
        offsets.append(boundary_offsets(p, config, x, mask, task, level))
        masks.append(mask[:, 0])
    points, sizes = make_points(config, batch.mask.shape[1])
    joined = (torch.cat(parts, dim=1) for parts in (logits, offsets, masks))
    return Prediction(*joined, points.to(batch.mask.device), sizes)


def layer_norm(p: Parameters, name: str, x: Tensor) -> Tensor:
    """Over channels."""
    mean = x.mean(dim=1, keepdim=True)
    variance = ((x - mean) ** 2).mean(dim=1, keepdim=True)
    return (x - mean) / torch.sqrt(variance + 1e-5) * p[f"{name}.weight"][:, None] + p[f"{name}.bias"][:, None]


def conv(p: Parameters, name: str, x: Tensor, mask: Tensor, stride: int = 1, groups: int = 1) -> Tensor:
    """Masked convolution with `same` padding, bias if it has one; a linear layer is one of kernel size 1."""
    weight = p[f"{name}.weight"]
    weight = weight[..., None] if weight.ndim == 2 else weight
    return F.conv1d(x, weight, p.get(f"{name}.bias"), stride, weight.shape[2] // 2, groups=groups) * mask


def conv_norm(p: Parameters, name: str, x: Tensor, mask: Tensor) -> Tensor:
    x = conv(p, f"{name}.conv", x, mask)
    return F.relu(layer_norm(p, f"{name}.norm", x) if f"{name}.norm.weight" in p else x)


def embed(p: Parameters, config: ModelConfig, modality: str, x: Tensor, mask: Tensor) -> Tensor:
    for i in range(config.backbone_arch[0]):
        x = conv_norm(p, f"backbone.embed.{modality}.{i}", x, mask)
    return x


def position_encoding(rows: int, dim: int, length: int, squeeze: bool, device: torch.device) -> Tensor:
    """(1, dim, length) of a table of `rows` positions: its first ones, or all of them interpolated to more (or, under
    the published quirk, fewer)."""
    column = torch.arange(dim, dtype=torch.float64, device=device)[:, None]
    angle = torch.arange(rows, dtype=torch.float64, device=device) / 10000 ** (2 * (column // 2) / dim)
    table = (torch.where(column % 2 == 0, angle.sin(), angle.cos()) / dim**0.5).float()[None]
    if length > rows or squeeze:
        return F.interpolate(table, size=length, mode="linear", align_corners=False)
    return table[:, :, :length]


def block(
    p: Parameters,
    name: str,
    own: Tensor,
    other: Tensor,
    mask: Tensor,
    task_type: str,
    n_head: int,
    stride: int,
    drop_path: float,
) -> Tensor:
    """Block(own, other) of method.md §4; mask is that of the output. Returns (B, C, T/stride)."""

    def project(what: str, x: Tensor) -> Tensor:
        x = conv(p, f"{name}.attn.{what}_conv", x, mask, stride, groups=x.shape[1])
        return conv(p, f"{name}.attn.{what}", layer_norm(p, f"{name}.attn.{what}_norm", x), torch.ones_like(mask))

    own_normed, other_normed = layer_norm(p, f"{name}.own_norm", own), layer_norm(p, f"{name}.other_norm", other)
    q, k, v = project("query", other_normed), project("key", own_normed), project("value", own_normed)
    attended = conv(p, f"{name}.attn.proj", attention(q, k, v, mask, n_head), mask)
    if stride > 1:
        own = F.max_pool1d(own, stride + 1, stride, padding=(stride + 1) // 2)
    y = own * mask + drop(p[f"{name}.attn_scale"][:, None] * attended, drop_path)

    expert = f"{name}.experts.{task_type}"
    hidden = F.gelu(conv(p, f"{expert}.fc1", layer_norm(p, f"{expert}.norm", y), torch.ones_like(mask)))
    return y + drop(p[f"{name}.expert_scale"][:, None] * conv(p, f"{expert}.fc2", hidden, mask), drop_path)


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, n_head: int) -> Tensor:
    """q, k, v (B, C, T) -> (B, C, T)."""
    q, k, v = (x.unflatten(1, (n_head, -1)) for x in (q, k, v * mask))  # (B, heads, C/heads, T)
    weights = q.transpose(2, 3) @ k / q.shape[2] ** 0.5  # (B, heads, queries, keys)
    weights = weights.masked_fill(~mask[:, None], -torch.inf).softmax(dim=3)
    return (v @ weights.transpose(2, 3)).flatten(1, 2)


def drop(x: Tensor, prob: float) -> Tensor:
    """Drop path: the branch of whole samples."""
    if prob == 0:
        return x
    keep = 1 - prob
    return x * (torch.rand(x.shape[0], 1, 1, device=x.device) < keep) / keep


def unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=1, keepdim=True).clamp(min=1e-12)


def trunk(p: Parameters, config: ModelConfig, head: str, x: Tensor, mask: Tensor) -> Tensor:
    for i in range(config.head_num_layers - 1):
        x = conv_norm(p, f"{head}.trunk.{i}", x, mask)
    return x


def class_logits(p: Parameters, config: ModelConfig, x: Tensor, mask: Tensor, prompts: Tensor) -> Tensor:
    """One level's x (B, 2C, T) against prompts (classes, text_dim) -> (B, T, classes)."""
    points = unit(conv(p, "cls_head.visual_proj", trunk(p, config, "cls_head", x, mask), mask))
    classes = unit(prompts @ p["cls_head.prompt_proj.weight"].t() + p["cls_head.prompt_proj.bias"])
    return (classes @ points * p["cls_head.logit_scale"].exp() * mask).transpose(1, 2)


def boundary_offsets(p: Parameters, config: ModelConfig, x: Tensor, mask: Tensor, task: str, level: int) -> Tensor:
    """One level's x (B, 2C, T) -> (B, T, K, 2)."""
    raw = conv(p, f"reg_head.offsets.{task}", trunk(p, config, "reg_head", x, mask), mask)
    return F.relu(raw * p[f"reg_head.level_scales.{level}"]).transpose(1, 2).unflatten(2, (-1, 2))


class PlainTraining:
    """A training step with loops over points, segments and parameters. `ema` is the averaged weights by name."""

    def __init__(self, model: UniAV, config: Config):
        """model: in training mode, prompts set."""
        self.model, self.config = model, config
        self.base_lr = min(task.learning_rate for task in model.tasks.values())
        groups = build_optimizer(model, config.opt, self.base_lr).param_groups
        groups = [{"lr": g["base_lr"], **{k: g[k] for k in ("params", "weight_decay", "base_lr")}} for g in groups]
        self.optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.999), eps=1e-8, foreach=False, fused=False)
        self.ema = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        self.normalizer = {key: task.train_cfg.init_loss_norm for key, task in model.tasks.items()}

    def losses_on(self, task: TaskSpec, batch: Batch) -> Losses:
        """Forward, targets and losses."""
        prediction = plain_forward(self.model, batch, task.key)
        targets = plain_targets(prediction, batch, task.dataset.class_aware)
        positive = (targets.classes.sum(dim=2) > 0) & prediction.mask
        momentum = self.config.opt.loss_normalizer_momentum
        count = max(int(positive.sum()), 1)
        normalizer = momentum * self.normalizer[task.key] + (1 - momentum) * count
        self.normalizer[task.key] = normalizer
        settings = task.train_cfg
        return plain_losses(prediction, targets, settings.label_smoothing, settings.loss_weight, normalizer)

    def backward(self, task: TaskSpec, losses: Losses) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        (losses.total * (task.learning_rate / self.base_lr)).backward()

    def update(self) -> Tensor:
        """Clipping, optimizer step, EMA. Returns the gradient's norm before clipping."""
        gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
        if self.config.opt.clip_grad_norm > 0 and norm > self.config.opt.clip_grad_norm:
            for gradient in gradients:
                gradient.mul_(self.config.opt.clip_grad_norm / (norm + 1e-6))
        self.optimizer.step()
        decay = self.config.opt.ema_decay
        for name, parameter in self.model.named_parameters():
            self.ema[name].copy_(decay * self.ema[name] + (1 - decay) * parameter.detach())
        return norm


class PlainTargets(NamedTuple):
    """classes (B, P, C) in {0, 1}; offsets (B, P, K, 2) in units of the level's stride, zero where nothing is."""

    classes: Tensor
    offsets: Tensor


def dense_offsets(targets: Targets, pairs: int) -> Tensor:
    """What each of the network's K pairs should predict, (B, P, K, 2), zero where nothing is."""
    dense = targets.offsets.new_zeros(*targets.regressor.shape[:2], pairs, 2)
    clip, point, segment = (targets.regressor >= 0).nonzero(as_tuple=True)
    dense[clip, point, targets.regressor[clip, point, segment]] = targets.offsets[clip, point, segment]
    return dense


def plain_targets(prediction: Prediction, batch: Batch, class_aware: bool) -> PlainTargets:
    """Clip by clip, point by point (oracles.point_targets)."""
    points, (_, _, num_classes) = prediction.points.tolist(), prediction.logits.shape
    found = []
    for segments, labels in zip(batch.segments.tolist(), batch.labels.tolist(), strict=True):
        real = [i for i, label in enumerate(labels) if label >= 0]
        events = [segments[i] for i in real], [labels[i] for i in real]
        found.append(point_targets(points, *events, num_classes, class_aware))
    classes, offsets = (torch.from_numpy(np.stack(column)).float() for column in zip(*found, strict=True))
    return PlainTargets(classes.to(prediction.logits.device), offsets.to(prediction.logits.device))


def plain_losses(
    prediction: Prediction, targets: PlainTargets, label_smoothing: float, loss_weight: float, normalizer: float
) -> Losses:
    """Focal and distance-IoU loss of the valid points (method.md §5)."""
    logits, classes = prediction.logits[prediction.mask], targets.classes[prediction.mask]  # (points, classes)
    smooth = classes * (1 - label_smoothing) + (label_smoothing / (classes.shape[1] + 1) if label_smoothing else 0)
    p = torch.sigmoid(logits)
    entropy = F.binary_cross_entropy_with_logits(logits, smooth, reduction="none")
    p_t = p * smooth + (1 - p) * (1 - smooth)
    cls = ((0.25 * smooth + 0.75 * (1 - smooth)) * (1 - p_t) ** 2 * entropy).sum() / normalizer

    offsets, wanted = prediction.offsets[prediction.mask], targets.offsets[prediction.mask]  # (points, K, 2)
    class_aware = wanted.shape[1] == classes.shape[1]
    pairs = classes > 0 if class_aware else classes.amax(dim=1, keepdim=True) > 0
    (left, right), (left_t, right_t) = offsets[pairs].unbind(1), wanted[pairs].unbind(1)
    inter = torch.minimum(left, left_t) + torch.minimum(right, right_t)
    union = left + right + left_t + right_t - inter
    enclosing = torch.maximum(left, left_t) + torch.maximum(right, right_t)
    rho = (right - left - right_t + left_t) / 2
    reg = (1 - inter / union.clamp(min=1e-8) + (rho / enclosing.clamp(min=1e-8)) ** 2).sum() / normalizer
    weight = loss_weight if loss_weight > 0 else float(cls.detach() / reg.detach().clamp(min=0.01))
    return Losses(cls, reg, cls + weight * reg)
