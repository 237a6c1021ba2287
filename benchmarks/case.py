"""What is measured: cases, each with a plain way and fast ways of computing the same."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch

from libs.core.config import Config
from libs.training.distributed import has_bf16

UNITS_PER_S = {"s": 1.0, "ms": 1e3}  # the units in which times are shown
TOLERANCES = {"float32": 1e-3, "bf16": 0.05}  # relative, of the network's results against the plain float32 ones


class Measured(NamedTuple):
    """Returned by a callable that measures something else than how long it runs: `value` in the case's unit."""

    value: float
    result: Any


@dataclass(frozen=True)
class Variant:
    """A fast way. The runner refuses to time it if error(plain result, its result) exceeds the tolerance."""

    name: str
    run: Callable[[], Any]
    error: Callable[[Any, Any], float]
    tolerance: float
    warmups: int = 1  # calls after the one whose result is checked and before the first that counts


@dataclass(frozen=True)
class BenchmarkCase:
    """One line of the report. repeatable: all calls give the same result; else only the first ones are comparable.

    unit: s, ms (a call's time divided by `per`) or whatever Measured.value is in; published: the published code's
    number in that unit on two cores; once: the ways ("plain" and variants' names) whose first call, which is checked,
    is the only one: they take long, and gain nothing from a warm-up.
    """

    title: str
    unit: str
    plain: Callable[[], Any]
    variants: list[Variant]
    published: float | None = None
    per: int = 1
    once: tuple[str, ...] = ()
    repeatable: bool = True
    more_is_better: bool = False
    close: Callable[[], None] = lambda: None

    @property
    def ways(self) -> dict[str, Callable[[], Any]]:
        return {"plain": self.plain, **{variant.name: variant.run for variant in self.variants}}


class NetworkVariant(NamedTuple):
    """A way to run the network: run.precision, run.compile and run.checkpointing."""

    precision: str
    compile: str = "none"
    checkpointing: bool = False

    @property
    def name(self) -> str:
        compiled = {"none": "", "inductor": " compiled", "cuda_graphs": " CUDA graphs"}[self.compile]
        return self.precision + compiled + (" checkpointing" if self.checkpointing else "")

    @property
    def warmups(self) -> int:
        return 1 if self.compile == "none" else 3  # graphs are recorded and pools grow in the first ones


@dataclass(frozen=True)
class Sizes:
    """How large synthetic data are, where the configuration does not say it."""

    nms_segments: int = 12_000  # a video
    nms_classes: int = 200
    nms_videos: int = 16
    eval_videos: int = 4_728
    eval_detections: int = 100  # a video
    eval_classes: int = 200
    eval_resamples: int = 1_000
    loader_videos: int = 192
    infer_videos: int = 64  # the large batch of the GPU
    matmul: int = 2_048  # rows and columns
    media_size: tuple[int, int] = (1280, 720)
    media_seconds: float = 60.0
    long_size: tuple[int, int] = (320, 180)
    media_minutes: tuple[float, ...] = (10, 20, 60)


@dataclass(frozen=True)
class Setting:
    """What the cases are built from. compiled: the ways of run.compile that are measured besides "none"."""

    config: Config
    device: torch.device
    sizes: Sizes = Sizes()
    compiled: tuple[str, ...] = ()

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    @cached_property
    def has_bf16(self) -> bool:
        return self.on_gpu or has_bf16()

    @property
    def network_variants(self) -> list[NetworkVariant]:
        precisions = ["float32", *(["bf16"] if self.has_bf16 else [])]
        compiled = [NetworkVariant(precisions[-1], mode) for mode in self.compiled]
        return [NetworkVariant(precision) for precision in precisions] + compiled

    @property
    def left_out(self) -> list[str]:
        """What is not measured on this machine, and why."""
        notes = []
        if not self.has_bf16:
            notes.append("bf16 is left out: this CPU has no instructions for it, and would emulate it very slowly")
        if not self.compiled:
            notes.append(
                "the network compiled is left out: it takes minutes to compile; --compile inductor measures it"
            )
        return notes
