"""Check that variants compute what the plain baseline computes, then measure them in turn."""

import gc
import math
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from benchmarks.case import BenchmarkCase, Builders, Variant

BUDGET_S = 5.0  # for the measurements of a case, if MIN_REPEATS do not take longer
MIN_REPEATS, MAX_REPEATS = 3, 30
SAMPLE_S = 0.02  # shorter calls are repeated until they take this long, since a single one measures waking threads
# Checked calls of a variant before the measured ones; on a GPU they record graphs and grow memory pools.
CHECKED_CALLS = {"cpu": 2, "cuda": 4}


class MismatchError(Exception):
    """A variant computes something else than the plain baseline."""


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
        """Return how many times better than the plain baseline a variant is."""
        ratio = self.medians["plain"] / self.medians[name]
        return 1 / ratio if self.more_is_better else ratio

    @property
    def best(self) -> float:
        """The best median of the variants, NaN if there are none."""
        medians = [median for name, median in self.medians.items() if name != "plain"]
        return (max if self.more_is_better else min)(medians, default=math.nan)


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
        if torch.cuda.is_available():
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
                        raise MismatchError(f"differs from plain by {error:.3g}, more than {variant.tolerance:g}")
            result.values[variant.name] = [case.measure(returned)] if case.measure else []
        except Exception as error:  # one variant must not cost the other measurements
            result.failures[variant.name] = f"{variant.name}: {type(error).__name__}: {error}"
            if not isinstance(error, MismatchError):
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
