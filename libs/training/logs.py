"""The log of a run (metrics.jsonl and TensorBoard), and the means and rates in it."""

import json
import math
from pathlib import Path
from typing import NamedTuple

import torch
from torch.utils.tensorboard import SummaryWriter

from libs.core.files import replacing
from libs.modeling.losses import Losses
from libs.training.distributed import DistributedContext


class Throughput(NamedTuple):
    """A time within an epoch: the videos trained so far, and the seconds spent waiting for data."""

    videos: int
    time_s: float
    waited_s: float

    def since(self, earlier: "Throughput") -> tuple[float, float]:
        """Return videos/s and the share of the time spent waiting for data since an earlier time."""
        elapsed_s = self.time_s - earlier.time_s
        return (self.videos - earlier.videos) / elapsed_s, (self.waited_s - earlier.waited_s) / elapsed_s


class LossMeter:
    """Mean losses of a task between two log lines, and the sum of its total loss over the steps that were read."""

    def __init__(self):
        self.sums: dict[str, torch.Tensor] = {}
        self.count = 0
        self.read_total, self.read_steps = 0.0, 0

    def add(self, losses: Losses, grad_norm: torch.Tensor) -> None:
        """Add a step's losses and gradient norm, without waiting for a GPU."""
        self.count += 1
        for name, value in (*losses._asdict().items(), ("grad_norm", grad_norm)):
            self.sums[name] = self.sums[name] + value.detach() if name in self.sums else value.detach()

    def read(self, ctx: DistributedContext) -> dict[str, float]:
        """Return the means over the steps since the last call and over ranks."""
        means = ctx.mean(torch.stack(list(self.sums.values())).float() / self.count)
        result = dict(zip(self.sums, means.tolist(), strict=True))
        self.read_total += result["total"] * self.count
        self.read_steps += self.count
        self.sums, self.count = {}, 0
        return result


class RunLog:
    """Rank 0's log of a run. On other ranks `folder` is None and nothing is written."""

    def __init__(self, folder: Path | None, step: int = 0):
        """Open the log; a run resumed at `step` drops what was logged after that step."""
        self.path = folder and folder / "metrics.jsonl"
        self.writer = folder and SummaryWriter(str(folder / "tensorboard"), purge_step=step or None)
        if self.path and self.path.exists():
            lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines()
            with replacing(self.path) as temporary:
                temporary.write_text("".join(f"{line}\n" for line in lines if _step_of(line) <= step))

    def write(self, step: int, kind: str, **values) -> None:
        """Write a line {"step", "kind", …} of kind "train" or "eval"; numbers also go to TensorBoard."""
        if self.path is None or self.writer is None:
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
    """Return a line's step; infinity for a line that an interrupted run left half-written."""
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return math.inf
