"""Exponential moving average (EMA) of the weights, which is evaluated and reported."""

import copy

import torch
from torch import Tensor

from libs.modeling.uniav import UniAV


class EMA:
    """A copy of a network in evaluation mode whose weights follow: w ← decay·w + (1 - decay)·new."""

    def __init__(self, model: UniAV, decay: float):
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        # Listed once: walking through all modules takes longer than launching the update.
        self._averages: list[Tensor] = list(self.model.parameters())
        self._current: list[Tensor] = list(model.parameters())

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the network's weights."""
        torch._foreach_lerp_(self._averages, self._current, 1 - self.decay)  # pyright: ignore[reportPrivateImportUsage]
