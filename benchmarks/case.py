"""Benchmark cases, and the settings that they are built from."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch

from libs.core.config import Config
from libs.training.distributed import has_bf16

TOLERANCES = {"float32": 1e-3, "bf16": 0.05}  # relative, of the network's results against plain float32


class Measurement(NamedTuple):
    """What a callable returns that measures something other than its own time: a value in the case's unit."""

    value: float
    result: Any


class Variant(NamedTuple):
    """A fast implementation; it is measured if compute_error(plain result, its result) is within the tolerance."""

    name: str
    run: Callable[[], Any]
    compute_error: Callable[[Any, Any], float]
    tolerance: float
    num_warmups: int = 1  # calls after the checked one and before the measured ones


@dataclass(frozen=True)
class BenchmarkCase:
    """One row of the report: a plain baseline, and faster variants that compute the same.

    Attributes:
        unit: "s" or "ms" for the time of a call divided by `items`; any unit if the callables return a Measurement.
        more_is_better: the value is `items` per second instead.
        once: the checked call is the only one, because it is long.
        repeatable: all calls return the same; else only the first ones are compared.
        close: releases what the case holds on disk.
    """

    title: str
    unit: str
    plain: Callable[[], Any]
    variants: list[Variant]
    items: float = 1
    more_is_better: bool = False
    once: bool = False
    repeatable: bool = True
    close: Callable[[], None] = lambda: None


Builders = dict[str, Callable[[], BenchmarkCase]]  # by the case's name


class RunOptions(NamedTuple):
    """The keys of the configuration's `run` section in which variants of the network differ."""

    precision: str = "float32"
    compile: str = "none"
    checkpointing: bool = False

    @property
    def name(self) -> str:
        compiled = {"none": "", "inductor": " compiled", "cuda_graphs": " CUDA graphs"}[self.compile]
        return self.precision + compiled + (" checkpointing" if self.checkpointing else "")

    @property
    def num_warmups(self) -> int:
        return 1 if self.compile == "none" else 3  # the first calls record graphs and grow memory pools


@dataclass(frozen=True)
class BenchmarkSettings:
    """The configuration, the device and the sizes of synthetic data that the configuration does not define."""

    config: Config
    device: torch.device
    compile_modes: tuple[str, ...] = ()  # values of run.compile to measure besides "none"
    nms_segments: int = 12_000  # per video
    nms_classes: int = 200
    nms_videos: int = 16
    eval_videos: int = 4_728
    eval_detections: int = 100  # per video
    eval_classes: int = 200
    eval_resamples: int = 1_000
    loader_videos: int = 192
    gpu_batch: int = 64  # videos of the large batch on a GPU
    matmul_size: int = 2_048
    media_size: tuple[int, int] = (1280, 720)
    media_seconds: float = 60.0
    long_size: tuple[int, int] = (320, 180)
    long_minutes: tuple[float, ...] = (10, 20, 60)

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    @cached_property
    def has_bf16(self) -> bool:
        return self.on_gpu or has_bf16()

    @property
    def run_options(self) -> list[RunOptions]:
        """List the variants of the network: each precision, and the fastest one compiled."""
        precisions = ["float32", "bf16"] if self.has_bf16 else ["float32"]
        compiled = [RunOptions(precisions[-1], mode) for mode in self.compile_modes]
        return [RunOptions(precision) for precision in precisions] + compiled

    @property
    def notes(self) -> list[str]:
        """List what is not measured on this machine, and why."""
        notes = []
        if not self.has_bf16:
            notes.append("bf16 is not measured: this CPU has no instructions for it and would emulate it very slowly")
        if not self.compile_modes:
            notes.append("the compiled network is not measured: compiling takes minutes; add --compile inductor")
        return notes
