"""Peak memory of training, each variant in its own process: `python -m benchmarks.memory CONFIG DEVICE VARIANT`.

VARIANT is "plain", or the fields of RunOptions as JSON.
"""

import json
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.case import TOLERANCES, BenchmarkCase, BenchmarkSettings, Builders, Measurement, RunOptions, Variant
from benchmarks.data import random_batch
from benchmarks.error_measures import relative_error
from benchmarks.machine import ROOT
from benchmarks.network import build_trainer
from libs.core.configfile import load_config


def list_cases(settings: BenchmarkSettings) -> Builders:
    return {"memory": partial(build_memory_case, settings)}


def build_memory_case(settings: BenchmarkSettings) -> BenchmarkCase:
    def compute_error(expected: list[float], found: list[float]) -> float:
        return relative_error([torch.tensor(expected)], [torch.tensor(found)])

    all_options = settings.run_options
    all_options.append(RunOptions(all_options[-1].precision, checkpointing=True))
    runs = {options: partial(measure_training, settings, options) for options in all_options}
    variants = [Variant(o.name, run, compute_error, TOLERANCES[o.precision]) for o, run in runs.items()]
    title = f"peak memory of training all tasks, {'GPU memory allocated' if settings.on_gpu else 'of the process'}"
    return BenchmarkCase(title, "GB", partial(measure_training, settings, None), variants, once=True)


def measure_training(settings: BenchmarkSettings, options: RunOptions | None) -> Measurement:
    """Run `train` in a new process. Returns peak memory in GB and the last losses."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config.yaml"
        config.write_text(settings.config.to_yaml(), encoding="utf-8")
        variant = "plain" if options is None else json.dumps(options)
        return Measurement(*run_in_process("benchmarks.memory", config, settings.device, variant))


def run_in_process(module: str, *arguments: object) -> Any:
    """Run `python -m MODULE ARGUMENTS`. Returns the last line that it prints, parsed as JSON."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def train(settings: BenchmarkSettings, options: RunOptions | None) -> tuple[float, list[float]]:
    """Train two steps of the first and largest task while the other tasks' optimizer state exists.

    Args:
        options: None for the plain training.

    Returns:
        Peak memory in GB, and the losses of the last step.
    """
    trainer = build_trainer(settings, options)
    first, *others = settings.config.tasks.values()
    losses = None
    for task, videos in (*((other, 1) for other in others), (first, first.batch_size), (first, first.batch_size)):
        batch = random_batch(settings.config, task, videos, settings.device, cropped=True)
        losses = trainer.compute_losses(task, batch)
        trainer.backward(task, losses)
        trainer.update()
    return measure_peak_gb(settings.device), [loss.item() for loss in losses or ()]


def measure_peak_gb(device: torch.device) -> float:
    """Return the most memory that this process has used, in GB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    status = Path("/proc/self/status")
    if status.exists():  # getrusage may report the peak of the parent process
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e9
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


if __name__ == "__main__":
    config_file, device_name, variant_name = sys.argv[1:]
    torch.backends.cudnn.allow_tf32 = False  # as in benchmarks.__main__
    options = None if variant_name == "plain" else RunOptions(*json.loads(variant_name))
    print(json.dumps(train(BenchmarkSettings(load_config(config_file, []), torch.device(device_name)), options)))
