"""Exponential moving average of the weights: what is validated and reported."""

import copy

import torch
from torch import nn


class EMA:
    """`model` is a copy of a network, in evaluation mode, whose weights follow: w ← decay·w + (1-decay)·new."""

    def __init__(self, model: nn.Module, decay: float):
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        # Listed once: to walk through all modules takes the host longer than to queue the update.
        self._averages, self._current = list(self.model.parameters()), list(model.parameters())

    @torch.no_grad()
    def update(self) -> None:
        torch._foreach_lerp_(self._averages, self._current, 1 - self.decay)
