"""One process or many, started by python, torchrun or torch.distributed.launch: NCCL on GPUs, gloo on CPUs."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist

from libs.core.errors import ConfigError, UserError, is_out_of_memory

T = TypeVar("T")


@dataclass(frozen=True)
class DistributedContext:
    """This process's rank among `world_size`, its device, and the precision of its matrix products (run.precision)."""

    rank: int
    world_size: int
    device: torch.device
    precision: str = "float32"

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def autocast(self) -> torch.autocast:
        """Return the context in which the network runs, with bf16 matrix products if run.precision says so."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def run_on_all(self, function: Callable[[], T]) -> T:
        """Call a function on every rank and return each rank's own result.

        If it raises a UserError on any rank, all ranks end: the first of these with the error, the others silently.
        """
        result, error = None, None
        try:
            result = function()
        except UserError as caught:
            error = caught
        errors = self.all_gather(error)
        if failed := [rank for rank, e in enumerate(errors) if e is not None]:
            if failed[0] != self.rank or error is None:
                sys.exit(2)
            raise error
        return cast(T, result)

    def run_on_first(self, function: Callable[[], T]) -> T:
        """Call a function on rank 0 alone and return its result on every rank; errors are as in run_on_all."""
        return self.all_gather(self.run_on_all(lambda: function() if self.is_first else None))[0]

    def all_gather(self, value: Any) -> list[Any]:
        """Return every rank's value, on every rank."""
        if self.world_size == 1:
            return [value]
        box: list[Any] = [None] * self.world_size
        dist.all_gather_object(box, value)
        return box

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """Average over ranks, elementwise."""
        if self.world_size > 1:
            dist.all_reduce(values)
        return values / self.world_size


def has_bf16() -> bool:
    """Return whether this CPU has bf16 instructions; without them bf16 works, but very slowly."""
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()


@contextmanager
def init_distributed(local_rank: int | None, precision: str) -> Iterator[DistributedContext]:
    """Join the process group that a launcher described in the environment, if any, and leave it at the end.

    Args:
        local_rank: of --local_rank; None: of the variable LOCAL_RANK.
        precision: run.precision.

    Raises:
        ConfigError: if there are more ranks than GPUs, or when memory runs out.
    """
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"  # PyTorch's default allows tf32 in convolutions
    world = int(os.environ.get("WORLD_SIZE", 1))
    local = int(os.environ.get("LOCAL_RANK", 0)) if local_rank is None else local_rank
    device = torch.device("cpu")
    if torch.cuda.is_available():
        if local >= torch.cuda.device_count():
            raise ConfigError(f"rank {local} has no GPU, {torch.cuda.device_count()} found; start one process a GPU")
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    ctx = DistributedContext(int(os.environ.get("RANK", 0)), world, device, precision)
    if precision == "bf16" and device.type == "cpu" and ctx.is_first and not has_bf16():
        print("warning: run.precision is bf16, but this CPU has no instructions for it: float32 is many times faster")
    if world > 1:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield ctx
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        detail = "".join(f" ({line})" for line in str(error).splitlines()[:1])
        less = "batch_size (in evaluation loader.eval_batch_size), set run.precision=bf16 or run.checkpointing=true"
        raise ConfigError(f"memory ran out{detail}; lower the tasks' {less}") from None
    finally:
        if world > 1:
            dist.destroy_process_group()
