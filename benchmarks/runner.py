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

from benchmarks.case import BenchmarkCase, Builders, Measurement, Variant

BUDGET_S = 5.0  # for the measurements of a case, if MIN_REPEATS do not take longer
MIN_REPEATS, MAX_REPEATS = 3, 30
SAMPLE_S = 0.02  # shorter calls are repeated until they take this long, since a single one measures waking threads


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
    errors: dict[str, float] = field(default_factory=dict)
    tolerances: dict[str, float] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def median(self, name: str) -> float:
        """Return the median of the measured values, NaN if there are none."""
        return statistics.median(self.values.get(name) or [math.nan])

    def speedup(self, name: str) -> float:
        """Return how many times better than the plain baseline a variant is."""
        plain, value = self.median("plain"), self.median(name)
        return value / plain if self.more_is_better else plain / value


def run_cases(builders: Builders, device: torch.device, repeats: int | None = None) -> Iterator[Result]:
    """Run all cases one after the other, with progress on stderr."""
    for name, build in builders.items():
        start = time.perf_counter()
        print(f"{name} …", file=sys.stderr, flush=True)
        result = run_case(name, build, device, repeats)
        print(f"{name}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
        yield result


def run_case(name: str, build: Callable[[], BenchmarkCase], device: torch.device, repeats: int | None = None) -> Result:
    """Build, check, measure and release a case. A variant that fails or computes something else is not measured."""
    case = build()
    result = Result(name, case.title, case.unit, case.more_is_better)
    try:
        costs_s = _check_variants(case, result, device)
        if costs_s and not case.once:
            _measure_in_turn(case, result, device, costs_s, repeats)
    finally:
        case.close()
        del case  # with its networks, so that the next case finds the memory free
        gc.collect()
        if "torch._dynamo" in sys.modules:
            torch.compiler.reset()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return result


def _check_variants(case: BenchmarkCase, result: Result, device: torch.device) -> dict[str, float]:
    """Call and compare all variants. Returns seconds per call of those that can be measured."""
    costs_s, expected = {}, None
    for variant in (Variant("plain", case.plain, lambda *_: 0.0, 0.0, 0), *case.variants):
        try:
            cost_s, value, returned = _call(variant.run, case, device)
            if variant.name == "plain":
                expected = returned
            else:
                _compare(variant, expected, returned, result)
            for _ in range(0 if case.once else variant.num_warmups):
                cost_s, _, returned = _call(variant.run, case, device)
            if case.repeatable and variant.name != "plain":  # compiled code may differ after the first calls
                _compare(variant, expected, returned, result)
        except Exception as error:  # one variant must not cost the other measurements
            result.failures[variant.name] = f"{variant.name}: {type(error).__name__}: {error}"
            print(f"FAILED: {result.name}: {result.failures[variant.name]}", file=sys.stderr)
            if not isinstance(error, MismatchError):
                traceback.print_exc()
            if variant.name == "plain":
                break  # nothing to compare with
        else:
            costs_s[variant.name], result.values[variant.name] = cost_s, [value]
    return costs_s


def _compare(variant: Variant, expected: Any, returned: Any, result: Result) -> None:
    error = variant.compute_error(expected, returned)
    result.errors[variant.name], result.tolerances[variant.name] = error, variant.tolerance
    if not error <= variant.tolerance:  # also true for NaN
        raise MismatchError(
            f"differs from the plain baseline by {error:.3g}, more than {variant.tolerance:g}; not measured"
        )


def _measure_in_turn(
    case: BenchmarkCase, result: Result, device: torch.device, costs_s: dict[str, float], repeats: int | None
) -> None:
    """Measure the variants alternately, so that disturbances of the machine affect all of them."""
    functions = {"plain": case.plain, **{variant.name: variant.run for variant in case.variants}}
    round_s = sum(max(cost_s, SAMPLE_S) for cost_s in costs_s.values())
    result.values = {name: [] for name in costs_s}
    for _ in range(repeats or min(MAX_REPEATS, max(MIN_REPEATS, int(BUDGET_S / round_s)))):
        for name, cost_s in costs_s.items():
            calls = math.ceil(SAMPLE_S / max(cost_s, 1e-6))
            result.values[name].append(_call(functions[name], case, device, calls)[1])


def _call(
    run: Callable[[], Any], case: BenchmarkCase, device: torch.device, calls: int = 1
) -> tuple[float, float, Any]:
    """Call a function several times. Returns mean seconds, the value in the case's unit, and the last result."""
    _synchronize(device)
    start, returned = time.perf_counter(), None
    for _ in range(calls):
        del returned  # training and inference release a batch's results before the next one's, too
        returned = run()
    _synchronize(device)
    elapsed_s = (time.perf_counter() - start) / calls
    if isinstance(returned, Measurement):
        return elapsed_s, returned.value, returned.result
    if case.more_is_better:
        return elapsed_s, case.items / elapsed_s, returned
    return elapsed_s, elapsed_s / case.items * (1e3 if case.unit == "ms" else 1), returned


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
