"""The network as one first writes it: eager float32, nothing fused, every level by itself (method.md §4).

Everything is channels-first. Shapes: B clips, T windows or grid points, C channels, K = number of classes or 1.
`p` is the network's parameters by name; mask (B, 1, T) bool.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from libs.core.config import ModelConfig
from libs.core.types import Batch, Prediction
from libs.modeling.points import make_points
from libs.modeling.uniav import UniAV

Parameters = Mapping[str, Tensor]


def plain_forward(model: UniAV, batch: Batch, task: str) -> Prediction:
    """Compute what `model(batch, task)` computes, in training (with drop path) and in evaluation."""
    p, config, spec = dict(model.named_parameters()), model.config, model.tasks[task]
    assert config.dropout == 0, "dropout is not written here"
    drop_path = config.drop_path if model.training else 0.0
    mask = batch.mask[:, None]
    visual, audio = batch.visual.float().transpose(1, 2), batch.audio.float().transpose(1, 2)
    for i in range(config.backbone_arch[0]):
        visual = conv_norm(p, f"backbone.embed.visual.{i}", visual, mask)
        audio = conv_norm(p, f"backbone.embed.audio.{i}", audio, mask)
    if config.use_abs_pe:
        rows = max(other.dataset.max_seq_len for other in model.tasks.values())
        squeeze = config.official_pos_embd and not model.training and mask.shape[2] >= spec.dataset.max_seq_len
        positions = position_encoding(rows, config.embd_dim, mask.shape[2], squeeze, visual.device)
        visual, audio = visual + positions * mask, audio + positions * mask

    def run(name: str, own: Tensor, other: Tensor, mask: Tensor, stride: int = 1) -> Tensor:
        return block(p, f"backbone.{name}", own, other, mask, spec.task_type, config.n_head, stride, drop_path)

    for i in range(config.backbone_arch[1] - 1):
        visual = run(f"stem.visual.{i}", visual, visual, mask)
        audio = run(f"stem.audio.{i}", audio, audio, mask)
    visual, audio = run("cross.visual", visual, audio, mask), run("cross.audio", audio, visual, mask)
    levels = [(visual, audio, mask)]
    for i in range(config.backbone_arch[2]):
        mask = mask[:, :, :: config.scale_factor]
        names = f"pyramid.visual.{i}", f"pyramid.audio.{i}"
        visual, audio = (
            run(name, own, other, mask, config.scale_factor)
            for name, own, other in zip(names, (visual, audio), (audio, visual), strict=True)
        )
        levels.append((visual, audio, mask))

    prompts = model.prompts[task]()
    logits, offsets, masks = [], [], []
    for level, (visual, audio, mask) in enumerate(levels):
        x = torch.cat([visual, audio], dim=1)  # (B, 2C, T)
        logits.append(class_logits(p, config, x, mask, prompts))
        offsets.append(boundary_offsets(p, config, x, mask, task, level))
        masks.append(mask[:, 0])
    points, sizes = make_points(config, batch.mask.shape[1])
    logits, offsets, point_mask = (torch.cat(parts, dim=1) for parts in (logits, offsets, masks))
    return Prediction(logits, offsets, point_mask, points.to(batch.mask.device), sizes)


def layer_norm(p: Parameters, name: str, x: Tensor) -> Tensor:
    """Normalize over channels."""
    mean = x.mean(dim=1, keepdim=True)
    variance = ((x - mean) ** 2).mean(dim=1, keepdim=True)
    return (x - mean) / torch.sqrt(variance + 1e-5) * p[f"{name}.weight"][:, None] + p[f"{name}.bias"][:, None]


def conv(p: Parameters, name: str, x: Tensor, mask: Tensor, stride: int = 1, groups: int = 1) -> Tensor:
    """Apply a masked convolution with `same` padding; a linear layer is one of kernel size 1."""
    weight = p[f"{name}.weight"]
    weight = weight[..., None] if weight.ndim == 2 else weight
    return F.conv1d(x, weight, p.get(f"{name}.bias"), stride, weight.shape[2] // 2, groups=groups) * mask


def conv_norm(p: Parameters, name: str, x: Tensor, mask: Tensor) -> Tensor:
    x = conv(p, f"{name}.conv", x, mask)
    return F.relu(layer_norm(p, f"{name}.norm", x) if f"{name}.norm.weight" in p else x)


def position_encoding(rows: int, dim: int, length: int, squeeze: bool, device: torch.device) -> Tensor:
    """Compute sines and cosines (1, dim, length) of a table with `rows` positions.

    Longer inputs interpolate the table; `squeeze` does so for shorter ones too, as the published evaluation.
    """
    column = torch.arange(dim, dtype=torch.float64, device=device)[:, None]
    angle = torch.arange(rows, dtype=torch.float64, device=device) / 10000 ** (2 * (column // 2) / dim)
    table = (torch.where(column % 2 == 0, angle.sin(), angle.cos()) / dim**0.5).float()[None]
    if length > rows or squeeze:
        return F.interpolate(table, size=length, mode="linear", align_corners=False)
    return table[:, :, :length]


def block(
    p: Parameters,
    name: str,
    own: Tensor,
    other: Tensor,
    mask: Tensor,
    task_type: str,
    n_head: int,
    stride: int,
    drop_path: float,
) -> Tensor:
    """Apply Block(own, other) of method.md §4. Returns (B, C, T/stride), the length of `mask`."""

    def project(part: str, x: Tensor) -> Tensor:
        x = conv(p, f"{name}.attn.{part}_conv", x, mask, stride, groups=x.shape[1])
        return conv(p, f"{name}.attn.{part}", layer_norm(p, f"{name}.attn.{part}_norm", x), torch.ones_like(mask))

    own_normed, other_normed = layer_norm(p, f"{name}.own_norm", own), layer_norm(p, f"{name}.other_norm", other)
    q, k, v = project("query", other_normed), project("key", own_normed), project("value", own_normed)
    attended = conv(p, f"{name}.attn.proj", attention(q, k, v, mask, n_head), mask)
    if stride > 1:
        own = F.max_pool1d(own, stride + 1, stride, padding=(stride + 1) // 2)
    y = own * mask + drop(p[f"{name}.attn_scale"][:, None] * attended, drop_path)

    expert = f"{name}.experts.{task_type}"
    hidden = F.gelu(conv(p, f"{expert}.fc1", layer_norm(p, f"{expert}.norm", y), torch.ones_like(mask)))
    return y + drop(p[f"{name}.expert_scale"][:, None] * conv(p, f"{expert}.fc2", hidden, mask), drop_path)


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
    keep = 1 - prob
    return x * (torch.rand(x.shape[0], 1, 1, device=x.device) < keep) / keep


def trunk(p: Parameters, config: ModelConfig, head: str, x: Tensor, mask: Tensor) -> Tensor:
    for i in range(config.head_num_layers - 1):
        x = conv_norm(p, f"{head}.trunk.{i}", x, mask)
    return x


def class_logits(p: Parameters, config: ModelConfig, x: Tensor, mask: Tensor, prompts: Tensor) -> Tensor:
    """Compare one level's x (B, 2C, T) with prompts (classes, text_dim). Returns (B, T, classes)."""
    points = F.normalize(conv(p, "cls_head.visual_proj", trunk(p, config, "cls_head", x, mask), mask))
    classes = F.normalize(prompts @ p["cls_head.prompt_proj.weight"].t() + p["cls_head.prompt_proj.bias"])
    return (classes @ points * p["cls_head.logit_scale"].exp() * mask).transpose(1, 2)


def boundary_offsets(p: Parameters, config: ModelConfig, x: Tensor, mask: Tensor, task: str, level: int) -> Tensor:
    """Regress offsets (B, T, K, 2) from one level's x (B, 2C, T)."""
    raw = conv(p, f"reg_head.offsets.{task}", trunk(p, config, "reg_head", x, mask), mask)
    return F.relu(raw * p[f"reg_head.level_scales.{level}"]).transpose(1, 2).unflatten(2, (-1, 2))
