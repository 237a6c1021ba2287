"""Building blocks of the network, all channels-last.

Shapes: B clips, T grid points, C channels; mask (B, T, 1) bool, True at valid points.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from libs.core.config import ModelConfig

SHARED = "shared"  # the key of the expert in a block whose expert all tasks share


class PerTask(nn.ModuleDict):
    """Modules of which a task's batches use one: experts, last layers, prompts. Keys are task keys or task types."""


class MaskedConv(nn.Module):
    """Conv1d over time with `same` padding; the output is zero at masked points. (B, T, Cin) -> (B, T, Cout)."""

    bias: Tensor | None

    def __init__(self, in_dim: int, out_dim: int, kernel_size: int, bias: bool = False):
        super().__init__()
        conv = nn.Conv1d(in_dim, out_dim, kernel_size, padding=kernel_size // 2, bias=bias)
        # (Cout, Cin, kernel) in shape, but contiguous by tap, so that products and gradients need no copies.
        self.weight = nn.Parameter(conv.weight.detach().permute(2, 1, 0).contiguous().permute(2, 1, 0))
        self.bias = nn.Parameter(torch.zeros(out_dim)) if bias else None

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        # One matrix product per tap over the zero-padded rows of all clips. F.conv1d would need transposes to
        # channels-first and back. Output rows that span two clips are skipped by the strides at the end.
        kernel_size = self.weight.shape[2]
        pad = kernel_size // 2
        rows = F.pad(x, (0, 0, pad, pad)).flatten(0, 1)  # (B·(T + 2·pad), Cin)
        count = len(rows) - 2 * pad
        taps = self.weight.permute(2, 1, 0)  # (kernel, Cin, Cout)
        out = rows[:count] @ taps[0] if self.bias is None else torch.addmm(self.bias, rows[:count], taps[0])
        for i in range(1, kernel_size):
            out = torch.addmm(out, rows[i : i + count], taps[i])
        clips, length, width = len(x), x.shape[1], self.weight.shape[0]
        return out.as_strided((clips, length, width), ((length + 2 * pad) * width, width, 1)) * mask


class DepthwiseConv(nn.Module):
    """Depthwise Conv1d, kernel 3, stride s, no bias, masked. (B, T, C) -> (B, T/s, C); s must divide T."""

    def __init__(self, dim: int, stride: int):
        super().__init__()
        self.weight = nn.Conv1d(dim, dim, 3, groups=dim, bias=False).weight  # (C, 1, 3)
        self.stride = stride

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        # Three shifted products avoid the transposes to channels-first and back.
        length, step = x.shape[1], self.stride
        padded, taps = F.pad(x, (0, 0, 1, 1)), self.weight[:, 0].t()
        out = padded[:, 0:length:step] * taps[0]
        out = out + padded[:, 1 : 1 + length : step] * taps[1]
        out = out + padded[:, 2 : 2 + length : step] * taps[2]
        return out * mask


class DropPath(nn.Module):
    """Drop a residual branch for whole samples in training, scaled to keep its expectation."""

    def __init__(self, prob: float):
        super().__init__()
        self.prob = prob

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.prob == 0:
            return x
        keep = 1 - self.prob
        return x * (torch.rand(x.shape[0], 1, 1, device=x.device, dtype=x.dtype) < keep) / keep


class CrossAttention(nn.Module):
    """Attention with queries from the other modality, keys and values from the own one (method.md §4)."""

    def __init__(self, dim: int, n_head: int, stride: int, dropout: float, window: int | None = None):
        super().__init__()
        self.n_head, self.dropout, self.window = n_head, dropout, window
        self.query_conv, self.key_conv, self.value_conv = (DepthwiseConv(dim, stride) for _ in range(3))
        self.query_norm, self.key_norm, self.value_norm = (nn.LayerNorm(dim) for _ in range(3))
        self.query, self.key, self.value, self.proj = (zero_bias(nn.Linear(dim, dim)) for _ in range(4))
        self.proj_dropout = nn.Dropout(dropout)

    def forward(self, own: Tensor, other: Tensor, mask: Tensor) -> Tensor:
        """Attend from `other` to `own`.

        Args:
            own, other: (B, T, C), normalized.
            mask: (B, T/s, 1), of the output.

        Returns:
            (B, T/s, C).
        """

        def heads(x: Tensor) -> Tensor:
            return x.unflatten(-1, (self.n_head, -1)).transpose(1, 2)  # (B, heads, T/s, C/heads)

        q = heads(self.query(self.query_norm(self.query_conv(other, mask))))
        k = heads(self.key(self.key_norm(self.key_conv(own, mask))))
        v = heads(self.value(self.value_norm(self.value_conv(own, mask))))
        valid = mask.transpose(1, 2)  # (B, 1, T/s); other keys get weight 0, so values need no mask
        dropout = self.dropout if self.training else 0.0
        if self.window is None or self.window // 2 >= q.shape[2] - 1:
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=valid.unsqueeze(1), dropout_p=dropout)
        else:
            out = local_attention(q, k, v, valid, self.window, dropout)
        return self.proj_dropout(self.proj(out.transpose(1, 2).flatten(2))) * mask


