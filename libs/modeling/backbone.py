"""The shared audio-visual backbone: embedding, position encoding, stem, cross blocks, pyramid (method.md §4).

Shapes: B clips, T windows, C = embd_dim, Tl = T/stride^l.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from libs.core.config import ModelConfig
from libs.core.types import MODALITIES
from libs.modeling.blocks import Block, MaskedConv


class Level(NamedTuple):
    """One pyramid level: features (B, Tl, C) of each modality, mask (B, Tl, 1)."""

    features: dict[str, Tensor]
    mask: Tensor


def position_table(rows: int, dim: int) -> Tensor:
    """Sinusoidal (rows, dim) table, divided by sqrt(dim): sine at even columns, cosine at odd ones."""
    position = torch.arange(rows, dtype=torch.float64)[:, None]
    column = torch.arange(dim, dtype=torch.float64)
    angle = position / 10000 ** (2 * torch.div(column, 2, rounding_mode="floor") / dim)
    return (torch.where(column % 2 == 0, angle.sin(), angle.cos()) / dim**0.5).float()


class ConvNorm(nn.Module):
    """Masked convolution, LayerNorm, ReLU."""

    def __init__(self, in_dim: int, out_dim: int, kernel_size: int, norm: bool = True):
        super().__init__()
        self.conv = MaskedConv(in_dim, out_dim, kernel_size, bias=not norm)
        self.norm = nn.LayerNorm(out_dim) if norm else nn.Identity()

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x, mask).float()))  # a norm needs more digits than bf16 has


class PositionEncoding(nn.Module):
    """Add the position table to valid points."""

    table: Tensor

    def __init__(self, rows: int, dim: int, official: bool):
        super().__init__()
        self.official = official
        self.register_buffer("table", position_table(rows, dim), persistent=False)

    def forward(self, x: Tensor, mask: Tensor, max_seq_len: int) -> Tensor:
        """Add positions to x (B, T, C) where mask (B, T, 1) is on.

        For T beyond the table, the table is interpolated to T. With `official`, evaluation also interpolates it down
        to T from the task's own max_seq_len on, as the published code does.
        """
        length, table = x.shape[1], self.table
        if length > len(table) or (self.official and not self.training and length >= max_seq_len):
            table = F.interpolate(table.t()[None], size=length, mode="linear", align_corners=False)[0].t()
        return x + table[:length] * mask


class Backbone(nn.Module):
    """Features of each modality in, a pyramid of both out."""

    def __init__(self, config: ModelConfig, task_types: list[str], max_seq_len: int):
        super().__init__()
        embed_layers, stem_blocks, pyramid_blocks = config.backbone_arch
        input_dims = {"visual": config.input_dim_visual, "audio": config.input_dim_audio}
        # In the published order, not the configuration's.
        self.modalities = tuple(modality for modality in MODALITIES if modality in config.modalities)
        both = len(self.modalities) == 2 and config.cross_attention
        self.query_source = dict(zip(self.modalities, reversed(self.modalities), strict=True)) if both else {}
        levels_with_experts = range(config.num_levels) if config.expert_levels is None else config.expert_levels

        def block(level: int, stride: int) -> Block:
            return Block(config, stride, task_types if level in levels_with_experts else None)

        def embedding(input_dim: int) -> nn.ModuleList:
            dims = [input_dim] + [config.embd_dim] * embed_layers
            layers = zip(dims[:-1], dims[1:], strict=True)
            return nn.ModuleList(ConvNorm(i, o, config.embd_kernel_size, config.embd_with_ln) for i, o in layers)

        def per_modality(make: Callable[[str], nn.Module]) -> Any:  # nn.ModuleDict does not type its modules
            return nn.ModuleDict({modality: make(modality) for modality in self.modalities})

        self.embed = per_modality(lambda modality: embedding(input_dims[modality]))
        position = PositionEncoding(max_seq_len, config.embd_dim, config.official_pos_embd)
        self.position = position if config.use_abs_pe else None
        self.stem = per_modality(lambda _: nn.ModuleList(block(0, 1) for _ in range(stem_blocks - 1)))
        self.cross = per_modality(lambda _: block(0, 1))
        levels = range(1, pyramid_blocks + 1)
        self.pyramid = per_modality(lambda _: nn.ModuleList(block(level, config.scale_factor) for level in levels))
        self.scale_factor = config.scale_factor
        self.checkpointing = False  # recompute activations inside blocks in the backward pass (run.checkpointing)

    def forward(self, features: dict[str, Tensor], mask: Tensor, task_type: str, max_seq_len: int) -> list[Level]:
        """Compute the pyramid levels, the finest first.

        Args:
            features: modality -> (B, T, D).
            mask: (B, T, 1).
            max_seq_len: the task's, in windows.
        """
        x = {}
        for modality in self.modalities:
            x[modality] = features[modality]
            for layer in self.embed[modality]:
                x[modality] = layer(x[modality], mask)
            if self.position is not None:
                x[modality] = self.position(x[modality], mask, max_seq_len)
            for block in self.stem[modality]:
                x[modality] = self._run(block, x[modality], x[modality], mask, task_type)

        levels = [self._exchange(self.cross, x, mask, task_type)]
        for blocks in zip(*(self.pyramid[modality] for modality in self.modalities), strict=True):
            below = levels[-1]
            mask = below.mask[:, :: self.scale_factor]
            blocks = dict(zip(self.modalities, blocks, strict=True))
            levels.append(self._exchange(blocks, below.features, mask, task_type))
        return levels

    def _exchange(self, blocks: Mapping[str, Block], x: dict[str, Tensor], mask: Tensor, task_type: str) -> Level:
        """Update all modalities at once, each with queries from the other one, or from itself."""
        return Level({m: self._run(blocks[m], x[m], x[self.query_source.get(m, m)], mask, task_type) for m in x}, mask)

    def _run(self, block: Block, *inputs) -> Tensor:
        keep = not (self.checkpointing and self.training)
        return block(*inputs) if keep else checkpoint(block, *inputs, use_reentrant=False)
