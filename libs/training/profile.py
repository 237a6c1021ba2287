"""Profile training steps."""

from pathlib import Path

import torch
from torch.profiler import ProfilerActivity

from libs.core.files import make_folder, replacing
from libs.training.trainer import Trainer

WARMUP_STEPS, PROFILED_STEPS, SHOWN_OPERATORS = 2, 3, 10


def profile_steps(trainer: Trainer, folder: Path) -> str:
    """Train a few steps under PyTorch's profiler and write folder/trace.json (for chrome://tracing or Perfetto).

    Returns:
        a table of the ten most expensive operators. The trainer must not be used afterwards.
    """
    make_folder(folder)
    on_gpu = trainer.ctx.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    trainer.model.train()
    meters = trainer.build_meters()
    for _ in range(WARMUP_STEPS):
        trainer.train_step(meters)
    with torch.profiler.profile(activities=activities) as profile:
        for _ in range(PROFILED_STEPS):
            trainer.train_step(meters)
    with replacing(folder / "trace.json") as temporary:
        profile.export_chrome_trace(str(temporary))
    key = "self_cuda_time_total" if on_gpu else "self_cpu_time_total"
    return profile.key_averages().table(sort_by=key, row_limit=SHOWN_OPERATORS, max_name_column_width=40)