def local_attention(q: Tensor, k: Tensor, v: Tensor, valid: Tensor, window: int, dropout: float) -> Tensor:
    """Attend to the keys in a window around each query, in time and memory linear in T.

    Queries are processed in chunks of the window's size, each with all keys that one of its queries attends to.

    Args:
        q, k, v: (B, heads, T, D).
        valid: (B, 1, T) bool, of the keys.
        window: number of keys, odd.
    """
    length, half = q.shape[2], window // 2
    chunks = -(-length // window)
    spare = chunks * window - length

    def gather_keys(x: Tensor) -> Tensor:  # (B, heads, T, D) -> (B, heads, chunks, window + 2·half, D)
        return F.pad(x, (0, 0, half, half + spare)).unfold(2, window + 2 * half, window).transpose(-1, -2)

    queries = F.pad(q, (0, 0, 0, spare)).unflatten(2, (chunks, window))
    distance = torch.arange(window + 2 * half, device=q.device) - half - torch.arange(window, device=q.device)[:, None]
    keys_valid = F.pad(valid, (half, half + spare)).unfold(2, window + 2 * half, window).unsqueeze(3)
    # Masked queries attend to themselves so that no softmax row is empty; their output is zeroed by the caller.
    allowed = (keys_valid & (distance.abs() <= half)) | (distance == 0)  # (B, 1, chunks, window, window + 2·half)
    out = F.scaled_dot_product_attention(queries, gather_keys(k), gather_keys(v), attn_mask=allowed, dropout_p=dropout)
    return out.flatten(2, 3)[:, :, :length]


class Expert(nn.Module):
    """The feed-forward network of a task type, with its own LayerNorm. (B, T, C) -> (B, T, C)."""

    def __init__(self, dim: int, dropout: float):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.fc1, self.fc2 = zero_bias(nn.Linear(dim, 4 * dim)), zero_bias(nn.Linear(4 * dim, dim))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.fc2(self.dropout(F.gelu(self.fc1(self.norm(x))))))


class Block(nn.Module):
    """Transformer block: attention across modalities, then the task type's expert."""

    def __init__(self, config: ModelConfig, stride: int, task_types: list[str] | None):
        """Build a block; `task_types` each get an expert, None gives one expert for all."""
        super().__init__()
        dim, dropout = config.embd_dim, config.dropout
        self.stride, self.shared = stride, task_types is None
        self.own_norm, self.other_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = CrossAttention(dim, config.n_head, stride, dropout, config.attention_window)
        self.experts = PerTask({name: Expert(dim, dropout) for name in task_types or [SHARED]})
        self.attn_scale = nn.Parameter(torch.full((dim,), 1e-4))
        self.expert_scale = nn.Parameter(torch.full((dim,), 1e-4))
        self.drop_path = DropPath(config.drop_path)

    def forward(self, own: Tensor, other: Tensor, mask: Tensor, task_type: str) -> Tensor:
        """Update `own` (B, T, C) from `other` (B, T, C); mask (B, T/s, 1) of the output. Returns (B, T/s, C)."""
        attended = self.attn(self.own_norm(own), self.other_norm(other), mask)
        if self.stride > 1:
            kernel = self.stride + 1
            own = F.max_pool1d(own.transpose(1, 2), kernel, self.stride, padding=kernel // 2).transpose(1, 2)
        y = own * mask + self.drop_path(self.attn_scale * attended)
        expert = self.experts[SHARED if self.shared else task_type]
        return y + self.drop_path(self.expert_scale * (expert(y) * mask))


def zero_bias(layer: nn.Linear) -> nn.Linear:
    """Set a layer's bias to the published initial value of all convolutions (1×1 ones are linear layers here)."""
    nn.init.zeros_(layer.bias)
    return layer
