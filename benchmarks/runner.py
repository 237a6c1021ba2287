"""Check that fast ways compute what the plain one does, then measure them in turn."""

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

from benchmarks.case import UNITS_PER_S, BenchmarkCase, Measured, Variant

BUDGET_S = 5.0  # a case's measurements, if the least number of repetitions does not take longer
FEWEST, MOST = 3, 30  # repetitions
SAMPLE_S = 0.02  # a shorter call is repeated until it takes this long: alone it would measure waking threads up


class Mismatch(Exception):
    """A fast way computes something else than the plain one."""


@dataclass
class Result:
    """A case's measurements in its unit, by way ("plain" and the variants' names), and the variants' errors.

    failures: why a way is not measured.
    """

    name: str
    title: str
    unit: str
    published: float | None
    more_is_better: bool
    values: dict[str, list[float]] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    tolerances: dict[str, float] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def median(self, way: str) -> float | None:
        return statistics.median(self.values[way]) if way in self.values else None

    def gain(self, way: str, base: float | None) -> float | None:
        """How many times better a way is than a number."""
        own = self.median(way)
        if own is None or base is None:
            return None
        return own / base if self.more_is_better else base / own


def run_case(name: str, build: Callable[[], BenchmarkCase], device: torch.device, repeats: int | None = None) -> Result:
    """Build, check, measure and release a case. A way whose results differ, or that fails, is not measured."""
    case = build()
    result = Result(name, case.title, case.unit, case.published, case.more_is_better)
    try:
        costs_s = _check(case, result, device)
        again = {way: run for way, run in case.ways.items() if way in costs_s}
        result.values |= {way: [] for way in again}
        calls = {way: math.ceil(SAMPLE_S / max(costs_s[way], 1e-6)) for way in again}
        round_s = sum(max(cost_s, SAMPLE_S) for cost_s in costs_s.values())
        rounds = repeats or min(MOST, max(FEWEST, int(BUDGET_S / max(round_s, 1e-9))))
        for _ in range(rounds):  # in turn, so that what disturbs the machine disturbs all
            for way, run in again.items():
                result.values[way].append(_measure(run, case, device, calls[way])[0])
    finally:
        case.close()
        case = again = None  # networks and all
        release_memory()
    return result


def _check(case: BenchmarkCase, result: Result, device: torch.device) -> dict[str, float]:
    """Call all ways, compare results with the plain one's, and note first values, errors and failures.

    Returns what a call costs in seconds, of the ways that are to be measured further.
    """
    costs_s = {}
    began = time.perf_counter()
    try:
        value, expected = _measure(case.plain, case, device)
    except Exception as error:
        _note_failure(result, "plain", error)  # nothing to compare the others with
        return {}
    costs_s["plain"], result.values["plain"] = time.perf_counter() - began, [value]
    for variant in case.variants:
        try:
            costs_s[variant.name], value = _check_variant(variant, expected, case, result, device)
            result.values[variant.name] = [value]
        except Exception as error:
            _note_failure(result, variant.name, error)
    return {way: cost_s for way, cost_s in costs_s.items() if way not in case.once}


def _note_failure(result: Result, way: str, error: Exception) -> None:
    """Whatever it is, it must not cost the other measurements."""
    result.failures[way] = f"{way}: {type(error).__name__}: {error}"
    print(f"FAILED: {result.name}: {result.failures[way]}", file=sys.stderr)
    if not isinstance(error, Mismatch):
        traceback.print_exc()


def _check_variant(
    variant: Variant, expected: Any, case: BenchmarkCase, result: Result, device: torch.device
) -> tuple[float, float]:
    """Warm up, raising Mismatch if the first result, or a repeatable case's last one, differs. Returns what a call
    costs in seconds, and the first value."""
    began = time.perf_counter()
    value, found = _measure(variant.run, case, device)
    cost_s = time.perf_counter() - began
    _compare(variant, expected, found, result)
    if variant.name not in case.once:
        for _ in range(variant.warmups):
            began = time.perf_counter()
            found = _measure(variant.run, case, device)[1]
            cost_s = time.perf_counter() - began
        if case.repeatable:  # what was compiled or recorded in the first calls computes the same
            _compare(variant, expected, found, result)
    return cost_s, value


def _compare(variant: Variant, expected: Any, found: Any, result: Result) -> None:
    error = variant.error(expected, found)
    result.errors[variant.name], result.tolerances[variant.name] = error, variant.tolerance
    if not error <= variant.tolerance:  # NaN too
        raise Mismatch(f"differs from the plain baseline by {error:.3g}, more than {variant.tolerance:g}; not measured")


def _measure(run: Callable[[], Any], case: BenchmarkCase, device: torch.device, calls: int = 1) -> tuple[float, Any]:
    """A call's value in the case's unit, the mean of several in a row, and the last one's result."""
    _synchronize(device)
    began = time.perf_counter()
    returned = None
    for _ in range(calls):
        del returned  # as training and inference let go of a batch's results before the next one's
        returned = run()
    _synchronize(device)
    elapsed_s = (time.perf_counter() - began) / calls
    if isinstance(returned, Measured):
        return returned.value, returned.result
    return elapsed_s * UNITS_PER_S[case.unit] / case.per, returned


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def release_memory() -> None:
    """Let go of what the last case used, so that the next one finds the machine empty."""
    gc.collect()
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def run_cases(
    builders: dict[str, Callable[[], BenchmarkCase]], device: torch.device, repeats: int | None = None
) -> Iterator[Result]:
    """All cases, one after the other, with progress and failures on stderr."""
    for name, build in builders.items():
        began = time.perf_counter()
        print(f"{name} …", file=sys.stderr, flush=True)
        result = run_case(name, build, device, repeats)
        print(f"{name}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
        yield result
