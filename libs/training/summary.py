"""How large a network is, and how much work a video is to it."""

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
    """Parameters in all, by part and of each of `tasks`, and the FLOPs of a clip of the task's max_seq_len: a table for
    people, and a tree {"parameters", "by_part", "tasks": {key: {"parameters", "flops_a_video"}}}.

    FLOPs are those of matrix products forward, a multiplication and an addition being two; a text encoder (`prompts:
    context`) is not counted. Nothing is computed.
    """
    with FakeTensorMode():
        model = UniAV.from_config(config).eval()
        of_tasks = {
            task.key: {"parameters": _count(model.task_parameters(task.key)), "flops_a_video": flops_a_video(model, task)}
            for task in tasks
        }
    parts = {
        "embedding": [model.backbone.embed],
        "stem": [model.backbone.stem],
        "cross blocks and pyramid": [model.backbone.cross, model.backbone.pyramid],
        "classification head": [model.cls_head, model.prompts],
        "regression head": [model.reg_head],
    }
    by_part = {name: _count(p for part in modules for p in part.parameters()) for name, modules in parts.items()}
    total = _count(model.parameters())
    sizes = ", ".join(f"{name} {n / 1e6:.2f}" for name, n in by_part.items())
    rows = [
        [
            f"{task.key} {task.task_type}",
            tree["parameters"] / 1e6,
            tree["flops_a_video"] / 1e9,
            task.dataset.max_seq_len,
        ]
        for task, tree in zip(tasks, of_tasks.values(), strict=True)
    ]
    headers = ["task", "uses, M parameters", "GFLOP a video, forward", "of windows"]
    text = f"{total / 1e6:.2f} M parameters: {sizes}\n{tabulate(rows, headers=headers, floatfmt='.2f')}"
    return text, {"parameters": total, "by_part": by_part, "tasks": of_tasks}


def flops_a_video(model: UniAV, task: TaskSpec) -> int:
    """Of one clip of max_seq_len windows, forward; model: of fake tensors."""
    config, length = model.config, task.dataset.max_seq_len
    batch = Batch(
        torch.empty(1, length, config.input_dim_visual),
        torch.empty(1, length, config.input_dim_audio),
        torch.ones(1, length, dtype=torch.bool),
        torch.empty(1, 1, 2),
        torch.empty(1, 1, dtype=torch.int64),
        (),
    )
    model.override_prompts(task.key, torch.empty(task.dataset.num_classes, config.text_dim))
    # The fused kernels of CPUs are unknown to the counter; written out, attention is two products.
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        model(batch, task.key)
    return counter.get_total_flops()


def _count(parameters: Iterable[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)
