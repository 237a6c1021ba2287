"""Benchmark cases, and their measurement: first check that variants compute what the plain baseline computes."""

import gc
import math
import re
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import torch

from libs.core.config import Config, RunConfig

BUDGET_S = 5.0  # for the measurements of a case, if MIN_REPEATS do not take longer
MIN_REPEATS, MAX_REPEATS = 3, 30
SAMPLE_S = 0.02  # shorter calls are repeated until they take this long, since a single one measures waking threads
# Checked calls of a variant before the measured ones; on a GPU they record graphs and grow memory pools.
CHECKED_CALLS = {"cpu": 2, "cuda": 4}


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
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    @property
    def runs(self) -> dict[str, RunConfig]:
        """The variants of training by name: each precision, and the fastest one compiled."""
        fastest = self.precisions[-1]
        runs = {precision: self.build_run(precision) for precision in self.precisions}
        return runs | {f"{fastest} {mode}": self.build_run(fastest, compile=mode) for mode in self.compile_modes}

    def build_run(self, precision: str, **options: Any) -> RunConfig:
        return self.config.run.model_copy(update={"precision": precision, **options})


def relative_error(expected: Iterable, found: Iterable) -> float:
    """Compute the norm of the difference relative to the expected norm, of all tensors or arrays as one long vector.

    Returns inf if shapes differ.
    """
    difference, size = 0.0, 0.0
    for x, y in zip(map(torch.as_tensor, expected), map(torch.as_tensor, found), strict=True):
        if x.shape != y.shape:
            return math.inf
        difference += float((x.detach() - y.detach().to(x.device)).double().square().sum())
        size += float(x.detach().double().square().sum())
    return (difference / max(size, 1e-300)) ** 0.5


@dataclass
class Result:
    """A case's measurements in its unit, and its variants' errors and reasons of failure, by variant or "plain"."""

    name: str
    title: str
    unit: str
    more_is_better: bool
    values: dict[str, list[float]] = field(default_factory=dict)
    medians: dict[str, float] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    tolerances: dict[str, float] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def speedup(self, name: str) -> float:
        """Return how many times better than the plain baseline a variant is, NaN if it was not measured."""
        ratio = self.medians.get("plain", math.nan) / self.medians.get(name, math.nan)
        return 1 / ratio if self.more_is_better else ratio


def run_cases(builders: Builders, device: torch.device, repeats: int | None = None) -> Iterator[Result]:
    """Run all cases one after the other, with progress on stderr."""
    for name, build in builders.items():
        start = time.perf_counter()
        print(f"{name} …", file=sys.stderr, flush=True)
        yield run_case(name, build(), device, repeats)
        print(f"{name}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
        gc.collect()  # the case's networks, so that the next case finds the memory free
        if "torch._dynamo" in sys.modules:
            torch.compiler.reset()
        torch.cuda.empty_cache()


def run_case(name: str, case: BenchmarkCase, device: torch.device, repeats: int | None = None) -> Result:
    """Check and measure a case. A variant that fails or computes something else is not measured."""
    result = Result(name, case.title, case.unit, case.more_is_better)
    costs_s, expected, functions = {}, None, {"plain": case.plain, **{v.name: v.run for v in case.variants}}
    for variant in (Variant("plain", case.plain, lambda *_: 0.0, 0.0), *case.variants):
        is_plain = variant.name == "plain"
        try:
            for call in range(1 if is_plain or case.measure else CHECKED_CALLS[device.type]):
                costs_s[variant.name], returned = _call(variant.run, device)
                if is_plain:
                    expected = returned
                elif call == 0 or case.repeatable:  # compiled code may differ after the first calls
                    error = variant.compute_error(expected, returned)
                    result.errors[variant.name], result.tolerances[variant.name] = error, variant.tolerance
                    if not error <= variant.tolerance:  # also true for NaN
                        raise AssertionError(f"differs from plain by {error:.3g}, more than {variant.tolerance:g}")
            result.values[variant.name] = [case.measure(returned)] if case.measure else []
        except Exception as error:  # one variant must not cost the other measurements
            result.failures[variant.name] = f"{variant.name}: {type(error).__name__}: {error}"
            print(f"FAILED: {name}: {result.failures[variant.name]}", file=sys.stderr)
            traceback.print_exc()
            if is_plain:
                return result  # nothing to compare with
    if not case.measure:
        # In turn, so that disturbances of the machine affect all variants.
        round_s = sum(max(costs_s[name], SAMPLE_S) for name in result.values)
        for _ in range(repeats or min(MAX_REPEATS, max(MIN_REPEATS, int(BUDGET_S / round_s)))):
            for name, values in result.values.items():
                seconds, _ = _call(functions[name], device, math.ceil(SAMPLE_S / max(costs_s[name], 1e-6)))
                value = case.items / seconds if case.more_is_better else seconds / case.items
                values.append(value * (1e3 if case.unit == "ms" else 1))
    result.values["plain"] = [value * case.plain_factor for value in result.values["plain"]]
    result.medians = {name: statistics.median(values) for name, values in result.values.items()}
    return result


def _call(run: Callable[[], Any], device: torch.device, calls: int = 1) -> tuple[float, Any]:
    """Call a function several times. Returns mean seconds and the last result."""
    start, returned = time.perf_counter(), None
    for _ in range(calls):
        del returned  # training and inference release a batch's results before the next one's, too
        returned = run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - start) / calls, returned


def run_in_process(function: Callable, *arguments: Any) -> Any:
    """Call a function in a new process, whose peak memory is its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
        return executor.submit(function, *arguments).result()


def measure_peak_gb(device: torch.device) -> float:
    """Return the most memory that this process has used, in GB; on a CPU, Linux says it."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    peak = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())  # getrusage may return the parent's
    return int(peak[1]) * 1024 / 1e9 if peak else 0.0
