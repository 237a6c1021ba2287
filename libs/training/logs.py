"""What a run leaves to read: metrics.jsonl and TensorBoard."""

import json
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
            lines = [line for line in self.path.read_text().splitlines() if json.loads(line)["step"] <= step]
            with replacing(self.path) as temporary:
                temporary.write_text("".join(f"{line}\n" for line in lines))

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
