"""Parameter names of other checkpoints: the published ones, and those of earlier versions of this project.

The rules below turn our names into the published ones, applied in order. Shapes differ only by axes of length 1 (1×1
convolutions are linear layers here, norms are vectors). Many published shapes coincide, so a wrong rule would load
silently: tests/golden.py checks the numbers.
"""

import re

import torch
from torch import Tensor

PREFIX = "module."
_RULES = [
    (r"backbone\.embed\.(\w+)\.(\d+)\.conv\.", r"backbone.embd_<\1>.\2.conv."),
    (r"backbone\.embed\.(\w+)\.(\d+)\.norm\.", r"backbone.embd_norm_<\1>.\2."),
    (r"backbone\.stem\.(\w+)\.", r"backbone.self_att_<\1>."),
    (r"backbone\.cross\.visual\.", r"backbone.ori_cross_att_Va."),
    (r"backbone\.cross\.audio\.", r"backbone.ori_cross_att_Av."),
    (r"backbone\.pyramid\.visual\.", r"backbone.cross_att_Va."),
    (r"backbone\.pyramid\.audio\.", r"backbone.cross_att_Av."),
    (r"<visual>", "V"),
    (r"<audio>", "A"),
    (r"\.own_norm\.", ".ln11."),
    (r"\.other_norm\.", ".ln12."),
    (r"\.attn\.(\w+)_conv\.", r".attn.\1_conv.conv."),
    (r"\.experts\.(\w+)\.norm\.", r".ln2_\1."),
    (r"\.experts\.(\w+)\.fc1\.", r".mlp_\1.0."),
    (r"\.experts\.(\w+)\.fc2\.", r".mlp_\1.3."),
    (r"\.attn_scale$", ".drop_path_attn.scale"),
    (r"\.expert_scale$", ".drop_path_mlp.scale"),
    (r"_head\.trunk\.(\d+)\.conv\.", r"_head.head.\1.conv."),
    (r"_head\.trunk\.(\d+)\.norm\.", r"_head.norm.\1."),
    (r"\.visual_proj\.", ".vis_proj.conv."),
    (r"\.prompt_proj\.", ".clip_proj."),
    (r"\.offsets\.(\w+)\.", r".offset_head.\1.conv."),
    (r"\.level_scales\.(\d+)$", r".scale.\1.scale"),
]


def published_name(name: str) -> str:
    """Return the published name of one of our parameters."""
    for pattern, replacement in _RULES:
        name = re.sub(pattern, replacement, name)
    return PREFIX + name


def from_published(state: dict[str, Tensor], ours: dict[str, Tensor]) -> dict[str, Tensor]:
    """Convert a published state_dict to the names and shapes of `ours`, the network's state_dict.

    Names and shapes that do not fit are left as they are, for the caller's comparison; so is a state_dict of ours.
    """
    names = {published_name(name): name for name in ours}
    fitted = {}
    for key, value in state.items():
        name = names.get(key, key)
        squeezed = [n for n in value.shape if n != 1]
        same = name in ours and squeezed == [n for n in ours[name].shape if n != 1]
        fitted[name] = torch.reshape(value, ours[name].shape) if same else value
    return fitted


def rename_earlier_parameters(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give parameters of this project's earlier versions their present names."""
    return {re.sub(r"^learned_prompts\.(\w+)$", r"prompts.\1.learned", name): x for name, x in state.items()}
