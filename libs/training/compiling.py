"""torch.compile and CUDA graphs for training (run.compile)."""

import warnings

import torch

from libs.core.config import RunConfig
from libs.core.errors import ConfigError
from libs.modeling.uniav import UniAV


def compile_network(model: UniAV, config: RunConfig, device: torch.device) -> None:
    """Have the network's parts compiled when they are first called with a task; nothing for `compile: none`.

    For training, where every batch of a task has one shape. Evaluation meets videos of many lengths, each of which
    would be compiled again. Names of parameters stay. Raises ConfigError for CUDA graphs without a GPU.
    """
    if config.compile == "none":
        return
    if config.compile == "cuda_graphs" and device.type != "cuda":
        raise ConfigError("run.compile: cuda_graphs needs a GPU, and none is found; choose inductor or none")
    # What is compiled for a task counts against this limit, beyond which PyTorch would silently go on uncompiled.
    torch._dynamo.config.cache_size_limit = max(torch._dynamo.config.cache_size_limit, len(model.tasks))
    # It advises tf32 for the products that are float32 on purpose.
    warnings.filterwarnings("ignore", message="TensorFloat32 tensor cores", category=UserWarning)
    mode = "reduce-overhead" if config.compile == "cuda_graphs" else "default"
    for part in (model.backbone, model.cls_head, model.reg_head):
        part.compile(mode=mode, dynamic=False)
