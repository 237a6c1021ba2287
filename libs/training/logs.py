"""What a run leaves to read: metrics.jsonl and TensorBoard."""

import json
import math
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from libs.core.files import replacing


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
