"""torch.compile and CUDA graphs for the network (run.compile)."""

import torch

from libs.core.config import RunConfig
from libs.core.errors import ConfigError
from libs.modeling.uniav import UniAV

# Each task, in training and in evaluation, is compiled for itself, evaluation for a few padded lengths besides;
# PyTorch's limit of 8 would leave the last of them uncompiled, with a warning that nobody reads.
VARIANTS = 64


def compile_network(model: UniAV, config: RunConfig, device: torch.device, training: bool) -> None:
    """Compile the network's parts in place, each time it is called with something new; nothing for compile: none.

    In training every batch of a task has one shape; evaluation has a few. Parameters' names stay. Raises ConfigError
    for CUDA graphs without a GPU.
    """
    if config.compile == "none":
        return
    if config.compile == "cuda_graphs" and device.type != "cuda":
        raise ConfigError("run.compile: cuda_graphs needs a GPU, and none is found; choose inductor or none")
    torch._dynamo.config.cache_size_limit = VARIANTS  # newer releases' recompile_limit, which this also sets
    mode = "reduce-overhead" if config.compile == "cuda_graphs" else "default"
    for part in (model.backbone, model.cls_head, model.reg_head):
        part.compile(mode=mode, dynamic=False if training else None)
