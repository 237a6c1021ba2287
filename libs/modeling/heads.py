"""Heads over the pyramid: classification against prompts, regression of boundaries (method.md §4).

Levels share a head's weights, so all levels go through it at once as a `ConcatenatedPyramid`: few large convolutions
are much faster than many small ones.

Shapes: B clips, P points of all levels, R rows (points and gaps), D = head_dim, C classes, K = C or 1.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from libs.core.config import ModelConfig, TaskSpec
from libs.modeling.backbone import ConvNorm, Level
from libs.modeling.blocks import MaskedConv, PerTask

PRIOR = 0.01  # initial probability of each class in a linear classifier, for focal loss (RetinaNet)


class ConcatenatedPyramid(NamedTuple):
    """Levels laid end to end in time, with zeros (gaps) after each.

    A gap is what a convolution sees beyond a level's end: zeros, unlike the level's own padded points, where LayerNorm
    and ReLU leave relu(bias).

    Attributes:
        x: (B, R, modalities·embd_dim).
        mask: (B, R, 1).
        inside: (1, R, 1), 1 at points and 0 in gaps.
        spans: level -> (first, last) row.
    """

    x: Tensor
    mask: Tensor
    inside: Tensor
    spans: tuple[tuple[int, int], ...]

    def select_points(self, x: Tensor) -> Tensor:
        """Drop the gaps: (B, R, …) -> (B, P, …)."""
        return torch.cat([x[:, first:last] for first, last in self.spans], dim=1)


def concatenate_levels(levels: list[Level], gap: int) -> ConcatenatedPyramid:
    """Lay levels end to end with `gap` zeros after each, half of the widest kernel."""
    joined = [torch.cat(list(level.features.values()), dim=-1) for level in levels]
    sizes = [x.shape[1] for x in joined]
    x = [F.pad(x, (0, 0, 0, gap)) for x in joined]
    mask = [F.pad(level.mask, (0, 0, 0, gap)) for level in levels]
    inside = [F.pad(x.new_ones(1, size, 1), (0, 0, 0, gap)) for x, size in zip(joined, sizes, strict=True)]
    firsts = [sum(sizes[:i]) + i * gap for i in range(len(sizes))]
    spans = tuple((first, first + size) for first, size in zip(firsts, sizes, strict=True))
    return ConcatenatedPyramid(torch.cat(x, dim=1), torch.cat(mask, dim=1), torch.cat(inside, dim=1), spans)


class Trunk(nn.ModuleList):
    """The first head_num_layers - 1 convolutions of a head. ConcatenatedPyramid -> (B, R, D)."""

    def __init__(self, config: ModelConfig):
        dims = [len(config.modalities) * config.embd_dim] + [config.head_dim] * (config.head_num_layers - 1)
        layers = zip(dims[:-1], dims[1:], strict=True)
        super().__init__(ConvNorm(i, o, config.head_kernel_size, config.embd_with_ln) for i, o in layers)
        self.out_dim = dims[-1]

    def forward(self, pyramid: ConcatenatedPyramid) -> Tensor:
        x = pyramid.x
        for layer in self:
            x = layer(x, pyramid.mask) * pyramid.inside
        return x


class PromptClassifier(nn.Module):
    """Cosine similarity of points and projected prompts, times a learned temperature.

    It has no weights per class: other prompts mean other classes.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.trunk = Trunk(config)
        self.visual_proj = MaskedConv(self.trunk.out_dim, config.head_dim, config.head_kernel_size, bias=True)
        self.prompt_proj = nn.Linear(config.text_dim, config.head_dim)
        nn.init.xavier_uniform_(self.prompt_proj.weight)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def forward(self, pyramid: ConcatenatedPyramid, task: str, prompts: Tensor) -> Tensor:
        """Compute logits (B, P, C) from prompts (C, text_dim); all tasks share the weights."""
        points = self.visual_proj(self.trunk(pyramid), pyramid.mask)  # (B, R, D)
        with torch.autocast(points.device.type, enabled=False):  # 8 bits are too few for logits
            classes = F.normalize(self.prompt_proj(prompts), dim=-1) * self.logit_scale.exp()  # (C, D)
            return pyramid.select_points(F.normalize(points.float(), dim=-1) @ classes.t() * pyramid.mask)


class LinearClassifier(nn.Module):
    """One last convolution per task with a channel per class, without prompts."""

    def __init__(self, config: ModelConfig, tasks: list[TaskSpec]):
        super().__init__()
        self.trunk = Trunk(config)
        dim, kernel_size = self.trunk.out_dim, config.head_kernel_size
        convs = {task.key: MaskedConv(dim, task.dataset.num_classes, kernel_size, bias=True) for task in tasks}
        for conv in convs.values():
            assert conv.bias is not None
            nn.init.constant_(conv.bias, -math.log((1 - PRIOR) / PRIOR))
        self.classes = PerTask(convs)

    def forward(self, pyramid: ConcatenatedPyramid, task: str, prompts: None = None) -> Tensor:
        """Compute logits (B, P, C)."""
        x = self.trunk(pyramid)
        with torch.autocast(x.device.type, enabled=False):  # 8 bits are too few for logits
            return pyramid.select_points(self.classes[task](x.float(), pyramid.mask))


class OffsetRegressor(nn.Module):
    """Distances to an event's start and end in units of the level's stride; the last convolution is per task."""

    def __init__(self, config: ModelConfig, tasks: list[TaskSpec]):
        super().__init__()
        self.trunk = Trunk(config)
        pairs = {task.key: task.dataset.num_classes if task.dataset.class_aware else 1 for task in tasks}
        dim, kernel_size = self.trunk.out_dim, config.head_kernel_size
        self.offsets = PerTask({k: MaskedConv(dim, 2 * n, kernel_size, bias=True) for k, n in pairs.items()})
        self.level_scales = nn.ParameterList(torch.tensor(1.0) for _ in range(config.num_levels))

    def forward(self, pyramid: ConcatenatedPyramid, task: str) -> Tensor:
        """Compute offsets (B, P, K, 2), left and right."""
        x = self.trunk(pyramid)
        with torch.autocast(x.device.type, enabled=False):  # 8 bits are too few for boundaries
            raw = pyramid.select_points(self.offsets[task](x.float(), pyramid.mask))  # (B, P, 2·K)
        levels = zip(self.level_scales, pyramid.spans, strict=True)
        scales = torch.cat([scale.expand(last - first) for scale, (first, last) in levels])  # (P,)
        return F.relu(raw * scales[:, None]).unflatten(-1, (-1, 2))
