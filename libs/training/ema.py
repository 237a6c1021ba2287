"""Exponential moving average of the weights: what is validated and reported."""

import copy

import torch
from torch import nn


class EMA:
    """`model` is a copy in evaluation mode whose weights follow: w ← decay·w + (1-decay)·new."""

    def __init__(self, model: nn.Module, decay: float):
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        averages, current = list(self.model.parameters()), list(model.parameters())
        torch._foreach_lerp_(averages, current, 1 - self.decay)
