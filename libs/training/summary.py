"""Size of a network, and the work of a video."""

from collections.abc import Iterable

import torch
from tabulate import tabulate
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from libs.core.config import Config, TaskSpec
from libs.core.types import Batch
from libs.modeling.uniav import UniAV


def summarize(config: Config, tasks: list[TaskSpec]) -> tuple[str, dict]:
    """Count the network's parameters, and the FLOPs of a clip of each task's max_seq_len; nothing is computed.

    FLOPs are those of matrix products in the forward pass, two per multiply-add, without a text encoder.

    Returns:
        a table for people, and {"parameters", "by_part", "tasks": {key: {"parameters", "flops_a_video"}}}.
    """
    with FakeTensorMode():
        model = UniAV(config).eval()
        parts = {
            "embedding": [model.backbone.embed],
            "stem": [model.backbone.stem],
            "cross blocks and pyramid": [model.backbone.cross, model.backbone.pyramid],
            "classification head": [model.cls_head, model.prompts],
            "regression head": [model.reg_head],
        }
        by_part = {name: _count(p for part in modules for p in part.parameters()) for name, modules in parts.items()}
        total = _count(model.parameters())
        parameters = {task.key: _count(model.task_parameters(task.key)) for task in tasks}
        flops = {task.key: count_flops(model, task) for task in tasks}
    sizes = ", ".join(f"{name} {n / 1e6:.2f}" for name, n in by_part.items())
    rows = [
        [f"{t.key} {t.task_type}", parameters[t.key] / 1e6, flops[t.key] / 1e9, t.dataset.max_seq_len] for t in tasks
    ]
    headers = ["task", "uses, M parameters", "GFLOP a video, forward", "of windows"]
    text = f"{total / 1e6:.2f} M parameters: {sizes}\n{tabulate(rows, headers=headers, floatfmt='.2f')}"
    of_tasks = {t.key: {"parameters": parameters[t.key], "flops_a_video": flops[t.key]} for t in tasks}
    return text, {"parameters": total, "by_part": by_part, "tasks": of_tasks}


def count_flops(model: UniAV, task: TaskSpec) -> int:
    """Count the forward FLOPs of one clip of max_seq_len windows in a network of fake tensors, whose prompts change."""
    config, length = model.config, task.dataset.max_seq_len
    batch = Batch(
        torch.empty(1, length, config.input_dim_visual),
        torch.empty(1, length, config.input_dim_audio),
        torch.ones(1, length, dtype=torch.bool),
        torch.empty(1, 1, 2),
        torch.empty(1, 1, dtype=torch.int64),
        (),
    )
    if model.uses_prompts:
        model.override_prompts(task.key, torch.empty(task.dataset.num_classes, config.text_dim))
    # The counter does not know the fused attention of CPUs; the MATH backend writes attention as two products.
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        model(batch, task.key)
    return counter.get_total_flops()


def _count(parameters: Iterable[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)
