"""Compile the network for training (run.compile)."""

import warnings

import torch

from libs.core.config import RunConfig
from libs.core.errors import ConfigError
from libs.modeling.uniav import UniAV


def compile_network(model: UniAV, config: RunConfig, device: torch.device) -> None:
    """Compile the network's parts on their first call with a task; do nothing for `compile: none`.

    Training batches of a task have one shape. Evaluation is not compiled, since each video length would compile anew.

    Raises:
        ConfigError: for CUDA graphs without a GPU.
    """
    if config.compile == "none":
        return
    if config.compile == "cuda_graphs" and device.type != "cuda":
        raise ConfigError("run.compile: cuda_graphs needs a GPU, and none is found; choose inductor or none")
    # Each task compiles once; beyond this limit PyTorch would silently run uncompiled.
    torch._dynamo.config.cache_size_limit = max(torch._dynamo.config.cache_size_limit, len(model.tasks))
    # PyTorch advises tf32, but float32 is meant.
    warnings.filterwarnings("ignore", message="TensorFloat32 tensor cores", category=UserWarning)
    mode = "reduce-overhead" if config.compile == "cuda_graphs" else "default"
    for part in (model.backbone, model.cls_head, model.reg_head):
        part.compile(mode=mode, dynamic=False)
