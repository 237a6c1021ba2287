"""Peak memory of training, each variant in its own process."""

import re
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch

from benchmarks.case import BenchmarkCase, BenchmarkSettings, Variant, relative_error
from benchmarks.data import random_batch
from benchmarks.network import TOLERANCES, build_trainer
from libs.core.config import RunConfig


def build_memory_case(settings: BenchmarkSettings) -> BenchmarkCase:
    fastest = settings.precisions[-1]
    runs = settings.runs | {f"{fastest} checkpointing": settings.build_run(fastest, checkpointing=True)}
    measure = partial(run_in_process, train, settings)
    variants = [
        Variant(name, partial(measure, run), lambda a, b: relative_error([a[1]], [b[1]]), TOLERANCES[run.precision])
        for name, run in runs.items()
    ]
    where = "GPU memory allocated" if settings.device.type == "cuda" else "of the process"
    title = f"peak memory of training all tasks, {where}"
    return BenchmarkCase(title, "GB", partial(measure, None), variants, measure=itemgetter(0))


def run_in_process(function: Callable, *arguments: Any) -> Any:
    """Call a function in a new process, whose peak memory is its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
        return executor.submit(function, *arguments).result()


def train(settings: BenchmarkSettings, run: RunConfig | None) -> tuple[float, list[float]]:
    """Train two steps of the first and largest task while the other tasks' optimizer state exists.

    Args:
        run: None for the plain training.

    Returns:
        Peak memory in GB, and the losses of the last step.
    """
    torch.backends.cudnn.allow_tf32 = False  # as in benchmarks.__main__
    trainer = build_trainer(settings, run)
    first, *others = settings.config.tasks.values()
    losses = None
    for task, videos in (*((other, 1) for other in others), (first, first.batch_size), (first, first.batch_size)):
        batch = random_batch(settings.config, task, videos, settings.device, cropped=True)
        losses = trainer.compute_losses(task, batch)
        trainer.backward(task, losses)
        trainer.update()
    return measure_peak_gb(settings.device), [loss.item() for loss in losses or ()]


def measure_peak_gb(device: torch.device) -> float:
    """Return the most memory that this process has used, in GB; on a CPU, Linux says it."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    peak = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())  # getrusage may return the parent's
    return int(peak[1]) * 1024 / 1e9 if peak else 0.0
