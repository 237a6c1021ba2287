"""What a run leaves to read, metrics.jsonl and TensorBoard, and the means and rates in it."""

import json
import math
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from torch.utils.tensorboard import SummaryWriter

from libs.core.files import replacing
from libs.modeling.losses import Losses
from libs.training.distributed import DistributedContext


class Throughput(NamedTuple):
    """How far an epoch has come at a time, and how much of it was spent waiting for data."""

    videos: int
    at_s: float
    waited_s: float

    def since(self, earlier: "Throughput") -> tuple[float, float]:
        """Videos/s, and the share of waiting."""
        elapsed_s = self.at_s - earlier.at_s
        return (self.videos - earlier.videos) / elapsed_s, (self.waited_s - earlier.waited_s) / elapsed_s


@dataclass
class LossMeter:
    """Sums of a task's losses since they were last read, and of the total ones that were read before."""

    sums: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    count: int = 0
    read_total: float = 0.0
    read_steps: int = 0

    def add(self, losses: Losses, grad_norm: torch.Tensor) -> None:
        self.count += 1
        for name, value in (*losses._asdict().items(), ("grad_norm", grad_norm)):
            self.sums[name] += value.detach()

    def read(self, ctx: DistributedContext) -> dict[str, float]:
        """Means, over ranks too; starts again."""
        means = ctx.mean(torch.stack(list(self.sums.values())).float() / self.count)
        result = dict(zip(self.sums, means.tolist(), strict=True))
        self.read_total += result["total"] * self.count
        self.read_steps += self.count
        self.sums.clear()
        self.count = 0
        return result

    @property
    def mean_total(self) -> float:
        """Of all that was read."""
        return self.read_total / self.read_steps


class RunLog:
    """Rank 0's log of a run. Other ranks make one with folder None; it then does nothing."""

    def __init__(self, folder: Path | None, step: int = 0):
        """A run resumed at `step` leaves out what an interrupted one had logged beyond it."""
        self.path = folder and folder / "metrics.jsonl"
        self.writer = folder and SummaryWriter(str(folder / "tensorboard"), purge_step=step or None)
        if self.path and self.path.exists():
            lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines()
            with replacing(self.path) as temporary:
                temporary.write_text("".join(f"{line}\n" for line in lines if _step_of(line) <= step))

    def write(self, step: int, kind: str, **values) -> None:
        """A line {"step", "kind", …}, kind "train" or "eval"; numbers also go to TensorBoard under kind/task/…"""
        if self.path is None:
            return
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, "kind": kind, **values}) + "\n")
        prefix = "/".join(part for part in (kind, values.get("task")) if part)
        for key, value in values.items():
            if isinstance(value, int | float) and key != "epoch":
                self.writer.add_scalar(f"{prefix}/{key}", value, step)

    def close(self) -> None:
        if self.writer:
            self.writer.close()


def _step_of(line: str) -> float:
    """Infinity for a line that an interrupted run left half-written."""
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return math.inf
