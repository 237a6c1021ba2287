"""One process or many: plain python, torchrun and torch.distributed.launch alike, NCCL on GPUs, gloo on CPUs."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from libs.core.errors import ConfigError, UserError, is_out_of_memory

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process's place among `world` ones, its device, and the precision of its matrix products (run.precision)."""

    rank: int
    world: int
    device: torch.device
    precision: str = "float32"

    def autocast(self) -> torch.autocast:
        """The context in which the network runs: with matrix products in bf16 if that is the precision."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def agree(self, make: Callable[[], T], first_only: bool = False) -> T:
        """make() of each rank, or of rank 0 for all. If it raises a UserError on any rank, all end: the first that
        did with the error, the others silently."""
        result, error = None, None
        if self.is_first or not first_only:
            try:
                result = make()
            except UserError as caught:
                error = caught
        errors = self.gather(error)
        if any(errors):
            if next(rank for rank, e in enumerate(errors) if e) != self.rank:
                sys.exit(2)
            raise error
        return self.gather(result)[0] if first_only else result

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value, on every rank."""
        if self.world == 1:
            return [value]
        box = [None] * self.world
        dist.all_gather_object(box, value)
        return box

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """The mean over ranks, elementwise."""
        if self.world > 1:
            dist.all_reduce(values)
        return values / self.world


@contextmanager
def memory_errors_explained() -> Iterator[None]:
    """Make what PyTorch raises where memory runs out a ConfigError that names the remedies."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        said = "".join(f" ({line})" for line in str(error).splitlines()[:1])
        raise ConfigError(
            f"memory ran out{said}; lower the tasks' batch_size (in evaluation "
            "loader.eval_batch_size), set run.precision=bf16 or run.checkpointing=true"
        ) from None


def has_bf16() -> bool:
    """Whether this CPU has instructions for bf16 products; without, they work, but take very long."""
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()


@contextmanager
def start_ranks(local_rank: int | None, precision: str) -> Iterator[Ranks]:
    """Join the process group that a launcher described in the environment, if one did; leave it afterwards.

    `local_rank`: what --local_rank said; LOCAL_RANK is used without it. Raises ConfigError where ranks outnumber GPUs,
    and in the place of PyTorch's error where memory runs out.
    """
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"  # PyTorch's default lets convolutions round to it
    world = int(os.environ.get("WORLD_SIZE", 1))
    local = int(os.environ.get("LOCAL_RANK", 0)) if local_rank is None else local_rank
    device = torch.device("cpu")
    if torch.cuda.is_available():
        if local >= torch.cuda.device_count():
            raise ConfigError(f"rank {local} has no GPU, {torch.cuda.device_count()} found; start one process a GPU")
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    if precision == "bf16" and device.type == "cpu" and int(os.environ.get("RANK", 0)) == 0 and not has_bf16():
        print("warning: run.precision is bf16, but this CPU has no instructions for it: float32 is many times faster")
    if world == 1:
        with memory_errors_explained():
            yield Ranks(0, 1, device, precision)
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        with memory_errors_explained():
            yield Ranks(dist.get_rank(), dist.get_world_size(), device, precision)
    finally:
        dist.destroy_process_group()
