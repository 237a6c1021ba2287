"""Heads over the pyramid: classification against prompts, regression of boundaries (method.md §4).

Shapes: B clips, Tl points of a level, D = head_dim, C classes, K = C or 1.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from libs.core.config import ModelConfig, TaskSpec
from libs.modeling.backbone import ConvNorm
from libs.modeling.blocks import MaskedConv


class Trunk(nn.ModuleList):
    """head_num_layers - 1 convolutions shared by all levels. (B, Tl, 2·embd_dim) -> (B, Tl, D)."""

    def __init__(self, config: ModelConfig):
        dims = [2 * config.embd_dim] + [config.head_dim] * (config.head_num_layers - 1)
        layers = zip(dims[:-1], dims[1:], strict=True)
        super().__init__(ConvNorm(i, o, config.head_kernel_size, config.embd_with_ln) for i, o in layers)
        self.out_dim = dims[-1]

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        for layer in self:
            x = layer(x, mask)
        return x


class PromptClassifier(nn.Module):
    """Cosine similarity of points and projected prompts, times a learned temperature. No weights of classes: other
    prompts are other classes."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.trunk = Trunk(config)
        self.visual_proj = MaskedConv(self.trunk.out_dim, config.head_dim, config.head_kernel_size, bias=True)
        self.prompt_proj = nn.Linear(config.text_dim, config.head_dim)
        nn.init.xavier_uniform_(self.prompt_proj.weight)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def forward(self, levels: list[Tensor], masks: list[Tensor], prompts: Tensor) -> list[Tensor]:
        """levels of (B, Tl, 2·embd_dim), masks (B, Tl, 1), prompts (C, text_dim). Returns logits (B, Tl, C) each."""
        classes = F.normalize(self.prompt_proj(prompts), dim=-1) * self.logit_scale.exp()  # (C, D)
        logits = []
        for x, mask in zip(levels, masks, strict=True):
            points = F.normalize(self.visual_proj(self.trunk(x, mask), mask), dim=-1)
            logits.append(points @ classes.t() * mask)
        return logits


class OffsetRegressor(nn.Module):
    """Distances to an event's start and end in units of the level's stride, with one last convolution a task."""

    def __init__(self, config: ModelConfig, tasks: list[TaskSpec]):
        super().__init__()
        self.trunk = Trunk(config)
        pairs = {task.key: task.dataset.num_classes if task.dataset.class_aware else 1 for task in tasks}
        dim, kernel_size = self.trunk.out_dim, config.head_kernel_size
        self.offsets = nn.ModuleDict({k: MaskedConv(dim, 2 * n, kernel_size, bias=True) for k, n in pairs.items()})
        self.level_scales = nn.ParameterList(torch.tensor(1.0) for _ in range(config.num_levels))

    def forward(self, levels: list[Tensor], masks: list[Tensor], task: str) -> list[Tensor]:
        """levels of (B, Tl, 2·embd_dim), masks (B, Tl, 1). Returns (B, Tl, K, 2) each: left and right."""
        last = self.offsets[task]
        offsets = []
        for x, mask, scale in zip(levels, masks, self.level_scales, strict=True):
            raw = last(self.trunk(x, mask), mask)
            offsets.append(F.relu(raw * scale).unflatten(-1, (-1, 2)))
        return offsets
