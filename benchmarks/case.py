"""Benchmark cases, the settings that they are built from, and how results are compared."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from libs.core.config import Config, RunConfig


class Variant(NamedTuple):
    """A fast implementation; it is measured if compute_error(plain result, its result) is within the tolerance."""

    name: str
    run: Callable[[], Any]
    compute_error: Callable[[Any, Any], float]
    tolerance: float


@dataclass(frozen=True)
class BenchmarkCase:
    """A plain baseline, and faster variants that compute the same.

    Attributes:
        unit: "s" or "ms" for the time of a call divided by `items`, or what `measure` returns.
        more_is_better: the value is `items` per second instead.
        plain_factor: the plain value is multiplied by it, where the baseline does a part of the work.
        measure: reads the value from a result. The case is long: its checked call is the only one.
        repeatable: all calls return the same; else only the first ones are compared.
    """

    title: str
    unit: str
    plain: Callable[[], Any]
    variants: list[Variant]
    items: float = 1
    more_is_better: bool = False
    plain_factor: float = 1
    measure: Callable[[Any], float] | None = None
    repeatable: bool = True


Builders = dict[str, Callable[[], BenchmarkCase]]  # by the case's name


@dataclass(frozen=True)
class BenchmarkSettings:
    """The configuration, the device, a folder for temporary files, and sizes that the configuration does not define."""

    config: Config
    device: torch.device
    folder: Path
    precisions: tuple[str, ...] = ("float32",)
    compile_modes: tuple[str, ...] = ()  # values of run.compile to measure besides "none"
    classes: int = 200  # of NMS and evaluation
    nms_segments: int = 12_000  # per video
    nms_videos: int = 16
    eval_videos: int = 4_728
    eval_detections: int = 100  # per video
    eval_resamples: int = 1_000
    loader_videos: int = 192
    media_size: tuple[int, int] = (1280, 720)
    media_seconds: float = 60.0
    long_size: tuple[int, int] = (320, 180)
    long_minutes: tuple[float, ...] = (10, 20, 60)

    @property
    def runs(self) -> dict[str, RunConfig]:
        """The variants of training by name: each precision, and the fastest one compiled."""
        fastest = self.precisions[-1]
        runs = {precision: self.build_run(precision) for precision in self.precisions}
        return runs | {f"{fastest} {mode}": self.build_run(fastest, compile=mode) for mode in self.compile_modes}

    def build_run(self, precision: str, **options: Any) -> RunConfig:
        return self.config.run.model_copy(update={"precision": precision, **options})


def relative_error(expected: Iterable[Tensor], found: Iterable[Tensor]) -> float:
    """Compute the norm of the difference relative to the expected norm, of all tensors as one long vector.

    Returns inf if shapes differ.
    """
    difference, size = 0.0, 0.0
    for x, y in zip(expected, found, strict=True):
        if x.shape != y.shape:
            return float("inf")
        difference += float((x.detach() - y.detach().to(x.device)).double().square().sum())
        size += float(x.detach().double().square().sum())
    return (difference / max(size, 1e-300)) ** 0.5
