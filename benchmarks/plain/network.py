"""The network as one first writes it: eager float32, nothing fused, every level by itself (method.md §4).

Everything is channels-first. Shapes: B clips, T windows or grid points, C channels, K = number of classes or 1;
mask (B, 1, T) bool.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from libs.core.types import MODALITIES, Batch, Prediction
from libs.modeling.points import make_points
from libs.modeling.uniav import UniAV


def plain_forward(model: UniAV, batch: Batch, task: str) -> Prediction:
    """Compute what `model(batch, task)` computes, in training (with drop path) and in evaluation."""
    return _PlainNetwork(model, task).forward(batch)


class _PlainNetwork:
    def __init__(self, model: UniAV, task: str):
        assert model.config.dropout == 0, "dropout is not written here"
        self.model, self.task, self.config, self.spec = model, task, model.config, model.tasks[task]
        self.p = dict(model.named_parameters())

    def forward(self, batch: Batch) -> Prediction:
        config, mask = self.config, batch.mask[:, None]
        embeddings, stem, pyramid = config.backbone_arch
        streams = [features.float().transpose(1, 2) for features in (batch.visual, batch.audio)]
        for i in range(embeddings):
            pairs = zip(MODALITIES, streams, strict=True)
            streams = [self.conv_norm(f"backbone.embed.{modality}.{i}", x, mask) for modality, x in pairs]
        if config.use_abs_pe:
            positions = self.position_encoding(mask.shape[2]).to(mask.device) * mask
            streams = [x + positions for x in streams]
        for i in range(stem - 1):
            streams = [self.block(f"stem.{m}.{i}", x, x, mask) for m, x in zip(MODALITIES, streams, strict=True)]
        streams = self.cross("cross.{}", streams, mask)
        levels = [(torch.cat(streams, dim=1), mask)]
        for i in range(pyramid):
            mask = mask[:, :, :: config.scale_factor]
            streams = self.cross(f"pyramid.{{}}.{i}", streams, mask, config.scale_factor)
            levels.append((torch.cat(streams, dim=1), mask))

        prompts = self.model.prompts[self.task]()
        logits = torch.cat([self.class_logits(x, mask, prompts) for x, mask in levels], dim=1)
        offsets = torch.cat([self.boundary_offsets(x, mask, i) for i, (x, mask) in enumerate(levels)], dim=1)
        point_mask = torch.cat([mask[:, 0] for _, mask in levels], dim=1)
        points, sizes = make_points(config, batch.mask.shape[1])
        return Prediction(logits, offsets, point_mask, points.to(batch.mask.device), sizes)

    def layer_norm(self, name: str, x: Tensor) -> Tensor:
        """Normalize over channels."""
        mean = x.mean(dim=1, keepdim=True)
        normed = (x - mean) / torch.sqrt(((x - mean) ** 2).mean(dim=1, keepdim=True) + 1e-5)
        return normed * self.p[f"{name}.weight"][:, None] + self.p[f"{name}.bias"][:, None]

    def conv(self, name: str, x: Tensor, mask: Tensor | float = 1.0, stride: int = 1, groups: int = 1) -> Tensor:
        """Apply a masked convolution with `same` padding; a linear layer is one of kernel size 1."""
        weight = self.p[f"{name}.weight"]
        weight = weight[..., None] if weight.ndim == 2 else weight
        return F.conv1d(x, weight, self.p.get(f"{name}.bias"), stride, weight.shape[2] // 2, groups=groups) * mask

    def conv_norm(self, name: str, x: Tensor, mask: Tensor) -> Tensor:
        x = self.conv(f"{name}.conv", x, mask)
        return F.relu(self.layer_norm(f"{name}.norm", x) if f"{name}.norm.weight" in self.p else x)

    def position_encoding(self, length: int) -> Tensor:
        """Compute the table of sines and cosines (1, C, length).

        Longer inputs interpolate the table; the published evaluation does so for shorter ones too.
        """
        rows, dim = max(task.dataset.max_seq_len for task in self.model.tasks.values()), self.config.embd_dim
        column = torch.arange(dim, dtype=torch.float64)[:, None]
        angle = torch.arange(rows, dtype=torch.float64) / 10000 ** (2 * (column // 2) / dim)
        table = (torch.where(column % 2 == 0, angle.sin(), angle.cos()) / dim**0.5).float()[None]
        squeeze = self.config.official_pos_embd and not self.model.training and length >= self.spec.dataset.max_seq_len
        if length > rows or squeeze:
            return F.interpolate(table, size=length, mode="linear", align_corners=False)
        return table[:, :, :length]

    def cross(self, name: str, streams: list[Tensor], mask: Tensor, stride: int = 1) -> list[Tensor]:
        """Apply a block to each modality, with the other one's queries."""
        pairs = zip(MODALITIES, streams, reversed(streams), strict=True)
        return [self.block(name.format(modality), own, other, mask, stride) for modality, own, other in pairs]

    def block(self, name: str, own: Tensor, other: Tensor, mask: Tensor, stride: int = 1) -> Tensor:
        """Apply Block(own, other) of method.md §4. Returns (B, C, T/stride), the length of `mask`."""
        name = f"backbone.{name}"
        drop_path = self.config.drop_path if self.model.training else 0.0

        def project(part: str, x: Tensor) -> Tensor:
            x = self.conv(f"{name}.attn.{part}_conv", x, mask, stride, groups=x.shape[1])
            return self.conv(f"{name}.attn.{part}", self.layer_norm(f"{name}.attn.{part}_norm", x))

        own_normed, other_normed = (
            self.layer_norm(f"{name}.own_norm", own),
            self.layer_norm(f"{name}.other_norm", other),
        )
        q, k, v = project("query", other_normed), project("key", own_normed), project("value", own_normed)
        attended = self.conv(f"{name}.attn.proj", attention(q, k, v, mask, self.config.n_head), mask)
        if stride > 1:
            own = F.max_pool1d(own, stride + 1, stride, padding=(stride + 1) // 2)
        y = own * mask + drop(self.p[f"{name}.attn_scale"][:, None] * attended, drop_path)

        expert = f"{name}.experts.{self.spec.task_type}"
        hidden = F.gelu(self.conv(f"{expert}.fc1", self.layer_norm(f"{expert}.norm", y)))
        return y + drop(self.p[f"{name}.expert_scale"][:, None] * self.conv(f"{expert}.fc2", hidden, mask), drop_path)

    def trunk(self, head: str, x: Tensor, mask: Tensor) -> Tensor:
        for i in range(self.config.head_num_layers - 1):
            x = self.conv_norm(f"{head}.trunk.{i}", x, mask)
        return x

    def class_logits(self, x: Tensor, mask: Tensor, prompts: Tensor) -> Tensor:
        """Compare one level's x (B, 2C, T) with prompts (classes, text_dim). Returns (B, T, classes)."""
        points = F.normalize(self.conv("cls_head.visual_proj", self.trunk("cls_head", x, mask), mask))
        weight, bias = self.p["cls_head.prompt_proj.weight"], self.p["cls_head.prompt_proj.bias"]
        classes = F.normalize(prompts @ weight.t() + bias)
        return (classes @ points * self.p["cls_head.logit_scale"].exp() * mask).transpose(1, 2)

    def boundary_offsets(self, x: Tensor, mask: Tensor, level: int) -> Tensor:
        """Regress offsets (B, T, K, 2) from one level's x (B, 2C, T)."""
        raw = self.conv(f"reg_head.offsets.{self.task}", self.trunk("reg_head", x, mask), mask)
        return F.relu(raw * self.p[f"reg_head.level_scales.{level}"]).transpose(1, 2).unflatten(2, (-1, 2))


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, n_head: int) -> Tensor:
    """Attend with q, k, v (B, C, T) over valid keys."""
    q, k, v = (x.unflatten(1, (n_head, -1)) for x in (q, k, v * mask))  # (B, heads, C/heads, T)
    weights = q.transpose(2, 3) @ k / q.shape[2] ** 0.5  # (B, heads, queries, keys)
    weights = weights.masked_fill(~mask[:, None], -torch.inf).softmax(dim=3)
    return (v @ weights.transpose(2, 3)).flatten(1, 2)


def drop(x: Tensor, prob: float) -> Tensor:
    """Drop the branch of whole samples with a probability, and scale the others up."""
    if prob == 0:
        return x
    return x * (torch.rand(x.shape[0], 1, 1, device=x.device) < 1 - prob) / (1 - prob)
