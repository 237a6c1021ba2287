"""AdamW's parameter groups and the learning-rate schedule (method.md §6)."""

import math
from collections.abc import Callable

import torch
from torch import nn

from libs.core.config import OptimizerConfig
from libs.modeling.blocks import DepthwiseConv, MaskedConv
from libs.modeling.uniav import UniAV

DECAYED = (nn.Linear, MaskedConv, DepthwiseConv)
COSINE_END_LR = 1e-8


def build_optimizer(model: UniAV, config: OptimizerConfig, base_lr: float) -> torch.optim.AdamW:
    """Build AdamW with weight decay on weights of linear and convolution layers only.

    The prompt projection has its own learning rate; each group stores its `base_lr`.
    """
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for place, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            decay = config.weight_decay if isinstance(module, DECAYED) and name == "weight" else 0.0
            groups.setdefault((place == "cls_head.prompt_proj", decay), []).append(parameter)
    parts = [
        {"params": group, "weight_decay": decay, "base_lr": config.clip_proj_lr if own_lr else base_lr}
        for (own_lr, decay), group in groups.items()
    ]
    return torch.optim.AdamW(parts, lr=base_lr, fused=True)


def lr_factor(config: OptimizerConfig, step: int, steps_per_epoch: int) -> Callable[[float], float]:
    """Return the function from a group's base lr to its lr at a step (from 0).

    The first step of a run has lr 0; the last step of the warm-up and the first after it both have the base lr.
    """
    warmup, after = config.warmup_epochs * steps_per_epoch, step - config.warmup_epochs * steps_per_epoch
    if step < warmup:
        return lambda base: base * step / max(warmup - 1, 1)
    if config.schedule == "multistep":
        passed = sum(after >= milestone * steps_per_epoch for milestone in config.milestones)
        return lambda base: base * config.gamma**passed
    cosine = 0.5 * (1 + math.cos(math.pi * after / (config.num_train_epochs * steps_per_epoch)))
    return lambda base: (base - COSINE_END_LR) * cosine + COSINE_END_LR


def set_lr(optimizer: torch.optim.Optimizer, schedule: Callable[[float], float]) -> None:
    for group in optimizer.param_groups:
        group["lr"] = schedule(group["base_lr"])
