"""Peak memory of training, each way in a process of its own: `python -m benchmarks.memory CONFIG DEVICE WAY`."""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from benchmarks.case import TOLERANCES, BenchmarkCase, Measured, NetworkVariant, Setting, Variant
from benchmarks.data import random_batch
from benchmarks.error_measures import relative_error
from benchmarks.network import make_plain_training, make_trainer
from libs.core.configfile import load_config

ROOT = Path(__file__).resolve().parent.parent
BYTES_PER_GB = 1e9


def cases(setting: Setting) -> dict[str, Callable[[], BenchmarkCase]]:
    return {"memory": partial(memory_case, setting)}


def memory_case(setting: Setting) -> BenchmarkCase:
    ways = setting.network_variants
    ways.append(NetworkVariant(ways[-1].precision, checkpointing=True))
    variants = [
        Variant(way.name, partial(in_child, setting, way), _losses_error, TOLERANCES[way.precision]) for way in ways
    ]
    where = "GPU memory allocated" if setting.on_gpu else "of the process"
    plain, once = partial(in_child, setting, None), ("plain", *(variant.name for variant in variants))
    return BenchmarkCase(f"peak memory of training all tasks, {where}", "GB", plain, variants, once=once)


def _losses_error(expected: list[float], found: list[float]) -> float:
    return relative_error([torch.tensor(expected)], [torch.tensor(found)])


def in_child(setting: Setting, way: NetworkVariant | None) -> Measured:
    """`train` in a new process: peak memory in GB and the last losses. way None: the plain training."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config.yaml"
        config.write_text(setting.config.to_yaml(), encoding="utf-8")
        name = "plain" if way is None else json.dumps(way)
        command = [sys.executable, "-m", "benchmarks.memory", str(config), str(setting.device), name]
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return Measured(*json.loads(done.stdout.splitlines()[-1]))


def train(setting: Setting, way: NetworkVariant | None) -> tuple[float, list[float]]:
    """Two steps of the first task, the largest, when the other tasks' optimizer state is there already."""
    training = make_plain_training(setting) if way is None else make_trainer(setting, way)
    first, *others = setting.config.tasks.values()
    for task, videos in (*((other, 1) for other in others), (first, first.batch_size), (first, first.batch_size)):
        batch = random_batch(setting.config, task, videos, setting.device, cropped=True)
        losses = training.compute_losses(task, batch)
        training.backward(task, losses)
        training.update()
    return peak_bytes(setting.device) / BYTES_PER_GB, [loss.item() for loss in losses]


def peak_bytes(device: torch.device) -> int:
    """The most memory that this process has used."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.exists():  # getrusage's would be that of the process that started this one, if that is larger
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", metavar="CONFIG")
    parser.add_argument("device", metavar="DEVICE")
    parser.add_argument("way", metavar="WAY", help="plain, or the fields of a NetworkVariant as JSON")
    args = parser.parse_args()
    torch.backends.cudnn.allow_tf32 = False  # as benchmarks.__main__
    way = None if args.way == "plain" else NetworkVariant(*json.loads(args.way))
    print(json.dumps(train(Setting(load_config(args.config, []), torch.device(args.device)), way)))


if __name__ == "__main__":
    main()
