"""Prompts as modules: calling one returns the table (num_classes, text_dim) that the classifier compares points with.

The prompt tables themselves are not part of the state_dict: they come from files, or from a checkpoint's `prompts`.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from libs.core.config import ModelConfig, TaskSpec

CONTEXT_STD = 0.02  # initial spread of learned context, that of the token embeddings beside it (CoOp)

TextEmbedding = Callable[[Tensor], Tensor]  # context (length, width) -> table (num_classes, text_dim)


class FrozenPrompts(nn.Module):
    """A prompt table as it is."""

    table: Tensor

    def __init__(self, table: Tensor | None = None):
        super().__init__()
        self.register_buffer("table", table, persistent=False)

    def set_source(self, source: Tensor) -> None:
        """Set the table (num_classes, text_dim) float32, row = label_id."""
        self.table = source

    def forward(self) -> Tensor:
        return self.table


class OffsetPrompts(FrozenPrompts):
    """A prompt table plus learned offsets, initially zero."""

    def __init__(self, num_classes: int, text_dim: int):
        super().__init__()
        self.learned = nn.Parameter(torch.zeros(num_classes, text_dim))

    def forward(self) -> Tensor:
        return self.table + self.learned


class ContextPrompts(nn.Module):
    """The text encoder's embedding of learned vectors before each class name (CoOp's unified context)."""

    embed: TextEmbedding

    def __init__(self, length: int, width: int):
        super().__init__()
        self.learned = nn.Parameter(CONTEXT_STD * torch.randn(length, width))

    def set_source(self, source: TextEmbedding) -> None:
        """Set the function that embeds context."""
        self.embed = source

    def forward(self) -> Tensor:
        return self.embed(self.learned)


def build_prompt_module(config: ModelConfig, task: TaskSpec) -> FrozenPrompts | ContextPrompts:
    """Build a task's prompts as `model.prompts` says."""
    if config.prompts == "offsets":
        return OffsetPrompts(task.dataset.num_classes, config.text_dim)
    if config.prompts == "context":
        return ContextPrompts(config.context_length, config.context_dim)
    return FrozenPrompts()
